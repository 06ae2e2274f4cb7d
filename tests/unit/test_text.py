"""Cleaning: the same text at training and at serving time."""

import unicodedata

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
