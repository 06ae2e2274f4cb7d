"""The texts of the stream and the labels that come in for them, joined by id.

Labels are CSV files anywhere under labels/. Those under labels/requested/ were asked for, about texts picked for being
hard: a retrain learns from them, but the accuracy on them says nothing about the rest of the stream.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from components import logs
from components.batch import sample
from components.batch.published import published
from components.batch.tables import stem_of
from components.batch.versions import INCOMING
from components.classifier.labels import LabelSet
from components.data import csv_rows
from components.data.texts import text_column
from components.drift import request_rows
from components.drift.annotation import HUMAN, read_labels
from components.drift.state import Mark, Part
from components.errors import DataError
from components.storage import ObjectStore

LABELS, REQUESTED = "labels/", "labels/requested/"
PSEUDO = "pseudo"
COLUMNS = ("id", "text", "label", "source", "label_source")


@dataclass(frozen=True)
class StreamText:
    """A scored row: its number among its object's scored rows, its id (or empty), text and source."""

    number: int
    id: str
    text: str
    source: str


@dataclass(frozen=True)
class KnownLabel:
    """A label's number, who it is from (human or delayed), and whether it was asked for."""

    number: int
    label_source: str
    asked_for: bool


def source_of(key: str) -> str:
    """incoming/tweets/2026-11-24.csv and incoming/tweets.parquet are both of the source tweets."""
    return stem_of(key.removeprefix(INCOMING).split("/")[0])


def texts_of(store: ObjectStore, key: str, first: int, end: int, digest: str) -> list[StreamText]:
    """The object's scored rows with `first` <= number < `end`; none if its texts are no longer those of `digest`.

    Of a series of requests, or of a part of one, those whose texts were kept.
    """
    if request_rows.is_series(key):
        rows_of = request_rows.texts(store, key, first, end)
        return [StreamText(number, row_id, text, request_rows.SOURCE) for number, row_id, text in rows_of]
    for rows in published(store, key):
        found: list[StreamText] = []
        seen, source = "", source_of(key)
        for number, row in enumerate(islice(rows, end)):
            text = row[text_column(list(row), "", store.uri(key))]
            seen = sample.extended(seen, text)
            if number >= first:
                found.append(StreamText(number, row.get("id") or "", text, source))
        if seen == digest:
            return found
        logs.warning("texts_changed", key=key)
    return []


def known_labels(store: ObjectStore, labels: LabelSet) -> dict[str, KnownLabel]:
    """Row id -> label, from all CSV files under labels/. A person's label goes before a delayed one.

    An id with two labels of equal standing has none. What cannot be read is logged, never an error.
    """
    found: dict[str, KnownLabel] = {}
    contradicted: set[str] = set()
    for item in store.list(LABELS):
        content = store.get(item.key) if item.key.endswith(".csv") else None
        if content is None:
            continue
        try:
            file = read_labels(content[0], store.uri(item.key), labels)
        except DataError as error:
            logs.warning("labels_refused", key=item.key, reason=str(error))
            continue
        if file.problems:
            logs.warning("labels_with_problems", key=item.key, rows=len(file.problems), first=file.problems[0])
        for row_id, (number, label_source) in file.labels.items():
            new = KnownLabel(number, label_source, item.key.startswith(REQUESTED))
            before = found.get(row_id)
            if before is None or (new.label_source == HUMAN and before.label_source != HUMAN):
                found[row_id] = new
                contradicted.discard(row_id)
            elif before.number != new.number and before.label_source == new.label_source:
                contradicted.add(row_id)
    if contradicted:
        logs.warning("labels_contradict", ids=len(contradicted))
    return {row_id: label for row_id, label in found.items() if row_id not in contradicted}


def texts_at(
    store: ObjectStore, parts: Sequence[Part], where: Sequence[tuple[str, str, int]]
) -> list[StreamText | None]:
    """The text of each (key, entity tag, number) of the parts; None where it can no longer be read."""
    ranges: dict[tuple[str, str], tuple[int, Part]] = {}
    for part in parts:
        first, _ = ranges.get((part.key, part.etag), (part.first, part))
        ranges[part.key, part.etag] = min(first, part.first), part
    found = {
        (key, etag, text.number): text
        for (key, etag), (first, part) in ranges.items()
        for text in texts_of(store, _object_of(key, etag), first, part.end, part.digest)
    }
    return [found.get(place) for place in where]


def _object_of(key: str, etag: str) -> str:
    return key + etag if request_rows.is_series(key) else key


def measured_labels(texts: Sequence[StreamText | None], known: Mapping[str, KnownLabel]) -> NDArray[np.int64]:
    """[n] number of each text's label, or -1 if there is none that an accuracy may be measured on."""
    by_id: dict[str, set[str]] = {}
    for text in texts:
        if text:
            by_id.setdefault(text.id, set()).add(text.text)

    def number(text: StreamText | None) -> int:
        label = known.get(text.id) if text and len(by_id[text.id]) == 1 else None
        return -1 if label is None or label.asked_for else label.number

    return np.array([number(text) for text in texts], dtype=np.int64)


def labelled_rows(
    store: ObjectStore, objects: Mapping[str, Mark], known: Mapping[str, KnownLabel], labels: LabelSet
) -> list[dict[str, str]]:
    """Rows to learn from: the counted ones since this model version came whose label is known, as COLUMNS.

    An id that occurs with several texts says not which of them was labelled, and is not used.
    """
    found: dict[str, dict[str, str]] = {}
    ambiguous: set[str] = set()
    for key, mark in sorted(objects.items()):
        if mark.since >= mark.end or not known:
            continue
        for text in texts_of(store, key, mark.since, mark.end, mark.digest):
            label = known.get(text.id)
            if label is None:
                continue
            if found.setdefault(text.id, _row(text, label, labels))["text"] != text.text:
                ambiguous.add(text.id)
    if ambiguous:
        logs.warning("ids_ambiguous", ids=len(ambiguous))
    return [row for row_id, row in found.items() if row_id not in ambiguous]


def pseudo_labelled_rows(
    texts: Sequence[StreamText | None],
    probabilities: NDArray[np.float64],
    confidence: float,
    known: Mapping[str, KnownLabel],
    trusted: Sequence[Mapping[str, str]],
    labels: LabelSet,
) -> list[dict[str, str]]:
    """Rows to train on with the champion's own answer, as COLUMNS: where its calibrated confidence is that high.

    probabilities: [n, classes], calibrated, of the n texts. None have a label in `known`, and all are of sources that
    `trusted` rows are of: what is learnt of a source can only be judged on trusted labels of it. 0: no rows.
    """
    sources, found = {row["source"] for row in trusted}, dict[str, dict[str, str]]()
    for text, p in zip(texts, probabilities, strict=True):
        if confidence and text and text.source in sources and text.id not in known and p.max() >= confidence:
            found.setdefault(text.text, _row(text, KnownLabel(int(p.argmax()), PSEUDO, False), labels))
    return list(found.values())


def _row(text: StreamText, label: KnownLabel, labels: LabelSet) -> dict[str, str]:
    values = (text.id, text.text, labels.names[label.number], text.source, label.label_source)
    return dict(zip(COLUMNS, values, strict=True))


def as_csv(rows: Iterable[Mapping[str, str]]) -> bytes:
    content = io.StringIO(newline="")
    writer = csv_rows.writer(content)
    writer.writerow(COLUMNS)
    writer.writerows([row[column] for column in COLUMNS] for row in rows)
    return content.getvalue().encode()
