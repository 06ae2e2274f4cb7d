"""Does the change of the texts do harm? Accuracy estimated without labels, the label mix, accuracy from late labels.

The estimate without labels is average thresholded confidence (Garg et al. 2022, "Leveraging Unlabeled Data to Predict
Out-of-Distribution Performance"), with a threshold for each predicted label (Li et al. 2022, "Estimating Model
Performance under Domain Shifts with Class-Specific Confidence Scores"). It sees texts that the model finds hard. It is
blind to a change of what the texts mean or of how often each label is true (label shift), as long as the model's
confidence looks the same: only labels show that.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from components.classifier.labels import LabelSet
from components.drift.reference import DriftReference
from components.errors import DataError

Interval = tuple[float, float]
Z = float(norm.ppf(0.975))
RESAMPLES = 999
SEED = 13


@dataclass(frozen=True)
class Harm:
    """Accuracies and shares are from 0 to 1, losses are reference minus current (positive is worse), intervals 95 %."""

    reference_accuracy: float
    """On the held-out rows of the reference."""
    estimated_accuracy: float
    """Of the current rows, without labels."""
    estimated_interval: Interval
    """Carries the sampling error of the current rows and of the reference, not the method's own (docs/log.md)."""
    estimated_loss: float
    estimated_loss_interval: Interval
    label_mix: dict[str, tuple[float, float]]
    """Label name -> share of the predictions (in the reference, in the current rows)."""
    label_mix_shift: float
    """Total variation between the two: the share of predictions that would have to change."""
    label_mix_interval: Interval
    labelled_rows: int
    """Current rows whose label is known; the rest of the fields are None if there are none."""
    measured_accuracy: float | None
    measured_interval: Interval | None
    measured_loss: float | None
    measured_loss_interval: Interval | None


def assess(reference: DriftReference, labels: LabelSet, probabilities: NDArray, known: NDArray) -> Harm:
    """What the current rows with calibrated `probabilities` [n, classes] say about harm; n is at least 1.

    `known` [n] holds the number of each row's label, or -1. Labels of rows that were picked for being hard (an
    annotation request) must stay -1: they are to learn from, and the accuracy on them says nothing about the rest.
    Raises DataError if there are no rows or the shapes do not fit the labels.
    """
    if probabilities.ndim != 2 or probabilities.shape[1] != len(labels) or len(known) != len(probabilities):
        raise DataError(
            f"expected a probability for each of the {len(labels)} labels and a known label (or -1) in each row, found "
            f"shapes {probabilities.shape} and {known.shape}"
        )
    if not len(probabilities):
        raise DataError("harm can only be assessed on at least one row")
    predicted = probabilities.argmax(axis=1)
    held_out = Predictions(_predicted(reference), reference.confidence)
    estimate = estimated_accuracy(held_out, reference.correct, Predictions(predicted, probabilities.max(axis=1)))
    mix = _label_mix(held_out.label, predicted, len(labels))
    labelled = known >= 0
    right, rows = int((predicted == known)[labelled].sum()), int(labelled.sum())
    return Harm(
        reference_accuracy=float(reference.correct.mean()),
        estimated_accuracy=estimate.accuracy,
        estimated_interval=estimate.interval,
        estimated_loss=float(reference.correct.mean()) - estimate.accuracy,
        estimated_loss_interval=estimate.loss_interval,
        label_mix={name: (float(a), float(b)) for name, a, b in zip(labels.names, *mix, strict=True)},
        label_mix_shift=float(np.abs(mix[1] - mix[0]).sum() / 2),
        label_mix_interval=_mix_interval(mix, len(reference.correct), len(predicted)),
        labelled_rows=rows,
        measured_accuracy=right / rows if rows else None,
        measured_interval=wilson(right, rows) if rows else None,
        measured_loss=float(reference.correct.mean()) - right / rows if rows else None,
        measured_loss_interval=newcombe((int(reference.correct.sum()), len(reference.correct)), (right, rows))
        if rows
        else None,
    )


@dataclass(frozen=True)
class Predictions:
    label: NDArray
    """[n] number of each row's predicted label."""
    confidence: NDArray
    """[n] calibrated probability of it."""


@dataclass(frozen=True)
class Estimate:
    accuracy: float
    interval: Interval
    loss_interval: Interval


