"""The report page: whole, escaped, the same each time, and with charts that follow the colour scheme."""

from xml.etree import ElementTree

import numpy as np
import pytest

from components import report
from components.report import Section

GROUPS = ["movies", "tweets & <co>", "$1 or $2"]
CHARTS = {
    "bars": lambda: report.bars(GROUPS, ["before", "after"], [[0.9, 0.625, 0.7], [0.91, 0.8, 0.7]], "accuracy"),
    "lines": lambda: report.lines([1, 2, 3], ["train", "validation"], [[3, 2, 1], [3, 2.5, 2]], "epoch", "loss"),
    "histogram_pair": lambda: report.histogram_pair(np.arange(50.0), np.arange(20.0) + 9, "margin"),
    "constant": lambda: report.histogram_pair(np.ones(5), np.ones(3)),
    "reliability": lambda: report.reliability([(0.6, 0.5), (0.9, 0.95)]),
    "confusion": lambda: report.confusion([[1204, 3], [5, 8]], ["Negative", "Positive"]),
    "roc": lambda: report.roc([0, 0.1, 1], [0, 0.8, 1], 0.8512),
}


@pytest.mark.parametrize("name", CHARTS)
def test_charts_are_svg_with_css_colours_and_repeat(name: str) -> None:
    svg = CHARTS[name]()
    assert ElementTree.fromstring(svg).tag.endswith("svg")  # noqa: S314 (our own output)
    assert svg == CHARTS[name]()
    assert "var(--c0)" in svg
    for placeholder in report.VARIABLES:
        assert placeholder not in svg
    assert "#000000" not in svg
    assert "#ffffff" not in svg


def test_chart_text_is_text() -> None:
    assert "0.625</text>" in CHARTS["bars"]()
    assert "tweets &amp; &lt;co&gt;" in CHARTS["bars"]()
    assert "$1 or $2" in CHARTS["bars"]()
    assert "1,204" in CHARTS["confusion"]()
    assert "AUC 0.8512" in CHARTS["roc"]()


def test_epochs_are_whole_numbers() -> None:
    assert ">2</text>" in CHARTS["lines"]()
    assert ">1.5</text>" not in report.lines([1, 2], ["a"], [[3, 7]], "epoch", "loss")


def test_page_escapes_words_and_keeps_figures() -> None:
    figure = CHARTS["roc"]()
    section = Section("A <b>", "<script>alert(1)</script>", [("rows", 12345)], (["x"], [["<i>"], [True]]), [figure])
    html = report.page("Title & more", "It <drifted>.", [section])
    assert figure in html
    assert "<script" not in html
    for words in ("Title &amp; more", "It &lt;drifted&gt;.", "A &lt;b&gt;", "12,345", "&lt;i&gt;", "<td>yes</td>"):
        assert words in html
    assert html == report.page("Title & more", "It <drifted>.", [section])


def test_page_needs_no_network() -> None:
    html = report.page("Title", "Quiet.", [Section("Charts", figures=[chart() for chart in CHARTS.values()])])
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
