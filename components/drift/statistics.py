"""How far two samples are apart: named statistics of their means and their quantiles, slice by slice.

A statistic is a function of two samples that returns its families [..., f]: one or more squared distances, which
`components.drift.calibration` turns into one p-value. To add one: write the function under `@register`, and a test of
its value. All functions are pure. Slices are in standard deviations of the held-out rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.errors import SettingsError

QUANTILES = 64
Array = NDArray[np.floating]
Quantiles = NDArray[np.floating]
Families = NDArray[np.floating]


@dataclass(frozen=True)
class Sample:
    """What a statistic sees of a sample; any leading axes, the same for all three."""

    means: Array
    """[..., d] mean along each slice of the embeddings."""
    slices: Quantiles
    """[..., c, q] quantiles along the first c of them."""
    head: Quantiles
    """[..., k, q] quantiles along the classifier head's margins."""


Distance = Callable[[Sample, Sample], Families]


@dataclass(frozen=True)
class Statistic:
    """One entry of the registry."""

    name: str
    help: str
    families: Distance
    weights: tuple[float, ...]
    """Share of the false alarms that each family may cause; their sum is 1."""
    threshold: float | None = None
    """Naive rules only: they alarm when the first distance is above this, whatever the size of the window."""

    def alarms(self, p_value: float, families: Families, level: float) -> bool:
        """Whether [f] families of one window are drift: by the p-value, or by the naive rule's threshold."""
        if self.threshold is None:
            return p_value <= level
        return bool(np.sqrt(families[0]) > self.threshold)


REGISTRY: dict[str, Statistic] = {}


def register(help: str, weights: tuple[float, ...] = (1.0,), threshold: float | None = None) -> Callable:
    """Enter the decorated function under its own name."""

    def enter(families: Distance) -> Distance:
        name = families.__name__
        REGISTRY[name] = Statistic(name, help, families, weights, threshold)
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


@register("location, shape and head, a tail probability each, the smallest decides", weights=(0.94, 0.03, 0.03))
def sliced_wasserstein(first: Sample, second: Sample) -> Families:
    """[..., 3]: squared distance between the means over all slices, squared Wasserstein-2 over the first ones, and
    squared Wasserstein-1 along the head.

    Squared Wasserstein-2 is the squared distance of the means plus what shape adds. Most real drift moves the means,
    and few texts say little about shape, so the means are compared along many more slices and get most of the weight.
    The tails of the other two are four times as heavy as they are taken for, so that in effect each gets a tenth.
    """
    location = mean_distance(first, second)
    slices = wasserstein2_squared(first.slices, second.slices).mean(axis=-1, keepdims=True)
    head = np.square(wasserstein1(first.head, second.head)).mean(axis=-1, keepdims=True)
    return np.concatenate([location, slices, head], axis=-1)


@register("sliced Wasserstein-2 of the embeddings alone")
def sliced_wasserstein2(first: Sample, second: Sample) -> Families:
    """[..., 1]: squared Wasserstein-2 averaged over the slices."""
    return wasserstein2_squared(first.slices, second.slices).mean(axis=-1, keepdims=True)


@register("naive, for comparison only: mean Wasserstein-1 over the slices against a fixed threshold", threshold=0.1)
def mean_wasserstein1(first: Sample, second: Sample) -> Families:
    """[..., 1]: square of Wasserstein-1 averaged over the slices."""
    return np.square(wasserstein1(first.slices, second.slices).mean(axis=-1, keepdims=True))


@register("naive, for comparison only: distance between the mean embeddings against a fixed threshold", threshold=0.1)
def mean_distance(first: Sample, second: Sample) -> Families:
    """[..., 1]: squared Euclidean distance between the means, divided by the number of slices."""
    return np.square(first.means - second.means).mean(axis=-1, keepdims=True)
