"""A window of any size in bounded memory: its rows while they are few, counts on a fine grid once they are many."""

import numpy as np
from numpy.typing import NDArray

from components.drift.calibration import Layout, sample_of
from components.drift.statistics import Quantiles, Sample, grid_ranks

BINS = 4096
SAMPLE = 2048  # rows kept of a large window, to see how much its rows vary


class Window:
    """Collects projected rows [n, c + k + f], chunk by chunk, whose values lie within [-limit, limit].

    Up to `most` rows are kept as they are. Beyond that, quantiles are known to limit / 4096, a thousandth of a standard
    deviation, means exactly, and a uniform, seeded sample of the rows is kept.
    """

    def __init__(self, layout: Layout, limit: float, most: int, seed: int) -> None:
        self._layout, self._limit, self._most = layout, limit, most
        self._generator = np.random.default_rng(seed)
        self._keys = np.empty(0)
        self._kept: list[NDArray[np.float32]] = []
        self._counts = np.zeros((layout.slices + layout.head, BINS), dtype=np.int64)
        self._sums: NDArray[np.floating] = np.zeros(1)
        self.rows = 0

    @property
    def sampled(self) -> bool:
        """Whether there are too many rows to keep them all."""
        return self.rows > self._most

    @property
    def kept(self) -> NDArray[np.float32]:
        """[s, c + k + f] all rows, or a sample of them; at least one row must have been added."""
        return np.concatenate(self._kept)

    def add(self, rows: NDArray[np.float32]) -> None:
        """The next rows."""
        self.rows += len(rows)
        self._sums = self._sums + np.ones(len(rows), dtype=np.float32) @ rows
        self._count(rows)
        self._kept.append(rows)
        self._keys = np.concatenate([self._keys, self._generator.random(len(rows))])
        if self.sampled and len(self._keys) > SAMPLE:
            chosen = np.argpartition(self._keys, SAMPLE)[:SAMPLE]
            self._keys, self._kept = self._keys[chosen], [self.kept[chosen]]

    def summary(self) -> Sample:
        """What a statistic sees of the window."""
        if not self.sampled:
            return sample_of(self.kept, self._layout)
        first, last = self._layout.slices, self._layout.slices + self._layout.head
        quantiles = self._quantiles()
        return Sample(np.delete(self._sums / self.rows, np.s_[first:last]), quantiles[:first], quantiles[first:])

    def _quantiles(self) -> Quantiles:
        """[c + k, q] from the counts."""
        ranks = grid_ranks(self.rows)
        bins = np.array([np.searchsorted(passed, ranks, side="right") for passed in np.cumsum(self._counts, axis=1)])
        return (bins + 0.5) * (2 * self._limit / BINS) - self._limit

    def _count(self, rows: NDArray[np.float32]) -> None:
        compared = rows[:, : len(self._counts)]
        bins = ((compared + self._limit) * np.float32(BINS / (2 * self._limit))).astype(np.int32)
        np.clip(bins, 0, BINS - 1, out=bins)
        bins += np.arange(len(self._counts), dtype=np.int32) * BINS
        self._counts += np.bincount(bins.ravel(), minlength=self._counts.size).reshape(self._counts.shape)
