"""rollback: the champion before this one serves again.

The pointer is written first and says what it came from; whatever is killed after it is finished by the next check, or
by a rollback that is asked for again.
"""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from components import tracking
from components.config import DeploymentSettings
from components.deployment import pointer, rollback_record
from components.deployment.deploy import wait_until_served
from components.deployment.pointer import Pointer
from components.deployment.rollback_record import Rollback
from components.errors import DeploymentError, EverbertError
from components.storage import ObjectStore


def rollback(
    store: ObjectStore,
    name: str,
    *,
    reason: str,
    expected: str = "",
    server_url: str = "",
    inference_service: str = "",
    settings: DeploymentSettings | None = None,
    timeout: float = 120,
) -> Rollback:
    """Point at the previous champion, move the alias, and wait until `server_url` (if given) answers with it.

    The InferenceService NAMESPACE/NAME, if given, is changed to follow the pointer, and waited for.

    Its drift reference and the state of its checks come with it: both belong to the version. `expected` is the model
    version that is to go; if another serves by now, nothing is done. A rollback that was not finished is finished
    instead, whatever its reason. Raises DeploymentError if there is nothing to go back to or what is to serve does not
    answer (the previous champion stays the one to be served), ConflictError if another deployment runs, TrackingError
    if MLflow is away (then nothing is changed) or does not know the version.
    """
    at = datetime.now(UTC).isoformat()
    current, etag = pointer.state(store, name)
    reached: dict[str, Any] = {
        "server_url": server_url, "inference_service": inference_service, "settings": settings, "timeout": timeout,
    }  # fmt: skip
    if current is not None and (finished := finish(store, current, **reached)):
        return finished
    if current is None or etag is None or not current.previous:
        raise DeploymentError(f"there is no version of {name} to roll back to; deploy one instead")
    if expected and current.model_version != expected:
        raise DeploymentError(f"{name} is served as {current.model_version} by now, not as {expected}; nothing is done")
    came = {
        "version": current.version, "model_version": current.model_version, "uri": current.uri, "reason": reason,
        "at": at, "inference_service": inference_service,
    }  # fmt: skip
    target = replace(Pointer(**current.previous), previous=None, rolled_back=came)
    tracking.version(name, target.version)  # raises before anything is changed, so that it can be done again
    pointer.write(store, target, etag)
    return _carry_out(store, target, came, **reached)


def finish(
    store: ObjectStore,
    current: Pointer,
    *,
    server_url: str = "",
    inference_service: str = "",
    settings: DeploymentSettings | None = None,
    timeout: float = 120,
) -> Rollback | None:
    """Do what is left of the rollback that wrote the pointer `current`; None if there is nothing. Raises as `rollback`.

    Without an `inference_service`, the one that the rollback was to reach follows.
    """
    came = current.rolled_back
    if came is None or rollback_record.is_finished(store, current):
        return None
    return _carry_out(store, current, came, server_url, inference_service, settings, timeout)


def _carry_out(
    store: ObjectStore,
    target: Pointer,
    came: dict[str, Any],
    server_url: str,
    inference_service: str,
    settings: DeploymentSettings | None,
    timeout: float,
) -> Rollback:
    """All that follows from the pointer `target`, as often as it takes: the record says last that it is done."""
    rollback_record.keep(store, target)
    if server_url:
        wait_until_served(server_url, target, timeout)
    if where := inference_service or came["inference_service"]:
        _on_cluster(store, where, target, settings or DeploymentSettings())
    return rollback_record.write(store, target, came, served=True)


def _on_cluster(store: ObjectStore, where: str, target: Pointer, settings: DeploymentSettings) -> None:
    from components.deployment import rollout  # a laptop needs no kubernetes

    try:
        rollout.follow(store, where, target, settings)
    except EverbertError as error:
        raise DeploymentError(
            f"version {target.version} is champion again, but the InferenceService does not follow: {error}; then do "
            f"everbert promote --version {target.version} --inference-service {where}, or leave it to the next check"
        ) from error
