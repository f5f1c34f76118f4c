"""The crash marker: `/dev/shm/wdmd`, there while a watchdog daemon may have clients (spec watchdog 3.2).

It keeps a real wdmd and this daemon from running at once, and the original from pinging after a crash: it refuses
to start while the marker is there. Ours says whose it is, so that a successor may go on by proof (see `state`).
"""

from __future__ import annotations

import os
from typing import Final

PATH: Final = "/dev/shm/wdmd"
OURS: Final = b"holdfast "
MODE: Final = 0o644


class MarkerInUse(Exception):
    """Another program's marker: it runs, or it crashed and the device is running out; the text says what to do."""


class Marker:
    """The marker file."""

    def __init__(self, path: str = PATH) -> None:
        self._path = path

    def take(self) -> bool:
        """Create it; True when one of ours was there, of a daemon that died. MarkerInUse when it is not ours."""
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
        except FileExistsError:
            if not self._is_ours():
                raise MarkerInUse(
                    f"{self._path} exists and is not ours: a wdmd runs, or it died and the watchdog resets this "
                    "host within its fire timeout. Starting now could keep a host alive that others believe dead. "
                    "Stop wdmd properly, or wait for the reset; remove the file by hand only if no client of it "
                    "is left"
                ) from None
            return True
        with os.fdopen(fd, "wb") as file:
            file.write(OURS + b"%d\n" % os.getpid())
        return False

    def _is_ours(self) -> bool:
        try:
            with open(self._path, "rb") as file:
                return file.read(64).startswith(OURS)
        except OSError:
            return False

    def remove(self) -> None:
        """A proper end: nobody relies on the device any more."""
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
