"""Parts: what scoring one chunk of one version of an object gave, an object each, so that no chunk is scored twice.

    ledger/batch/<name>/<entity tag>-<model version>/<settings>/<number of the chunk>.npz

A part appears whole or not at all, once, with all that is known of its rows. Parts are removed when their object is
done; whoever still wants one then finds the manifest.
"""

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.batch import outputs
from components.batch.sample import Drawn
from components.batch.tables import PARQUET, Chunk, kind_of
from components.classifier.classifier import Classifier
from components.errors import ConflictError, DataError, StorageError
from components.storage import ObjectStore

SUFFIX = ".npz"


@dataclass(frozen=True)
class Part:
    """A chunk's predictions and quarantined rows, encoded; how many; what it drew for the drift check."""

    output: bytes
    quarantine: bytes
    rows: int
    quarantined: int
    kept: dict[str, NDArray]


def score(chunk: Chunk, drawn: Drawn, classifier: Classifier, source: str, output: str, *, first: bool) -> Part:
    """Score a chunk of the object `source`; `output` is the name of the file that the part is for.

    Raises DataError if it has a column that cannot be written there.
    """
    scores = classifier.score(chunk.texts) if chunk.texts else None
    predictions = classifier.predictions(scores) if scores else []
    try:
        encoded = outputs.encoded(chunk.rows, predictions, output, header=first)
    except pa.ArrowException as error:  # types of columns are without number
        why = " ".join(str(error).split())[:200]
        raise DataError(
            f"the columns of {source} cannot be written as {'Parquet' if kind_of(output) == PARQUET else 'CSV'}: {why}"
        ) from error
    return Part(
        output=encoded,
        quarantine=outputs.quarantined(chunk.refused, source),
        rows=len(chunk.texts),
        quarantined=len(chunk.refused),
        kept=drawn.columns(scores) if scores else {},
    )


class Parts:
    """The parts of one version of an object."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store, self._prefix = store, prefix

    def has(self, number: int) -> bool:
        return self._store.head(self.key(number)) is not None

    def missing(self, count: int) -> int:
        """How many of the first `count` are not there."""
        there = {item.key for item in self._store.list(self._prefix)}
        return sum(self.key(number) not in there for number in range(count))

    def write(self, number: int, part: Part) -> None:
        """What another worker has written of the same chunk stays as it is."""
        arrays = {"output": _array(part.output), "quarantine": _array(part.quarantine)}
        counts = np.array([part.rows, part.quarantined], dtype=np.int64)
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, counts=counts, **arrays, **{f"kept_{k}": v for k, v in part.kept.items()})
        try:
            self._store.put(self.key(number), file.getvalue(), only_if_new=True)
        except ConflictError:
            return

    def read(self, count: int) -> Iterator[Part]:
        """The first `count`, in order. ConflictError if one is gone: somebody else has finished the object."""
        for number in range(count):
            found = self._store.get(self.key(number))
            if found is None:
                raise ConflictError(f"{self._store.uri(self.key(number))} was removed by somebody else")
            yield self._decoded(self.key(number), found[0])

    def _decoded(self, key: str, content: bytes) -> Part:
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                kept = {name.removeprefix("kept_"): arrays[name] for name in arrays.files if name.startswith("kept_")}
                rows, quarantined = (int(count) for count in arrays["counts"])
                return Part(arrays["output"].tobytes(), arrays["quarantine"].tobytes(), rows, quarantined, kept)
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise StorageError(
                f"{self._store.uri(key)} is damaged; delete it, and its rows are scored again"
            ) from error

    def key(self, number: int) -> str:
        return f"{self._prefix}{number:06d}{SUFFIX}"


def _array(content: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(content, dtype=np.uint8)
