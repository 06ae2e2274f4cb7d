"""Submitting a retrain exactly once, however many checks overlap or die in the middle.

The decision to retrain, with its id and the run's arguments, is part of the committed state (`components/drift/state`).
Who submits it takes the claim ledger/retrains/<id>.json, written only if new, and renews its lease while it works. A
claim whose lease ran out was left by a check that died: the next check takes it over, looks whether a run of that
name exists, and submits only if there is none. A decision that nobody submitted within the cooldown lapses: what it
would train on is no longer what is new.
"""

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from components import logs
from components.accounting import outcomes
from components.accounting.outcomes import Outcome
from components.config import ClusterSettings
from components.deployment import pointer
from components.drift.state import Retrain
from components.errors import BusyError, ConflictError, StepError, StorageError
from components.storage import ObjectStore
from pipelines.local_runner import LocalRun, run_local

PREFIX = "ledger/retrains"
LEASE_SECONDS = 120.0


class Runs(Protocol):
    """Where pipelines run."""

    def find(self, name: str) -> str:
        """The id of the run of that name, or empty."""

    def start(self, name: str, arguments: dict[str, Any]) -> str:
        """Start a run and return its id. Raises BusyError if another run of its model is under way."""

    def under_way(self, run: str) -> bool:
        """Whether the run has not ended."""

    def failure(self, run: str) -> str:
        """How the run ended, if it has ended without success, or empty."""


class LocalRuns:
    """Runs on this machine: `start` returns when the run has ended, and a run dies with the check that started it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: list[LocalRun] = []

    def find(self, name: str) -> str:
        return ""

    def start(self, name: str, arguments: dict[str, Any]) -> str:
        self.done.append(run_local(arguments, self.folder / name))
        return str(self.folder / name)

    def under_way(self, run: str) -> bool:
        return False

    def failure(self, run: str) -> str:
        return ""  # `start` has raised it


def runs_of(where: str, folder: Path, cluster: ClusterSettings) -> Runs | None:
    """`local` (below `folder`/retrains), `kfp`, or `none`. Raises ClusterError if KFP does not answer."""
    if where == "kfp":
        from pipelines.cluster_runner import ClusterRuns

        return ClusterRuns(settings=cluster)
    return LocalRuns(folder / "retrains") if where == "local" else None


@dataclass(frozen=True)
class Claim:
    """Who submits a retrain, and what came of it. `until` is in seconds since 1970."""

    id: str
    owner: str
    until: float
    run: str = ""
    """The run's id once it is submitted."""
    lapsed: str = ""
    """Why it was never submitted, or failed before it ran to its end; nobody tries again."""

    @property
    def settled(self) -> bool:
        return bool(self.run or self.lapsed)


def run_name(retrain: Retrain) -> str:
    """The display name by which the run is found again."""
    return f"retrain-{retrain.id}"


def under_way(
    store: ObjectStore, retrains: Sequence[Retrain], runs: Runs | None, at: datetime, cooldown_hours: float
) -> str:
    """The id of a retrain that is being submitted or runs, or empty. Without `runs`, a submitted one counts as
    running until the cooldown is over."""
    for retrain in reversed(retrains):
        recent = (at - datetime.fromisoformat(retrain.at)).total_seconds() < 3600 * cooldown_hours
        found = _read(store, retrain.id)
        claim = found[0] if found else None
        if claim and claim.lapsed:
            continue
        if claim and claim.run:
            if runs.under_way(claim.run) if runs else recent:
                return retrain.id
        elif recent or (claim and claim.until > time.time()):
            return retrain.id
    return ""


def resume(
    store: ObjectStore, model_name: str, retrains: Sequence[Retrain], runs: Runs, at: datetime, cooldown_hours: float
) -> None:
    """Submit what a check decided and, dying, left unsubmitted; account for what will not be a successor any more."""
    for retrain in retrains:
        if (at - datetime.fromisoformat(retrain.at)).total_seconds() < 3600 * cooldown_hours:
            submit(store, model_name, retrain, runs)
            overdue = ""
        else:
            overdue = f"nobody submitted it within the cooldown of {cooldown_hours:g} hours"
        found = _read(store, retrain.id)
        claim = found[0] if found else Claim(retrain.id, "", 0.0)
        failure = runs.failure(claim.run) if claim.run else ""
        if failure:
            _not_done(store, model_name, retrain, "failed", failure)
        elif overdue and not claim.settled and claim.until < time.time():
            _not_done(store, model_name, retrain, "lapsed", overdue)


