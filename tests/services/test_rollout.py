"""A roll-out against the stand-in for a cluster (kubernetes_server.py), with a real object store and real models."""

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from kserve_controller import Model
from kubernetes_server import KUBECONFIG, KubernetesServer, kubernetes_server, resolve_cluster_names
from rollout_models import answering_model

from components.classifier.answers import TEXTS
from components.config import DeploymentSettings
from components.deployment import inference_service as fields
from components.deployment import rollout
from components.deployment.kubernetes_api import OneInferenceService
from components.deployment.pointer import Pointer
from components.deployment.probes import Endpoint, watch
from components.errors import ClusterError, ConflictError, DeploymentError, InputError
from components.storage import ObjectStore

WHERE = "everbert/sentiment"
SETTINGS = DeploymentSettings(watch_seconds=0.3, ready_seconds=5, probe_seconds=0.02, latency_seconds=1.0)
MODES = [fields.STANDARD, fields.KNATIVE]


@pytest.fixture(scope="module")
def versions(
    object_store: Any, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[Pointer, Model]]:
    """Three versions of one model that differ in their confidence, in the object store, and what serves each."""
    store = ObjectStore("rollout-models")
    store.create_bucket()
    made = []
    for number, temperature in enumerate((1.5, 0.8, 2.5), 1):
        folder = tmp_path_factory.mktemp("version") / "model"
        model = answering_model(tiny_model, folder, temperature)
        store.upload_folder(folder, f"models/{number}")
        made.append((Pointer("sentiment", str(number), model.version, store.uri(f"models/{number}")), model))
    return made


