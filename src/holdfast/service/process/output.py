"""What services write: lines from a pipe per process, with the names and priority that a log needs (11.4).

A service that writes faster than a turn allows waits in its pipe; nobody else does.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from holdfast.service.settings import ExecSettings

BYTES_PER_TURN: Final = 1 << 16
MAX_LINE: Final = 48 * 1024
"""Longer ones are cut in pieces."""
MAX_PREFIX: Final = 6
DEFAULT_PRIORITY: Final = 6
_PREFIX: Final = re.compile(rb"<([0-9]{1,3})>")
_LEVELS: Final = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a service; `pid`: the process that the pipe was made for."""

    unit: str
    pid: int
    identifier: str
    priority: int
    text: str


Sink = Callable[[Line], None]


def level_number(text: str, default: int) -> int:
    """`warning` or `4`."""
    return _LEVELS.index(text) if text in _LEVELS else int(text) if text in tuple("01234567") else default


class OutputPipe:
    """The reading end; closes itself when all writers are gone."""

    def __init__(self, unit: str, exe: ExecSettings, path: str, sink: Sink, on_end: Callable[[OutputPipe], None]):
        self.unit = unit
        self.pid = 0
        self._identifier = exe.syslog_identifier or os.path.basename(path)
        self._prefixed = exe.syslog_level_prefix
        self._priority = level_number(exe.syslog_level, DEFAULT_PRIORITY)
        self._max = level_number(exe.log_level_max, 7)
        self._sink = sink
        self._on_end = on_end
        self._partial = b""
        self._loop = asyncio.get_running_loop()
        self._fd, self.writing_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._fd, False)
        self._loop.add_reader(self._fd, self.read)

    def close_writing_end(self) -> None:
        """The child has its copy."""
        os.close(self.writing_end)

    def read(self) -> bool:
        """What one turn may take; whether there may be more."""
        if self._fd < 0:
            return False
        try:
            data = os.read(self._fd, BYTES_PER_TURN)
        except (BlockingIOError, InterruptedError):
            return False
        if not data:
            self.close()
            self._on_end(self)
            return False
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._emit(line)
        while len(self._partial) >= MAX_LINE:
            self._emit(self._partial[:MAX_LINE])
            self._partial = self._partial[MAX_LINE:]
        return len(data) == BYTES_PER_TURN

    def _emit(self, line: bytes) -> None:
        priority = self._priority
        if self._prefixed and (match := _PREFIX.match(line[:MAX_PREFIX])):
            number = int(match[1])
            if number < 192:
                priority = number & 7
                line = line[match.end() :]
        if priority > self._max:
            return
        while line:
            piece, line = line[:MAX_LINE], line[MAX_LINE:]
            text = piece.decode("utf-8", "backslashreplace")
            self._sink(Line(self.unit, self.pid, self._identifier, priority, text))

    def close(self) -> None:
        """What was no whole line is one now."""
        if self._fd < 0:
            return
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        rest, self._partial = self._partial, b""
        if rest:
            self._emit(rest)
