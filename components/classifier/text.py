"""Cleaning: what a review looks like to the model, at training and at serving time alike."""

import html
import re
import unicodedata

_TAG = re.compile(
    r"</?(?:a|abbr|b|big|blockquote|body|br|center|code|div|em|font|h[1-6]|head|hr|html|i|img|li|ol|p|pre|q|s|small|span|"
    r"strike|strong|sub|sup|table|tbody|td|th|thead|title|tr|tt|u|ul)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_SPACE = re.compile(r"\s+")
# Windows-1252 bytes that were decoded as Latin-1 arrive as C1 control characters: "\x92" is meant to be "’".
_C1 = {c: bytes([c]).decode("cp1252", "ignore") or None for c in range(0x80, 0xA0)}
_JOINERS = {"\u200c", "\u200d"}  # part of emoji and of several scripts, though "format characters" to Unicode


def clean(text: str) -> str:
    """`text` without markup: HTML tags and entities, control and format characters, runs of white space; Unicode NFC.

    Idempotent: clean(clean(t)) == clean(t). May return the empty string. "I <3 it" and "a < b" keep their signs.
    """
    previous = None
    while previous != text:  # "&amp;lt;br&amp;gt;" takes several rounds; each round shortens the text, so it ends
        previous = text
        text = _TAG.sub(" ", html.unescape(text).translate(_C1))
        if not text.isascii() or not text.isprintable():
            text = "".join(c if _is_text(c) else " " if c.isspace() else "" for c in text)
        text = unicodedata.normalize("NFC", _SPACE.sub(" ", text).strip())
    return text


def _is_text(character: str) -> bool:
    return unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Cn", "Co"} or character in _JOINERS
