"""Submitting exactly once: claims in a real object store, runs on a stand-in for the KFP API server."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kfp_server import KfpServer

from components.accounting import outcomes
from components.accounting.outcomes import Outcome
from components.deployment import pointer
from components.deployment.pointer import Pointer
from components.drift.state import Retrain
from components.errors import ClusterError, StepError, StorageError
from components.storage import ObjectStore
from pipelines import claims, retrain
from pipelines.cluster_runner import ClusterRuns
from pipelines.kfp_api import KfpApi, endpoint
from pipelines.retrain import run_name, submit

pytestmark = pytest.mark.slow
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
ARGUMENTS = {
    "sources": ["s3://b/x.csv"], "sources_digest": "d", "bucket": "b", "model_name": "sentiment",
    "champion": "s3://b/models/1",
}  # fmt: skip
DECIDED = Retrain("sentiment-v1-3", NOON.isoformat(), ARGUMENTS)


@pytest.fixture
def store(bucket: ObjectStore) -> ObjectStore:
    pointer.write(bucket, Pointer("sentiment", "1", "v1", "s3://b/models/1"), None)
    return bucket


def claim_of(store: ObjectStore) -> dict[str, Any]:
    found = store.get("ledger/retrains/sentiment-v1-3.json")
    assert found is not None
    return dict(json.loads(found[0]))


class Slow:
    """Runs that take a while, and fail if told to."""

    def __init__(self, seconds: float, error: Exception | None = None) -> None:
        self.seconds, self.error, self.started = seconds, error, 0

    def find(self, name: str) -> str:
        return ""

    def start(self, name: str, arguments: dict[str, Any]) -> str:
        self.started += 1
        time.sleep(self.seconds)
        if self.error:
            raise self.error
        return f"run-{self.started}"

    def under_way(self, run: str) -> bool:
        return False

    def failure(self, run: str) -> str:
        return ""


def test_of_many_that_submit_one_does(store: ObjectStore, kfp: KfpServer) -> None:
    runs = ClusterRuns(kfp.url)
    with ThreadPoolExecutor(8) as pool:
        submitted = list(pool.map(lambda _: submit(store, "sentiment", DECIDED, runs), range(8)))
    (run,) = kfp.runs
    assert sorted(submitted) == [""] * 7 + [run["run_id"]]
    assert submit(store, "sentiment", DECIDED, runs) == ""
    assert claim_of(store)["run"] == run["run_id"]
    assert run["runtime_config"]["parameters"]["champion"] == "s3://b/models/1"


def test_a_claim_that_ran_out_is_taken_over_and_its_run_found_again(store: ObjectStore, kfp: KfpServer) -> None:
    runs = ClusterRuns(kfp.url)
    started = runs.start(run_name(DECIDED), ARGUMENTS)
    runs.start("retrain-another", ARGUMENTS | {"model_name": "another"})
    dead = {"id": DECIDED.id, "owner": "dead", "until": time.time() + 60}
    store.put("ledger/retrains/sentiment-v1-3.json", json.dumps(dead).encode())
    assert submit(store, "sentiment", DECIDED, runs) == ""
    store.put("ledger/retrains/sentiment-v1-3.json", json.dumps(dead | {"until": 1.0}).encode())
    assert submit(store, "sentiment", DECIDED, runs) == started
    assert len(kfp.runs) == 2


def test_a_lease_is_kept_for_as_long_as_a_run_takes(store: ObjectStore) -> None:
    runs = Slow(1.5)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(submit, store, "sentiment", DECIDED, runs, lease_seconds=0.4)
        time.sleep(1)
        assert submit(store, "sentiment", DECIDED, runs, lease_seconds=0.4) == ""
        assert retrain.under_way(store, [DECIDED], runs, NOON + timedelta(days=9), 24) == DECIDED.id
        assert first.result() == "run-1"
    assert retrain.under_way(store, [DECIDED], runs, NOON, 24) == ""


def test_a_run_that_failed_is_not_tried_again_but_a_cluster_that_failed_is(store: ObjectStore, kfp: KfpServer) -> None:
    runs = ClusterRuns(kfp.url)
    kfp.refuse = 503
    with pytest.raises(ClusterError, match=r"failed \(503\)"):
        submit(store, "sentiment", DECIDED, runs)
    kfp.refuse = 403
    with pytest.raises(ClusterError, match="refused the credentials"):
        submit(store, "sentiment", DECIDED, runs)
    failing = Slow(0, StepError("pipeline step train failed"))
    with pytest.raises(StepError):
        submit(store, "sentiment", DECIDED, failing)
    assert "train failed" in claim_of(store)["lapsed"]
    kfp.refuse = 0
    assert submit(store, "sentiment", DECIDED, runs) == ""
    assert kfp.runs == []


def test_a_retrain_waits_for_a_run_that_was_started_by_hand(store: ObjectStore, kfp: KfpServer) -> None:
    runs = ClusterRuns(kfp.url)
    by_hand = runs.start("submit-sentiment", ARGUMENTS)
    assert submit(store, "sentiment", DECIDED, runs) == ""
    assert (claim_of(store)["run"], claim_of(store)["lapsed"]) == ("", "")
    assert retrain.under_way(store, [DECIDED], runs, NOON, 24) == DECIDED.id
    retrain.resume(store, "sentiment", [DECIDED], runs, NOON, 24)
    assert [run["run_id"] for run in kfp.runs] == [by_hand]
    kfp.runs[0]["state"] = "SUCCEEDED"
    retrain.resume(store, "sentiment", [DECIDED], runs, NOON, 24)
    assert claim_of(store)["run"] == kfp.runs[1]["run_id"]


def test_a_retrain_whose_run_gave_way_is_submitted_later(
    store: ObjectStore, kfp: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, create = ClusterRuns(kfp.url), KfpApi.create_run

    def create_after_another(api: KfpApi, **content: Any) -> Any:
        monkeypatch.setattr(KfpApi, "create_run", create)
        runs.start("by hand", ARGUMENTS)
        return create(api, **content)

    monkeypatch.setattr(KfpApi, "create_run", create_after_another)
    assert submit(store, "sentiment", DECIDED, runs) == ""
    (by_hand,) = kfp.runs
    by_hand["state"] = "SUCCEEDED"
    retrain.resume(store, "sentiment", [DECIDED], runs, NOON, 24)
    assert [run["display_name"] for run in kfp.runs] == ["by hand", run_name(DECIDED)]
    assert claim_of(store)["run"] == kfp.runs[1]["run_id"]


def test_a_decision_lapses_when_another_version_is_champion(store: ObjectStore, kfp: KfpServer) -> None:
    found = pointer.read(store, "sentiment")
    assert found is not None
    pointer.write(store, Pointer("sentiment", "2", "v2", "s3://b/models/2"), found[1])
    assert submit(store, "sentiment", DECIDED, ClusterRuns(kfp.url)) == ""
    assert "another version" in claim_of(store)["lapsed"]
    assert retrain.under_way(store, [DECIDED], None, NOON, 24) == ""


def test_a_run_whose_claim_was_never_settled_is_no_decision_that_lapsed(store: ObjectStore, kfp: KfpServer) -> None:
    """The check died right after it had started the run; by the next one, the run's version is champion."""
    runs = ClusterRuns(kfp.url)
    started = runs.start(run_name(DECIDED), ARGUMENTS)
    dead = {"id": DECIDED.id, "owner": "dead", "until": 1.0}
    store.put("ledger/retrains/sentiment-v1-3.json", json.dumps(dead).encode())
    found = pointer.read(store, "sentiment")
    assert found is not None
    pointer.write(store, Pointer("sentiment", "2", "v2", "s3://b/models/2"), found[1])
    promoted = Outcome(DECIDED.id, NOON.isoformat(), "sentiment", "drift", "promote", "better", gain={"tweets": 0.1})
    assert outcomes.write(store, promoted)
    retrain.resume(store, "sentiment", [DECIDED], runs, NOON + timedelta(hours=25), 24)
    assert outcomes.find(store, DECIDED.id) == promoted
    assert (claim_of(store)["run"], claim_of(store)["lapsed"]) == (started, "")


