"""Cleaned rows on disk, and a few numbers about each of them in memory."""

import hashlib
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from components.data.data_set import SCHEMA
from components.data.duplicates import BANDS, signatures

CHUNK = 2000
SPOOL_SCHEMA = pa.schema([*SCHEMA, ("file", pa.string()), ("row", pa.string())])
Row = dict[str, Any]


def hash_of(*parts: object) -> int:
    """64 bits that depend on every part and on nothing else."""
    return int.from_bytes(hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest(), "little")


class Spool:
    """Rows go to a Parquet file chunk by chunk; what decides about them (97 bytes each) stays in memory."""

    def __init__(self, path: Path, seed: int) -> None:
        self._path, self._seed = path, seed
        self._writer = pq.ParquetWriter(path, SPOOL_SCHEMA, compression="zstd")
        self._waiting: list[Row] = []
        self._bands = array("I")
        self._sources: dict[str, int] = {}
        self._text, self._order, self._content = array("Q"), array("Q"), array("Q")
        self._label, self._source, self._given = array("i"), array("i"), array("b")
        self._old, self._pseudo = array("b"), array("b")

    def __len__(self) -> int:
        return len(self._text)

    def add(self, row: Row, given: int, old: bool) -> None:
        """`given`: the split that the row must go to, or -1. `old`: it comes from the replayed data set."""
        self._text.append(hash_of(row["text"]))
        self._order.append(hash_of(self._seed, row["text"]))
        self._content.append(hash_of(*(row[name] for name in SCHEMA.names)))
        self._label.append(row["label"])
        self._source.append(self._sources.setdefault(row["source"], len(self._sources)))
        self._given.append(given)
        self._old.append(old)
        self._pseudo.append(row["label_source"] == "pseudo")
        self._waiting.append(row)
        if len(self._waiting) >= CHUNK:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._bands.frombytes(signatures([row["text"] for row in self._waiting]).tobytes())
            self._writer.write_table(pa.Table.from_pylist(self._waiting, SPOOL_SCHEMA))
            self._waiting = []

    def numbers(self) -> dict[str, npt.NDArray]:
        """Arrays of shape (rows,): text, order, content (hashes), label, source, given, old, pseudo; bands is 2-d.

        Source codes follow the names' alphabetical order, so they do not depend on the order of the rows. The bands
        are given away, to be forgotten when they have been used.
        """
        names = sorted(self._sources)
        rank = np.zeros(len(names), dtype=np.int32)
        rank[[self._sources[name] for name in names]] = np.arange(len(names))
        bands, self._bands = self._bands, array("I")
        return {
            **{name: np.frombuffer(getattr(self, f"_{name}"), np.uint64) for name in ("text", "order", "content")},
            **{name: np.frombuffer(getattr(self, f"_{name}"), np.bool_) for name in ("old", "pseudo")},
            "label": np.frombuffer(self._label, np.int32),
            "given": np.frombuffer(self._given, np.int8),
            "source": rank[np.frombuffer(self._source, np.int32)],
            "bands": np.frombuffer(bands, np.uint32).reshape(-1, BANDS),
        }

    def chunks(self) -> Iterator[tuple[int, pa.Table]]:
        """(number of the first row, rows) of each chunk, in order."""
        start = 0
        with pq.ParquetFile(self._path) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                yield start, table
                start += len(table)

    def texts(self, rows: npt.NDArray[np.int64]) -> Mapping[int, str]:
        """The texts of these row numbers (ascending)."""
        found: dict[int, str] = {}
        with pq.ParquetFile(self._path) as file:
            for group in np.unique(rows // CHUNK).tolist():
                column = file.read_row_group(group, columns=["text"]).column("text")
                for row in rows[rows // CHUNK == group].tolist():
                    found[row] = column[row - group * CHUNK].as_py()
        return found
