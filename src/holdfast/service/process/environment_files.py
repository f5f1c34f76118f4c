"""The files of EnvironmentFile= (spec supervisor 3.3). They are read in a thread, for they may hang."""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from holdfast.service.environment import MAX_FILE_BYTES, parse_file

MAX_FILES: Final = 256
"""Of one pattern."""
MAX_WAIT_S: Final = 90.0
"""Of units that have no time-out."""


@dataclass(slots=True)
class Found:
    """What was read, and what the log has to be told: text, level. `error`: why there is nothing."""

    variables: dict[str, str] = field(default_factory=dict)
    remarks: list[tuple[str, int]] = field(default_factory=list)
    error: str = ""

    def fail(self, reason: str) -> None:
        """There is nothing."""
        self.error = reason
        self.remarks.append((f"Failed to load environment files: {reason}", 4))


def not_read(number: int) -> Found:
    """An errno."""
    found = Found()
    found.fail(os.strerror(number))
    return found


def read_files(patterns: Sequence[str]) -> Found:
    """The variables of all files, later ones first in rank. `error` when one is missing that may not be."""
    found = Found()
    for written in patterns:
        try:
            _read_pattern(written.removeprefix("-"), found)
        except (OSError, ValueError) as error:
            if not written.startswith("-"):
                found.fail((error.strerror if isinstance(error, OSError) else None) or str(error))
                break
    return found


def _read_pattern(pattern: str, found: Found) -> None:
    paths = sorted(glob.glob(pattern)) if any(char in pattern for char in "*?[") else [pattern]
    if not paths:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for path in paths[:MAX_FILES]:
        values, skipped = parse_file(_read(path))
        for entry in skipped:
            found.remarks.append((f"Ignoring invalid environment assignment '{entry}': {path}", 4))
        found.variables |= values


def _read(path: str) -> bytes:
    # A FIFO without a writer would keep the thread for ever.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with os.fdopen(fd, "rb") as file:
        return file.read(MAX_FILE_BYTES + 1) or b""
