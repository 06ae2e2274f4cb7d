"""Texts of a CSV file, and digests of sources."""

from pathlib import Path

import pytest

from components.data.texts import digest_of, read_texts
from components.errors import DataError


def test_na_is_a_text_and_empty_rows_are_not(tmp_path: Path) -> None:
    file = tmp_path / "in.csv"
    file.write_text('id,review\n1,N/A\n2,\n3,"two, lines\nhere"\n', encoding="utf-8-sig")
    assert read_texts(file) == ["N/A", "two, lines\nhere"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,words\n1,x\n", "no text column .* it has id, words"),
        (b"", "no text column .* it has no columns"),
        (b"text\n", "holds no texts"),
        (b"text\n\xff\xfe\n", "not a UTF-8 CSV file"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "in.csv"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_texts(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*nowhere\.csv"):
        read_texts(tmp_path / "nowhere.csv")


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    (tmp_path / "pos").mkdir()
    file = tmp_path / "pos" / "1.txt"
    file.write_text("good")
    before = digest_of([str(tmp_path)])
    assert digest_of([str(tmp_path)]) == before
    file.write_text("bad")
    assert digest_of([str(tmp_path)]) != before
