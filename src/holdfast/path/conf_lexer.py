"""Lines and tokens of multipath.conf, and what is wrong with a line by itself (spec path 7.1).

Any bytes are taken; nothing raises. A quote is a token of its own, so that `"{"` is never taken for a brace.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from holdfast.path.conf_diagnostics import Diagnostic, Place

MAX_LINE_BYTES: Final = 1023
"""A longer line is cut here; the rest is read as the next one, as the original does."""

QUOTE: Final = None
Token = str | None
"""A word, a brace, the text between quotes, or QUOTE."""

SECTION_WORDS: Final = frozenset(
    ("defaults", "blacklist", "blacklist_exceptions", "devices", "device", "multipaths", "multipath")
)
"""Words after which a `{` is expected. `overrides` and `protocol` are not among them."""

_LINE: Final = re.compile(rb"[^\n]{0,%d}\n|[^\n]{1,%d}" % (MAX_LINE_BYTES - 1, MAX_LINE_BYTES))
_END: Final = re.compile(rb"[\r\n\0]")
_TOKENS: Final = re.compile(
    rb"""[ \t\v\f\x80-\xff]+            # between tokens
       | (?P<end>[!\#].*)              # a comment
       | (?P<brace>[{}])
       | "(?P<text>(?:[^"]|"")*)(?P<close>"?)
       | (?P<word>[^ \t\v\f\x80-\xff!\#{}"]+)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Line:
    """A line with tokens."""

    number: int
    raw: str
    """Without its end."""
    tokens: tuple[Token, ...]

    @property
    def word(self) -> str:
        """The keyword; empty if a quote stands there."""
        return self.tokens[0] or ""

    @property
    def value(self) -> str:
        """The token behind the keyword, or the quoted text."""
        if len(self.tokens) > 1 and self.tokens[1] is not QUOTE:
            return self.tokens[1] or ""
        return (self.tokens[2] or "") if len(self.tokens) > 2 else ""


def lines(data: bytes) -> Iterator[Line]:
    """The lines that hold something. Numbers count the pieces of lines that were cut, too."""
    for number, match in enumerate(_LINE.finditer(data), 1):
        raw = _END.split(match[0], maxsplit=1)[0]
        tokens = tokenize(raw)
        if tokens:
            yield Line(number, _text(raw), tokens)


def tokenize(raw: bytes) -> tuple[Token, ...]:
    """The tokens of one line without its end."""
    tokens: list[Token] = []
    for match in _TOKENS.finditer(raw):
        kind = match.lastgroup
        if kind == "end":
            break
        if kind in ("brace", "word"):
            tokens.append(_text(match[0]))
        elif kind is not None:
            tokens.append(QUOTE)
            if match["text"]:
                tokens.append(_text(match["text"].replace(b'""', b'"')))
            if match["close"]:
                tokens.append(QUOTE)
    return tuple(tokens)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def validate(line: Line, path: str) -> tuple[Diagnostic | None, bool]:
    """What is wrong with the form of a line, and whether it counts all the same."""
    tokens = line.tokens
    first = tokens[0]
    place = Place(path, line.number)
    if first == "}":
        return (place.on_line("extra data", tokens[1]) if len(tokens) > 1 else None), True
    if first == "{":
        return place.on_line("stray brace", first), False
    if first in SECTION_WORDS:
        return _validate_section(tokens, place), True
    if len(tokens) == 1:
        return place.on_line("missing value", first), False
    if tokens[1] is not QUOTE:
        return (place.on_line("extra data", tokens[2]) if len(tokens) > 2 else None), True
    return _validate_quoted(tokens, place)


def _validate_section(tokens: tuple[Token, ...], place: Place) -> Diagnostic | None:
    if len(tokens) == 1:
        return place.on_line("missing brace", tokens[0])
    if tokens[1] != "{":
        return place.on_line("expecting brace", tokens[1])
    return place.on_line("extra data", tokens[2]) if len(tokens) > 2 else None


def _validate_quoted(tokens: tuple[Token, ...], place: Place) -> tuple[Diagnostic | None, bool]:
    """tokens[1] is a quote."""
    if len(tokens) == 2:
        return place.on_line("missing quotes"), True
    if tokens[2] is QUOTE:
        return (place.on_line("extra data", tokens[3]) if len(tokens) > 3 else None), True
    if len(tokens) == 3:
        return place.on_line("missing quotes"), True
    if tokens[3] is not QUOTE:
        return place.on_line("glued", tokens[3]), False
    return (place.on_line("extra data", tokens[4]) if len(tokens) > 4 else None), True
