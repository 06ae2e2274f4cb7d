"""deploy: a registered version becomes the one that is served, and champion once the server answers with it."""

import time
from dataclasses import asdict
from typing import Any

import requests

from components import logs, tracking
from components.config import DeploymentSettings
from components.deployment import pointer, rollback_record
from components.deployment.pointer import Pointer
from components.deployment.probes import PROBE_HEADER
from components.errors import ConflictError, DeploymentError
from components.storage import ObjectStore

_PROBE = "good"
_POLL_SECONDS = 0.3


def deploy(
    store: ObjectStore,
    version: tracking.ModelVersion,
    *,
    compared_with: str | None = None,
    server_url: str = "",
    inference_service: str = "",
    settings: DeploymentSettings | None = None,
    timeout: float = 120,
) -> Pointer:
    """Make `version` the one that is served, and champion: by the pointer that servers follow, or on a cluster.

    The pointer: write it, wait up to `timeout` seconds until the server at `server_url` answers with the version, then
    alias it champion; without `server_url` there is nothing to wait for. The InferenceService NAMESPACE/NAME: roll out
    to it step by step, then write the pointer and alias. Doing it again changes nothing, and finishes what was left.
    `compared_with` is the address of the champion that the version was proven better than ("": there was none).
    Raises DeploymentError once the last champion is back, or ConflictError if another deployment runs, or if another
    version is champion by now than the one it was compared with.
    """
    current, etag = pointer.state(store, version.name)
    if current is not None:  # of a rollback, killed before the alias moved: what it went back to is proven
        rollback_record.keep(store, current)
    champion = tracking.champion(version.name)
    if current is not None and (current.version, current.model_version) == (version.version, version.digest):
        target = current
    else:
        _require_compared(version, current, compared_with)
        # On a cluster the pointer is written last: what it names is proven, whether the alias has followed or not.
        before = _content(current) if inference_service else _proven(current, champion)
        target = Pointer(version.name, version.version, version.digest, version.uri, _without_previous(before))
    if inference_service:
        _to_cluster(store, current, target, etag, inference_service, settings or DeploymentSettings())
    else:
        if target != current:
            etag = pointer.write(store, target, etag)
        if server_url:
            _to_server(store, current, target, etag, server_url, timeout)
    tracking.set_alias(version.name, tracking.CHAMPION, version.version)
    logs.event("deployed", model=version.name, version=version.version, model_version=version.digest)
    return target


def _require_compared(version: tracking.ModelVersion, current: Pointer | None, compared_with: str | None) -> None:
    """Hours may lie between the comparison and now, and a rollback or a promotion by hand in them."""
    now = current.uri if current else ""
    if compared_with is not None and compared_with != now:
        raise ConflictError(
            f"version {version.version} was compared with {compared_with or 'no champion'}, but "
            f"{now or 'no version'} is champion by now, so nothing is proven; submit the pipeline again"
        )


def _to_cluster(
    store: ObjectStore,
    current: Pointer | None,
    target: Pointer,
    etag: str | None,
    where: str,
    settings: DeploymentSettings,
) -> None:
    """Roll out, then write the pointer: whoever reads it, meanwhile, finds the champion that is proven."""
    from components.deployment import rollout  # a laptop needs no kubernetes

    if target == current:
        rollout.follow(store, where, target, settings)
        return
    rollout.roll_out(store, where, target, settings)
    try:
        pointer.write(store, target, etag)
    except ConflictError:
        winner, _ = pointer.state(store, target.name)
        if winner is not None and winner.model_version != target.model_version:
            rollout.follow(store, where, winner, settings)
        raise


def _to_server(
    store: ObjectStore,
    current: Pointer | None,
    target: Pointer,
    etag: str | None,
    server_url: str,
    timeout: float,
) -> None:
    """Wait for the server that follows the pointer; put the pointer back if it does not answer."""
    try:
        wait_until_served(server_url, target, timeout)
    except DeploymentError as error:
        champion = tracking.champion(target.name)  # again: what was replaced may have been proven meanwhile
        if etag and not _is_champion(target, champion):
            before = target.previous if current == target else _proven(current, champion)
            pointer.put_back(store, target.name, before, etag)
        stays = f"version {champion.version} stays champion" if champion else "no version is champion yet"
        raise DeploymentError(f"{error}; {stays}") from error


def _proven(current: Pointer | None, champion: tracking.ModelVersion | None) -> dict[str, Any] | None:
    """What to go back to: the pointer that is replaced, or, if it was itself never proven, what it would go back to."""
    if current is None or _is_champion(current, champion):
        return _content(current)
    return current.previous


def _content(current: Pointer | None) -> dict[str, Any] | None:
    return asdict(current) if current else None


def _without_previous(before: dict[str, Any] | None) -> dict[str, Any] | None:
    return before | {"previous": None} if before else None


def _is_champion(one: Pointer, champion: tracking.ModelVersion | None) -> bool:
    """The alias is set only after a server answered: a pointer alone proves nothing."""
    return champion is not None and champion.version == one.version


def wait_until_served(server_url: str, target: Pointer, timeout: float) -> None:
    """Until the server lists the version and answers a request with it; DeploymentError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not _answers(server_url.rstrip("/"), target):
        if time.monotonic() > deadline:
            raise DeploymentError(
                f"{server_url} did not answer with version {target.version} ({target.model_version}) of {target.name} "
                f"within {timeout:g} s"
            )
        time.sleep(_POLL_SECONDS)


def _answers(server_url: str, target: Pointer) -> bool:
    try:
        metadata = requests.get(f"{server_url}/v2/models/{target.name}", timeout=5).json()
        if target.model_version not in (metadata.get("versions") or []):
            return False
        answer = requests.post(
            f"{server_url}/v1/models/{target.name}:predict", json={"instances": [_PROBE]}, timeout=30,
            headers={PROBE_HEADER: "1"},
        ).json()  # fmt: skip
        return bool(answer["predictions"][0]["model_version"] == target.model_version)
    except (requests.RequestException, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return False
