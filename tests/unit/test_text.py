"""Cleaning: the same text at training and at serving time."""

import time
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.classifier.text import clean


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("Great<br /><br />film &amp;amp; fun", "Great film & fun"),
        ("I <3 it, a < b", "I <3 it, a < b"),
        ("&amp;lt;br&amp;gt;x", "x"),
        ("\x92tis \x00bad\u200b", "\u2019tis bad"),
        ("cafe\u0301", "caf\u00e9"),
        (" two \t\n lines ", "two lines"),
        ("N/A", "N/A"),
        ("<br/>", ""),
        ("&amp;amp;amp;amp;lt;br&amp;amp;amp;amp;gt;x", "x"),  # escaped five times
        ("a\u200c\u00a0\u200bb\x1c\u2028\u200dc", "a\u200c b \u200dc"),
        ("<br\x85>", "<br\u2026>"),
        ("&#" + "9" * 5000 + ";", "\ufffd"),  # more digits than Python reads
    ],
)
def test_clean(raw: str, cleaned: str) -> None:
    assert clean(raw) == cleaned


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("<>&;/br lt"))))
def test_clean_is_idempotent_and_normal(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert once == once.strip()
    assert not any(unicodedata.category(c) in {"Cc", "Cs"} for c in once)


LAYERS = (
    "&",
    "amp;",
    "#38;",
    "&amp;#38;",
    "lt;",
    "gt;",
    "<b",
    ">",
    "&lt;i",
    "&gt;",
    " ",
    "x",
    "\u200d",
    "\u0338",
    "\u0327",
)


@given(st.lists(st.tuples(st.sampled_from(LAYERS), st.integers(1, 40)), max_size=12))
def test_clean_is_idempotent_however_deep_the_markup_is(parts: list[tuple[str, int]]) -> None:
    once = clean("".join(part * count for part, count in parts))
    assert clean(once) == once


def test_endless_markup_is_cut_short() -> None:
    once = clean("good &" + "amp;" * 100 + " <b" + "<b>" * 3 + "> film")
    assert once.startswith("good amp;")
    assert once.endswith("film")
    assert not set("&<") & set(once)
    assert clean(once) == once


HOSTILE = {
    "an entity in an entity": lambda n: "&" + "amp;" * (n // 4),
    "a tag in a tag": lambda n: "<b" * (n // 3) + ">" * (n // 3),
    "accents in the wrong order": lambda n: "a" + "\u0301" * (n // 2) + "\u0327" * (n // 2),
    "accents that are taken apart": lambda n: "\u0f73" * n,
    "entities that are none": lambda n: "&abcdefghijklmnopqrstuvwxyz12345" * (n // 32),
    "a tag without an end": lambda n: "<a " + "/" * n,
    "another character each time": lambda n: "&amp;" * 8 + "".join(map(chr, range(0x100, 0x100 + n))),
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_clean_takes_time_in_proportion_to_the_length(hostile: Callable[[int], str]) -> None:
    text = hostile(40_000)
    start = time.thread_time()
    clean(text)
    assert time.thread_time() - start < 1  # a tenth of that at most; seconds, where each round takes little away


@given(st.text(alphabet="a\u0301\u0327\u0338\u0344\u0f71\u0f73\u0f75\u1dce=\u2260\u2014\U0001f600", min_size=31))
def test_many_accents_are_those_of_unicode(text: str) -> None:
    assert clean(text) == unicodedata.normalize("NFC", text)
