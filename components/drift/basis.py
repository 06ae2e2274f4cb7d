"""The slices that windows are compared along: whitened principal components of the embeddings, and the margins.

Projected rows [n, c + k + f] hold c slices, k margins (1 for two classes, else one a class), then f further slices.
"""

from dataclasses import dataclass

import numpy as np

from components.drift.calibration import Layout
from components.errors import DataError

# A principal component with less than this share of the first one's standard deviation is noise or constant;
# dividing by its own deviation would turn rounding errors into drift.
RELATIVE_FLOOR = 1e-3
ABSOLUTE_FLOOR = 1e-6
HELD_OUT_FLOOR = 0.05  # of a training deviation; a slice in which held-out rows hardly vary is constant or nearly so
# Slices end here, in standard deviations: one wild text would otherwise dominate the squared distance of every
# permutation and hide the drift of all the others.
LIMIT = 6.0
# Slices that are compared by their quantiles; the components after these are compared by their means.
QUANTILE_SLICES = 64


@dataclass(frozen=True)
class Basis:
    """Where zero is and how long a standard deviation is, along each slice."""

    mean: np.ndarray
    """[h], mean training embedding."""
    components: np.ndarray
    """[h, d], principal directions of the training rows divided by the held-out rows' (floored) standard deviations."""
    head_mean: np.ndarray
    """[k], mean margin of the held-out rows."""
    head_deviation: np.ndarray
    """[k], standard deviation of those margins, floored."""

    @property
    def layout(self) -> Layout:
        """Which columns of a projected row are what."""
        return Layout(min(QUANTILE_SLICES, self.components.shape[1]), len(self.head_mean))

    @classmethod
    def fit(cls, train: np.ndarray, embeddings: np.ndarray, logits: np.ndarray, components: int) -> "Basis":
        """At most `components` directions of [t, h] training embeddings, in deviations of the held-out rows.

        The directions in which the model's own training rows are narrow tell the most, but new rows of the same domain
        are wider there. `embeddings` [R, h] and `logits` [R, classes] are the held-out rows.
        """
        mean, directions = _whitening(np.asarray(train, dtype=np.float64), components)
        deviations = ((np.asarray(embeddings, dtype=np.float64) - mean) @ directions).std(axis=0)
        margins = _margins(np.asarray(logits, dtype=np.float64))
        head_deviation = np.maximum(margins.std(axis=0), ABSOLUTE_FLOOR)
        return cls(mean, directions / np.maximum(deviations, HELD_OUT_FLOOR), margins.mean(axis=0), head_deviation)

    def project(self, embeddings: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """[n, h] embeddings and logits [n, classes] as [n, c + k + f] float32; DataError for other widths and NaN."""
        embeddings = checked("embeddings", embeddings, len(self.mean))
        classes = len(self.head_mean)
        logits = checked("logits", logits, 2 if classes == 1 else classes)
        if len(embeddings) != len(logits):
            raise DataError(f"{len(embeddings)} rows of embeddings but {len(logits)} rows of logits; pass one of each")
        rows = np.empty((len(embeddings), self.components.shape[1] + classes), dtype=np.float32)
        first, last = self.layout.slices, self.layout.slices + classes
        # Centred before the product, since what is left of a constant dimension is divided by its floor.
        centred = np.asarray(embeddings - self.mean.astype(embeddings.dtype, copy=False), dtype=np.float32)
        components = self.components.astype(np.float32)
        np.matmul(centred, components[:, :first], out=rows[:, :first])
        rows[:, first:last] = (_margins(logits) - self.head_mean) / self.head_deviation
        np.matmul(centred, components[:, first:], out=rows[:, last:])
        return np.clip(rows, -LIMIT, LIMIT, out=rows)


def checked(name: str, values: np.ndarray, width: int | None = None) -> np.ndarray:
    """`values` as a matrix of finite numbers of that width, or DataError."""
    values = np.asarray(values)
    if values.ndim != 2 or (width is not None and values.shape[1] != width):
        found = "x".join(str(size) for size in values.shape)
        raise DataError(f"{name} must be rows of {width or 'numbers'} columns, found shape {found}; use the same model")
    if values.dtype.kind not in "fiu":
        raise DataError(f"{name} must be numbers, found {values.dtype}")
    values = values if values.dtype == np.float32 else values.astype(np.float64)
    if not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        raise DataError(f"{name} hold NaN or infinity in {len(bad)} rows, first in row {bad[0]}; remove those rows")
    return values


def _whitening(train: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean [h] and whitening matrix [h, d], from the covariance so that the cost grows with rows times h^2."""
    mean = train.mean(axis=0)
    centred = train - mean
    variances, directions = np.linalg.eigh(centred.T @ centred / (len(train) - 1))
    kept = min(wanted, train.shape[1], len(train) - 1)
    deviations = np.sqrt(np.maximum(variances[::-1][:kept], 0))
    floor = max(RELATIVE_FLOOR * deviations[0], ABSOLUTE_FLOOR)
    return mean, directions[:, ::-1][:, :kept] / np.maximum(deviations, floor)


def _margins(logits: np.ndarray) -> np.ndarray:
    """Two classes: logit 1 minus logit 0, one column. More: logits minus their mean by row."""
    if logits.shape[1] == 2:
        return logits[:, 1:] - logits[:, :1]
    return logits - logits.mean(axis=1, keepdims=True)
