"""deploy: a registered version becomes the one that is served, and champion once the server answers with it."""

import time
from dataclasses import asdict

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
    putting the previous pointer back, or ConflictError if another deployment runs.
    """
    found = pointer.read(store, version.name)
    current, etag = found if found else (None, None)
    if current is not None and (current.version, current.model_version) == (version.version, version.digest):
        target = current
    else:
        before = asdict(current) | {"previous": None} if current else None
        target = Pointer(version.name, version.version, version.digest, version.uri, before)
        etag = pointer.write(store, target, etag)
    if server_url and not _served(server_url, target, timeout):
        _put_back(store, target, etag)
        raise DeploymentError(
            f"{server_url} did not answer with version {version.version} ({version.digest}) of {version.name} within "
            f"{timeout:g} s; the previous version stays champion"
        )
    tracking.set_alias(version.name, tracking.CHAMPION, version.version)
    logs.event("deployed", model=version.name, version=version.version, model_version=version.digest)
    return target


def _put_back(store: ObjectStore, target: Pointer, etag: str | None) -> None:
    """The pointer as it was. The first deployment has nothing to go back to: its pointer stays, for a retry."""
    if target.previous is not None:
        pointer.write(store, Pointer(**target.previous), etag)


def _served(server_url: str, target: Pointer, timeout: float) -> bool:
    """Whether, before the time is up, the server lists the version and answers a request with it."""
    deadline = time.monotonic() + timeout
    while True:
        if _answers(server_url.rstrip("/"), target):
            return True
        if time.monotonic() > deadline:
            return False
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
