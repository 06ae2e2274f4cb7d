"""The pods that a build's objects lead to, whatever kind makes them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from builds import Document


@dataclass(frozen=True)
class Pod:
    """`spec` is a PodSpec; `labels` are the pod's own; `restart` are the restart policies that its kind takes."""

    name: str
    labels: dict[str, str]
    spec: dict[str, Any]
    restart: tuple[str | None, ...]

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def pods(documents: list[Document]) -> Iterator[Pod]:
    for document in documents:
        kind, name, spec = document["kind"], document["metadata"]["name"], document.get("spec", {})
        if kind == "Deployment":
            yield _of(f"{kind} {name}", spec["template"], (None, "Always"))
        elif kind == "CronJob":
            yield _of(f"{kind} {name}", spec["jobTemplate"]["spec"]["template"], ("Never", "OnFailure"))
        elif kind == "TrainingRuntime":
            for job in spec["template"]["spec"]["replicatedJobs"]:
                yield _of(f"{kind} {name}", job["template"]["spec"]["template"], ("Never", "OnFailure"))
        elif kind == "InferenceService":
            for predictor in (spec["predictor"], *(canary["predictor"] for canary in spec.get("canary", []))):
                yield _predictor(f"{kind} {name}", name, predictor, documents)
        else:
            assert kind not in ("Pod", "Job", "StatefulSet", "DaemonSet", "ReplicaSet"), f"{kind} is not looked at"


def _of(name: str, template: dict[str, Any], restart: tuple[str | None, ...]) -> Pod:
    return Pod(name, template["metadata"]["labels"], template["spec"], restart)


def _predictor(name: str, service: str, predictor: dict[str, Any], documents: list[Document]) -> Pod:
    """KServe puts the runtime's containers and volumes into the predictor's PodSpec."""
    runtime = next(
        document["spec"]
        for document in documents
        if document["kind"] == "ServingRuntime" and document["metadata"]["name"] == predictor["model"]["runtime"]
    )
    labels = predictor.get("labels", {}) | {"serving.kserve.io/inferenceservice": service}
    spec = predictor | {"containers": runtime["containers"], "volumes": runtime.get("volumes", [])}
    return Pod(name, labels, spec, (None, "Always"))


def fields(part: Any) -> Iterator[tuple[str, Any]]:
    """Each field of a document at whatever depth, with its value."""
    if isinstance(part, dict):
        for key, value in part.items():
            yield key, value
            yield from fields(value)
    elif isinstance(part, list):
        for value in part:
            yield from fields(value)
