"""How far two samples are apart: named statistics of their quantiles, slice by slice.

A statistic is a function of two arrays of quantiles [..., c, q] (any leading axes, c slices, q quantiles), of which
the first `width` slices are the embeddings' and the rest the classifier head's. It returns its families [..., f]:
one or more squared distances, which `components.drift.calibration` turns into one p-value. To add one: write the
function under `@register`, and a test of its value. All functions are pure. Slices are in standard deviations.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.errors import SettingsError

QUANTILES = 128
Quantiles = NDArray[np.floating]
Families = NDArray[np.floating]


@dataclass(frozen=True)
class Statistic:
    """One entry of the registry."""

    name: str
    help: str
    families: Callable[[Quantiles, Quantiles, int], Families]
    """(first [..., c, q], second [..., c, q], width) -> [..., f]"""
    threshold: float | None = None
    """Naive rules only: they alarm when the first distance is above this, whatever the size of the window."""

    def alarms(self, p_value: float, families: Families, level: float) -> bool:
        """Whether [f] families of one window are drift: by the p-value, or by the naive rule's threshold."""
        if self.threshold is None:
            return p_value <= level
        return bool(np.sqrt(families[0]) > self.threshold)


REGISTRY: dict[str, Statistic] = {}


def register(help: str, threshold: float | None = None) -> Callable:
    """Enter the decorated function under its own name."""

    def enter(families: Callable[[Quantiles, Quantiles, int], Families]) -> Callable:
        REGISTRY[families.__name__] = Statistic(families.__name__, help, families, threshold)
        return families

    return enter


def named(name: str) -> Statistic:
    """The statistic of that name; SettingsError that lists the names there are."""
    if name not in REGISTRY:
        raise SettingsError(f"there is no drift statistic {name!r}; there are {', '.join(REGISTRY)}")
    return REGISTRY[name]


def grid_ranks(rows: int, quantiles: int = QUANTILES) -> NDArray[np.intp]:
    """[q] ranks, from 0, of the order statistics that stand for the quantiles (j + 1/2) / q of `rows` values."""
    return ((np.arange(quantiles) + 0.5) * rows / quantiles).astype(np.intp)


def quantiles_of(rows: NDArray[np.floating], quantiles: int = QUANTILES) -> Quantiles:
    """[c, q] quantiles of each column of [n, c], n at least 1."""
    return np.sort(rows.T, axis=1)[:, grid_ranks(len(rows), quantiles)]


def wasserstein1(first: Quantiles, second: Quantiles) -> NDArray[np.floating]:
    """[..., c] Wasserstein-1 distance by slice."""
    return np.abs(first - second).mean(axis=-1)


def wasserstein2_squared(first: Quantiles, second: Quantiles) -> NDArray[np.floating]:
    """[..., c] squared Wasserstein-2 distance by slice."""
    return np.square(first - second).mean(axis=-1)


@register("sliced Wasserstein-2 of the embeddings and Wasserstein-1 along the head, their tail probabilities combined")
def sliced_wasserstein(first: Quantiles, second: Quantiles, width: int) -> Families:
    """[..., 2]: squared Wasserstein-2 averaged over the embedding slices, squared Wasserstein-1 over the head's."""
    embeddings = wasserstein2_squared(first[..., :width, :], second[..., :width, :]).mean(axis=-1)
    head = np.square(wasserstein1(first[..., width:, :], second[..., width:, :])).mean(axis=-1)
    return np.stack([embeddings, head], axis=-1)


@register("sliced Wasserstein-2 of the embeddings alone: blind to a shift of the label mix")
def sliced_wasserstein_embeddings(first: Quantiles, second: Quantiles, width: int) -> Families:
    """[..., 1]: squared Wasserstein-2 averaged over the embedding slices."""
    return wasserstein2_squared(first[..., :width, :], second[..., :width, :]).mean(axis=-1, keepdims=True)


@register("naive, for comparison only: mean Wasserstein-1 over the slices against a fixed threshold", threshold=0.1)
def mean_wasserstein(first: Quantiles, second: Quantiles, width: int) -> Families:
    """[..., 1]: square of Wasserstein-1 averaged over all slices."""
    return np.square(wasserstein1(first, second).mean(axis=-1, keepdims=True))


@register("naive, for comparison only: distance between the mean embeddings against a fixed threshold", threshold=0.1)
def mean_distance(first: Quantiles, second: Quantiles, width: int) -> Families:
    """[..., 1]: squared Euclidean distance between the means of the embedding slices, divided by their number."""
    shift = first[..., :width, :].mean(axis=-1) - second[..., :width, :].mean(axis=-1)
    return np.square(shift).mean(axis=-1, keepdims=True)
