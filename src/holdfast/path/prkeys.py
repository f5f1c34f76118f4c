"""The prkeys file: persistent reservation keys that were set by command (spec path 8.3).

All methods of the file block and raise StateFileError (OSError).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

from holdfast.path.state_files import DIRECTORY, is_token, locked
from holdfast.path.wwid import MAX_WWID

PATH: Final = f"{DIRECTORY}/prkeys"
HEADER: Final = (
    "# Multipath persistent reservation keys, Version : 1.0\n"
    "# NOTE: this file is automatically maintained by the multipathd program.\n"
    "# You should not need to edit this file in normal circumstances.\n"
    "#\n"
    "# Format:\n"
    "# prkey wwid\n"
    "#\n"
)
KEY_BYTES: Final = 18
"""`0x` and 16 digits: all lines of a WWID are equally long, so that they are written over."""
_LINE: Final = re.compile(rb"([0#])([xX])([0-9a-fA-F]{1,16})[ \t]+([^ \t]+)[ \t]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class ReservationKey:
    """A key, and whether registrations shall survive a loss of power (APTPL)."""

    key: int
    aptpl: bool = False

    @property
    def text(self) -> str:
        """As the file has it: a capital X stands for APTPL."""
        return f"0{'X' if self.aptpl else 'x'}{self.key:016x}"


@dataclass(frozen=True, slots=True)
class _Entry:
    wwid: str
    key: ReservationKey | None
    at: int
    """Offset of the line."""
    width: int
    """Characters of the key as it is written."""


def _entries(data: bytes) -> list[_Entry]:
    found: list[_Entry] = []
    at = 0
    for line in data.split(b"\n"):
        match = _LINE.fullmatch(line)
        if match is not None:
            key = ReservationKey(int(match[3], 16), match[2] == b"X") if match[1] == b"0" else None
            wwid = match[4].decode("utf-8", "surrogateescape")
            found.append(_Entry(wwid, key, at, 2 + len(match[3])))
        at += len(line) + 1
    return found


def parse_prkeys(data: bytes) -> dict[str, ReservationKey]:
    """WWID to key; the first line of a WWID counts. Key 0 is none."""
    found: dict[str, ReservationKey] = {}
    for entry in _entries(data):
        if entry.key is not None and entry.key.key:
            found.setdefault(entry.wwid, entry.key)
    return found


class PrkeysFile:
    """Lines are written over in place, as the original does: it may have the file open."""

    def __init__(self, path: str = PATH) -> None:
        self.path = path

    def load(self) -> dict[str, ReservationKey]:
        """All keys. The file is made by `set` only, as the original does: most hosts have no keys."""
        if not os.path.exists(self.path):
            return {}
        with locked(self.path, HEADER.encode()) as file:
            return parse_prkeys(file.read())

    def set(self, wwid: str, key: ReservationKey) -> None:
        """Set a WWID's key; its line is used again, also a struck-out one. ValueError for what has no place."""
        if not is_token(wwid) or len(wwid) > MAX_WWID or not 0 < key.key < 1 << 64:
            raise ValueError(f"key {key.key:#x} of {wwid!r} cannot be written to the prkeys file")
        with locked(self.path, HEADER.encode()) as file:
            own = [entry for entry in _entries(file.read()) if entry.wwid == wwid]
            # The one that is in force first: two valid lines of one WWID must not come into being.
            own.sort(key=lambda entry: entry.key is None)
            for entry in own:
                if entry.width == KEY_BYTES:
                    file.write(key.text.encode(), entry.at)
                    return
            for entry in own:
                file.write(b"#", entry.at)
            file.append(f"{key.text} {wwid}\n".encode("utf-8", "surrogateescape"))

    def unset(self, wwid: str) -> bool:
        """Strike a WWID's key out; False if it has none."""
        with locked(self.path, HEADER.encode()) as file:
            found = False
            for entry in _entries(file.read()):
                if entry.wwid == wwid and entry.key is not None:
                    file.write(b"#", entry.at)
                    found = True
            return found
