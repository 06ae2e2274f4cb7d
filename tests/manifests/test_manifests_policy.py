"""Every build holds the rules of policy.py, and every rule finds what breaks it."""

import copy
from collections.abc import Callable
from typing import Any

import policy
import pytest
from builds import Builder, Document, named
from cron import times_a_year
from policy import RULES, Rule


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_build_holds(rule: Rule, builds: dict[str, list[Document]]) -> None:
    assert not [f"{build}: {breach}" for build, documents in builds.items() for breach in rule(documents)]


def container(documents: list[Document], kind: str, name: str) -> dict[str, Any]:
    spec = named(documents, kind, name)["spec"]
    if kind == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    return spec["containers"][0] if kind == "ServingRuntime" else spec["template"]["spec"]["containers"][0]


def check(documents: list[Document]) -> dict[str, Any]:
    return named(documents, "CronJob", "everbert-check")["spec"]


def pod(documents: list[Document]) -> dict[str, Any]:
    return named(documents, "Deployment", "mlflow")["spec"]["template"]


def role(documents: list[Document]) -> dict[str, Any]:
    return named(documents, "Role", "everbert-pipeline")["rules"][0]


def subject(documents: list[Document]) -> dict[str, Any]:
    return named(documents, "RoleBinding", "everbert-check")["subjects"][0]


def policy_of(documents: list[Document], name: str) -> dict[str, Any]:
    return named(documents, "NetworkPolicy", name)["spec"]


def served(documents: list[Document]) -> dict[str, Any]:
    return named(documents, "InferenceService", "sentiment")["spec"]["predictor"]


def put(place: Callable[[list[Document]], dict[str, Any]], **values: Any) -> Callable[[list[Document]], None]:
    """Plants values; None takes the field away."""

    def plant(documents: list[Document]) -> None:
        where = place(documents)
        where.update(values)
        for name in [name for name, value in values.items() if value is None]:
            del where[name]

    return plant


def batch(documents: list[Document]) -> dict[str, Any]:
    return container(documents, "CronJob", "everbert-batch")


def server(documents: list[Document]) -> dict[str, Any]:
    return container(documents, "ServingRuntime", "everbert")


