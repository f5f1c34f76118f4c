"""Values of multipath.conf's keywords: text to value and back (spec path 7.1, 7.4).

A value that cannot be understood leaves what was set before; a number out of range is capped; both are said.
Where the original takes a part of the text for the whole (`dev_loss_tmo 1.5`, `mode 3999`), the value is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from holdfast.path.conf_diagnostics import nearest
from holdfast.path.keywords import INT_MAX, NEW, NR_OPEN, UINT_MAX, Keyword, Kind, Release, Value
from holdfast.path.posix_regex import PatternError, compile_pattern

BLANKS: Final = " \t\n\v\f\r"
_NUMBER: Final = re.compile(r"[ \t\n\v\f\r]*([+-]?[0-9]+)[ \t\n\v\f\r]*", re.ASCII)
_DIGITS: Final = re.compile(r"[ \t\n\v\f\r]*([0-9]+)[ \t\n\v\f\r]*", re.ASCII)
_COUNT: Final = re.compile(r"[+-]?[0-9]+", re.ASCII)
_KEY: Final = re.compile(r"(?:0[xX])?([0-9a-fA-F]{1,16})(:aptpl)?", re.ASCII)
_OCTAL: Final = re.compile(r"[ \t]*([0-7]+)[ \t]*", re.ASCII)
MAX_NUMBER_LENGTH: Final = 64
"""A longer one is certainly out of range; Python refuses to convert the longest."""

Lookup = Callable[[str], int | None]
"""A user's or group's name to its number; None: unknown. May block: a name service may answer it."""


def nobody(_name: str) -> int | None:
    """A lookup that knows no names."""
    return None


def local_user(name: str) -> int | None:
    """The number of a user of this host."""
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return None


def local_group(name: str) -> int | None:
    """The number of a group of this host."""
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the meaning of a value depends on beside its text."""

    release: Release = NEW
    user: Lookup = nobody
    group: Lookup = nobody
    nr_open: int = NR_OPEN
    """fs.nr_open, the most that max_fds can be."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a value."""

    value: Value | None = None
    keep: bool = False
    """Nothing is set: an earlier value stays."""
    problem: str = ""
    """What follows `FILE line N, `."""
    before: str = ""
    """A remark without a place, ahead of the problem."""
    fatal: bool = False
    """The original gives up the whole file."""
    deprecated: bool = False
    hint: str = ""
    unknown: bool = False
    """Not among what may be written: `suggestion` knows more."""


def parse_value(keyword: Keyword, text: str, around: Surroundings) -> Outcome:
    """The value that `text` means for `keyword`. A value of None without `keep` unsets it."""
    if keyword.kind is Kind.SILENT:
        return Outcome(keep=True)
    if keyword.kind is Kind.DEPRECATED:
        return Outcome(keep=True, deprecated=True)
    outcome = _READERS[keyword.kind](keyword, text, around)
    if keyword.zero_unsets and outcome.value == 0 and not isinstance(outcome.value, bool):
        return Outcome(None, problem=outcome.problem)
    return outcome


def _invalid(keyword: Keyword, text: str) -> Outcome:
    return Outcome(keep=True, problem=f'invalid value for {keyword.name}: "{text}"', unknown=True)


def suggestion(keyword: Keyword, text: str) -> str:
    """What was probably meant, else what may be written. Takes its time."""
    return nearest(text, keyword.words) or allowed(keyword)


def allowed(keyword: Keyword) -> str:
    """What may be written, for people."""
    parts = [word for word in keyword.words if word not in ("0", "1")]
    if keyword.kind is Kind.NUMBER:
        low = str(keyword.low) if keyword.low > -INT_MAX else ""
        parts.append(f"a number from {low}" if keyword.high >= INT_MAX and low else "a number")
        if keyword.high < INT_MAX and low:
            parts[-1] += f" from {low} to {keyword.high}"
    elif keyword.kind is Kind.INTERVAL:
        parts.append("a number of seconds")
    elif keyword.kind is Kind.LOSS_TIMEOUT:
        parts += ["a number of seconds", "infinity"]
    elif keyword.kind is Kind.MODE:
        parts.append("an octal number up to 0777")
    elif keyword.kind in (Kind.USER, Kind.GROUP):
        parts.append("a name or number")
    elif keyword.kind is Kind.RESERVATION_KEY:
        parts += ["up to 16 hexadecimal digits", "the same with :aptpl", "file"]
    elif keyword.kind is Kind.PATH:
        parts.append("an absolute path")
    return ", ".join(parts)


def _read_words(keyword: Keyword, text: str, _around: Surroundings) -> Outcome:
    if text in keyword.words:
        return Outcome(keyword.words[text])
    return _invalid(keyword, text)


def _read_number(keyword: Keyword, text: str, around: Surroundings) -> Outcome:
    if text in keyword.words:
        return Outcome(keyword.words[text])
    match = _NUMBER.fullmatch(text)
    if match is None:
        return _invalid(keyword, text)
    digits = match[1]
    if len(digits) > MAX_NUMBER_LENGTH:
        value = -(2**63) if digits.startswith("-") else 2**63
    else:
        value = int(digits)
    high = around.nr_open if keyword.name == "max_fds" else keyword.high
    capped = min(max(value, keyword.low), high)
    final: Value = "max" if keyword.name == "max_fds" and capped == high else capped
    if capped == value:
        return Outcome(final)
    size = "small" if value < keyword.low else "large"
    return Outcome(final, problem=f"value for {keyword.name} too {size}, capping at {capped}")


def _read_interval(keyword: Keyword, text: str, _around: Surroundings) -> Outcome:
    match = _DIGITS.fullmatch(text)
    if match is None or len(match[1]) > MAX_NUMBER_LENGTH or int(match[1]) > keyword.high:
        return _invalid(keyword, text)
    return Outcome(int(match[1]))


