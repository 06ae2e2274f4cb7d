"""prepare: what goes in, what comes out, and what is refused."""

import csv
import dataclasses
import gzip
import io
import random
import tarfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.config import DataSettings
from components.data.data_set import SPLITS, DataSet
from components.data.duplicates import grams, jaccard
from components.data.prepare import prepare
from components.errors import DataError, InputError

SETTINGS = DataSettings(test_share=0.1, minimum_rows=2)
WORDS = Path(__file__).read_text(encoding="utf-8").split() + [f"word{i}" for i in range(3000)]


def some_rows(count: int = 200, seed: int = 1) -> list[tuple[str, str, str]]:
    chosen = random.Random(seed)  # noqa: S311
    return [(f"r{seed}-{i}", " ".join(chosen.choices(WORDS, k=12)), str(i % 2)) for i in range(count)]


def write(path: Path, rows: list, header: tuple[str, ...] = ("id", "text", "label")) -> str:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def quarantine(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "quarantine.csv", dtype=str, keep_default_na=False)


def all_rows(folder: Path) -> pd.DataFrame:
    data = DataSet.load(folder)
    return pd.concat([data.frame(split).assign(split=split) for split in SPLITS], ignore_index=True)


def test_splits_are_stratified_and_described(tmp_path: Path) -> None:
    source = write(tmp_path / "shop.csv", some_rows())
    description = prepare([source], tmp_path / "out", SETTINGS)
    rows = all_rows(tmp_path / "out")
    assert rows.groupby("split").size().to_dict() == {"test": 20, "train": 160, "validation": 20}
    assert rows.groupby("split").label.mean().between(0.45, 0.55).all()
    assert set(rows.source) == {"shop"}
    assert set(rows.label_source) == {"human"}
    assert description["counts"]["test"]["rows"] == 20
    assert DataSet.load(tmp_path / "out").digest == description["digest"]
    assert quarantine(tmp_path / "out").empty


def test_the_order_of_the_rows_does_not_matter(tmp_path: Path) -> None:
    rows = some_rows()
    rows += [("copy", rows[0][1], rows[0][2]), ("near", rows[1][1] + "!", rows[1][2])]
    one = prepare([write(tmp_path / "shop.csv", rows)], tmp_path / "one", SETTINGS)
    two = prepare([write(tmp_path / "shop.csv", rows[::-1])], tmp_path / "two", SETTINGS)
    assert one["digest"] == two["digest"]
    other = prepare([str(tmp_path / "shop.csv")], tmp_path / "x", dataclasses.replace(SETTINGS, seed=2))
    assert other["digest"] != one["digest"]


def test_duplicates_go_and_contradictions_are_quarantined(tmp_path: Path) -> None:
    rows = some_rows()
    rows += [("e", rows[0][1], rows[0][2]), ("n", rows[1][1].upper() + " !!", rows[1][2])]
    rows += [("c", rows[2][1], "1" if rows[2][2] == "0" else "0")]
    description = prepare([write(tmp_path / "shop.csv", rows)], tmp_path / "out", SETTINGS)
    assert description["duplicates_removed"] == {"exact": 1, "near": 1, "leaks": 0}
    assert len(all_rows(tmp_path / "out")) == 199
    bad = quarantine(tmp_path / "out")
    assert list(bad.row) == ["4", "204"]
    assert set(bad.reason) == {"the same text has different labels"}
    assert rows[2][1] not in set(all_rows(tmp_path / "out").text)


def test_a_pseudo_label_gives_way_to_a_trusted_one_old_or_new(tmp_path: Path) -> None:
    header = ("id", "text", "label", "label_source")
    rows = some_rows()
    guesses = [(f"g{i}", text, label, "pseudo") for i, (_, text, label) in enumerate(some_rows(100, seed=3))]
    wrong = [(f"w{i}", rows[i][1], "1" if rows[i][2] == "0" else "0", "pseudo") for i in range(20)]
    near = [(f"n{i}", rows[i][1].upper() + " !!", rows[i][2], "pseudo") for i in range(20, 40)]
    trusted = [(*row, "human") for row in rows]
    old = prepare([write(tmp_path / "a.csv", [*wrong, *near, *guesses, *trusted], header)], tmp_path / "old", SETTINGS)
    kept = all_rows(tmp_path / "old")
    assert old["new_rows"] == {"human": 200, "pseudo": 100}
    assert quarantine(tmp_path / "old").empty
    assert set(kept[kept.label_source == "human"].id) == {row[0] for row in rows}
    assert set(kept[kept.label_source == "pseudo"].split) == {"train"}
    assert old["counts"]["test"]["label_source"] == {"human": 20}
    # Somebody labels what was guessed: the guess is replayed no more.
    corrected = [
        (f"c{i}", text if i % 2 else f"{text} So.", "1" if label == "0" else "0", "human")
        for i, (_, text, label, _) in enumerate(guesses)
    ]
    new = write(tmp_path / "b.csv", corrected, header)
    made = prepare([new], tmp_path / "new", SETTINGS, replay=str(tmp_path / "old"))
    assert made["new_rows"] == {"human": 100}
    assert set(all_rows(tmp_path / "new").label_source) == {"human"}
    held_out = kept[kept.split != "train"].id
    assert set(held_out) <= set(all_rows(tmp_path / "new").query("split != 'train'").id)


