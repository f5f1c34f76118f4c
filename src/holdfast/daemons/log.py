"""A daemon's log: lines in the original's format, the ring of the latest ones, and where lines go (lease-wire 16).

Everything in `holdfast` logs through the standard `logging`. Here each record becomes one line, goes to the ring
whatever its level, and is handed to the threads of `log_sinks`, which write to stderr, a file, journald or syslog.
Nothing here waits for anything.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from holdfast.daemons.log_sinks import (
    Entry,
    FileSink,
    Sink,
    SinkThread,
    StderrSink,
    SystemLogSink,
    stderr_is_journal,
)
from holdfast.printable import printable

LOG_NONE: Final = -1
LOG_ERR: Final = 3
LOG_WARNING: Final = 4
LOG_INFO: Final = 6
LOG_DEBUG: Final = 7
MAX_LINE_BYTES: Final = 511
MAX_RING_BYTES: Final = 1 << 20
NOTE_BYTES: Final = 96
"""What a note counts for in the ring before it is a line."""

_PRIORITY_BY_LEVEL: Final = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
}


def priority_of(level: int) -> int:
    """The syslog priority of a logging level."""
    return _PRIORITY_BY_LEVEL.get(level, 6)


class LineFormatter(logging.Formatter):
    """`YYYY-MM-DD HH:MM:SS MONO [TID]: TEXT`, cut at 511 bytes; what is not printable appears as `\\xNN`."""

    def __init__(self, use_utc: bool) -> None:
        super().__init__()
        self._broken_down = time.gmtime if use_utc else time.localtime
        self._second = -1
        self._stamp = ""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text += " | " + " | ".join(self.formatException(record.exc_info).splitlines()[-6:])
        return self.line(record.created, time.monotonic(), text)

    def line(self, wall: float, monotonic: float, text: str) -> str:
        """One line from its parts."""
        second = int(wall)
        stamp = self._stamp
        if second != self._second:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", self._broken_down(second))
            # Several threads may log; each uses what it made itself.
            self._stamp, self._second = stamp, second
        if not text.isprintable():
            # Names come from storage and from clients: none may begin a line of its own or command a terminal.
            text = printable(text)
        line = f"{stamp} {int(monotonic)} [{threading.get_native_id()}]: {text}"
        if len(line) * 4 > MAX_LINE_BYTES:
            line = line.encode("utf-8", "backslashreplace")[:MAX_LINE_BYTES].decode("utf-8", "ignore")
        return line


Note = tuple[float, float, str, tuple[object, ...]]
"""A line that is only made when somebody reads the ring: wall time, monotonic time, template, arguments."""


class LogRing(logging.Handler):
    """The last MiB of lines, whatever their level."""

    def __init__(self, formatter: LineFormatter, max_bytes: int = MAX_RING_BYTES) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._formatter = formatter
        self._lines: deque[bytes | Note] = deque()
        self._bytes = 0
        self._max_bytes = max_bytes
        self.notes_go_further = False
        """Whether somebody else wants debug lines too; then a note is an ordinary log record."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.__dict__["line"] = self.format(record)
        line = text.encode("utf-8", "backslashreplace") + b"\n"
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes > self._max_bytes:
            self._shrink()

    def note(self, template: str, *arguments: object) -> None:
        """A debug line of the hot path: costs next to nothing until LOG_DUMP."""
        if self.notes_go_further:
            logging.getLogger(__name__).debug(template, *arguments)
            return
        self._lines.append((time.time(), time.monotonic(), template, arguments))
        self._bytes += NOTE_BYTES
        if self._bytes > self._max_bytes:
            self._shrink()

    def _shrink(self) -> None:
        while self._bytes > self._max_bytes:
            oldest = self._lines.popleft()
            self._bytes -= len(oldest) if isinstance(oldest, bytes) else NOTE_BYTES

    def dump(self) -> bytes:
        """All lines, without the final newline; at most `max_bytes`, the newest."""
        text = b"".join(
            [one if isinstance(one, bytes) else self._made(one).encode() + b"\n" for one in self._lines]
        )
        if len(text) > self._max_bytes:
            text = text[text.index(b"\n", len(text) - self._max_bytes) + 1 :]
        return text[:-1]

    def _made(self, note: Note) -> str:
        wall, monotonic, template, arguments = note
        return self._formatter.line(wall, monotonic, template % arguments)


