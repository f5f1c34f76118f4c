"""Blocking system calls in daemon threads that may be abandoned: for everything whose submission can block.

FUSE, NFS and unknown file systems, writes to regular files (fsfreeze, block allocation), open, stat, close.
All bookkeeping happens on the event loop; a thread only runs the call it was handed. A call that misses its
deadline keeps its thread (nothing can be done about it) but no longer counts as one of its lane's workers.

Must never: join a thread, let one stuck device use the threads of another (each device has a `Lane`), start
a thread before it is needed.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from holdfast.storage.engine import Request

MAX_THREADS: Final = 128
"""Threads of one pool, stuck ones included."""

IDLE_S: Final = 2.0
"""A thread that had nothing to do for so long ends. Starting threads for each burst costs ten times the I/O."""

LANE_WORKERS: Final = 8
"""Calls of one lane that run at a time and are not overdue."""

LANE_ABANDONED: Final = 4
"""Overdue calls of one lane that are replaced by fresh workers; beyond it the lane has to wait for them."""

LANE_QUEUE: Final = 256
"""Calls of one lane that wait for a worker; beyond it EAGAIN."""

STACK_BYTES: Final = 256 * 1024
"""Small, because a daemon locks all its memory."""


_log = logging.getLogger(__name__)


class Job:
    """One call for a thread; `call` must not raise.

    `done` runs on the loop with what it returned; `discard` gets that instead when the loop is gone.
    """

    __slots__ = ("abandoned", "call", "discard", "done", "has_waited", "lane", "request")

    def __init__(
        self,
        call: Callable[[], object],
        done: Callable[[Any], None],
        discard: Callable[[Any], None] | None = None,
        request: Request | None = None,
    ) -> None:
        self.call = call
        self.done = done
        self.discard = discard
        self.request = request
        self.lane: Lane | None = None
        self.abandoned = False
        self.has_waited = False


class ThreadPool:
    """The threads of one event loop, started on demand."""

    def __init__(self, loop: asyncio.AbstractEventLoop, max_threads: int = MAX_THREADS) -> None:
        self._loop = loop
        self._max_threads = max_threads
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = 0
        self._idle = 0
        self._least_idle = 0
        self._timer: asyncio.TimerHandle | None = None
        self._starved: deque[Lane] = deque()
        self._closed = False

    @property
    def threads(self) -> int:
        """Threads that exist, stuck ones included."""
        return self._threads

    def start(self, job: Job) -> bool:
        """Hand the job to a thread; False when all are in use."""
        if self._idle:
            self._idle -= 1
            self._least_idle = min(self._least_idle, self._idle)
        elif self._threads < self._max_threads:
            try:
                self._start_thread()
            except RuntimeError as error:  # no memory, or the limit of processes: as if all were in use
                _log.error("no further storage thread beside %d: %s", self._threads, error)
                return False
            self._threads += 1
            if self._timer is None and not self._closed:
                self._least_idle = 0
                self._timer = self._loop.call_later(IDLE_S, self._end_idle)
        else:
            return False
        self._jobs.put(job)
        return True

    def wait_for_thread(self, lane: Lane) -> None:
        """`lane` has calls to make and wants to hear of the next free thread."""
        if lane not in self._starved:
            self._starved.append(lane)

    def _start_thread(self) -> None:
        previous = threading.stack_size(STACK_BYTES)
        try:
            # daemon: the end of the process must not wait for a stuck system call
            threading.Thread(
                target=_work, args=(self._jobs, self._loop, self), name="storage", daemon=True
            ).start()
        finally:
            threading.stack_size(previous)

    def finished(self, job: Job, result: object) -> None:
        """Called on the loop, when a thread has made its call."""
        self._idle += 1
        lane = job.lane
        assert lane is not None
        lane.finished(job)
        job.done(result)
        for _ in range(len(self._starved)):  # a lane that is still starved comes back to the end
            self._starved.popleft().start_queued()
        if self._closed:
            self._end_threads(self._idle)

    def _end_idle(self) -> None:
        """Called every `IDLE_S` while there are threads: end those that were never needed since the last time."""
        self._end_threads(self._least_idle)
        self._least_idle = self._idle
        self._timer = self._loop.call_later(IDLE_S, self._end_idle) if self._threads else None

    def _end_threads(self, count: int) -> None:
        for _ in range(count):
            self._jobs.put(None)
        self._idle -= count
        self._threads -= count

    def close(self) -> None:
        """Let threads end when they have nothing to do. Stuck ones are left alone, queued calls are still made."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._end_threads(self._idle)


