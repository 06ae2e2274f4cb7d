"""CSV that is written is read back as it was, whatever is in it; and reading takes bounded memory and time."""

import csv
import io
import tracemalloc
from collections.abc import Iterator
from itertools import chain, repeat
from typing import BinaryIO, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data import csv_rows
from components.data.csv_rows import MOST_LINES, MOST_RECORD_BYTES, records, writer

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


Record = tuple[int, list[str] | None, str, bytes]


def parsed_whole(content: bytes) -> Iterator[Record]:
    """What `records` gives, by the slow way: Python's csv is given the whole record again for each line."""
    lines, number, width = io.BytesIO(content.removeprefix(b"\xef\xbb\xbf")).readlines(), 1, 0
    while lines:
        taken, reason = 1, ""
        fields: list[str] | None = None
        while lines[0].strip() and fields is None and not reason:
            try:
                if taken == 1 or b'"' in lines[taken - 1]:
                    text = b"".join(lines[:taken]).decode().rstrip("\r\n")
                    fields = next(csv.reader([text], strict=True))
                else:
                    taken += 1
            except UnicodeDecodeError:
                reason = "not UTF-8"
            except csv.Error as error:
                reason = "" if "unexpected end" in str(error) else f"not CSV: {error}"
                taken += not reason
            if taken > min(len(lines), MOST_LINES):
                reason = "a quote is opened and never closed"
        if fields is not None and width and len(fields) != width:
            fields, reason = None, f"{len(fields)} fields, the header has {width}"
        if fields is None:
            taken = 1
        width = width or len(fields or [])
        if lines[0].strip():
            yield number, fields, reason, b"".join(lines[:taken])
        number, lines = number + taken, lines[taken:]


@settings(max_examples=1000)
@given(st.lists(st.sampled_from([*'"",,\n\n\ra é\ufeff', "\udcff"]), max_size=60).map("".join))
def test_records_are_those_of_pythons_csv_in_strict_mode(content: str) -> None:
    data = content.encode("utf-8", "surrogateescape")
    assert list(records(io.BytesIO(data))) == list(parsed_whole(data))


LINES = [b"word," * 200_000 + b"\n"] * 8
AFTER = b"fine,1\n"


@pytest.mark.parametrize(
    ("long", "reason"),
    [
        (b'"' + b"".join(LINES) + b'",1\n', "longer than 4 MB, up to line 10"),
        (b"word" * MOST_RECORD_BYTES + b",1\n", "longer than 4 MB"),
        (b"word" * MOST_RECORD_BYTES + b',"1\n2""3\n"\n', "longer than 4 MB, up to line 4"),
        (b'"a\nb\n' + b"word" * MOST_RECORD_BYTES + b'\n",1\n', "longer than 4 MB, up to line 5"),
    ],
    ids=["many lines", "one line", "a line and more", "lines and a long one"],
)  # fmt: skip
def test_a_record_that_is_too_long_is_one_refused_row(long: bytes, reason: str) -> None:
    file = io.BytesIO(b"text,n\n" + long + AFTER)
    lines = long.count(b"\n")
    _, refused, after = records(file)
    assert refused == (2, None, reason, long.splitlines(keepends=True)[0][: csv_rows.SHOWN_BYTES])
    assert after == (2 + lines, ["fine", "1"], "", AFTER)


@pytest.mark.parametrize("more", [0, 1])
def test_a_record_may_have_the_most_bytes_and_none_more(more: int) -> None:
    content = b'"\n' + b"w" * (MOST_RECORD_BYTES - len(b'"\n",1\n') + more) + b'",1\n'
    reasons = [reason for _, _, reason, _ in records(io.BytesIO(b"text,n\n" + content + AFTER))]
    assert reasons == ["", "longer than 4 MB, up to line 3" if more else "", ""]


class Endless(io.RawIOBase):
    """A header, a quote, and megabytes of lines, none of which is held."""

    def __init__(self, line: bytes, count: int) -> None:
        self.lines = chain([b"text\n", b'"start\n'], repeat(line, count))

    def readline(self, most: int | None = -1, /) -> bytes:
        return next(self.lines, b"")


def test_a_record_takes_no_more_memory_than_it_may_have_bytes() -> None:
    tracemalloc.start()
    try:
        found = list(records(cast(BinaryIO, Endless(b"word " * 50_000 + b"\n", 400))))
        assert tracemalloc.get_traced_memory()[1] < 4 * MOST_RECORD_BYTES
    finally:
        tracemalloc.stop()
    assert [reason for _, _, reason, _ in found] == ["", "longer than 4 MB, up to line 402"]


@pytest.mark.parametrize(
    ("line", "last"),
    [
        (b'""' + b"w" * 800 + b"\n", b""),
        (b'a","' + b"w" * 800 + b"\n", b""),
        (b'a","\n', b"w" * 400_000 + b'"w\n'),
        (b'a","\n', b"w" * 400_000 + b'"\n'),
    ],
    ids=["quotes", "an open one", "damage", "an end"],
)
def test_no_line_is_parsed_again_and_again(line: bytes, last: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the first leave a quote open whether or not one is open before: each line starts a record."""
    parsed, real = 0, csv_rows._parse

    def counted(content: str) -> list[str] | None:
        nonlocal parsed
        parsed += len(content)
        return real(content)

    monkeypatch.setattr(csv_rows, "_parse", counted)
    content = b'text\n"start\n' + line * (MOST_LINES - 3) + last
    assert len(list(records(io.BytesIO(content)))) == MOST_LINES - 1 + bool(last)
    assert parsed < 10 * len(content)
