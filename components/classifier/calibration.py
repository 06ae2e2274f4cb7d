"""Calibrated confidence: what the model calls 0.9 should be right nine times in ten."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import beta

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]


def probabilities(logits: Floats, temperature: float) -> NDArray[np.float64]:
    """softmax(logits / temperature): [n, classes], each row sums to 1."""
    return np.asarray(softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1))


def fit_temperature(logits: Floats, labels: Integers) -> float:
    """The temperature (0.05 to 20) with the least negative log likelihood of `labels` [n] under `logits` [n, classes].

    Guo et al. 2017, "On Calibration of Modern Neural Networks". Fit it on rows the weights were not trained on.
    """
    logits = np.asarray(logits, dtype=np.float64)
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        return -float(np.mean(log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels]))

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded").x))


def expected_calibration_error(confidence: Floats, correct: NDArray[np.bool_], bins: int = 15) -> float:
    """Mean |accuracy - confidence| over equal-width bins of `confidence` [n] in [0, 1], weighted by rows: 0 to 1.

    Naeini et al. 2015. 0 for no rows at all would be a claim, so it needs at least one.
    """
    bin_of = np.clip((np.asarray(confidence) * bins).astype(int), 0, bins - 1)
    gaps = np.bincount(bin_of, weights=np.asarray(confidence) - np.asarray(correct, dtype=float), minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def threshold_for(confidence: Floats, correct: NDArray[np.bool_], error_rate: float, level: float = 0.05) -> float:
    """The least confidence from which on answers err no oftener than `error_rate`, by its exact upper bound.

    confidence, correct: [n], of rows that the model was not fitted to. The bound (Clopper and Pearson 1934, one-sided,
    at `level`) is of each threshold by itself. 1 if no threshold can promise it: then all is abstained from.
    """
    order = np.argsort(-np.asarray(confidence), kind="stable")
    errors = np.cumsum(~np.asarray(correct)[order])
    answered = np.arange(1, len(order) + 1)
    bound = np.where(errors < answered, beta.isf(level, errors + 1, np.maximum(answered - errors, 1)), 1.0)
    ranked = np.asarray(confidence)[order]
    # Answers of equal confidence are given or withheld together.
    last_of_ties = np.append(ranked[1:] < ranked[:-1], True)
    kept = np.flatnonzero((bound <= error_rate) & last_of_ties)
    return float(ranked[kept[-1]]) if len(kept) else 1.0


def reliability(confidence: Floats, correct: NDArray[np.bool_], bins: int = 10) -> list[dict[str, float]]:
    """One entry a non-empty bin: mean `confidence`, `accuracy`, `rows`. The points of a calibration curve."""
    bin_of = np.clip((np.asarray(confidence) * bins).astype(int), 0, bins - 1)
    points = []
    for b in np.unique(bin_of):
        inside = bin_of == b
        points.append(
            {
                "confidence": float(np.mean(confidence[inside])),
                "accuracy": float(np.mean(correct[inside])),
                "rows": int(inside.sum()),
            }
        )
    return points
