"""What a command's result looks like on a terminal: a line a field, a table for a list of records."""

from typing import Any

from components.report import shown

_MOST_VALUES = 8


def readable(result: dict[str, Any]) -> str:
    """Fields first, nested names joined by dots; then the tables. Long lists are only counted: --json has them."""
    fields, tables = _flatten("", result)
    width = max((len(name) for name, _ in fields), default=0)
    lines = [f"{name:<{width}}  {value}" for name, value in fields]
    return "\n\n".join(["\n".join(lines)] * bool(lines) + [f"{name}\n{table}" for name, table in tables])


def columns(header: list[str], rows: list[list[str]]) -> str:
    """Aligned columns under a rule: the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: list[str]) -> str:
        first, *others = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return "  ".join([first.strip().ljust(widths[0]), *others])

    return "\n".join([line(header), "-" * len(line(header)), *(line(row) for row in rows)])


def _flatten(prefix: str, value: dict[str, Any]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    fields: list[tuple[str, str]] = []
    tables: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict):
            inner_fields, inner_tables = _flatten(f"{name}.", item)
            fields += inner_fields
            tables += inner_tables
        elif _is_table(item):
            header = list(item[0])
            tables.append((name, columns(header, [[_cell(row[column]) for column in header] for row in item])))
        else:
            fields.append((name, _cell(item)))
    return fields, tables


def _is_table(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(isinstance(row, dict) and row.keys() == value[0].keys() for row in value)
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        flat = len(value) <= _MOST_VALUES and not any(isinstance(item, list | tuple | dict) for item in value)
        return ", ".join(map(_cell, value)) if flat else f"({len(value)} values; --json shows them)"
    return shown(value)
