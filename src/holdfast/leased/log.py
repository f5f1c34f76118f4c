"""The daemon's log: a ring for LOG_DUMP, and writers that can never delay the event loop (spec lease-wire 16).

Everything in `holdfast` logs through the standard `logging`. Here each record becomes one line, goes to the
ring, and is handed to a thread that writes to stderr, a file or syslog: a full pipe or a hung file system
holds that thread, never the daemon. What does not fit the queue is dropped and counted.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from holdfast.lease.dump_text import printable
from holdfast.leased.options import DaemonOptions
from holdfast.leased.wire import MAX_LOG_DUMP

MAX_LINE_BYTES: Final = 511
MAX_QUEUED_LINES: Final = 4096
SYSLOG_SOCKET: Final = "/dev/log"
SYSLOG_FACILITY_DAEMON: Final = 3 << 3

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

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", self._broken_down(record.created))
        text = record.getMessage()
        if record.exc_info:
            text += " | " + " | ".join(self.formatException(record.exc_info).splitlines()[-6:])
        # Names and paths come from clients and storage: one record is one line, and no terminal obeys it.
        if not text.isprintable():
            text = printable(text)
        line = f"{stamp} {int(time.monotonic())} [{threading.get_native_id()}]: {text}"
        return line.encode("utf-8", "replace")[:MAX_LINE_BYTES].decode("utf-8", "ignore")


class LogRing(logging.Handler):
    """The last MiB of lines, whatever their level."""

    def __init__(self, formatter: logging.Formatter, max_bytes: int = MAX_LOG_DUMP) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._max_bytes = max_bytes

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record).encode("utf-8", "replace") + b"\n"
        self._lines.append(line)
        self._bytes += len(line)
        while self._bytes > self._max_bytes:
            self._bytes -= len(self._lines.popleft())

    def dump(self) -> bytes:
        """All lines, without the final newline."""
        return b"".join(self._lines)[:-1]


Sink = tuple[int, Callable[[int, str], None]]
"""Up to which syslog priority, and what writes (priority, line)."""


class LogWriter(logging.Handler):
    """Hands lines to a thread of its own; drops and counts when that thread does not keep up."""

    def __init__(self, formatter: logging.Formatter, sinks: list[Sink]) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._sinks = sinks
        self._queue: deque[tuple[int, str]] = deque()
        self._wake = threading.Semaphore(0)
        self._dropped = 0
        self._max_priority = max((limit for limit, _ in sinks), default=-1)
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        priority = priority_of(record.levelno)
        if priority > self._max_priority:
            return
        if len(self._queue) >= MAX_QUEUED_LINES:
            self._dropped += 1
            return
        if self._dropped:
            self._queue.append((4, f"dropped {self._dropped} entries"))
            self._dropped = 0
            self._wake.release()
        self._queue.append((priority, self.format(record)))
        self._wake.release()

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            priority, line = self._queue.popleft()
            if priority < 0:
                return
            for limit, write in self._sinks:
                if priority <= limit:
                    try:
                        write(priority, line)
                    except OSError:
                        pass  # Nobody is left to tell; the ring has the line.

    def finish(self, timeout_s: float = 1.0) -> None:
        """Write what is queued, for at most `timeout_s`: a hung sink must not hold the exit."""
        self._queue.append((-1, ""))
        self._wake.release()
        self._thread.join(timeout_s)


def _to_stderr(priority: int, line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _to_file(path: str) -> Callable[[int, str], None]:
    def write(priority: int, line: str) -> None:
        # Opened for each line: rotation needs no signal, and a file system that is away now may come back.
        with open(path, "a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(line + "\n")

    return write


def _to_syslog() -> Callable[[int, str], None]:
    def write(priority: int, line: str) -> None:
        text = line.split("]: ", 1)[-1]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(1.0)
            sock.connect(SYSLOG_SOCKET)
            sock.send(f"<{SYSLOG_FACILITY_DAEMON | priority}>sanlock: {text}".encode("utf-8", "replace"))

    return write


class DaemonLog:
    """Sets up logging for the process; `ring` answers LOG_DUMP."""

    def __init__(self, options: DaemonOptions) -> None:
        formatter = LineFormatter(options.logfile_use_utc)
        self.ring = LogRing(formatter)
        sinks: list[Sink] = []
        if options.foreground:
            sinks.append((options.log_level, _to_stderr))
        else:
            sinks.append((options.syslog_priority, _to_syslog()))
        if options.logfile is not None:
            sinks.append((options.logfile_priority, _to_file(options.logfile)))
        self._writer = LogWriter(formatter, sinks)
        self._logger = logging.getLogger("holdfast")
        self._logger.setLevel(logging.DEBUG if options.debug_commands or options.debug_renew else logging.INFO)
        self._logger.propagate = False
        self._logger.addHandler(self.ring)
        self._logger.addHandler(self._writer)
        logging.raiseExceptions = False

    def close(self) -> None:
        """Write what is left; the process may log no more."""
        self._logger.removeHandler(self.ring)
        self._logger.removeHandler(self._writer)
        self._logger.propagate = True
        self._writer.finish()