class LineFields(Protocol):
    """Names what a line is about, for journald's fields."""

    def learn(self, record: logging.LogRecord) -> None:
        """Look at every record: some explain what others mean."""
        ...

    def fields(self, text: str) -> Mapping[str, str]:
        """Of one line."""
        ...


class NoFields:
    """Lines without fields of their own."""

    def learn(self, record: logging.LogRecord) -> None:
        """Nothing to learn."""

    def fields(self, text: str) -> Mapping[str, str]:
        """None."""
        return {}


class LogWriter(logging.Handler):
    """Hands lines to the sinks that want them."""

    def __init__(
        self, formatter: logging.Formatter, sinks: list[tuple[int, Sink]], references: LineFields
    ) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._references = references
        self._threads = [(limit, SinkThread(sink)) for limit, sink in sinks if limit > LOG_NONE]
        self.max_priority = max((limit for limit, _ in self._threads), default=LOG_NONE)

    def emit(self, record: logging.LogRecord) -> None:
        priority = priority_of(record.levelno)
        self._references.learn(record)
        if priority > self.max_priority:
            return
        entry = Entry(priority, record.__dict__.get("line") or self.format(record))
        for limit, thread in self._threads:
            if priority <= limit:
                thread.put(entry)

    def set_level(self, level: int) -> None:
        """All sinks get lines up to this priority from now on."""
        self._threads = [(level, thread) for _, thread in self._threads]
        self.max_priority = level if self._threads else LOG_NONE

    def finish(self) -> None:
        """Write what is queued, for at most a second per sink: a hung one must not hold the exit."""
        for _, thread in self._threads:
            thread.finish()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """Where lines go. Levels are syslog priorities: lines up to this one; `LOG_NONE` for none."""

    identifier: str
    """In journald and syslog: what administrators search for."""
    foreground: bool
    """stderr gets lines too."""
    log_level: int = LOG_INFO
    """For stderr."""
    time_stamps: bool = True
    """On stderr."""
    logfile: str | None = None
    logfile_priority: int = LOG_WARNING
    logfile_use_utc: bool = False
    """Time stamps of all lines in UTC."""
    syslog_priority: int = LOG_NONE


class DaemonLog:
    """Sets up logging for the process; `ring` answers LOG_DUMP.

    Made before privileges are dropped, because the log file is opened here.
    """

    def __init__(self, settings: LogSettings, references: LineFields | None = None) -> None:
        formatter = LineFormatter(settings.logfile_use_utc)
        self.ring = LogRing(formatter)
        references = references or NoFields()
        sinks: list[tuple[int, Sink]] = []
        system_log = SystemLogSink(references.fields, identifier=settings.identifier)
        system_priority = settings.syslog_priority
        if settings.foreground:
            if stderr_is_journal():
                # journald would get each line twice, and once without fields.
                system_priority = max(settings.log_level, settings.syslog_priority)
            else:
                sinks.append((settings.log_level, StderrSink(settings.time_stamps)))
        sinks.append((system_priority, system_log))
        problem = None
        if settings.logfile is not None and settings.logfile_priority > LOG_NONE:
            try:
                sinks.append((settings.logfile_priority, FileSink(settings.logfile)))
            except OSError as error:
                problem = f"log file {settings.logfile}: {error.strerror}"
        self._writer = LogWriter(formatter, sinks, references)
        self.ring.notes_go_further = self._writer.max_priority >= LOG_DEBUG
        self._logger = logging.getLogger("holdfast")
        self._logger.setLevel(logging.DEBUG)
        self._logger.propagate = False
        self._logger.addHandler(self.ring)
        self._logger.addHandler(self._writer)
        logging.raiseExceptions = False
        if problem is not None:
            self._logger.error("%s", problem)

    def set_level(self, level: int) -> None:
        """Every place that lines go to gets those up to this priority; one that was switched off stays so."""
        self._writer.set_level(level)
        self.ring.notes_go_further = self._writer.max_priority >= LOG_DEBUG

    def close(self) -> None:
        """Write what is left; the process may log no more."""
        self._logger.removeHandler(self.ring)
        self._logger.removeHandler(self._writer)
        self._logger.propagate = True
        self._writer.finish()
