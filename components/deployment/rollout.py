"""A version's way into an InferenceService: beside the champion without traffic, then step by step, then alone.

Each step is applied, waited for, proven, and watched; a step that fails takes the champion back. Who is champion is
said by the pointer in the object store, which is written when all of this is done: the InferenceService follows it.
So whoever is killed leaves a service that the same or any other deployment takes up where it stands. Of two at once,
the one that came first finds the service taken over, and leaves it alone.
"""

import json
import time
from typing import Any

from components.classifier.answers import Expected
from components.classifier.model_folder import DESCRIPTION
from components.config import DeploymentSettings
from components.deployment import inference_service as fields
from components.deployment.moving import Moving
from components.deployment.pointer import Pointer
from components.deployment.probes import Endpoint, prove, watch
from components.deployment.record import Record
from components.errors import DeploymentError, EverbertError
from components.storage import ObjectStore, split_uri

Seen = dict[str, Any]


def roll_out(store: ObjectStore, where: str, target: Pointer, settings: DeploymentSettings) -> None:
    """Move the traffic of the InferenceService `where` (NAMESPACE/NAME) to `target`.

    Raises DeploymentError after taking back what it replaced (`target.previous`), ConflictError, leaving all as it is,
    if another deployment took the service over, and ClusterError.
    """
    champion = Pointer(**target.previous) if target.previous else None
    record = Record.begin(store, where, champion, target, settings)
    moving = Moving(where, settings)
    try:
        _Steps(moving, record, target, champion).walk()
    except DeploymentError as error:
        came_of_it = _taken_back(moving, record, champion, target)
        record.end("rolled_back" if champion else "failed", f"{error}; {came_of_it}")
        raise DeploymentError(f"{error}; {came_of_it}") from error
    except EverbertError as error:
        record.end("stopped", str(error))
        raise
    record.end("served", f"{target.model_version} has all of the traffic")


def follow(store: ObjectStore, where: str, champion: Pointer, settings: DeploymentSettings) -> None:
    """Give all of the traffic to `champion`, the version that the pointer names, whatever the service serves now.

    Raises DeploymentError if it is not served in time, and ClusterError.
    """
    record, moving = Record.begin(store, where, None, champion, settings), Moving(where, settings)
    try:
        restore(moving, record, champion)
    except EverbertError as error:
        record.end("failed", str(error))
        raise
    record.end("served", f"{champion.model_version} has all of the traffic, as the pointer says")


def expected_answers(version: Pointer) -> Expected:
    """What the version's answers are compared with. Raises DeploymentError for a model that keeps none."""
    bucket, prefix = split_uri(version.uri)
    found = ObjectStore(bucket).get(f"{prefix.rstrip('/')}/{DESCRIPTION}")
    described = json.loads(found[0]) if found else {}
    if not described.get("answers"):
        raise DeploymentError(f"{version.uri} keeps no answers to compare the served ones with: train the model again")
    return Expected.of(described["answers"], described["temperature"], described["training"].get("precision", "auto"))


class _Steps:
    """The way of one version, from where an earlier attempt left off."""

    def __init__(self, moving: Moving, record: Record, target: Pointer, champion: Pointer | None) -> None:
        self.moving, self.record, self.target, self.champion = moving, record, target, champion
        self.version = target.model_version
        self.expected = {self.version: expected_answers(target)}

    def walk(self) -> None:
        live = self.moving.live()
        if live is not None and self.champion is not None and fields.can_split(live):
            if fields.share_of(live, self.target) is None and fields.present(live).uri != self.champion.uri:
                restore(self.moving, self.record, self.champion)  # else the traffic would be split with a stranger
            reached = fields.share_of(live, self.target) or 0
            shares = [share for share in (0, *self.moving.settings.steps) if reached <= share < 100]
            if shares:
                self._proven_beside(self.champion, shares[0])
            for share in shares:
                self._beside(self.champion, share)
        self._alone()

    def _proven_beside(self, champion: Pointer, share: int) -> None:
        """It proves itself at its own address: before it has any traffic, or gets more."""
        started = time.monotonic()
        own = self._stand_beside(champion, share)
        self.moving.until_served(own.url, self.target, in_a_row=1)
        proven = prove(own, self.version, self.moving.settings)
        self.record.step("proven", share, {"ready_seconds": _since(started), "answers": proven})

    def _beside(self, champion: Pointer, share: int) -> None:
        if share == 0:
            return
        started = time.monotonic()
        own = self._stand_beside(champion, share)
        live = self.moving.live()
        both = self.expected | {champion.model_version: expected_answers(champion)}
        whole = Endpoint(fields.address_of(live or {}), self.moving.name, both)
        self.record.step("traffic", share, {"ready_seconds": _since(started)} | self._watched([whole, own]))

    def _stand_beside(self, champion: Pointer, share: int) -> Endpoint:
        target = self.target
        self.moving.apply(lambda live: fields.beside(live, champion, target, share), target)
        live = self.moving.wait(lambda seen: fields.stands_beside(seen, target, share), "up beside the champion")
        return Endpoint(fields.own_address(live, target), self.moving.name, self.expected)

    def _alone(self) -> None:
        started = time.monotonic()
        url = _alone(self.moving, self.target)
        only = Endpoint(url, self.moving.name, self.expected)
        seen: Seen = {"ready_seconds": _since(started), "answers": prove(only, self.version, self.moving.settings)}
        self.record.step("traffic", 100, seen | self._watched([only]))

    def _watched(self, endpoints: list[Endpoint]) -> Seen:
        """What a while of probing has seen. Raises DeploymentError if it is not good."""
        settings = self.moving.settings
        watched = watch(endpoints, self.version, settings)
        watched.refuse_bad(self.version, settings)
        metrics = endpoints[-1].metrics(self.version, settings.latency_seconds)
        if metrics:
            metrics.refuse_bad(settings)
        return watched.summary(self.version) | {"metrics": vars(metrics) if metrics else None}


def _alone(moving: Moving, version: Pointer) -> str:
    """All of the traffic to the version; the service's address, once it answers with nothing else."""
    moving.apply(lambda live: fields.alone(live, version), version)
    url = fields.address_of(moving.wait(fields.is_up, "ready"))
    moving.until_served(url, version)
    return url


def _taken_back(moving: Moving, record: Record, champion: Pointer | None, target: Pointer) -> str:
    """After a step that failed; what came of it, in words."""
    if moving.holder is None:
        return "nothing was changed"
    if champion is None:
        return f"there is nothing to go back to, so the InferenceService {moving.api} stays as it is"
    try:
        restore(moving, record, champion)
    except EverbertError as error:
        return f"going back to version {champion.version} failed too: {error}"
    return f"version {champion.version} has all of the traffic again"


def restore(moving: Moving, record: Record, champion: Pointer) -> None:
    """All of the traffic to `champion`. In Knative mode first to the revision before, which needs no start."""
    started, live = time.monotonic(), moving.live()
    if live is not None and fields.keeps_revisions(live) and fields.share_of(live, champion) is None:
        wrong = fields.present(live)
        moving.apply(lambda seen: fields.beside(seen, champion, wrong, 0), wrong)
        moving.apply(lambda seen: fields.beside(seen, champion, champion, 0), champion)
        moving.wait(lambda seen: fields.stands_beside(seen, champion, 0), "up again")
    _alone(moving, champion)
    record.step("restored", 100, {"version": champion.version, "ready_seconds": _since(started)})


def _since(started: float) -> float:
    return round(time.monotonic() - started, 2)
