"""The wwids file: which WWIDs ever had a map; and failed_wwids: for which making one failed (spec path 8.2, 8.4).

All methods block and raise StateFileError (OSError).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Final

from holdfast.path.state_files import DIRECTORY, DIRECTORY_MODE, is_token, locked
from holdfast.path.wwid import MAX_WWID

PATH: Final = f"{DIRECTORY}/wwids"
FAILED_DIRECTORY: Final = "/run/multipath/failed_wwids"
HEADER: Final = (
    "# Multipath wwids, Version : 1.0\n"
    "# NOTE: This file is automatically maintained by multipath and multipathd.\n"
    "# You should not need to edit this file in normal circumstances.\n"
    "#\n"
    "# Valid WWIDs:\n"
)


def parse_wwids(data: bytes) -> dict[str, int]:
    """WWID to the byte offset of its line. A line counts only if it starts with a slash."""
    found: dict[str, int] = {}
    at = 0
    for line in data.split(b"\n"):
        if line.startswith(b"/"):
            wwid = line[1:].split(b"/", 1)[0].decode("utf-8", "surrogateescape")
            if wwid and len(wwid) <= MAX_WWID:
                found.setdefault(wwid, at)
        at += len(line) + 1
    return found


def _checked(wwid: str) -> bytes:
    if not is_token(wwid) or "/" in wwid or len(wwid) > MAX_WWID:
        raise ValueError(f"WWID {wwid!r} cannot be written to the wwids file")
    return wwid.encode("utf-8", "surrogateescape")


class WwidsFile:
    """Lines are added at the end and struck out in place, as the original does: it may have the file open."""

    def __init__(self, path: str = PATH) -> None:
        self.path = path

    def load(self) -> frozenset[str]:
        """All WWIDs."""
        with locked(self.path, HEADER.encode()) as file:
            return frozenset(parse_wwids(file.read()))

    def add(self, wwid: str) -> bool:
        """Remember a WWID; False if it was there. ValueError for one that has no place in a line."""
        return bool(self.add_all([wwid]))

    def add_all(self, wwids: Iterable[str]) -> list[str]:
        """Remember all of them with one write; those that were not there. ValueError as `add`."""
        lines = {wwid: b"/" + _checked(wwid) + b"/\n" for wwid in wwids}
        with locked(self.path, HEADER.encode()) as file:
            there = parse_wwids(file.read())
            new = [wwid for wwid in lines if wwid not in there]
            if new:
                file.append(b"".join(lines[wwid] for wwid in new))
            return new

    def remove(self, wwid: str) -> bool:
        """Forget it: the first slash of its line becomes `#`, in all its lines. False if it was not there."""
        line = b"/" + _checked(wwid) + b"/"
        with locked(self.path, HEADER.encode()) as file:
            at, found = 0, False
            for one in file.read().split(b"\n"):
                if one.startswith(line):
                    file.write(b"#", at)
                    found = True
                at += len(one) + 1
            return found


class FailedWwids:
    """Empty files named as WWIDs in a directory that does not survive a reboot."""

    def __init__(self, directory: str = FAILED_DIRECTORY) -> None:
        self.directory = directory

    def _path(self, wwid: str) -> str:
        """A WWID comes from a device: it must not lead out of the directory."""
        if "/" in wwid or "\0" in wwid or wwid in ("", ".", "..") or len(wwid) > MAX_WWID:
            raise ValueError(f"WWID {wwid!r} is no file name")
        return os.path.join(self.directory, wwid)

    def __contains__(self, wwid: str) -> bool:
        try:
            return os.path.lexists(self._path(wwid))
        except ValueError:
            return False

    def add(self, wwid: str) -> bool:
        """Mark it; False if it was. ValueError for one that is no file name."""
        path = self._path(wwid)
        os.makedirs(self.directory, DIRECTORY_MODE, exist_ok=True)
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return False
        return True

    def remove(self, wwid: str) -> bool:
        """Take the mark away; False if there was none."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(wwid))
            return True
        return False