def test_damaged_rows_are_quarantined_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "shop.csv"
    good = [f"{i},{text.replace(chr(34), '').replace(',', '')},{label}".encode() for i, text, label in some_rows()]
    bad = [b"a,too,long,1", b"short,1", b"q,\"never closed,1", b"\xff\xfe,bad \xe9,1", b"e,  ,1", b"l,fine,maybe",
           b"u,no label,"]  # fmt: skip
    path.write_bytes(b"\xef\xbb\xbfid,text,label\r\n" + b"\r\n".join(bad + good + [b"n,N/A,1"]) + b"\r\n")
    prepare([str(path)], tmp_path / "out", SETTINGS)
    found = quarantine(tmp_path / "out")
    assert list(found.row) == ["2", "3", "4", "5", "6", "7", "8"]
    assert [reason.split(":")[0] for reason in found.reason] == [
        "4 fields, the header has 3", "2 fields, the header has 3", "a quote is opened and never closed", "not UTF-8",
        "the text is empty", "label not in the label set", "the label is empty",
    ]  # fmt: skip
    assert found.raw_text[2] == 'q,"never closed,1'
    assert len(all_rows(tmp_path / "out")) == 201
    assert "N/A" in set(all_rows(tmp_path / "out").text)


def test_quoted_line_breaks_and_gzip(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.csv", [(i, text.replace(" ", "\n", 2), label) for i, text, label in some_rows()])
    packed = tmp_path / "b.csv.gz"
    packed.write_bytes(gzip.compress(Path(plain).read_bytes()))
    prepare([plain], tmp_path / "one", SETTINGS)
    prepare([str(packed)], tmp_path / "two", SETTINGS)
    assert len(all_rows(tmp_path / "one")) == 200
    assert sorted(all_rows(tmp_path / "one").text) == sorted(all_rows(tmp_path / "two").text)


def test_parquet_keeps_its_source_and_label_source(tmp_path: Path) -> None:
    frame = pd.DataFrame(some_rows(), columns=["id", "review", "label"]).assign(source="web", label_source="pseudo")
    frame.loc[:99, "label_source"] = "delayed"
    frame.to_parquet(tmp_path / "p.parquet")
    prepare([str(tmp_path / "p.parquet")], tmp_path / "out", SETTINGS)
    rows = all_rows(tmp_path / "out")
    assert len(rows) == 200
    assert set(rows.source) == {"web"}
    assert set(rows[rows.split != "train"].label_source) == {"delayed"}


@pytest.mark.parametrize("kind", [pa.binary(), pa.int64(), pa.dictionary(pa.int32(), pa.binary())])
def test_a_parquet_column_that_is_no_text_is_refused_in_one_line(tmp_path: Path, kind: pa.DataType) -> None:
    value: object = 1 if pa.types.is_integer(kind) else b"I loved it"
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"text": pa.array([value] * 9, kind), "label": ["1"] * 9}), path)
    with pytest.raises(DataError, match=r"the column text of .*p\.parquet holds .*, not text") as refused:
        prepare([str(path)], tmp_path / "out", SETTINGS)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_rows_that_are_not_utf8_are_quarantined_one_by_one(tmp_path: Path, kind: pa.DataType) -> None:
    """In the text or beside it; a replacement character that was there before is no damage, nor are bytes as labels."""
    ids, texts, labels = zip(*some_rows(2500), strict=True)
    stored = [text.encode() for text in texts]
    stored[5], stored[2100], stored[7] = b"caf\xe9", b"\xff", f"{texts[7]} \ufffd".encode()
    names = [name.encode() for name in ids]
    names[9] = b"\xe9"
    dictionary = pa.types.is_dictionary(kind)
    column = pa.array(stored).cast(pa.binary() if kind != pa.large_string() else pa.large_binary())
    column = column.view(kind.value_type if dictionary else kind)
    columns = {
        "id": pa.array(names).view(pa.string()),
        "text": pa.DictionaryArray.from_arrays(pa.array(range(2500), pa.int32()), column) if dictionary else column,
        "label": [label.encode() for label in labels],
    }
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    prepare([str(tmp_path / "p.parquet")], tmp_path / "out", SETTINGS)
    found = quarantine(tmp_path / "out")
    assert list(found.row) == ["6", "10", "2101"]
    assert set(found.reason) == {"not UTF-8"}
    assert list(found.raw_text) == ["caf\ufffd", texts[9], "\ufffd"]
    assert len(all_rows(tmp_path / "out")) == 2497


