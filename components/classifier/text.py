"""Cleaning: what a review looks like to the model, at training and at serving time alike."""

import html
import itertools
import re
import unicodedata

_TAG = re.compile(
    r"</?(?:a|abbr|b|big|blockquote|body|br|center|code|div|em|font|h[1-6]|head|hr|html|i|img|li|ol|p|pre|q|s|small|span|"
    r"strike|strong|sub|sup|table|tbody|td|th|thead|title|tr|tt|u|ul)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
# Windows-1252 bytes that were decoded as Latin-1 arrive as C1 control characters: "\x92" is meant to be "’".
_C1 = re.compile("[\x80-\x9f]")
_C1_MEANT = {c: bytes([c]).decode("cp1252", "ignore") or None for c in range(0x80, 0xA0)}
_JOINERS = {"\u200c", "\u200d"}  # part of emoji and of several scripts, though "format characters" to Unicode
_MORE_LAYERS = 5  # of markup within markup, after the first; texts that were escaped by mistake have two or three
_NO_MARKUP = str.maketrans("&<", "  ")
_NO_CHARACTER = re.compile(r"&#[0-9]{640,};?")  # a number that Python may refuse to read, for its length
_MANY_MARKS = re.compile(r"[^\w\x00-\x7f]{31,}")  # of a letter, such as accents; and others, which are left as they are


def clean(text: str) -> str:
    """`text` without markup: HTML tags and entities, control and format characters, runs of white space; Unicode NFC.

    Idempotent: clean(clean(t)) == clean(t). May return the empty string. "I <3 it" and "a < b" keep their signs.
    Whatever the text holds, twice the length takes about twice the time.
    """
    text = _tidied(_unwrapped(text))
    for _ in range(_MORE_LAYERS):  # "&amp;lt;br&amp;gt;" has two
        within = _unwrapped(text)
        if within == text:
            return text
        text = _tidied(within)
    # It was made to lose a few characters at a time, which took up to minutes. Without these signs no markup is left.
    return _tidied(text.translate(_NO_MARKUP))


def _unwrapped(text: str) -> str:
    """`text` without its outermost layer of markup."""
    text = html.unescape(_NO_CHARACTER.sub("\ufffd", text))
    if _C1.search(text):  # much faster than translating what has none
        text = text.translate(_C1_MEANT)
    return _TAG.sub(" ", text)


def _tidied(text: str) -> str:
    """`text` without what is none, each white space one blank, in NFC."""
    if not text.isprintable():
        dropped = [c for c in set(text) if not (c.isprintable() or c.isspace() or c in _JOINERS)]
        if dropped:
            text = text.translate(dict.fromkeys(map(ord, dropped)))
    text = " ".join(text.split())
    if unicodedata.is_normalized("NFC", text):
        return text
    return unicodedata.normalize("NFC", _MANY_MARKS.sub(_in_order, text))


def _in_order(marks: re.Match[str]) -> str:
    """Taken apart, in Unicode's order of marks: to make that, normalization takes the square of their number."""
    apart = "".join(unicodedata.normalize("NFD", character) for character in marks[0])
    groups = itertools.groupby(apart, key=lambda character: unicodedata.combining(character) > 0)
    return "".join("".join(sorted(group, key=unicodedata.combining)) for _, group in groups)
