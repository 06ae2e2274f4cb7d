"""Submitting a retrain exactly once, however many checks overlap or die in the middle.

The decision to retrain, with its id and the run's arguments, is part of the committed state (`components/drift/state`).
Who submits it takes the claim ledger/retrains/<id>.json, written only if new, and renews its lease while it works. A
claim whose lease ran out was left by a check that died: the next check takes it over, looks whether a run of that
name exists, and submits only if there is none. A decision that nobody submitted within the cooldown lapses: what it
would train on is no longer what is new.
"""

import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from components import logs
from components.accounting import outcomes
from components.accounting.outcomes import Outcome
from components.config import ClusterSettings
from components.deployment import pointer
from components.drift.state import Retrain
from components.errors import BusyError, StepError
from components.storage import ObjectStore
from pipelines.claims import Lease, claim_of, take
from pipelines.local_runner import LocalRun, run_local

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
        claim = claim_of(store, retrain.id)
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
        age = at - datetime.fromisoformat(retrain.at)
        late = age.total_seconds() >= 3600 * cooldown_hours
        overdue = f"nobody submitted it within the cooldown of {cooldown_hours:g} hours" if late else ""
        submit(store, model_name, retrain, runs, overdue=overdue)
        claim = claim_of(store, retrain.id)
        failure = runs.failure(claim.run) if claim and claim.run else ""
        if failure:
            outcomes.write_failed(store, _not_done(model_name, retrain, "failed", failure))


def _not_done(model_name: str, retrain: Retrain, verdict: str, reason: str) -> Outcome:
    """The ledger's line of a retrain that brings no successor."""
    cause = str(retrain.arguments.get("cause", ""))
    return Outcome(retrain.id, retrain.at, model_name, cause, verdict, reason)


def submit(
    store: ObjectStore,
    model_name: str,
    retrain: Retrain,
    runs: Runs,
    *,
    overdue: str = "",
    lease_seconds: float = LEASE_SECONDS,
) -> str:
    """Submit unless it was, or is being, submitted by somebody else; the run's id, or empty.

    One that is `overdue` (why) is not started any more, nor one whose champion is not champion any more: it lapses.
    Raises what `runs` raises; after StepError (the run itself failed) nobody tries again, after anything else the
    claim is free for the next check at once.
    """
    lease = take(store, retrain.id, lease_seconds)
    if lease is None:
        return ""
    with lease.kept():
        try:
            # First: a run that was started, and whose claim was not settled, may have made the champion of now.
            run = runs.find(run_name(retrain)) or _decided(store, retrain)
            lapsed = "" if run else overdue or _superseded(store, model_name, retrain)
            if lapsed:
                outcomes.write(store, _not_done(model_name, retrain, "lapsed", lapsed))
            elif not run:
                run = _start(lease, retrain, runs)
        except BusyError as error:  # somebody's by hand, most likely; this one is left to a later check
            lease.free()
            logs.warning("retrain_waits", id=retrain.id, reason=str(error))
            return ""
        except StepError as error:
            outcomes.write_failed(store, _not_done(model_name, retrain, "failed", str(error)))
            lease.settle(lapsed=str(error))
            raise
        except BaseException:
            lease.free()
            raise
        lease.settle(run=run, lapsed=lapsed)
    if run:
        logs.event("retrain_submitted", id=retrain.id, run=run)
    return run


def _decided(store: ObjectStore, retrain: Retrain) -> str:
    """The name of the retrain's run, if the ledger says what it came to: one on this machine is found nowhere else."""
    line = outcomes.find(store, retrain.id)
    return run_name(retrain) if line and line.verdict in (outcomes.PROMOTED, outcomes.KEPT) else ""


def _superseded(store: ObjectStore, model_name: str, retrain: Retrain) -> str:
    champion = pointer.read(store, model_name)
    moved = champion is None or champion[0].uri != retrain.arguments["champion"]
    return "another version has become champion since" if moved else ""


def _start(lease: Lease, retrain: Retrain, runs: Runs) -> str:
    # A process that was suspended may have lost its claim: it learns so here, right before the run would start.
    lease.renew()
    return runs.start(run_name(retrain), retrain.arguments | {"retrain_id": retrain.id})
