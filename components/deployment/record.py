"""What a roll-out did, step by step: a log line and the decision record decisions/rollout-<model version>-<time>.json.

Written anew with each step, so that a roll-out that was killed has left what it had done.
"""

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version as library_version
from typing import Any

from components import logs
from components.config import DeploymentSettings
from components.deployment.pointer import Pointer
from components.storage import ObjectStore


@dataclass
class Record:
    """Of one roll-out. `verdict`: served, rolled_back, failed (with nothing to go back to), or stopped (by an error of
    the cluster, or by another deployment); under_way until then."""

    store: ObjectStore
    key: str
    head: dict[str, Any]
    steps: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def begin(
        cls, store: ObjectStore, where: str, champion: Pointer | None, target: Pointer, settings: DeploymentSettings
    ) -> "Record":
        at = datetime.now(UTC)
        head = {
            "kind": "rollout",
            "at": at.isoformat(),
            "inference_service": where,
            "from": asdict(champion) if champion else None,
            "to": asdict(target),
            "settings": asdict(settings),
            "library_versions": {name: library_version(name) for name in ("kubernetes", "requests")},
        }
        return cls(store, f"decisions/rollout-{target.model_version}-{at:%Y%m%dT%H%M%S.%fZ}.json", head)

    def step(self, kind: str, share: int, seen: dict[str, Any]) -> None:
        """`share`: percent of the traffic that the step gave. `seen`: what was measured, plain values."""
        self.steps.append({"at": datetime.now(UTC).isoformat(), "step": kind, "percent": share, **seen})
        logs.event("rollout_step", **self._named(), step=kind, percent=share, **seen)
        self._keep("under_way", "")

    def end(self, verdict: str, reason: str) -> None:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(self.head["at"])).total_seconds()
        self.head["seconds"] = round(seconds, 2)
        tell = logs.event if verdict == "served" else logs.warning
        tell("rollout_ended", **self._named(), verdict=verdict, reason=reason, seconds=self.head["seconds"])
        self._keep(verdict, reason)

    def _named(self) -> dict[str, str]:
        to = self.head["to"]
        return {"inference_service": self.head["inference_service"], "model_version": to["model_version"]}

    def _keep(self, verdict: str, reason: str) -> None:
        content = {**self.head, "verdict": verdict, "reason": reason, "steps": self.steps}
        self.store.put(self.key, json.dumps(content, indent=1, ensure_ascii=False).encode())
