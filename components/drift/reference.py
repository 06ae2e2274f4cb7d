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
from components.errors import DataError, ModelFolderError

# A principal component with less than this share of the first one's standard deviation is noise or constant;
# dividing by its own deviation would turn rounding errors into drift.
RELATIVE_FLOOR = 1e-3
ABSOLUTE_FLOOR = 1e-6
# Slices end here, in standard deviations: one wild text would otherwise dominate the squared distance of every
# permutation and hide the drift of all the others.
LIMIT = 6.0
# A test's fixed reference biases all its p-values alike; in a window this much smaller the bias does not show.
REFERENCE_TO_WINDOW = 10
ARRAYS = (
    *("mean", "components", "head_mean", "head_deviation", "slices", "head"),
    *("sources", "ids", "confidence", "correct", "model_digest"),
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

    mean: np.ndarray
    """[h], mean training embedding."""
    components: np.ndarray
    """[h, d], principal directions divided by their (floored) standard deviations."""
    head_mean: np.ndarray
    """[k'], mean margin of the held-out rows."""
    head_deviation: np.ndarray
    """[k'], standard deviation of those margins, floored."""
    slices: np.ndarray
    """[R, d] float32, held-out embeddings in units of training standard deviations."""
    head: np.ndarray
    """[R, k'] float32, standardised margins; k' = 1 for two classes, else k."""
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

    @property
    def largest_window(self) -> int:
        """Most rows of a window in a series of checks against this one reference: a tenth of its rows."""
        return len(self.slices) // REFERENCE_TO_WINDOW

    def refuse_other_model(self, model_digest: str) -> None:
        """DataError unless the embeddings to be tested are from the model that made the reference."""
        if model_digest != self.model_digest:
            raise DataError(
                f"the embeddings are of model {model_digest[:12]}, the drift reference is of model "
                f"{self.model_digest[:12]}; score the texts again with the reference's own model"
            )

    def project(self, embeddings: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """[n, h] embeddings and [n, k] logits as [n, d + k'] float32 slices; DataError for other widths and NaN."""
        embeddings = _checked("embeddings", embeddings, len(self.mean))
        width = len(self.head_mean)
        logits = _checked("logits", logits, 2 if width == 1 else width)
        if len(embeddings) != len(logits):
            raise DataError(f"{len(embeddings)} rows of embeddings but {len(logits)} rows of logits; pass one of each")
        head = (_margins(logits) - self.head_mean) / self.head_deviation
        return np.hstack([_slices((embeddings - self.mean) @ self.components), _slices(head)])

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
        names = {name: arrays[name].tolist() for name in ("sources", "ids", "model_digest")}
        return cls(**(arrays | names))

    def _arrays(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(getattr(self, name)) for name in ARRAYS}


def fit(train_embeddings: np.ndarray, held_out: HeldOut, model_digest: str, settings: DriftSettings) -> DriftReference:
    """Whiten on [t, h] training embeddings; keep the held-out rows as the reference.

    Raises DataError for NaN, mismatched shapes and fewer than two rows of either kind.
    """
    train = _checked("training embeddings", train_embeddings)
    embeddings = _checked("held-out embeddings", held_out.embeddings, train.shape[1])
    logits = _checked("held-out logits", held_out.logits)
    columns = (logits, held_out.sources, held_out.ids, held_out.confidence, held_out.correct)
    if any(len(column) != len(embeddings) for column in columns):
        raise DataError("each held-out text must have an embedding, logits, source, id, confidence and correct")
    if min(len(train), len(embeddings)) < 2 or logits.shape[1] < 2:
        raise DataError("a drift reference needs at least two training rows, two held-out rows and two classes")
    mean, components = _whitening(train, settings.components)
    margins = _margins(logits)
    head_mean, head_deviation = margins.mean(axis=0), np.maximum(margins.std(axis=0), ABSOLUTE_FLOOR)
    return DriftReference(
        mean=mean,
        components=components,
        head_mean=head_mean,
        head_deviation=head_deviation,
        slices=_slices((embeddings - mean) @ components),
        head=_slices((margins - head_mean) / head_deviation),
        sources=[str(source) for source in held_out.sources],
        ids=[str(row) for row in held_out.ids],
        confidence=np.asarray(held_out.confidence, dtype=np.float32),
        correct=np.asarray(held_out.correct, dtype=bool),
        model_digest=model_digest,
    )


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


def _slices(values: np.ndarray) -> np.ndarray:
    return np.clip(values, -LIMIT, LIMIT).astype(np.float32)


def _checked(name: str, values: np.ndarray, width: int | None = None) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or (width is not None and values.shape[1] != width):
        found = "x".join(str(size) for size in values.shape)
        raise DataError(f"{name} must be rows of {width or 'numbers'} columns, found shape {found}; use the same model")
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise DataError(f"{name} hold NaN or infinity in {len(bad)} rows, first in row {bad[0]}; remove those rows")
    return values


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