def _work(jobs: queue.SimpleQueue[Job | None], loop: asyncio.AbstractEventLoop, pool: ThreadPool) -> None:
    while (job := jobs.get()) is not None:
        result = job.call()
        try:
            loop.call_soon_threadsafe(pool.finished, job, result)
        except RuntimeError:  # the loop is closed: nobody is left to be told
            if job.discard is not None:
                job.discard(result)
            return
        del job, result


class Lane:
    """The calls of one device (or one path being opened): bounded, so that it cannot starve the others.

    Also an `Engine`: `submit` reads and writes in a thread.
    """

    name = "threads"

    def __init__(self, pool: ThreadPool) -> None:
        self._pool = pool
        self._queue: deque[Job] = deque()
        self._running: dict[Request, Job] = {}
        self._busy = 0
        self._abandoned = 0

    @property
    def is_idle(self) -> bool:
        """No call is queued, running or stuck."""
        return not (self._queue or self._busy or self._abandoned)

    @property
    def abandoned(self) -> int:
        """Overdue calls that were replaced and have not come back."""
        return self._abandoned

    def submit(self, request: Request) -> None:
        request.buffer.pin()
        try:
            self.run(
                Job(
                    lambda: _transfer(request),
                    lambda result: request.complete(result),
                    request=request,
                )
            )
        except OSError:
            request.buffer.unpin()
            raise

    def run(self, job: Job) -> None:
        """Make the call as soon as a worker is free. OSError EAGAIN beyond `LANE_QUEUE` waiting calls."""
        if len(self._queue) >= LANE_QUEUE:
            raise BlockingIOError(errno.EAGAIN, f"{LANE_QUEUE} calls wait for a worker")
        job.lane = self
        self._queue.append(job)
        self.start_queued()
        job.has_waited = True

    def start_queued(self) -> None:
        while self._queue and self._busy < LANE_WORKERS:
            job = self._queue[0]
            if job.request is not None and job.has_waited and not job.request.is_permitted():
                self._queue.popleft()
                job.request.complete(-errno.ECANCELED)
                continue
            if not self._pool.start(job):
                self._pool.wait_for_thread(self)
                return
            # Nothing can have come in between: `start` only puts the job where a thread will find it.
            self._queue.popleft()
            self._busy += 1
            if job.request is not None:
                self._running[job.request] = job

    def finished(self, job: Job) -> None:
        if job.request is not None:
            del self._running[job.request]
        if job.abandoned:
            self._abandoned -= 1
        else:
            self._busy -= 1
        self.start_queued()

    def abandon(self, job: Job) -> bool:
        """Nobody waits for it any more. True: it was still queued and will not be made."""
        if job in self._queue:
            self._queue.remove(job)
            return True
        # Over the limit the stuck call goes on counting as a worker: the lane is then simply full.
        if not job.abandoned and self._abandoned < LANE_ABANDONED:
            job.abandoned = True
            self._abandoned += 1
            self._busy -= 1
            self.start_queued()
        return False

    def poll(self) -> None:
        """Completions arrive by themselves."""

    def overdue(self, request: Request) -> bool:
        job = self._running.get(request)
        if job is None:
            job = next((queued for queued in self._queue if queued.request is request), None)
            if job is None:
                return False
        if self.abandon(job):
            request.buffer.unpin()
            return True
        return False


def _transfer(request: Request) -> int:
    """In a thread: the memory is pinned for it, nothing else of the request is touched."""
    part = request.buffer.view[request.start : request.start + request.length]
    try:
        if request.is_write:
            return os.pwrite(request.fd, part, request.offset)
        return os.preadv(request.fd, (part,), request.offset)
    except OSError as error:
        return -(error.errno or errno.EIO)
