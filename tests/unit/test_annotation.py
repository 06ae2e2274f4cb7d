"""Requests for labels: which texts are asked for, and that what comes back is read or said to be wrong."""

import csv
import io

import numpy as np
import pytest

from components.classifier.labels import LabelSet
from components.drift.annotation import Question, as_csv, choose, read_labels
from components.errors import DataError

TWO = LabelSet(["Negative", "Positive"])
CONFIDENCE = np.array([0.9, 0.51, 0.8, 0.55, 0.7, 0.6])
DISTANCE = np.array([9.0, 1.0, 8.0, 2.0, 7.0, 3.0])


def chosen(rows: int, texts: list[str] | None = None) -> list[tuple[str, str]]:
    texts = texts or [f"text {i}" for i in range(6)]
    ids = [str(i) for i in range(6)]
    return [(q.id, q.why) for q in choose(ids, texts, ["Positive"] * 6, CONFIDENCE, DISTANCE, rows)]


def rows_of(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def filled(content: bytes, labels: list[str]) -> bytes:
    """What a spreadsheet saves after the label column was filled in."""
    rows = rows_of(content)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(row | {"label": label} for row, label in zip(rows, labels, strict=True))
    return text.getvalue().encode("utf-8-sig")


def test_half_least_confident_half_most_unusual() -> None:
    assert chosen(4) == [("1", "uncertain"), ("0", "unusual"), ("3", "uncertain"), ("2", "unusual")]
    assert chosen(3) == chosen(4)[:3]
    assert chosen(0) == []


def test_a_row_is_asked_for_once_and_all_rows_at_most() -> None:
    assert sorted(row for row, _ in chosen(100)) == list("012345")


def test_no_text_twice_whatever_its_markup() -> None:
    texts = ["same", "<b>same</b>", "same ", "other", "same", "third"]
    assert [row for row, _ in chosen(6, texts)] == ["1", "5", "3"]


def test_ties_are_broken_by_the_order_of_the_rows() -> None:
    flat = np.full(4, 0.5)
    asked = choose(list("abcd"), list("wxyz"), ["Positive"] * 4, flat, flat, 4)
    assert [q.id for q in asked] == ["a", "b", "c", "d"]


def test_the_request_has_the_columns_and_an_empty_label() -> None:
    asked = choose(["7"], ['He said "so, so";\nthen left.'], ["Negative"], np.array([0.5123456789]), np.ones(1), 5)
    assert rows_of(as_csv(asked)) == [
        {
            "id": "7",
            "text": 'He said "so, so";\nthen left.',
            "label": "",
            "label_source": "human",
            "predicted_sentiment": "Negative",
            "confidence_score": "0.512346",
            "why": "uncertain",
        }
    ]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_a_formula_and_its_id_comes_back(start: str) -> None:
    hostile = f"{start}1+cmd|' /C calc'!A0"
    ids = [hostile, "'quoted", "plain"]
    questions = [Question(i, hostile, "", "human", hostile, 0.5, "unusual") for i in ids]
    content = as_csv(questions)
    cells = [cell for row in rows_of(content) for cell in row.values()]
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
    found = read_labels(filled(content, ["Positive"] * 3), "request.csv", TWO)
    assert found.problems == []
    assert found.labels == dict.fromkeys(ids, (1, "human"))


def test_a_request_that_is_half_filled_in_is_read() -> None:
    asked = choose(list("abc"), list("xyz"), ["Positive"] * 3, np.array([0.5, 0.6, 0.7]), np.ones(3), 3)
    names = {q.id: label for q, label in zip(asked, ["neg", "", "1"], strict=True)}
    found = read_labels(filled(as_csv(asked), list(names.values())), "request.csv", TWO)
    assert found.labels == {q: (TWO.number(label), "human") for q, label in names.items() if label}
    assert len(found.labels) == 2


def test_delayed_labels_are_read_by_number_or_name_in_any_order_of_columns() -> None:
    content = b"label,extra,id,label_source\n1,x,a,\nNegative,x,b,human\n,x,c,\n pos ,x,d,DELAYED\n1.0,x,e,\n"
    found = read_labels(content, "labels/a.csv", TWO)
    assert found.problems == []
    assert found.labels == {
        "a": (1, "delayed"),
        "b": (0, "human"),
        "d": (1, "delayed"),
        "e": (1, "delayed"),
    }
    assert read_labels(b"ID,Label\na,0\n", "labels/b.csv", TWO).labels == {"a": (0, "delayed")}


def test_what_cannot_be_used_is_said_with_file_and_line_and_the_rest_is_read() -> None:
    lines = [
        "id,label,label_source",
        "a,positve,",
        "b,1,",
        "c,2,",
        ",1,",
        "d,1,pseudo",
        f"e,{'the whole review went into this column ' * 2},",
        "f,1",
        "b,0,",
        "g,0,",
    ]
    found = read_labels("\n".join(lines).encode(), "labels/x.csv", TWO)
    assert found.labels == {"g": (0, "delayed")}
    assert found.problems == [
        "labels/x.csv, line 2: 'positve' is not a label; there are 0 (Negative), 1 (Positive)",
        "labels/x.csv, line 4: '2' is not a label; there are 0 (Negative), 1 (Positive)",
        "labels/x.csv, line 5: a label without an id",
        "labels/x.csv, line 6: 'pseudo' is not a label_source; there are human and delayed",
        "labels/x.csv, line 7: a value of 77 characters is not a label; there are 0 (Negative), 1 (Positive)",
        "labels/x.csv, line 8: 2 fields, the header has 3",
        "labels/x.csv, line 9: this id has another label further up; neither is used",
    ]


def test_the_same_label_twice_is_no_contradiction() -> None:
    found = read_labels(b"id,label\na,1\na,Positive\n", "labels/x.csv", TWO)
    assert (found.labels, found.problems) == ({"a": (1, "delayed")}, [])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "labels/x.csv has no column id and no column label; it has no columns"),
        (b"id,text\n1,x\n", "labels/x.csv has no column label; it has id, text, separated by commas"),
        (b"id;label\n1;0\n", "it has id;label, separated by commas"),
    ],
)
def test_a_file_without_the_columns_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_labels(content, "labels/x.csv", TWO)
