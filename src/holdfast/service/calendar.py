"""Calendar expressions: `Mon..Fri *-*-* 10:00`, what they mean in one form, and when they elapse next (spec
4.3).
"""

from __future__ import annotations

import calendar
import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

USEC: Final = 1_000_000
MAX_YEAR: Final = 2199
MIN_YEAR: Final = 1970
MAX_FROM_END: Final = 28
"""Days that every month has, counted from its end."""
MAX_CHAIN: Final = 256
"""Elements of one field's list."""
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_LONG_DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WORDS: Final = {
    "minutely": "*-*-* *:*:00",
    "hourly": "*-*-* *:00:00",
    "daily": "*-*-* 00:00:00",
    "weekly": "Mon *-*-* 00:00:00",
    "monthly": "*-*-01 00:00:00",
    "quarterly": "*-01,04,07,10-01 00:00:00",
    "semiannually": "*-01,07-01 00:00:00",
    "biannually": "*-01,07-01 00:00:00",
    "bi-annually": "*-01,07-01 00:00:00",
    "semi-annually": "*-01,07-01 00:00:00",
    "yearly": "*-01-01 00:00:00",
    "annually": "*-01-01 00:00:00",
    "anually": "*-01-01 00:00:00",
}


class CalendarError(ValueError):
    """Not a calendar expression."""


@dataclass(frozen=True, slots=True, order=True)
class Element:
    """One item of a field: `start`, `start..stop`, each with `/repeat`. Seconds are counted in microseconds."""

    start: int
    stop: int = -1
    """-1: none."""
    repeat: int = 0


Field = tuple[Element, ...]
"""Empty: `*`."""


@dataclass(frozen=True, slots=True)
class CalendarSpec:
    """A parsed expression. `weekdays` has 0 for Monday; all seven for none given."""

    weekdays: frozenset[int]
    year: Field
    month: Field
    day: Field
    hour: Field
    minute: Field
    second: Field
    from_month_end: bool = False
    """`~`: days count from the end of the month."""
    zone: str = ""
    """`UTC`, a zone's name, or empty for local time."""

    def __str__(self) -> str:
        """The normalised form."""
        parts = []
        if len(self.weekdays) < len(_DAYS):
            parts.append(_shown_days(self.weekdays))
        mark = "~" if self.from_month_end else "-"
        date = f"{_shown(self.year, 4)}-{_shown(self.month, 2)}{mark}{_shown(self.day, 2)}"
        parts.append(date)
        parts.append(f"{_shown(self.hour, 2)}:{_shown(self.minute, 2)}:{_shown_seconds(self.second)}")
        if self.zone:
            parts.append(self.zone)
        return " ".join(parts)


def _shown_days(days: frozenset[int]) -> str:
    runs: list[list[int]] = []
    for day in sorted(days):
        if runs and runs[-1][-1] == day - 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    out = []
    for run in runs:
        if len(run) > 2:
            out.append(f"{_DAYS[run[0]]}..{_DAYS[run[-1]]}")
        else:
            out += [_DAYS[day] for day in run]
    return ",".join(out)


def _shown(field: Field, width: int) -> str:
    if not field:
        return "*"
    out = []
    for one in field:
        text = f"{one.start:0{width}d}"
        if one.stop >= 0:
            text += f"..{one.stop:0{width}d}"
        if one.repeat and not (one.repeat == 1 and one.stop >= 0):
            text += f"/{one.repeat}"
        out.append(text)
    return ",".join(out)


def _shown_seconds(field: Field) -> str:
    if not field:
        return "*"
    out = []
    for one in field:
        text = _second(one.start, 2)
        if one.stop >= 0:
            text += f"..{_second(one.stop, 2)}"
        if one.repeat and not (one.repeat == USEC and one.stop >= 0):
            text += f"/{_second(one.repeat, 1)}"
        out.append(text)
    return ",".join(out)


def _second(usec: int, width: int) -> str:
    whole, part = divmod(usec, USEC)
    return f"{whole:0{width}d}" + (f".{part:06d}" if part else "")


