"""A window of any size in bounded memory: its rows while they are few, counts on a fine grid once they are many."""

import numpy as np
from numpy.typing import NDArray

from components.drift.statistics import Quantiles, grid_ranks, quantiles_of

BINS = 4096
SAMPLE = 2048  # rows kept of a large window, to see how much its rows vary


class Window:
    """Collects projected rows [n, c], chunk by chunk, whose values lie within [-limit, limit].

    Up to `most` rows are kept as they are. Beyond that a value is known to limit / 4096, a thousandth of a standard
    deviation, and a uniform, seeded sample of the rows is kept.
    """

    def __init__(self, slices: int, limit: float, most: int, seed: int) -> None:
        self._limit, self._most, self._slices = limit, most, slices
        self._generator = np.random.default_rng(seed)
        self._kept = np.empty((0, slices), dtype=np.float32)
        self._keys = np.empty(0)
        self._counts: NDArray[np.int64] = np.zeros((slices, BINS), dtype=np.int64)
        self.rows = 0

    @property
    def sampled(self) -> bool:
        """Whether there are too many rows to keep them all."""
        return self.rows > self._most

    @property
    def kept(self) -> NDArray[np.float32]:
        """All rows, in order, or a sample of them in order."""
        return self._kept

    def add(self, rows: NDArray[np.float32]) -> None:
        """The next rows."""
        self.rows += len(rows)
        self._count(rows)
        keys = np.concatenate([self._keys, self._generator.random(len(rows))])
        kept = np.concatenate([self._kept, rows])
        if self.sampled:
            chosen = np.sort(np.argpartition(keys, min(SAMPLE, len(keys) - 1))[:SAMPLE])
            keys, kept = keys[chosen], kept[chosen]
        self._keys, self._kept = keys, kept

    def quantiles(self) -> Quantiles:
        """[c, q] quantiles by slice."""
        if not self.sampled:
            return quantiles_of(self._kept)
        passed = np.cumsum(self._counts, axis=1)
        ranks = grid_ranks(self.rows)
        bins = np.array([np.searchsorted(slice_, ranks, side="right") for slice_ in passed])
        return ((bins + 0.5) * (2 * self._limit / BINS) - self._limit).astype(np.float32)

    def _count(self, rows: NDArray[np.float32]) -> None:
        bins = ((rows + self._limit) * np.float32(BINS / (2 * self._limit))).astype(np.int32)
        np.clip(bins, 0, BINS - 1, out=bins)
        bins += np.arange(self._slices, dtype=np.int32) * BINS
        self._counts += np.bincount(bins.ravel(), minlength=self._counts.size).reshape(self._counts.shape)
