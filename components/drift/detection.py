"""Is the current window unlike everything the model was trained on?

The window is tested against the whole reference and against each source in it. The comparison with the largest
p-value decides: the largest is at least the true source's, so a window of a known source alarms at most at the level.
"""

from dataclasses import dataclass

import numpy as np

from components.config import DriftSettings
from components.drift import statistics
from components.drift.reference import DriftReference
from components.errors import DataError, SettingsError

ALL = "all"
MINIMUM_SOURCE_ROWS = 100


@dataclass(frozen=True)
class DriftResult:
    """Outcome of one check. Distances are in standard deviations of the reference."""

    n: int
    """Rows of the window that were tested (after sampling)."""
    window_rows: int
    """Rows of the window before sampling."""
    reference_rows: int
    """Rows of the deciding comparison's reference."""
    statistic: float
    """Studentised maximum of the two families: embedding slices and head."""
    p_value: float
    """From 1 / (permutations + 1) to 1."""
    effect_size: float
    """Shift of the embeddings beyond what chance gives at this size, at least 0."""
    effect_interval: tuple[float, float]
    """95 % confidence interval of effect_size."""
    head_shift: float
    """The same for the classifier's margins."""
    level: float
    drifted: bool
    nearest_source: str
    """The known source the window is most like; empty if no source has enough rows."""
    by_source: list[dict[str, str | int | float]]
    """Each comparison: source ('all' is the whole reference), rows, statistic, p_value, effect_size, head_shift."""
    slice_distances: list[float]
    """Wasserstein-2 by slice in the deciding comparison, embedding slices first, then the head."""
    permutations: int
    seed: int


def detect(
    reference: DriftReference, embeddings: np.ndarray, logits: np.ndarray, settings: DriftSettings
) -> DriftResult:
    """Test a window of [n, h] embeddings and [n, k] logits; equal input and settings give equal results.

    Raises DataError for a wrong width, NaN or fewer than `minimum_window` rows, SettingsError if the level
    is below the smallest p-value that so few permutations can give.
    """
    if settings.level * (settings.permutations + 1) < 1:
        needed = int(np.ceil(1 / settings.level)) - 1
        raise SettingsError(f"drift.level {settings.level} can never fire; set drift.permutations to at least {needed}")
    projected = reference.project(embeddings, logits)
    current = _window(projected, settings)
    tests = {name: _compare(rows, current, reference, settings) for name, rows in _comparisons(reference, settings)}
    deciding = tests[max(tests, key=lambda name: _likeness(tests[name][0]))][0]
    slices = tests[deciding["source"]][1]
    known = [name for name in tests if name != ALL]
    names = sorted(set(reference.sources))
    nearest = max(known, key=lambda name: _likeness(tests[name][0])) if known else names[0] if len(names) == 1 else ""
    return DriftResult(
        n=len(current),
        window_rows=len(projected),
        reference_rows=deciding["rows"],
        statistic=deciding["statistic"],
        p_value=deciding["p_value"],
        effect_size=deciding["effect_size"],
        effect_interval=tests[deciding["source"]][2],
        head_shift=deciding["head_shift"],
        level=settings.level,
        drifted=deciding["p_value"] <= settings.level,
        nearest_source=nearest,
        by_source=[test for test, _, _ in tests.values()],
        slice_distances=slices,
        permutations=settings.permutations,
        seed=settings.seed,
    )


def _window(projected: np.ndarray, settings: DriftSettings) -> np.ndarray:
    """The rows to test: all of them, or a seeded sample of `maximum_window`."""
    if len(projected) < settings.minimum_window:
        raise DataError(
            f"a drift check needs at least {settings.minimum_window} texts, the window has {len(projected)}; "
            "wait for more or lower drift.minimum_window"
        )
    if len(projected) <= settings.maximum_window:
        return projected
    chosen = np.random.default_rng(settings.seed).choice(len(projected), settings.maximum_window, replace=False)
    return projected[np.sort(chosen)]


def _comparisons(reference: DriftReference, settings: DriftSettings) -> list[tuple[str, np.ndarray]]:
    """(name, row numbers) of the whole reference and of each source that is large enough, if there are several."""
    sources = np.array(reference.sources)
    found = [(ALL, np.arange(len(sources)))]
    names = sorted(set(reference.sources))
    if len(names) > 1:
        for name in names:
            rows = np.flatnonzero(sources == name)
            if len(rows) >= max(settings.minimum_window, MINIMUM_SOURCE_ROWS) and name != ALL:
                found.append((name, rows))
    return found


def _compare(rows: np.ndarray, current: np.ndarray, reference: DriftReference, settings: DriftSettings) -> tuple:
    """One permutation test: (the facts of a by_source row, Wasserstein-2 by slice, the effect's interval)."""
    known = np.hstack([reference.slices, reference.head])[rows]
    source = ALL if len(rows) == len(reference.sources) else reference.sources[rows[0]]
    generator = np.random.default_rng(settings.seed)
    observed = statistics.wasserstein2_squared(current, known)
    pooled = np.vstack([current, known])
    permuted = statistics.permuted_wasserstein2_squared(pooled, len(current), settings.permutations, generator)
    width = reference.slices.shape[1]
    by_slice = np.vstack([observed, permuted])
    families = np.column_stack([by_slice[:, :width].mean(axis=1), by_slice[:, width:].mean(axis=1)])
    maxima = statistics.studentised_maximum(families)
    effects = np.sqrt(np.maximum(families[0] - families[1:].mean(axis=0), 0))
    test = {
        "source": source,
        "rows": len(rows),
        "statistic": float(maxima[0]),
        "p_value": float(np.mean(maxima >= maxima[0] - 1e-9)),
        "effect_size": float(effects[0]),
        "head_shift": float(effects[1]),
    }
    low, high = np.sqrt(np.maximum(families[0, 0] - np.quantile(families[1:, 0], [0.975, 0.025]), 0))
    return test, np.sqrt(observed).tolist(), (float(low), float(high))


def _likeness(test: dict) -> tuple[float, float]:
    """Sort key: the larger, the more the window is like that source; ties in p go to the smaller effect."""
    return test["p_value"], -test["effect_size"]
