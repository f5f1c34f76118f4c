"""SG_IO on real devices: each command in a worker thread that may be abandoned (spec path 3.3).

SG_IO cannot be cancelled: a call whose device hangs ends when the kernel's error handler gives up, long after its
timeout. So every path has a `SgPath` with at most `MAX_OUTSTANDING` calls; a third is refused until one returns.
All paths share one pool of threads with room for many that hang. Must never block the event loop, never close a
descriptor that a call still uses.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from holdfast.path.ioctl import address_of, ioctl
from holdfast.path.sg import (
    MAX_TRANSFER_BYTES,
    SENSE_BYTES,
    SG_IO,
    Direction,
    Exchange,
    Execute,
    Result,
    SgAnswer,
    SgCommand,
    decode_header,
    encode_header,
    run_exchange,
)
from holdfast.path.thread_call import Overdue, ThreadCall
from holdfast.storage.threads import Job, Lane, ThreadPool

MAX_OUTSTANDING: Final = 2
"""Exchanges of one path whose thread has not come back, as in the original: the stalled one, and one more try."""

MAX_SG_THREADS: Final = 2048
"""Of all paths together. A thread's stack is small, and only hanging paths hold one for long."""


class SgStalled(Exception):
    """No command was sent: as many as allowed are still with the kernel."""


class SgTimeout(Exception):
    """No answer in time. The command lives on; what it brings back later is thrown away."""


def execute_on(fd: int) -> Execute:
    """Commands to the device that is open at `fd`. Blocking: for worker threads."""

    def execute(command: SgCommand) -> SgAnswer:
        if command.transfer_length > MAX_TRANSFER_BYTES:
            raise ValueError(f"{command.transfer_length} bytes are too many for one command")
        cdb = bytearray(command.cdb)
        sense = bytearray(SENSE_BYTES)
        data = bytearray(command.data or command.length or 1)
        header = encode_header(command, address_of(data), address_of(cdb), address_of(sense))
        try:
            ioctl(fd, SG_IO, header)
        except OSError as error:
            return SgAnswer(errno=error.errno or 5)
        return decode_header(header, sense, data if command.direction == Direction.FROM_DEVICE else b"")

    return execute


class SgPath:
    """The commands of one path. `execute` blocks and runs in a thread; tests hand in one of their own."""

    def __init__(self, pool: ThreadPool, execute: Execute, close: Callable[[], None] | None = None) -> None:
        """`close` is called once, in a thread, when the path was closed and nothing is outstanding."""
        self._lane = Lane(pool)
        self._execute = execute
        self._close = close
        self._outstanding = 0
        self._closed = False

    @classmethod
    def on_descriptor(cls, pool: ThreadPool, fd: int) -> SgPath:
        """Takes `fd` over and closes it when nobody uses it any more."""
        return cls(pool, execute_on(fd), lambda: os.close(fd))

    @property
    def outstanding(self) -> int:
        """Exchanges that have not come back, timed-out ones included."""
        return self._outstanding

    async def run(self, exchange: Callable[[], Exchange[Result]], timeout_s: float) -> Result:
        """The verdict of `exchange()`, all of which runs in one thread.

        SgStalled: nothing was started. SgTimeout after `timeout_s`. Exceptions of the exchange are passed on.
        """
        if self._closed or self._outstanding >= MAX_OUTSTANDING:
            raise SgStalled
        call = ThreadCall(self._lane, lambda: run_exchange(exchange(), self._execute), self._one_less)
        call.start()
        self._outstanding += 1
        try:
            return await call.wait(timeout_s)
        except Overdue:
            raise SgTimeout from None
        finally:
            if call.withdrawn:
                self._one_less()

    def _one_less(self) -> None:
        self._outstanding -= 1
        if self._closed:
            self._close_if_idle()

    def close(self) -> None:
        """No further command; the descriptor is closed when the last one has come back."""
        if not self._closed:
            self._closed = True
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._outstanding == 0 and self._close is not None:
            close, self._close = self._close, None
            self._lane.run(Job(close, lambda _: None))
