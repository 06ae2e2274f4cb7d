"""Plays KServe's controller for kubernetes_server.py: from an InferenceService's spec to its status and its traffic.

As KServe 0.20 has it: in Standard mode a Deployment that is rolled over, and one beside it for each canary; in Knative
mode revisions, of which the last that had all of the traffic keeps what canaryTrafficPercent leaves. observedGeneration
is that of the Deployment or Knative Service. Pods take `start_seconds`, and the status follows `lag_seconds` later.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]
Predict = Callable[[list[str]], list[Object]]


@dataclass
class Model:
    """What is behind a storageUri. `predict` gives V1's predictions; the rest is what a test has go wrong with it."""

    version: str
    predict: Predict
    loads: bool = True
    seconds: float = 0.0
    """That each answer takes longer."""
    fails_every: int = 0
    """Every so many-th request is answered by 500."""
    wrong: bool = False
    """Confidence of another model."""
    metrics: str = ""
    asked: int = 0


@dataclass
class _Pods:
    uri: str
    since: float


@dataclass
class _State:
    """Of one InferenceService."""

    pods: list[_Pods] = field(default_factory=list)
    """Standard: the predictor's, one set after the other; Knative: the revisions."""
    canaries: dict[str, _Pods] = field(default_factory=dict)
    generation: int = 0
    """Of the Deployment or Knative Service."""
    rolled_out: int = -1
    """Knative: index of the revision that last had all of the traffic; before: of the one before that."""
    before: int = -1
    requests: int = 0
    last: str = ""


