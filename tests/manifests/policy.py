"""What every build must hold, beyond its schemas. Each rule yields a line for each breach."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from builds import Document
from cron import times_a_year
from pods import Pod, fields, pods
from wiring import networks, references

from components import images
from components.config import RetrainSettings

Rule = Callable[[list[Document]], Iterator[str]]
NAMED_IMAGES = {images.TORCH, images.LIGHT, images.SERVING, images.SERVICES}
CUDA = "-cuda"  # the tag of an image that is built for NVIDIA GPUs
DEPLOYS = {"everbert-pipeline", "everbert-check"}  # through the Kubernetes API
RESOURCES = ("cpu", "memory", "ephemeral-storage")
VOLUMES = {"configMap", "emptyDir", "projected", "persistentVolumeClaim"}
ENUMS: dict[str, set[Any]] = {
    "concurrencyPolicy": {"Allow", "Forbid", "Replace"},
    "imagePullPolicy": {"Always", "IfNotPresent", "Never"},
    "whenUnsatisfiable": {"DoNotSchedule", "ScheduleAnyway"},
    "unhealthyPodEvictionPolicy": {"AlwaysAllow", "IfHealthyBudget"},
    "operator": {"In", "NotIn", "Exists", "DoesNotExist", "Equal"},
    "effect": {"NoSchedule", "PreferNoSchedule", "NoExecute"},
    "protocol": {"TCP", "UDP", "SCTP"},
    "scaleMetric": {"cpu", "memory", "concurrency", "rps"},
    "serving.kserve.io/deploymentMode": {"Standard", "Knative"},
    "medium": {"", "Memory"},
    "severity": {"critical", "warning"},
}
LISTED_ENUMS: dict[str, set[Any]] = {
    "policyTypes": {"Ingress", "Egress"},
    "accessModes": {"ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"},
    "protocolVersions": {"v1", "v2", "grpc-v1", "grpc-v2"},
}


def named_images(documents: list[Document]) -> Iterator[str]:
    """Only images of components/images.py, or their CUDA builds; so none without a tag, none `latest`."""
    for pod in pods(documents):
        for container in pod.containers:
            if container["image"].removesuffix(CUDA) not in NAMED_IMAGES:
                yield f"{pod.name}: {container['image']} is not an image of components/images.py"


def restricted(documents: list[Document]) -> Iterator[str]:
    """The Pod Security level `restricted`, a numeric user, and a root file system that cannot be written."""
    for pod in pods(documents):
        if any(pod.spec.get(shared) for shared in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{pod.name}: shares a namespace of the node"
        for volume in pod.spec.get("volumes", []):
            if not set(volume) - {"name"} <= VOLUMES:
                yield f"{pod.name}: the volume {volume['name']} is of another kind"
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{pod.name}: the volume {volume['name']} may grow without limit"
        for container in pod.containers:
            yield from (f"{pod.name}: {breach}" for breach in _unsafe(pod, container))


def _unsafe(pod: Pod, container: Document) -> Iterator[str]:
    said = pod.spec.get("securityContext", {}) | container.get("securityContext", {})
    wanted = {"runAsNonRoot": True, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True}
    yield from (f"{name} must be {value}" for name, value in wanted.items() if said.get(name) is not value)
    if said.get("privileged"):
        yield "privileged"
    if not said.get("runAsUser"):
        yield "runAsUser must be a number above 0"
    if said.get("capabilities") != {"drop": ["ALL"]}:
        yield "capabilities must be dropped, all of them"
    if said.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "the seccomp profile must be RuntimeDefault"


def limited(documents: list[Document]) -> Iterator[str]:
    """Every container requests and is limited in what it uses; the threads of a server are its CPU limit."""
    for pod in pods(documents):
        for container in pod.containers:
            for side in ("requests", "limits"):
                given = container.get("resources", {}).get(side, {})
                yield from (f"{pod.name}: no {side} of {name}" for name in RESOURCES if name not in given)
            threads = {e["name"]: e.get("value") for e in container.get("env", [])}.get("OMP_NUM_THREADS")
            limit = container.get("resources", {}).get("limits", {}).get("cpu")
            if threads and threads != limit:
                yield f"{pod.name}: {threads} threads on {limit} CPUs"


def probed(documents: list[Document]) -> Iterator[str]:
    """What runs for ever is asked whether it is up, ready and alive, on a port that it has."""
    for pod in pods(documents):
        for container in pod.containers if "Always" in pod.restart else []:
            ports = {
                value for port in container.get("ports", []) for value in (port["containerPort"], port.get("name"))
            }
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if container.get(probe, {}).get("httpGet", {}).get("port") not in ports:
                    yield f"{pod.name}: no {probe} on one of its ports"


def tokens(documents: list[Document]) -> Iterator[str]:
    """Nobody has a token of the Kubernetes API who does not use it."""
    accounts = {d["metadata"]["name"]: d for d in documents if d["kind"] == "ServiceAccount"}
    for name, account in accounts.items():
        if name not in DEPLOYS and account.get("automountServiceAccountToken") is not False:
            yield f"ServiceAccount {name}: has a token"
    for pod in pods(documents):
        account = pod.spec.get("serviceAccountName")
        if account not in accounts:
            yield f"{pod.name}: runs as nobody of this build"
        if account not in DEPLOYS and pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.name}: mounts a token"


def rights(documents: list[Document]) -> Iterator[str]:
    """No wildcards, nothing cluster-wide, and every subject is a ServiceAccount of the build, with its namespace."""
    known = {(d["kind"], d["metadata"]["name"], d["metadata"].get("namespace")) for d in documents}
    for document in documents:
        kind, name = document["kind"], document["metadata"]["name"]
        if kind.startswith("ClusterRole"):
            yield f"{kind} {name}: is for the whole cluster"
        for rule in document.get("rules", []) if kind == "Role" else []:
            if any("*" in value for values in rule.values() for value in values):
                yield f"{kind} {name}: has a wildcard"
            if {"secrets", "configmaps"} & set(rule["resources"]) and not rule.get("resourceNames"):
                yield f"{kind} {name}: reads any {rule['resources'][0]}"
        for subject in document.get("subjects", []):
            if (subject["kind"], subject["name"], subject.get("namespace")) not in known or not subject["namespace"]:
                yield f"{kind} {name}: the subject {subject} is not of this build"


def scheduled(documents: list[Document]) -> Iterator[str]:
    """Jobs never overlap, end, and are cleared away; no more checks a year than the false-retrain budget is for."""
    for document in documents:
        if document["kind"] != "CronJob":
            continue
        name, spec = document["metadata"]["name"], document["spec"]
        job = spec["jobTemplate"]["spec"]
        if spec.get("concurrencyPolicy") != "Forbid":
            yield f"{name}: may overlap"
        needed = ("startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit", "timeZone")
        yield from (f"{name}: no {field}" for field in needed if field not in spec)
        yield from (f"{name}: no {field}" for field in ("activeDeadlineSeconds", "backoffLimit") if field not in job)
        try:
            runs = times_a_year(spec["schedule"])
        except ValueError as error:
            yield f"{name}: {error}"
            continue
        if name == "everbert-check" and runs > RetrainSettings().checks_a_year:
            yield f"{name}: {runs} checks a year are more than retrain.checks_a_year"


def enums(documents: list[Document]) -> Iterator[str]:
    """Words that Kubernetes takes from a list, which its schemas do not have."""
    for pod in pods(documents):
        if pod.spec.get("restartPolicy") not in pod.restart:
            yield f"{pod.name}: restartPolicy {pod.spec.get('restartPolicy')}"
    for document in documents:
        for key, value in fields(document):
            wrong = key in ENUMS and isinstance(value, str) and value not in ENUMS[key]
            if wrong or (key in LISTED_ENUMS and not set(value) <= LISTED_ENUMS[key]):
                yield f"{document['kind']} {document['metadata']['name']}: {key}: {value}"


def labelled(documents: list[Document]) -> Iterator[str]:
    """All of it is found, and deleted, by one label."""
    for document in documents:
        if document["metadata"].get("labels", {}).get("app.kubernetes.io/part-of") != "everbert":
            yield f"{document['kind']} {document['metadata']['name']}: is not labelled as a part of Everbert"


def unversioned(documents: list[Document]) -> Iterator[str]:
    """Which version is served is the pipeline's to say, unless it is pinned: two who say it undo each other."""
    pinned = any(d["metadata"]["name"] == "everbert-model" for d in documents)
    for document in documents:
        if document["kind"] == "InferenceService":
            uri = document["spec"]["predictor"]["model"].get("storageUri")
            if bool(uri) != pinned or not re.fullmatch(r"s3://[a-z0-9.-]+/\S+", uri or "s3://none/at-all"):
                yield f"InferenceService {document['metadata']['name']}: storageUri is {uri}"


def secretless(documents: list[Document]) -> Iterator[str]:
    """No credentials but those that the local overlay's command draws."""
    for document in documents:
        if (
            document["kind"] == "Secret"
            and document["metadata"].get("annotations", {}).get("serving.kserve.io/s3-endpoint") != "object-store:8333"
        ):
            yield f"Secret {document['metadata']['name']}: is in the manifests"
        for key, value in fields(document):
            if (
                document["kind"] != "Secret"
                and re.search(r"(?i)(secret_?access_?key|password|token)$", key)
                and isinstance(value, str)
            ):
                yield f"{document['kind']} {document['metadata']['name']}: {key} is written out"


RULES: tuple[Rule, ...] = (
    named_images, restricted, limited, probed, tokens, rights, scheduled, enums, networks, references, labelled,
    unversioned, secretless,
)  # fmt: skip
