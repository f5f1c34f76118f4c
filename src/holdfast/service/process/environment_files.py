"""Reading EnvironmentFile= where nothing else waits for it (spec supervisor 3.3).

A file may lie where nobody answers any more (NFS, FUSE, a frozen file system). It is read in a thread; who asked
is answered at a deadline at the latest. A call that hangs keeps its thread, but never more than one of each unit.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import glob
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from holdfast.service.environment import MAX_FILE_BYTES, parse_file
from holdfast.storage.threads import Job, Lane, ThreadPool

MAX_FILES: Final = 256
"""Of one pattern."""
MAX_THREADS: Final = 64
"""When the files of so many units hang, those of others wait, and fail at their deadline."""
MAX_WAIT_S: Final = 90.0
"""Of units that have no time-out."""


@dataclass(slots=True)
class Found:
    """What was read, and what the log has to be told: text, level. `error`: why there is nothing."""

    variables: dict[str, str] = field(default_factory=dict)
    remarks: list[tuple[str, int]] = field(default_factory=list)
    error: str = ""


Answered = Callable[[Found], None]


@dataclass(slots=True, eq=False)
class _Wanted:
    patterns: Sequence[str]
    answered: Answered
    timer: asyncio.TimerHandle | None = None


class EnvironmentFiles:
    """One request of a unit at a time. To be closed."""

    def __init__(self, read: Callable[[Sequence[str]], Found]) -> None:
        """In a running loop. `read`: called in a thread."""
        self._read = read
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPool(self._loop, MAX_THREADS)
        self._wanted: dict[str, _Wanted] = {}
        self._calls: set[str] = set()
        """Units with a call that has not come back."""

    def read(self, unit: str, patterns: Sequence[str], limit_s: float, answered: Answered) -> None:
        """`answered` is called later, never from here."""
        wanted = self._wanted[unit] = _Wanted(patterns, answered)
        wanted.timer = self._loop.call_later(min(limit_s, MAX_WAIT_S), self._end, unit, errno.ETIMEDOUT)
        self._begin(unit)

    def give_up(self, unit: str) -> None:
        """Whoever asked does not want to know any more: it is answered soon."""
        if unit in self._wanted:
            self._loop.call_soon(self._end, unit, errno.ECANCELED)

    def close(self) -> None:
        """All are answered."""
        for unit in list(self._wanted):
            self._end(unit, errno.ECANCELED)
        self._pool.close()

    def _begin(self, unit: str) -> None:
        wanted = self._wanted.get(unit)
        if wanted is None or unit in self._calls:
            return
        self._calls.add(unit)
        call = functools.partial(_guarded, self._read, wanted.patterns)
        # A lane of its own: nothing has to come after it.
        Lane(self._pool).run(Job(call, functools.partial(self._done, unit, wanted)))

    def _done(self, unit: str, wanted: _Wanted, found: Found) -> None:
        self._calls.discard(unit)
        if self._wanted.get(unit) is wanted:
            self._answer(unit, found)
        else:
            # It hung, and was given up. What was asked for since then can be looked at now.
            self._begin(unit)

    def _end(self, unit: str, number: int) -> None:
        if unit in self._wanted:
            reason = os.strerror(number)
            self._answer(unit, Found({}, [(f"Failed to load environment files: {reason}", 4)], reason))

    def _answer(self, unit: str, found: Found) -> None:
        wanted = self._wanted.pop(unit)
        if wanted.timer is not None:
            wanted.timer.cancel()
        wanted.answered(found)


def _guarded(read: Callable[[Sequence[str]], Found], patterns: Sequence[str]) -> Found:
    try:
        return read(patterns)
    except Exception as error:  # a mistake of ours must not end the thread
        return Found(error=str(error) or repr(error))


def read_files(patterns: Sequence[str]) -> Found:
    """The variables of all files, later ones first in rank. `error` when one is missing that may not be."""
    found = Found()
    for written in patterns:
        try:
            _read_pattern(written.removeprefix("-"), found)
        except (OSError, ValueError) as error:
            if written.startswith("-"):
                continue
            found.error = (error.strerror if isinstance(error, OSError) else None) or str(error)
            found.remarks.append((f"Failed to load environment files: {found.error}", 4))
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
