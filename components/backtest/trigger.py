"""When a policy retrains: never, every k windows, or when `everbert check` would."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import numpy as np

from components.backtest.history import Window
from components.classifier.engine import Scores
from components.config import Settings
from components.drift import sequential, stream
from components.drift import state as transitions
from components.drift.measurement import Judged, Measure, judge, measure_window
from components.drift.policy import Seen, Verdict, decide
from components.drift.state import Entry, Part, Retrain, State
from components.drift.stream import Parts, Rows

START = datetime(2000, 1, 1, tzinfo=UTC)  # a history has no clock; windows come at equal intervals from here


class Trigger(Protocol):
    def saw(self, window: Window, scores: Scores) -> Verdict:
        """The verdict once a window was scored by the champion and its labels have come in."""

    def took_over(self, model: Path) -> None:
        """Another champion serves from now on."""


class Never:
    def saw(self, window: Window, scores: Scores) -> Verdict:
        return Verdict("quiet", "This policy never retrains.")

    def took_over(self, model: Path) -> None:
        pass


class Schedule:
    """A retrain every `every` windows."""

    def __init__(self, every: int) -> None:
        self.every = every

    def saw(self, window: Window, scores: Scores) -> Verdict:
        if window.number % self.every:
            return Verdict("quiet", f"A retrain is due every {self.every} windows; this is number {window.number}.")
        return Verdict("retrain", f"A retrain is due every {self.every} windows.")

    def took_over(self, model: Path) -> None:
        pass


class OnDrift:
    """The checks of `everbert check`, one after each window, with the rows in memory instead of the object store.

    The windows of the history come `hours` apart, which the cooldown and the weekly cap count. A window of the test
    has the size that the champion's reference allows; what is left over waits for the next check.
    """

    def __init__(self, model: Path, settings: Settings, hours: float) -> None:
        self.settings, self.hours = settings, hours
        self.measure = Measure.load(model)
        self.size = self.measure.window_size(settings.drift)
        self.state = State("backtest", self.measure.reference.model_digest)
        self.kept = _Memory()
        self.cut_until = 0

    def saw(self, window: Window, scores: Scores) -> Verdict:
        at = START + timedelta(hours=self.hours * window.number)
        self.kept.add(scores, window.rows["label"].to_numpy())
        self._count(at)
        bar = sequential.bar(self.settings.retrain.false_retrain_budget, self.settings.retrain.checks_a_year)
        seen = self._seen(bar, self._judge() if self.state.evidence >= bar else None, at)
        verdict = decide(seen, self.settings.retrain)
        self._conclude(verdict, seen, at)
        return verdict

    def took_over(self, model: Path) -> None:
        self.measure = Measure.load(model)
        self.size = self.measure.window_size(self.settings.drift)
        after = State(self.state.model_name, self.measure.reference.model_digest)
        self.state = transitions.take_over(after, self.state, "")
        self.kept, self.cut_until = _Memory(), 0

    def _count(self, at: datetime) -> None:
        """Test the windows that are full, as many as the year's budget allows."""
        starts = range(self.cut_until, self.kept.rows - self.size + 1, self.size)
        windows: list[Parts] = [(self.kept.part(start, start + self.size),) for start in starts]
        chosen, passed = stream.choose(windows, int(transitions.allowed_windows(self.state, at, self.settings.retrain)))
        self.cut_until += self.size * len(passed)
        tested = [measure_window(self.kept, parts, self.measure, self.settings.drift).window for parts in chosen]
        self.state = transitions.count(self.state, tested, [], at, self.settings.retrain)

    def _judge(self) -> Judged:
        """Size and harm of what the evidence speaks of."""
        parts = [window.parts for window in self.state.suspects]
        return judge(self.kept, parts, self.kept.labels_of, self.measure, self.settings.drift)

    def _seen(self, bar: float, judged: Judged | None, at: datetime) -> Seen:
        state, suspects = self.state, self.state.suspects
        return Seen(
            texts=self.kept.rows,
            windows_counted=state.windows,
            rows_waiting=self.kept.rows - self.cut_until,
            window_size=self.size,
            evidence=state.evidence,
            bar=bar,
            p_value=suspects[-1].p_value if suspects else None,
            effect_size=judged.result.effect_size if judged else 0.0,
            effect_interval=judged.result.effect_interval if judged else (0.0, 0.0),
            harm=judged.harm if judged else None,
            labelled_rows=self.kept.rows,
            hours_since_retrain=transitions.hours_since_retrain(state, at),
            retrains_this_week=transitions.retrains_this_week(state, at),
        )

    def _conclude(self, verdict: Verdict, seen: Seen, at: datetime) -> None:
        entry = Entry(
            self.state.number + 1, at.isoformat(), verdict.verdict, 0, seen.texts, seen.p_value, seen.evidence,
            seen.bar, seen.effect_size, seen.harm.estimated_accuracy if seen.harm else None,
        )  # fmt: skip
        started = Retrain(str(entry.number), at.isoformat(), {}) if verdict.verdict == "retrain" else None
        self.state = transitions.conclude(self.state, entry, retrain=started)


class _Memory:
    """What the champion made of the rows since it took over, and their labels, which are known by now."""

    def __init__(self) -> None:
        self._scores: list[Scores] = []
        self._labels: list[np.ndarray] = []
        self.rows = 0

    def add(self, scores: Scores, labels: np.ndarray) -> None:
        self._scores.append(scores)
        self._labels.append(labels)
        self.rows += len(labels)

    def part(self, first: int, end: int) -> Part:
        return Part("", "", first, end, "", end == self.rows)

    def read(self, parts: Iterable[Part]) -> Rows:
        scores = Scores.concatenate(self._scores)
        where = [("", "", number) for part in parts for number in range(part.first, part.end)]
        numbers = [number for _, _, number in where]
        return Rows(scores.embeddings[numbers], scores.logits[numbers], where)

    def labels_of(self, rows: Rows) -> np.ndarray:
        return np.concatenate(self._labels)[[number for _, _, number in rows.where]]
