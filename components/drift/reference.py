"""What a drift check compares with: held-out rows of the training domains, seen by the model it ships with.

The basis is fitted on training rows and the reference holds held-out rows: rows that fitted the basis (or the
model) look different from new rows of the same domain, and a test against them raises false alarms.
"""

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from components import files
from components.config import DriftSettings
from components.drift.basis import Basis, checked
from components.drift.calibration import StoredNull, stored_null
from components.drift.statistics import named
from components.errors import DataError, ModelFolderError

# A test's fixed reference biases all its p-values alike; in a window this much smaller the bias does not show.
REFERENCE_TO_WINDOW = 10
ALL = "all"
"""Name of the group of all rows."""
MINIMUM_SOURCE_ROWS = 100
NULL_DRAWS = 1_999
NULL = ("null_families", "null_rate", "null_chance", "null_chance_rate", "null_spread", "null_size")
BASIS = ("mean", "components", "head_mean", "head_deviation")
ARRAYS = (
    *BASIS,
    *("slices", "head", "further", "sources", "ids", "confidence", "correct", "model_digest"),
    *("statistic", *NULL),
)


@dataclass(frozen=True)
class HeldOut:
    """What the model said of R labelled texts that it was not fitted to."""

    embeddings: np.ndarray
    """[R, h]"""
    logits: np.ndarray
    """[R, k]"""
    sources: Sequence[str]
    """R names, the source (domain) of each text."""
    ids: Sequence[str]
    """R ids of the texts in their data set."""
    confidence: np.ndarray
    """[R] calibrated probability of the predicted label, 0 to 1."""
    correct: np.ndarray
    """[R] bool, whether the predicted label is the true one."""


