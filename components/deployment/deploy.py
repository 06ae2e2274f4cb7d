"""deploy: a registered version becomes the one that is served, and champion once the server answers with it."""

import time
from dataclasses import asdict
from typing import Any

import requests

from components import logs, tracking
from components.deployment import pointer
from components.deployment.pointer import Pointer
from components.errors import DeploymentError
from components.storage import ObjectStore

_PROBE = "good"
_POLL_SECONDS = 0.3


def deploy(
    store: ObjectStore, version: tracking.ModelVersion, *, server_url: str = "", timeout: float = 120
) -> Pointer:
    """Point at `version`, wait up to `timeout` seconds until the server answers with it, then alias it champion.

    Without `server_url` there is nothing to wait for. Doing it again changes nothing. Raises DeploymentError after
    putting the last champion's pointer back (an empty one if there was none), or ConflictError if another deployment
    runs.
    """
    current, etag = pointer.state(store, version.name)
    champion = tracking.champion(version.name)
    if current is not None and (current.version, current.model_version) == (version.version, version.digest):
        target = current
    else:
        target = Pointer(version.name, version.version, version.digest, version.uri, _last_champion(current, champion))
        etag = pointer.write(store, target, etag)
    if server_url:
        try:
            wait_until_served(server_url, target, timeout)
        except DeploymentError as error:
            champion = tracking.champion(version.name)  # again: what was replaced may have been proven meanwhile
            if etag and not _is_champion(target, champion):
                before = target.previous if current == target else _last_champion(current, champion)
                pointer.put_back(store, version.name, before, etag)
            stays = f"version {champion.version} stays champion" if champion else "no version is champion yet"
            raise DeploymentError(f"{error}; {stays}") from error
    tracking.set_alias(version.name, tracking.CHAMPION, version.version)
    logs.event("deployed", model=version.name, version=version.version, model_version=version.digest)
    return target


def _last_champion(current: Pointer | None, champion: tracking.ModelVersion | None) -> dict[str, Any] | None:
    """What to go back to: the pointer that is replaced, or, if it was itself never proven, what it would go back to."""
    if current is None or not _is_champion(current, champion):
        return current.previous if current else None
    return asdict(current) | {"previous": None}


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
            f"{server_url}/v1/models/{target.name}:predict", json={"instances": [_PROBE]}, timeout=30
        ).json()
        return bool(answer["predictions"][0]["model_version"] == target.model_version)
    except (requests.RequestException, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return False
