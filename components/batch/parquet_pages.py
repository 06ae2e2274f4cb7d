"""How much memory reading a Parquet file takes, known from the headers of its pages before any is unpacked.

pyarrow unpacks a page whole, however large, and says nothing of pages. Their headers are structs of Thrift's compact
protocol; what is read here of them is what pyarrow itself goes by.
"""

from typing import Any, BinaryIO

import pyarrow.parquet as pq

from components.errors import DataError

MOST_PAGE_BYTES = 256 << 20  # of a file's largest pages, unpacked: every column has one in memory
_LONGEST_HEADER = 16 << 20  # as in pyarrow
_ELEMENT_BYTES = 8  # that an element of a list takes at least, though the page may count a million equal ones in a byte
_UNPACKED, _PACKED, _DATA, _DATA_2 = 2, 3, 5, 8  # fields of a page's header
_VALUES = 1  # a field of _DATA and _DATA_2


def rows_at_once(file: BinaryIO, metadata: pq.FileMetaData, name: str) -> int:
    """How many rows can be read at once, whatever is in the pages, in MOST_PAGE_BYTES beside those for the pages.

    Raises DataError if pages are damaged or too large.
    """
    largest = [0] * metadata.num_columns
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            largest[column] = max(largest[column], _largest(file, metadata, group, column, name))
    if sum(largest) > MOST_PAGE_BYTES:
        raise DataError(
            f"{name} has pages that take {sum(largest) >> 20} MB unpacked, more than {MOST_PAGE_BYTES >> 20} MB; "
            "write it with smaller ones (data_page_size)"
        )
    kinds = [metadata.schema.column(column) for column in range(metadata.num_columns)]
    of_any_size = [kind.physical_type.endswith("BYTE_ARRAY") or kind.max_repetition_level > 0 for kind in kinds]
    of_a_row = sum(size for size, is_any in zip(largest, of_any_size, strict=True) if is_any)
    return max(1, MOST_PAGE_BYTES // max(of_a_row, 1))


def _largest(file: BinaryIO, metadata: pq.FileMetaData, group: int, column: int, name: str) -> int:
    """Bytes of the largest page of a column in a row group, unpacked."""
    chunk = metadata.row_group(group).column(column)
    nested = metadata.schema.column(column).max_repetition_level > 0
    at, end, seen, largest = chunk.data_page_offset, 0, 0, 0
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < at:
        at = chunk.dictionary_page_offset
    end = at + chunk.total_compressed_size
    while at < end and seen < chunk.num_values:
        header, length = _header(file, at, name)
        data = header.get(_DATA) or header.get(_DATA_2) or {}
        unpacked, packed, values = header.get(_UNPACKED, -1), header.get(_PACKED, -1), data.get(_VALUES, 0)
        if min(unpacked, packed, values) < 0:
            raise _damaged(name, at)
        largest = max(largest, unpacked, _ELEMENT_BYTES * values if nested else 0)
        at, seen = at + length + packed, seen + values
    return largest


def _header(file: BinaryIO, at: int, name: str) -> tuple[dict[int, Any], int]:
    """The header of the page that starts there, and its length."""
    size = 1 << 10
    while size <= _LONGEST_HEADER:
        file.seek(at)
        data = file.read(size)
        try:
            return _struct(data, 0)
        except IndexError:
            if len(data) < size:
                break
            size *= 16
        except (ValueError, RecursionError):
            break
    raise _damaged(name, at)


def _damaged(name: str, at: int) -> DataError:
    return DataError(f"{name} is not a readable Parquet file: there is no page at byte {at}")


def _struct(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    """A struct's numbers and structs by their ids, and where it ends. IndexError if `data` ends before it does."""
    found: dict[int, Any] = {}
    field = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            field += head >> 4
        else:
            field, at = _number(data, at)
        found[field], at = _value(head & 15, data, at)
    return found, at + 1


def _value(kind: int, data: bytes, at: int) -> tuple[Any, int]:
    if kind in (1, 2):  # true, false
        return None, at
    if kind in (3, 7):  # a byte, a double
        return None, at + (1 if kind == 3 else 8)
    if kind in (4, 5, 6):
        return _number(data, at)
    if kind == 8:
        length, at = _varint(data, at)
        return None, at + length
    if kind == 12:
        return _struct(data, at)
    raise ValueError(kind)  # lists, sets and maps: no page's header has one


def _number(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise ValueError(value)
