"""The daemon's log as lines: their parts, whose they are, what is new since the last look (lease-wire 13.8, 16).

A line reads `YYYY-MM-DD HH:MM:SS MONO [TID]: [sN[:rM] |rM ]TEXT`; `sN` is the daemon's number of a lockspace,
which STATUS tells for those that are there, and a line `sN lockspace NAME:...` for those that were.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (\d+) \[(-?\d+)\]: (?:(s\d+)(?::(r\d+))? |(r\d+) )?(.*)")
EXPLAINED = re.compile(r"(\d+) lockspace ([^:]+):")
OVERLAP_BYTES = 8192
"""How much of the end of the last look is searched for in the next one."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line. What does not read as a line of a log has its text only."""

    text: str
    time: str = ""
    monotime: int | None = None
    thread: int | None = None
    space_number: int | None = None
    raw: str = ""


def parse_line(raw: str) -> LogLine:
    """The parts of a line."""
    found = LINE.fullmatch(raw)
    if found is None:
        return LogLine(raw, raw=raw)
    time, mono, thread, space, _, _, text = found.groups()
    number = int(space[1:]) if space else None
    return LogLine(text, time, int(mono), int(thread), number, raw)


def space_numbers(lines: Iterable[LogLine], known: Mapping[int, str]) -> dict[int, str]:
    """Lockspace names by number: what the log explains, and what is `known` from STATUS."""
    names = {}
    for line in lines:
        if line.space_number is None or not line.text.startswith("lockspace "):
            continue
        found = EXPLAINED.match(f"{line.space_number} {line.text}")
        if found is not None:
            names[line.space_number] = found.group(2)
    return {**names, **known}


def new_part(before: str, now: str) -> tuple[str, bool]:
    """What came to the log between two dumps of its ring, and whether lines were lost in between."""
    if not before:
        return now, False
    if now.startswith(before):
        return now[len(before) :].lstrip("\n"), False
    tail = before[-OVERLAP_BYTES:]
    at = now.rfind(tail)
    if at < 0:
        return now, True
    return now[at + len(tail) :].lstrip("\n"), False
