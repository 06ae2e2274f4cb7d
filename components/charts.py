"""Charts as inline SVG: no script, colours that follow the reader's colour scheme, the same bytes each time.

Each chart is drawn twice, for a wide page and for a phone, so that its words stay readable; the page shows the one
that fits.
"""

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

# Placeholders that matplotlib draws with; `_svg` replaces each by a CSS variable so that dark mode works.
INK, FAINT, RULE = "#010101", "#020202", "#030303"
SERIES = ("#040404", "#050505", "#060606", "#070707", "#0b0b0b", "#0c0c0c")
MARKERS = "os^Dvx"  # lines that lie on each other, or have no colour for the reader, are told apart by these
GOOD, WARN, BAD = "#080808", "#090909", "#0a0a0a"
VARIABLES = {INK: "--ink", FAINT: "--faint", RULE: "--rule", GOOD: "--good", WARN: "--warn", BAD: "--bad"} | {
    colour: f"--c{i}" for i, colour in enumerate(SERIES)
}
VERDICTS = {"quiet": (GOOD, "o"), "warn": (WARN, "^"), "wait": (BAD, "s"), "retrain": (SERIES[0], "D")}
LARGEST_SHOWN = 1e100  # of the evidence: a logarithmic axis has no ticks near the largest floating-point number
WIDTHS = {"wide": 7.2, "narrow": 3.7}  # inches; a page shows 7.2 as some 760 pixels and 3.7 as some 350
STYLE: Any = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.parse_math": False,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "ytick.left": False,
    "xtick.bottom": False,
    "legend.frameon": False,
}

P = ParamSpec("P")


def _chart(draw: Callable[P, Figure]) -> Callable[P, str]:
    """`draw` as a function that returns the element with both drawings."""

    @functools.wraps(draw)
    def both(*args: P.args, **kwargs: P.kwargs) -> str:
        drawn = []
        for name, width in WIDTHS.items():
            # The salt goes into the ids, which must differ: the drawing that is not shown cannot lend its clip paths.
            with mpl.rc_context(STYLE | {"figure.figsize": (width, 1), "svg.hashsalt": name}):
                drawn.append(f'<div class="{name}">{_svg(draw(*args, **kwargs))}</div>')
        return f'<div class="chart">{"".join(drawn)}</div>'

    return both


@_chart
def bars(groups: Sequence[str], series: Sequence[str], values: Sequence[Sequence[float]], label: str = "") -> Figure:
    """Grouped bars with value labels; `values[s][g]` is the height of series s in group g."""
    figure, axes = _axes(ylabel=label)
    width = 0.8 / len(series)
    for s, (name, heights) in enumerate(zip(series, values, strict=True)):
        places = np.arange(len(groups)) + (s - (len(series) - 1) / 2) * width
        drawn = axes.bar(places, heights, width * 0.92, label=name, color=SERIES[s % len(SERIES)])
        axes.bar_label(drawn, fmt="%.3g", padding=2, color=INK)
    axes.set_xticks(np.arange(len(groups)), groups)
    axes.margins(y=0.12)
    axes.grid(axis="y")
    if len(series) > 1:
        _legend(axes, len(series))
    return figure


@_chart
def lines(
    x: Sequence[float], series: Sequence[str], values: Sequence[Sequence[float]], xlabel: str, label: str
) -> Figure:
    """One line for each series over the same `x`."""
    figure, axes = _axes(xlabel, label)
    for s, (name, heights) in enumerate(zip(series, values, strict=True)):
        axes.plot(x, heights, marker=MARKERS[s % len(MARKERS)], markersize=4, label=name, color=SERIES[s % len(SERIES)])
    if all(float(value).is_integer() for value in x):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    _legend(axes, len(series))
    return figure


@_chart
def histogram_pair(
    reference: np.ndarray, current: np.ndarray, label: str = "", span: tuple[float, float] | None = None, bins: int = 30
) -> Figure:
    """Shares of two samples [n] and [m] in the same bins over `span`; without it the outer 0.5 % are left out."""
    low, high = span or np.quantile(np.concatenate([reference, current]), (0.005, 0.995))
    edges = np.linspace(low, high if high > low else low + 1.0, bins + 1).tolist()
    figure, axes = _axes(label, "share of the texts, %")
    for s, (name, values) in enumerate((("reference", reference), ("current", current))):
        weights = np.full(len(values), 100 / len(values))
        axes.hist(values, edges, weights=weights, histtype="stepfilled", alpha=0.2, color=SERIES[s])
        axes.hist(values, edges, weights=weights, histtype="step", linewidth=1.8, color=SERIES[s])
        axes.plot([], [], linewidth=1.8, color=SERIES[s], label=name)
    axes.grid(axis="y")
    _legend(axes, 2)
    return figure


