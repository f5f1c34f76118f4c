"""Splitting values into words, with quotes and escapes (spec supervisor 1.5)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

BLANK: Final = " \t\n\r"
_SIMPLE: Final = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"', "'": "'",
    "s": " ",
}  # fmt: skip
_NUMERIC: Final = (
    (re.compile(r"x([0-9a-fA-F]{2})"), 16),
    (re.compile(r"u([0-9a-fA-F]{4})"), 16),
    (re.compile(r"U([0-9a-fA-F]{8})"), 16),
    (re.compile(r"([0-7]{3})"), 8),
)
_MAX_CODE_POINT: Final = 0x10FFFF
_SURROGATES: Final = range(0xD800, 0xE000)


class WordError(ValueError):
    """The value cannot be split: an open quote, or an escape that nobody knows."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word. `raw`: as it was written; `rest`: the value from this word on, for messages."""

    text: str
    raw: str
    rest: str
    unknown_escape: bool = False


def split(value: str, relaxed: bool = False) -> list[Word]:
    """Words of a value. `relaxed` (command lines): an unknown escape stays, with a mark on its word; otherwise it
    is a WordError, as an open quote always is.
    """
    words: list[Word] = []
    at = 0
    while True:
        while at < len(value) and value[at] in BLANK:
            at += 1
        if at == len(value):
            return words
        word, at = _one(value, at, relaxed)
        words.append(word)


def texts(value: str) -> list[str]:
    """Only the words' texts. WordError."""
    return [word.text for word in split(value)]


def _one(value: str, begin: int, relaxed: bool) -> tuple[Word, int]:
    out: list[str] = []
    quote = ""
    unknown = False
    at = begin
    while at < len(value):
        char = value[at]
        if char == "\\":
            text, after = _escape(value, at + 1)
            if text is None:
                if not relaxed or after > len(value):
                    raise WordError(f"unknown escape sequence at {value[at : at + 4]!r}")
                unknown = True
                text = value[at:after]
            out.append(text)
            at = after
            continue
        at += 1
        if quote:
            if char == quote:
                quote = ""
            else:
                out.append(char)
        elif char in "\"'":
            quote = char
        elif char in BLANK:
            at -= 1
            break
        else:
            out.append(char)
    if quote:
        raise WordError("an open quote")
    return Word("".join(out), value[begin:at], value[begin:], unknown), at


def _escape(value: str, at: int) -> tuple[str | None, int]:
    """What the escape at `at` (behind its backslash) means, None if nothing, and where it ends."""
    if value[at : at + 1] in _SIMPLE and at < len(value):
        return _SIMPLE[value[at]], at + 1
    for pattern, base in _NUMERIC:
        if match := pattern.match(value, at):
            code = int(match[1], base)
            limit = 0xFF if base == 8 else _MAX_CODE_POINT
            if 0 < code <= limit and code not in _SURROGATES:
                return _character(code, match[0]), match.end()
    return None, at + 1


def _character(code: int, written: str) -> str:
    """`\\xHH` and octal name bytes, the others code points."""
    if code < 0x80 or written[0] in "uU":
        return chr(code)
    return bytes([code]).decode("utf-8", "surrogateescape")


def join_bytes(text: str) -> str:
    """Bytes that were written one by one (`\\xc3\\xa9`), together as UTF-8 where they are that."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
