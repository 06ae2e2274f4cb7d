"""From distances to one p-value: what chance alone gives at this window's own size.

A small window is compared with random splits of window and reference together (a permutation test, exact at every
size); a large one with the stored null: random splits of the reference into halves, drawn when the model was trained.
Distances fall as a power of n_eff = n R / (n + R). The power is 1 for most families and smaller where a slice has two
humps, so it is measured, on splits of half the reference, and carries the stored null to the window's size.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from components.drift.statistics import Families, Sample, Statistic, grid_ranks, quantiles_of, wasserstein2_squared

# Splits that fit the tails. They are not counted in the p-value, so the fit need not treat observed and split alike.
FITTED = 99
# A p-value is settled once this many splits are at least as far apart as the window (Besag and Clifford 1991).
ENOUGH = 10
RATE_HALVES, RATE_DRAWS = 20, 25
TIE = 1e-9
CONSTANT = 1e-5  # a family whose cube root varies less than this is rounding error
Array = NDArray[np.floating]


@dataclass(frozen=True)
class Layout:
    """The columns of projected rows: slices compared by quantiles, margins, then slices compared by means only."""

    slices: int
    head: int


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

    def evidence(self, families: Families, weights: tuple[float, ...]) -> Array:
        """[...] of [..., f]: the largest, over the families, of log(weight / P(at least this value)).

        The weighted smallest p-value (Genovese, Roeder and Wasserman 2006). The families are dependent and the law is
        approximate, so this is no p-value yet; it ranks windows and splits.
        """
        varies = self.deviation > CONSTANT
        z = (np.cbrt(families) - self.mean) / np.where(varies, self.deviation, 1.0)
        return (np.log(weights) - np.where(varies, log_ndtr(-z), 0.0)).max(axis=-1)


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
    """m random splits of a reference into halves, and how distances fall with n_eff."""

    families: Families
    """[m, f] of the statistic."""
    rate: Array
    """[f] power of n_eff, from 1/2 to 1, by which each family falls."""
    chance: Array
    """[c + k] mean squared Wasserstein-2 distance by slice."""
    chance_rate: Array
    """[c + k]"""
    spread: float
    """Standard deviation of the mean over the embedding slices; it falls with n_eff itself."""
    size: float
    """n_eff of the splits."""


@dataclass(frozen=True)
class _Null:
    """What a number of draws under no drift gave: [b, f], [c] and a number, as in StoredNull."""

    families: Families
    chance: Array
    spread: float


class Splits:
    """Random splits of pooled rows [N, c + k + f] into the first `size` and the rest.

    Each compared column is sorted once. A split then sorts the ranks of its first part only; the quantiles of the rest
    follow from those, because rank s_i is the i-th one that the rest lacks.
    """

    def __init__(self, rows: Array, size: int, layout: Layout, generator: np.random.Generator) -> None:
        compared = rows[:, : layout.slices + layout.head]
        order = np.argsort(compared, axis=0, kind="stable")
        self._ranks = np.empty(compared.shape, dtype=np.int16 if len(rows) < 2**15 else np.int32)
        np.put_along_axis(self._ranks, order, np.arange(len(rows), dtype=self._ranks.dtype)[:, None], axis=0)
        self._values = np.take_along_axis(compared, order, axis=0).T.ravel()
        self._embeddings = _embeddings(rows, layout)
        self._total = self._embeddings.sum(axis=0)
        self._start = np.arange(compared.shape[1])[:, None] * len(rows)
        self._passed = np.arange(compared.shape[1])[:, None] * size
        self._first, self._rest = grid_ranks(size), grid_ranks(len(rows) - size)
        self._wanted = (self._rest + self._start).ravel()
        self._place = np.arange(size, dtype=self._ranks.dtype)
        self._rows, self._size, self._layout, self._generator = len(rows), size, layout, generator

    def observed(self) -> tuple[Sample, Sample]:
        """The split as it came: the first `size` rows, and the rest."""
        return self._split(np.arange(self._size))

    def random(self) -> tuple[Sample, Sample]:
        """A split drawn uniformly."""
        return self._split(self._generator.permutation(self._rows)[: self._size])

    def _split(self, members: NDArray[np.intp]) -> tuple[Sample, Sample]:
        """The members, and the others."""
        ranks = np.sort(self._ranks[members].T, axis=1)
        free = (ranks - self._place + self._start).ravel()
        before = np.searchsorted(free, self._wanted, side="right").reshape(len(ranks), -1) - self._passed
        first = self._values[ranks[:, self._first] + self._start]
        rest = self._values[self._rest + before + self._start]
        total = self._embeddings[members].sum(axis=0)
        others = (self._total - total) / (self._rows - self._size)
        return self._sample(total / self._size, first), self._sample(others, rest)

    def _sample(self, means: Array, quantiles: Array) -> Sample:
        """From [c + f] means and [c + k, q] quantiles."""
        return Sample(means, quantiles[: self._layout.slices], quantiles[self._layout.slices :])


def sample_of(rows: Array, layout: Layout) -> Sample:
    """What a statistic sees of rows [n, c + k + f]."""
    quantiles = quantiles_of(rows[:, : layout.slices + layout.head])
    means = _embeddings(rows, layout).mean(axis=0)
    return Sample(means, quantiles[: layout.slices], quantiles[layout.slices :])


def _embeddings(rows: Array, layout: Layout) -> Array:
    """[n, c + f] of [n, c + k + f]."""
    return np.delete(rows, np.s_[layout.slices : layout.slices + layout.head], axis=1)


def permutation_test(
    current: Array, known: Array, layout: Layout, statistic: Statistic, permutations: int, seed: int
) -> Calibrated:
    """Test rows [n, c + k + f] against [R, c + k + f]: exact over the draw of both, at every n and R, with ties too.

    Stops after ENOUGH splits that are as far apart as the window; p is then ENOUGH / draws, else
    (exceedances + 1) / (permutations + 1).
    """
    splits = Splits(np.vstack([current, known]), len(current), layout, np.random.default_rng(seed))
    observed = splits.observed()
    families = statistic.families(*observed)
    fitted = _null_of((splits.random() for _ in range(FITTED)), statistic)
    tails = Tails.fit(fitted.families)
    evidence = float(tails.evidence(families, statistic.weights))
    exceeding = drawn = 0
    while drawn < permutations and exceeding < ENOUGH:
        drawn += 1
        at_random = statistic.families(*splits.random())
        exceeding += bool(tails.evidence(at_random, statistic.weights) >= evidence - TIE)
    p_value = exceeding / drawn if exceeding == ENOUGH else (exceeding + 1) / (permutations + 1)
    return Calibrated(p_value, families, evidence, _by_slice(*observed), fitted.chance, fitted.spread, drawn)


def stored_null(known: Array, layout: Layout, statistic: Statistic, draws: int, seed: int) -> StoredNull:
    """Split the rows [R, c + k + f] of a reference into halves at random, `draws` times. R must be at least 4."""
    generator = np.random.default_rng(seed)
    half, quarter = len(known) // 2, len(known) // 4
    splits = Splits(known, half, layout, generator)
    null = _null_of((splits.random() for _ in range(draws)), statistic)
    parts = (
        Splits(known[generator.permutation(len(known))[:half]], quarter, layout, generator) for _ in range(RATE_HALVES)
    )
    smaller = _null_of((part.random() for part in parts for _ in range(RATE_DRAWS)), statistic)
    size = effective_rows(half, len(known) - half)
    ratio = size / effective_rows(quarter, half - quarter)
    return StoredNull(
        null.families,
        _rate(smaller.families.mean(axis=0), null.families.mean(axis=0), ratio),
        null.chance,
        _rate(smaller.chance, null.chance, ratio),
        null.spread,
        size,
    )


def stored_test(
    current: Sample, known: Sample, rows: tuple[int, int], statistic: Statistic, null: StoredNull
) -> Calibrated:
    """Test a window against a reference, of so many rows each."""
    growth = effective_rows(*rows) / null.size
    families = statistic.families(current, known)
    tails = Tails.fit(null.families)
    evidence = float(tails.evidence(families * growth**null.rate, statistic.weights))
    exceeding = int((tails.evidence(null.families, statistic.weights) >= evidence - TIE).sum())
    p_value = (exceeding + 1) / (len(null.families) + 1)
    chance, spread = null.chance / growth**null.chance_rate, null.spread / growth
    return Calibrated(p_value, families, evidence, _by_slice(current, known), chance, spread, len(null.families))


def effective_rows(first: int, second: int) -> float:
    """n R / (n + R): so many rows, compared with a known law, are as telling as n rows compared with R."""
    return first * second / (first + second)


def _rate(smaller: Array, larger: Array, ratio: float) -> Array:
    """The power, from 1/2 to 1, by which distances fall when n_eff grows by `ratio`; 1 where there is no distance."""
    apart = (smaller > 0) & (larger > 0)
    power = np.log(np.where(apart, smaller, ratio) / np.where(apart, larger, 1.0)) / np.log(ratio)
    return np.clip(power, 0.5, 1.0)


def _by_slice(first: Sample, second: Sample) -> Array:
    """[c + k] squared Wasserstein-2 distance by slice, the head's last."""
    return np.concatenate(
        [wasserstein2_squared(first.slices, second.slices), wasserstein2_squared(first.head, second.head)]
    )


def _null_of(pairs: Iterable[tuple[Sample, Sample]], statistic: Statistic) -> _Null:
    families, slices, width = [], [], 0
    for first, second in pairs:
        families.append(statistic.families(first, second))
        slices.append(_by_slice(first, second))
        width = len(first.slices)
    by_slice = np.array(slices)
    return _Null(np.array(families), by_slice.mean(axis=0), float(by_slice[:, :width].mean(axis=1).std()))