def parse(text: str) -> CalendarSpec:
    """CalendarError."""
    words = text.split()
    if not words:
        raise CalendarError("an empty calendar expression")
    zone = ""
    if len(words) > 1 and _is_zone(words[-1]):
        zone = "UTC" if words[-1].upper() == "UTC" else words[-1]
        words.pop()
    if len(words) == 1 and words[0].lower() in _WORDS:
        words = _WORDS[words[0].lower()].split()
    days = frozenset(range(7))
    if words and words[0][0].isalpha():
        days = _weekdays(words.pop(0))
    date = time = ""
    for word in words:
        if ":" in word and not time:
            time = word
        elif not date and not time and (("-" in word) or ("~" in word) or word == "*"):
            date = word
        else:
            raise CalendarError(f"{text!r}: unexpected {word!r}")
    year, month, day, from_end = _date(date) if date else ((), (), (), False)
    hour, minute, second = _time(time) if time else ((Element(0),), (Element(0),), (Element(0),))
    return CalendarSpec(days, year, month, day, hour, minute, second, from_end, zone)


def _is_zone(word: str) -> bool:
    if word.upper() == "UTC":
        return True
    if not word[0].isalpha() or ("/" not in word and word.lower() in _LONG_DAYS):
        return False
    import zoneinfo  # A few hundred KiB that few need; whoever has a zone has it from here on.

    try:
        zoneinfo.ZoneInfo(word)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def _weekdays(text: str) -> frozenset[int]:
    found: set[int] = set()
    for item in text.rstrip(",").split(","):
        first, dots, last = item.partition("..")
        if not dots and "-" in item:
            first, dots, last = item.partition("-")
        begin = _weekday(first)
        end = _weekday(last) if dots else begin
        if end < begin:
            raise CalendarError(f"{item!r}: the week begins on Monday")
        found |= set(range(begin, end + 1))
    return frozenset(found)


def _weekday(text: str) -> int:
    word = text.lower()
    for number, name in enumerate(_LONG_DAYS):
        if word in (name, name[:3]):
            return number
    raise CalendarError(f"unknown weekday {text!r}")


def _date(text: str) -> tuple[Field, Field, Field, bool]:
    if text == "*":
        return (), (), (), False
    from_end = "~" in text
    parts = re.split(r"[-~]", text)
    if len(parts) not in (2, 3) or (from_end and text.rindex("~") < text.rfind("-")) or text.count("~") > 1:
        raise CalendarError(f"invalid date {text!r}")
    year = _field(parts[0], MIN_YEAR, MAX_YEAR, is_year=True) if len(parts) == 3 else ()
    day = _field(parts[-1], 1, MAX_FROM_END if from_end else 31, from_end=from_end)
    return year, _field(parts[-2], 1, 12), day, from_end and bool(day)


def _time(text: str) -> tuple[Field, Field, Field]:
    parts = text.split(":")
    if len(parts) not in (2, 3):
        raise CalendarError(f"invalid time {text!r}")
    second = _field(parts[2], 0, 60 * USEC - 1, USEC) if len(parts) == 3 else (Element(0),)
    return _field(parts[0], 0, 23), _field(parts[1], 0, 59), second


def _field(text: str, low: int, high: int, scale: int = 1, is_year: bool = False, from_end: bool = False) -> Field:
    if text == "*":
        return ()
    items = text.split(",")
    if len(items) > MAX_CHAIN:
        raise CalendarError(f"more than {MAX_CHAIN} items")
    return tuple(sorted({_element(item, low, high, scale, is_year, from_end) for item in items}))


def _element(text: str, low: int, high: int, scale: int, is_year: bool, from_end: bool) -> Element:
    span, slash, step = text.partition("/")
    first, dots, last = span.partition("..")
    start = _number(first, scale)
    stop = _number(last, scale) if dots else -1
    repeat = _number(step, scale) if slash else (scale if dots else 0)
    if is_year:
        start, stop = _full_year(start), _full_year(stop)
    if (slash and not repeat) or not low <= start <= high or (dots and not start <= stop <= high):
        raise CalendarError(f"{text!r} is out of range")
    if dots and start == stop:
        return Element(start)
    if dots and start + repeat > stop:
        return Element(start)
    if dots:
        stop -= (stop - start) % repeat
    elif slash and (start - repeat < low if from_end else start + repeat > high):
        raise CalendarError(f"{text!r} never repeats")
    return Element(start, stop, repeat)


