"""How far two samples are apart: squared Wasserstein-2 by slice, on a fixed grid of quantiles.

All functions are pure. Units are those of the slices: standard deviations, so a squared distance is in sd^2.
"""

import numpy as np

QUANTILES = 128


def grid_ranks(rows: int, quantiles: int = QUANTILES) -> np.ndarray:
    """[q] ranks, from 0, of the order statistics that stand for the quantiles (j + 1/2) / q of `rows` values."""
    return ((np.arange(quantiles) + 0.5) * rows / quantiles).astype(np.intp)


def wasserstein2_squared(first: np.ndarray, second: np.ndarray, quantiles: int = QUANTILES) -> np.ndarray:
    """[c] squared Wasserstein-2 distance of each column of [n, c] and [m, c]; n and m at least 1."""
    first_grid = np.sort(first, axis=0)[grid_ranks(len(first), quantiles)]
    second_grid = np.sort(second, axis=0)[grid_ranks(len(second), quantiles)]
    return np.square(first_grid - second_grid).mean(axis=0)


def sliced_wasserstein2(first: np.ndarray, second: np.ndarray, quantiles: int = QUANTILES) -> float:
    """Root of the squared Wasserstein-2 distance averaged over the columns (the slices) of [n, c] and [m, c]."""
    return float(np.sqrt(wasserstein2_squared(first, second, quantiles).mean()))


def permuted_wasserstein2_squared(
    pooled: np.ndarray, rows: int, permutations: int, generator: np.random.Generator
) -> np.ndarray:
    """[b, c] squared distances by column for `permutations` random splits of [N, c] into `rows` and the rest.

    Each column is sorted once; a split then only picks its members in sorted order.
    """
    columns, total = pooled.shape[1], len(pooled)
    order = np.ascontiguousarray(np.argsort(pooled, axis=0, kind="stable").T)
    ordered = np.take_along_axis(pooled.T, order, axis=1).ravel()
    first_ranks, second_ranks = grid_ranks(rows), grid_ranks(total - rows)
    distances = np.empty((permutations, columns))
    for b in range(permutations):
        member = np.zeros(total, dtype=bool)
        member[generator.permutation(total)[:rows]] = True
        chosen = member[order].ravel()
        first = np.flatnonzero(chosen).reshape(columns, rows)[:, first_ranks]
        second = np.flatnonzero(~chosen).reshape(columns, total - rows)[:, second_ranks]
        distances[b] = np.square(ordered[first] - ordered[second]).mean(axis=1)
    return distances


def studentised_maximum(families: np.ndarray) -> np.ndarray:
    """[b] the largest, over f families, of [b, f] values in standard deviations from their mean over b.

    The observed value is one of the b, so that all b are treated alike and the permutation test is exact.
    A family that does not vary (constant slices) counts as 0.
    """
    deviations = families.std(axis=0)
    varies = deviations > 1e-12
    z = (families - families.mean(axis=0)) / np.where(varies, deviations, 1.0)
    return np.where(varies, z, 0.0).max(axis=1)
