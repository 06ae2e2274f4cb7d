"""What an InferenceService's fields mean, and which of them a roll-out sets. Pure functions; KServe 0.20 and later.

Knative mode: the new version's storageUri with canaryTrafficPercent; Knative keeps the revision before, and gives the
new one an address of its own by its tag. Standard mode: the new version is an entry of spec.canary, with a Deployment
and a Service of its own; the traffic is split by the Gateway API's HTTPRoute, where the cluster has it. The last step
makes it the predictor by a rolling update, so that the Service's name, which clients know, stays.

KServe hands annotations of metadata on to the pods, so one that changed with each step would restart them all: a
version's annotations are in its own predictor, and change with it only.

status.observedGeneration is not this object's: KServe copies it from the predictor's Deployment or Knative Service.
So it cannot be compared with metadata.generation; but it must rise once the predictor's pods are to be others.
"""

from typing import Any
from urllib.parse import urlsplit

from components.deployment.pointer import Pointer

STANDARD, KNATIVE = "Standard", "Knative"
SERVICE_ACCOUNT, MODEL_FORMAT = "everbert-serving", "everbert"
MODEL_VERSION, VERSION = "everbert/model-version", "everbert/version"
_MODE = "serving.kserve.io/deploymentMode"
_TAGS = {"serving.kserve.io/enable-tag-routing": "true"}
_MODES = {"Standard": STANDARD, "RawDeployment": STANDARD, "Knative": KNATIVE, "Serverless": KNATIVE}
_FAILED = ("BlockedByFailedLoad", "InvalidSpec")
Object = dict[str, Any]


def mode_of(live: Object) -> str:
    """Standard or Knative: as annotated, or else as KServe says it is run."""
    annotated = (live["metadata"].get("annotations") or {}).get(_MODE)
    return _MODES.get(annotated or _status(live).get("deploymentMode") or "", KNATIVE)


def can_split(live: Object) -> bool:
    """Whether a new version can stand beside the present one. In Standard mode KServe wants the mode annotated."""
    annotated = (live["metadata"].get("annotations") or {}).get(_MODE, "")
    return bool(_uri(_predictor(live))) and (mode_of(live) == KNATIVE or annotated == STANDARD)


def keeps_revisions(live: Object) -> bool:
    """Whether the revision that was served before can be served again at once."""
    return mode_of(live) == KNATIVE and bool(_uri(_predictor(live)))


def share_of(live: Object, version: Pointer) -> int | None:
    """Percent of the traffic that the spec gives the version; None if the spec does not name it."""
    if _uri(_predictor(live)) == version.uri:
        percent = _predictor(live).get("canaryTrafficPercent")
        return 100 if percent is None or mode_of(live) == STANDARD else int(percent)
    for canary in live["spec"].get("canary") or []:
        if _uri(canary["predictor"]) == version.uri:
            return int(canary["trafficPercent"])
    return None


def beside(live: Object, stable: Pointer, new: Pointer, percent: int) -> Object:
    """The fields for `percent` (below 100) of the traffic to `new`, and the rest to `stable`."""
    if mode_of(live) == KNATIVE:
        predictor = _version(new) | {"canaryTrafficPercent": percent}
        predictor["annotations"] |= _TAGS
        return _with_ours(live, {"spec": {"predictor": predictor}})
    canary: Object = {"name": _canary_name(new), **_alike(_predictor(live)), **_version(new)}
    canary["model"] = {**_predictor(live)["model"], **canary["model"]}
    if percent == 0:
        canary["minReplicas"] = 1  # KServe would take that share of the replicas, which is none
    spec = {"predictor": _version(stable), "canary": [{"predictor": canary, "trafficPercent": percent}]}
    return _with_ours(live, {"spec": spec})


def alone(live: Object, version: Pointer) -> Object:
    """The fields for all of the traffic to `version`."""
    predictor = _version(version)
    if mode_of(live) == KNATIVE:
        predictor["annotations"] |= _TAGS
    return _with_ours(live, {"spec": {"predictor": predictor}})


def new_service(version: Pointer, mode: str) -> Object:
    """The fields of an InferenceService that is not there yet."""
    return {"metadata": {"annotations": {_MODE: mode}}, "spec": {"predictor": _template(_version(version))}}


def present(live: Object) -> Pointer:
    """The version that the predictor has now, as far as its fields say."""
    said = _predictor(live).get("annotations") or {}
    return Pointer(
        live["metadata"]["name"], said.get(VERSION, "?"), said.get(MODEL_VERSION, ""), _uri(_predictor(live))
    )


def predictor_changes(live: Object, wanted: Object) -> bool:
    """Whether the fields bring the predictor other pods."""
    return _uri(_predictor(live)) != _uri(_predictor(wanted))


