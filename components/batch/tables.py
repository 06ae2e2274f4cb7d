"""Tables as batch scoring reads them: CSV and Parquet, zipped or not, a chunk of rows in memory at a time.

Where a chunk ends depends on the content and on `most_rows` alone, so that whoever reads the object again, from the
start or after a crash, scores the same rows together.
"""

import contextlib
import gzip
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from components.batch import parquet_pages, parquet_rows
from components.classifier.classifier import PREDICTION_COLUMNS
from components.classifier.text import clean
from components.data.csv_rows import TOO_LONG, records
from components.data.parquet_columns import bytes_of, require_text
from components.data.texts import text_column
from components.errors import DataError

CSV, PARQUET = ".csv", ".parquet"
_GZIP, _GZIP_MAGIC = ".gz", b"\x1f\x8b"
MOST_BYTES = 8 << 20  # of a chunk: it ends there though it could hold more rows
MOST_UNZIPPED = 1 << 30  # of a zipped Parquet file, which takes disk
STEP_ROWS = 64  # of a Parquet file at a time: what they take in memory is seen only once they are decoded


@dataclass(frozen=True)
class Refused:
    """A row that cannot be scored: its number (a CSV's line, a Parquet file's row, from 1), why, and what it is."""

    row: int
    reason: str
    raw: str


@dataclass(frozen=True)
class Chunk:
    """The next rows of a table: those that can be scored, with all their columns, and those that cannot."""

    rows: pa.Table
    texts: list[str]
    refused: list[Refused]


def kind_of(name: str) -> str:
    """CSV or PARQUET by the end of a name, zipped or not; empty if it is neither."""
    name = name.lower().removesuffix(_GZIP)
    return next((kind for kind in (CSV, PARQUET) if name.endswith(kind)), "")


def stem_of(name: str) -> str:
    """The name without what says of which kind it is."""
    kind = kind_of(name)
    return name[: name.lower().rindex(kind)] if kind else name


def is_zipped(name: str) -> bool:
    return name.lower().endswith(_GZIP)


def chunks(path: Path, name: str, most_rows: int, column: str = "") -> Iterator[Chunk]:
    """All rows of the file at `path`, at least one chunk. `name` says what the file is, and stands in every message.

    Raises DataError, in one line, if it cannot be read as what it is, has no text column, or has a prediction's.
    """
    kind = kind_of(name)
    if not kind:
        raise DataError(f"{name} is neither CSV nor Parquet: its name must end in .csv, .csv.gz or .parquet")
    try:
        with _unzipped(path, name) as file:
            read = _csv_chunks if kind == CSV else _parquet_chunks
            yield from read(file, name, most_rows, column)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{name} is not a whole gzip file: {error}") from error


@contextlib.contextmanager
def _unzipped(path: Path, name: str) -> Iterator[BinaryIO]:
    """The file, read through gzip if its name or its content says so. Parquet is unzipped to a temporary file, which
    has a limit: it is not read from front to back."""
    with open(path, "rb") as file:
        zipped = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC or is_zipped(name)
        file.seek(0)
        if not zipped:
            yield file
            return
        with gzip.open(file) as content:
            if kind_of(name) == CSV:
                yield cast(BinaryIO, content)
                return
            with tempfile.TemporaryFile() as whole:
                while block := content.read(MOST_BYTES):
                    if whole.tell() + len(block) > MOST_UNZIPPED:
                        raise DataError(
                            f"{name} takes more than {MOST_UNZIPPED >> 20} MB unzipped; Parquet compresses by itself, "
                            "so bring it as .parquet"
                        )
                    whole.write(block)
                yield whole


def _csv_chunks(file: BinaryIO, name: str, most_rows: int, column: str) -> Iterator[Chunk]:
    read = records(file)
    _, header, reason, _ = next(read, (1, None, "the file is empty", b""))
    if header is None:
        raise DataError(f"{name} has no readable header: {reason}")
    place = _text_place(header, column, name)
    accepted: list[list[str]] = []
    refused: list[Refused] = []
    size = 0

    def chunk() -> Chunk:
        columns = list(zip(*accepted, strict=True)) or [()] * len(header)
        rows = pa.Table.from_arrays([pa.array(values, pa.string()) for values in columns], names=header)
        return Chunk(rows, [fields[place] for fields in accepted], refused)

    first = True
    for number, fields, reason, raw in read:
        if len(accepted) + len(refused) == most_rows or size >= MOST_BYTES:
            yield chunk()
            accepted, refused, size, first = [], [], 0, False
        size += len(raw)
        if fields is not None and clean(fields[place]):
            accepted.append(fields)
        else:
            refused.append(Refused(number, reason or "no text", raw.decode("utf-8", "replace").rstrip("\r\n")))
    if first or accepted or refused:
        yield chunk()


def _parquet_chunks(file: BinaryIO, name: str, most_rows: int, column: str) -> Iterator[Chunk]:
    try:
        with pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as table:  # else it keeps all it has read
            place = _text_place(table.schema_arrow.names, column, name)
            require_text(table.schema_arrow.field(place), name)
            at_once = parquet_pages.rows_at_once(file, table.metadata, name)
            yield from _parquet_rows(table, place, most_rows, at_once)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:  # a column's name may be no UTF-8
        if isinstance(error, gzip.BadGzipFile):
            raise
        raise DataError(f"{name} is not a readable Parquet file: {' '.join(str(error).split())[:200]}") from error


def _parquet_rows(table: pq.ParquetFile, place: int, most_rows: int, at_once: int) -> Iterator[Chunk]:
    groups = [table.metadata.row_group(i) for i in range(table.metadata.num_row_groups)]
    row_bytes = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=1)  # as encoded
    step = min(most_rows, STEP_ROWS, max(1, int(MOST_BYTES / max(row_bytes, 1))))
    waiting: list[parquet_rows.Rows] = []
    before = rows = size = 0
    for read in parquet_rows.steps(table, step, at_once, MOST_BYTES):
        waiting.append(read)
        rows, size = rows + read.count, size + read.rows.nbytes
        if rows + step > most_rows or size + step * size / rows > MOST_BYTES:  # as large rows again would be too much
            yield _parquet_chunk(waiting, place)
            waiting, before, rows, size = [], before + rows, 0, 0
    if waiting:
        yield _parquet_chunk(waiting, place)
    if before + rows == 0:
        yield Chunk(table.schema_arrow.empty_table(), [], [])


def _parquet_chunk(read: list[parquet_rows.Rows], place: int) -> Chunk:
    rows = pa.Table.from_batches([piece.rows for piece in read])
    numbers = [number for piece in read for number in piece.numbers]
    refused = [Refused(number, TOO_LONG, raw) for piece in read for number, raw in piece.long]
    texts: list[str] = []
    accepted: list[bool] = []
    for i, value in enumerate(bytes_of(rows.column(place))):
        try:
            text, reason = (value or b"").decode("utf-8"), "no text"
        except UnicodeDecodeError:
            text, reason = "", "not UTF-8"
        accepted.append(bool(clean(text)))
        if accepted[-1]:
            texts.append(text)
        else:
            refused.append(Refused(numbers[i], reason, parquet_rows.as_json(rows, i)))
    kept = rows if all(accepted) else rows.filter(pa.array(accepted))
    return Chunk(kept, texts, sorted(refused, key=lambda row: row.row))


def _text_place(header: list[str], column: str, name: str) -> int:
    taken = [known for known in header if known in PREDICTION_COLUMNS]
    if taken:
        raise DataError(f"{name} already has a column {taken[0]}; rename it, the prediction's would be lost in it")
    return header.index(text_column(header, column, name))
