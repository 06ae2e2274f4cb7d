"""Rules of how a build's objects hang together: who may talk to whom, and what is named and selected is there."""

from collections.abc import Iterator

from builds import Document
from pods import fields, pods

MADE_BY_HAND = {("Secret", "everbert-s3"), ("Secret", "everbert-mlflow")}
KFP_PODS = {"pipelines.kubeflow.org/v2_component": "true"}
NAMING = {  # a pod's field, and the kind of what it names
    "configMapRef": "ConfigMap",
    "configMapKeyRef": "ConfigMap",
    "configMap": "ConfigMap",
    "secretRef": "Secret",
    "secretKeyRef": "Secret",
    "persistentVolumeClaim": "PersistentVolumeClaim",
}


def networks(documents: list[Document]) -> Iterator[str]:
    """Every pod is under the policy that denies everything, and every policy is about pods that there are."""
    labels = [pod.labels for pod in pods(documents)]
    policies = {d["metadata"]["name"]: d["spec"] for d in documents if d["kind"] == "NetworkPolicy"}
    deny = policies.get("everbert-deny", {})
    if sorted(deny.get("policyTypes", [])) != ["Egress", "Ingress"] or deny.get("ingress") or deny.get("egress"):
        yield "nothing denies everything first"
    for pod in pods(documents):
        if not _selects(deny.get("podSelector", {}), pod.labels):
            yield f"{pod.name}: everbert-deny does not reach it"
    for name, policy in policies.items():
        if not any(_selects(policy["podSelector"], one) for one in [*labels, KFP_PODS]):
            yield f"NetworkPolicy {name}: is about no pod of this build"
        for peer in _peers(policy):
            own = "podSelector" in peer and "namespaceSelector" not in peer
            if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0" and not peer["ipBlock"].get("except"):
                yield f"NetworkPolicy {name}: reaches the node's credentials"
            if own and not any(_selects(peer["podSelector"], one) for one in [*labels, KFP_PODS]):
                yield f"NetworkPolicy {name}: {peer['podSelector']} is no pod of this build"


def _peers(policy: Document) -> Iterator[Document]:
    for rule in [*policy.get("ingress", []), *policy.get("egress", [])]:
        yield from [*rule.get("from", []), *rule.get("to", [])]


def _selects(selector: Document, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {})
    for expression in selector.get("matchExpressions", []):
        if expression["operator"] != "In" or labels.get(expression["key"]) not in expression["values"]:
            return False
    return all(labels.get(key) == value for key, value in wanted.items())


def references(documents: list[Document]) -> Iterator[str]:
    """What a pod names (ConfigMap, Secret, claim) is there, and what a Service or budget selects."""
    known = {(d["kind"], d["metadata"]["name"]) for d in documents} | MADE_BY_HAND
    for pod in pods(documents):
        for key, value in fields(pod.spec):
            if key in NAMING and (NAMING[key], value.get("name") or value.get("claimName")) not in known:
                yield f"{pod.name}: there is no {NAMING[key]} {value}"
    labels = [pod.labels for pod in pods(documents)]
    for document in documents:
        selector = document.get("spec", {}).get("selector", {})
        selector = {"matchLabels": selector} if document["kind"] == "Service" else selector
        if document["kind"] in ("Service", "PodDisruptionBudget") and not any(
            _selects(selector, one) for one in labels
        ):
            yield f"{document['kind']} {document['metadata']['name']}: selects nothing"
