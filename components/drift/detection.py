"""Is the current window unlike everything the model was trained on?

The window is tested against the whole reference and against each source in it. The comparison with the largest
p-value decides: the largest is at least the true source's, so a window of a known source alarms at most at the level.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from components.config import DriftSettings
from components.drift import effect
from components.drift.basis import LIMIT
from components.drift.calibration import Calibrated, permutation_test, sample_of, stored_test
from components.drift.reference import ALL, DriftReference
from components.drift.statistics import Statistic, named, quantiles_of
from components.drift.window import Window
from components.errors import DataError, SettingsError

CHUNK_ROWS = 16_384
Chunk = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class DriftResult:
    """Outcome of one check. Distances are in standard deviations of the reference."""

    n: int
    """Rows of the window."""
    reference_rows: int
    """Rows of the deciding comparison's reference."""
    statistic_name: str
    statistic: float
    """log(weight / tail probability) of the family that stands out most; for a naive rule, its distance."""
    p_value: float
    """Above 0, at most 1. Under no drift P(p_value <= u) <= u, over the draw of reference and window."""
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
    calibration: str
    """'permutation' or 'stored null'."""
    permutations: int
    """Random splits that the deciding p-value was counted over."""
    seed: int


@dataclass(frozen=True)
class _Comparison:
    """The window against one group of the reference."""

    group: str
    rows: int
    measured: Calibrated
    excess: float
    head_shift: float
    statistic: float

    @property
    def likeness(self) -> tuple[float, float]:
        """The larger, the more the window is like that group; ties in p go to the smaller shift."""
        return self.measured.p_value, -self.excess

    @property
    def facts(self) -> dict[str, str | int | float]:
        """A row of DriftResult.by_source."""
        measured = {"statistic": self.statistic, "p_value": self.measured.p_value}
        shift = {"effect_size": effect.size(self.excess), "head_shift": self.head_shift}
        return {"source": self.group, "rows": self.rows, **measured, **shift}


def detect(
    reference: DriftReference,
    embeddings: np.ndarray,
    logits: np.ndarray,
    settings: DriftSettings,
    model_digest: str | None = None,
) -> DriftResult:
    """Test a window of [n, h] embeddings and [n, k] logits, which may be memory maps; see `detect_stream`."""
    if np.ndim(embeddings) != 2 or np.ndim(logits) != 2 or len(embeddings) != len(logits):
        reference.project(embeddings, logits)  # says what is wrong
    starts = range(0, max(len(embeddings), 1), CHUNK_ROWS)
    chunks = ((embeddings[i : i + CHUNK_ROWS], logits[i : i + CHUNK_ROWS]) for i in starts)
    return detect_stream(reference, chunks, settings, model_digest)


def detect_stream(
    reference: DriftReference, chunks: Iterable[Chunk], settings: DriftSettings, model_digest: str | None = None
) -> DriftResult:
    """Test a window that comes as chunks of embeddings and logits, in memory that does not grow with their number.

    Equal input and settings give equal results. Raises DataError for embeddings of another model, a wrong width, NaN
    or fewer than `minimum_window` rows, SettingsError for an unknown statistic and for a level that can never fire.
    """
    statistic = named(settings.statistic)
    if model_digest is not None:
        reference.refuse_other_model(model_digest)
    window = Window(reference.basis.layout, LIMIT, settings.exact_window, settings.seed)
    for embeddings, logits in chunks:
        window.add(reference.basis.project(embeddings, logits))
    if window.rows < settings.minimum_window:
        raise DataError(
            f"a drift check needs at least {settings.minimum_window} texts, the window has {window.rows}; "
            "wait for more or lower drift.minimum_window"
        )
    tests = {group: _compare(reference, group, window, statistic, settings) for group in reference.groups()}
    return _result(reference, window, statistic, tests, settings)


def _compare(
    reference: DriftReference, group: str, window: Window, statistic: Statistic, settings: DriftSettings
) -> _Comparison:
    """One test, exact for a window that is kept whole, else against the stored null."""
    known, layout = reference.rows[reference.groups()[group]], reference.basis.layout
    if window.sampled:
        null = reference.null(group, statistic.name)
        _refuse_dead_level(settings.level, len(null.families), "the stored null of this window's size allows")
        samples = window.summary(), sample_of(known, layout)
        measured = stored_test(*samples, (window.rows, len(known)), statistic, null)
    else:
        _refuse_dead_level(settings.level, settings.permutations, "drift.permutations allows")
        measured = permutation_test(window.kept, known, layout, statistic, settings.permutations, settings.seed)
    excess = measured.slices - measured.chance
    naive = statistic.threshold is not None
    return _Comparison(
        group=group,
        rows=len(known),
        measured=measured,
        excess=float(excess[: layout.slices].mean()),
        head_shift=effect.size(float(excess[layout.slices :].mean())),
        statistic=float(np.sqrt(measured.families[0])) if naive else measured.evidence,
    )


def _refuse_dead_level(level: float, draws: int, whose: str) -> None:
    """SettingsError if no window could have so small a p-value."""
    if level * (draws + 1) < 1:
        raise SettingsError(f"drift.level {level:g} can never fire: the smallest p-value that {whose} is 1/{draws + 1}")


def _result(
    reference: DriftReference,
    window: Window,
    statistic: Statistic,
    tests: dict[str, _Comparison],
    settings: DriftSettings,
) -> DriftResult:
    """What the deciding comparison says, and all of them as rows."""
    deciding = max(tests.values(), key=lambda test: test.likeness)
    sources = sorted(set(reference.sources))
    known = [test for group, test in tests.items() if group != ALL]
    nearest = max(known, key=lambda test: test.likeness).group if known else sources[0] if len(sources) == 1 else ""
    measured = deciding.measured
    return DriftResult(
        n=window.rows,
        reference_rows=deciding.rows,
        statistic_name=statistic.name,
        statistic=deciding.statistic,
        p_value=measured.p_value,
        effect_size=effect.size(deciding.excess),
        effect_interval=_interval(reference, window, deciding),
        head_shift=deciding.head_shift,
        level=settings.level,
        drifted=statistic.alarms(measured.p_value, measured.families, settings.level),
        nearest_source=nearest,
        by_source=[test.facts for test in tests.values()],
        slice_distances=np.sqrt(measured.slices).tolist(),
        calibration="stored null" if window.sampled else "permutation",
        permutations=measured.draws,
        seed=settings.seed,
    )


def _interval(reference: DriftReference, window: Window, deciding: _Comparison) -> tuple[float, float]:
    """Of the embeddings' shift in the deciding comparison."""
    width = reference.slices.shape[1]
    known = reference.slices[reference.groups()[deciding.group]]
    quantiles = window.summary().slices, quantiles_of(known)
    current = window.kept[:, :width]
    return effect.interval(deciding.excess, deciding.measured.spread, current, window.rows, known, quantiles)