@pytest.fixture
def cluster(
    versions: list[tuple[Pointer, Model]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[KubernetesServer]:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", socket.getaddrinfo)
    resolve_cluster_names()
    with kubernetes_server() as server:
        (tmp_path / "kubeconfig").write_text(KUBECONFIG.format(port=server.port))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
        server.models = {pointer.uri: replace(model) for pointer, model in versions}
        yield server


@pytest.fixture
def first(versions: list[tuple[Pointer, Model]]) -> Pointer:
    return versions[0][0]


@pytest.fixture
def second(versions: list[tuple[Pointer, Model]]) -> Pointer:
    return replace(versions[1][0], previous=asdict(versions[0][0]))


def served(cluster: KubernetesServer) -> tuple[str, int]:
    """(storageUri, percent that it has) of the spec, which names nothing else."""
    spec = cluster.objects["sentiment"]["spec"]
    assert not spec.get("canary")
    return spec["predictor"]["model"]["storageUri"], spec["predictor"].get("canaryTrafficPercent", 100)


def records(store: ObjectStore) -> list[dict[str, Any]]:
    found = [store.get(item.key) for item in store.list("decisions/rollout-")]
    return sorted((json.loads(content[0]) for content in found if content), key=lambda record: record["at"])


@pytest.mark.parametrize("mode", MODES)
def test_a_first_version_creates_the_service_and_the_next_moves_in_by_steps(
    cluster: KubernetesServer, bucket: ObjectStore, first: Pointer, second: Pointer, mode: str
) -> None:
    settings = replace(SETTINGS, mode=mode)
    rollout.roll_out(bucket, WHERE, first, settings)
    made = cluster.objects["sentiment"]
    assert made["metadata"]["annotations"] == {"serving.kserve.io/deploymentMode": mode}
    assert made["spec"]["predictor"]["model"] == {"modelFormat": {"name": "everbert"}, "storageUri": first.uri}
    started = time.monotonic()
    rollout.roll_out(bucket, WHERE, second, settings)
    seconds = time.monotonic() - started
    assert served(cluster) == (second.uri, 100)
    after = cluster.objects["sentiment"]["spec"]["predictor"]
    assert (
        after["serviceAccountName"] == "everbert-serving"
    )  # what is created is kept, and not given up by a later apply
    assert after["annotations"]["everbert/model-version"] == second.model_version
    one, two = records(bucket)
    assert [step["percent"] for step in one["steps"]] == [100]
    assert [(step["step"], step["percent"]) for step in two["steps"]] == [
        ("proven", 0), ("traffic", 10), ("traffic", 50), ("traffic", 100),
    ]  # fmt: skip
    assert (one["verdict"], two["verdict"]) == ("served", "served")
    assert two["steps"][0]["answers"] == len(TEXTS)
    assert all(step["wrong"] == 0 and step["probes"] >= len(TEXTS) for step in two["steps"][1:])
    assert two["steps"][-1]["share_seen"] == 1.0
    if mode == fields.KNATIVE:  # half of the probes ask the new version itself
        assert two["steps"][1]["share_seen"] == pytest.approx(0.55, abs=0.1)
        assert two["steps"][2]["share_seen"] == pytest.approx(0.75, abs=0.1)
    print(f"rolled out in {seconds:.1f} s ({mode}), of which watched {3 * settings.watch_seconds:.1f} s")


@pytest.mark.parametrize("mode", MODES)
def test_again_changes_nothing(
    cluster: KubernetesServer, bucket: ObjectStore, first: Pointer, second: Pointer, mode: str
) -> None:
    settings = replace(SETTINGS, mode=mode)
    for version in (first, second):
        rollout.roll_out(bucket, WHERE, version, settings)
    before = cluster.objects["sentiment"]
    rollout.roll_out(bucket, WHERE, second, settings)
    rollout.follow(bucket, WHERE, second, settings)
    after = cluster.objects["sentiment"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    assert after["spec"] == before["spec"]
    assert [record["verdict"] for record in records(bucket)] == ["served"] * 4


def test_only_what_is_ours_is_patched(cluster: KubernetesServer, bucket: ObjectStore, first: Pointer) -> None:
    """An InferenceService that kustomize brought, with everything but the model."""
    theirs = {
        "metadata": {"annotations": {"serving.kserve.io/deploymentMode": "Standard", "team": "reviews"}},
        "spec": {
            "predictor": {"minReplicas": 2, "model": {"modelFormat": {"name": "everbert"}, "runtime": "everbert"}}
        },
    }
    cluster.put("sentiment", "kubectl-client-side-apply", theirs)
    rollout.roll_out(bucket, WHERE, first, SETTINGS)
    live = cluster.objects["sentiment"]
    assert live["metadata"]["annotations"]["team"] == "reviews"
    assert live["spec"]["predictor"]["minReplicas"] == 2
    assert live["spec"]["predictor"]["model"] == theirs["spec"]["predictor"]["model"] | {"storageUri": first.uri}
    ours = [e for e in live["metadata"]["managedFields"] if e["manager"] == "everbert"]
    assert [list(e["fieldsV1"]) for e in ours] == [["f:spec"]]
    assert set(ours[0]["fieldsV1"]["f:spec"]["f:predictor"]) == {"f:model", "f:annotations"}


def test_a_field_of_another_manager_is_one_line_and_nothing_is_changed(
    cluster: KubernetesServer, bucket: ObjectStore, first: Pointer
) -> None:
    by_hand = {"spec": {"predictor": {"model": {"storageUri": "s3://elsewhere/model"}}}}
    cluster.put("sentiment", "kubectl-client-side-apply", by_hand)
    with pytest.raises(ClusterError, match="kubectl-client-side-apply") as caught:
        rollout.roll_out(bucket, WHERE, first, SETTINGS)
    assert "spec.predictor.model.storageUri" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert served(cluster)[0] == "s3://elsewhere/model"
    assert records(bucket)[0]["verdict"] == "stopped"


def test_a_stale_ready_is_not_accepted(
    cluster: KubernetesServer, bucket: ObjectStore, first: Pointer, second: Pointer
) -> None:
    """The controller is asleep: the status of the version before says Ready, and its pods answer."""
    cluster.put("sentiment", "kustomize", {"spec": {"predictor": {"model": {"modelFormat": {"name": "everbert"}}}}})
    rollout.roll_out(bucket, WHERE, first, SETTINGS)  # no mode is annotated: a rolling update, all at once
    cluster.controller.paused = True
    cluster.controller.start_seconds = 60
    with pytest.raises(DeploymentError, match=r"version 2 was not ready in everbert/sentiment within 0\.5 s") as caught:
        rollout.roll_out(bucket, WHERE, second, replace(SETTINGS, ready_seconds=0.5))
    assert "going back to version 1 failed too" in str(caught.value)
    assert served(cluster)[0] == first.uri


def test_a_ready_of_the_generation_is_not_enough_while_the_old_pods_answer(
    cluster: KubernetesServer, bucket: ObjectStore, first: Pointer, second: Pointer
) -> None:
    cluster.controller.overlap_seconds = 1.5
    cluster.put("sentiment", "kustomize", {"spec": {"predictor": {"model": {"modelFormat": {"name": "everbert"}}}}})
    for version in (first, second):
        started = time.monotonic()
        rollout.roll_out(bucket, WHERE, version, SETTINGS)
    assert time.monotonic() - started > 1.5
    assert [step["percent"] for step in records(bucket)[1]["steps"]] == [100]


@pytest.mark.parametrize("fault", ["gone", "cut", "ends", 410, 500])
def test_a_watch_that_ends_is_taken_up_again(
    cluster: KubernetesServer, bucket: ObjectStore, first: Pointer, fault: Any
) -> None:
    cluster.controller.start_seconds = 0.6
    cluster.faults["watch"] = [fault, fault]
    rollout.roll_out(bucket, WHERE, first, SETTINGS)
    assert served(cluster)[0] == first.uri
    assert cluster.requests.count("watch") >= 3


def test_what_passes_by_itself_is_tried_again(cluster: KubernetesServer, bucket: ObjectStore, first: Pointer) -> None:
    cluster.faults |= {"get": [429, 503], "patch": [500, 429]}
    rollout.roll_out(bucket, WHERE, first, SETTINGS)
    assert cluster.requests.count("patch") == 3


@pytest.mark.parametrize("verb", ["get", "patch", "watch"])
def test_a_verb_that_is_not_allowed_is_named(
    cluster: KubernetesServer, bucket: ObjectStore, first: Pointer, verb: str
) -> None:
    cluster.forbidden = {verb}
    expected = (
        rf"does not allow this identity to {verb} inferenceservices\.serving\.kserve\.io in the namespace everbert"
    )
    with pytest.raises(ClusterError, match=expected) as caught:
        rollout.roll_out(bucket, WHERE, first, SETTINGS)
    assert "everbert-pipeline" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("breaks", "said", "reached"),
    [
        ({"wrong": True}, "does not answer as the model must: confidence", []),
        ({"version": "another"}, "V2 lists the versions", []),
        ({"loads": False}, "version 2", []),
        ({"seconds": 0.4}, r"answers take 0\.4\d s", [0]),
        ({"metrics": "everbert_requests"}, "/metrics of the new version counts 9 of 30 as failed", [0]),
    ],
    ids=["bad answers", "another model", "does not load", "slow answers", "errors of others' requests"],
)
def test_a_version_that_is_not_good_is_taken_back_before_it_has_more_traffic(
    cluster: KubernetesServer, bucket: ObjectStore, first: Pointer, second: Pointer, mode: str,
    breaks: dict[str, Any], said: str, reached: list[int],
) -> None:  # fmt: skip
    settings = replace(SETTINGS, mode=mode, latency_seconds=0.3, ready_seconds=1.5)
    rollout.roll_out(bucket, WHERE, first, settings)
    if "metrics" in breaks:
        breaks = {"metrics": METRICS.format(version=second.model_version)}
    cluster.models[second.uri] = replace(cluster.models[second.uri], **breaks)
    with pytest.raises(DeploymentError, match=said) as caught:
        rollout.roll_out(bucket, WHERE, second, settings)
    assert "version 1 has all of the traffic again" in str(caught.value)
    assert served(cluster) == (first.uri, 100)
    record = records(bucket)[1]
    assert record["verdict"] == "rolled_back"
    assert [step["percent"] for step in record["steps"] if step["step"] != "restored"] == reached
    print(f"{mode}: taken back in {record['steps'][-1]['ready_seconds']} s")


METRICS = """everbert_model_info{{name="sentiment",version="{version}"}} 1.0
everbert_requests_total{{protocol="v1",status="200"}} 20.0
everbert_requests_total{{protocol="v1",status="400"}} 1.0
everbert_requests_total{{protocol="grpc",status="INTERNAL"}} 2.0
everbert_requests_total{{protocol="v1",status="500"}} 7.0
"""


@pytest.mark.parametrize("mode", MODES)
def test_a_version_that_fails_later_is_taken_back(
    cluster: KubernetesServer, bucket: ObjectStore, first: Pointer, second: Pointer, mode: str
) -> None:
    settings = replace(SETTINGS, mode=mode)
    rollout.roll_out(bucket, WHERE, first, settings)

    def fail_at_the_last_step(applied: dict[str, Any]) -> None:
        predictor = applied["spec"]["predictor"]
        if predictor["model"]["storageUri"] == second.uri and "canaryTrafficPercent" not in predictor:
            cluster.models[second.uri].fails_every = 9

    cluster.before_apply = fail_at_the_last_step
    with pytest.raises(DeploymentError, match="version 1 has all of the traffic again"):
        rollout.roll_out(bucket, WHERE, second, replace(settings, watch_seconds=1.5, error_rate=0.02))
    assert served(cluster) == (first.uri, 100)
    assert [step["percent"] for step in records(bucket)[1]["steps"]] == [0, 10, 50, 100]


@pytest.mark.parametrize("mode", MODES)
def test_a_change_whose_answer_is_lost_is_not_taken_for_somebody_elses(
    cluster: KubernetesServer, bucket: ObjectStore, first: Pointer, second: Pointer, mode: str
) -> None:
    settings = replace(SETTINGS, mode=mode)
    rollout.roll_out(bucket, WHERE, first, settings)
    cluster.models[second.uri].wrong = True
    ways_back: list[Any] = []

    def is_first_way_back(applied: dict[str, Any]) -> bool:
        predictor = applied["spec"]["predictor"]
        alone = "canary" not in applied["spec"] and "canaryTrafficPercent" not in predictor
        ways_back.extend([applied] if alone and predictor["model"]["storageUri"] == first.uri else [])
        return ways_back == [applied]

    cluster.loses = is_first_way_back
    with pytest.raises(DeploymentError, match="version 1 has all of the traffic again"):
        rollout.roll_out(bucket, WHERE, second, settings)
    assert len(ways_back) > 1
    assert served(cluster) == (first.uri, 100)


def test_a_step_that_cannot_pass_any_more_is_not_watched_to_its_end(
    cluster: KubernetesServer, bucket: ObjectStore, first: Pointer
) -> None:
    rollout.roll_out(bucket, WHERE, first, SETTINGS)
    cluster.models[first.uri].fails_every = 3
    url, answers = fields.address_of(cluster.objects["sentiment"]), rollout.expected_answers(first)
    settings = replace(SETTINGS, watch_seconds=60, error_rate=0.005)
    started = time.monotonic()
    seen = watch([Endpoint(url, "sentiment", {first.model_version: answers})], first.model_version, settings)
    assert time.monotonic() - started < 30
    assert seen.summary(first.model_version)["wrong"] == 16  # of at most 3002 in the time, 15 may be
    with pytest.raises(DeploymentError, match=r"16 of 4\d probes went wrong"):
        seen.refuse_bad(first.model_version, settings)


def test_a_first_version_that_is_not_good_has_nothing_to_go_back_to(
    cluster: KubernetesServer, bucket: ObjectStore, first: Pointer
) -> None:
    cluster.models[first.uri].wrong = True
    with pytest.raises(DeploymentError, match="there is nothing to go back to"):
        rollout.roll_out(bucket, WHERE, first, SETTINGS)
    assert records(bucket)[0]["verdict"] == "failed"


def test_a_model_without_reference_answers_changes_nothing(
    cluster: KubernetesServer, bucket: ObjectStore, first: Pointer
) -> None:
    bucket.put("old/everbert.json", json.dumps({"temperature": 1.0}).encode())
    with pytest.raises(DeploymentError, match="train the model again; nothing was changed"):
        rollout.roll_out(bucket, WHERE, replace(first, uri=bucket.uri("old")), SETTINGS)
    assert cluster.objects == {}


@pytest.mark.parametrize("mode", MODES)
def test_of_two_roll_outs_the_one_that_came_first_leaves_the_service_alone(
    cluster: KubernetesServer, bucket: ObjectStore, first: Pointer, second: Pointer,
    versions: list[tuple[Pointer, Model]], mode: str,
) -> None:  # fmt: skip
    settings = replace(SETTINGS, mode=mode)
    third = replace(versions[2][0], previous=asdict(first))
    rollout.roll_out(bucket, WHERE, first, settings)
    other = OneInferenceService(WHERE)
    taken = []

    def overtake(applied: dict[str, Any]) -> None:
        live = cluster.objects["sentiment"]
        if fields.share_of(live, second) == 10 and not taken:
            taken.append(True)
            other.apply(fields.beside(live, first, third, 0))

    cluster.before_apply = overtake
    with pytest.raises(ConflictError, match=r"took the InferenceService everbert/sentiment over|somebody else wrote"):
        rollout.roll_out(bucket, WHERE, second, settings)
    assert taken
    assert fields.share_of(cluster.objects["sentiment"], third) == 0
    cluster.before_apply = lambda applied: None
    rollout.roll_out(bucket, WHERE, third, settings)
    assert served(cluster) == (third.uri, 100)


def test_a_name_or_a_cluster_that_is_not_one_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for wrong in ("sentiment", "a/b/c", "/x", ""):
        with pytest.raises(InputError, match="is named NAMESPACE/NAME"):
            OneInferenceService(wrong)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    for content in (None, "a: [b", "[1]", "a: b"):
        if content:
            (tmp_path / "none").write_text(content)
        with pytest.raises(ClusterError, match="set KUBECONFIG") as caught:
            OneInferenceService(WHERE)
        assert "\n" not in str(caught.value)