@_chart
def quantiles(reference: np.ndarray, current: np.ndarray, label: str, points: int = 100) -> Figure:
    """Quantile functions of two samples [n] and [m]; the shaded area between them is how far apart they are."""
    shares = (np.arange(points) + 0.5) / points
    before, now = (np.quantile(values, shares) for values in (reference, current))
    figure, axes = _axes("share of the texts that lie lower, %", label, height=2.8)
    axes.fill_between(100 * shares, before, now, color=FAINT, alpha=0.18, linewidth=0)
    for name, values, colour in (("reference", before, SERIES[0]), ("current", now, SERIES[1])):
        axes.plot(100 * shares, values, linewidth=2, color=colour, label=name)
    axes.set_xlim(0, 100)
    axes.grid()
    _legend(axes, 2)
    return figure


@_chart
def intervals(rows: Sequence[tuple[str, float, tuple[float, float]]], label: str) -> Figure:
    """A dot and its interval for each (name, value, (low, high)), the first row on top with a line down from it."""
    figure, axes = _axes(label, height=0.8 + 0.42 * len(rows))
    for place, (_, value, (low, high)) in enumerate(rows):
        colour = SERIES[min(place, 1)]
        axes.plot([low, high], [place, place], linewidth=5, alpha=0.35, color=colour, solid_capstyle="round")
        axes.plot(value, place, marker="o", markersize=7, color=colour)
        axes.annotate(f"{value:.3f}", (high, place), (8, 0), textcoords="offset points", va="center", color=INK)
    axes.axvline(rows[0][1], color=FAINT, linewidth=1, linestyle=(0, (2, 3)), zorder=0)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows], color=INK)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.margins(x=0.16)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    return figure


@_chart
def history(
    numbers: Sequence[int],
    evidence: Sequence[float],
    p_values: Sequence[float | None],
    verdicts: Sequence[str],
    bar: float,
) -> Figure:
    """Checks over time: above, the evidence and its bar on a log scale with the verdicts; below, the p-values."""
    figure = Figure(figsize=(_width(), 4.2), layout="constrained")
    top, bottom = figure.subplots(2, sharex=True, height_ratios=(3, 1.4))
    top.axhline(bar, color=BAD, linewidth=1.4, linestyle=(0, (5, 3)), label="alarm")
    evidence = [min(e, LARGEST_SHOWN) for e in evidence]
    top.plot(numbers, evidence, color=FAINT, linewidth=1.2, zorder=1)
    for verdict, (colour, marker) in VERDICTS.items():
        places = [i for i, found in enumerate(verdicts) if found == verdict]
        if places:
            chosen = [numbers[i] for i in places], [evidence[i] for i in places]
            top.plot(*chosen, linestyle="", marker=marker, markersize=5, color=colour, label=verdict)
    top.set(yscale="log", ylabel="evidence")
    top.set_ylim(min(0.1, *evidence) / 2, max(bar, *evidence) * 10)
    tested = [(number, p) for number, p in zip(numbers, p_values, strict=True) if p is not None]
    if tested:
        bottom.plot(*zip(*tested, strict=True), linestyle="", marker="o", markersize=3.5, color=SERIES[0])
    bottom.set(yscale="log", ylabel="p-value", xlabel="check")
    bottom.set_ylim(min([1e-3, *(p for _, p in tested)]) / 2, 2)
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    for axes in (top, bottom):
        axes.grid(axis="y")
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:g}".replace("e+0", "e").replace("e+", "e"))
        )
    _legend(top, 5)
    return figure


@_chart
def reliability(points: Sequence[Mapping[str, float]]) -> Figure:
    """`confidence` and `accuracy` (0 to 1) of each bin of predictions, against the diagonal of perfect calibration."""
    figure, axes = _axes("confidence", "accuracy", height=3.6)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (2, 3)))
    places = [[point[name] for point in points] for name in ("confidence", "accuracy")]
    axes.plot(*places, marker="o", color=SERIES[0], linewidth=1.8)
    _unit_square(axes)
    return figure


@_chart
def roc(fpr: Sequence[float], tpr: Sequence[float], auc: float) -> Figure:
    """Receiver operating characteristic; all values from 0 to 1."""
    figure, axes = _axes("false positive rate", "true positive rate", height=3.6)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (2, 3)))
    axes.plot(fpr, tpr, color=SERIES[0], linewidth=1.8)
    axes.text(0.97, 0.05, f"AUC {auc:.3f}", ha="right", color=INK)
    _unit_square(axes)
    return figure


@_chart
def confusion(matrix: Sequence[Sequence[int]] | np.ndarray, names: Sequence[str]) -> Figure:
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
    return figure


def _width() -> float:
    return float(mpl.rcParams["figure.figsize"][0])


def _axes(xlabel: str = "", ylabel: str = "", height: float = 3.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_width(), height), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def _legend(axes: Axes, entries: int) -> None:
    columns = entries if _width() == WIDTHS["wide"] else min(entries, 3)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, labelcolor=INK, borderaxespad=0.2, borderpad=0.2,
        handlelength=1.2, handletextpad=0.5, columnspacing=1.2,
    )  # fmt: skip


def _unit_square(axes: Axes) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.grid()


def _svg(figure: Figure) -> str:
    """The figure as an inline <svg> element whose colours are CSS variables."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text