def estimated_accuracy(held_out: Predictions, correct: NDArray, current: Predictions) -> Estimate:
    """The share of current rows whose confidence is at least their label's threshold.

    The threshold of a label is where as many of the held-out rows with this prediction lie below as are wrong;
    `correct` [R] says which are right. The intervals are percentiles of a seeded bootstrap over held-out and current
    rows alike.
    """
    labels = [_PredictedLabel.of(label, held_out, correct, current) for label in np.unique(current.label)]
    rows, known = len(current.label), len(correct)

    def passing(counts: NDArray) -> float:
        return sum(label.passing(counts) for label in labels) / rows

    generator = np.random.default_rng(SEED)
    resampled, losses = np.empty(RESAMPLES), np.empty(RESAMPLES)
    for b in range(RESAMPLES):
        counts = np.bincount(generator.integers(known, size=known), minlength=known)
        # Resampling the current rows at given thresholds is a binomial draw, whatever their number.
        resampled[b] = generator.binomial(rows, passing(counts)) / rows
        losses[b] = counts[correct].sum() / known - resampled[b]
    return Estimate(passing(np.ones(known, dtype=np.int64)), _percentiles(resampled), _percentiles(losses))


@dataclass(frozen=True)
class _PredictedLabel:
    """The rows with one predicted label, by confidence."""

    order: NDArray
    """Row numbers of the held-out rows; of all of them where none has this prediction."""
    thresholds: NDArray
    wrong: NDArray
    current: NDArray

    @classmethod
    def of(cls, label: int, held_out: Predictions, correct: NDArray, current: Predictions) -> "_PredictedLabel":
        order = np.argsort(held_out.confidence, kind="stable")
        mine = order[held_out.label[order] == label]
        order = mine if len(mine) else order
        ranked = np.sort(current.confidence[current.label == label])
        return cls(order, held_out.confidence[order], ~correct[order], ranked)

    def passing(self, counts: NDArray) -> int:
        """Current rows at or above the threshold, if held-out row i is there counts[i] times."""
        mine = counts[self.order]
        place = int(np.searchsorted(np.cumsum(mine), mine[self.wrong].sum(), side="right"))
        threshold = self.thresholds[place] if place < len(mine) else np.inf
        return len(self.current) - int(np.searchsorted(self.current, threshold, side="left"))


def _percentiles(values: NDArray) -> Interval:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def _predicted(reference: DriftReference) -> NDArray:
    """[R] the label that was predicted for each reference row, from its standardised margins."""
    margins = reference.head * reference.basis.head_deviation + reference.basis.head_mean
    return (margins[:, 0] > 0).astype(np.int64) if margins.shape[1] == 1 else margins.argmax(axis=1)


def _label_mix(reference: NDArray, current: NDArray, labels: int) -> tuple[NDArray, NDArray]:
    """[labels] shares of the predictions, in the reference and in the current rows."""
    return (
        np.bincount(reference, minlength=labels) / len(reference),
        np.bincount(current, minlength=labels) / len(current),
    )


def _mix_interval(mix: tuple[NDArray, NDArray], reference_rows: int, rows: int) -> Interval:
    """Newcombe interval of the total variation: the gain of those labels that became more frequent, at least 0."""
    grew = mix[1] > mix[0]
    before, now = round(mix[0][grew].sum() * reference_rows), round(mix[1][grew].sum() * rows)
    low, high = newcombe((now, rows), (before, reference_rows))
    return max(0.0, low), high


def wilson(successes: int, trials: int) -> Interval:
    """95 % score interval of a share (Wilson 1927); `trials` is at least 1."""
    share, z2 = successes / trials, Z**2 / trials
    middle = (share + z2 / 2) / (1 + z2)
    half = Z / (1 + z2) * np.sqrt(share * (1 - share) / trials + z2 / (4 * trials))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def newcombe(first: tuple[int, int], second: tuple[int, int]) -> Interval:
    """95 % interval of the first share minus the second, each (successes, trials): Newcombe 1998, method 10."""
    p1, p2 = first[0] / first[1], second[0] / second[1]
    (l1, u1), (l2, u2) = wilson(*first), wilson(*second)
    difference = p1 - p2
    low = difference - np.hypot(p1 - l1, u2 - p2)
    return float(low), float(difference + np.hypot(u1 - p1, p2 - l2))
