"""The report page: whole, escaped, the same each time, and with charts that follow the colour scheme."""

import functools
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from components import charts, report
from components.report import Answer, Section, Status

GROUPS = ["movies", "tweets & <co>", "$1 or $2"]
POINTS = [{"confidence": 0.6, "accuracy": 0.5, "rows": 4}, {"confidence": 0.9, "accuracy": 0.95, "rows": 9}]
CHECKS = ([1, 2, 3, 4], [1.0, 40.0, 1e7, 2e300], [0.3, None, 0.001, 1e-9], ["quiet", "warn", "wait", "retrain"])
CHARTS = {
    "bars": lambda: charts.bars(GROUPS, ["before", "after"], [[0.9, 0.625, 0.7], [0.91, 0.8, 0.7]], "accuracy"),
    "lines": lambda: charts.lines([1, 2, 3], ["train", "validation"], [[3, 2, 1], [3, 2.5, 2]], "epoch", "loss"),
    "histogram_pair": lambda: charts.histogram_pair(np.arange(50.0), np.arange(20.0) + 9, "margin"),
    "constant": lambda: charts.histogram_pair(np.ones(5), np.ones(3)),
    "quantiles": lambda: charts.quantiles(np.arange(50.0), np.arange(20.0) + 9, "slice 3 (sd)"),
    "quantiles of one row": lambda: charts.quantiles(np.ones(5), np.ones(1), "slice 3 (sd)"),
    "intervals": lambda: charts.intervals([("known", 0.9, (0.88, 0.91)), ("<new>", 0.8, (0.7, 0.85))], "accuracy"),
    "history": lambda: charts.history(*CHECKS, 876_000.0),
    "history without a p-value": lambda: charts.history([1, 2], [1.0, 1.0], [None, None], ["quiet"] * 2, 100.0),
    "reliability": lambda: charts.reliability(POINTS),
    "confusion": lambda: charts.confusion([[1204, 3], [5, 8]], ["Negative", "Positive"]),
    "roc": lambda: charts.roc([0, 0.1, 1], [0, 0.8, 1], 0.8512),
}


@functools.cache
def chart(name: str) -> str:
    return CHARTS[name]()


@pytest.mark.parametrize("name", CHARTS)
def test_charts_are_svg_for_two_widths_with_css_colours_and_repeat(name: str) -> None:
    element = ElementTree.fromstring(chart(name))  # noqa: S314 (our own output)
    assert [drawing.get("class") for drawing in element] == ["wide", "narrow"]
    assert all(drawing[0].tag.endswith("svg") for drawing in element)
    assert chart(name) == CHARTS[name]()
    assert "var(--faint)" in chart(name)
    for placeholder in charts.VARIABLES:
        assert placeholder not in chart(name)
    assert "#000000" not in chart(name)
    assert "#ffffff" not in chart(name)


@pytest.mark.parametrize("name", CHARTS)
def test_no_two_elements_of_a_chart_share_an_id(name: str) -> None:
    element = ElementTree.fromstring(chart(name))  # noqa: S314 (our own output)
    wide, narrow = ({part.get("id") for part in drawing.iter()} - {None} for drawing in element)
    shared = {i for i in wide & narrow if not re.search(r"_\d+$", i)}  # "axes_1" and the like are never referred to
    assert not shared


def test_chart_text_is_text() -> None:
    assert "0.625</text>" in chart("bars")
    assert "tweets &amp; &lt;co&gt;" in chart("bars")
    assert "$1 or $2" in chart("bars")
    assert "1,204" in chart("confusion")
    assert "AUC 0.851" in chart("roc")
    assert "0.800</text>" in chart("intervals")
    assert "&lt;new&gt;" in chart("intervals")
    assert "<script" not in charts.bars(["--><script>alert(1)</script>"], ["a"], [[1.0]])


def test_reliability_points_lie_where_their_numbers_say() -> None:
    """With x = confidence and y = accuracy the first point is low and to the left of the second."""
    path = re.search(
        r'<path d="M ([\d.]+) ([\d.]+)\s+L ([\d.]+) ([\d.]+)\s+"[^>]*stroke: var\(--c0\)', chart("reliability")
    )
    assert path
    x1, y1, x2, y2 = map(float, path.groups())
    assert x1 < x2
    assert (y1 - y2) / (x2 - x1) == pytest.approx(0.45 / 0.3, rel=1e-3)


def test_history_names_each_verdict_that_occurred() -> None:
    assert all(f"{verdict}</text>" in chart("history") for verdict in ("alarm", *charts.VERDICTS))
    assert "retrain</text>" not in chart("history without a p-value")


def test_epochs_are_whole_numbers() -> None:
    assert ">2</text>" in chart("lines")
    assert ">1.5</text>" not in charts.lines([1, 2], ["a"], [[3, 7]], "epoch", "loss")


def test_page_escapes_words_and_keeps_figures() -> None:
    figure = chart("roc")
    section = Section("A <b>", "<script>alert(1)</script>", [("rows", 12345)], (["x"], [["<i>"], [True]]), [figure])
    html = report.page("Title & more", "It <drifted>.", [section])
    assert figure in html
    assert "<script" not in html
    for words in ("Title &amp; more", "It &lt;drifted&gt;.", "A &lt;b&gt;", "12,345", "&lt;i&gt;", "<td>yes</td>"):
        assert words in html
    assert html == report.page("Title & more", "It <drifted>.", [section])


def test_numbers_stand_to_the_right_and_words_to_the_left() -> None:
    rows = [["movies", 1234, "+0.245", "quiet"], ["tweets", 5, "-", "retrain"]]
    table = (["domain", "rows", "change", "verdict"], rows)
    assert report.numeric_columns(table) == [False, True, True, False]
    html = report.page("Title", "Quiet.", [Section("Table", table=table)])
    assert '<td class="number">1,234</td>' in html
    assert "<td>retrain</td>" in html
    assert '<td class="long">' in report.page("Title", "Quiet.", [Section("Table", table=(["text"], [["word " * 20]]))])


def test_the_top_answers_what_a_hurried_reader_asks() -> None:
    status = Status("wait", "bad", "<tweets>", [Answer("How bad?", "0.7 < 0.9", "see s3://b/<x>"), Answer("Why?", "x")])
    html = report.page("Title", "It waits.", [], status)
    for words in ('class="bad"', "&lt;tweets&gt;", "0.7 &lt; 0.9", "see s3://b/&lt;x&gt;", "Why?"):
        assert words in html
    assert 'class="badge"' not in report.page("Title", "It waits.", [])


def test_examples_are_escaped_and_keep_to_themselves() -> None:
    html = report.page(
        "Title", "Quiet.", [Section("Texts", examples=[("Now", ["</li><script>x</script>", "\u202eabc"])])]
    )
    assert "<script" not in html
    assert "<bdi>\u202eabc</bdi>" in html


def test_page_needs_no_network() -> None:
    html = report.page("Title", "Quiet.", [Section("Charts", figures=[chart(name) for name in CHARTS])])
    for forbidden in ("<link", "<img", "@import", "src=", "url(http"):
        assert forbidden not in html
    assert "prefers-color-scheme: dark" in html


def test_values_are_shown_for_a_reader() -> None:
    assert [report.shown(value) for value in (True, 1234567, 0.123456, np.float32(2), "a")] == [
        "yes",
        "1,234,567",
        "0.1235",
        "2",
        "a",
    ]
