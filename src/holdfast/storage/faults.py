"""Storage that is taken away on command, without root: for `holdfast demo`, for tests, for training.

A control file says what happens to every I/O that begins or hangs from then on. Its content is one line:

    hang        nothing completes for as long as the file says so; deadlines expire
    error       EIO
    error 28    that errno
    delay 1.5   each I/O takes that many seconds longer

No file, or an empty one: the storage is healthy. That costs one stat of a local path per I/O. A hung write
reaches the storage when the fault ends, even when its caller gave up long ago, as with real storage (rule 12).
Must never be used with a control file on storage that can hang itself.
"""

from __future__ import annotations

import asyncio
import errno
import os
from typing import Final

from holdfast.storage.engine import Engine, Request
from holdfast.storage.errors import DeadlineError, StorageError

POLL_S: Final = 0.02
"""How often hanging I/O looks whether the fault is over."""

MAX_HELD: Final = 256
"""Hanging requests per device; beyond it EAGAIN."""

MAX_CONTROL_BYTES: Final = 64


class Faults:
    """What the control file says. One instance stands for one host's way to its storage."""

    def __init__(self, control_path: str) -> None:
        self.control_path = control_path
        self._seen: tuple[int, int, int] | None = None
        self._kind = ""
        self._value = 0.0

    def current(self) -> tuple[str, float]:
        """("", 0) when healthy, ("hang", 0), ("error", errno) or ("delay", seconds).

        What cannot be understood is ("error", EIO): a fault that was asked for must not pass unnoticed.
        """
        try:
            found = os.stat(self.control_path)
        except FileNotFoundError:
            self._seen = None
            return ("", 0.0)
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        if seen != self._seen:
            self._kind, self._value = self._read()
            self._seen = seen
        return (self._kind, self._value)

    def _read(self) -> tuple[str, float]:
        try:
            with open(self.control_path, encoding="ascii") as file:
                words = file.read(MAX_CONTROL_BYTES).split()
        except FileNotFoundError:
            return ("", 0.0)
        except (OSError, ValueError):
            return ("error", float(errno.EIO))
        try:
            match words:
                case []:
                    return ("", 0.0)
                case ["hang"]:
                    return ("hang", 0.0)
                case ["error"]:
                    return ("error", float(errno.EIO))
                case ["error", number] if 0 < int(number) < 4096:
                    return ("error", float(number))
                case ["delay", seconds] if 0 <= float(seconds) <= 86400:
                    return ("delay", float(seconds))
        except ValueError:
            pass
        return ("error", float(errno.EIO))

    async def before_open(self, path: str, timeout_s: float) -> None:
        """Let the fault act on an open. StorageError or DeadlineError; returns when it may go on."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        ready_at = 0.0
        while (kind_value := self.current())[0]:
            kind, value = kind_value
            if kind == "error":
                raise StorageError(int(value), "open", path, 0, 0)
            if kind == "delay":
                ready_at = ready_at or loop.time() + value
                if loop.time() >= ready_at:
                    break
            left_s = deadline - loop.time()
            if left_s <= 0:
                raise DeadlineError("open", path, 0, 0, timeout_s)
            await asyncio.sleep(min(POLL_S, left_s))


class FaultyEngine:
    """An engine between a `Device` and its real one, which obeys `Faults`."""

    def __init__(self, engine: Engine, faults: Faults) -> None:
        self._engine = engine
        self._faults = faults
        self._held: list[Request] = []
        self._delayed: dict[Request, asyncio.TimerHandle] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        return self._engine.name

    def submit(self, request: Request) -> None:
        kind, value = self._faults.current()
        if not kind:
            self._engine.submit(request)
            return
        if len(self._held) + len(self._delayed) >= MAX_HELD:
            raise BlockingIOError(errno.EAGAIN, f"{MAX_HELD} requests hang")
        request.buffer.pin()
        if kind == "error":
            request.complete(-int(value))
        elif kind == "delay":
            loop = asyncio.get_running_loop()
            self._delayed[request] = loop.call_later(value, self._end_delay, request)
        else:
            self._held.append(request)
            self._keep_looking()

    def _keep_looking(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(POLL_S, self._look)

    def _look(self) -> None:
        self._timer = None
        kind, value = self._faults.current()
        if kind == "hang":
            self._keep_looking()
            return
        held, self._held = self._held, []
        for request in held:
            if kind == "error":
                request.complete(-int(value))
            else:
                self._pass_on(request)

    def _end_delay(self, request: Request) -> None:
        del self._delayed[request]
        self._pass_on(request)

    def _pass_on(self, request: Request) -> None:
        try:
            self._engine.submit(request)  # pins the buffer for itself
        except OSError as error:
            request.complete(-(error.errno or errno.EIO))
        else:
            request.buffer.unpin()

    def poll(self) -> None:
        self._engine.poll()

    def overdue(self, request: Request) -> bool:
        if request in self._delayed or request in self._held:
            return False  # it hangs "in the kernel"
        return self._engine.overdue(request)

    def close(self) -> None:
        """Whatever hangs ends with ECANCELED and never reaches the storage."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for timer in self._delayed.values():
            timer.cancel()
        held = [*self._held, *self._delayed]
        self._held, self._delayed = [], {}
        for request in held:
            request.complete(-errno.ECANCELED)
