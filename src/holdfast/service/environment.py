"""`Environment=` and the files of `EnvironmentFile=` (spec supervisor 3.3)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from holdfast.service import words

MAX_FILE_BYTES: Final = 1 << 20
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_BLANK: Final = " \t\r"
_ESCAPED_IN_DOUBLE: Final = '"\\$`'


class EnvironmentFileError(ValueError):
    """A file that cannot be an environment file at all: not UTF-8, a NUL, too long."""


def valid_name(name: str) -> bool:
    """A variable's name: letters, digits, underscore, no digit first."""
    return bool(_NAME.match(name))


def parse_assignments(
    value: str, expand_specifiers: Callable[[str], str]
) -> tuple[list[tuple[str, str]], list[str]]:
    """The pairs of one `Environment=`, and warnings. WordError: nothing of it counts."""
    pairs: list[tuple[str, str]] = []
    warnings: list[str] = []
    for word in words.split(value):
        written = words.join_bytes(word.text)
        try:
            text = expand_specifiers(written)
        except ValueError as error:
            warnings.append(f"Failed to resolve specifiers in {written}, ignoring: {error}")
            continue
        name, equals, content = text.partition("=")
        if not equals or not valid_name(name) or "\0" in content:
            warnings.append(f"Invalid environment assignment, ignoring: {text}")
        else:
            pairs.append((name, content))
    return pairs, warnings


def parse_file(raw: bytes) -> tuple[dict[str, str], list[str]]:
    """A file's variables, and the entries that were skipped. EnvironmentFileError."""
    if len(raw) > MAX_FILE_BYTES:
        raise EnvironmentFileError(f"longer than {MAX_FILE_BYTES} bytes")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise EnvironmentFileError(f"not UTF-8: {error.reason}") from None
    if "\0" in text:
        raise EnvironmentFileError("has a NUL")
    found: dict[str, str] = {}
    skipped: list[str] = []
    for key, value in _entries(text):
        if valid_name(key):
            found[key] = value
        else:
            skipped.append(f"{key}={value}")
    return found, skipped


def _entries(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text):
        end = _line_end(text, at)
        line = text[at:end].strip(_BLANK)
        equals = text.find("=", at, end)
        if line.startswith(("#", ";")) or equals < 0:
            at = end + 1
            continue
        key = text[at:equals].strip(_BLANK)
        value, at = _value(text, equals + 1)
        yield key, value


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _value(text: str, at: int) -> tuple[str, int]:
    """The value that begins at `at`, and where the next entry begins. Quotes count at the start, and after another
    quoted piece; in the middle of an unquoted value they are characters.
    """
    out: list[str] = []
    kept = 0  # up to here nothing is stripped
    quotes_count = True
    while at < len(text):
        char = text[at]
        at += 1
        if char == "\n":
            break
        if char == "\\":
            if at < len(text) and text[at] != "\n":
                out.append(text[at])
            at += 1
            kept, quotes_count = len(out), False
        elif quotes_count and char in "\"'":
            del out[kept:]  # blanks between two quoted pieces
            at = _quoted(text, at, char, out)
            kept = len(out)
        elif char in _BLANK:
            if kept < len(out) or not quotes_count:
                out.append(char)
        else:
            out.append(char)
            kept, quotes_count = len(out), False
    return "".join(out[:kept]), at


def _quoted(text: str, at: int, quote: str, out: list[str]) -> int:
    while at < len(text) and text[at] != quote:
        if text[at] == "\\" and quote == '"' and at + 1 < len(text):
            following = text[at + 1]
            at += 2
            if following in _ESCAPED_IN_DOUBLE:
                out.append(following)
            elif following != "\n":
                out += ("\\", following)
            continue
        out.append(text[at])
        at += 1
    return at + 1
