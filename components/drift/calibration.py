"""From distances to one p-value: what chance alone gives at this window's own size.

A small window is compared with random splits of window and reference together (a permutation test, exact at every
size); a large one with the stored null: random splits of the reference alone, drawn when the model was trained. What
carries the stored null to another size is that n_eff times a squared distance, with n_eff = n R / (n + R), has nearly
the same law at every n and R.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from components.drift.statistics import Families, Quantiles, Statistic, grid_ranks, wasserstein2_squared

# Splits that fit the tails. They are not counted in the p-value, so the fit need not treat observed and split alike.
FITTED = 199
# A p-value is settled once this many splits are at least as far apart as the window (Besag and Clifford 1991).
ENOUGH = 20
NULL_DRAWS = 4_999
TIE = 1e-9
Array = NDArray[np.floating]


@dataclass(frozen=True)
class Tails:
    """The null law of f families: the cube root of a squared distance is nearly normal (Wilson and Hilferty 1931)."""

    mean: Array
    """[f] of the cube roots."""
    deviation: Array
    """[f]; 0 for a family that does not vary, which then counts for nothing."""

    @classmethod
    def fit(cls, null: Families) -> "Tails":
        """From [b, f] values under no drift."""
        roots = np.cbrt(null)
        return cls(roots.mean(axis=0), roots.std(axis=0))

    def evidence(self, families: Families) -> Array:
        """[...] of [..., f]: the sum over the families of -log P(at least this value), Fisher's combination.

        The families are dependent and the law is approximate, so this is no p-value; it ranks windows and splits.
        """
        varies = self.deviation > TIE
        z = (np.cbrt(families) - self.mean) / np.where(varies, self.deviation, 1.0)
        return np.where(varies, -log_ndtr(-z), 0.0).sum(axis=-1)


@dataclass(frozen=True)
class Calibrated:
    """A window's distances and what chance gives."""

    p_value: float
    """In (0, 1]; under no drift P(p_value <= u) <= u."""
    families: Array
    """[f] squared distances of the window."""
    evidence: float
    """The families combined; the larger, the farther apart."""
    slices: Array
    """[c] squared Wasserstein-2 distance by slice."""
    chance: Array
    """[c] what chance alone gives for `slices`, on average."""
    spread: float
    """Standard deviation, under no drift, of the mean of `slices` over the embeddings."""
    draws: int
    """Splits that the p-value was counted over."""


@dataclass(frozen=True)
class StoredNull:
    """m random splits of a reference into halves, times their n_eff."""

    families: Families
    """[m, f] of the statistic."""
    chance: Array
    """[c] mean squared Wasserstein-2 distance by slice."""
    spread: float
    """Standard deviation of its mean over the embedding slices."""


class Splits:
    """Random splits of N pooled rows into `rows` and the rest, as quantiles by slice.

    Each slice is sorted once. A split then sorts the ranks of its first part only; the quantiles of the rest follow
    from those, because rank s_i is the i-th one that the rest lacks.
    """

    def __init__(self, pooled: Array, rows: int, generator: np.random.Generator) -> None:
        total, slices = pooled.shape
        order = np.argsort(pooled, axis=0, kind="stable")
        self._values = np.take_along_axis(pooled, order, axis=0).T.ravel()
        self._ranks = np.empty(pooled.shape, dtype=np.int16 if total < 2**15 else np.int32)
        np.put_along_axis(self._ranks, order, np.arange(total, dtype=self._ranks.dtype)[:, None], axis=0)
        self._start = np.arange(slices)[:, None] * total
        self._first, self._rest = grid_ranks(rows), grid_ranks(total - rows)
        self._place = np.arange(rows, dtype=self._ranks.dtype)
        self._wanted = (self._rest + self._start).ravel()
        self._passed = np.arange(slices)[:, None] * rows
        self._total, self._rows, self._generator = total, rows, generator

    def observed(self) -> tuple[Quantiles, Quantiles]:
        """The split as it came: the first `rows` rows, and the rest."""
        return self._split(np.arange(self._rows))

    def random(self) -> tuple[Quantiles, Quantiles]:
        """A split drawn uniformly."""
        return self._split(self._generator.permutation(self._total)[: self._rows])

    def _split(self, members: NDArray[np.intp]) -> tuple[Quantiles, Quantiles]:
        """[c, q] quantiles of the members and of the others."""
        ranks = np.sort(self._ranks[members].T, axis=1)
        free = (ranks - self._place + self._start).ravel()
        before = np.searchsorted(free, self._wanted, side="right").reshape(len(ranks), -1) - self._passed
        first = self._values[ranks[:, self._first] + self._start]
        return first, self._values[self._rest + before + self._start]


def permutation_test(
    current: Array, known: Array, width: int, statistic: Statistic, permutations: int, seed: int
) -> Calibrated:
    """Test rows [n, c] against [R, c]: exact over the draw of both, at every n and R, with ties too.

    Stops after ENOUGH splits that are as far apart as the window; p is then ENOUGH / draws, else
    (exceedances + 1) / (permutations + 1).
    """
    splits = Splits(np.vstack([current, known]), len(current), np.random.default_rng(seed))
    first, second = splits.observed()
    families = statistic.families(first, second, width)
    fitted = _null_of(splits, width, statistic, FITTED, 1.0)
    tails = Tails.fit(fitted.families)
    evidence = float(tails.evidence(families))
    exceeding = drawn = 0
    while drawn < permutations and exceeding < ENOUGH:
        drawn += 1
        exceeding += bool(tails.evidence(statistic.families(*splits.random(), width)) >= evidence - TIE)
    p_value = exceeding / drawn if exceeding == ENOUGH else (exceeding + 1) / (permutations + 1)
    slices = wasserstein2_squared(first, second)
    return Calibrated(p_value, families, evidence, slices, fitted.chance, fitted.spread, drawn)


def stored_null(known: Array, width: int, statistic: Statistic, draws: int, seed: int) -> StoredNull:
    """Split the rows [R, c] of a reference into random halves, `draws` times; R at least 2."""
    rows = len(known) // 2
    splits = Splits(known, rows, np.random.default_rng(seed))
    return _null_of(splits, width, statistic, draws, effective_rows(rows, len(known) - rows))


def stored_test(
    quantiles: tuple[Quantiles, Quantiles], rows: tuple[int, int], width: int, statistic: Statistic, null: StoredNull
) -> Calibrated:
    """Test the quantiles [c, q] of a window against those of a reference, of so many rows each."""
    size = effective_rows(*rows)
    families = statistic.families(*quantiles, width)
    tails = Tails.fit(null.families)
    evidence = float(tails.evidence(families * size))
    exceeding = int((tails.evidence(null.families) >= evidence - TIE).sum())
    p_value = (exceeding + 1) / (len(null.families) + 1)
    slices = wasserstein2_squared(*quantiles)
    return Calibrated(p_value, families, evidence, slices, null.chance / size, null.spread / size, len(null.families))


def effective_rows(first: int, second: int) -> float:
    """n R / (n + R): the size of a one-sample test that is as sharp as the comparison of n with R rows."""
    return first * second / (first + second)


def _null_of(splits: Splits, width: int, statistic: Statistic, draws: int, size: float) -> StoredNull:
    families, slices = [], []
    for _ in range(draws):
        first, second = splits.random()
        families.append(statistic.families(first, second, width))
        slices.append(wasserstein2_squared(first, second))
    by_slice = size * np.array(slices)
    return StoredNull(size * np.array(families), by_slice.mean(axis=0), float(by_slice[:, :width].mean(axis=1).std()))
