"""What everbert status says, from what checks, retrains and roll-outs have left in a real object store."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from components.accounting import outcomes
from components.accounting.outcomes import Outcome
from components.config import RetrainSettings
from components.deployment import pointer
from components.deployment.pointer import Pointer
from components.drift import ledger
from components.drift.state import Entry, Retrain, State
from components.storage import ObjectStore
from pipelines import claims
from pipelines.check_outputs import record_key
from pipelines.status import status

pytestmark = pytest.mark.slow
SETTINGS = RetrainSettings()
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=2)


@pytest.fixture
def served(bucket: ObjectStore) -> ObjectStore:
    """A bucket in which version 2 has followed version 1."""
    before = Pointer("sentiment", "1", "aa", "s3://b/1")
    pointer.write(bucket, Pointer("sentiment", "2", "bb", "s3://b/2", asdict(before)), None)
    return bucket


def checked(store: ObjectStore, verdict: str, **further: Any) -> None:
    entry = Entry(7, NOON.isoformat(), verdict, 2, 100, 0.02, 5.0, 100.0, 0.3, None)
    ledger.commit(store, State("sentiment", "bb", evidence=5.0, windows=9, rows=450, history=(entry,), **further), None)
    store.put(record_key("bb", 7), json.dumps({"reason": "Because of tweets."}).encode())


def test_without_a_champion_the_next_step_is_to_train_one(bucket: ObjectStore) -> None:
    said = status(bucket, "sentiment", SETTINGS, NOON)
    assert said["champion"] is None
    assert "train a first one" in said["next"]


def test_before_any_check_there_is_a_champion_and_no_evidence(served: ObjectStore) -> None:
    said = status(served, "sentiment", SETTINGS, NOON)
    assert said["champion"] == {"version": "2", "model_version": "bb", "uri": "s3://b/2", "previous": "1"}
    assert (said["last_check"], said["last_retrain"], said["last_rollout"]) == (None, None, None)
    assert said["evidence"]["value"] == 1.0
    assert "No check has had" in said["next"]


@pytest.mark.parametrize(
    ("verdict", "further", "then"),
    [
        ("quiet", {}, "Nothing: the next full window is tested"),
        ("warn", {}, "nothing is done. Because of tweets."),
        ("wait", {}, "retrains once it need not. Because of tweets."),
        ("wait", {"request": "labels/requested/bb-1.csv"}, "Fill in the labels of labels/requested/bb-1.csv"),
    ],
)
def test_the_last_check_says_what_comes_next(
    served: ObjectStore, verdict: str, further: dict[str, Any], then: str
) -> None:
    checked(served, verdict, **further)
    said = status(served, "sentiment", SETTINGS, LATER)
    assert said["last_check"]["verdict"] == verdict
    assert (said["last_check"]["number"], said["last_check"]["hours_ago"]) == (7, 2.0)
    assert (said["last_check"]["reason"], said["last_check"]["p_value"]) == ("Because of tweets.", 0.02)
    assert said["evidence"]["value"] == 5.0
    assert said["evidence"]["windows"] == 9
    assert said["evidence"]["alarm_at"] > 1000
    assert then in said["next"]


def test_a_retrain_is_followed_from_the_decision_to_its_line_in_the_ledger(served: ObjectStore) -> None:
    one = Retrain("sentiment-bb-7", NOON.isoformat(), {"cause": "tweets"})
    checked(served, "retrain", retrains=(one,))

    def trained(at: datetime = LATER) -> tuple[str, str]:
        said = status(served, "sentiment", SETTINGS, at)
        assert said["last_retrain"]["cause"] == "tweets"
        return said["last_retrain"]["state"], said["next"]

    assert trained() == ("waiting", "The next check that may submit runs submits the retrain sentiment-bb-7.")
    assert trained(NOON + timedelta(days=3))[0] == "lapsed"
    served.put(claims.key_of(one.id), json.dumps(asdict(claims.Claim(one.id, "me", 0.0, run="r1"))).encode())
    state, then = trained()
    assert state == "submitted"
    assert "(run r1)" in then
    outcomes.write(served, Outcome(one.id, NOON.isoformat(), "sentiment", "tweets", "keep", "Not proven."))
    state, then = trained()
    assert state == "keep"
    assert then == "The evidence starts anew; the next full window is tested."


def test_the_last_roll_out_of_this_model_is_told(served: ObjectStore) -> None:
    def rolled(key: str, at: str, name: str, verdict: str) -> None:
        to = asdict(replace(Pointer("sentiment", "2", "bb", "s3://b/2"), name=name))
        record = {"at": at, "inference_service": "a/b", "to": to, "verdict": verdict, "reason": "", "steps": []}
        served.put(f"decisions/rollout-{key}.json", json.dumps(record).encode())

    rolled("z", "2026-11-24T10:00", "sentiment", "rolled_back")
    rolled("a", "2026-11-24T11:00", "sentiment", "under_way")
    rolled("b", "2026-11-24T12:00", "other", "served")
    last = status(served, "sentiment", SETTINGS, NOON)["last_rollout"]
    assert (last["verdict"], last["version"], last["percent"]) == ("under_way", "2", 0)


def test_the_command_prints_it_for_people_and_for_programs(served: ObjectStore) -> None:
    command = [sys.executable, "-m", "pipelines", "status", "--bucket", served.uri("")]
    program = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(program.stdout)["champion"]["version"] == "2"
    person = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "champion.model_version" in person.stdout
    assert "next" in person.stdout
