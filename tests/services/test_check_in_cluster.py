"""everbert check as the CronJob runs it: the projected token, the settings file, and KFP to submit to.

The object store and the model are real; KFP's API server is a stand-in that keeps its API.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp_server import KfpServer
from stream_samples import Samples, as_csv, drop

from components.storage import ObjectStore

pytestmark = pytest.mark.slow
CONFIG = {
    "drift": {"minimum_window": 20, "permutations": 199},
    "retrain": {"false_retrain_budget": 0.05, "checks_a_year": 400, "minimum_labels": 60, "annotation_rows": 40},
    "cluster": {"gpus": 1},
}
TOKEN = "projected-for-pipelines.kubeflow.org"  # noqa: S105


@pytest.fixture
def pod(tmp_path: Path, kfp: KfpServer) -> Path:
    """What the CronJob mounts: the settings and the token."""
    (tmp_path / "everbert.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    (tmp_path / "token").write_text(TOKEN, encoding="utf-8")
    kfp.token = TOKEN
    return tmp_path


def check(pod: Path, store: ObjectStore, kfp: KfpServer) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "KFP_TOKEN"}
    environment |= {"KFP_ENDPOINT": kfp.url, "KF_PIPELINES_SA_TOKEN_PATH": str(pod / "token")}
    command = [sys.executable, "-m", "pipelines", "check", "--bucket", store.uri(""), "--submit", "kfp", "--json"]
    command += ["--config", str(pod / "everbert.yaml"), "--server-url", "http://sentiment"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=pod)


def content_of(store: ObjectStore) -> dict[str, str]:
    return {item.key: item.etag for item in store.list()}


def drift_with_labels(store: ObjectStore, samples: Samples) -> None:
    drop(store, "tweets/1.csv", samples.tweets[:240])
    store.put("labels/tweets.csv", as_csv(["id", "label"], list(samples.labels.items())))


def result_of(made: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert made.returncode == 0, made.stderr
    assert TOKEN not in made.stdout + made.stderr
    return json.loads(made.stdout)


def test_a_check_that_kfp_refuses_changes_nothing(
    stream: ObjectStore, samples: Samples, kfp: KfpServer, pod: Path
) -> None:
    drift_with_labels(stream, samples)
    before = content_of(stream)
    kfp.token = "for-another-audience"  # noqa: S105
    refused = check(pod, stream, kfp)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert line.startswith(f"everbert: the KFP API server {kfp.url} refused the credentials (401): check the token in")
    kfp.token, kfp.refuse = TOKEN, 403
    assert "refused the credentials (403)" in check(pod, stream, kfp).stderr
    (pod / "token").unlink()
    assert "and there is no such file" in check(pod, stream, kfp).stderr
    assert content_of(stream) == before
    assert kfp.runs == []


def test_checks_that_overlap_submit_one_run_and_later_ones_none(
    stream: ObjectStore, samples: Samples, kfp: KfpServer, pod: Path
) -> None:
    drift_with_labels(stream, samples)
    with ThreadPoolExecutor(2) as pool:
        made = [result_of(one) for one in pool.map(lambda _: check(pod, stream, kfp), range(2))]
    (run,) = kfp.runs
    assert sorted(one["run"] for one in made) == ["", run["run_id"]]
    assert min(one["windows"] for one in made) == 0 < max(one["windows"] for one in made)
    resources = kfp.version_of(run)["pipeline_spec"]["deploymentSpec"]["executors"]["exec-train"]["container"]
    assert resources["resources"]["accelerator"]["resourceCount"] == "1"
    parameters = run["runtime_config"]["parameters"]
    assert parameters["server_url"] == "http://sentiment"
    assert "cluster" not in parameters["settings"]
    before = content_of(stream)
    again = result_of(check(pod, stream, kfp))
    assert (again["windows"], again["run"]) == (0, "")
    assert content_of(stream) == before
    assert len(kfp.runs) == 1


def test_a_decision_that_kfp_did_not_take_is_submitted_by_the_next_check(
    stream: ObjectStore, samples: Samples, kfp: KfpServer, pod: Path
) -> None:
    drop(stream, "movies/1.csv", samples.movies[:30])
    assert result_of(check(pod, stream, kfp))["verdict"] == "quiet"
    drift_with_labels(stream, samples)
    kfp.refuse_posts = 503
    failed = check(pod, stream, kfp)
    assert failed.returncode == 2
    assert "failed (503)" in failed.stderr
    assert kfp.runs == []
    kfp.refuse_posts = 0
    result_of(check(pod, stream, kfp))
    (run,) = kfp.runs
    assert run["runtime_config"]["parameters"]["new_sources"] == ["tweets"]
    result_of(check(pod, stream, kfp))
    assert len(kfp.runs) == 1
