"""Rows of a Parquet file, read a step at a time in bounded memory, whatever the file holds."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import pyarrow as pa
import pyarrow.parquet as pq

from components.data.csv_rows import MOST_RECORD_BYTES, SHOWN_BYTES
from components.data.parquet_columns import plain


@dataclass(frozen=True)
class Rows:
    """Rows that follow each other, less those that are longer than a record of CSV may be."""

    rows: pa.RecordBatch
    numbers: list[int]
    """Of `rows`, from 1."""
    long: list[tuple[int, str]]
    """Number and beginning of each of the others."""

    @property
    def count(self) -> int:
        return len(self.numbers) + len(self.long)


def steps(table: pq.ParquetFile, step: int, at_once: int, most_bytes: int) -> Iterator[Rows]:
    """All rows, `step` at a time as pyarrow would give them, or fewer where they take more than `most_bytes`.

    They are read fewer at a time, `at_once`, and put together: what they take is known only once they are read.
    """
    at_once = next(count for count in range(min(step, at_once), 0, -1) if step % count == 0)
    ends: set[int] = set()  # where pyarrow ends a step before it is whole
    if any(pa.types.is_dictionary(kind) for kind in table.schema_arrow.types):
        ends.update(accumulate(table.metadata.row_group(i).num_rows for i in range(table.metadata.num_row_groups)))
    waiting: list[Rows] = []
    before = 0
    for batch in table.iter_batches(batch_size=at_once):
        for piece in _pieces(batch, before, most_bytes):
            waiting.append(piece)
            before += piece.count
            whole = at_once == step or before % step == 0 or before in ends
            if whole or sum(read.rows.nbytes for read in waiting) >= most_bytes:
                yield _joined(waiting)
                waiting = []
    if waiting:
        yield _joined(waiting)


def as_json(rows: pa.Table | pa.RecordBatch, i: int) -> str:
    """A row, with what JSON has not as text."""
    columns = {name: column.slice(i, 1) for name, column in zip(rows.schema.names, rows.columns, strict=True)}
    return json.dumps({name: plain(column)[0] for name, column in columns.items()}, ensure_ascii=False, default=str)


def _joined(read: list[Rows]) -> Rows:
    if len(read) == 1:
        return read[0]
    numbers = [number for piece in read for number in piece.numbers]
    return Rows(
        pa.concat_batches([piece.rows for piece in read]), numbers, [row for piece in read for row in piece.long]
    )


def _pieces(batch: pa.RecordBatch, before: int, most_bytes: int) -> Iterator[Rows]:
    """The batch less its long rows; in pieces where it is larger than `most_bytes` and a row."""
    if batch.nbytes <= MOST_RECORD_BYTES:
        yield Rows(batch, list(range(before + 1, before + len(batch) + 1)), [])
        return
    cells = [_sizes(column) for column in batch.columns]
    sizes = [sum(of_row) for of_row in zip(*cells, strict=True)]
    whole = sum(size for size in sizes if size <= MOST_RECORD_BYTES) <= most_bytes + MOST_RECORD_BYTES
    good: list[int] = []
    long: list[tuple[int, str]] = []
    held = 0
    for i, size in enumerate(sizes):
        if size <= MOST_RECORD_BYTES:
            good.append(i)
            held += size
        else:
            shown = [column for column, of_rows in enumerate(cells) if of_rows[i] <= SHOWN_BYTES]
            long.append((before + i + 1, as_json(batch.select(shown), i)))
        if i + 1 == len(sizes) or (held >= most_bytes and not whole):
            rows = batch if len(good) == len(batch) else batch.take(pa.array(good, pa.int64()))
            yield Rows(rows, [before + place + 1 for place in good], long)
            good, long, held = [], [], 0


def _sizes(column: pa.Array) -> list[int]:
    """Bytes that each value takes; of a dictionary, whoever reads it has them all."""
    if pa.types.is_dictionary(column.type):
        places = column.indices.to_pylist()
        return [0 if place is None else column.dictionary.slice(place, 1).nbytes for place in places]
    return [column.slice(i, 1).nbytes for i in range(len(column))]
