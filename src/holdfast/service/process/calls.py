"""Calls about a unit's files that may hang, in threads (spec supervisor 3.3, 6.3).

A file may lie where nobody answers any more (NFS, FUSE, a frozen file system). A call that hangs keeps its thread:
those of one unit are made one after another, so that none has more than one.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from holdfast.storage.threads import Job, Lane, ThreadPool

log = logging.getLogger(__name__)

MAX_THREADS: Final = 64
"""When the files of so many units hang, calls of others wait, and fail at their deadline."""


def _nothing() -> None:
    pass


@dataclass(slots=True, eq=False)
class Call:
    """One that was asked for. `answered` gets the result, or what `failed` makes of an errno."""

    call: Callable[[], Any]
    answered: Callable[[Any], None]
    failed: Callable[[int], Any]
    dropped: Callable[[], None] = _nothing
    """Instead of an answer: it was made, but given up meanwhile."""
    timer: asyncio.TimerHandle | None = None
    over: bool = False


class Calls:
    """Of all units. To be closed."""

    def __init__(self) -> None:
        """In a running loop."""
        self._loop = asyncio.get_running_loop()
        self._pool = ThreadPool(self._loop, MAX_THREADS)
        self._units: dict[str, deque[Call]] = {}
        """The first one of each is being made."""
        self._quiet = asyncio.Event()
        self._quiet.set()

    def is_busy(self, unit: str) -> bool:
        """Whether a call has not come back."""
        return unit in self._units

    def run(self, unit: str, call: Call, limit_s: float | None = None) -> None:
        """Answered later, never from here: when it was made, or after `limit_s` with ETIMEDOUT."""
        if limit_s is not None:
            call.timer = self._loop.call_later(limit_s, self.give_up, unit, call, errno.ETIMEDOUT)
        self._quiet.clear()
        waiting = self._units.setdefault(unit, deque())
        waiting.append(call)
        if len(waiting) == 1:
            self._begin(unit)

    def give_up(self, unit: str, call: Call, number: int = errno.ECANCELED) -> None:
        """It is answered now, if it was not yet; it is not made any more, or its result is dropped."""
        waiting = self._units.get(unit)
        if call.over or waiting is None:
            return
        if waiting[0] is not call:
            waiting.remove(call)
            call.dropped()
        self._end(call, call.failed(number))

    async def returned(self, limit_s: float) -> None:
        """Wait until none is being made, but no longer than that."""
        try:
            async with asyncio.timeout(limit_s):
                await self._quiet.wait()
        except TimeoutError:
            log.warning("calls about files of %s hang", ", ".join(sorted(self._units)))

    def close(self) -> None:
        """All are answered; those that are being made are left alone."""
        for unit, waiting in list(self._units.items()):
            for call in list(waiting):
                self.give_up(unit, call)
        self._pool.close()

    def _begin(self, unit: str) -> None:
        call = self._units[unit][0]
        # A lane of its own: this one is the unit's.
        Lane(self._pool).run(Job(functools.partial(_made, call), functools.partial(self._done, unit, call)))

    def _done(self, unit: str, call: Call, result: Any) -> None:
        waiting = self._units[unit]
        waiting.popleft()
        if waiting:
            self._begin(unit)
        else:
            del self._units[unit]
            if not self._units:
                self._quiet.set()
        if call.over:
            call.dropped()
        else:
            self._end(call, result.result if isinstance(result, _Result) else call.failed(errno.EIO))

    def _end(self, call: Call, result: Any) -> None:
        call.over = True
        if call.timer is not None:
            call.timer.cancel()
        call.answered(result)


@dataclass(slots=True)
class _Result:
    result: Any


def _made(call: Call) -> object:
    try:
        return _Result(call.call())
    except Exception:  # a mistake of ours must not end the thread
        log.exception("a call in a thread")
        return None
