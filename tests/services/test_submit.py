"""everbert submit and compile as commands: the object store is real, KFP's API server a stand-in that keeps its API."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kfp_server import KfpServer, at, node, read_package

from components.accounting import outcomes
from components.accounting.outcomes import Outcome
from components.config import load
from components.deployment import pointer
from components.deployment.pointer import Pointer
from components.errors import StepError
from components.storage import ObjectStore
from pipelines.cluster_runner import ClusterRuns
from pipelines.submission import submit, wait

pytestmark = pytest.mark.slow
SETTINGS = load(None, {"training": {"epochs": 1}, "cluster": {"gpus": 1}})


@pytest.fixture
def store(bucket: ObjectStore) -> ObjectStore:
    bucket.put("reviews/a.csv", b"text,label\ngood,1\n")
    return bucket


def everbert(kfp: KfpServer, *arguments: str, token: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KFP_ENDPOINT": kfp.url, "KFP_TOKEN": token}
    command = [sys.executable, "-m", "pipelines", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def asked_for(store: ObjectStore) -> list[str]:
    return ["submit", "--source", store.uri("reviews/"), "--bucket", store.uri(""), "--epochs", "1", "--gpus", "1"]


def events(stderr: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]


def test_a_run_is_submitted_followed_and_its_outcome_returned(store: ObjectStore, kfp: KfpServer) -> None:
    pointer.write(store, Pointer("sentiment", "3", "v3", "s3://b/models/3"), None)
    kfp.token = "right-one"  # noqa: S105
    kfp.course = [
        at("RUNNING", node("prepare", "RUNNING")),
        at("RUNNING", node("prepare", "SUCCEEDED", 31), node("train", "RUNNING")),
        at("SUCCEEDED", node("prepare", "SUCCEEDED", 31), node("train", "SUCCEEDED", 60), node("deploy", "SKIPPED")),
    ]
    made = everbert(kfp, *asked_for(store), "--json", token="right-one")  # noqa: S106
    assert made.returncode == 0, made.stderr
    result = json.loads(made.stdout)
    (run,) = kfp.runs
    assert (result["run"], result["state"]) == (run["run_id"], "SUCCEEDED")
    assert {task["step"]: task["seconds"] for task in result["tasks"]} == {"prepare": 31, "train": 60, "deploy": 0}
    told = [(e["step"], e["state"]) for e in events(made.stderr) if e["event"] == "step"]
    assert told == [
        ("prepare", "RUNNING"), ("prepare", "SUCCEEDED"), ("train", "RUNNING"), ("train", "SUCCEEDED"),
        ("deploy", "SKIPPED"),
    ]  # fmt: skip
    parameters = run["runtime_config"]["parameters"]
    assert parameters["champion"] == "s3://b/models/3"
    assert parameters["settings"] == {"training": {"epochs": 1}}
    assert "right-one" not in made.stdout + made.stderr
    assert len([line for line in made.stderr.splitlines() if not line.startswith("{")]) == 0


def test_what_goes_wrong_is_one_line_with_its_exit_code(store: ObjectStore, kfp: KfpServer) -> None:
    kfp.token = "right-one"  # noqa: S105
    refused = everbert(kfp, *asked_for(store), token="wrong-one")  # noqa: S106
    assert refused.returncode == 2
    assert refused.stderr == (
        f"everbert: the KFP API server {kfp.url} refused the credentials (401): check the token in KFP_TOKEN\n"
    )
    kfp.token = ""
    first = everbert(kfp, *asked_for(store), "--no-wait", "--json")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["run"] == kfp.runs[0]["run_id"]
    second = everbert(kfp, *asked_for(store))
    assert second.returncode == 1
    assert second.stderr.startswith("everbert: another run of the model sentiment is under way: ")
    kfp.runs[0]["state"] = "CANCELED"
    kfp.course = [at("FAILED", node("prepare", "SUCCEEDED", 9), node("train", "FAILED", 60, "OOMKilled"))]
    failed = everbert(kfp, *asked_for(store), "--json")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "everbert: pipeline step train failed: OOMKilled (its log: http" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_the_outcome_is_the_ledgers(store: ObjectStore, kfp: KfpServer) -> None:
    runs = ClusterRuns(kfp.url, SETTINGS.cluster)
    run = submit(runs, store, [store.uri("reviews/a.csv")], "sentiment", SETTINGS)["run"]
    assert kfp.runs[0]["runtime_config"]["parameters"]["champion"] == ""
    kfp.course = [at("SUCCEEDED")]
    outcomes.write(store, Outcome(run, "2026-11-24T12:00:00+00:00", "sentiment", "by hand", "keep", "no better"))
    ended = wait(runs, store, run)
    assert (ended["state"], ended["verdict"], ended["reason"]) == ("SUCCEEDED", "keep", "no better")


def test_a_cancelled_run_has_failed(store: ObjectStore, kfp: KfpServer) -> None:
    runs = ClusterRuns(kfp.url, SETTINGS.cluster)
    run = submit(runs, store, [store.uri("reviews/a.csv")], "sentiment", SETTINGS)["run"]
    kfp.course = [at("CANCELED", node("prepare", "SUCCEEDED", 9))]
    with pytest.raises(StepError, match="the run ended as CANCELED"):
        wait(runs, store, run)


@pytest.mark.parametrize(
    ("source", "said"),
    [("reviews.csv", "reviews.csv is on this machine, and a cluster reads s3:// only"), ("s3:", "there is nothing at")],
)
def test_what_a_cluster_cannot_read_is_not_submitted(
    source: str, said: str, store: ObjectStore, kfp: KfpServer
) -> None:
    source = store.uri("nowhere/") if source == "s3:" else source
    refused = everbert(kfp, "submit", "--source", source, "--bucket", store.uri(""))
    assert refused.returncode == 2
    assert said in refused.stderr
    assert kfp.runs == []


def test_compile_writes_the_variant_that_its_flags_ask_for(tmp_path: Path, kfp: KfpServer) -> None:
    path = tmp_path / "gpu.yaml"
    made = everbert(kfp, "compile", "--gpus", "4", "--node-selector", "pool=gpu", "--output", str(path))
    assert made.returncode == 0, made.stderr
    _, executors = read_package(path.read_text(encoding="utf-8"))
    assert {n for n, e in executors.items() if dict(e.node_selector.labels) == {"pool": "gpu"}} == {
        "exec-train", "exec-evaluate",
    }  # fmt: skip
    refused = everbert(kfp, "compile", "--memory", "lots", "--output", str(path))
    assert refused.returncode == 2
    assert refused.stderr == "everbert: cluster.memory must be an amount such as 8Gi, not 'lots'\n"
