"""Columns of Parquet files: text that may not be UTF-8, and dates that Python has not."""

import pyarrow as pa

from components.errors import DataError

_NOT_OF_PYTHON = (ValueError, OverflowError, KeyError)  # a date too far, a time zone that nobody knows


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
    """A column's values for Python; text that is not UTF-8 with replacement characters.

    Dates and times that Python has not are numbers: of days, seconds or less.
    """
    return decoded(column)[0]


def decoded(column: pa.Array | pa.ChunkedArray) -> tuple[list[object], set[int]]:
    """The values as `plain` gives them, and the places of those that are not UTF-8."""
    try:
        return list(column.to_pylist()), set()
    except UnicodeDecodeError:
        values = [_value(scalar) for scalar in column]
        return [value for value, _ in values], {i for i, (_, is_utf8) in enumerate(values) if not is_utf8}
    except _NOT_OF_PYTHON:
        if pa.types.is_nested(column.type):
            return [_value(scalar)[0] for scalar in column], set()
        return [getattr(value, "value", None) for value in column], set()


def _value(scalar: pa.Scalar) -> tuple[object, bool]:
    """The value, and whether all text in it is UTF-8. What Python cannot have whole is taken apart."""
    try:
        return scalar.as_py(), True
    except UnicodeDecodeError:
        is_utf8 = False
    except _NOT_OF_PYTHON:
        is_utf8 = True
    if isinstance(scalar, pa.StructScalar):
        fields = [field.name for field in scalar.type]
        return {name: _value(scalar[i])[0] for i, name in enumerate(fields)}, is_utf8
    if isinstance(scalar, pa.ListScalar):
        values = [_value(part)[0] for part in scalar.values]
        is_map = pa.types.is_map(scalar.type)
        return [tuple(v.values()) if is_map and isinstance(v, dict) else v for v in values], is_utf8
    if hasattr(scalar, "as_buffer"):
        return scalar.as_buffer().to_pybytes().decode("utf-8", "replace"), is_utf8
    inner = getattr(scalar, "value", None)  # a dictionary's entry, what an extension type stores, or a date's number
    return _value(inner) if isinstance(inner, pa.Scalar) else (inner, is_utf8)
