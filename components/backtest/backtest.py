"""Replay a labelled history through retrain policies."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.backtest.course import Accuracy, Champion, Plan, Retrain, Step, first_champion, follow
from components.backtest.history import History
from components.backtest.outcome import Outcome, outcome
from components.backtest.policies import Policy
from components.config import Settings
from components.errors import InputError
from components.progress import progress


@dataclass(frozen=True)
class Replayed:
    """What the policies came to. `courses` and `outcomes` are by policy, in the order they were asked for."""

    history: History
    first: Accuracy
    """Held-out accuracy of the first champion."""
    first_training: Retrain
    courses: dict[str, list[Step]]
    outcomes: dict[str, Outcome]


def backtest(
    stream: Sequence[str],
    policies: Sequence[Policy],
    settings: Settings,
    work: Path,
    *,
    base_model: str,
    window: int = 500,
    held_out: float = 0.2,
    every: int = 4,
    hours: float = 24.0,
) -> Replayed:
    """Replay the CSV files of `stream`, in the order of time, through each of the `policies`.

    The first file trains the first champion, which all policies start with. Every other comes in as windows of about
    `window` rows, `hours` apart. At each the champion scores the window, then its labels become known, then the policy
    may retrain. `held_out` is the share of each file's rows that only measures; `every` the windows between the
    retrains of the policy `schedule`. Models live in a folder of their own below `work` and go when a policy is done.
    Raises DataError and InputError for a stream that cannot be used.
    """
    if window < 1 or every < 1 or hours <= 0 or not 0.01 <= held_out <= 0.5:
        raise InputError(
            f"window ({window}) and every ({every}) must be at least 1, hours ({hours:g}) more than 0, and held-out "
            f"({held_out:g}) from 0.01 to 0.5"
        )
    with tempfile.TemporaryDirectory(prefix="backtest-", dir=work) as name:
        folder = Path(name)
        history = History.read(stream, window, held_out, settings.data, folder)
        plan = Plan(history, settings, base_model, every, hours)
        first, made = first_champion(plan, folder / "first")
        courses = {policy.name: _course(policy, plan, folder, first) for policy in policies}
    outcomes = {name: outcome(name, first.held_out, steps) for name, steps in courses.items()}
    return Replayed(history, first.held_out, made, courses, outcomes)


def _course(policy: Policy, plan: Plan, folder: Path, first: Champion) -> list[Step]:
    with (
        tempfile.TemporaryDirectory(prefix=f"{policy.name}-", dir=folder) as models,
        progress(description=policy.name, total=len(plan.history.windows), unit="window") as bar,
    ):
        return follow(policy, plan, first, Path(models), lambda step: bar.update())