def test_an_archive_keeps_its_test_split_and_ignores_unsup(tmp_path: Path) -> None:
    rows = some_rows()
    with tarfile.open(tmp_path / "imdb.tar.gz", "w:gz") as archive:
        for place, (name, text, label) in enumerate(rows):
            split = "test" if place < 30 else "train"
            _member(archive, f"aclImdb/{split}/{'pos' if label == '1' else 'neg'}/{name}_7.txt", text)
        _member(archive, "aclImdb/train/unsup/1_0.txt", "not labelled")
        _member(archive, "../../escape/train/pos/9_9.txt", "a member that climbs out of its folder")
        _member(archive, "aclImdb/train/neg/99_1.txt", rows[1][1])
    description = prepare([str(tmp_path / "imdb.tar.gz")], tmp_path / "out", SETTINGS)
    test = DataSet.load(tmp_path / "out").frame("test")
    assert set(test.text) >= {text for _, text, label in rows[:30] if text != rows[1][1]}
    assert len(test) == 29  # rows[1] is Positive there and Negative in train: quarantined
    assert description["quarantined"] == {"the same text has different labels": 2}
    assert not (tmp_path.parent.parent / "escape").exists()


def _member(archive: tarfile.TarFile, name: str, text: str) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(text.encode())
    archive.addfile(info, io.BytesIO(text.encode()))


def test_a_folder_of_reviews_is_split(tmp_path: Path) -> None:
    for name, text, label in some_rows():
        path = tmp_path / "shop" / ("pos" if label == "1" else "neg") / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    description = prepare([str(tmp_path / "shop")], tmp_path / "out", SETTINGS)
    assert {split: description["counts"][split]["rows"] for split in SPLITS} == {
        "train": 160, "validation": 20, "test": 20,
    }  # fmt: skip


def test_replay_keeps_old_splits_and_adds_old_training_rows(tmp_path: Path) -> None:
    old_rows, new_rows = some_rows(300), some_rows(100, seed=2)
    prepare([write(tmp_path / "old.csv", old_rows)], tmp_path / "old", SETTINGS)
    source = write(tmp_path / "new.csv", [*new_rows, old_rows[0], ("n", old_rows[1][1] + "?", old_rows[1][2])])
    description = prepare([source], tmp_path / "new", SETTINGS, replay=str(tmp_path / "old"))
    old, new = all_rows(tmp_path / "old"), all_rows(tmp_path / "new")
    for split in ("validation", "test"):
        assert set(old[old.split == split].text) <= set(new[new.split == split].text)
    train = new[new.split == "train"]
    assert train.groupby("source").size().to_dict() == {"new": 80, "old": 80}
    assert train[train.source == "old"].label.mean() == 0.5
    assert set(train[train.source == "old"].text) <= set(old[old.split == "train"].text)
    assert sum(description["duplicates_removed"].values()) == 2


def test_no_text_is_in_two_splits_of_the_sample(tmp_path: Path) -> None:
    prepare([str(Path(__file__).parents[2] / "samples" / "movies.tar.gz")], tmp_path / "out", SETTINGS)
    rows = all_rows(tmp_path / "out")
    assert rows.text.is_unique
    held_out = [grams(text) for text in rows[rows.split == "test"].text[:60]]
    for text in rows[rows.split == "train"].text[:1500]:
        assert max(jaccard(grams(text), other) for other in held_out) < SETTINGS.near_duplicate_similarity


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no readable header"),
        ("id,body,label\n1,good,1\n", "no text column .*id, body, label"),
        ("id,text\n1,good\n", "no label column .*id, text"),
        ("id,text,label\n", "no usable row in .*: nothing follows the header line"),
        ("id,text,label\n1,,1\n2, ,0\n3,good,\n", r": the text is empty \(2 rows\); the label is empty \(1 row\)$"),
        ("id,text,label\n1,good,great\n2,bad,awful\n", "labels seen: awful, great; the label set is 0"),
        ("id,text,label\n1,good,1\n2,well made,1\n", "every row has the label Positive"),
        ("id,text,label\n1,good,1\n2,bad taste,0\n", "split has 0 rows|split has 1 rows"),
    ],
)
def test_a_useless_table_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        prepare([str(tmp_path / "a.csv")], tmp_path / "out", SETTINGS)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_places_without_data_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.tar.gz").write_bytes(b"not an archive")
    (tmp_path / "a.parquet").write_bytes(b"not parquet")
    (tmp_path / "a.docx").write_bytes(b"something else")
    cases = {"none": "does not exist", "empty": "holds no reviews", "a.tar.gz": "not a whole .tar.gz",
             "a.parquet": "not a readable Parquet", "a.docx": "is not a .tar.gz"}  # fmt: skip
    for name, message in cases.items():
        with pytest.raises(DataError, match=message):
            prepare([str(tmp_path / name)], tmp_path / "out", SETTINGS)
    with pytest.raises(InputError, match="choose another"):
        prepare([write(tmp_path / "b.csv", some_rows())], tmp_path, SETTINGS)


def test_a_damaged_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        DataSet.load(tmp_path / "none")
    with pytest.raises(DataError, match=r"no dataset\.json"):
        DataSet.load(tmp_path)
    prepare([write(tmp_path / "a.csv", some_rows())], tmp_path / "out", SETTINGS)
    (tmp_path / "out" / "test.parquet").unlink()
    with pytest.raises(DataError, match=r"no test\.parquet"):
        DataSet.load(tmp_path / "out")
