"""What a hostile file costs: one long row is refused, a file that cannot be read in bounded memory is, and no more."""

import csv
import gzip
import io
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.batch import outputs, parquet_pages, parts, tables
from components.batch.sample import Draw
from components.batch.score import score_file
from components.batch.tables import Chunk, chunks
from components.classifier.classifier import Classifier
from components.config import BatchSettings
from components.data.csv_rows import MOST_RECORD_BYTES
from components.errors import DataError

SETTINGS = BatchSettings(chunk_rows=100)
LONG = "word " * (MOST_RECORD_BYTES // 5 + 1)


@pytest.fixture(scope="session")
def classifier(tiny_model: Path) -> Classifier:
    return Classifier.load(tiny_model)


def reasons(path: Path) -> list[tuple[str, str, str]]:
    with open(f"{path}.quarantine.csv", newline="", encoding="utf-8") as file:
        return [(row["row"], row["reason"], row["raw"]) for row in csv.DictReader(file)]


def test_a_long_row_of_csv_is_refused_and_what_follows_is_scored(tmp_path: Path, classifier: Classifier) -> None:
    content = f'id,text\na,fine\nb,"{LONG}\n{LONG}"\nc,{LONG}\nd,dull\n'
    (tmp_path / "in.csv.gz").write_bytes(gzip.compress(content.encode()))
    result = score_file(tmp_path / "in.csv.gz", tmp_path / "out.csv", classifier, SETTINGS)
    assert (result.rows, result.quarantined) == (2, 2)
    assert [row["id"] for row in outputs.read_back(tmp_path / "out.csv", "out.csv")] == ["a", "d"]
    several, one = reasons(tmp_path / "out.csv")
    assert (several[:2], one[:2]) == (("3", "longer than 4 MB, up to line 4"), ("5", "longer than 4 MB"))
    assert several[2] == f'b,"{LONG}'[:1000]


@pytest.mark.parametrize("column", ["text", "notes", "kind", "tags"])
def test_a_long_row_of_parquet_is_refused_and_what_follows_is_scored(
    column: str, tmp_path: Path, classifier: Classifier
) -> None:
    columns = {"id": ["a", "b", "c", "d"], "text": ["fine", "so so", "", "dull"], "notes": ["x"] * 4}
    columns[column] = ["x", LONG, "", "z"] if column != "text" else ["fine", LONG, "", "dull"]
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    if column == "kind":
        table = table.set_column(3, "kind", table.column("kind").dictionary_encode())
    if column == "tags":
        table = table.set_column(3, "tags", pa.array([["t"], [LONG, "t"], [], None]))
    pq.write_table(table, tmp_path / "in.parquet")
    assert (tmp_path / "in.parquet").stat().st_size < 1_000_000
    result = score_file(tmp_path / "in.parquet", tmp_path / "out.parquet", classifier, SETTINGS)
    assert (result.rows, result.quarantined) == (2, 2)
    assert pq.read_table(tmp_path / "out.parquet").column("id").to_pylist() == ["a", "d"]
    long, empty = reasons(tmp_path / "out.parquet")
    assert (long[:2], empty[:2]) == (("2", "longer than 4 MB"), ("3", "no text"))
    assert '"id": "b"' in long[2]
    assert len(long[2]) < 200


def test_a_chunk_of_many_rows_that_are_nearly_too_long_ends_early(tmp_path: Path) -> None:
    """Of a dictionary: a few kilobytes are 40 MB of texts."""
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": [LONG[:-1000]] * 10 + ["fine"] * 10_000}), path, compression="zstd")
    sizes = [sum(map(len, chunk.texts)) for chunk in chunks(path, path.name, 2048)]
    assert sum(sizes) == 10 * (len(LONG) - 1000) + 4 * 10_000
    assert max(sizes) <= tables.MOST_BYTES + MOST_RECORD_BYTES


def test_pages_that_take_too_much_memory_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": ["fine", LONG * 3]}), path, compression="zstd", use_dictionary=False)
    assert [len(chunk.texts) for chunk in chunks(path, path.name, 9)] == [1]
    monkeypatch.setattr(parquet_pages, "MOST_PAGE_BYTES", 10 << 20)
    with pytest.raises(DataError, match=r"in.parquet has pages that take 12 MB unpacked, more than 10 MB; write it"):
        list(chunks(path, path.name, 9))
    rows = pa.ListArray.from_arrays(pa.array([0, 2_000_000], pa.int32()), pa.nulls(2_000_000, pa.int8()))
    pq.write_table(pa.table({"text": ["fine"], "nothing": rows}), path)
    assert path.stat().st_size < 1500
    with pytest.raises(DataError, match="pages that take 15 MB"):
        list(chunks(path, path.name, 9))


def varied(path: Path, *, dictionary: bool) -> Path:
    numbers = np.random.default_rng(7).integers(0, 3000, 2000)
    columns = {"text": ["x" * number for number in numbers], "n": numbers, "tags": [["t"] * (i % 4) for i in numbers]}
    if dictionary:
        columns["kind"] = pa.array([f"{i % 9}" for i in numbers]).dictionary_encode()
    pq.write_table(pa.table(columns), path, row_group_size=700)
    return path


@pytest.mark.parametrize("dictionary", [False, True])
def test_chunks_do_not_depend_on_how_many_rows_are_read_at_once(
    dictionary: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = varied(tmp_path / "in.parquet", dictionary=dictionary)

    def written() -> list[bytes]:
        files = [(io.BytesIO(), chunk.rows) for chunk in chunks(path, path.name, 300)]
        for file, rows in files:
            pq.write_table(rows, file)
        return [file.getvalue() for file, _ in files]

    whole = written()
    assert len(whole) > 6
    for at_once in (1, 5, 63):
        monkeypatch.setattr(parquet_pages, "rows_at_once", lambda *_, rows=at_once: rows)
        assert written() == whole


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "brotli", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_pages_are_measured_by_their_headers(compression: str, version: str, tmp_path: Path) -> None:
    """Of pages of one value each, the largest is the longest value, its length, and what says that it is there."""
    path, longest = tmp_path / "in.parquet", 300_000
    pq.write_table(
        pa.table({"text": ["fine", "x" * longest, "y"], "n": [1, 2, 3]}), path, compression=compression,
        data_page_version=version, use_dictionary=False, write_batch_size=1, data_page_size=1,
        write_page_checksum=True, write_statistics=True, write_page_index=True,
    )  # fmt: skip
    with open(path, "rb") as file:
        found = parquet_pages.rows_at_once(file, pq.read_metadata(path), "in.parquet")
    assert found in {parquet_pages.MOST_PAGE_BYTES // (longest + 4 + levels) for levels in range(8)}


def test_a_page_that_is_not_there_is_said(tmp_path: Path) -> None:
    path = varied(tmp_path / "in.parquet", dictionary=False)
    content = path.read_bytes()
    for header in (b"\xff" * 30, b"\x1c" * 2000, b"\x15" + b"\x80" * 40, b"\x19" * 30, b"\x15\x00\x15\x01\x15\x01\x00"):
        path.write_bytes(content[:4] + header + content[4 + len(header) :])
        with pytest.raises(DataError, match=r"in.parquet is not a readable Parquet file: there is no page at byte 4"):
            list(chunks(path, path.name, 100))


def test_a_large_file_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())]), use_dictionary=False) as file:
        for seed in range(20):
            words = np.random.default_rng(seed).integers(97, 123, (1000, 2000), dtype=np.uint8)
            file.write_table(pa.table({"text": [row.tobytes().decode() for row in words]}))
    assert path.stat().st_size > 20 << 20
    tracemalloc.start()  # pyarrow reads through Python
    try:
        assert sum(len(batch) for batch in (chunk.texts for chunk in chunks(path, path.name, 100))) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_zipped_parquet_file_may_not_take_any_amount_of_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "in.parquet.gz"
    path.write_bytes(gzip.compress(bytes(20 << 20)))
    assert path.stat().st_size < 30_000
    monkeypatch.setattr(tables, "MOST_UNZIPPED", 19 << 20)
    with pytest.raises(DataError, match=r"in.parquet.gz takes more than 19 MB unzipped; .* bring it as .parquet"):
        list(chunks(path, path.name, 100))
    monkeypatch.setattr(tables, "MOST_UNZIPPED", 20 << 20)
    with pytest.raises(DataError, match="not a readable Parquet file"):
        list(chunks(path, path.name, 100))


