"""Reads labelled texts: aclImdb folders and archives, CSV and Parquet, on disk or in the object store."""

import contextlib
import gzip
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NoReturn, cast

import pyarrow as pa
import pyarrow.parquet as pq

from components.classifier.labels import LabelSet
from components.config import DataSettings
from components.data.csv_rows import records
from components.data.parquet_columns import decoded, require_text
from components.errors import DataError
from components.storage import ObjectStore, is_s3, split_uri

TEXT_COLUMNS = ("text", "review", "reviews")
ARCHIVES = (".tar.gz", ".tgz")
TABLES = (".csv", ".csv.gz", ".parquet")
LABEL_SOURCES = ("human", "delayed", "pseudo")


@dataclass(frozen=True)
class RawRow:
    """One row as it was found. `reason`: why it cannot be read, or empty. `split`: test where the source says so."""

    file: str
    row: str
    text: str
    label: str = ""
    id: str = ""
    source: str = ""
    label_source: str = "human"
    split: str = ""
    reason: str = ""


def read(location: str, settings: DataSettings) -> Iterator[RawRow]:
    """Every row at a path or s3:// address, in a fixed order. DataError if nothing there can be read."""
    with _local(location) as path:
        if not path.exists():
            raise DataError(f"{location} does not exist; give a folder, a .tar.gz, a CSV or a Parquet file")
        yield from _read_folder(path, settings) if path.is_dir() else _read_file(path, settings)


@contextlib.contextmanager
def _local(location: str) -> Iterator[Path]:
    """The location on disk: itself, or an s3:// object or prefix, downloaded for as long as needed."""
    if not is_s3(location):
        yield Path(location)
        return
    bucket, key = split_uri(location)
    store = ObjectStore(bucket)
    with tempfile.TemporaryDirectory(prefix="everbert-") as folder:
        path = Path(folder) / (PurePosixPath(key).name or bucket)
        if key and not key.endswith("/") and store.head(key):
            store.download(key, path)
        else:
            store.download_folder(key, path)
        yield path


def _read_folder(folder: Path, settings: DataSettings) -> Iterator[RawRow]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    tables = [path for path in files if path.name.endswith(TABLES + ARCHIVES)]
    texts = [path for path in files if path.suffix == ".txt"]
    if not tables and not texts:
        raise DataError(f"{folder} holds no reviews: no pos/ and neg/ folders with .txt files, no CSV, no Parquet")
    labels = LabelSet(settings.labels)
    for path in texts:
        name = PurePosixPath(path.relative_to(folder.parent).as_posix())
        if _is_review(name):
            yield _review(name, path.read_bytes(), folder.name, labels)
    for path in tables:
        yield from _read_file(path, settings)


def _read_file(path: Path, settings: DataSettings) -> Iterator[RawRow]:
    if path.name.endswith(ARCHIVES):
        return _read_archive(path, settings)
    if path.name.endswith(".parquet"):
        return _read_parquet(path, settings)
    if path.name.endswith((".csv", ".csv.gz")):
        return _read_csv(path, settings)
    raise DataError(f"{path} is not a .tar.gz, .csv, .csv.gz or .parquet file")


def _read_archive(path: Path, settings: DataSettings) -> Iterator[RawRow]:
    labels, stem = LabelSet(settings.labels), _stem(path)
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                content = archive.extractfile(member) if member.isfile() and _is_review(name) else None
                if content:
                    yield _review(name, content.read(), stem, labels)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not a whole .tar.gz archive ({error}); fetch it again") from error


def _is_review(name: PurePosixPath) -> bool:
    return name.suffix == ".txt" and len(name.parts) >= 2 and name.parts[-2] not in {"train", "test", "unsup"}


def _review(name: PurePosixPath, content: bytes, source: str, labels: LabelSet) -> RawRow:
    label = name.parts[-2]
    split = "test" if len(name.parts) > 2 and name.parts[-3] == "test" else ""
    place = "/".join(name.parts[-3:-1])
    try:
        text, reason = content.decode("utf-8"), ""
    except UnicodeDecodeError:
        text, reason = content.decode("utf-8", "replace"), "not UTF-8"
    return RawRow(source, str(name), text, label, f"{place}/{name.stem}", source, "human", split, reason)


def _read_csv(path: Path, settings: DataSettings) -> Iterator[RawRow]:
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else open(path, "rb") as file:
            rows = records(cast(BinaryIO, file))
            _, header, reason, _ = next(rows, (1, None, "it is empty", b""))
            if header is None:
                raise DataError(f"{path} has no readable header line: {reason}; it names the columns, text and label")
            columns = _Columns(path, header, settings)
            for number, fields, reason, raw in rows:
                if fields is None:
                    yield RawRow(path.name, str(number), raw.decode("utf-8", "replace").rstrip("\r\n"), reason=reason)
                else:
                    yield columns.row(str(number), fields)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _read_parquet(path: Path, settings: DataSettings) -> Iterator[RawRow]:
    before = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:  # else the whole file is in memory
            columns = _Columns(path, file.schema_arrow.names, settings)
            require_text(file.schema_arrow.field(columns.text), str(path))
            names = [name for name in file.schema_arrow.names if name in columns.used]
            columns = _Columns(path, names, settings)
            for batch in file.iter_batches(batch_size=2048, columns=names):
                values, damaged = zip(*(decoded(column) for column in batch.columns), strict=True)
                not_utf8 = set[int]().union(*damaged)
                for i, fields in enumerate(zip(*values, strict=True)):
                    row = columns.row(str(before + i + 1), [_field(value) for value in fields])
                    yield replace(row, reason="not UTF-8") if i in not_utf8 else row
                before += len(batch)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error


def _field(value: object) -> str:
    """A value of a Parquet file as CSV has it."""
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class _Columns:
    """Which column of a table holds what."""

    def __init__(self, path: Path, header: Sequence[str], settings: DataSettings) -> None:
        self._file, self._stem = path.name, _stem(path)
        places = {name.strip().casefold(): i for i, name in reversed(list(enumerate(header)))}
        wanted = (settings.text_column,) if settings.text_column else TEXT_COLUMNS
        text = next((places[w.casefold()] for w in wanted if w.casefold() in places), None)
        if text is None:
            _no_column(path, "text", " or ".join(wanted), header)
        label = places.get(settings.label_column.casefold())
        if label is None:
            _no_column(path, "label", settings.label_column, header)
        self.text, self._label = text, label
        self._id, self._source, self._label_source = (places.get(name) for name in ("id", "source", "label_source"))
        taken = (self.text, self._label, self._id, self._source, self._label_source)
        self.used = {header[i] for i in taken if i is not None}

    def row(self, number: str, fields: Sequence[str]) -> RawRow:
        def value(place: int | None) -> str:
            return "" if place is None else fields[place]

        label_source = value(self._label_source).strip() or "human"
        reason = "" if label_source in LABEL_SOURCES else f"label_source is not one of {', '.join(LABEL_SOURCES)}"
        source = value(self._source).strip() or self._stem
        return RawRow(
            self._file, number, fields[self.text], fields[self._label], value(self._id).strip(), source, label_source,
            "", reason,
        )  # fmt: skip


def _no_column(path: Path, what: str, wanted: str, header: Sequence[str]) -> NoReturn:
    raise DataError(
        f"{path} has no {what} column ({wanted}); its columns are {', '.join(header)}; name one with --{what}-column"
    )


def _stem(path: Path) -> str:
    for suffix in ARCHIVES + TABLES:
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.stem
