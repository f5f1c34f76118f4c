"""Direct reads of thousands of paths: submitted together, harvested together, none waits for another (spec 3.2).

Reads that begin in one turn of the loop go to the kernel in one io_submit, and their completions come back through
the contexts' eventfds, as many as there are at a time; no task, no future and no timer belongs to a single read.
A context holds `CONTEXT_READS` reads at a time; there are as many as the reads that are out need. A read that
never ends keeps its slot, its buffer and its descriptor, and nothing else.

Where submission could sleep (no free slot in a device's queue) it is tried again soon, then a thread reads, as
always on a file system that is no plain one; where the kernel has no room for a context (fs.aio-max-nr) all reads
go to threads, and that is logged once. Opening and closing may hang as well and happen in threads, a few at a
time, those that hang not counted.

Must never: block the loop, close a descriptor that a read still uses, let one path's trouble delay another.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
from collections.abc import Callable
from typing import Final, Protocol

from holdfast.path.timeouts import Timeouts
from holdfast.storage import POOL
from holdfast.storage.aio import AioEngine
from holdfast.storage.engine import Request
from holdfast.storage.errors import StorageError
from holdfast.storage.inline import InlineEngine
from holdfast.storage.opening import Opened, open_storage
from holdfast.storage.threads import Job, Lane, ThreadPool

CONTEXT_READS: Final = 1024
"""Reads that one AIO context holds, as in the original."""
SUBMIT_AT_ONCE: Final = 256
"""Reads that one turn of the loop submits; the others follow in the next. Some microseconds each."""
MAX_THREADS: Final = 512
"""Of all paths together, hanging ones included; only paths that hang keep one for long."""
RETRY_S: Final = 0.01
RETRIES: Final = 20
"""How often a read that the kernel cannot take without sleeping is tried again before a thread waits for it."""
CALLS_AT_ONCE: Final = 32
"""Opens and closes that run at a time and are not overdue."""

_AIO_HINT: Final = "threads check paths instead, which costs more: raise fs.aio-max-nr (sysctl)"
_log: Final = logging.getLogger(__name__)


class Ticket(Protocol):
    """Something that was begun; for `ProbeIo.is_withdrawn`."""


Ended = Callable[[int], None]
"""Called once, on the loop: bytes, or a negative errno."""
IsOpen = Callable[[Opened | StorageError], None]
"""Called once, on the loop."""


class ProbeIo(Protocol):
    """What the directio checker needs of the kernel. Nothing here blocks or raises; answers come by callback."""

    timeouts: Timeouts

    def open(self, node: str, is_open: IsOpen) -> Ticket: ...

    def read(self, opened: Opened, length: int, ended: Ended) -> Ticket | None:
        """`length` bytes at offset 0. None: it has ended already, and `ended` was called."""
        ...

    def withdraw(self, ticket: Ticket) -> bool:
        """It missed its deadline. True: it had not begun, and never will; False: it lives on, and will end."""
        ...

    def close(self, opened: Opened) -> None:
        """No read may be out."""
        ...

    def attach(self) -> None:
        """One user more."""
        ...

    def detach(self) -> None:
        """One less; after the last one everything is given back."""
        ...


class _Read(Request):
    """A read in flight."""

    __slots__ = ("ended", "lane", "tries")

    def __init__(self, opened: Opened, length: int, ended: Ended) -> None:
        """Pinned once, until it has been submitted."""
        buffer = POOL.borrow(length)
        super().__init__(False, opened.fd, buffer, 0, length)
        buffer.pin()
        buffer.release()
        self.ended = ended
        self.lane: Lane | None = None
        self.tries = 0
        self.on_done = _tell


def _tell(request: Request) -> None:
    assert isinstance(request, _Read)
    assert request.result is not None
    request.lane = None
    try:
        request.ended(request.result)
    except Exception:  # A mistake in what one path's end leads to must not lose the others' ends.
        _log.exception("the end of a read was not taken")


class _Call:
    """An open or a close, waiting or in a thread."""

    __slots__ = ("call", "counts", "done", "job", "lane")

    def __init__(self, call: Callable[[], object], done: Callable[[object], None]) -> None:
        self.call = call
        self.done = done
        self.job: Job | None = None
        self.lane: Lane | None = None
        self.counts = False
        """It is one of those that run and are not overdue."""


class KernelProbeIo:
    """The real one, of one event loop; use `probe_io()`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.timeouts = Timeouts(loop)
        self._loop = loop
        self._users = 0
        self._contexts: list[AioEngine] = []
        self._aio_is_short = False
        self._inline = InlineEngine()
        self._pool = ThreadPool(loop, MAX_THREADS)
        self._queue: list[_Read] = []
        self._refused: list[_Read] = []
        self._waiting: dict[_Call, None] = {}
        self._running = 0
        self._closed = False
        self.has_ended = asyncio.Event()
        """Everything was given back."""

    # Opening and closing

    def open(self, node: str, is_open: IsOpen) -> Ticket:
        def done(result: object) -> None:
            assert isinstance(result, Opened | StorageError)
            is_open(result)

        return self._start(_Call(lambda: open_storage(node, read_only=True), done))

    def close(self, opened: Opened) -> None:
        if opened.engine == "inline" or self._closed:
            _close(opened.fd)
            return
        self.attach()  # It is a user until it is done.
        self._start(_Call(lambda: _close(opened.fd), lambda _: self.detach()))

    def _start(self, call: _Call) -> _Call:
        self._waiting[call] = None
        self._start_waiting()
        return call

    def _start_waiting(self) -> None:
        while self._waiting and self._running < CALLS_AT_ONCE:
            call = next(iter(self._waiting))
            del self._waiting[call]
            self._running += 1
            call.counts = True
            call.lane = Lane(self._pool)
            call.job = Job(call.call, functools.partial(self._finished, call), _discard)
            call.lane.run(call.job)

    def _finished(self, call: _Call, result: object) -> None:
        self._no_longer_counts(call)
        call.done(result)

    def _no_longer_counts(self, call: _Call) -> None:
        if call.counts:
            call.counts = False
            self._running -= 1
            self._start_waiting()

    # Reading

    name = "aio, then threads"

    def read(self, opened: Opened, length: int, ended: Ended) -> Ticket | None:
        request = _Read(opened, length, ended)
        if opened.engine == "aio" and (self._contexts or not self._aio_is_short):
            self._put(request)
            return request
        if opened.engine == "inline":
            self._inline.submit(request)
            request.buffer.unpin()
            return None
        self._submit_to_thread(request)
        request.buffer.unpin()
        return request

    def _put(self, request: _Read) -> None:
        self._queue.append(request)
        if len(self._queue) == 1:
            self._loop.call_soon(self._flush)

    def _submit_to_thread(self, request: _Read) -> None:
        """A lane of its own: what one path hangs in delays no other."""
        request.lane = Lane(self._pool)
        request.lane.submit(request)

    def submit(self, request: Request) -> None:
        """As the fallback of AIO: the kernel would have had to sleep. Soon again, at last in a thread.

        All paths behind one host adapter share its queue: a burst of checks fills it for some milliseconds.
        """
        assert isinstance(request, _Read)
        if request.tries >= RETRIES or self._closed:
            self._submit_to_thread(request)
            return
        request.tries += 1
        request.buffer.pin()
        self._refused.append(request)
        if len(self._refused) == 1:
            self._loop.call_later(RETRY_S, self._retry)

    def _retry(self) -> None:
        refused, self._refused = self._refused, []
        for request in refused:
            self._put(request)

    def _flush(self) -> None:
        """Submit what this turn has begun."""
        batch, self._queue = self._queue[:SUBMIT_AT_ONCE], self._queue[SUBMIT_AT_ONCE:]
        if self._queue:
            self._loop.call_soon(self._flush)
        while batch:
            context = self._context_with_room()
            if context is None:
                for request in batch:
                    self._submit_to_thread(request)
                    request.buffer.unpin()
                return
            part, batch = batch[: context.room], batch[context.room :]
            context.submit_many(part, self)
            for request in part:
                request.buffer.unpin()

    def _context_with_room(self) -> AioEngine | None:
        for context in self._contexts:
            if context.room:
                return context
        if self._aio_is_short:
            return None
        try:
            self._contexts.append(AioEngine(self._loop, CONTEXT_READS))
        except OSError as error:
            # Contexts that are there are used on; what does not fit into them goes to threads.
            self._aio_is_short = True
            _log.warning("%s; %s", error, _AIO_HINT)
            return None
        return self._contexts[-1]

    @property
    def contexts(self) -> int:
        """AIO contexts that exist."""
        return len(self._contexts)

    @property
    def outstanding(self) -> int:
        """Reads that the kernel has by AIO."""
        return sum(context.outstanding for context in self._contexts)

    def poll(self) -> None:
        """Completions arrive by themselves."""

    def overdue(self, request: Request) -> bool:
        """See `withdraw`."""
        return False

    def withdraw(self, ticket: Ticket) -> bool:
        if isinstance(ticket, _Read):
            if ticket in self._refused:
                self._refused.remove(ticket)
                ticket.buffer.unpin()
                return True
            lane = ticket.lane
            return lane is not None and lane.overdue(ticket)
        assert isinstance(ticket, _Call)
        if ticket in self._waiting:
            del self._waiting[ticket]
            return True
        if ticket.lane is not None and ticket.job is not None and ticket.lane.abandon(ticket.job):
            self._no_longer_counts(ticket)
            return True
        self._no_longer_counts(ticket)
        return False

    # Its end

    def attach(self) -> None:
        self._users += 1

    def detach(self) -> None:
        self._users -= 1
        if not self._users and not self._loop.is_closed():
            # Not now: a context that is being harvested may be what called.
            self._loop.call_soon(self._end_if_unused)

    def _end_if_unused(self) -> None:
        if not self._users and not self._closed:
            self.end()
            if _of_loops.get(self._loop) is self:
                del _of_loops[self._loop]

    def end(self) -> None:
        """Give everything back, without waiting for what hangs."""
        self._closed = True
        self.timeouts.close()
        for context in self._contexts:
            context.close()
        self._contexts.clear()
        self._pool.close()
        if not self._loop.is_closed():
            self.has_ended.set()


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError as error:
        _log.warning("closing descriptor %d of a path: %s", fd, error)


def _discard(result: object) -> None:
    """The loop is gone."""
    if isinstance(result, Opened):
        _close(result.fd)


_of_loops: dict[asyncio.AbstractEventLoop, KernelProbeIo] = {}


def probe_io() -> KernelProbeIo:
    """The running loop's; made on first use, ended with its last user."""
    loop = asyncio.get_running_loop()
    found = _of_loops.get(loop)
    if found is None:
        for closed in [other for other in _of_loops if other.is_closed()]:
            _of_loops.pop(closed).end()
        found = _of_loops[loop] = KernelProbeIo(loop)
    return found


async def wait_for_end(patience_s: float) -> None:
    """Until what the last checkers gave back is closed; not longer than `patience_s`, because closing may hang."""
    found = _of_loops.get(asyncio.get_running_loop())
    if found is not None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(found.has_ended.wait(), patience_s)
