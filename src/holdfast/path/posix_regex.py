"""POSIX extended regular expressions as the C library has them (spec path 7.6, 9).

Python's `re` has another language (`\\d`, lazy and possessive repetition, empty alternatives) and takes
exponential time on some patterns; the C library's matcher does not backtrack without back-references. Patterns
come from the administrator, the strings from devices.
"""

from __future__ import annotations

import ctypes
import functools
import re
from typing import Final

REG_EXTENDED: Final = 1
REG_NOSUB: Final = 8
REGEX_T_BYTES: Final = 256
"""More than the `regex_t` of any C library (64 on glibc for 64 bits)."""
MAX_PATTERN_BYTES: Final = 1024
"""A line of the file has no more."""
MAX_REPEAT: Final = 255
"""The least that POSIX asks for (RE_DUP_MAX). The C library unfolds repetitions: nested ones fill the memory."""
MAX_UNFOLDED: Final = 10000
_REPEAT: Final = re.compile(rb"\{([0-9]*)(?:,([0-9]*))?\}")


class PatternError(ValueError):
    """The pattern cannot be used; the text says why."""


class Pattern:
    """A compiled pattern. A `!` in front inverts it, if `invertible`."""

    __slots__ = ("_buffer", "_compiled", "_free", "inverted", "text")

    def __init__(self, text: str, *, invertible: bool = True) -> None:
        """PatternError for what is no regular expression."""
        self._compiled = False
        self.text = text
        self.inverted = invertible and text.startswith("!")
        raw = text[1:].encode("utf-8", "surrogateescape") if self.inverted else _bytes(text)
        _check(raw)
        self._buffer: ctypes.Array[ctypes.c_char] = ctypes.create_string_buffer(REGEX_T_BYTES)
        code = _library().regcomp(self._buffer, raw, REG_EXTENDED | REG_NOSUB)
        if code:
            message = ctypes.create_string_buffer(256)
            _library().regerror(code, self._buffer, message, len(message))
            raise PatternError(message.value.decode(errors="replace"))
        self._compiled = True
        # Kept here: when the interpreter ends, the module's names may go before its objects.
        self._free = _library().regfree

    def __del__(self) -> None:
        if self._compiled:
            self._free(self._buffer)

    def matches(self, text: str) -> bool:
        """Whether the pattern occurs anywhere in `text`; the contrary if inverted."""
        found = bool(_library().regexec(self._buffer, _bytes(text.replace("\0", "")), 0, None, 0) == 0)
        return found != self.inverted

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _check(raw: bytes) -> None:
    """Refuse what the C library would take long for or much memory."""
    if len(raw) > MAX_PATTERN_BYTES:
        raise PatternError(f"longer than {MAX_PATTERN_BYTES} bytes")
    if b"\0" in raw:
        raise PatternError("a NUL byte")
    if re.search(rb"\\[0-9]", raw):
        # No ERE has them; the GNU library does, and its matcher then takes exponential time.
        raise PatternError("back-references are not supported")
    product = 1
    for low, high in _REPEAT.findall(raw):
        times = max(int(low[:9] or b"0"), int(high[:9] or b"0"))
        if times > MAX_REPEAT:
            raise PatternError(f"more than {MAX_REPEAT} repetitions")
        product *= max(times, 1)
        if product > MAX_UNFOLDED:
            raise PatternError("too many repetitions")


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.regcomp.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int]
    library.regcomp.restype = ctypes.c_int
    library.regexec.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int]
    library.regexec.restype = ctypes.c_int
    library.regfree.argtypes = [ctypes.c_char_p]
    library.regfree.restype = None
    library.regerror.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
    library.regerror.restype = ctypes.c_size_t
    return library


@functools.lru_cache(maxsize=4096)
def compile_pattern(text: str) -> Pattern:
    """A pattern that a leading `!` inverts; compiled once. PatternError."""
    return Pattern(text)


@functools.lru_cache(maxsize=4096)
def compile_plain(text: str) -> Pattern:
    """A pattern in which `!` has no meaning (hardware table). PatternError."""
    return Pattern(text, invertible=False)
