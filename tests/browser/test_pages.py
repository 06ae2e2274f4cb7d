"""The report page in a real browser: it fits a phone, follows the colour scheme, can be read, and asks for nothing.

Needs a Chromium on the machine (Debian: apt-get install chromium); without one these tests are skipped, and say so.
"""

from collections.abc import Iterator
from pathlib import Path

import chromium
import numpy as np
import pytest

from components import charts
from components.report import Answer, Section, Status, page

pytestmark = pytest.mark.slow

WIDTHS, SCHEMES = (360, 390, 768, 1280), ("light", "dark")
LONG = "s3://everbert/labels/requested/8bb587d97e3f-1234567890-with-a-name-that-has-no-place-to-break-it.csv"
# Every text element with its own words: [words, size in pixels, contrast with what is behind it]. A text drawn in an
# SVG is scaled with it.
TEXTS = """
(() => {
  const number = c => c.match(/[\\d.]+/g).map(Number);
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) { const c = number(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } };
  return [...document.querySelectorAll('body *')].filter(e => e.getClientRects().length &&
      [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim())).map(e => {
    const style = getComputedStyle(e), svg = e.ownerSVGElement;
    const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    const [a, b] = [light(number(svg ? style.fill : style.color)), light(behind(e))].sort((x, y) => y - x);
    return [e.textContent.trim().slice(0, 40), parseFloat(style.fontSize) * scale, (a + .05) / (b + .05)];
  });
})()
"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Tab]:
    program = chromium.found()
    if program is None:
        pytest.skip(
            f"no Chromium: none of {', '.join(chromium.NAMES)} is on the path (Debian: apt-get install chromium)"
        )
    with chromium.tab(program, tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture(scope="module")
def full_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every part and every chart that there is, with words that are too long for it."""
    drawn = [
        charts.bars(["movies", "tweets"], ["before", "after"], [[0.9, 0.625], [0.91, 0.8]], "accuracy"),
        charts.lines([1, 2, 3], ["train", "validation"], [[3, 2, 1], [3, 2.5, 2]], "epoch", "loss"),
        charts.histogram_pair(np.arange(50.0), np.arange(20.0) + 9, "margin"),
        charts.quantiles(np.arange(50.0), np.arange(20.0) + 9, "slice 3 (sd)"),
        charts.intervals([("reference", 0.9, (0.88, 0.91)), ("estimated", 0.8, (0.7, 0.85))], "accuracy"),
        charts.history([1, 2, 3, 4], [1, 40, 1e7, 1e9], [0.3, None, 0.001, 1e-9], list(charts.VERDICTS), 876_000.0),
        charts.reliability([{"confidence": 0.6, "accuracy": 0.5}, {"confidence": 0.9, "accuracy": 0.95}]),
        charts.confusion([[1204, 3], [5, 8]], ["Negative", "Positive"]),
        charts.roc([0, 0.1, 1], [0, 0.8, 1], 0.85),
    ]
    table = (["a column with a long name"] * 9, [["movies", *range(8)], [LONG, *range(7), "word " * 60]])
    sections = [
        Section("Charts", LONG, figures=drawn),
        Section("Facts", facts=[("a name", 1234), ("where", LONG)], table=table),
        Section("Texts", examples=[("Now", [LONG * 3, "\u202eabc"]), ("Before", ["x " * 200])], minor=True),
    ]
    answers = [Answer("What should I do?", LONG, LONG), Answer("How bad is it?", "0.7", "")]
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(page("Title " + LONG, LONG, sections, Status("wait", "bad", LONG, answers)), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(tab: chromium.Tab, full_page: Path, width: int) -> None:
    tab.show(full_page, width, "light")
    assert tab.ask("innerWidth") == width
    assert tab.ask("document.documentElement.scrollWidth") <= width
    inside = "e => e.getClientRects().length && !e.closest('.wide-table') && !e.closest('svg')"
    over = f"e => e.getBoundingClientRect().right > {width}"
    elements = f"[...document.querySelectorAll('body *')].filter({inside}).filter({over})"
    assert tab.ask(f"{elements}.map(e => e.outerHTML.slice(0, 80))") == []


def test_a_text_in_a_table_is_no_column_of_single_words(tab: chromium.Tab, full_page: Path) -> None:
    tab.show(full_page, 390, "light")
    assert tab.ask("Math.min(...[...document.querySelectorAll('td.long')].map(e => e.clientWidth))") > 200


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_word_can_be_read(tab: chromium.Tab, full_page: Path, width: int, scheme: str) -> None:
    tab.show(full_page, width, scheme)
    texts = tab.ask(TEXTS)
    assert {"alarm", "check", "Now", "wait"} <= {words for words, _, _ in texts}
    assert [(words, size) for words, size, _ in texts if size < 11] == []
    assert [(words, contrast) for words, _, contrast in texts if contrast < 4.5] == []


def test_the_page_follows_the_colour_scheme(tab: chromium.Tab, full_page: Path) -> None:
    papers = []
    for scheme in SCHEMES:
        tab.show(full_page, 390, scheme)
        papers.append(tab.ask("getComputedStyle(document.body).backgroundColor"))
    assert papers[0] != papers[1]


@pytest.mark.parametrize(("width", "shown"), [(390, "narrow"), (1280, "wide")])
def test_one_drawing_of_each_chart_is_shown(tab: chromium.Tab, full_page: Path, width: int, shown: str) -> None:
    tab.show(full_page, width, "light")
    visible = (
        "[...document.querySelectorAll('.chart > div')].filter(e => e.getClientRects().length).map(e => e.className)"
    )
    assert tab.ask(visible) == [shown] * 9


def test_the_page_asks_for_nothing_and_has_no_errors(tab: chromium.Tab, full_page: Path) -> None:
    tab.show(full_page, 1280, "dark")
    tab.ask("1")
    assert tab.requests == [full_page.as_uri()]
    assert tab.problems == []
