"""Recording without ever waiting: a thread writes, a bounded queue is between (see `flight` for the file).

A disk that hangs costs records, counted, never a turn of the loop. What must not be lost also goes to the
kernel's log, which often survives where the disk does not (pstore, serial console).
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Mapping
from typing import Any, Final

from holdfast.observe.flight import FlightError, FlightFile, now

log = logging.getLogger(__name__)

DIRECTORY: Final = "/var/lib/holdfast"
"""Where the host's daemons record; must be on a disk that survives a reset."""
DIRECTORY_MODE: Final = 0o755
MAX_QUEUED: Final = 256
CLOSE_LIMIT_S: Final = 2.0
KMSG: Final = "/dev/kmsg"
MAX_KMSG_BYTES: Final = 400


class KernelLog:
    """Lines to the kernel's log, by a thread of its own: a slow serial console holds whoever writes there."""

    def __init__(self, path: str = KMSG) -> None:
        self._path = path
        self._queue: queue.Queue[str | None] = queue.Queue(MAX_QUEUED)
        self._thread: threading.Thread | None = None

    def say(self, text: str) -> None:
        """Returns at once; what is too much is dropped."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="kernel-log", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(text)
        except queue.Full:
            pass

    def _write_all(self) -> None:
        while (text := self._queue.get()) is not None:
            try:
                with open(self._path, "wb", buffering=0) as file:
                    file.write(f"<3>holdfast {text}".encode("utf-8", "backslashreplace")[:MAX_KMSG_BYTES])
            except OSError:
                pass  # Not our right, or no such device: the file remains.

    def close(self) -> None:
        """Write what is queued, for a bounded time."""
        if self._thread is not None:
            try:
                self._queue.put_nowait(None)
            except queue.Full:
                return
            self._thread.join(CLOSE_LIMIT_S)


class Recorder:
    """One daemon's recorder. `NoRecorder` is the same without a file."""

    def __init__(self, path: str, daemon: str, kmsg: str = KMSG) -> None:
        """`daemon`: who writes, in each record. FlightError when the file cannot be used."""
        self._file = FlightFile(path)
        self._daemon = daemon
        self._kernel = KernelLog(kmsg)
        self._queue: queue.Queue[tuple[str, Mapping[str, Any], float, float, bool] | None] = queue.Queue(
            MAX_QUEUED
        )
        self._lost = 0
        self._thread = threading.Thread(target=self._write_all, name="flight-recorder", daemon=True)
        self._thread.start()

    def note(self, kind: str, /, *, sync: bool = True, loud: bool = False, **fields: Any) -> None:
        """Record that something happened; returns at once. `loud`: to the kernel's log as well."""
        at, wall = now()
        fields = {"by": self._daemon, **fields}
        if self._lost:
            fields["lost_before"] = self._lost
        try:
            self._queue.put_nowait((kind, fields, at, wall, sync))
            self._lost = 0
        except queue.Full:
            self._lost += 1
        if loud:
            self._kernel.say(f"{kind} " + " ".join(f"{key}={value}" for key, value in fields.items()))

    def _write_all(self) -> None:
        failing = False
        while (item := self._queue.get()) is not None:
            kind, fields, at, wall, sync = item
            try:
                self._file.write(kind, fields, at, wall, sync)
                failing = False
            except (OSError, ValueError) as error:
                if not failing:
                    log.error("flight recorder %s: %s", self._file.path, error)
                failing = True

    def close(self) -> None:
        """Write what is queued, for a bounded time."""
        self._kernel.close()
        try:
            self._queue.put(None, timeout=CLOSE_LIMIT_S)
        except queue.Full:
            return
        self._thread.join(CLOSE_LIMIT_S)
        if not self._thread.is_alive():
            self._file.close()


class NoRecorder:
    """Records nothing: no place for the file, or not wanted."""

    def note(self, kind: str, /, *, sync: bool = True, loud: bool = False, **fields: Any) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def open_recorder(path: str | None, daemon: str) -> Recorder | NoRecorder:
    """The recorder at `path`; without one, and said so, when it cannot be had: that must not stop a daemon."""
    if not path:
        return NoRecorder()
    if os.path.dirname(path) == DIRECTORY:
        try:
            os.makedirs(DIRECTORY, DIRECTORY_MODE, exist_ok=True)
        except OSError:
            pass  # Opening the file says what is wrong.
    try:
        return Recorder(path, daemon)
    except FlightError as error:
        log.error("no flight recorder: %s", error)
        return NoRecorder()


def default_path(daemon: str, is_host_daemon: bool) -> str | None:
    """Of the host's own daemon when root runs it; daemons of a user, or in another directory, record nothing."""
    return os.path.join(DIRECTORY, f"flight-{daemon}.ring") if is_host_daemon and os.geteuid() == 0 else None
