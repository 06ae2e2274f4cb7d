"""Batch scoring of files on disk: formats, columns, order, bad rows, bad files, what is kept for the drift check."""

import csv
import gzip
import io
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.batch import outputs, tables
from components.batch.sample import Draw, Sample
from components.batch.score import score_file
from components.classifier.classifier import PREDICTION_COLUMNS, Classifier
from components.classifier.engine import Scores
from components.config import BatchSettings
from components.data import csv_rows
from components.errors import DataError

SETTINGS = BatchSettings(chunk_rows=4)
KINDS = ("csv", "csv.gz", "parquet")
ROWS = [(f"r{i}", f"text {i}, “quoted”\nand more", "" if i % 3 else "x") for i in range(11)]


@pytest.fixture(scope="session")
def classifier(tiny_model: Path) -> Classifier:
    return Classifier.load(tiny_model)


def write(path: Path, rows: list[tuple[str, ...]], columns: tuple[str, ...] = ("id", "text", "shop")) -> Path:
    """A file of the kind that the path's name says."""
    if path.name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist([dict(zip(columns, row, strict=True)) for row in rows]), path)
        return path
    content = io.StringIO(newline="")
    csv.writer(content).writerows([columns, *rows])
    data = content.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.name.endswith("gz") else data)
    return path


@pytest.mark.parametrize("read", KINDS)
@pytest.mark.parametrize("written", KINDS)
def test_every_format_gives_the_same_rows_in_order(
    read: str, written: str, tmp_path: Path, classifier: Classifier
) -> None:
    output = tmp_path / f"out.{written}"
    result = score_file(write(tmp_path / f"in.{read}", ROWS), output, classifier, SETTINGS)
    assert (result.rows, result.quarantined) == (11, 0)
    rows = list(outputs.read_back(output, output.name))
    assert list(rows[0]) == ["id", "text", "shop", *PREDICTION_COLUMNS]
    assert [(row["id"], row["text"], row["shop"]) for row in rows] == ROWS
    expected = [
        str(p.confidence_score) for i in range(0, 11, 4) for p in classifier.predict([r[1] for r in ROWS[i : i + 4]])
    ]
    assert [row["confidence_score"] for row in rows] == expected
    again = tmp_path / f"again.{written}"
    score_file(tmp_path / f"in.{read}", again, classifier, SETTINGS)
    assert again.read_bytes() == output.read_bytes()
    assert not list(tmp_path.glob("*.quarantine.csv"))


def test_parquet_keeps_its_types_and_refuses_rows_one_by_one(tmp_path: Path, classifier: Classifier) -> None:
    broken = pa.array([b"fine", b"\xff\xfe", None, b" ", b"dull"]).view(pa.string())
    columns = {"n": pa.array([1, 2, 3, 4, None], pa.int32()), "tags": pa.array([["a"], [], None, ["b"], ["c", "d"]])}
    when = pa.array([datetime(2026, 11, 24, 1, i) for i in range(5)], pa.timestamp("us"))
    source = tmp_path / "in.parquet"
    pq.write_table(pa.table({**columns, "review": broken, "when": when}), source)
    result = score_file(source, tmp_path / "out.parquet", classifier, SETTINGS)
    assert (result.rows, result.quarantined) == (2, 3)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.schema.types[:4] == [pa.int32(), pa.list_(pa.string()), pa.string(), pa.timestamp("us")]
    assert found.column("tags").to_pylist() == [["a"], ["c", "d"]]
    assert found.column("n").to_pylist() == [1, None]
    with open(tmp_path / "out.parquet.quarantine.csv", newline="", encoding="utf-8") as file:
        bad = list(csv.DictReader(file))
    reasons = [(row["object"], row["row"], row["reason"]) for row in bad]
    assert reasons == [("in.parquet", "2", "not UTF-8"), ("in.parquet", "3", "no text"), ("in.parquet", "4", "no text")]
    assert '"n": 3' in bad[1]["raw"]
    score_file(source, tmp_path / "out.csv", classifier, SETTINGS)
    rows = list(outputs.read_back(tmp_path / "out.csv", "out.csv"))
    assert [(row["n"], row["tags"], row["when"]) for row in rows] == [
        ("1", '["a"]', "2026-11-24 01:00:00"), ("", '["c", "d"]', "2026-11-24 01:04:00"),
    ]  # fmt: skip


def test_a_zipped_parquet_file_is_scored_and_nothing_is_left_beside_it(tmp_path: Path, classifier: Classifier) -> None:
    folder = tmp_path / "of the user"
    folder.mkdir()
    plain = write(tmp_path / "in.parquet", ROWS)
    (folder / "in.parquet.gz").write_bytes(gzip.compress(plain.read_bytes()))
    result = score_file(folder / "in.parquet.gz", tmp_path / "out.parquet", classifier, SETTINGS)
    assert (result.rows, result.quarantined) == (11, 0)
    assert [path.name for path in folder.iterdir()] == ["in.parquet.gz"]


def test_a_file_without_rows_has_predictions_without_rows(tmp_path: Path, classifier: Classifier) -> None:
    score_file(write(tmp_path / "in.csv", []), tmp_path / "out.csv.gz", classifier, SETTINGS)
    with gzip.open(tmp_path / "out.csv.gz", "rt") as file:
        assert file.read() == ",".join(["id", "text", "shop", *PREDICTION_COLUMNS]) + "\n"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "in.parquet")
    score_file(tmp_path / "in.parquet", tmp_path / "out.parquet", classifier, SETTINGS)
    assert pq.read_table(tmp_path / "out.parquet").column_names == ["text", *PREDICTION_COLUMNS]


