"""rollback: the champion before this one serves again."""

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from components import logs, tracking
from components.config import DeploymentSettings
from components.deployment import pointer
from components.deployment.deploy import wait_until_served
from components.deployment.pointer import Pointer
from components.errors import DeploymentError, EverbertError
from components.storage import ObjectStore

REASON = "rolled_back"  # the tag of a version that was taken out of service, and why


@dataclass(frozen=True)
class Rollback:
    """What was taken out of service, what serves instead, why, and where the record is."""

    name: str
    rolled_back: str
    champion: str
    model_version: str
    reason: str
    seconds: float
    record: str


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
    version that is to go; if another serves by now, nothing is done. Raises DeploymentError if there is nothing to go
    back to or the server does not answer (the previous champion stays the one to be served), ConflictError if another
    deployment runs, TrackingError if MLflow is away (then nothing is changed) or does not know the version.
    """
    started = datetime.now(UTC)
    current, etag = pointer.state(store, name)
    if current is None or etag is None or not current.previous:
        raise DeploymentError(f"there is no version of {name} to roll back to; deploy one instead")
    if expected and current.model_version != expected:
        raise DeploymentError(f"{name} is served as {current.model_version} by now, not as {expected}; nothing is done")
    target = replace(Pointer(**current.previous), previous=None)
    tracking.version(name, target.version)  # raises before anything is changed, so that it can be done again
    pointer.write(store, target, etag)
    try:
        tracking.set_alias(name, tracking.CHAMPION, target.version)
        tracking.set_tag(name, current.version, REASON, reason)
        if server_url:
            wait_until_served(server_url, target, timeout)
        if inference_service:
            _on_cluster(store, inference_service, target, settings or DeploymentSettings())
    finally:  # it is champion whether it is served yet or not, and the ledger goes by the record
        made = _recorded(store, current, target, reason, started)
    return made


def _recorded(store: ObjectStore, current: Pointer, target: Pointer, reason: str, started: datetime) -> Rollback:
    seconds = (datetime.now(UTC) - started).total_seconds()
    key = f"decisions/rollback-{current.model_version}-{started:%Y%m%dT%H%M%SZ}.json"
    made = Rollback(current.name, current.version, target.version, target.model_version, reason, seconds, key)
    record = {"kind": "rollback", "at": started.isoformat(), "from": asdict(current), "to": asdict(target)}
    store.put(key, json.dumps(record | asdict(made), indent=2).encode())
    logs.event("rolled_back", model=made.name, **{key: value for key, value in asdict(made).items() if key != "name"})
    return made


def _on_cluster(store: ObjectStore, where: str, target: Pointer, settings: DeploymentSettings) -> None:
    from components.deployment import rollout  # a laptop needs no kubernetes

    try:
        rollout.follow(store, where, target, settings)
    except EverbertError as error:
        raise DeploymentError(
            f"version {target.version} is champion again, but the InferenceService does not follow: {error}; then do "
            f"everbert promote --version {target.version} --inference-service {where}"
        ) from error
