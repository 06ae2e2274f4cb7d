"""The ledger of retrains in a real object store: a line each, none twice, for those that were not done too."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kfp_server import KfpServer
from stream_samples import SETTINGS, Samples, as_csv, drop

from components.accounting import outcomes
from components.accounting.cost import Cost
from components.accounting.outcomes import Outcome
from components.deployment import pointer
from components.deployment.pointer import Pointer
from components.drift.state import Retrain
from components.errors import StepError, StorageError
from components.storage import ObjectStore
from pipelines import retrain
from pipelines.cluster_runner import ClusterRuns
from pipelines.drift_check import check
from pipelines.ledger_report import report

pytestmark = pytest.mark.slow
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
ARGUMENTS = {
    "sources": [], "sources_digest": "d", "bucket": "b", "model_name": "m", "champion": "s3://b/models/1",
    "cause": "drift",
}  # fmt: skip
DECIDED = Retrain("m-v1-3", NOON.isoformat(), ARGUMENTS)


def evaluation(before: float, after: float) -> dict[str, Any]:
    """What evaluate leaves of a champion and a challenger, as far as the ledger reads it."""
    return {
        "data_set_digest": "d1",
        "data_set": {"counts": {"train": {"rows": 900}}, "new_rows": {"delayed": 240, "pseudo": 60}},
        "champion": {"model_version": "v1"},
        "challenger": {"model_version": "v2"},
        "sources": [{"source": "tweets", "champion_accuracy": before, "challenger_accuracy": after}],
    }


def decided(store: ObjectStore, verdict: str = "promote", name: str = DECIDED.id) -> Outcome:
    costs = [Cost(10, 18, 0), Cost(100, 190, 100)]
    described = {"id": name, "model_name": "m", "cause": "drift", "record": "decisions/x.json"}
    return outcomes.write_run(store.bucket, evaluation(0.625, 0.75), verdict, "better", costs, **described)


def test_a_step_that_is_tried_again_writes_no_second_line(bucket: ObjectStore) -> None:
    with ThreadPoolExecutor(4) as pool:
        tried = list(pool.map(lambda _: decided(bucket), range(4)))
    (line,) = outcomes.read(bucket)
    assert line in tried
    assert line.cost == Cost(110, 208, 100)
    assert (line.rows, line.labels, line.gain) == (900, {"delayed": 240, "pseudo": 60}, {"tweets": 0.125})


def test_a_champion_that_stays_costs_and_gains_nothing(bucket: ObjectStore) -> None:
    line = decided(bucket, "keep")
    assert line.gain == {"tweets": 0.0}
    assert line.cost == Cost(110, 208, 100)


def test_a_run_that_fails_is_a_line_and_one_that_fails_late_loses_its_gain(bucket: ObjectStore, kfp: KfpServer) -> None:
    pointer.write(bucket, Pointer("m", "1", "v1", "s3://b/models/1"), None)
    runs, late = ClusterRuns(kfp.url), replace(DECIDED, id="m-v1-4")
    assert retrain.submit(bucket, "m", DECIDED, runs)
    kfp.runs[0]["state"] = "FAILED"
    assert retrain.submit(bucket, "m", late, runs)
    decided(bucket, name=late.id)
    retrain.resume(bucket, "m", [late], runs, NOON, 24)
    assert [line.verdict for line in outcomes.read(bucket)] == ["promote"]
    kfp.runs[1]["state"] = "FAILED"
    for _ in range(2):
        retrain.resume(bucket, "m", [DECIDED, late], runs, NOON + timedelta(hours=1), 24)
    early, undone = sorted(outcomes.read(bucket), key=lambda line: line.id)
    assert (early.verdict, early.cost, early.gain, early.cause) == ("failed", Cost(), {}, "drift")
    assert early.reason == f"the run ended as FAILED (run {kfp.runs[0]['run_id']})"
    assert (undone.verdict, undone.cost, undone.gain) == ("failed", Cost(110, 208, 100), {"tweets": 0.0})
    assert kfp.runs[0]["runtime_config"]["parameters"]["retrain_id"] == DECIDED.id


def test_the_last_step_of_a_run_accounts_for_one_that_came_to_no_decision(bucket: ObjectStore) -> None:
    def ended(name: str, state: str, message: str = "") -> Outcome:
        outcomes.write_ended(bucket.bucket, name, "m", "drift", state, message)
        found = outcomes.find(bucket, name)
        assert found is not None
        return found

    kept = decided(bucket, "keep", "kept")
    for state in ("SUCCEEDED", "COMPLETE", "RUNNING", "FAILED"):
        assert ended("kept", state) == kept
    decided(bucket, "promote", "undone")
    assert ended("undone", "RUNNING").verdict == "promote"
    undone = ended("undone", "FAILED", "deploy failed")
    assert (undone.verdict, undone.reason, undone.gain) == ("failed", "ended as FAILED: deploy failed", {"tweets": 0.0})
    assert ended("early", "FAILED").reason == "ended as FAILED; the run's page in KFP says at which step"
    assert ended("unknown", "RUNNING").verdict == "failed"
    better = replace(outcomes.find(bucket, "early") or kept, reason="pipeline step train failed")
    outcomes.write_failed(bucket, better)
    assert outcomes.find(bucket, "early") == better


class Failing(retrain.LocalRuns):
    def start(self, name: str, arguments: dict[str, Any]) -> str:
        raise StepError("pipeline step train failed: the disk is full")


def test_a_local_run_that_fails_and_a_decision_that_lapses_are_lines(bucket: ObjectStore, tmp_path: Path) -> None:
    pointer.write(bucket, Pointer("m", "1", "v1", "s3://b/models/1"), None)
    runs = Failing(tmp_path)
    with pytest.raises(StepError):
        retrain.submit(bucket, "m", DECIDED, runs)
    other = replace(DECIDED, id="m-v1-5", arguments=ARGUMENTS | {"champion": "s3://b/models/0"})
    assert retrain.submit(bucket, "m", other, runs) == ""
    forgotten = replace(DECIDED, id="m-v1-6")
    for _ in range(2):
        retrain.resume(bucket, "m", [DECIDED, other, forgotten], runs, NOON + timedelta(hours=25), 24)
    assert [(line.id, line.verdict, line.reason) for line in outcomes.read(bucket)] == [
        ("m-v1-3", "failed", "pipeline step train failed: the disk is full"),
        ("m-v1-5", "lapsed", "another version has become champion since"),
        ("m-v1-6", "lapsed", "nobody submitted it within the cooldown of 24 hours"),
    ]


def test_a_check_that_waits_is_one_line_however_often_it_is_made(stream: ObjectStore, samples: Samples) -> None:
    for number in range(3):
        drop(stream, f"tweets/{number}.csv", samples.tweets[80 * number : 80 * number + 80])
        check(stream, "sentiment", SETTINGS, None, at=NOON + timedelta(hours=number))
    check(stream, "sentiment", SETTINGS, None, at=NOON + timedelta(hours=3))
    (waits,) = outcomes.read(stream, "sentiment")
    assert waits.verdict == "wait"
    assert "labelled texts it needs" in waits.reason
    assert (waits.rows, waits.labels, waits.cost, waits.gain) == (0, {}, Cost(), {})
    assert stream.head(waits.record)
    stream.delete(outcomes.key_of(waits.id))  # as if the check had died right after its commit
    check(stream, "sentiment", SETTINGS, None, at=NOON + timedelta(hours=4))
    assert [line.id for line in outcomes.read(stream)] == [waits.id]
    stream.put("labels/tweets.csv", as_csv(["id", "label"], list(samples.labels.items())))
    fires = check(stream, "sentiment", SETTINGS, None, at=NOON + timedelta(hours=5))
    assert fires.retrain is not None
    assert fires.retrain.arguments["cause"] == fires.verdict.reason
    assert len(outcomes.read(stream)) == 1  # the retrain's own line comes with its outcome


def test_the_report_is_a_table_with_totals_and_a_page(bucket: ObjectStore, tmp_path: Path) -> None:
    decided(bucket)
    before = "2026-01-02T03:04:05+00:00"
    outcomes.write(bucket, Outcome("m-v1-9", before, "m", "drift", "wait", "The retrain waits: no labels."))
    outcomes.write(bucket, Outcome("n-1", before, "n", "by hand", "keep", "x", cost=Cost(1, 1, 1)))
    command = [sys.executable, "-m", "pipelines", "report", "--bucket", f"s3://{bucket.bucket}"]
    told = subprocess.run([*command, "--model-name", "m"], capture_output=True, text=True, check=True).stdout
    header, _, *lines = told.splitlines()
    assert " ".join(header.split()) == "when verdict gain by domain rows labels seconds CPU s GPU s why"
    wait, promoted, total = ([cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[:3])
    nothing = ["none", "0", "0", "0.0", "0.0", "0.0"]
    assert wait == ["2026-01-02 03:04", "wait", *nothing, "The retrain waits: no labels"]
    amounts = ["tweets +0.125", "900", "240 + 60 pseudo", "110.0", "208.0", "100.0"]
    assert promoted[1:] == ["promote", *amounts, "drift"]
    assert total == ["all", "1 of 1", *amounts]
    assert "1 trained, 1 promoted, 1 asked for and not done." in told
    said = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout
    assert said.count("\n") == 1
    totals = json.loads(said)["totals"]
    assert totals["cost"] == {"seconds": 111, "cpu_seconds": 209, "gpu_seconds": 101}
    assert (totals["trained"], totals["promoted"], totals["not_done"]) == (2, 1, 1)
    result = report(bucket, "m", tmp_path)
    page = (tmp_path / "ledger.html").read_text("utf-8")
    assert "<svg" in page
    assert "The retrain waits: no labels." in page
    assert json.loads((tmp_path / "ledger.json").read_text("utf-8"))["totals"] == result["totals"]


def test_a_retrain_that_waited_and_was_done_is_not_one_that_was_not_done(bucket: ObjectStore) -> None:
    made = decided(bucket)
    for number, at in enumerate(("2026-01-02T03:04:05+00:00", "2999-01-02T03:04:05+00:00")):
        outcomes.write(bucket, Outcome(f"m-{number}", at, "m", "drift", "wait", "No labels.", champion=made.champion))
    result = report(bucket)
    assert [line["verdict"] for line in result["lines"]] == ["done later", "promote", "wait"]
    assert (result["totals"]["trained"], result["totals"]["not_done"]) == (1, 1)


def test_a_champion_that_was_rolled_back_has_gained_nothing(bucket: ObjectStore) -> None:
    decided(bucket)
    bucket.put("decisions/rollback-v1-20260102T030405Z.json", b"{}")
    assert report(bucket)["totals"]["promoted"] == 1
    bucket.put("decisions/rollback-v2-20260102T030405Z.json", b"{}")
    result = report(bucket)
    (line,) = result["lines"]
    assert (line["verdict"], line["gain"], line["cost"]["seconds"]) == ("rolled back", {"tweets": 0.0}, 110)
    assert (result["totals"]["trained"], result["totals"]["promoted"]) == (1, 0)


def test_an_empty_ledger_says_so_and_a_damaged_line_is_named(bucket: ObjectStore, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines", "report", "--bucket", f"s3://{bucket.bucket}"]
    made = subprocess.run([*command, "--output", str(tmp_path)], capture_output=True, text=True, check=True)
    assert made.stdout.startswith(f"The ledger of s3://{bucket.bucket} is empty")
    assert (tmp_path / "ledger.html").is_file()
    bucket.put("ledger/outcomes/x.json", b"{}")
    with pytest.raises(StorageError, match=r"ledger/outcomes/x\.json is not a line of the ledger"):
        outcomes.read(bucket)
    refused = subprocess.run(command, capture_output=True, text=True)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