@dataclass(frozen=True)
class DriftReference:
    """Whitened held-out rows and the basis that whitens new ones."""

    basis: Basis
    slices: np.ndarray
    """[R, c] float32, held-out embeddings in standard deviations, compared by quantiles."""
    head: np.ndarray
    """[R, k] float32, standardised margins; k = 1 for two classes, else one for each."""
    further: np.ndarray
    """[R, f] float32, more slices of the embeddings, compared by their means."""
    sources: list[str]
    """R names, the source (domain) of each row."""
    ids: list[str]
    """R ids of the rows in the model's data set, to look up their texts."""
    confidence: np.ndarray
    """[R] float32, calibrated confidence of the predicted label."""
    correct: np.ndarray
    """[R] bool, whether the predicted label was right."""
    model_digest: str
    """SHA-256 of the model.safetensors that made the embeddings."""
    statistic: str
    """Name of the statistic that the stored null is of."""
    null_families: np.ndarray
    """[g, m, f] float32, the stored null of each group, in the order of `groups`; see calibration.StoredNull."""
    null_rate: np.ndarray
    """[g, f]"""
    null_chance: np.ndarray
    """[g, c + k]"""
    null_chance_rate: np.ndarray
    """[g, c + k]"""
    null_spread: np.ndarray
    """[g]"""
    null_size: np.ndarray
    """[g]"""

    @property
    def largest_window(self) -> int:
        """Most rows of a window in a series of checks against this one reference: a tenth of its smallest group's."""
        return min(map(len, self.groups().values())) // REFERENCE_TO_WINDOW

    @property
    def rows(self) -> np.ndarray:
        """[R, c + k + f] the projected rows."""
        return np.hstack([self.slices, self.head, self.further])

    def groups(self) -> dict[str, np.ndarray]:
        """Row numbers of what a window is compared with, by name."""
        return groups(self.sources)

    def null(self, group: str, statistic: str) -> StoredNull:
        """The stored null of a group; DataError if the reference keeps it for another statistic."""
        if statistic != self.statistic:
            raise DataError(
                f"the model's reference holds the null of {self.statistic}, not of {statistic}: a window of this size "
                "cannot be tested with it; use that statistic or train again with drift.statistic"
            )
        place = list(self.groups()).index(group)
        return StoredNull(*(getattr(self, name)[place] for name in NULL))

    def refuse_other_model(self, model_digest: str) -> None:
        """DataError unless the embeddings to be tested are from the model that made the reference."""
        if model_digest != self.model_digest:
            raise DataError(
                f"the embeddings are of model {model_digest[:12]}, the drift reference is of model "
                f"{self.model_digest[:12]}; score the texts again with the reference's own model"
            )

    def project(self, embeddings: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """[n, h] embeddings and logits [n, classes] as [n, c + k] float32, as in `slices` and `head`.

        Raises DataError for other widths and NaN.
        """
        return self.basis.project(embeddings, logits)[:, : self.slices.shape[1] + self.head.shape[1]]

    def save(self, path: str | Path) -> None:
        """Write the arrays and their digest, atomically."""
        arrays = self._arrays()
        with files.new_file(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, digest=np.array(_digest(arrays)), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> "DriftReference":
        """Read what `save` wrote; ModelFolderError if it is missing, damaged or was changed."""
        path = Path(path)
        arrays, digest = _read(path)
        if _digest(arrays) != digest:
            raise ModelFolderError(f"{path} was changed after it was written; train the model again or restore it")
        names = {name: arrays[name].tolist() for name in ("sources", "ids", "model_digest", "statistic")}
        basis = Basis(**{name: arrays.pop(name) for name in BASIS})
        return cls(basis=basis, **(arrays | names))

    def _arrays(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(getattr(self.basis if name in BASIS else self, name)) for name in ARRAYS}


def fit(train_embeddings: np.ndarray, held_out: HeldOut, model_digest: str, settings: DriftSettings) -> DriftReference:
    """Whiten on [t, h] training embeddings; keep the held-out rows as the reference.

    Raises DataError for NaN, mismatched shapes and too few rows.
    """
    train = checked("training embeddings", train_embeddings)
    embeddings = checked("held-out embeddings", held_out.embeddings, train.shape[1])
    logits = checked("held-out logits", held_out.logits)
    columns = (logits, held_out.sources, held_out.ids, held_out.confidence, held_out.correct)
    if any(len(column) != len(embeddings) for column in columns):
        raise DataError("each held-out text must have an embedding, logits, source, id, confidence and correct")
    if len(train) < 2 or len(embeddings) < 4 or logits.shape[1] < 2:
        raise DataError("a drift reference needs at least two training rows, four held-out rows and two classes")
    basis = Basis.fit(train, embeddings, logits, settings.components)
    rows, layout = basis.project(embeddings, logits), basis.layout
    slices, head, further = np.split(rows, [layout.slices, layout.slices + layout.head], axis=1)
    sources = [str(source) for source in held_out.sources]
    statistic = named(settings.statistic)
    nulls = [
        stored_null(rows[group], layout, statistic, NULL_DRAWS, settings.seed) for group in groups(sources).values()
    ]
    return DriftReference(
        basis=basis,
        slices=slices,
        head=head,
        further=further,
        sources=sources,
        ids=[str(row) for row in held_out.ids],
        confidence=np.asarray(held_out.confidence, dtype=np.float32),
        correct=np.asarray(held_out.correct, dtype=bool),
        model_digest=model_digest,
        statistic=settings.statistic,
        **{name: np.array([getattr(null, name.removeprefix("null_")) for null in nulls]) for name in NULL},
    )


def groups(sources: Sequence[str]) -> dict[str, np.ndarray]:
    """Row numbers of what a window is compared with: all rows, and each large enough source if there are several."""
    of = np.array(sources)
    found = {ALL: np.arange(len(of))}
    if len(set(sources)) > 1:
        rows = {name: np.flatnonzero(of == name) for name in sorted(set(sources) - {ALL})}
        found |= {name: of_it for name, of_it in rows.items() if len(of_it) >= MINIMUM_SOURCE_ROWS}
    return found


def _read(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of the file and the digest it claims, both still to be compared."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in (*ARRAYS, "digest") if name not in archive.files]
            if missing:
                raise ModelFolderError(f"{path} holds no array {', '.join(missing)}; train the model again")
            return {name: archive[name] for name in ARRAYS}, str(archive["digest"])
    except FileNotFoundError as error:
        raise ModelFolderError(f"{path} does not exist; train the model again to make it") from error
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise ModelFolderError(f"{path} is damaged or not a drift reference; train the model again") from error


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 over name, type, shape and bytes of each array."""
    digest = hashlib.sha256()
    for name in ARRAYS:
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
