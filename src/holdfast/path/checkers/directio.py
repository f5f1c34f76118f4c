"""One block read at offset 0, past all caches (spec path 3.2).

UP only on the whole block within the timeout. A read that missed it lives on in the kernel; no other is started
beside it, and what it brings counts at the next check: DOWN until then. The device is opened read-only: closing
one that was open for writing makes udev look at it anew.

Opening may hang as well, so it is part of the first check and has the same deadline; the next check goes on
with it. All paths share `probe_io`: thousands of these cost neither a task nor a timer each.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Final

from holdfast.path.checkers.base import (
    DOWN,
    NO_DESCRIPTOR,
    NOT_AVAILABLE,
    UP,
    CheckerContext,
    CheckResult,
)
from holdfast.path.probe_io import ProbeIo, Ticket, probe_io
from holdfast.path.states import PathState
from holdfast.storage import StorageError
from holdfast.storage.opening import Opened

WAITING: Final = " is waiting on aio"
NO_BLOCK_SIZE: Final = " cannot get blocksize, set default"

MAX_PROBE_BYTES: Final = 4096

_NOT_SUBMITTED: Final = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EBADF})
"""This host's shortage, not the path's fault."""
_NO_DEVICE: Final = frozenset({errno.ENXIO, errno.EIO, errno.ENODEV})
"""From open: there is nothing behind the node now; the next check opens again."""

NOT_ASKED: Final = CheckResult(PathState.UNCHECKED, NOT_AVAILABLE)


def probe_length(size: int, logical_block_size: int) -> int:
    """Bytes to read: the kernel's block size (BLKBSZGET) of a device that nobody has mounted, at most 4096.

    It is the largest power of two up to a page that divides the device's size, not less than a logical block.
    """
    length = logical_block_size
    while length < MAX_PROBE_BYTES and size % (2 * length) == 0:
        length *= 2
    return length


class DirectioChecker:
    """One read at a time; the state between checks is a read, or an open, that was late, or what it brought."""

    __slots__ = (
        "_closed",
        "_done",
        "_io",
        "_late",
        "_length",
        "_make_io",
        "_node",
        "_opened",
        "_ticket",
        "_timeout_s",
    )

    def __init__(self, context: CheckerContext, make_io: Callable[[], ProbeIo] = probe_io) -> None:
        self._node = context.node
        self._make_io = make_io
        self._io: ProbeIo | None = None
        self._opened: Opened | None = None
        self._length = 0
        self._ticket: Ticket | None = None
        self._late: CheckResult | None = None
        self._done: Callable[[CheckResult], None] | None = None
        self._timeout_s = 0.0
        self._closed = False

    @property
    def is_waiting(self) -> bool:
        """A read or an open of an earlier check has not come back."""
        return self._ticket is not None and self._done is None

    async def check(self, timeout_s: float) -> CheckResult:
        """`begin` for those who wait for a single path. A cancelled check's read lives on as a late one."""
        waiter: asyncio.Future[CheckResult] = asyncio.get_running_loop().create_future()
        self.begin(timeout_s, waiter.set_result)
        try:
            return await waiter
        except asyncio.CancelledError:
            self._forget()
            raise

    def begin(self, timeout_s: float, done: Callable[[CheckResult], None]) -> None:
        if self._late is not None:
            late, self._late = self._late, None
            done(late)  # It is this check's outcome; nothing new is started (spec 3.2).
            return
        if self._ticket is not None and self._opened is not None:
            done(DOWN)
            return
        if self._io is None:
            self._io = self._make_io()
            self._io.attach()
        io = self._io
        self._done, self._timeout_s = done, timeout_s
        io.timeouts.start(self, timeout_s, asyncio.get_running_loop().time())
        if self._opened is None:
            if self._ticket is None:
                self._ticket = io.open(self._node, self._is_open)
            # else it goes on with the open of an earlier check
        else:
            self._ticket = io.read(self._opened, self._length, self._ended)

    def _is_open(self, result: Opened | StorageError) -> None:
        assert self._io is not None
        self._ticket = None
        if isinstance(result, StorageError):
            # That a late one failed is no news of the device: the next check opens again.
            if self._done is not None:
                self._finish(_verdict_of_open(result.errno))
            elif self._closed:
                self._let_go()
            return
        self._opened = result
        self._length = probe_length(result.size, result.block_size)
        if self._done is not None:
            self._ticket = self._io.read(result, self._length, self._ended)
        elif self._closed:
            self._let_go()

    def _ended(self, result: int) -> None:
        self._ticket = None
        if result == self._length:
            verdict = UP
        elif -result in _NOT_SUBMITTED:
            verdict = NOT_ASKED
        else:
            verdict = DOWN
        if self._done is not None:
            self._finish(verdict)
        elif self._closed:
            self._let_go()
        else:
            self._late = verdict

    def overdue(self) -> None:
        """The timeout of this check is over."""
        assert self._io is not None
        withdrawn = self._ticket is not None and self._io.withdraw(self._ticket)
        if withdrawn:
            self._ticket = None
        self._finish(NOT_ASKED if withdrawn else DOWN)

    def _finish(self, result: CheckResult) -> None:
        done = self._done
        self._forget()
        if done is not None:
            done(result)

    def _forget(self) -> None:
        """Nobody waits for this check any more."""
        if self._done is not None and self._io is not None:
            self._done = None
            self._io.timeouts.stop(self, self._timeout_s)

    def close(self) -> None:
        """A read that is under way lives on and keeps its descriptor."""
        if self._closed:
            return
        self._closed = True
        self._forget()
        self._late = None
        if self._ticket is None:
            self._let_go()

    def _let_go(self) -> None:
        io, self._io = self._io, None
        if io is None:
            return
        opened, self._opened = self._opened, None
        if opened is not None:
            io.close(opened)
        io.detach()


def _verdict_of_open(error: int) -> CheckResult:
    if error in _NOT_SUBMITTED:
        return NOT_ASKED
    return DOWN if error in _NO_DEVICE else CheckResult(PathState.WILD, NO_DESCRIPTOR)
