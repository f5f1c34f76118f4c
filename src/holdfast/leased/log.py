"""The daemon's log: lines, the ring for LOG_DUMP, and where lines go (spec lease-wire section 16).

Everything in `holdfast` logs through the standard `logging`. Here each record becomes one line in the original's
format, goes to the ring whatever its level, and is handed to the threads of `log_sinks`, which write to stderr, a
file, journald or syslog. Nothing here waits for anything.

The two lines that explain what the reference numbers of all others mean (`sN`, `sN:rM`) are logged with the
constants below, so that journald entries can carry the names themselves.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict, deque
from typing import Final

from holdfast.lease.dump_text import printable
from holdfast.leased.log_sinks import (
    Entry,
    FileSink,
    Sink,
    SinkThread,
    StderrSink,
    SystemLogSink,
    stderr_is_journal,
)
from holdfast.leased.options import LOG_DEBUG, LOG_NONE, DaemonOptions
from holdfast.leased.wire import MAX_LOG_DUMP

MAX_LINE_BYTES: Final = 511
MAX_REFERENCES: Final = 16384
"""Reference numbers whose names are remembered for journald fields."""
NOTE_BYTES: Final = 96
"""What a note counts for in the ring before it is a line."""
SPACE_LINE: Final = "s%d lockspace %s:%d:%s:%d"
RESOURCE_LINE: Final = "s%d:r%d resource %s:%s:%s:%d"

_PRIORITY_BY_LEVEL: Final = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
}
_REFERENCE: Final = re.compile(r"s(\d+)(?::r(\d+))? ")
_PID: Final = re.compile(r"\b(?:pid|kill|dead) (\d+)\b")


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

    def __init__(self, formatter: LineFormatter, max_bytes: int = MAX_LOG_DUMP) -> None:
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


class References:
    """What the numbers in `sN` and `sN:rM` stand for, from the lines that explain them."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, str] = OrderedDict()

    def learn(self, record: logging.LogRecord) -> None:
        """Look at every record; two of them say something."""
        if record.msg is SPACE_LINE or record.msg is RESOURCE_LINE:
            arguments = record.args
            if not isinstance(arguments, tuple):
                return
            if record.msg is SPACE_LINE:
                self._remember(f"s{arguments[0]}", str(arguments[1]))
            else:
                self._remember(f"r{arguments[1]}", str(arguments[3]))

    def _remember(self, number: str, name: str) -> None:
        self._names[number] = name
        while len(self._names) > MAX_REFERENCES:
            self._names.popitem(last=False)

    def fields(self, text: str) -> dict[str, str]:
        """LOCKSPACE, RESOURCE and PID of a line, as far as it names them."""
        found = {}
        match = _REFERENCE.match(text)
        if match is not None:
            for name_of, letter, number in (("LOCKSPACE", "s", match[1]), ("RESOURCE", "r", match[2])):
                name = self._names.get(f"{letter}{number}")
                if name is not None:
                    found[name_of] = name
        match = _PID.search(text)
        if match is not None:
            found["PID"] = match[1]
        return found


class LogWriter(logging.Handler):
    """Hands lines to the sinks that want them."""

    def __init__(
        self, formatter: logging.Formatter, sinks: list[tuple[int, Sink]], references: References
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

    def finish(self) -> None:
        """Write what is queued, for at most a second per sink: a hung one must not hold the exit."""
        for _, thread in self._threads:
            thread.finish()


class DaemonLog:
    """Sets up logging for the process; `ring` answers LOG_DUMP.

    Made before privileges are dropped, because the log file is opened here.
    """

    def __init__(self, options: DaemonOptions) -> None:
        formatter = LineFormatter(options.logfile_use_utc)
        self.ring = LogRing(formatter)
        references = References()
        sinks: list[tuple[int, Sink]] = []
        system_log = SystemLogSink(references.fields)
        system_priority = options.syslog_priority
        if options.foreground:
            if stderr_is_journal():
                # journald would get each line twice, and once without fields.
                system_priority = max(options.log_level, options.syslog_priority)
            else:
                sinks.append((options.log_level, StderrSink()))
        sinks.append((system_priority, system_log))
        problem = None
        if options.logfile is not None and options.logfile_priority > LOG_NONE:
            try:
                sinks.append((options.logfile_priority, FileSink(options.logfile)))
            except OSError as error:
                problem = f"log file {options.logfile}: {error.strerror}"
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

    def close(self) -> None:
        """Write what is left; the process may log no more."""
        self._logger.removeHandler(self.ring)
        self._logger.removeHandler(self._writer)
        self._logger.propagate = True
        self._writer.finish()
