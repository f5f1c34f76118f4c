"""systemd's time spans: `1min 30s`, `55s500ms`, `5` (spec watchdog 2.2, exact).

Microseconds as int, because that is what is compared and shown; `INFINITY` is its all-ones value.
"""

from __future__ import annotations

import re
from typing import Final

INFINITY: Final = 2**64 - 1
USEC_PER_SEC: Final = 1_000_000

_UNITS: Final[dict[str, int]] = {
    name: usec
    for names, usec in (
        (("usec", "us", "µs", "μs"), 1),
        (("msec", "ms"), 1_000),
        (("seconds", "second", "sec", "s", ""), USEC_PER_SEC),
        (("minutes", "minute", "min", "m"), 60 * USEC_PER_SEC),
        (("hours", "hour", "hr", "h"), 3600 * USEC_PER_SEC),
        (("days", "day", "d"), 86400 * USEC_PER_SEC),
        (("weeks", "week", "w"), 7 * 86400 * USEC_PER_SEC),
        (("months", "month", "M"), 2_629_800 * USEC_PER_SEC),
        (("years", "year", "y"), 31_557_600 * USEC_PER_SEC),
    )
    for name in names
}

_LONGEST_FIRST: Final = sorted((name for name in _UNITS if name), key=len, reverse=True)
_BLANK: Final = " \t\n"
_NUMBER: Final = re.compile(r"\+?(?:([0-9]+)(?:\.([0-9]+))?|\.([0-9]+))")
_MAX_NUMBER: Final = 2**63 - 1

_SHOWN: Final = (
    ("y", _UNITS["y"]),
    ("month", _UNITS["M"]),
    ("w", _UNITS["w"]),
    ("d", _UNITS["d"]),
    ("h", _UNITS["h"]),
    ("min", _UNITS["min"]),
)


class TimeSpanError(ValueError):
    """Not a time span (EINVAL); the text says what is wrong with it."""


class TimeSpanRange(TimeSpanError):
    """Negative, or 2^64-1 µs and more (ERANGE)."""


def parse_timespan(text: str, default_unit: str = "s") -> int:
    """Microseconds. A number without a unit counts `default_unit`. TimeSpanError, TimeSpanRange."""
    rest = text.strip(_BLANK)
    if rest == "infinity":
        return INFINITY
    if not rest:
        raise TimeSpanError("an empty time span")
    total = 0
    while rest:
        if rest.startswith("-"):
            raise TimeSpanRange(f"{text!r}: a time span cannot be negative")
        number = _NUMBER.match(rest)
        if number is None:
            raise TimeSpanError(f"{text!r}: no number at {rest!r}")
        whole, fraction, only_fraction = number.groups()
        if int(whole or 0) > _MAX_NUMBER:
            raise TimeSpanRange(f"{text!r}: too long")
        factor, after = _unit(text, rest[number.end() :], default_unit)
        if int(whole or 0) >= INFINITY // factor:
            raise TimeSpanRange(f"{text!r}: too long")
        total += int(whole or 0) * factor
        for digit in fraction or only_fraction or "":
            factor //= 10
            total += int(digit) * factor
        if total >= INFINITY:
            raise TimeSpanRange(f"{text!r}: too long")
        rest = after.lstrip(_BLANK)
    return total


def _unit(text: str, after: str, default_unit: str) -> tuple[int, str]:
    """The factor of the unit that `after` begins with, and what follows it."""
    stripped = after.lstrip(_BLANK)
    for name in _LONGEST_FIRST:
        if stripped.startswith(name):
            return _UNITS[name], stripped[len(name) :]
    if stripped and stripped == after:
        raise TimeSpanError(f"{text!r}: unknown unit at {after!r}; known are us, ms, s, min, h, d, w, month, y")
    return _UNITS[default_unit], after


def format_timespan(usec: int) -> str:
    """As systemd shows it: largest units first, the rest below a minute as seconds with a fraction."""
    if usec == INFINITY:
        return "infinity"
    if usec == 0:
        return "0"
    parts = []
    for name, factor in _SHOWN:
        count, usec = divmod(usec, factor)
        if count:
            parts.append(f"{count}{name}")
    if usec:
        parts.append(_below_a_minute(usec))
    return " ".join(parts)


def _below_a_minute(usec: int) -> str:
    seconds, rest = divmod(usec, USEC_PER_SEC)
    if seconds:
        return f"{seconds}.{rest:06d}s" if rest else f"{seconds}s"
    if rest % 1000 == 0:
        return f"{rest // 1000}ms"
    return f"{rest}us" if rest < 1000 else f"{rest // 1000}.{rest % 1000:03d}ms"
