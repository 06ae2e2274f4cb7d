"""The ledger: one JSON object under ledger/outcomes/ for every retrain, and for every retrain that was not done.

A line is written once, by a conditional put: a step that is tried again, or a check that comes after, adds none. Only
a run that fails changes its line: after it was to be promoted, it cost what it cost and gained nothing; and whoever
waited for its end knows better than its last step why it failed.
"""

import contextlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from components import logs
from components.accounting.cost import Cost
from components.errors import ConflictError, StorageError
from components.storage import ObjectStore

PREFIX = "ledger/outcomes"
PROMOTED, KEPT = "promote", "keep"
NOT_DONE = ("wait", "warn", "lapsed", "failed")
_FAILED = ("FAILED", "CANCELED", "CANCELLED")


@dataclass(frozen=True)
class Outcome:
    """What came of a retrain. Times are ISO 8601, UTC; what is unknown or was not spent is empty or 0."""

    id: str
    at: str
    model_name: str
    cause: str
    """Why a retrain was asked for."""
    verdict: str
    """promote or keep; for one that was not done wait, warn, lapsed (never submitted) or failed."""
    reason: str
    """Why that is the verdict, in words."""
    champion: str = ""
    """The version that was champion then."""
    challenger: str = ""
    data_set: str = ""
    """Its digest."""
    rows: int = 0
    """That were trained on, replayed ones included."""
    labels: dict[str, int] = field(default_factory=dict)
    """Label source -> rows that the sources brought, replayed ones not included."""
    cost: Cost = field(default_factory=Cost)
    gain: dict[str, float] = field(default_factory=dict)
    """Domain -> accuracy gained on its held-out rows; 0 where the champion stayed, none for a first model."""
    record: str = ""
    """Key of the decision record."""


def key_of(outcome_id: str) -> str:
    return f"{PREFIX}/{outcome_id}.json"


def write_run(
    bucket: str, evaluation: dict[str, Any], verdict: str, reason: str, costs: Iterable[Cost], **described: str
) -> Outcome:
    """The line of a run that has got as far as a decision; `described`: id, model_name, cause and record."""
    data_set, champion = evaluation["data_set"], evaluation["champion"]
    gained = 1.0 if verdict == PROMOTED else 0.0
    outcome = Outcome(
        at=datetime.now(UTC).isoformat(),
        **described,
        verdict=verdict,
        reason=reason,
        champion=champion["model_version"] if champion else "",
        challenger=evaluation["challenger"]["model_version"],
        data_set=evaluation["data_set_digest"],
        rows=data_set["counts"]["train"]["rows"],
        labels=data_set["new_rows"],
        cost=sum(costs, Cost()),
        gain={
            s["source"]: gained * (s["challenger_accuracy"] - s["champion_accuracy"])
            for s in evaluation["sources"]
            if champion
        },
    )
    write(ObjectStore(bucket), outcome)
    return outcome


def write(store: ObjectStore, outcome: Outcome) -> bool:
    """Whether the line is new; one that is there stays as it is."""
    try:
        store.put(key_of(outcome.id), _content(outcome), only_if_new=True)
    except ConflictError:
        return False
    logs.event("retrain_accounted", **asdict(outcome))
    return True


def write_ended(bucket: str, outcome_id: str, model_name: str, cause: str, state: str, message: str) -> None:
    """The line of a run whose steps have ended as `state` (KFP's or MLMD's name), with what KFP says of it.

    Some KFP servers say RUNNING of steps that have ended. A run that has no line then never came to a decision.
    """
    reason = f"ended as {state}" + (f": {message}" if message else "; the run's page in KFP says at which step")
    outcome = Outcome(outcome_id, datetime.now(UTC).isoformat(), model_name, cause, "failed", reason)
    (write_failed if state in _FAILED else write)(ObjectStore(bucket), outcome)


def write_failed(store: ObjectStore, outcome: Outcome) -> None:
    """The line of a run that failed. If it had its line already, and that says promote, the gain is taken back; if
    that says failed, this is who waited for the run's end, and knows better why."""
    if write(store, outcome):
        return
    found = store.get(key_of(outcome.id))
    line = _parse(store, key_of(outcome.id), found[0]) if found else outcome
    if found and line.verdict in (PROMOTED, outcome.verdict) and line.reason != outcome.reason:
        undone = replace(line, verdict=outcome.verdict, reason=outcome.reason, gain=dict.fromkeys(line.gain, 0.0))
        with contextlib.suppress(ConflictError):  # somebody else has just done the same
            store.put(key_of(outcome.id), _content(undone), if_match=found[1])


def find(store: ObjectStore, outcome_id: str) -> Outcome | None:
    """The line of that id, if there is one. Raises StorageError for a damaged one."""
    found = store.get(key_of(outcome_id))
    return _parse(store, key_of(outcome_id), found[0]) if found else None


def read(store: ObjectStore, model_name: str = "") -> list[Outcome]:
    """All lines, or those of one model, oldest first. Raises StorageError for a damaged one."""
    found = ((item.key, store.get(item.key)) for item in store.list(f"{PREFIX}/"))
    lines = [_parse(store, key, content[0]) for key, content in found if content]
    return sorted((o for o in lines if model_name in ("", o.model_name)), key=lambda o: (o.at, o.id))


def _content(outcome: Outcome) -> bytes:
    return json.dumps(asdict(outcome), indent=1, ensure_ascii=False, allow_nan=False).encode()


def _parse(store: ObjectStore, key: str, content: bytes) -> Outcome:
    try:
        values = json.loads(content)
        return Outcome(**values | {"cost": Cost(**values["cost"])})
    except (ValueError, TypeError, KeyError) as error:
        raise StorageError(f"{store.uri(key)} is not a line of the ledger; restore an earlier version of it") from error