def _read_text(_keyword: Keyword, text: str, _around: Surroundings) -> Outcome:
    return Outcome(text)


def _read_name(_keyword: Keyword, text: str, _around: Surroundings) -> Outcome:
    if "/" in text:
        return Outcome(keep=True, problem=f"{text} cannot contain a slash. Ignoring")
    return Outcome(text)


def _read_path(_keyword: Keyword, text: str, _around: Surroundings) -> Outcome:
    if not text.startswith("/"):
        return Outcome(keep=True, problem=f"{text} is not an absolute path. Ignoring")
    return Outcome(text)


def _read_counted(keyword: Keyword, text: str, _around: Surroundings) -> Outcome:
    leading = 1 if keyword.kind is Kind.SELECTOR else 0
    words = text.split()
    count = words[leading] if len(words) > leading else ""
    hint = 'the number of words that follow, as in "round-robin 0"' if leading else 'a count first, as in "1 alua"'
    if not _COUNT.fullmatch(count) or len(count) > MAX_NUMBER_LENGTH or int(count) < 0:
        return Outcome(keep=True, problem=f"missing argument count for {keyword.name}", hint=hint)
    expected = len(words) - leading - 1
    if int(count) != expected:
        problem = f"invalid argument count for {keyword.name}:, got '{int(count)}' expected '{expected}'"
        return Outcome(keep=True, problem=problem, hint=hint)
    return Outcome(text)


def _read_loss_timeout(keyword: Keyword, text: str, _around: Surroundings) -> Outcome:
    if text == "infinity":
        return Outcome("infinity")
    match = _NUMBER.fullmatch(text)
    if match is None or len(match[1]) > MAX_NUMBER_LENGTH or not 0 <= int(match[1]) <= UINT_MAX:
        return _invalid(keyword, text)
    return Outcome("infinity" if int(match[1]) == UINT_MAX else int(match[1]))


def _read_key(keyword: Keyword, text: str, _around: Surroundings) -> Outcome:
    if text == "file":
        return Outcome("file")
    match = _KEY.fullmatch(text)
    # Key 0 means "no key" to a target; registering it would take a registration away.
    if match is None or int(match[1], 16) == 0:
        return Outcome(
            keep=True, fatal=True, problem=f'invalid value for {keyword.name}: "{text}"', hint=allowed(keyword)
        )
    return Outcome(f"0x{int(match[1], 16):x}{match[2] or ''}")


def _read_mode(keyword: Keyword, text: str, _around: Surroundings) -> Outcome:
    match = _OCTAL.fullmatch(text)
    if match is None or len(match[1]) > MAX_NUMBER_LENGTH or int(match[1], 8) > 0o777:
        return _invalid(keyword, text)
    return Outcome(int(match[1], 8))


def _read_owner(keyword: Keyword, text: str, around: Surroundings) -> Outcome:
    match = _DIGITS.fullmatch(text)
    if match is not None:
        # The highest number means "do not change" to chown.
        if len(match[1]) > MAX_NUMBER_LENGTH or int(match[1]) >= UINT_MAX:
            return _invalid(keyword, text)
        return Outcome(int(match[1]))
    number = (around.user if keyword.kind is Kind.USER else around.group)(text)
    return _invalid(keyword, text) if number is None else Outcome(number)


def _read_uid_attributes(_keyword: Keyword, text: str, _around: Surroundings) -> Outcome:
    records = text.split()
    good = [record for record in records if ":" in record]
    for record in records:
        if ":" not in record:
            return Outcome(
                " ".join(good) if good else None,
                keep=not good,
                before=f"invalid record in uid_attrs: {record}",
                problem=f'error parsing uid_attrs: "{text}"',
                hint="PREFIX:PROPERTY, as in sd:ID_SERIAL",
            )
    return Outcome(" ".join(good)) if good else Outcome(keep=True)


def _read_pattern(_keyword: Keyword, text: str, _around: Surroundings) -> Outcome:
    try:
        compile_pattern(text)
    except PatternError as error:
        return Outcome(keep=True, fatal=True, problem=f'invalid regular expression "{text}": {error}')
    return Outcome(text)


_READERS: Final[dict[Kind, Callable[[Keyword, str, Surroundings], Outcome]]] = {
    Kind.WORDS: _read_words,
    Kind.NUMBER: _read_number,
    Kind.INTERVAL: _read_interval,
    Kind.TEXT: _read_text,
    Kind.NAME: _read_name,
    Kind.PATH: _read_path,
    Kind.COUNTED: _read_counted,
    Kind.SELECTOR: _read_counted,
    Kind.LOSS_TIMEOUT: _read_loss_timeout,
    Kind.RESERVATION_KEY: _read_key,
    Kind.MODE: _read_mode,
    Kind.USER: _read_owner,
    Kind.GROUP: _read_owner,
    Kind.UID_ATTRIBUTES: _read_uid_attributes,
    Kind.PATTERN: _read_pattern,
}


def quoted(text: str) -> str:
    """A string as `show config` has it; a quote within it is doubled."""
    return '"' + text.replace('"', '""') + '"'


def print_value(keyword: Keyword, value: Value) -> str:
    """As `show config` prints it: numbers and some words bare, text in quotes, ids and modes in octal."""
    if isinstance(value, bool):
        return quoted("yes" if value else "no")
    if isinstance(value, int):
        if keyword.kind in (Kind.MODE, Kind.USER, Kind.GROUP):
            return f"0{value:o}"
        return quoted("no") if value == 0 and keyword.words.get("no") == 0 else str(value)
    if keyword.bare and value != "file":
        return value
    return quoted(value)
