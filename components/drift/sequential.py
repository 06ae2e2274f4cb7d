"""A false-retrain budget for a check that repeats for years: bet against "no drift" with every window's p-value.

Each window of fresh texts gives one p-value p; under no drift P(p <= u) <= u. The bet e = bet(p) then has mean at
most 1, and the evidence M <- max(M, 1) e grows only when small p-values keep coming. An alarm is M >= bar. This is a
CUSUM e-detector (Shin, Ramdas and Rinaldo, "E-detectors", 2023) with the calibrator of Vovk and Wang ("E-values",
2021). The windows must be disjoint, and small against the reference: see `DriftReference.largest_window`.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

START = 1.0
"""Evidence of a model that no window has tested yet."""

_POWER = 0.2
_STEP = 0.02  # grid of log evidence; a finer one gives a slightly lower bar and costs its square
_ITERATIONS = 250  # the law forgets its start by 0.87 a check


def bet(p: float) -> float:
    """The e-value 0.2 p^-0.8 of a p-value in (0, 1]: its integral over (0, 1) is 1, and it falls with p.

    So its mean is at most 1 for every p that is uniform or larger, also for the p of a permutation test, which takes
    a few values only.
    """
    return float(_POWER * p ** (_POWER - 1))


def update(evidence: float, p: float) -> float:
    """The evidence after one more window of p-value `p`; what is below 1 is forgotten first."""
    return max(evidence, 1.0) * bet(p)


@lru_cache(maxsize=32)
def bar(budget: float, checks_a_year: int) -> float:
    """The smallest bar (to the grid) with P(any alarm within `checks_a_year` checks) <= `budget` under no drift.

    The p-values are taken as independent and uniform, the worst case: evidence falls with p, so larger p-values give
    less of it. log M is then a random walk reflected at 0 (Brook and Evans 1972), computed on a grid with every step
    rounded up, so that the computed chance is never less than the true one. It is far below `checks_a_year / budget`,
    which Doob's inequality gives, because evidence overshoots the bar and restarts seldom.
    """
    states = round(np.log(max(checks_a_year / budget, np.e)) / _STEP) + 1
    low = 1
    while low < states:
        middle = (low + states) // 2
        if _alarm_chance(middle, checks_a_year) <= budget:
            states = middle
        else:
            low = middle + 1
    return float(np.exp(states * _STEP))


def _alarm_chance(states: int, checks: int) -> float:
    """P(log evidence reaches `states` grid steps within `checks` checks), from above.

    Started from its quasi-stationary law the walk survives each check with the same chance, the largest eigenvalue.
    The walk starts lower than that, at 0, and a walk that starts lower stays lower, so it survives at least as long.
    """
    transitions = _transitions(states)
    law = np.ones(states) / states
    survival = 1.0
    for _ in range(_ITERATIONS):
        law = law @ transitions
        survival = float(law.sum())
        law /= survival
    return 1 - survival**checks


def _transitions(states: int) -> NDArray[np.float64]:
    """[s, s] chances to go from one grid value of log evidence below the bar to another; what is missing alarms."""
    moves = np.arange(-states, states) * _STEP
    # log e <= x means p >= (0.2 / e^x)^(1 / 0.8), so P(log e <= x) is one minus that.
    at_most = 1 - np.minimum((_POWER * np.exp(-moves)) ** (1 / (1 - _POWER)), 1)
    start, end = np.indices((states, states))
    reached = at_most[end - start + states]
    return np.diff(reached, axis=1, prepend=0.0)
