"""What a check measures, from kept rows and the model's reference alone; so a replay measures the same again."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from components.classifier.calibration import probabilities
from components.classifier.labels import LabelSet
from components.classifier.model_folder import DESCRIPTION, REFERENCE, labels_of
from components.config import DriftSettings
from components.drift.detection import DriftResult, detect
from components.drift.harm import Harm, assess
from components.drift.reference import REFERENCE_TO_WINDOW, DriftReference
from components.drift.state import Part, Window
from components.drift.stream import Parts, Rows
from components.errors import DataError, ModelFolderError
from components.files import sha256_of


class KeepsRows(Protocol):
    """Where the rows of a stream lie: in the object store (stream.KeptRows), or in a back-test's memory."""

    def read(self, parts: Iterable[Part]) -> Rows:
        """The rows of at least one part. Raises DataError if they are gone."""


@dataclass(frozen=True)
class Measure:
    """What measuring takes of a model folder; its weights are not needed."""

    reference: DriftReference
    reference_digest: str
    labels: LabelSet
    temperature: float

    @classmethod
    def load(cls, folder: Path) -> "Measure":
        """From a folder with at least everbert.json, config.json and drift_reference.npz. Raises ModelFolderError."""
        reference = DriftReference.load(folder / REFERENCE)
        try:
            temperature = float(json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["temperature"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelFolderError(f"{folder / DESCRIPTION} is damaged: {error}") from error
        return cls(reference, sha256_of(folder / REFERENCE), labels_of(folder), temperature)

    def window_size(self, settings: DriftSettings) -> int:
        """Rows in each window of a series of checks.

        A source with few rows makes them small, but not smaller than `minimum_window`. Raises DataError if the whole
        reference is too small for such a window.
        """
        rows = len(self.reference.sources)
        if rows < REFERENCE_TO_WINDOW * settings.minimum_window:
            raise DataError(
                f"the model's reference of {rows} rows supports windows of at most {rows // REFERENCE_TO_WINDOW} "
                f"texts, and drift.minimum_window is {settings.minimum_window}; train on a data set with more held-out "
                "rows"
            )
        return max(settings.minimum_window, min(self.reference.largest_window, settings.maximum_window))

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float64]:
        """Calibrated, [n, classes]."""
        return probabilities(logits, self.temperature)


@dataclass(frozen=True)
class Tested:
    """A window and what its test found."""

    window: Window
    result: DriftResult


def measure_window(kept: KeepsRows, parts: Parts, measure: Measure, settings: DriftSettings) -> Tested:
    rows = kept.read(parts)
    result = detect(measure.reference, rows.embeddings, rows.logits, settings)
    return Tested(Window(parts, len(rows.where), result.p_value), result)


@dataclass(frozen=True)
class Judged:
    """The rows that a decision is about: size and harm of the change, with the parts they came from."""

    parts: tuple[Parts, ...]
    rows: Rows
    result: DriftResult
    """Over all the rows together: of it only the sizes count, the windows' own tests give the evidence."""
    harm: Harm
    known: NDArray[np.int64]
    """[n] number of each row's label, or -1."""


def judge(
    kept: KeepsRows,
    windows: Sequence[Parts],
    labels_of: Callable[[Rows], NDArray[np.int64]],
    measure: Measure,
    settings: DriftSettings,
) -> Judged:
    """Measure the rows of all `windows` together; `labels_of` gives their labels, or -1.

    Raises DataError if rows are gone.
    """
    rows = kept.read([part for parts in windows for part in parts])
    known = labels_of(rows)
    return Judged(
        parts=tuple(windows),
        rows=rows,
        result=detect(measure.reference, rows.embeddings, rows.logits, settings),
        harm=assess(measure.reference, measure.labels, measure.probabilities(rows.logits), known),
        known=known,
    )


def numbers_of(result: DriftResult) -> dict[str, Any]:
    """The result's single values, without its lists, for a record of many windows."""
    return {name: value for name, value in asdict(result).items() if not isinstance(value, list)}
