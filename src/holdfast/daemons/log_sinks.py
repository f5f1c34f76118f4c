"""Where log lines end up: stderr, a file, journald, syslog. Each has a thread and a queue of its own.

A full pipe, a hung file system or a stopped journald holds that one thread, never the event loop and never
another sink. A queue that is full drops, counts, and says `dropped N entries` when there is room again.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Final, NamedTuple, Protocol

MAX_QUEUED_ENTRIES: Final = 4096
FINISH_TIMEOUT_S: Final = 1.0
SEND_TIMEOUT_S: Final = 1.0
"""For one datagram to journald or syslog; then that entry is lost."""
JOURNAL_SOCKET: Final = "/run/systemd/journal/socket"
SYSLOG_SOCKET: Final = "/dev/log"
SYSLOG_FACILITY_DAEMON: Final = 3
LOG_FILE_MODE: Final = 0o644
_WARNING: Final = 4


class Entry(NamedTuple):
    """One line with its syslog priority."""

    priority: int
    line: str

    @property
    def text(self) -> str:
        """Without time stamp and thread, which journald and syslog add themselves."""
        return self.line.partition("]: ")[2] or self.line


class Sink(Protocol):
    """Writes entries, in its own thread; may block. OSError: this entry is lost."""

    def write(self, entry: Entry) -> None: ...

    def close(self) -> None: ...


class SinkThread:
    """A bounded queue before one sink."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._queue: SimpleQueue[Entry | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Never waits."""
        if self._queue.qsize() >= MAX_QUEUED_ENTRIES:
            with self._lock:
                self._dropped += 1
            return
        if self._dropped:
            self._mention_dropped()
        self._queue.put(entry)

    def _mention_dropped(self) -> None:
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            self._queue.put(Entry(_WARNING, f"dropped {dropped} entries"))

    def _run(self) -> None:
        while True:
            entry = self._queue.get()
            if entry is None:
                break
            try:
                self._sink.write(entry)
            except OSError:
                pass  # Nobody is left to tell; the ring has the line.
            if self._dropped and self._queue.empty():
                self._mention_dropped()
        self._sink.close()

    def finish(self, timeout_s: float = FINISH_TIMEOUT_S) -> None:
        """Write what is queued, but wait no longer than `timeout_s`."""
        self._mention_dropped()
        self._queue.put(None)
        self._thread.join(timeout_s)


class StderrSink:
    """Lines as they are, for people and for `tee`; without `time_stamps` for what adds its own."""

    def __init__(self, time_stamps: bool = True) -> None:
        self._time_stamps = time_stamps

    def write(self, entry: Entry) -> None:
        sys.stderr.write((entry.line if self._time_stamps else entry.text) + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        pass


class FileSink:
    """Appends to a file, which is opened at once: later the daemon may have no right to.

    After a rotation (another file, or none, at the path) the file is opened again; if that is refused, lines go on
    to the old one. SIGHUP cannot mean this here: the original takes it for a request to leave.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = self._open()

    def _open(self) -> int:
        return os.open(
            self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY, LOG_FILE_MODE
        )

    def write(self, entry: Entry) -> None:
        if self._was_rotated():
            try:
                fd = self._open()
            except OSError:
                pass
            else:
                os.close(self._fd)
                self._fd = fd
        os.write(self._fd, entry.line.encode("utf-8", "backslashreplace") + b"\n")

    def _was_rotated(self) -> bool:
        try:
            there = os.stat(self._path)
        except OSError:
            return True
        ours = os.fstat(self._fd)
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

    def close(self) -> None:
        os.close(self._fd)


class SystemLogSink:
    """journald's own socket where there is one, with fields of its own per entry; else /dev/log."""

    def __init__(
        self,
        fields: Callable[[str], Mapping[str, str]],
        journal_path: str = JOURNAL_SOCKET,
        syslog_path: str = SYSLOG_SOCKET,
        *,
        identifier: str,
    ) -> None:
        self._identifier = identifier
        self._fields = fields
        self._paths = (journal_path, syslog_path)
        self._socket: socket.socket | None = None
        self._is_journal = False

    def write(self, entry: Entry) -> None:
        for attempt in (0, 1):
            try:
                self._connected().send(self._message(entry))
                return
            except OSError:
                self.close()  # It may have been restarted: the second attempt is to a new one.
                if attempt:
                    raise

    def _connected(self) -> socket.socket:
        if self._socket is None:
            journal, syslog = self._paths
            self._is_journal = os.path.exists(journal)
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.settimeout(SEND_TIMEOUT_S)
            self._socket.connect(journal if self._is_journal else syslog)
        return self._socket

    def _message(self, entry: Entry) -> bytes:
        text = entry.text
        if self._is_journal:
            return journal_message(
                {
                    "MESSAGE": text,
                    "PRIORITY": str(entry.priority),
                    "SYSLOG_IDENTIFIER": self._identifier,
                    "SYSLOG_FACILITY": str(SYSLOG_FACILITY_DAEMON),
                    **self._fields(text),
                }
            )
        head = f"<{SYSLOG_FACILITY_DAEMON << 3 | entry.priority}>{self._identifier}[{os.getpid()}]: "
        return (head + text).encode("utf-8", "backslashreplace")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def journal_message(fields: Mapping[str, str]) -> bytes:
    """One entry in the native journal protocol: `KEY=value` lines, or length and bytes for what has a newline."""
    parts = []
    for key, value in fields.items():
        raw = value.encode("utf-8", "backslashreplace")
        if b"\n" in raw:
            parts.append(key.encode() + b"\n" + struct.pack("<Q", len(raw)) + raw + b"\n")
        else:
            parts.append(key.encode() + b"=" + raw + b"\n")
    return b"".join(parts)


def stderr_is_journal() -> bool:
    """Whether stderr leads to journald (JOURNAL_STREAM names its device and inode) and journald can be reached."""
    named = os.environ.get("JOURNAL_STREAM", "")
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return named == f"{found.st_dev}:{found.st_ino}" and os.path.exists(JOURNAL_SOCKET)
