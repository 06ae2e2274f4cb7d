"""Intervals of metrics by the bootstrap over rows (Efron 1979): 95 %, from quantiles, all resamples at once."""

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 500
_QUANTILES = (0.025, 0.975)
_SEED = 13
_BINS = 15  # of the calibration error, as in calibration.expected_calibration_error
Floats = NDArray[np.float64]


def resample(rows: int) -> Floats:
    """[RESAMPLES, rows] how often each row is drawn in each resample; seeded."""
    generator = np.random.default_rng(_SEED)
    return generator.multinomial(rows, np.full(rows, 1 / rows), size=RESAMPLES).astype(np.float64)


def intervals(probabilities: Floats, labels: NDArray[np.integer]) -> dict[str, list[float]]:
    """[low, high] of accuracy, macro F1 and ECE for calibrated `probabilities` [n, classes] against `labels` [n]."""
    drawn = resample(len(labels))
    correct = probabilities.argmax(axis=1) == labels
    values = {
        "accuracy": drawn @ correct / len(labels),
        "macro_f1": _macro_f1(drawn, probabilities.argmax(axis=1), labels, probabilities.shape[1]),
        "ece": _ece(drawn, probabilities.max(axis=1), correct),
    }
    return {name: interval(found) for name, found in values.items()}


def interval(values: Floats) -> list[float]:
    return [float(value) for value in np.quantile(values, _QUANTILES)]


def _macro_f1(drawn: Floats, predicted: NDArray[np.integer], labels: NDArray[np.integer], classes: int) -> Floats:
    """[resamples]; a class that is neither there nor predicted counts as 0, as it does in metrics.measure."""
    scores = np.zeros((len(drawn), classes))
    for k in range(classes):
        hit = drawn @ ((predicted == k) & (labels == k))
        named = drawn @ (predicted == k) + drawn @ (labels == k)
        np.divide(2 * hit, named, out=scores[:, k], where=named > 0)
    return scores.mean(axis=1)


def _ece(drawn: Floats, confidence: Floats, correct: NDArray[np.bool_]) -> Floats:
    bin_of = np.clip((confidence * _BINS).astype(int), 0, _BINS - 1)
    gaps = np.zeros((len(confidence), _BINS))
    gaps[np.arange(len(confidence)), bin_of] = confidence - correct
    return np.abs(drawn @ gaps).sum(axis=1) / len(confidence)
