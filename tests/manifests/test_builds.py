"""Every overlay and combination builds, and every object in it is one that a cluster would take."""

import copy
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from builds import MANIFESTS, Builder, Document, combinations, every_combination, named
from policy import RULES, named_images
from schemas import distinct, problems


def test_every_object_is_of_its_schema(builds: dict[str, list[Document]]) -> None:
    for build, document in distinct(builds).values():
        assert not problems(document), (build, document["kind"], document["metadata"]["name"])


@pytest.mark.slow
def test_the_combinations_that_are_left_hold_the_same(builder: Builder) -> None:
    for parts in set(every_combination()) - set(combinations()):
        documents = builder.build(*parts)
        assert not [breach for rule in RULES for breach in rule(documents)], parts
    builds = {" ".join(parts): builder.build(*parts) for parts in every_combination()}
    test_every_object_is_of_its_schema(builds)


def test_every_component_is_in_some_combination(builds: dict[str, list[Document]]) -> None:
    offered = {path.parent.relative_to(MANIFESTS / "components").as_posix() for path in
               (MANIFESTS / "components").rglob("kustomization.yaml")}  # fmt: skip
    in_overlays = {"object-store", "external-s3", "mlflow", "mlflow-postgresql"}
    assert offered == {part for name in builds for part in name.split()[1:]} | in_overlays


def test_no_object_is_there_twice_and_all_are_in_the_overlay_s_namespace(builds: dict[str, list[Document]]) -> None:
    for build, documents in builds.items():
        names = [(d["kind"], d["metadata"]["name"]) for d in documents]
        assert len(set(names)) == len(names), build
        (namespace,) = [name for kind, name in names if kind == "Namespace"]
        inside = {d["metadata"].get("namespace") for d in documents if d["kind"] != "Namespace"}
        assert inside == {namespace}, build


@pytest.mark.parametrize("page", ["docs/install.md", "manifests/README.md"])
def test_the_overlay_that_a_page_shows_builds_and_holds(builder: Builder, page: str) -> None:
    text = (MANIFESTS.parent / page).read_text(encoding="utf-8")
    (shown,) = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "kind: Kustomization" in block]
    documents = builder.build_shown(shown)
    breaches = [breach for rule in RULES if rule is not named_images for breach in rule(documents)]
    assert not [*breaches, *(one for document in documents for one in problems(document))]
    assert not {d["metadata"].get("namespace") for d in documents} - {yaml.safe_load(shown)["namespace"], None}


def test_the_base_names_no_namespace(builder: Builder) -> None:
    documents = builder.run(MANIFESTS / "base")
    assert not [d for d in documents if "namespace" in d["metadata"]]


def _deployment(documents: list[Document]) -> Document:
    return named(documents, "Deployment", "mlflow")["spec"]


def _served(documents: list[Document]) -> Document:
    return named(documents, "InferenceService", "sentiment")["spec"]["predictor"]


def _runtime(documents: list[Document]) -> Document:
    return named(documents, "ServingRuntime", "everbert")["spec"]


def _service(documents: list[Document]) -> Document:
    return named(documents, "InferenceService", "sentiment")["spec"]


def _endpoint(documents: list[Document]) -> Document:
    return named(documents, "ServiceMonitor", "everbert-serving")["spec"]["endpoints"][0]


def _alert(documents: list[Document]) -> Document:
    return named(documents, "PrometheusRule", "everbert")["spec"]["groups"][0]["rules"][0]


def _nodes(documents: list[Document]) -> Document:
    return named(documents, "TrainingRuntime", "everbert")["spec"]["template"]["spec"]


PLANTED: list[tuple[str, Callable[[list[Document]], Document], str, object]] = [
    ("Deployment", _deployment, "replica", 1),
    ("Deployment", lambda d: _deployment(d)["template"]["spec"]["containers"][0], "resourses", {}),
    ("Deployment", _deployment, "replicas", "two"),
    ("CronJob", lambda d: named(d, "CronJob", "everbert-check")["spec"], "timezone", "Etc/UTC"),
    ("NetworkPolicy", lambda d: named(d, "NetworkPolicy", "everbert-deny")["spec"], "policyType", ["Ingress"]),
    ("InferenceService", _served, "minReplica", 1),
    ("InferenceService", _served, "maxReplicas", "ten"),
    ("InferenceService", lambda d: _served(d)["model"], "storageURI", "s3://everbert/models/1"),
    ("InferenceService", _service, "canary", [{"trafficPercent": 1}]),
    ("InferenceService", _service, "predictors", {}),
    ("ServingRuntime", lambda d: _runtime(d)["containers"][0], "livenessProb", {}),
    ("ServingRuntime", _runtime, "supportedFormats", []),
    ("ServiceMonitor", _endpoint, "intervall", "1s"),
    ("PrometheusRule", _alert, "alarm", "x"),
    ("TrainJob", lambda d: named(d, "TrainJob", "everbert")["spec"]["trainer"], "numNode", 2),
    ("TrainJob", lambda d: named(d, "TrainJob", "everbert")["spec"]["trainer"], "numNodes", "two"),
    ("TrainingRuntime", _nodes, "replicated", []),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "place", "field", "value"), PLANTED, ids=[f"{p[0]}-{p[2]}" for p in PLANTED])
def test_a_planted_field_is_refused(
    builder: Builder, kind: str, place: Callable[[list[Document]], Document], field: str, value: object
) -> None:
    documents = copy.deepcopy(builder.build("prod", "gpu", "monitoring", "multi-node"))
    place(documents)[field] = value
    refused = {document["kind"] for document in documents if problems(document)}
    assert refused == {kind}


def test_a_canary_needs_its_predictor(builder: Builder) -> None:
    documents = copy.deepcopy(builder.build("prod", "pinned-model", "canary/standard"))
    service = named(documents, "InferenceService", "sentiment")
    assert not problems(service)
    del service["spec"]["canary"][0]["predictor"]
    assert problems(service)


def test_credentials_are_drawn_once_for_this_user_alone_and_never_committed(builder: Builder, tmp_path: Path) -> None:
    secret = named(builder.build("local"), "Secret", "everbert-s3")
    assert all(len(value) >= 20 for value in secret["data"].values())
    script = tmp_path / "generate-credentials"
    script.write_bytes((MANIFESTS / "overlays/local/generate-credentials").read_bytes())
    script.chmod(0o755)
    drawn = tmp_path / "credentials.env"
    subprocess.run([script], check=True, capture_output=True)
    first = drawn.read_text()
    assert drawn.stat().st_mode & 0o077 == 0
    subprocess.run([script], check=True, capture_output=True)
    assert drawn.read_text() == first
    drawn.unlink()
    subprocess.run([script], check=True, capture_output=True)
    assert drawn.read_text() != first
    ignored = subprocess.run(["git", "check-ignore", "-q", "overlays/local/credentials.env"], cwd=MANIFESTS)
    assert ignored.returncode == 0
