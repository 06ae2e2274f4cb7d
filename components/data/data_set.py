"""The data set folder: three splits and a description, as prepare wrote them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.classifier.labels import LabelSet
from components.errors import DataError

DATASET_FILE = "dataset.json"
QUARANTINE_FILE = "quarantine.csv"
SPLITS = ("train", "validation", "test")
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("label", pa.int64()),
        ("source", pa.string()),
        ("label_source", pa.string()),
    ]
)


@dataclass(frozen=True)
class DataSet:
    """A folder that prepare wrote. `description` is the content of its dataset.json."""

    folder: Path
    description: Mapping[str, Any]

    @classmethod
    def load(cls, folder: str | Path) -> "DataSet":
        """The data set at `folder`. Raises DataError if a part is missing or damaged."""
        folder = Path(folder)
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder; expected a data set that `everbert prepare` wrote")
        path = folder / DATASET_FILE
        if not path.is_file():
            raise DataError(f"{folder} holds no {DATASET_FILE}; expected a data set that `everbert prepare` wrote")
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
            missing = {"digest", "labels"} - set(description)
        except (ValueError, TypeError) as error:
            raise DataError(f"{path} is not readable as JSON; run `everbert prepare` again") from error
        if missing or not isinstance(description, dict):
            raise DataError(f"{path} lacks {' and '.join(sorted(missing))}; run `everbert prepare` again")
        for split in SPLITS:
            _check_split(folder / f"{split}.parquet")
        return cls(folder, description)

    @property
    def labels(self) -> LabelSet:
        return LabelSet(self.description["labels"])

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the rows and the labels' names; equal ones give equal digests."""
        return str(self.description["digest"])

    def frame(self, split: str) -> pd.DataFrame:
        """The rows of train, validation or test: id, text, label, source, label_source."""
        if split not in SPLITS:
            raise DataError(f"there is no split {split!r}; the splits are {', '.join(SPLITS)}")
        table = pq.read_table(self.folder / f"{split}.parquet", columns=SCHEMA.names)
        return table.to_pandas()


def _check_split(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path.parent} holds no {path.name}; run `everbert prepare` again")
    try:
        found = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file; run `everbert prepare` again") from error
    missing = [name for name in SCHEMA.names if name not in found.names]
    if missing:
        raise DataError(f"{path} lacks the column {', '.join(missing)}; run `everbert prepare` again")
