"""The log of units as files: a JSON object per line, two files of a bounded size for each unit (spec 11.4).

`DIRECTORY/UNIT.log` is written, `UNIT.log.1` is what was written before. Readers need no manager, and
survive a line that a crash has cut.
"""

from __future__ import annotations

import os
import zlib
from typing import Any, Final

import msgspec

DIRECTORY: Final = "logs"
"""In the run directory, unless told otherwise."""
MAX_FILE_BYTES: Final = 256 * 1024
MAX_NAME: Final = 200
SUFFIX: Final = ".log"
OLD: Final = ".1"
Entry = dict[str, Any]
"""`at` (microseconds of wall time), `unit`, `level` (as syslog), `text`."""


def file_name(unit: str) -> str:
    """Of a unit's log; a long name is cut and marked."""
    if len(unit) <= MAX_NAME:
        return unit + SUFFIX
    return f"{unit[:MAX_NAME]}-{zlib.crc32(unit.encode()):08x}{SUFFIX}"


def encode(at: int, unit: str, level: int, text: str) -> bytes:
    """One line."""
    entry = {"at": at, "unit": unit, "level": level, "text": text}
    try:
        return msgspec.json.encode(entry) + b"\n"
    except UnicodeEncodeError:
        # Bytes of a file name that are no text.
        entry["text"] = text.encode("utf-8", "backslashreplace").decode()
        return msgspec.json.encode(entry) + b"\n"


def decode(line: bytes) -> Entry | None:
    """None: it is none of ours, or cut."""
    try:
        entry: Entry = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError:
        return None
    kinds = (("at", int), ("unit", str), ("level", int), ("text", str))
    return entry if all(isinstance(entry.get(key), kind) for key, kind in kinds) else None


def read(directory: str, units: list[str], count: int, since: int = 0) -> list[Entry]:
    """The latest `count` entries of these units together (none named: of all), not older than `since`, oldest
    first. Reads files; not for the loop.
    """
    found: list[Entry] = []
    for path in _paths(directory, units):
        found += _latest(path, count, since)
        if len(found) > 4 * count + 1024:
            found = sorted(found, key=_at)[len(found) - count :]
    found.sort(key=_at)
    return found[max(0, len(found) - count) :]


def _at(entry: Entry) -> int:
    return int(entry["at"])


def _paths(directory: str, units: list[str]) -> list[str]:
    names = list(dict.fromkeys(map(file_name, units)))
    if not units:
        try:
            names = sorted(name for name in os.listdir(directory) if name.endswith(SUFFIX))
        except OSError:
            return []
    return [os.path.join(directory, name) for name in names]


def _latest(path: str, count: int, since: int) -> list[Entry]:
    """Newest last."""
    found: list[Entry] = []
    for name in (path, path + OLD):
        if len(found) >= count:
            break
        try:
            with open(name, "rb") as file:
                lines = file.read(4 * MAX_FILE_BYTES).split(b"\n")
        except OSError:
            continue
        for line in reversed(lines):
            entry = decode(line) if line else None
            if entry is None:
                continue
            if entry["at"] < since or len(found) >= count:
                return found[::-1]
            found.append(entry)
    return found[::-1]
