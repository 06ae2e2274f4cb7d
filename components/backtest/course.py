"""One policy's course through the history: it scores a window, then learns its labels, then may retrain."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from components import logs
from components.backtest.history import History, Window, reading, write_rows
from components.backtest.policies import Policy
from components.backtest.trigger import Never, OnDrift, Schedule, Trigger
from components.classifier.classifier import Classifier
from components.config import Settings
from components.data.data_set import DataSet
from components.data.prepare import prepare
from components.drift.policy import Verdict
from components.errors import DataError
from components.evaluation.decide import decide
from components.evaluation.evaluate import evaluate
from components.training.train import train

Accuracy = dict[str, float]
"""Source -> share right of its held-out rows."""


@dataclass(frozen=True)
class Plan:
    """What all policies have in common."""

    history: History
    settings: Settings
    base_model: str
    every: int
    """Windows between the retrains of the policy `schedule`."""
    hours: float
    """Between one window and the next."""


@dataclass(frozen=True)
class Champion:
    model: Path
    data: Path
    held_out: Accuracy


@dataclass(frozen=True)
class Retrain:
    """A retrain and what came of it."""

    promoted: bool
    reason: str
    training_rows: int = 0
    """Training rows, counted once for each epoch."""
    training_cpu_seconds: float = 0.0
    all_cpu_seconds: float = 0.0
    """With preparation and proof."""


@dataclass(frozen=True)
class Step:
    """One window: how well the champion that served then did, and what the policy did next."""

    window: int
    source: str
    rows: int
    accuracy: float
    """Of the serving champion on the window."""
    verdict: str
    reason: str
    retrain: Retrain | None
    held_out: Accuracy
    """Of the champion after the step."""


def first_champion(plan: Plan, folder: Path) -> tuple[Champion, Retrain]:
    """The model that every policy starts with, of the first file's rows and the base model."""
    started = time.process_time()
    _prepare(plan, plan.settings, [plan.history.first], folder, replay=None)
    rows, seconds = _train(plan, plan.settings, folder, warm_start=None)
    made = Retrain(True, "the first champion", rows, seconds, time.process_time() - started)
    return _champion(plan, folder), made


def follow(policy: Policy, plan: Plan, first: Champion, folder: Path, seen: Callable[[Step], None]) -> list[Step]:
    """The policy's steps through all windows; `seen` is told of each. Models and data go into `folder`."""
    champion, trigger, new = first, _trigger(policy, plan, first), list[Window]()
    classifier, steps = Classifier.load(champion.model), list[Step]()
    for window in plan.history.windows:
        scores = classifier.score(list(window.rows["text"]))
        accuracy = float(np.mean(scores.logits.argmax(axis=1) == window.rows["label"].to_numpy()))
        new.append(window)  # only now are its labels known
        verdict, made = trigger.saw(window, scores), None
        if verdict.verdict == "retrain":
            made = retrain(policy, plan, champion, new, folder / str(window.number))
        if made and made.promoted:
            champion, new = _champion(plan, folder / str(window.number)), []
            classifier = Classifier.load(champion.model)
            trigger.took_over(champion.model)
        steps.append(_step(window, accuracy, verdict, made, champion))
        logs.event("backtest_step", policy=policy.name, **asdict(steps[-1]))
        seen(steps[-1])
    return steps


def retrain(policy: Policy, plan: Plan, champion: Champion, new: Sequence[Window], folder: Path) -> Retrain:
    """Train a challenger on what the policy learns from, and promote it or not; as the pipeline does.

    Rows that make no data set, such as too few of one label, are a retrain that failed.
    """
    started = time.process_time()
    settings = policy.settings(plan.settings)
    try:
        replay = None if policy.learn == "all" else champion.data
        _prepare(plan, settings, _rows_of(policy, plan, new), folder, replay=replay)
    except DataError as error:
        return Retrain(False, f"No data set: {error}.", all_cpu_seconds=time.process_time() - started)
    warm_start = champion.model if policy.start == "champion" else None
    rows, seconds = _train(plan, settings, folder, warm_start=warm_start)
    promoted, reason = True, "Promoted without proof."
    if policy.proof:
        found = evaluate(folder / "model", folder / "data", champion.model)
        decision = decide(found, settings.promotion, sorted({window.source for window in new}))
        promoted, reason = decision.promoted, decision.reason
    return Retrain(promoted, reason, rows, seconds, time.process_time() - started)


def _rows_of(policy: Policy, plan: Plan, new: Sequence[Window]) -> list[pd.DataFrame]:
    if policy.learn != "all":
        return [window.rows for window in new]
    past = [window.rows for window in plan.history.windows if window.number <= new[-1].number]
    return [plan.history.first, *past]


def _prepare(
    plan: Plan, settings: Settings, rows: Sequence[pd.DataFrame], folder: Path, *, replay: Path | None
) -> None:
    folder.mkdir(parents=True)
    source = write_rows(pd.concat(rows), plan.history.labels, folder / "rows.csv")
    prepare([source], folder / "data", reading(settings.data), replay=str(replay) if replay else None)


def _train(plan: Plan, settings: Settings, folder: Path, *, warm_start: Path | None) -> tuple[int, float]:
    """(training rows, once an epoch; CPU seconds) of the model that goes to `folder`/model."""
    started = time.process_time()
    made = train(folder / "data", folder / "model", settings, base_model=plan.base_model, warm_start=warm_start)
    seconds = time.process_time() - started
    epochs = len(made.history) if made else 0
    return len(DataSet.load(folder / "data").frame("train")) * epochs, seconds


def _champion(plan: Plan, folder: Path) -> Champion:
    return Champion(folder / "model", folder / "data", accuracy_by_source(folder / "model", plan.history.held_out))


def accuracy_by_source(model: Path, rows: pd.DataFrame) -> Accuracy:
    """Of the model on labelled rows."""
    logits = Classifier.load(model).score(list(rows["text"]), description="held out").logits
    right = pd.Series(logits.argmax(axis=1) == rows["label"].to_numpy())
    by_source = right.groupby(rows["source"].to_numpy()).mean()
    return {str(source): float(share) for source, share in by_source.items()}


def _trigger(policy: Policy, plan: Plan, first: Champion) -> Trigger:
    if policy.when == "drift":
        return OnDrift(first.model, plan.settings, plan.hours)
    return Schedule(plan.every) if policy.when == "schedule" else Never()


def _step(window: Window, accuracy: float, verdict: Verdict, made: Retrain | None, champion: Champion) -> Step:
    rows = len(window.rows)
    return Step(window.number, window.source, rows, accuracy, verdict.verdict, verdict.reason, made, champion.held_out)
