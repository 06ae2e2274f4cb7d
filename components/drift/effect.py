"""How large a shift is, and how sure that is: significance says whether, this says how much."""

import numpy as np
from numpy.typing import NDArray

from components.drift.statistics import Quantiles

Array = NDArray[np.floating]
NORMAL_95 = 1.96


def size(excess: float) -> float:
    """In standard deviations, at least 0, of a mean squared distance less what chance gives at this size."""
    return float(np.sqrt(max(excess, 0.0)))


def interval(
    excess: float, spread: float, current: Array, rows: int, known: Array, quantiles: tuple[Quantiles, Quantiles]
) -> tuple[float, float]:
    """95 % confidence interval of the size.

    The squared distance varies as two independent sums of one term a row do, when there is a shift, and as it does by
    chance (`spread`, its standard deviation) when there is none; the two variances are added.
    `current` [s, c] are the window's embedding slices, or a sample of them, `rows` how many there are in all;
    `known` [R, c] the reference's; `quantiles` [c, q] of both.
    """
    first, second = quantiles
    variance = spread**2
    variance += _influence(current, first, first - second).var() / rows
    variance += _influence(known, second, second - first).var() / len(known)
    margin = NORMAL_95 * float(np.sqrt(variance))
    return size(excess - margin), size(excess + margin)


def _influence(rows: Array, quantiles: Quantiles, apart: Quantiles) -> Array:
    """[s] what one row adds to the mean squared distance: twice the integral, up to the row, of how far quantiles are
    apart (the Kantorovich potential), averaged over the slices.
    """
    steps = np.diff(quantiles, axis=1) * (apart[:, 1:] + apart[:, :-1])
    potentials = np.concatenate([np.zeros((len(quantiles), 1)), np.cumsum(steps, axis=1)], axis=1)
    parts = [np.interp(rows[:, c], quantiles[c], potentials[c]) for c in range(len(quantiles))]
    return np.mean(parts, axis=0)
