"""The state object: one writer wins, a successor takes over, a rollback does too."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from components.config import RetrainSettings
from components.drift import ledger
from components.drift import state as transitions
from components.drift.state import Mark, Part, Retrain, State, Window
from components.errors import ConflictError, StorageError
from components.storage import ObjectStore

pytestmark = pytest.mark.slow
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def counted(state: State, key: str, first: int, end: int, *, last: bool = False) -> State:
    part = Part(key, "e1", first, end, f"{key}-{end}", last)
    return transitions.count(state, [Window((part,), end - first, 0.01)], [part], NOON, RetrainSettings())


def commit(store: ObjectStore, version: str, key: str, first: int, end: int) -> State:
    state, etag = ledger.read(store, "m", version)
    state = counted(state, key, first, end)
    ledger.commit(store, state, etag)
    return state


def test_of_two_checks_that_read_the_same_state_one_commits(bucket: ObjectStore) -> None:
    for _ in range(2):
        (first, tag), (second, same_tag) = ledger.read(bucket, "m", "v1"), ledger.read(bucket, "m", "v1")
        ledger.commit(bucket, counted(first, "incoming/a.csv", 0, 50), tag)
        with pytest.raises(ConflictError):
            ledger.commit(bucket, counted(second, "incoming/a.csv", 0, 50), same_tag)
    assert ledger.read(bucket, "m", "v1")[0].windows == 2


def test_a_successor_goes_on_where_the_last_version_stopped_and_so_does_a_rollback(bucket: ObjectStore) -> None:
    old = commit(bucket, "v1", "incoming/a.csv", 0, 50)
    decided = replace(old, retrains=(Retrain("m-v1-1", NOON.isoformat(), {}),))
    ledger.commit(bucket, decided, ledger.read(bucket, "m", "v1")[1])
    new = commit(bucket, "v2", "incoming/a.csv", 50, 100)
    assert [r.id for r in new.retrains] == ["m-v1-1"]
    assert new.objects["incoming/a.csv"] == Mark("e1", 50, 100, "incoming/a.csv-100", done=False)
    assert new.evidence == counted(State("m", "v2"), "x", 0, 50).evidence
    back, etag = ledger.read(bucket, "m", "v1")
    assert back.objects["incoming/a.csv"].end == 100
    assert back.evidence == old.evidence
    assert etag is not None
    assert ledger.read(bucket, "m", "v2")[0] == new


def test_a_check_that_still_ran_with_the_last_champion_is_not_lost(bucket: ObjectStore) -> None:
    commit(bucket, "v1", "incoming/a.csv", 0, 50)
    straggler, tag = ledger.read(bucket, "m", "v1")
    commit(bucket, "v2", "incoming/b.csv", 0, 50)
    ledger.commit(bucket, counted(straggler, "incoming/c.csv", 0, 50), tag)
    assert ledger.read(bucket, "m", "v2")[0].objects.keys() == {f"incoming/{name}.csv" for name in "abc"}


def test_a_damaged_state_is_one_line(bucket: ObjectStore) -> None:
    for content in (b"", b"[]", b'{"schema": 1}', b'{"schema": 7}'):
        bucket.put("ledger/drift/m/v1.json", content)
        with pytest.raises(StorageError, match=r"ledger/drift/m/v1\.json is damaged .* restore an earlier version"):
            ledger.read(bucket, "m", "v1")