@pytest.mark.parametrize("verdict", ["promote", "keep"])
def test_a_run_on_this_machine_that_has_ended_is_not_run_again(store: ObjectStore, verdict: str) -> None:
    runs = Slow(0)
    ended = Outcome(DECIDED.id, NOON.isoformat(), "sentiment", "drift", verdict, "proven", gain={"tweets": 0.1})
    assert outcomes.write(store, ended)
    assert submit(store, "sentiment", DECIDED, runs)
    assert runs.started == 0
    assert outcomes.find(store, DECIDED.id) == ended


def test_a_lease_whose_renewal_was_written_and_not_answered_is_still_ours(store: ObjectStore) -> None:
    lease = claims.take(store, DECIDED.id, 60)
    assert lease is not None
    tag = lease.etag
    lease.renew()
    lease.etag = tag  # as if the answer had been lost: sent again, it does not match any more
    until = lease.claim.until
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: until - 60)
        lease.renew()
    lease.settle(run="r")
    assert claim_of(store)["run"] == "r"


def test_what_was_left_unsubmitted_is_resumed_within_the_cooldown_only(store: ObjectStore, kfp: KfpServer) -> None:
    runs = ClusterRuns(kfp.url)
    late, forgotten = NOON + timedelta(hours=25), replace(DECIDED, id="sentiment-v1-2")
    assert retrain.under_way(store, [forgotten], runs, NOON, 24) == forgotten.id
    retrain.resume(store, "sentiment", [forgotten], runs, late, 24)
    assert kfp.runs == []
    assert retrain.under_way(store, [forgotten], runs, NOON, 24) == ""
    assert retrain.under_way(store, [DECIDED], runs, late, 24) == ""
    retrain.resume(store, "sentiment", [DECIDED], runs, NOON, 24)
    assert len(kfp.runs) == 1
    assert retrain.under_way(store, [DECIDED], runs, late, 24) == DECIDED.id
    kfp.runs[0]["state"] = "SUCCEEDED"
    assert retrain.under_way(store, [DECIDED], runs, NOON, 24) == ""


def test_a_cluster_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClusterError, match="does not answer: is it up, and is KFP_ENDPOINT right"):
        ClusterRuns("http://127.0.0.1:9")
    monkeypatch.delenv("KFP_ENDPOINT", raising=False)
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT", raising=False)
    with pytest.raises(ClusterError, match="set KFP_ENDPOINT"):
        endpoint()


def test_a_damaged_claim_is_one_line(store: ObjectStore, kfp: KfpServer) -> None:
    store.put("ledger/retrains/sentiment-v1-3.json", b"[]")
    with pytest.raises(StorageError, match=r"ledger/retrains/sentiment-v1-3\.json is damaged"):
        submit(store, "sentiment", DECIDED, ClusterRuns(kfp.url))
