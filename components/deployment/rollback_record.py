"""What a rollback leaves beside the pointer: decisions/rollback-<model version>-<time>.json, the alias and the tag.

All of it follows from the pointer that the rollback wrote (`Pointer.rolled_back`), under a key that does too. So
whoever finds it undone, since the rollback was killed or a service was away, does it, and twice is as good as once.
"""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from components import logs, tracking
from components.deployment.pointer import Pointer
from components.storage import ObjectStore

REASON = "rolled_back"  # the tag of a version that was taken out of service, and why


@dataclass(frozen=True)
class Rollback:
    """What was taken out of service, what is champion instead, why, after how long, and where the record is.

    `served`: whether all that the rollback was to reach is known to serve the champion.
    """

    name: str
    rolled_back: str
    champion: str
    model_version: str
    reason: str
    seconds: float
    served: bool
    record: str


def is_finished(store: ObjectStore, target: Pointer) -> bool:
    """Whether nothing is left to do of the rollback that wrote the pointer, or none did. Raises StorageError."""
    if target.rolled_back is None:
        return True
    found = store.get(_key(target.rolled_back))
    return found is not None and json.loads(found[0]).get("served") is True


def keep(store: ObjectStore, target: Pointer) -> None:
    """Record, alias and tag, unless the rollback is finished: the ledger goes by the first, a deployment by the second.

    The record comes first, since it needs no MLflow. Raises StorageError and TrackingError.
    """
    came = target.rolled_back
    if came is None or is_finished(store, target):
        return
    write(store, target, came, served=False)
    tracking.set_alias(target.name, tracking.CHAMPION, target.version)
    tracking.set_tag(target.name, came["version"], REASON, came["reason"])


def write(store: ObjectStore, target: Pointer, came: dict[str, Any], *, served: bool) -> Rollback:
    """Write the record of the rollback `came` (`Pointer.rolled_back`) to `target`, over one that it has."""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(came["at"])).total_seconds()
    made = Rollback(
        target.name, came["version"], target.version, target.model_version, came["reason"], seconds, served, _key(came)
    )
    record = {"kind": "rollback", "at": came["at"], "from": came, "to": asdict(target)}
    store.put(made.record, json.dumps(record | asdict(made), indent=2).encode())
    logs.event("rolled_back", model=made.name, **{key: value for key, value in asdict(made).items() if key != "name"})
    return made


def _key(came: dict[str, Any]) -> str:
    return f"decisions/rollback-{came['model_version']}-{datetime.fromisoformat(came['at']):%Y%m%dT%H%M%SZ}.json"