def broken() -> pa.Table:
    """Columns whose values Python cannot have as they are, each in one way more, and a row without text."""
    bad = pa.array([b"ok", b"\xffx", None, b"z"]).view(pa.string())
    places = pa.array([0, 2, 4], pa.int32())
    nested = pa.ListArray.from_arrays(places, bad)
    return pa.table(
        {
            "text": ["fine", ""],
            "list": nested,
            "lists": pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), nested),
            "struct": pa.StructArray.from_arrays([bad[:2], pa.array([1, 2])], names=["a", "b"]),
            "map": pa.MapArray.from_arrays(places, pa.array(["k", "l", "m", "n"]), bad),
            "dates": pa.ListArray.from_arrays(places, pa.array([2**50, 0, 1, 2], pa.timestamp("ms"))),
            "zone": pa.array([7, 8], pa.timestamp("us", "Nowhere/Land")),
        }
    )


def test_nested_text_that_is_not_utf8_is_written_with_replacement_characters(
    tmp_path: Path, classifier: Classifier
) -> None:
    pq.write_table(broken(), tmp_path / "in.parquet")
    result = score_file(tmp_path / "in.parquet", tmp_path / "out.csv", classifier, SETTINGS)
    assert (result.rows, result.quarantined) == (1, 1)
    (row,) = outputs.read_back(tmp_path / "out.csv", "out.csv")
    assert [row[name] for name in ("list", "lists", "struct", "map", "dates", "zone")] == [
        '["ok", "\ufffdx"]', '[["ok", "\ufffdx"]]', '{"a": "ok", "b": 1}', '[["k", "ok"], ["l", "\ufffdx"]]',
        '[1125899906842624, "1970-01-01 00:00:00"]', "7",
    ]  # fmt: skip
    ((number, reason, raw),) = reasons(tmp_path / "out.csv")
    assert (number, reason) == ("2", "no text")
    assert '"struct": {"a": "\ufffdx", "b": 2}' in raw


def test_a_column_that_cannot_be_written_or_named_is_one_line(tmp_path: Path, classifier: Classifier) -> None:
    chunk = Chunk(pa.table({"text": ["fine"], "none": pa.array([{}], pa.struct([]))}), ["fine"], [])
    with pytest.raises(DataError, match=r"the columns of a\.csv cannot be written as Parquet: Cannot write struct"):
        parts.score(chunk, Draw(0).next(chunk.texts), classifier, "a.csv", "a.csv.parquet", first=True)
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": ["fine"], "naïve": [1]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace("naïve".encode(), b"na\xff\xffve"))
    with pytest.raises(DataError, match=r"in\.parquet is not a readable Parquet file: 'utf-8' codec"):
        score_file(path, tmp_path / "out.csv", classifier, SETTINGS)


def test_predictions_are_not_zipped_parquet(tmp_path: Path, classifier: Classifier) -> None:
    (tmp_path / "in.csv").write_text("text\nfine\n")
    with pytest.raises(DataError, match=r"out\.parquet\.gz would not be zipped, .*; name it .*/out\.parquet$"):
        score_file(tmp_path / "in.csv", tmp_path / "out.parquet.gz", classifier, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]
