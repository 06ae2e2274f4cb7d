"""CSV: read record by record, where a damaged record costs that record and not the file; written to be read so.

Whatever the file holds, reading it takes the memory of two records of MOST_RECORD_BYTES, and time in proportion to its
size.
"""

import csv
from collections import deque
from collections.abc import Iterator
from typing import Any, BinaryIO, TextIO

MOST_LINES = 500  # in one record; a quote still open after so many was never closed
MOST_RECORD_BYTES = 4 << 20  # in one record; a longer one is read past and not held
SHOWN_BYTES = 1000  # of a record that is too long
TOO_LONG = f"longer than {MOST_RECORD_BYTES >> 20} MB"
_MARK = b"\xef\xbb\xbf"
_NOT_UTF8 = -1
csv.field_size_limit(2**31 - 1)


class DamagedError(Exception):
    """A record that cannot be read; the message says why."""


class _TooLongError(Exception):
    pass


def records(file: BinaryIO) -> Iterator[tuple[int, list[str] | None, str, bytes]]:
    """(line number from 1, fields, reason, raw bytes) of each record; fields is None where reason says why.

    Blank lines are skipped. After damage, reading goes on at the next line; after a record that is too long, of which
    raw is the beginning, where it ends. The first record sets the field count.
    """
    lines, number, width = _Lines(file), 1, 0
    while line := lines.pop():
        first = line.removeprefix(_MARK) if number == 1 else line
        if not first.strip() and len(line) <= MOST_RECORD_BYTES:
            number += 1
            continue
        try:
            if len(line) > MOST_RECORD_BYTES:
                raise _TooLongError
            fields, more = _record(first, lines, width)
        except DamagedError as damage:
            yield number, None, str(damage), first
            number += 1
        except _TooLongError:
            end = number + lines.skip(first)
            yield number, None, TOO_LONG + (f", up to line {end}" if end > number else ""), first[:SHOWN_BYTES]
            number = end + 1
        else:
            width = width or len(fields)
            yield number, fields, "", first + b"".join(more)
            number += 1 + len(more)


class _Lines:
    """Lines of a file, of which those ahead can be looked at; one that is too long comes cut, and nothing after it.

    What a line does to a quote that is open before it depends on the line alone. So each is looked at once, however
    many lines before it open one.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._ahead: deque[bytes] = deque()
        self._begun: deque[int] = deque()
        """Of the first lines ahead, those that leave an open quote open: fields that begin in each, or _NOT_UTF8."""
        self._open_bytes = 0
        self._looked_at, self._found = b"", (True, 0, "")

    def pop(self) -> bytes:
        """The next line; empty at the end."""
        if not self._ahead:
            return self._file.readline(MOST_RECORD_BYTES + 1)
        line = self._ahead.popleft()
        if self._begun:
            self._open_bytes -= len(line)
            self._begun.popleft()
        return line

    def until_closed(self, size: int) -> tuple[int, int]:
        """How many lines a record of `size` bytes with an open quote takes further, and how many fields begin there.

        Raises DamagedError and _TooLongError.
        """
        while len(self._begun) < MOST_LINES - 1 and size + self._open_bytes <= MOST_RECORD_BYTES:
            if len(self._ahead) == len(self._begun):
                self._ahead.append(self._file.readline(MOST_RECORD_BYTES + 1))
            line = self._ahead[len(self._begun)]
            if not line:
                break
            if len(line) > MOST_RECORD_BYTES:
                raise _TooLongError
            if b'"' in line and _NOT_UTF8 in self._begun:
                raise DamagedError("not UTF-8")
            is_open, fields, damage = self._look_at(line)
            if damage:
                raise DamagedError(damage)
            if not is_open and size + self._open_bytes + len(line) > MOST_RECORD_BYTES:
                raise _TooLongError
            if not is_open:
                return len(self._begun) + 1, sum(self._begun) + fields
            self._begun.append(fields)
            self._open_bytes += len(line)
        if size + self._open_bytes > MOST_RECORD_BYTES:
            raise _TooLongError
        raise DamagedError("a quote is opened and never closed")

    def _look_at(self, line: bytes) -> tuple[bool, int, str]:
        """`_within`, once for the line that the last record met."""
        if self._looked_at is not line:
            self._looked_at, self._found = line, _within(line)
        return self._found

    def skip(self, line: bytes) -> int:
        """Read past a record that starts with `line`, which was popped; how many lines it takes further.

        A quote is taken to open or close whatever is around it: strict reading would have to hold the record.
        """
        further = quotes = 0
        while True:
            quotes += line.count(b'"')
            while line and not line.endswith(b"\n"):
                line = self._file.readline(MOST_RECORD_BYTES)
                quotes += line.count(b'"')
            if quotes % 2 == 0 or further == MOST_LINES - 1:
                return further
            line = self.pop()
            if not line:
                return further
            further += 1


def _record(first: bytes, lines: _Lines, width: int) -> tuple[list[str], list[bytes]]:
    """Fields of the record that starts with `first`, and the lines it takes further. `width` is 0 for the header.

    Raises DamagedError and _TooLongError; the lines are still ahead then.
    """
    text = _text(first)
    fields, further = _parse(text), 0
    count = len(fields or [])
    if fields is None:
        further, begun = lines.until_closed(len(first))
        count = len(_parse(f'{text}"') or []) + begun
    if width and count != width:
        raise DamagedError(f"{count} fields, the header has {width}")
    more = [lines.pop() for _ in range(further)]
    if fields is None:
        fields = _parse(_text(first + b"".join(more)))
    return fields or [], more


def _within(line: bytes) -> tuple[bool, int, str]:
    """Whether a quote that is open before the line is open after it, how many fields begin in the line, and damage.

    A line without a quote may be no UTF-8: that is damage only where the record ends.
    """
    try:
        text = _text(line)
        if b'"' not in line:
            return True, 0, ""
        fields = _parse(f'"{text}')
        return fields is None, len(fields or _parse(f'"{text}"') or []) - 1, ""
    except DamagedError as damage:
        return (True, _NOT_UTF8, "") if b'"' not in line else (False, 0, str(damage))


def _text(raw: bytes) -> str:
    """Without the end of the line. Raises DamagedError."""
    try:
        return raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DamagedError("not UTF-8") from error


def _parse(text: str) -> list[str] | None:
    """Fields, or None where a quoted field is still open."""
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            return None
        raise DamagedError(f"not CSV: {error}") from error


class _UnixLines:
    """Takes rows that end in CR LF, writes them with LF."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, row: str) -> int:
        return self._file.write(row.removesuffix("\r\n") + "\n")


def writer(file: TextIO) -> Any:
    """A csv.writer whose lines end in LF. With that as its line terminator, csv would leave a bare CR unquoted."""
    return csv.writer(_UnixLines(file))
