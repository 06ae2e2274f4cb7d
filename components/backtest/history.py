"""The history that policies are replayed on: labelled rows in the order of time, cut into windows, some held out."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from components.classifier.labels import LabelSet
from components.config import DataSettings
from components.data.data_set import DataSet
from components.data.prepare import prepare
from components.data.sources import read
from components.drift.labels import as_csv
from components.errors import InputError
from components.storage import is_s3


@dataclass(frozen=True)
class Window:
    """Rows that come in together; columns as in a data set."""

    number: int
    """From 1."""
    source: str
    rows: pd.DataFrame


@dataclass(frozen=True)
class History:
    first: pd.DataFrame
    """The rows that the first champion learns from."""
    windows: list[Window]
    held_out: pd.DataFrame
    """Rows of every source that no policy ever sees: they only measure."""
    labels: LabelSet

    @property
    def sources(self) -> list[str]:
        """In the order of time."""
        return list(dict.fromkeys([*self.first["source"], *(window.source for window in self.windows)]))

    @classmethod
    def read(
        cls, files: Sequence[str], window: int, held_out: float, settings: DataSettings, folder: Path
    ) -> "History":
        """Read CSV files in the order of time; the stem of each is the source of its rows. `folder` is for its data.

        `held_out` is the share of each source that only measures, from 0.01 to 0.5. It is split off as `prepare` splits
        off test rows, so that no row of the history is a copy, or nearly one, of a held-out row. Raises DataError for
        files without usable rows, InputError for fewer than two files and for two of the same name.
        """
        sources = [source_of(file) for file in files]
        if len(files) < 2:
            raise InputError("a history has two or more files: the first trains the champion, the others come in")
        if len(set(sources)) < len(sources):
            raise InputError(f"two files of the stream have the same name: {', '.join(sources)}; rename one")
        rows = [row for file, source in zip(files, sources, strict=True) for row in _read(file, source, settings)]
        (folder / "history.csv").write_bytes(as_csv(rows))
        split = replace(reading(settings), test_share=held_out, validation_share=held_out)
        prepare([str(folder / "history.csv")], folder / "history", split)
        data_set = DataSet.load(folder / "history")
        place = {row["id"]: number for number, row in enumerate(rows)}
        known = pd.concat([data_set.frame("train"), data_set.frame("validation")])
        known = known.iloc[np.argsort([place[row_id] for row_id in known["id"]])]
        parts = {source: known[known["source"] == source] for source in sources}
        for file, source in zip(files, sources, strict=True):
            if not len(parts[source]):
                raise InputError(f"{file} has no usable row: each is damaged, without a known label, or a duplicate")
        windows = [(source, part) for source in sources[1:] for part in cut(parts[source], window)]
        numbered = [Window(number, source, part) for number, (source, part) in enumerate(windows, start=1)]
        return cls(parts[sources[0]], numbered, data_set.frame("test"), data_set.labels)


def source_of(file: str) -> str:
    """amazon, for a/folder/amazon.csv and amazon.csv.gz."""
    return Path(file).name.removesuffix(".gz").removesuffix(".csv")


def cut(rows: pd.DataFrame, window: int) -> list[pd.DataFrame]:
    """Consecutive parts of about `window` rows, of equal size but for one row."""
    count = max(1, round(len(rows) / window))
    ends = [len(rows) * number // count for number in range(count + 1)]
    return [rows.iloc[start:end] for start, end in itertools.pairwise(ends)]


def reading(settings: DataSettings) -> DataSettings:
    """The settings, to read what `write_rows` writes."""
    return replace(settings, text_column="text", label_column="label")


def write_rows(rows: pd.DataFrame, labels: LabelSet, path: Path) -> str:
    """The rows as a CSV file that `prepare` reads, as a check writes the rows that a retrain learns from."""
    named = rows.assign(label=[labels.names[number] for number in rows["label"]])
    path.write_bytes(as_csv(named.to_dict("records")))
    return str(path)


def _read(file: str, source: str, settings: DataSettings) -> Iterator[dict[str, str]]:
    if not file.endswith((".csv", ".csv.gz")):
        raise InputError(f"{file} is not a .csv or .csv.gz file; a stream is made of those")
    if not is_s3(file) and not Path(file).is_file():
        raise InputError(f"{file} does not exist; give a .csv or .csv.gz file")
    for number, row in enumerate(read(file, settings), start=1):
        label = "" if row.reason else row.label  # prepare sets aside what has no label
        columns = {"text": row.text, "label": label, "source": source, "label_source": row.label_source}
        yield {"id": f"{source}-{number}", **columns}