PLANTED: list[tuple[Rule, Callable[[list[Document]], None]]] = [
    (policy.named_images, put(batch, image="everbert/components-torch-python:latest")),
    (policy.named_images, put(batch, image="everbert/components-torch-python")),
    (policy.named_images, put(server, image="docker.io/kserve/huggingfaceserver:v0.21.0")),
    (policy.restricted, put(lambda d: batch(d)["securityContext"], readOnlyRootFilesystem=None)),
    (policy.restricted, put(lambda d: server(d)["securityContext"], runAsNonRoot=False)),
    (policy.restricted, put(lambda d: server(d)["securityContext"], runAsUser=0)),
    (policy.restricted, put(lambda d: batch(d)["securityContext"], capabilities={"drop": ["ALL"], "add": ["NET_RAW"]})),
    (policy.restricted, put(lambda d: batch(d)["securityContext"], allowPrivilegeEscalation=True)),
    (policy.restricted, put(lambda d: pod(d)["spec"]["securityContext"], seccompProfile=None)),
    (policy.restricted, put(lambda d: pod(d)["spec"], hostNetwork=True)),
    (policy.restricted, put(lambda d: pod(d)["spec"]["volumes"][0], emptyDir={})),
    (policy.restricted, put(lambda d: pod(d)["spec"]["volumes"][0], hostPath={"path": "/"})),
    (policy.limited, put(lambda d: batch(d)["resources"]["limits"], memory=None)),
    (policy.limited, put(lambda d: server(d)["resources"]["limits"], cpu="4")),
    (policy.probed, put(server, livenessProbe=None)),
    (policy.probed, put(server, readinessProbe={"httpGet": {"path": "/v2/health/ready", "port": 8082}})),
    (policy.tokens, put(lambda d: named(d, "ServiceAccount", "everbert-batch"), automountServiceAccountToken=None)),
    (policy.tokens, put(served, automountServiceAccountToken=True)),
    (policy.tokens, put(served, serviceAccountName="default")),
    (policy.rights, put(role, verbs=["*"])),
    (policy.rights, put(role, resources=["*"])),
    (policy.rights, put(role, resources=["secrets"])),
    (policy.rights, put(subject, namespace=None)),
    (policy.rights, put(subject, namespace="elsewhere")),
    (policy.rights, put(subject, kind="Group", name="system:authenticated")),
    (policy.rights, put(lambda d: named(d, "Role", "everbert-check"), kind="ClusterRole")),
    (policy.scheduled, put(check, concurrencyPolicy="Allow")),
    (policy.scheduled, put(check, startingDeadlineSeconds=None)),
    (policy.scheduled, put(lambda d: check(d)["jobTemplate"]["spec"], activeDeadlineSeconds=None)),
    (policy.scheduled, put(check, schedule="61 * * * *")),
    (policy.scheduled, put(check, schedule="*/5 * * * *")),
    (policy.enums, put(check, concurrencyPolicy="Forbidden")),
    (policy.enums, put(lambda d: check(d)["jobTemplate"]["spec"]["template"]["spec"], restartPolicy="Always")),
    (policy.enums, put(lambda d: policy_of(d, "everbert-deny"), policyTypes=["Ingress", "Outgress"])),
    (policy.networks, put(lambda d: policy_of(d, "everbert-deny"), policyTypes=["Ingress"])),
    (policy.networks, put(lambda d: pod(d)["metadata"]["labels"], **{"app.kubernetes.io/part-of": "other"})),
    (policy.networks, put(lambda d: policy_of(d, "everbert-check")["podSelector"], matchLabels={"a": "typo"})),
    (policy.networks, put(lambda d: policy_of(d, "everbert-mlflow")["ingress"][0]["from"][0],
                          podSelector={"matchLabels": {"a": "typo"}})),
    (policy.networks, put(lambda d: policy_of(d, "everbert-to-object-store")["egress"][0]["to"][0]["ipBlock"],
                          **{"except": None})),
    (policy.references, put(lambda d: batch(d)["envFrom"][0]["configMapRef"], name="everbert-typo")),
    (policy.references, put(lambda d: named(d, "Service", "mlflow")["spec"], selector={"a": "typo"})),
    (policy.labelled, put(lambda d: named(d, "NetworkPolicy", "everbert-to-object-store")["metadata"], labels=None)),
    (policy.unversioned, put(lambda d: served(d)["model"], storageUri="s3://everbert/models/sentiment/1")),
    (policy.secretless, put(lambda d: named(d, "ConfigMap", "everbert")["data"], **{"AWS_SECRET_ACCESS_KEY": "drawn"})),
    (policy.secretless, lambda d: d.append({"kind": "Secret", "metadata": {"name": "everbert-s3"}})),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "plant"), PLANTED, ids=[f"{rule.__name__}-{n}" for n, (rule, _) in enumerate(PLANTED)]
)
def test_a_planted_error_is_found(rule: Rule, plant: Callable[[list[Document]], None], builder: Builder) -> None:
    documents = copy.deepcopy(builder.build("prod"))
    assert not list(rule(documents))
    plant(documents)
    assert list(rule(documents))


def test_no_rule_lacks_a_planted_error() -> None:
    assert {rule for rule, _ in PLANTED} == set(RULES)


@pytest.mark.parametrize(
    ("schedule", "times"),
    [("17 * * * *", 8760), ("*/10 * * * *", 52560), ("0 0,12 * * *", 730), ("5/20 1-3 * * *", 3285)],
)
def test_how_often_a_schedule_comes_true(schedule: str, times: int) -> None:
    assert times_a_year(schedule) == times


@pytest.mark.parametrize("schedule", ["* * * *", "0 0 0 * * *", "60 * * * *", "* 24 * * *", "*/0 * * * *", "a * * * *"])
def test_a_wrong_schedule_is_refused(schedule: str) -> None:
    with pytest.raises(ValueError, match=r"is no|has . fields"):
        times_a_year(schedule)
