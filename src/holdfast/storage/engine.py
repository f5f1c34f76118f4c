"""What every way of talking to the kernel looks like to a `Device`: requests in, results out.

An engine belongs to one event loop and is used from it only. It must never block that loop for longer than
memory takes, never lose a request, and never report one as finished while the kernel may still touch its
buffer. It knows no deadlines: the `Device` measures time and tells the engine what became overdue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from holdfast.storage.buffers import Buffer
from holdfast.storage.deadlines import deadlines_of
from holdfast.storage.disk import Permit


class Request:
    """One read or write: `length` bytes at `offset` of `fd`, to or from `buffer.address + start`.

    `result` is None while the kernel has it, then bytes transferred or a negative errno.
    """

    __slots__ = (
        "buffer",
        "fd",
        "is_write",
        "length",
        "offset",
        "on_done",
        "permit",
        "refusal",
        "result",
        "start",
        "waiter",
    )

    def __init__(self, is_write: bool, fd: int, buffer: Buffer, offset: int, length: int, start: int = 0) -> None:
        self.is_write = is_write
        self.fd = fd
        self.buffer = buffer
        self.offset = offset
        self.length = length
        self.start = start
        self.result: int | None = None
        self.permit: Permit | None = None
        self.refusal: BaseException | None = None
        self.on_done: Callable[[Request], None] | None = None
        self.waiter: asyncio.Future[None] | None = None

    def is_permitted(self) -> bool:
        """Ask again, after it was queued: still to be submitted? What the permit raised becomes `refusal`."""
        if self.permit is not None:
            try:
                self.permit()
            except Exception as refusal:  # passed on to the writer, whatever it is
                self.refusal = refusal
                return False
        return True

    def complete(self, result: int) -> None:
        """The kernel is done: let go of the memory, tell whoever waits. Called once, by the engine."""
        self.result = result
        self.buffer.unpin()
        on_done = self.on_done
        if on_done is not None:
            on_done(self)
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def wait(self, timeout_s: float) -> bool:
        """True as soon as there is a result, False after `timeout_s`. One waiter at a time."""
        if self.result is not None:
            return True
        assert self.waiter is None
        loop = asyncio.get_running_loop()
        self.waiter = waiter = loop.create_future()
        deadlines = deadlines_of(loop)
        deadlines.start(waiter, timeout_s)
        try:
            await waiter
        finally:
            deadlines.stop()
            self.waiter = None
        return self.result is not None


def set_result(future: asyncio.Future[None]) -> None:
    """End a wait, unless it has ended already."""
    if not future.done():
        future.set_result(None)


class Engine(Protocol):
    """Moves requests. The engine pins a request's buffer from `submit` until `complete`."""

    @property
    def name(self) -> str:
        """For messages and statistics: "aio", "uring", "threads", "inline"."""
        ...

    def submit(self, request: Request) -> None:
        """Start it; it may be complete on return. OSError: not accepted (EAGAIN: too many outstanding)."""
        ...

    def poll(self) -> None:
        """Complete whatever is complete already, without waiting."""
        ...

    def overdue(self, request: Request) -> bool:
        """The request missed its deadline or nobody waits for it any more.

        True: it had not reached the kernel, is withdrawn and never will be. False: it lives on.
        """
        ...
