# ruff: noqa: SIM905 - long lists of words read better as text
"""How the kinds of values are written: booleans, sizes, modes, limits, time spans (spec supervisor 1.2 to 1.4)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from holdfast.service.names import UnitNameError, simplify_path
from holdfast.timespan import INFINITY, parse_timespan

_TRUE: Final = frozenset("1 yes y true t on".split())
_FALSE: Final = frozenset("0 no n false f off".split())
_SIZE: Final = re.compile(r"\s*([0-9]+)(?:\.([0-9]+))?\s*([BKMGTPE]?)\s*\Z")
_MAX_U64: Final = 2**64 - 1


def parse_boolean(text: str) -> bool:
    """Any case. ValueError."""
    word = text.lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"{text!r} is no boolean")


def parse_size(text: str) -> int:
    """Bytes; `K` is 1024; `infinity` is 2^64-1. ValueError."""
    if text == "infinity":
        return INFINITY
    match = _SIZE.match(text)
    if match is None or not text.isascii():
        raise ValueError(f"{text!r} is no size")
    power = "BKMGTPE".index(match[3]) if match[3] else 0
    factor: int = 1024**power
    total = int(match[1]) * factor
    if match[2]:
        total += int(match[2]) * factor // 10 ** len(match[2])
    if total >= _MAX_U64:
        raise ValueError(f"{text!r} is too much")
    return total


@dataclass(frozen=True, slots=True)
class Amount:
    """An absolute value, or a share: `percent` in hundredths of a percent."""

    absolute: int = INFINITY
    percent: int | None = None

    def of(self, total: int) -> int:
        """What it is of `total`."""
        return self.absolute if self.percent is None else total * self.percent // 10_000


def parse_amount(text: str) -> Amount:
    """A size or a percentage from 0 to 100, two digits after the point. ValueError."""
    if text.endswith("%"):
        match = re.fullmatch(r"([0-9]{1,3})(?:\.([0-9]{1,2}))?%", text, re.ASCII)
        hundredths = int(match[1]) * 100 + int((match[2] or "").ljust(2, "0")) if match else -1
        if not 0 <= hundredths <= 10_000:
            raise ValueError(f"{text!r} is no percentage")
        return Amount(percent=hundredths)
    return Amount(parse_size(text))


class SoftAboveHard(ValueError):
    """A soft limit that the hard one does not allow."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A resource limit; INFINITY: none."""

    soft: int
    hard: int


def parse_limit(text: str, kind: str = "number") -> Limit:
    """`soft[:hard]`; kind `size`, `seconds`, `microseconds`, `nice` or `number`. ValueError."""
    soft, colon, hard = text.partition(":")
    first = _limit(soft.strip(), kind)
    second = _limit(hard.strip(), kind) if colon else first
    if first > second:
        raise SoftAboveHard(f"{text!r}: the soft limit is above the hard one")
    return Limit(first, second)


def _limit(text: str, kind: str) -> int:
    if text == "infinity":
        return INFINITY
    if kind == "size":
        return parse_size(text)
    if kind in ("seconds", "microseconds"):
        usec = parse_timespan(text, "s" if kind == "seconds" else "us")
        return -(-usec // 1_000_000) if kind == "seconds" else usec
    if kind == "nice" and text[:1] in ("+", "-"):
        nice = parse_integer(text, -20, 19)
        return 20 - nice
    return parse_integer(text, 0, _MAX_U64 - 1)


def parse_integer(text: str, low: int, high: int) -> int:
    """Decimal; ValueError also when out of range."""
    if not re.fullmatch(r"[+-]?[0-9]{1,20}", text, re.ASCII) or not low <= int(text) <= high:
        raise ValueError(f"{text!r} is no number from {low} to {high}")
    return int(text)


def parse_mode(text: str) -> int:
    """Octal, up to 07777. ValueError."""
    if not re.fullmatch(r"[0-7]{1,5}", text, re.ASCII) or int(text, 8) > 0o7777:
        raise ValueError(f"{text!r} is no file mode")
    return int(text, 8)


def parse_path(text: str) -> str:
    """Absolute and simplified. ValueError."""
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f"{text!r} is no absolute path")
    try:
        return simplify_path(text)
    except UnitNameError as error:
        raise ValueError(str(error)) from None


_PORT: Final = r"[0-9]{1,5}"
_ADDRESS: Final = re.compile(
    rf"@.+|{_PORT}|\[[0-9A-Fa-f:.]+(%[^\]]+)?\]:{_PORT}|[0-9]{{1,3}}(\.[0-9]{{1,3}}){{3}}:{_PORT}"
    rf"|vsock(-[a-z]+)?:[0-9]*:{_PORT}[0-9]*",
    re.ASCII | re.DOTALL,
)
MAX_SOCKET_PATH: Final = 107


def parse_address(text: str) -> str:
    """What `ListenStream=` and its like may be: a path, `@name`, a port, `v4:port`, `[v6]:port`, `vsock:…`.
    ValueError.
    """
    if text.startswith("/"):
        path = parse_path(text)
        if len(path.encode("utf-8", "surrogateescape")) > MAX_SOCKET_PATH:
            raise ValueError(f"{text!r} is too long for a socket")
        return path
    if not _ADDRESS.fullmatch(text) or len(text) > MAX_SOCKET_PATH:
        raise ValueError(f"{text!r} is no socket address")
    port = text.rpartition(":")[2]
    if not text.startswith(("@", "vsock")) and not 1 <= int(port) <= 65535:
        raise ValueError(f"{text!r}: no such port")
    return text


def never_if_zero(usec: int) -> int:
    """`TimeoutStartSec=0` and its like: no time-out."""
    return usec or INFINITY
