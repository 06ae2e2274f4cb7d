"""What a policy's course comes to: accuracy in the end, what was forgotten, what it cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.backtest.course import Accuracy, Step


@dataclass(frozen=True)
class Outcome:
    policy: str
    mean_accuracy: float
    """Of the last champion, over the sources' own held-out rows, each source counting alike."""
    accuracy: Accuracy
    best: Accuracy
    """Of any champion on the way, the first and the last among them."""
    live_accuracy: float
    """Share right of all rows that came in, each scored by the champion that served then."""
    retrains: int
    promoted: int
    training_rows: int
    """In all retrains, counted once for each epoch; the first champion's training is not counted."""
    training_cpu_seconds: float
    all_cpu_seconds: float
    """With the preparation and the proof of the retrains."""

    @property
    def forgotten(self) -> Accuracy:
        """By source, what the last champion falls short of the best on the way, from 0."""
        return {source: self.best[source] - self.accuracy[source] for source in self.accuracy}

    @property
    def most_forgotten(self) -> float:
        return max(self.forgotten.values())


def outcome(policy: str, first: Accuracy, steps: Sequence[Step]) -> Outcome:
    """Of at least one step; `first` is the held-out accuracy of the champion before the first step."""
    held_out = [first, *(step.held_out for step in steps)]
    made = [step.retrain for step in steps if step.retrain]
    last, rows = held_out[-1], sum(step.rows for step in steps)
    return Outcome(
        policy=policy,
        mean_accuracy=mean(last),
        accuracy=last,
        best={source: max(accuracy[source] for accuracy in held_out) for source in last},
        live_accuracy=sum(step.accuracy * step.rows for step in steps) / rows,
        retrains=len(made),
        promoted=sum(retrain.promoted for retrain in made),
        training_rows=sum(retrain.training_rows for retrain in made),
        training_cpu_seconds=sum(retrain.training_cpu_seconds for retrain in made),
        all_cpu_seconds=sum(retrain.all_cpu_seconds for retrain in made),
    )


def mean(accuracy: Mapping[str, float]) -> float:
    """Each source counts alike."""
    return sum(accuracy.values()) / len(accuracy)
