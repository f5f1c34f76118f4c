"""What services write: lines from a pipe per process, with the names and priority that a log needs (11.4).

A service that writes faster than a turn allows waits in its pipe; nobody else does. Beyond the unit's limit lines
are read and counted, so that it need not wait for ever.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from holdfast.service.process.log_limit import LogLimit
from holdfast.service.settings import ExecSettings

BYTES_PER_TURN: Final = 1 << 16
LINES_PER_TURN: Final = 256
PAUSE_S: Final = 0.005
"""Before the next turn of a service that has more to say than one turn takes: 13 MB/s at most."""
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

    def __init__(
        self,
        unit: str,
        exe: ExecSettings,
        path: str,
        sink: Sink,
        on_end: Callable[[OutputPipe], None],
        limit: LogLimit,
    ) -> None:
        self.unit = unit
        self.pid = 0
        self._identifier = exe.syslog_identifier or os.path.basename(path)
        self._prefixed = exe.syslog_level_prefix
        self._priority = level_number(exe.syslog_level, DEFAULT_PRIORITY)
        self._max = level_number(exe.log_level_max, 7)
        self._sink = sink
        self._on_end = on_end
        self._limit = limit
        self._buffer = b""
        """Lines that wait for their turn, and then one that is not whole yet."""
        self._cut = False
        """The head of the line whose rest is in the buffer was a piece of its own."""
        self._pause: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._fd, self.writing_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._fd, False)

    def begin(self, pid: int) -> None:
        """The child has its copy of the writing end. Nothing is read before: lines must have its pid."""
        self.pid = pid
        os.close(self.writing_end)
        self._loop.add_reader(self._fd, self._turn)

    def abandon(self) -> None:
        """There is no child."""
        os.close(self.writing_end)
        self.close()

    def _turn(self) -> None:
        self._pause = None
        if self.read() and self._fd >= 0:
            # It writes faster than others should have to wait: it gets a turn every few milliseconds.
            self._loop.remove_reader(self._fd)
            self._pause = self._loop.call_later(PAUSE_S, self._resume)

    def _resume(self) -> None:
        self._loop.add_reader(self._fd, self._turn)
        self._turn()

    def read(self) -> bool:
        """What one turn may take, in bytes and in lines; whether there may be more."""
        if self._fd < 0:
            return False
        if b"\n" in self._buffer:
            self._lines()
            return True
        try:
            data = os.read(self._fd, BYTES_PER_TURN)
        except (BlockingIOError, InterruptedError):
            return False
        if not data:
            self.close()
            self._on_end(self)
            return False
        self._buffer += data
        self._lines()
        return len(data) == BYTES_PER_TURN or b"\n" in self._buffer

    def _lines(self) -> None:
        """As many as one turn may have; of a unit beyond its limit all at once, for they are only counted."""
        left = self._limit.left()
        if left == 0:
            whole, end, rest = self._buffer.rpartition(b"\n")
            if end:
                self._limit.drop(whole.count(b"\n") + 1)
                self._buffer, self._cut = rest, False
        else:
            most = LINES_PER_TURN if left < 0 else min(left, LINES_PER_TURN)
            *lines, self._buffer = self._buffer.split(b"\n", most)
            self._limit.take(len(lines))
            for line in lines:
                if line or not self._cut:
                    self._emit(line)
                self._cut = False
        while len(self._buffer) >= MAX_LINE and b"\n" not in self._buffer:
            if left == 0:
                self._limit.drop(0 if self._cut else 1)
            else:
                self._limit.take(1)
                self._emit(self._buffer[:MAX_LINE])
            self._buffer, self._cut = self._buffer[MAX_LINE:], True

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
        """What is left is the end: lines as far as the limit goes, then one that is not whole."""
        if self._fd < 0:
            return
        self._loop.remove_reader(self._fd)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        os.close(self._fd)
        self._fd = -1
        while b"\n" in self._buffer:
            self._lines()
        rest, self._buffer = self._buffer, b""
        if rest and self._limit.left():
            self._limit.take(1)
            self._emit(rest)
