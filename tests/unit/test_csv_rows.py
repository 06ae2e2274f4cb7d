"""CSV that is written is read back as it was, whatever is in it."""

import csv
import io

import pytest

from components.data.csv_rows import records, writer

TEXTS = [
    "plain",
    "a,b",
    'say "so"',
    "two\nlines",
    "bare\rreturn",
    "both\r\nends",
    "",
    " spaced ",
    "N/A",
    "\u2028",
    "=1+1",
]


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_survives_the_way_there_and_back(text: str) -> None:
    file = io.StringIO(newline="")
    writer(file).writerows([["id", "text", "end"], ["1", text, "x"]])
    content = file.getvalue()
    assert content.splitlines()[0] == "id,text,end"
    assert not content.endswith("\r\n")
    assert next(list(fields) for _, fields, _, _ in list(records(io.BytesIO(content.encode())))[1:]) == ["1", text, "x"]
    assert list(csv.reader(io.StringIO(content, newline="")))[1] == ["1", text, "x"]