def _version(version: Pointer) -> Object:
    annotations = {MODEL_VERSION: version.model_version, VERSION: version.version}
    return {"annotations": annotations, "model": {"storageUri": version.uri}}


def _template(predictor: Object) -> Object:
    model = {"modelFormat": {"name": MODEL_FORMAT}, **predictor["model"]}
    return {"serviceAccountName": SERVICE_ACCOUNT, **predictor, "model": model}


def _with_ours(live: Object, fields: Object) -> Object:
    """`fields`, and those of `new_service` if we made the object: what is no longer applied would be removed."""
    if _made_by_us(live):
        fields["metadata"] = {"annotations": {_MODE: live["metadata"]["annotations"][_MODE]}}
        fields["spec"]["predictor"] = _template(fields["spec"]["predictor"])
    return fields


def _made_by_us(live: Object) -> bool:
    for entry in live["metadata"].get("managedFields") or []:
        if (entry.get("manager"), entry.get("operation")) == ("everbert", "Apply"):
            owned = entry.get("fieldsV1", {}).get("f:spec", {}).get("f:predictor", {})
            return "f:serviceAccountName" in owned
    return False


def failure(live: Object) -> str:
    """Why KServe says that the predictor's model cannot be loaded, or empty."""
    status = _status(live).get("modelStatus") or {}
    if status.get("transitionStatus") not in _FAILED:
        return ""
    info = status.get("lastFailureInfo") or {}
    return " ".join(f"{info.get('reason', status['transitionStatus'])} {info.get('message', '')}".split())[:300]


def is_ready(live: Object) -> bool:
    conditions = _status(live).get("conditions") or []
    return any((c.get("type"), c.get("status")) == ("Ready", "True") for c in conditions)


def is_up(live: Object) -> bool:
    """Ready, and in Knative mode the newest revision has all of the traffic."""
    predictor = _predictor_status(live)
    newest = predictor.get("latestCreatedRevision")
    all_of_it = newest and newest == predictor.get("latestReadyRevision") == predictor.get("latestRolledoutRevision")
    return is_ready(live) and (mode_of(live) == STANDARD or bool(all_of_it))


def observed(live: Object) -> int:
    """The generation of the predictor's Deployment or Knative Service that the status speaks of."""
    return int(_status(live).get("observedGeneration") or 0)


def stands_beside(live: Object, new: Pointer, percent: int) -> bool:
    """Whether `new` is up beside the present version, and the status has this very share of the traffic."""
    if mode_of(live) == STANDARD:
        wanted = (_canary_name(new), percent, True)
        found = _status(live).get("canaryStatuses") or []
        return any((c.get("name"), c.get("trafficPercent"), c.get("ready")) == wanted for c in found)
    predictor = _predictor_status(live)
    latest = predictor.get("latestReadyRevision")
    up = is_ready(live) and latest and latest == predictor.get("latestCreatedRevision")
    if not up or not own_address(live, new):
        return False
    if latest == predictor.get("latestRolledoutRevision"):
        return True  # there was nothing before it to split with
    return any(t.get("latestRevision") and int(t.get("percent") or 0) == percent for t in _traffic(live))


def address_of(live: Object) -> str:
    """Where the service is asked, empty if it has no address yet: the cluster's own address if it has one."""
    status = _status(live)
    return str((status.get("address") or {}).get("url") or status.get("url") or "").rstrip("/")


def own_address(live: Object, new: Pointer) -> str:
    """Where the new version alone is asked while it stands beside another; empty if nowhere."""
    if mode_of(live) == KNATIVE:
        return next((t["url"].rstrip("/") for t in _traffic(live) if t.get("tag") == "latest" and t.get("url")), "")
    parts = urlsplit(address_of(live))
    domain = parts.netloc.partition(".")[2]
    host = f"{live['metadata']['name']}-{_canary_name(new)}-predictor"
    return f"{parts.scheme}://{host}.{domain}" if domain else ""


def _alike(predictor: Object) -> Object:
    """What the pods of a version beside it need as well, such as the service account that fetches the model."""
    own = ("annotations", "model", "canaryTrafficPercent", "minReplicas", "maxReplicas")
    return {name: value for name, value in predictor.items() if name not in own}


def _canary_name(version: Pointer) -> str:
    return f"v{version.version}"


def _predictor(live: Object) -> Object:
    return live["spec"]["predictor"]


def _uri(predictor: Object) -> str:
    return str((predictor.get("model") or {}).get("storageUri") or "")


def _status(live: Object) -> Object:
    return live.get("status") or {}


def _predictor_status(live: Object) -> Object:
    return (_status(live).get("components") or {}).get("predictor") or {}


def _traffic(live: Object) -> list[Object]:
    return _predictor_status(live).get("traffic") or []
