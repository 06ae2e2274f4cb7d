"""prepare from s3:// addresses of a real object store gives the rows that the same files on disk give."""

import csv
import dataclasses
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.config import DataSettings
from components.data.data_set import SPLITS, DataSet
from components.data.prepare import prepare
from components.data.publish import publish
from components.data.texts import digest_of
from components.errors import DataError, StorageError
from components.storage import ObjectStore, local_folder, path_below

SETTINGS = DataSettings(minimum_rows=2)
pytestmark = pytest.mark.slow


def some_rows(seed: int) -> list[tuple[str, str, str]]:
    chosen = random.Random(seed)  # noqa: S311
    return [
        (f"r{seed}-{i}", " ".join(f"word{chosen.randrange(5000)}" for _ in range(12)), str(i % 2)) for i in range(90)
    ]


def write_csv(path: Path, seed: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [("id", "text", "label"), *some_rows(seed), ("e", " ", "1"), ("l", "so so", "maybe")]
        )


def write_reviews(folder: Path) -> None:
    for place, (name, text, label) in enumerate(some_rows(3)):
        split = "test" if place < 20 else "train"
        path = folder / split / ("pos" if label == "1" else "neg") / f"{name}_7.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "train" / "unsup").mkdir()
    (folder / "train" / "unsup" / "1_0.txt").write_text("not labelled", encoding="utf-8")


def write_archive(path: Path) -> None:
    write_reviews(path.with_name("aclImdb"))
    with tarfile.open(path, "w:gz") as archive:
        archive.add(path.with_name("aclImdb"), "aclImdb")


def write_tables(folder: Path) -> None:
    write_csv(folder / "a.csv", 1)
    write_csv(folder / "deeper" / "b.csv", 2)


@pytest.mark.parametrize(
    ("name", "write"),
    [("shop.csv", write_csv), ("imdb.tar.gz", write_archive), ("shops", write_tables), ("aclImdb", write_reviews)],
    ids=["a CSV object", "an archive", "a prefix of CSVs", "a prefix in the aclImdb layout"],
)
def test_the_same_rows_as_from_disk(
    bucket: ObjectStore, tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    source = tmp_path / "disk" / name
    source.parent.mkdir()
    write(source)
    if source.is_file():
        bucket.upload(source, f"raw/{name}")
    else:
        bucket.upload_folder(source, f"raw/{name}")
    bucket.put(f"raw/{name}-of-somebody-else.csv", b"not,ours\n")  # begins with the same letters, is not below it
    there = prepare([bucket.uri(f"raw/{name}")], tmp_path / "s3", SETTINGS)
    here = prepare([str(source)], tmp_path / "local", SETTINGS)
    assert there == here
    assert rows_of(tmp_path / "s3").equals(rows_of(tmp_path / "local"))
    assert len(rows_of(tmp_path / "s3")) >= 90
    assert quarantine_of(tmp_path / "s3") == quarantine_of(tmp_path / "local")


def rows_of(folder: Path) -> pd.DataFrame:
    data = DataSet.load(folder)
    return pd.concat([data.frame(split).assign(split=split) for split in SPLITS], ignore_index=True)


def quarantine_of(folder: Path) -> list[dict[str, Any]]:
    with open(folder / "quarantine.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_that_cannot_be_read_are_set_aside_with_file_row_and_reason(bucket: ObjectStore, tmp_path: Path) -> None:
    write_csv(tmp_path / "good.csv")
    bucket.upload(tmp_path / "good.csv", "raw/good.csv")
    bucket.put("raw/bad.csv", b"text,label\nfine,1\nfine,too,many\n\xff\xfe,0\n,1\nthe end,2\n")
    bucket.put("raw/pos/1_9.txt", b"\xe9 is not UTF-8")
    description = prepare([bucket.uri("raw/")], tmp_path / "out", SETTINGS)
    found = [(row["source"], row["row"], row["reason"].split(":")[0]) for row in quarantine_of(tmp_path / "out")]
    assert found == [
        ("raw", "raw/pos/1_9.txt", "not UTF-8"),
        ("bad.csv", "3", "3 fields, the header has 2"), ("bad.csv", "4", "not UTF-8"),
        ("bad.csv", "5", "the text is empty"), ("bad.csv", "6", "label not in the label set"),
        ("good.csv", "92", "the text is empty"), ("good.csv", "93", "label not in the label set"),
    ]  # fmt: skip
    assert sum(description["quarantined"].values()) == len(found)
    assert quarantine_of(tmp_path / "out")[1]["raw_text"] == "fine,too,many"


def test_several_sources_and_a_whole_bucket(bucket: ObjectStore, tmp_path: Path) -> None:
    for seed in (1, 2):
        write_csv(tmp_path / f"{seed}.csv", seed)
        bucket.upload(tmp_path / f"{seed}.csv", f"{seed}.csv")
    both = prepare([bucket.uri("1.csv"), str(tmp_path / "2.csv")], tmp_path / "both", SETTINGS)
    whole = prepare([bucket.uri("")], tmp_path / "whole", SETTINGS)
    assert both["digest"] == whole["digest"]
    assert set(rows_of(tmp_path / "whole").source) == {"1", "2"}


def test_a_replay_from_the_store_is_the_replay_from_disk(bucket: ObjectStore, tmp_path: Path) -> None:
    write_csv(tmp_path / "old.csv", 1)
    write_csv(tmp_path / "new.csv", 2)
    prepare([str(tmp_path / "old.csv")], tmp_path / "old", SETTINGS)
    bucket.upload_folder(tmp_path / "old", "datasets/old")
    source = [str(tmp_path / "new.csv")]
    here = prepare(source, tmp_path / "here", SETTINGS, replay=str(tmp_path / "old"))
    assert here == prepare(source, tmp_path / "there", SETTINGS, replay=bucket.uri("datasets/old"))


def test_the_same_rows_with_renamed_labels_are_published_beside_the_old_ones(
    bucket: ObjectStore, tmp_path: Path
) -> None:
    write_csv(tmp_path / "a.csv")
    for names in (("Negative", "Positive"), ("Bad", "Good"), ("Good", "Bad")):
        settings, folder = dataclasses.replace(SETTINGS, labels=names), tmp_path / "-".join(names)
        prepare([str(tmp_path / "a.csv")], folder, settings)
        address = publish(folder, bucket.bucket)
        assert publish(folder, bucket.bucket) == address
        with local_folder(address) as published:
            assert DataSet.load(published).labels.names == names


def test_the_digest_of_a_source_follows_its_content(bucket: ObjectStore) -> None:
    bucket.put("raw/a.csv", b"one")
    before = digest_of([bucket.uri("raw/")])
    assert digest_of([bucket.uri("raw/")]) == before
    bucket.put("raw/a.csv", b"two")
    assert digest_of([bucket.uri("raw/")]) != before


def test_nothing_there_and_nothing_readable(bucket: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nothing under"):
        prepare([bucket.uri("raw/")], tmp_path / "out", SETTINGS)
    bucket.put("raw/notes.docx", b"x")
    for key, said in (("raw/", "holds no reviews"), ("raw/notes.docx", r"is not a \.tar\.gz")):
        with pytest.raises(DataError, match=said):
            prepare([bucket.uri(key)], tmp_path / "out", SETTINGS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../up", "a/../../up", "/etc/passwd", "a//b", ".", "nul\0"])
def test_no_key_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match="unsafe name"):
        path_below(tmp_path, name)
