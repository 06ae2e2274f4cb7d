"""What batch scoring writes: the input's columns, then the prediction's, as CSV or Parquet, zipped as the input was.

The same rows give the same bytes: no times, and one row group of Parquet or one gzip member for each chunk.
"""

import csv
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from components.batch.tables import PARQUET, Refused, is_zipped, kind_of
from components.classifier.classifier import PREDICTION_COLUMNS, Prediction
from components.data import csv_rows
from components.data.parquet_columns import plain

_TYPES = (pa.int64(), pa.string(), pa.float64(), pa.bool_(), pa.int64(), pa.string())
_QUARANTINE_COLUMNS = ("object", "row", "reason", "raw")
_WHOLE = 1 << 30  # rows of a row group: whatever is written at once is one


def name_of(name: str, wanted: str) -> str:
    """What the predictions of an input with that name are called; `wanted` is "same", "csv" or "parquet"."""
    kind = kind_of(name) if wanted == "same" else f".{wanted}"
    unzipped = kind == PARQUET and is_zipped(name)  # Parquet compresses by itself
    return f"{name}{kind}" if kind != kind_of(name) or unzipped else name


def encoded(rows: pa.Table, predictions: Sequence[Prediction], name: str, *, header: bool) -> bytes:
    """The rows with their predictions, as a part of the output with that name; a CSV's first part has the header."""
    columns = list(zip(*predictions, strict=True)) or [()] * len(_TYPES)
    for column, values, kind in zip(PREDICTION_COLUMNS, columns, _TYPES, strict=True):
        rows = rows.append_column(pa.field(column, kind), pa.array(values, kind))
    if kind_of(name) == PARQUET:
        file = io.BytesIO()
        pq.write_table(rows, file, row_group_size=_WHOLE)
        return file.getvalue()
    content = _csv(rows, header=header)
    return gzip.compress(content, mtime=0) if is_zipped(name) and content else content


def quarantined(refused: Sequence[Refused], source: str) -> bytes:
    """Lines of a quarantine file, without its header."""
    file = io.StringIO(newline="")
    csv_rows.writer(file).writerows([source, row.row or "", row.reason, row.raw] for row in refused)
    return file.getvalue().encode()


QUARANTINE_HEADER = (",".join(_QUARANTINE_COLUMNS) + "\n").encode()


class Output:
    """A file that encoded parts are written to, one after the other."""

    def __init__(self, path: Path, name: str) -> None:
        self._file = open(path, "wb")  # noqa: SIM115 (closed in __exit__)
        self._parquet: pq.ParquetWriter | None = None
        self._is_parquet = kind_of(name) == PARQUET

    def __enter__(self) -> "Output":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._parquet:
            self._parquet.close()
        self._file.close()

    def write(self, part: bytes) -> None:
        if not self._is_parquet:
            self._file.write(part)
            return
        with pq.ParquetFile(io.BytesIO(part)) as table:
            rows = table.read()
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(self._file, rows.schema)
        if len(rows):
            self._parquet.write_table(rows, row_group_size=_WHOLE)


def read_back(path: Path, name: str) -> Iterator[dict[str, str]]:
    """The rows of such a file, all values as CSV has them."""
    if kind_of(name) == PARQUET:
        with pq.ParquetFile(path, pre_buffer=False) as table:  # else it keeps all it has read
            for batch in table.iter_batches(batch_size=2048):
                for row in batch.to_pylist():
                    yield {column: _cell(value) for column, value in row.items()}
        return
    with _opened(path, name) as file:
        yield from csv.DictReader(file)


def _opened(path: Path, name: str) -> TextIO:
    if is_zipped(name):
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return open(path, encoding="utf-8", newline="")


def _csv(rows: pa.Table, *, header: bool) -> bytes:
    file = io.StringIO(newline="")
    writer = csv_rows.writer(file)
    if header:
        writer.writerow(rows.column_names)
    columns = [plain(column) for column in rows.columns]
    if all(pa.types.is_string(field.type) for field in list(rows.schema)[: -len(_TYPES)]):
        writer.writerows(zip(*columns, strict=True))
    else:
        writer.writerows([_cell(value) for value in row] for row in zip(*columns, strict=True))
    return file.getvalue().encode()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)