def _not_done(store: ObjectStore, model_name: str, retrain: Retrain, verdict: str, reason: str) -> None:
    """The ledger's line of a retrain that brings no successor."""
    cause = str(retrain.arguments.get("cause", ""))
    outcomes.write_failed(store, Outcome(retrain.id, retrain.at, model_name, cause, verdict, reason))


def submit(
    store: ObjectStore, model_name: str, retrain: Retrain, runs: Runs, lease_seconds: float = LEASE_SECONDS
) -> str:
    """Submit unless it was, or is being, submitted by somebody else; the run's id, or empty.

    Raises what `runs` raises; after StepError (the run itself failed) nobody tries again, after anything else the
    claim is free for the next check at once.
    """
    lease = _take(store, retrain.id, lease_seconds)
    if lease is None:
        return ""
    with lease.kept():
        champion = pointer.read(store, model_name)
        if champion is None or champion[0].uri != retrain.arguments["champion"]:
            reason = "another version has become champion since"
            _not_done(store, model_name, retrain, "lapsed", reason)
            lease.settle(lapsed=reason)
            return ""
        try:
            run = runs.find(run_name(retrain)) or _start(lease, retrain, runs)
        except BusyError as error:  # somebody's by hand, most likely; this one is left to a later check
            lease.free()
            logs.warning("retrain_waits", id=retrain.id, reason=str(error))
            return ""
        except StepError as error:
            _not_done(store, model_name, retrain, "failed", str(error))
            lease.settle(lapsed=str(error))
            raise
        except BaseException:
            lease.free()
            raise
        lease.settle(run=run)
    logs.event("retrain_submitted", id=retrain.id, run=run)
    return run


def _start(lease: "_Lease", retrain: Retrain, runs: Runs) -> str:
    # A process that was suspended may have lost its claim: it learns so here, right before the run would start.
    lease.renew()
    return runs.start(run_name(retrain), retrain.arguments | {"retrain_id": retrain.id})


def _take(store: ObjectStore, retrain_id: str, seconds: float) -> "_Lease | None":
    """The claim, unless it is settled or somebody else's."""
    found = _read(store, retrain_id)
    if found and (found[0].settled or found[0].until > time.time()):
        return None
    claim = Claim(retrain_id, secrets.token_hex(8), time.time() + seconds)
    try:
        etag = _write(store, claim, found[1] if found else None)
    except ConflictError:
        return None
    return _Lease(store, claim, etag, seconds)


@dataclass
class _Lease:
    """A claim that is ours, as long as it is renewed in time. Raises ConflictError once it is somebody else's."""

    store: ObjectStore
    claim: Claim
    etag: str
    seconds: float
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Renewed by a thread for as long as the block runs; a local run takes minutes or hours."""
        stop = threading.Event()

        def keep() -> None:
            while not stop.wait(self.seconds / 3):
                with contextlib.suppress(StorageError):  # the next renewal may still be in time
                    try:
                        self.renew()
                    except ConflictError:
                        return

        thread = threading.Thread(target=keep, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def renew(self) -> None:
        self._put(until=time.time() + self.seconds)

    def free(self) -> None:
        """For whoever comes next; suppresses what goes wrong, since something has gone wrong already."""
        with contextlib.suppress(StorageError, ConflictError):
            self._put(until=0.0)

    def settle(self, *, run: str = "", lapsed: str = "") -> None:
        self._put(run=run, lapsed=lapsed)

    def _put(self, **changes: Any) -> None:
        with self.lock:
            if not self.claim.settled:
                self.claim = replace(self.claim, **changes)
                self.etag = _write(self.store, self.claim, self.etag)


def key_of(retrain_id: str) -> str:
    return f"{PREFIX}/{retrain_id}.json"


def claim_of(store: ObjectStore, retrain_id: str) -> Claim | None:
    """Who submits or has submitted it; None if nobody has begun to."""
    found = _read(store, retrain_id)
    return found[0] if found else None


def _read(store: ObjectStore, retrain_id: str) -> tuple[Claim, str] | None:
    found = store.get(key_of(retrain_id))
    if found is None:
        return None
    try:
        return Claim(**json.loads(found[0])), found[1]
    except (ValueError, TypeError) as error:
        raise StorageError(
            f"{store.uri(key_of(retrain_id))} is damaged; delete it if no run {retrain_id} exists"
        ) from error


def _write(store: ObjectStore, claim: Claim, etag: str | None) -> str:
    return store.put(key_of(claim.id), json.dumps(asdict(claim)).encode(), if_match=etag, only_if_new=etag is None)
