"""Takes the rows of the sources, and of an earlier data set, into the spool; what cannot be used is put aside."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq

from components.classifier.labels import LabelSet
from components.classifier.text import clean
from components.config import DataSettings
from components.data import csv_rows
from components.data.data_set import SCHEMA, SPLITS, DataSet
from components.data.sources import RawRow, read
from components.data.splits import TEST
from components.data.spool import Spool, hash_of
from components.errors import DataError
from components.progress import progress
from components.storage import local_folder

_UNKNOWN_LABEL = "label not in the label set"


class Quarantine:
    """quarantine.csv: source, row, reason, raw text."""

    def __init__(self, file: Any) -> None:
        self._writer = csv_rows.writer(file)
        self._writer.writerow(["source", "row", "reason", "raw_text"])
        self.counts: Counter[str] = Counter()

    def add(self, file: str, row: str, reason: str, text: str) -> None:
        self.counts[reason.split(":")[0]] += 1
        self._writer.writerow([file, row, reason, text.encode("utf-8", "replace").decode()])


def spool_sources(spool: Spool, sources: Sequence[str], settings: DataSettings, quarantine: Quarantine) -> None:
    """Add every usable row of the sources; the others go into quarantine. DataError if none is usable."""
    labels, seen, before = LabelSet(settings.labels), set[str](), len(spool)
    rows = (row for source in sources for row in read(str(source), settings))
    for row in progress(rows, description="prepare: read"):
        text, label = clean(row.text), labels.number(row.label)
        seen |= {row.label.strip()[:40]} if len(seen) < 10 and not row.reason else set()
        reason = row.reason or _refusal(row, text, label)
        if reason:
            quarantine.add(row.file, row.row, reason, row.text)
            continue
        content = {"id": row.id or f"{hash_of(text):016x}", "text": text, "label": label, "source": row.source}
        place = {"label_source": row.label_source, "file": row.file, "row": row.row}
        spool.add(content | place, TEST if row.split == "test" else -1, old=False)
    if len(spool) == before:
        raise DataError(
            f"there is no usable row in {', '.join(map(str, sources))}: {_why_none(quarantine, seen, labels)}"
        )


def _why_none(quarantine: Quarantine, seen: set[str], labels: LabelSet) -> str:
    """Why no row could be taken, and what to do."""
    counts = quarantine.counts
    why = "; ".join(f"{reason} ({count} {'row' if count == 1 else 'rows'})" for reason, count in counts.most_common(3))
    if _UNKNOWN_LABEL in counts:
        why += f"; labels seen: {', '.join(sorted(seen))}; the label set is {labels}; name yours with --labels"
    return why or "nothing follows the header line; give a file with rows"


def _refusal(row: RawRow, text: str, label: int | None) -> str:
    if not text:
        return "the text is empty"
    if not row.label.strip():
        return "the label is empty"
    return f"{_UNKNOWN_LABEL}: {row.label.strip()[:40]}" if label is None else ""


def spool_replay(spool: Spool, location: str, settings: DataSettings) -> str:
    """Add the rows of an earlier data set, in their splits; returns its digest."""
    with local_folder(location) as folder:
        old = DataSet.load(folder)
        if old.labels.names != settings.labels:
            raise DataError(f"the labels of {location} are {old.labels}; the new ones {LabelSet(settings.labels)}")
        for number, split in enumerate(SPLITS):
            with pq.ParquetFile(folder / f"{split}.parquet") as file:
                for batch in file.iter_batches(columns=SCHEMA.names, batch_size=2000):
                    for row in batch.to_pylist():
                        spool.add(row | {"file": split, "row": ""}, number, old=True)
    return old.digest