class Controller:
    def __init__(self, server: Any) -> None:
        self.server = server
        self.states: dict[str, _State] = {}
        self.start_seconds = 0.1
        self.lag_seconds = 0.05
        self.overlap_seconds = 0.1
        """How long the old pods of a rolling update still answer."""
        self.paused = False
        """The status stays as it is, whatever the spec says."""

    def spec_changed(self, name: str, live: Object) -> None:
        """Start what the spec asks for; the status knows nothing of it yet."""
        state, now, predictor = self.states.setdefault(name, _State()), time.monotonic(), live["spec"]["predictor"]
        uri = predictor.get("model", {}).get("storageUri", "")
        changes = json.dumps([uri, predictor.get("annotations"), self._percent(live)] if self._knative(live) else [uri])
        state.generation += changes != state.last
        state.last = changes
        if uri and (not state.pods or state.pods[-1].uri != uri):
            state.pods.append(_Pods(uri, now))
        wanted = {c["predictor"]["name"]: c["predictor"]["model"]["storageUri"] for c in live["spec"].get("canary", [])}
        state.canaries = {
            canary: state.canaries.get(canary) or _Pods(uri, now) for canary, uri in wanted.items()
        }  # fmt: skip

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(0.02):
            with self.server.changed:
                for name, live in list(self.server.objects.items()):
                    status = {} if self.paused else self._status_of(name, live)
                    if status and status != live.get("status"):
                        self.server.write(name, {**live, "metadata": dict(live["metadata"]), "status": status})

    def _knative(self, live: Object) -> bool:
        return live["metadata"].get("annotations", {}).get("serving.kserve.io/deploymentMode") == "Knative"

    def _percent(self, live: Object) -> int:
        return int(live["spec"]["predictor"].get("canaryTrafficPercent", 100))

    def _ready(self, pods: _Pods, seconds: float) -> bool:
        model = self.server.models.get(pods.uri)
        return bool(model and model.loads) and time.monotonic() - pods.since >= seconds

    def _status_of(self, name: str, live: Object) -> Object:
        state, seen = self.states[name], self.start_seconds + self.lag_seconds
        if not state.pods or time.monotonic() - state.pods[-1].since < self.lag_seconds:
            return dict(live.get("status") or {})
        newest = state.pods[-1]
        up = self._ready(newest, seen) or (not self._knative(live) and any(self._ready(p, seen) for p in state.pods))
        model = self.server.models.get(newest.uri)
        status: Object = {
            "observedGeneration": state.generation,
            "deploymentMode": "Knative" if self._knative(live) else "Standard",
            "conditions": [{"type": "Ready", "status": "True" if up else "False"}],
            "address": {"url": f"http://{self._host(name)}:{self.server.port}"},
            "modelStatus": {"transitionStatus": "UpToDate"},
        }
        if model is None or not model.loads:
            info = {"reason": "ModelLoadFailed", "message": "OSError: model.safetensors is cut short"}
            status["modelStatus"] = {"transitionStatus": "BlockedByFailedLoad", "lastFailureInfo": info}
        return status | (self._knative_status(name, live, state, seen) if self._knative(live) else {
            "canaryStatuses": [
                {"name": c["predictor"]["name"], "trafficPercent": c["trafficPercent"],
                 "ready": self._ready(state.canaries[c["predictor"]["name"]], seen)}
                for c in live["spec"].get("canary", [])
            ]
        })  # fmt: skip

    def _knative_status(self, name: str, live: Object, state: _State, seconds: float) -> Object:
        ready = max((i for i, pods in enumerate(state.pods) if self._ready(pods, seconds)), default=-1)
        percent = self._percent(live) if state.rolled_out >= 0 else 100
        if percent == 100 and ready >= 0 and ready != state.rolled_out:
            state.before, state.rolled_out = state.rolled_out, ready
        elif percent < 100 and ready == state.rolled_out == len(state.pods) - 1 and state.before >= 0:
            state.rolled_out = state.before
        tagged = f"http://latest-{self._host(name)}:{self.server.port}"
        return {"components": {"predictor": {
            "latestCreatedRevision": self._revision(name, len(state.pods) - 1),
            "latestReadyRevision": self._revision(name, ready),
            "latestRolledoutRevision": self._revision(name, state.rolled_out),
            "traffic": [{"latestRevision": True, "percent": percent, "tag": "latest", "url": tagged},
                        {"latestRevision": False, "percent": 100 - percent, "tag": "prev"}],
        }}}  # fmt: skip

    def _revision(self, name: str, index: int) -> str:
        return f"{name}-predictor-{index + 1:05d}" if index >= 0 else ""

    def _host(self, name: str) -> str:
        return f"{name}-predictor.everbert.svc.cluster.local"

    def serve(self, host: str, path: str, body: Object) -> tuple[int, Any]:
        """Answer a request to a host of the cluster."""
        with self.server.changed:
            pods = self._pods_for(host)
            model = self.server.models.get(pods.uri) if pods else None
            if model is None:
                return 503, {"error": "no pod is ready"}
            model.asked += 1
            failing = bool(model.fails_every) and model.asked % model.fails_every == 0
            self.server.asked[model.version] = self.server.asked.get(model.version, 0) + 1
        time.sleep(model.seconds)
        return (500, {"error": "broken"}) if failing else _answer(model, path, body)

    def _pods_for(self, host: str) -> _Pods | None:
        first = host.partition(".")[0]
        for name, state in self.states.items():
            live = self.server.objects[name]
            own = {f"{name}-{canary}-predictor": pods for canary, pods in state.canaries.items()}
            up = [pods for pods in state.pods if self._ready(pods, self.start_seconds)]
            if first in own:
                return own[first] if self._ready(own[first], self.start_seconds) else None
            if not first.endswith(f"{name}-predictor") or not up:
                continue
            if first.startswith("latest-"):
                return up[-1]
            state.requests += 1
            if not self._knative(live):
                fresh = time.monotonic() - up[-1].since < self.start_seconds + self.overlap_seconds
                return up[-2] if fresh and len(up) > 1 and state.requests % 2 else up[-1]
            percent = self._percent(live) if state.rolled_out >= 0 else 100
            to_latest = state.requests * percent // 100 > (state.requests - 1) * percent // 100
            return up[-1] if to_latest else state.pods[state.rolled_out]
        return None


def _answer(model: Model, path: str, body: Object) -> tuple[int, Any]:
    if path == "/metrics":
        return (200, model.metrics) if model.metrics else (404, {"error": "none"})
    if path.endswith(":predict"):
        found = model.predict(body["instances"])
        if model.wrong:
            found = [row | {"confidence_score": 1 - row["confidence_score"] / 2} for row in found]
        return 200, {"predictions": found}
    if path.endswith("/infer"):
        (row,) = model.predict(body["inputs"][0]["data"])
        return 200, {"outputs": [{"name": key, "data": [value]} for key, value in row.items()]}
    return 200, {"name": "sentiment", "versions": [model.version]}
