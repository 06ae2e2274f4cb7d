"""CSV: read record by record, where a damaged record costs that record and not the file; written to be read so."""

import csv
from collections import deque
from collections.abc import Iterator
from typing import Any, BinaryIO, TextIO

MOST_LINES = 500  # in one record; a quote still open after so many was never closed
csv.field_size_limit(2**31 - 1)


class DamagedError(Exception):
    """A record that cannot be read; the message says why."""


def records(file: BinaryIO) -> Iterator[tuple[int, list[str] | None, str, bytes]]:
    """(line number from 1, fields, reason, raw bytes) of each record; fields is None where reason says why.

    Blank lines are skipped. After damage, reading goes on at the next line. The first record sets the field count.
    """
    waiting: deque[bytes] = deque()
    number, width = 1, 0
    while waiting or (line := file.readline()):
        first = waiting.popleft() if waiting else line
        if number == 1:
            first = first.removeprefix(b"\xef\xbb\xbf")
        if not first.strip():
            number += 1
            continue
        lines = [first]
        try:
            fields = _complete(lines, waiting, file)
            if width and len(fields) != width:
                raise DamagedError(f"{len(fields)} fields, the header has {width}")
            width = width or len(fields)
            yield number, fields, "", b"".join(lines)
            number += len(lines)
        except DamagedError as damage:
            waiting.extendleft(reversed(lines[1:]))
            yield number, None, str(damage), first
            number += 1


def _complete(lines: list[bytes], waiting: deque[bytes], file: BinaryIO) -> list[str]:
    """Fields of the record that starts with lines[0]; the further lines it takes are appended to `lines`."""
    while True:
        fields = _parse(b"".join(lines))
        if fields is not None:
            return fields
        while True:
            line = waiting.popleft() if waiting else file.readline()
            if line:
                lines.append(line)
            if not line or len(lines) > MOST_LINES:
                raise DamagedError("a quote is opened and never closed")
            if b'"' in line:
                break


def _parse(raw: bytes) -> list[str] | None:
    """Fields, or None where a quoted field is still open."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DamagedError("not UTF-8") from error
    try:
        return next(csv.reader([text.rstrip("\r\n")], strict=True))
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
