"""The payload log: a sample of what model servers were asked and answered, in Parquet parts; the drift check reads it.

    payload/<model version>/<writer>/<time written>-<first>-<end>.parquet    (.text.parquet where texts are kept)

Every server process is a writer of its own, so any number of them write side by side. It numbers the rows of a model
version from 0 on, and a part holds those from `first` to before `end`, in the order in which they arrived. A number
that is in no part was dropped. Parts are written once and never changed.
"""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.classifier.classifier import PREDICTION_COLUMNS, Prediction
from components.errors import DataError
from components.storage import ObjectStore

PREFIX = "payload/"
_TIME = "%Y%m%dT%H%M%S%f"
_SUFFIX, _TEXT_SUFFIX = ".parquet", ".text.parquet"
_KEY = re.compile(rf"({PREFIX}[^/]+/[^/]+/)((\d{{8}}T\d{{12}})-(\d+)-(\d+)(?:\.text)?\.parquet)", re.ASCII)


@dataclass(frozen=True)
class PayloadRow:
    """A text that was asked about, and what was answered."""

    id: str
    """Of the request; where that had several texts, followed by / and the text's place in it."""
    received: float
    """Seconds since 1970."""
    text: str | None
    """As the model read it; None: not kept."""
    prediction: Prediction
    embedding: NDArray[np.float32]
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class PayloadPart:
    """What the key of a part says."""

    series: str
    """The start of the keys of all parts of its writer and model version."""
    name: str
    """The rest of its key; names of a series are in the order in which they were written."""
    written: datetime
    first: int
    end: int

    @property
    def key(self) -> str:
        return self.series + self.name

    @property
    def has_text(self) -> bool:
        return self.name.endswith(_TEXT_SUFFIX)


def key_of(model_version: str, writer: str, written: datetime, first: int, rows: Sequence[PayloadRow]) -> str:
    """Key of a part whose first row has that number."""
    suffix = _SUFFIX if rows[0].text is None else _TEXT_SUFFIX
    numbers = f"{first:012d}-{first + len(rows):012d}"
    return f"{PREFIX}{model_version}/{writer}/{written.strftime(_TIME)}-{numbers}{suffix}"


def parse(key: str) -> PayloadPart | None:
    """The inverse of `key_of`; None if it is no part's key."""
    found = _KEY.fullmatch(key)
    if not found:
        return None
    series, name, written, first, end = found.groups()
    return PayloadPart(series, name, datetime.strptime(written, _TIME).replace(tzinfo=UTC), int(first), int(end))


def parts(store: ObjectStore, prefix: str = PREFIX) -> Iterator[tuple[PayloadPart, str]]:
    """The parts whose keys start with `prefix` and their entity tags, in the order of the keys."""
    for item in store.list(prefix):
        part = parse(item.key)
        if part:
            yield part, item.etag


def encoded(rows: Sequence[PayloadRow]) -> bytes:
    """At least one row, all of one model and all with a text or all without, as Parquet."""
    columns: dict[str, pa.Array] = {
        "id": pa.array([row.id for row in rows]),
        "received": pa.array([int(row.received * 1e6) for row in rows], pa.timestamp("us", tz="UTC")),
    }
    if rows[0].text is not None:
        columns["text"] = pa.array([row.text for row in rows])
    for name in PREDICTION_COLUMNS:
        columns[name] = pa.array([getattr(row.prediction, name) for row in rows])
    columns["embedding"] = _vectors([row.embedding for row in rows])
    columns["logits"] = _vectors([row.logits for row in rows])
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def _vectors(rows: Sequence[NDArray[np.float32]]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(rows)), len(rows[0]))


def load(store: ObjectStore, key: str) -> tuple[pa.Table, str] | None:
    """(the part, its entity tag), or None if there is no such object. Raises DataError if it is damaged."""
    found = store.get(key)
    if found is None:
        return None
    try:
        table = pq.read_table(pa.BufferReader(found[0]))
        table.select(["id", "embedding", "logits"])
    except (pa.ArrowException, KeyError, OSError) as error:
        raise DataError(f"{store.uri(key)} is damaged; delete it, and its rows count for nothing") from error
    return table, found[1]


def vectors(table: pa.Table, column: str) -> NDArray[np.float32]:
    """[rows, dimension] of the column embedding or logits."""
    return table[column].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
