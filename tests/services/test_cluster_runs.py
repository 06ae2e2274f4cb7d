"""Runs on Kubeflow, against a stand-in for its API server that keeps the API's contract."""

import re
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kfp_server import KfpServer, at, node

from components.config import ClusterSettings
from components.errors import BusyError, ClusterError, ClusterUnavailableError
from pipelines.cluster_runner import ClusterRuns, Task
from pipelines.kfp_api import KfpApi

ARGUMENTS = {"sources": ["s3://b/x.csv"], "sources_digest": "d", "bucket": "b", "model_name": "sentiment"}
OTHER = ARGUMENTS | {"model_name": "other"}


def test_a_version_is_uploaded_once_and_named_by_what_it_holds(kfp: KfpServer) -> None:
    ClusterRuns(kfp.url).start("one", ARGUMENTS)
    ClusterRuns(kfp.url).start("two", OTHER)
    ClusterRuns(kfp.url, ClusterSettings(gpus=1)).start("three", ARGUMENTS | {"model_name": "third"})
    assert [pipeline["display_name"] for pipeline in kfp.pipelines] == ["continuous-training"]
    assert [experiment["display_name"] for experiment in kfp.experiments] == ["everbert"]
    names = [version["display_name"] for version in kfp.versions]
    assert len(set(names)) == 2
    assert all(re.fullmatch("continuous-training-[0-9a-f]{12}", name) for name in names)
    used = [kfp.version_of(run)["display_name"] for run in kfp.runs]
    assert used == [names[0], names[0], names[1]]
    assert {run["service_account"] for run in kfp.runs} == {"everbert-pipeline"}


def test_a_second_run_of_the_same_model_is_refused_until_the_first_has_ended(kfp: KfpServer) -> None:
    runs = ClusterRuns(kfp.url)
    first = runs.start("first", ARGUMENTS)
    assert runs.start("other", OTHER)
    for state in ("PENDING", "RUNNING", "CANCELING", "PAUSED"):
        kfp.runs[0]["state"] = state
        with pytest.raises(BusyError, match=f"another run of the model sentiment is under way: {first}"):
            runs.start("second", ARGUMENTS)
    kfp.runs[0]["state"] = "FAILED"
    assert runs.start("second", ARGUMENTS)
    assert len(kfp.runs) == 3


def test_runs_are_found_among_more_than_a_page_of_them(kfp: KfpServer) -> None:
    runs = ClusterRuns(kfp.url)
    run = runs.start("the one", ARGUMENTS)
    kfp.runs[:0] = [kfp.runs[0] | {"run_id": f"old-{i}", "state": "SUCCEEDED"} for i in range(150)]
    kfp.runs[:0] = [kfp.runs[-1] | {"run_id": f"other-{i}", "runtime_config": None} for i in range(150)]
    with pytest.raises(BusyError, match=run):
        runs.start("second", ARGUMENTS)


def test_of_runs_that_are_created_at_the_same_time_one_stays(kfp: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    create, together = KfpApi.create_run, threading.Barrier(4)

    def create_together(api: KfpApi, **content: Any) -> Any:
        together.wait(30)  # everybody has seen that there is no run
        made = create(api, **content)
        together.wait(30)  # and everybody's is there before anybody looks again
        return made

    monkeypatch.setattr(KfpApi, "create_run", create_together)

    def start(runs: ClusterRuns) -> str:
        try:
            return runs.start("same", ARGUMENTS)
        except BusyError:
            return ""

    with ThreadPoolExecutor(4) as pool:
        started = list(pool.map(start, [ClusterRuns(kfp.url) for _ in range(4)]))
    (left,) = [run["run_id"] for run in kfp.runs]
    assert sorted(started) == ["", "", "", left]


def test_a_run_that_has_seen_nobody_stays_though_another_of_the_same_second_has_a_lower_id(
    kfp: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, ids = KfpApi.create_run, (uuid.UUID(int=number) for number in range(1000, 0, -1))
    monkeypatch.setattr("kfp_server.uuid.uuid4", lambda: next(ids))
    first = []

    def create_after_another(api: KfpApi, **content: Any) -> Any:
        monkeypatch.setattr(KfpApi, "create_run", create)
        first.append(ClusterRuns(kfp.url).start("first", ARGUMENTS))  # from its first look to its last
        return create(api, **content)

    monkeypatch.setattr(KfpApi, "create_run", create_after_another)
    with pytest.raises(BusyError, match="is under way"):
        ClusterRuns(kfp.url).start("second", ARGUMENTS)
    assert [run["run_id"] for run in kfp.runs] == first


def test_progress_names_the_steps_and_not_the_nodes_around_them(kfp: KfpServer) -> None:
    runs = ClusterRuns(kfp.url)
    run = runs.start("one", ARGUMENTS)
    kfp.course = [
        at(
            "RUNNING",
            node("root-driver", "SUCCEEDED", 2),
            node("exit-handler-1", "RUNNING"),
            node("prepare", "RUNNING"),
        ),
        at(
            "RUNNING",
            node("prepare-driver", "SUCCEEDED", 1),
            node("prepare", "SUCCEEDED", 75),
            node("train", "RUNNING"),
        ),
        at("RUNNING", node("prepare", "SUCCEEDED", 75), node("train", "RUNNING")),
        at(
            "SUCCEEDED",
            node("prepare", "SUCCEEDED", 75),
            node("train", "SUCCEEDED", 100),
            node("executor", "SUCCEEDED"),
        ),
    ]
    seen = list(runs.follow(run))
    assert [[(task.name, task.state) for task in progress.tasks] for progress in seen] == [
        [("prepare", "RUNNING")],
        [("prepare", "SUCCEEDED"), ("train", "RUNNING")],
        [("prepare", "SUCCEEDED"), ("train", "SUCCEEDED")],
    ]
    assert seen[-1].tasks[0] == Task("prepare", "SUCCEEDED", 75.0)
    assert (seen[-1].failure, runs.failure(run), runs.under_way(run)) == ("", "", False)


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([node("prepare", "SUCCEEDED", 9), node("train", "FAILED", 60, "OOMKilled (exit code 137)")],
         "pipeline step train failed: OOMKilled (exit code 137)"),
        ([node("prepare-driver", "FAILED", 3), node("exit-handler-1", "FAILED", 3)], "pipeline step prepare failed"),
        ([], "the run ended as FAILED: quota exceeded"),
    ],
)  # fmt: skip
def test_a_run_that_failed_says_where_and_why(kfp: KfpServer, nodes: list[dict[str, Any]], said: str) -> None:
    runs = ClusterRuns(kfp.url)
    run = runs.start("one", ARGUMENTS)
    kfp.course = [at("FAILED", *nodes) | ({} if nodes else {"error": {"code": 8, "message": "quota exceeded"}})]
    assert runs.failure(run) == f"{said} (run {run})"