WHOLE = gzip.compress(b"text\n" + b"".join(b"number %d\n" % (i * i) for i in range(300)))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", b"id,body\n1,x\n", "no text column.*id, body"),
        ("a.csv", b"text,windows\nx,1\n", "already has a column windows"),
        ("a.csv", b"", "no readable header: the file is empty"),
        ("a.csv", b"\x89PNG\r\n\x1a\n\xff\xfe", "no readable header: not UTF-8"),
        ("a.csv", b"x" * (csv_rows.MOST_RECORD_BYTES + 1), "no readable header: longer than 4 MB"),
        ("a.csv.gz", WHOLE[: len(WHOLE) // 2], "not a whole gzip file"),
        ("a.csv.gz", WHOLE[:-9] + b"\0" + WHOLE[-8:], "not a whole gzip file"),
        ("a.csv.gz", b"text\nfine\n", "not a whole gzip file"),
        ("a.parquet", b"text\nfine\n", "not a readable Parquet file"),
        ("a.json", b'{"text": "fine"}', "neither CSV nor Parquet"),
    ],
)
def test_a_file_that_cannot_be_scored_is_refused_in_one_line(
    name: str, content: bytes, said: str, tmp_path: Path, classifier: Classifier
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said) as refused:
        score_file(tmp_path / name, tmp_path / "out.csv", classifier, SETTINGS)
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_parquet_column_that_is_no_text_or_damaged_is_refused(tmp_path: Path, classifier: Classifier) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [1, 2]}), path)
    with pytest.raises(DataError, match=r"the column text of .*a\.parquet holds int64, not text"):
        score_file(path, tmp_path / "out.csv", classifier, SETTINGS)
    pq.write_table(pa.table({"text": [f"some text {i * i}" for i in range(5000)]}), path, use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[2000:2400] = b"\xff" * 400
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable Parquet file"):
        score_file(path, tmp_path / "out.csv", classifier, SETTINGS)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_chunk_of_long_texts_ends_early(kind: str, tmp_path: Path) -> None:
    rows = [(str(i), "word" * 375_000, "") for i in range(8)]
    path = write(tmp_path / f"in.{kind}", rows)
    if kind == "parquet":
        pq.write_table(pq.read_table(path), path, use_dictionary=False, compression="none")
    sizes = [len(chunk.texts) for chunk in tables.chunks(path, path.name, 1000)]
    assert sum(sizes) == 8
    assert max(sizes) * 1_500_000 <= tables.MOST_BYTES + 1_500_000


def test_a_chunk_of_a_dictionary_of_long_texts_ends_early(tmp_path: Path) -> None:
    """Encoded, the file is small; decoded, its rows would take 400 MB."""
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": ["word" * 50_000] * 2000}), path)
    assert path.stat().st_size < 1_000_000
    sizes = [len(chunk.texts) for chunk in tables.chunks(path, path.name, 10_000)]
    assert sum(sizes) == 2000
    assert max(sizes) <= tables.STEP_ROWS


def test_a_date_that_python_has_not_is_kept_as_a_number(tmp_path: Path, classifier: Classifier) -> None:
    path, output = tmp_path / "in.parquet", tmp_path / "out.csv"
    far = pa.array([2**50, 2**50], pa.timestamp("ms"))
    pq.write_table(pa.table({"text": ["fine", ""], "at": far}), path)
    result = score_file(path, output, classifier, SETTINGS)
    assert (result.rows, result.quarantined) == (1, 1)
    (row,) = csv.DictReader(output.open(encoding="utf-8", newline=""))
    assert row["at"] == str(2**50)
    assert str(2**50) in (tmp_path / "out.csv.quarantine.csv").read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "wanted", "expected"),
    [
        ("a.csv", "same", "a.csv"), ("a.csv.gz", "same", "a.csv.gz"), ("a.csv.gz", "csv", "a.csv.gz"),
        ("a.csv", "parquet", "a.csv.parquet"), ("a.parquet", "csv", "a.parquet.csv"),
        ("a.parquet", "same", "a.parquet"), ("a.parquet.gz", "same", "a.parquet.gz.parquet"),
    ],
)  # fmt: skip
def test_names_of_predictions(name: str, wanted: str, expected: str) -> None:
    assert outputs.name_of(name, wanted) == expected


def kept(sizes: list[int], most: int) -> dict[str, list[object]]:
    """What is kept of a file whose chunks have these sizes."""
    draw, sample, start = Draw(most), Sample(most), 0
    for size in sizes:
        numbers = np.arange(start, start + size, dtype=np.float32)[:, None]
        drawn = draw.next([str(i) for i in range(start, start + size)])
        if size:
            sample.add(drawn.columns(Scores(numbers, numbers, numbers[:, 0].astype(np.int64))))
        start += size
    return {name: column.tolist() for name, column in sample.columns.items()}


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(0, 20))
def test_what_is_kept_does_not_depend_on_where_chunks_end(sizes: list[int], most: int) -> None:
    found, whole = kept(sizes, most), kept([sum(sizes)], most)
    assert found == whole
    if sum(sizes):
        assert len(found["rows"]) == min(most, sum(sizes))
        assert [row[0] for row in found["embeddings"]] == found["rows"]  # type: ignore[index]


def test_a_file_that_has_grown_keeps_the_same_old_rows_less_some() -> None:
    before, after = (set(kept([size], 50)["rows"]) for size in (400, 1000))
    assert {row for row in after if row < 400} <= before  # type: ignore[operator]
    assert any(row >= 400 for row in after)  # type: ignore[operator]