def _full_year(year: int) -> int:
    if 0 <= year < 70:
        return 2000 + year
    return 1900 + year if 70 <= year < 100 else year


def _number(text: str, scale: int) -> int:
    match = re.fullmatch(r"([0-9]{1,9})(?:\.([0-9]{1,6})[0-9]*)?" if scale > 1 else r"([0-9]{1,9})", text)
    if match is None:
        raise CalendarError(f"{text!r} is no number")
    fraction = match[2] if scale > 1 else None
    return int(match[1]) * scale + (int(fraction.ljust(6, "0")) if fraction else 0)


def _values(field: Field, low: int, high: int, step: int = 1) -> Iterator[int]:
    """The field's values from `low` to `high`, ascending, each once."""
    if not field:
        yield from range(low, high + 1, step)
        return
    found: set[int] = set()
    for one in field:
        if one.repeat:
            stop = min(one.stop if one.stop >= 0 else high, high)
            found.update(range(one.start, stop + 1, one.repeat))
        else:
            found.add(one.start)
    yield from sorted(value for value in found if low <= value <= high)


def next_elapse(spec: CalendarSpec, after: datetime.datetime) -> datetime.datetime | None:
    """The first time after `after` (aware; local times are those of its zone) that fits; None: never again."""
    zone: datetime.tzinfo | None = after.tzinfo
    if spec.zone:
        import zoneinfo  # Of a zone: `parse` has loaded it.

        zone = datetime.UTC if spec.zone == "UTC" else zoneinfo.ZoneInfo(spec.zone)
    local = after.astimezone(zone)
    first = local.date()
    times = _Times(spec)
    for year in _values(spec.year, first.year, MAX_YEAR):
        for month in _values(spec.month, 1, 12):
            if (year, month) < (first.year, first.month):
                continue
            for day in _days(spec, year, month):
                date = datetime.date(year, month, day)
                if date < first or date.weekday() not in spec.weekdays:
                    continue
                for candidate in times.of(date, local if date == first else None):
                    moment = candidate.replace(tzinfo=zone)
                    # A time that the change of the clock leaves out comes back as another one.
                    real = moment.astimezone(datetime.UTC).astimezone(zone)
                    if real.replace(tzinfo=None) == candidate and moment > after:
                        return moment
    return None


def _days(spec: CalendarSpec, year: int, month: int) -> Iterator[int]:
    last = calendar.monthrange(year, month)[1]
    if not spec.from_month_end:
        yield from _values(spec.day, 1, last)
        return
    # `~n` is the n-th last; a range `~n..m` runs towards the end of the month.
    found: set[int] = set()
    for one in spec.day or (Element(1, last, 1),):
        numbers = range(one.start, (one.stop if one.stop >= 0 else one.start) + 1, max(one.repeat, 1))
        if one.repeat and one.stop < 0:
            begin = last + 1 - one.start
            found.update(range(begin, last + 1, one.repeat))
        else:
            found.update(last + 1 - number for number in numbers)
    yield from sorted(day for day in found if 1 <= day <= last)


class _Times:
    """A day's times, ascending, without going through the past ones."""

    def __init__(self, spec: CalendarSpec) -> None:
        self._hours = list(_values(spec.hour, 0, 23))
        self._minutes = list(_values(spec.minute, 0, 59))
        self._seconds = list(_values(spec.second, 0, 60 * USEC - 1, USEC))

    def of(self, date: datetime.date, not_before: datetime.datetime | None) -> Iterator[datetime.datetime]:
        floor = (not_before.hour, not_before.minute) if not_before else (0, 0)
        for hour in self._hours:
            if hour < floor[0]:
                continue
            for minute in self._minutes:
                if (hour, minute) < floor:
                    continue
                for usec in self._seconds:
                    second, part = divmod(usec, USEC)
                    yield datetime.datetime(date.year, date.month, date.day, hour, minute, second, part)