def test_a_server_that_restarts_is_waited_for(kfp: KfpServer) -> None:
    runs = ClusterRuns(kfp.url)
    run = runs.start("one", ARGUMENTS)
    following = runs.follow(run)
    assert next(following).state == "PENDING"
    kfp.course, kfp.down = [at("SUCCEEDED")], 4  # each look makes two attempts
    assert [progress.state for progress in following] == ["SUCCEEDED"]
    kfp.runs[0]["state"], kfp.down = "RUNNING", 1000
    with pytest.raises(ClusterUnavailableError, match="does not answer"):
        list(runs.follow(run, outage_seconds=1))
    kfp.down, kfp.refuse = 0, 503
    with pytest.raises(ClusterUnavailableError, match=r"failed \(503\)"):
        list(runs.follow(run, outage_seconds=1))


def test_a_run_that_was_deleted_is_one_line_to_follow_and_holds_no_check_up(kfp: KfpServer) -> None:
    runs = ClusterRuns(kfp.url)
    with pytest.raises(ClusterError, match=r"failed \(404\): Run gone not found"):
        list(runs.follow("gone"))
    assert (runs.under_way("gone"), runs.failure("gone")) == (False, "")
    kfp.refuse = 503
    with pytest.raises(ClusterUnavailableError):
        runs.under_way("gone")


def test_a_token_comes_from_the_environment_or_from_the_projected_file(
    kfp: KfpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kfp.token = "right-one"  # noqa: S105
    projected = tmp_path / "token"
    with pytest.raises(ClusterError, match=r"refused the credentials \(401\): check that KFP_TOKEN is set"):
        ClusterRuns(kfp.url)
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(projected))
    with pytest.raises(ClusterError, match=r"KF_PIPELINES_SA_TOKEN_PATH names .*token, and there is no such file"):
        ClusterRuns(kfp.url)
    projected.write_text("right-one\n", encoding="utf-8")
    runs = ClusterRuns(kfp.url)
    kfp.token = "renewed"  # noqa: S105
    projected.write_text("renewed", encoding="utf-8")
    assert runs.start("one", ARGUMENTS)
    projected.write_text("wrong-one", encoding="utf-8")
    with pytest.raises(ClusterError, match=r"check the token in .*, and its audience") as refused:
        runs.find("one")
    assert "wrong-one" not in str(refused.value)
    monkeypatch.setenv("KFP_TOKEN", "renewed")
    assert ClusterRuns(kfp.url).find("one")


def test_what_the_user_may_not_do_and_what_is_no_api_server_is_one_line(kfp: KfpServer) -> None:
    runs = ClusterRuns(kfp.url)
    kfp.refuse = 403
    with pytest.raises(ClusterError, match=r"refused the credentials \(403\): refused: the user may not do that"):
        runs.start("one", ARGUMENTS)
    kfp.refuse = 302
    with pytest.raises(ClusterError, match="asks for a login: set KFP_TOKEN"):
        runs.find("one")
    with pytest.raises(ClusterError, match=r"/pages answers, but not as a KFP API server: is KFP_ENDPOINT right\?"):
        ClusterRuns(f"{kfp.url}/pages")


def test_where_several_users_share_a_kubeflow_the_profile_is_named(kfp: KfpServer) -> None:
    kfp.multi_user = True
    with pytest.raises(
        ClusterError, match=r"several users share the Kubeflow of .*: name your profile with --namespace"
    ):
        ClusterRuns(kfp.url)
    assert ClusterRuns(kfp.url, ClusterSettings(namespace="team-a")).start("one", ARGUMENTS)
    assert {item["namespace"] for item in (*kfp.experiments, *kfp.pipelines)} == {"team-a"}
