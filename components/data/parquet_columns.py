"""Columns of Parquet files: text that may not be UTF-8, and dates that Python has not."""

import pyarrow as pa

from components.errors import DataError


def require_text(field: pa.Field, name: str) -> None:
    """Raises DataError if the column of the file with that name does not hold text; `binary` does not."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if not any(test(kind) for test in tests):
        raise DataError(f"the column {field.name} of {name} holds {field.type}, not text; write it as strings")


def bytes_of(column: pa.Array | pa.ChunkedArray) -> list[bytes | None]:
    """The values of a column of text as they are stored."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return list(column.cast(pa.large_binary()).to_pylist())


def plain(column: pa.Array | pa.ChunkedArray) -> list[object]:
    """A column's values for Python; text that is not UTF-8 with replacement characters, dates too far as numbers."""
    return decoded(column)[0]


def decoded(column: pa.Array | pa.ChunkedArray) -> tuple[list[object], set[int]]:
    """The values as `plain` gives them, and the places of those that are not UTF-8."""
    try:
        return list(column.to_pylist()), set()
    except UnicodeDecodeError:
        stored = bytes_of(column)
        texts = [None if value is None else value.decode("utf-8", "replace") for value in stored]
        return list(texts), {i for i, text in enumerate(texts) if text is not None and text.encode() != stored[i]}
    except (ValueError, OverflowError):  # a date that Python has not; its number of days, seconds or less
        return [getattr(value, "value", None) for value in column], set()
