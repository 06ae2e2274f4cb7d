"""Unlabelled texts from a CSV file, and the digest of what a list of sources holds."""

import csv
import gzip
import hashlib
from collections.abc import Sequence
from pathlib import Path

from components.errors import DataError
from components.files import sha256_of
from components.storage import ObjectStore, is_s3, split_uri

TEXT_COLUMNS = ("text", "review", "reviews")


def text_column(columns: Sequence[str], wanted: str, where: str) -> str:
    """The name of the text column: `wanted`, or the first of text, review, reviews that is there.

    Raises DataError that names the columns there are.
    """
    for name in [wanted] if wanted else TEXT_COLUMNS:
        if name in columns:
            return name
    expected = wanted or " or ".join(TEXT_COLUMNS)
    raise DataError(f"{where} has no text column ({expected}); it has {', '.join(columns) or 'no columns'}")


def read_texts(path: str | Path, column: str = "") -> list[str]:
    """The text column of a UTF-8 CSV file (.gz too), empty rows left out. Raises DataError."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            name = text_column(reader.fieldnames or [], column, str(path))
            texts = [row[name] for row in reader if row[name] and row[name].strip()]
    except (UnicodeDecodeError, csv.Error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a UTF-8 CSV file: {error}") from error
    if not texts:
        raise DataError(f"{path} holds no texts")
    return texts


def digest_of(sources: Sequence[str]) -> str:
    """One hexadecimal digest of the content of files, folders and s3:// addresses; changes when any of it does."""
    total = hashlib.sha256()
    for source in sources:
        if is_s3(source):
            bucket, prefix = split_uri(source)
            for item in ObjectStore(bucket).list(prefix):
                total.update(f"{item.key}\0{item.etag}\0".encode())
            continue
        root = Path(source)
        if not root.exists():
            raise DataError(f"there is no {source}")
        for path in sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]:
            total.update(f"{path.relative_to(root).as_posix()}\0{sha256_of(path)}\0".encode())
    return total.hexdigest()
