"""One self-contained HTML page: no script, no network, light and dark, wide and on a phone. Charts: charts.py."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import jinja2
import numpy as np

Table = tuple[Sequence[str], Sequence[Sequence[Any]]]
_NUMERIC = re.compile(r"[+\-−]?[\d.,]+(e[+\-]?\d+)?( ?%)?|-|")
TONES = ("good", "warn", "bad", "action")


@dataclass(frozen=True)
class Section:
    """A part of the page. `figures` are what charts.py returns; everything else is escaped."""

    heading: str
    text: str = ""
    facts: Sequence[tuple[str, Any]] = ()
    table: Table | None = None
    figures: Sequence[str] = field(default=())
    examples: Sequence[tuple[str, Sequence[str]]] = ()
    """Groups of texts side by side, each with its heading."""
    minor: bool = False
    """Whether it belongs to the section above it."""


@dataclass(frozen=True)
class Answer:
    """A question that the top of the page answers: a few words, and a line that explains them."""

    question: str
    words: str
    detail: str = ""


@dataclass(frozen=True)
class Status:
    """What a hurried reader needs: a word in one of TONES, when and where, and the answers."""

    word: str
    tone: str
    context: str
    answers: Sequence[Answer]


def page(title: str, verdict: str, sections: Sequence[Section], status: Status | None = None) -> str:
    """The whole HTML document; `verdict` is the sentence under the title."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"shown": shown, "numeric": numeric_columns}
    template = environment.from_string(resources.files("components").joinpath("report.html").read_text("utf-8"))
    return template.render(title=title, verdict=verdict, sections=sections, status=status)


def style() -> str:
    """The rules that every page shares."""
    template = resources.files("components").joinpath("report.html").read_text("utf-8")
    return template.partition("<style>")[2].partition("</style>")[0]


def shown(value: Any) -> str:
    """A value for a reader: four significant digits, grouped thousands, yes and no."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return str(value)


def numeric_columns(table: Table) -> list[bool]:
    """For each column of a table, whether all its cells are numbers as `shown` writes them, so stand to the right."""
    header, rows = table
    return [all(_NUMERIC.fullmatch(shown(row[i])) for row in rows) for i in range(len(header))]
