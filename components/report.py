"""One self-contained HTML page and its charts: no script, no network, light and dark, the same bytes each time."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Placeholders that matplotlib draws with; `_svg` replaces each by a CSS variable so that dark mode works.
INK, FAINT, RULE = "#010101", "#020202", "#030303"
SERIES = ("#040404", "#050505", "#060606", "#070707")
VARIABLES = dict(
    zip(
        (INK, FAINT, RULE, *SERIES),
        ("--ink", "--faint", "--rule", *(f"--c{i}" for i in range(len(SERIES)))),
        strict=True,
    )
)
STYLE: Any = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "everbert",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Section:
    """A part of the page. `figures` are SVG made by the functions below; everything else is escaped."""

    heading: str
    text: str = ""
    facts: Sequence[tuple[str, Any]] = ()
    table: tuple[Sequence[str], Sequence[Sequence[Any]]] | None = None
    figures: Sequence[str] = field(default=())


def page(title: str, verdict: str, sections: Sequence[Section]) -> str:
    """The whole HTML document; `verdict` is the sentence under the title."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["shown"] = shown
    template = environment.from_string(resources.files("components").joinpath("report.html").read_text("utf-8"))
    return template.render(title=title, verdict=verdict, sections=sections)


def shown(value: Any) -> str:
    """A value for a reader: four significant digits, grouped thousands, yes and no."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return str(value)


@mpl.rc_context(STYLE)
def bars(groups: Sequence[str], series: Sequence[str], values: Sequence[Sequence[float]], label: str = "") -> str:
    """Grouped bars with value labels; `values[s][g]` is the height of series s in group g."""
    figure, axes = _axes(ylabel=label)
    width = 0.8 / len(series)
    for s, (name, heights) in enumerate(zip(series, values, strict=True)):
        places = np.arange(len(groups)) + (s - (len(series) - 1) / 2) * width
        drawn = axes.bar(places, heights, width * 0.92, label=name, color=SERIES[s % len(SERIES)])
        axes.bar_label(drawn, fmt="%.3g", padding=2, fontsize=10, color=INK)
    axes.set_xticks(np.arange(len(groups)), groups)
    axes.margins(y=0.12)
    if len(series) > 1:
        _legend(axes, len(series))
    return _svg(figure)


@mpl.rc_context(STYLE)
def lines(x: Sequence[float], series: Sequence[str], values: Sequence[Sequence[float]], xlabel: str, label: str) -> str:
    """One line for each series over the same `x`."""
    figure, axes = _axes(xlabel, label)
    for s, (name, heights) in enumerate(zip(series, values, strict=True)):
        axes.plot(x, heights, marker="o", markersize=4, label=name, color=SERIES[s % len(SERIES)])
    if all(float(value).is_integer() for value in x):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes, len(series))
    return _svg(figure)


@mpl.rc_context(STYLE)
def histogram_pair(reference: np.ndarray, current: np.ndarray, label: str = "", bins: int = 40) -> str:
    """Densities of two samples [n] and [m] on the same bins; the outer 0.5 % on each side are left out."""
    low, high = np.quantile(np.concatenate([reference, current]), (0.005, 0.995))
    edges = np.linspace(low, high if high > low else low + 1.0, bins + 1).tolist()
    figure, axes = _axes(label, "density")
    for s, (name, values) in enumerate((("reference", reference), ("current", current))):
        axes.hist(values, edges, density=True, histtype="stepfilled", alpha=0.2, color=SERIES[s])
        axes.hist(values, edges, density=True, histtype="step", linewidth=1.8, color=SERIES[s])
        axes.plot([], [], linewidth=1.8, color=SERIES[s], label=name)
    _legend(axes, 2)
    return _svg(figure)


@mpl.rc_context(STYLE)
def reliability(points: Sequence[tuple[float, float]]) -> str:
    """(mean confidence, accuracy) of each bin, both 0 to 1, against the diagonal of perfect calibration."""
    figure, axes = _axes("confidence", "accuracy", height=4.2)
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=1.5)
    if points:
        axes.plot(*zip(*points, strict=True), marker="o", color=SERIES[0])
    _unit_square(axes)
    return _svg(figure)


@mpl.rc_context(STYLE)
def roc(fpr: Sequence[float], tpr: Sequence[float], auc: float) -> str:
    """Receiver operating characteristic; all values from 0 to 1."""
    figure, axes = _axes("false positive rate", "true positive rate", height=4.2)
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=1.5)
    axes.plot(fpr, tpr, color=SERIES[0], linewidth=1.8)
    axes.text(0.97, 0.05, f"AUC {auc:.4f}", ha="right", color=INK)
    _unit_square(axes)
    return _svg(figure)


@mpl.rc_context(STYLE)
def confusion(matrix: Sequence[Sequence[int]] | np.ndarray, names: Sequence[str]) -> str:
    """Counts [k, k], rows true and columns predicted, shaded by the share of their row."""
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _axes("predicted", "true", height=max(2.6, 1.2 + 0.7 * len(names)))
    for (row, column), share in np.ndenumerate(shares):
        cell = mpl.patches.Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, alpha=0.06 + 0.5 * share, color=SERIES[0])
        axes.add_patch(cell)
        text = f"{counts[row, column]:,}\n{share:.1%}"
        axes.text(column, row, text, ha="center", va="center", color=INK)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5))
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return _svg(figure)


def _axes(xlabel: str = "", ylabel: str = "", height: float = 3.2) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def _legend(axes: Axes, entries: int) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=entries, frameon=False, labelcolor=INK, borderaxespad=0.2
    )


def _unit_square(axes: Axes) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")


def _svg(figure: Figure) -> str:
    """The figure as an inline <svg> element whose colours are CSS variables."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text
