"""When persistent timers last triggered: the time of a file per timer (spec supervisor 4.3)."""

from __future__ import annotations

import os
from typing import Final

DIRECTORY: Final = "/var/lib/systemd/timers"
"""systemd's own: a timer that it ran last is not run again by us."""


def read(directory: str, timer: str) -> int:
    """Microseconds of the wall clock; 0: never, or not known."""
    try:
        return os.stat(_path(directory, timer)).st_mtime_ns // 1000
    except OSError:
        return 0


def write(directory: str, timer: str) -> None:
    """Now. OSError."""
    os.makedirs(directory, exist_ok=True)
    path = _path(directory, timer)
    with open(path, "ab"):
        pass
    os.utime(path)


def _path(directory: str, timer: str) -> str:
    return os.path.join(directory, f"stamp-{timer}")
