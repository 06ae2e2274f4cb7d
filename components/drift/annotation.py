"""Asking people for labels, and reading them back.

A request is a CSV with one row a text and an empty label column; filled in where it lies, it is read back like any
other file of labels. Rows are joined by id and the text is never read back. So a cell that a spreadsheet would take
for a formula can be given a leading apostrophe, which keeps it from being run; in the id, which must come back as it
was, reading takes the apostrophe off again.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from components.classifier.labels import LabelSet
from components.classifier.text import clean
from components.data.csv_rows import records
from components.drift.reference import DriftReference
from components.errors import DataError

HUMAN, DELAYED = "human", "delayed"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_LONGEST_SHOWN = 20


@dataclass(frozen=True)
class Question:
    """One row of a request; the names and the order are the columns."""

    id: str
    text: str
    label: str
    """Empty, for the annotator."""
    label_source: str
    predicted_sentiment: str
    confidence_score: float
    why: str
    """`uncertain` or `unusual`."""


@dataclass(frozen=True)
class LabelFile:
    """What a CSV of labels holds."""

    labels: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Row id -> (label number, label source: human or delayed)."""
    problems: list[str] = field(default_factory=list)
    """A line for each row that could not be used: file, line, what is wrong, what would be right."""


def unusualness(reference: DriftReference, projected: NDArray) -> NDArray[np.float64]:
    """[n] distance of each row of [n, d + k'] from the middle of the reference, in standard deviations a slice."""
    width = reference.slices.shape[1]
    return np.sqrt(np.square(projected[:, :width] - reference.slices.mean(axis=0, dtype=np.float64)).mean(axis=1))


def choose(
    ids: Sequence[str],
    texts: Sequence[str],
    predicted: Sequence[str],
    confidence: NDArray,
    distance: NDArray,
    rows: int,
) -> list[Question]:
    """At most `rows` of n texts to label: by turns the least confident and the most unusual, no text twice.

    By turns, so that a request that is filled in only half has both kinds. Equal input gives equal requests.
    """
    orders = (("uncertain", np.argsort(confidence, kind="stable")), ("unusual", np.argsort(-distance, kind="stable")))
    waiting = [(why, iter(order.tolist())) for why, order in orders]
    taken: set[str] = set()
    questions: list[Question] = []
    while waiting and len(questions) < rows:
        why, order = waiting.pop(0)
        i = next((i for i in order if clean(texts[i]) not in taken), None)
        if i is None:
            continue
        taken.add(clean(texts[i]))
        questions.append(Question(ids[i], texts[i], "", HUMAN, predicted[i], round(float(confidence[i]), 6), why))
        waiting.append((why, order))
    return questions


def as_csv(questions: Sequence[Question]) -> bytes:
    """The request, in UTF-8 with the mark by which spreadsheets know it."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(f.name for f in fields(Question))
    for question in questions:
        writer.writerow(_inert(value) if isinstance(value, str) else value for value in astuple(question))
    return text.getvalue().encode("utf-8-sig")


def read_labels(content: bytes, where: str, labels: LabelSet) -> LabelFile:
    """The labels of a CSV with the columns id and label (a name or a number; empty: none yet), and what is wrong in it.

    The column label_source is human or delayed, delayed if it is empty or not there. A row that cannot be used is a
    line of `problems`, not an error: one slip of an annotator must not stop the check. Raises DataError if the file
    has no readable header with id and label.
    """
    read = records(io.BytesIO(content))
    found, contradicted = LabelFile(), set()
    columns = _columns(next(read, None), where)
    for number, row, reason, _ in read:
        line = f"{where}, line {number}"
        if row is None:
            found.problems.append(f"{line}: {reason}")
            continue
        cells = {name: row[place].strip() for name, place in columns.items()}
        if not cells["label"]:
            continue
        entry = _entry(cells, labels)
        if isinstance(entry, str):
            found.problems.append(f"{line}: {entry}")
            continue
        row_id = _original(cells["id"])
        if found.labels.setdefault(row_id, entry)[0] != entry[0]:
            contradicted.add(row_id)
            found.problems.append(f"{line}: this id has another label further up; neither is used")
    for row_id in contradicted:
        del found.labels[row_id]
    return found


def _columns(header: tuple[int, list[str] | None, str, bytes] | None, where: str) -> dict[str, int]:
    """Places of the columns that are read."""
    names = [name.strip().lower() for name in (header[1] if header else None) or []]
    missing = [name for name in ("id", "label") if name not in names]
    if missing:
        there = ", ".join(names) or "no columns"
        raise DataError(f"{where} has no column {' and no column '.join(missing)}; it has {there}, separated by commas")
    return {name: names.index(name) for name in ("id", "label", "label_source") if name in names}


def _entry(cells: dict[str, str], labels: LabelSet) -> tuple[int, str] | str:
    """(label number, label source), or what is wrong with the row."""
    number, source = labels.number(cells["label"]), cells.get("label_source", "").lower() or DELAYED
    if not cells["id"]:
        return "a label without an id"
    if number is None:
        return f"{_short(cells['label'])} is not a label; there are {labels}"
    if source not in (HUMAN, DELAYED):
        return f"{_short(source)} is not a label_source; there are {HUMAN} and {DELAYED}"
    return number, source


def _short(value: str) -> str:
    """A wrong value for a log line; a long one is most likely a text in the wrong column, and stays out of the log."""
    return repr(value) if len(value) <= _LONGEST_SHOWN else f"a value of {len(value)} characters"


def _inert(cell: str) -> str:
    """The cell as text to every spreadsheet."""
    return f"'{cell}" if cell.startswith((*_FORMULA, "'")) else cell


def _original(cell: str) -> str:
    """The inverse of `_inert`."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith((*_FORMULA, "'")) else cell
