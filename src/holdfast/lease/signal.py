"""Waiting for something with a time limit, on the injected clock and without a task of its own."""

from __future__ import annotations

import asyncio

from holdfast.clock import Clock


class Signal:
    """A condition that others pull while somebody waits.

    `pulse` wakes those who wait now; `set` also lets everybody pass who waits later.
    """

    def __init__(self) -> None:
        self._waiters: dict[asyncio.Future[bool], None] = {}
        self._is_set = False

    @property
    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self.pulse()

    def pulse(self) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(True)

    async def wait(self, clock: Clock, seconds: float) -> bool:
        """True when signalled, False when about `seconds` went by; at once for values <= 0."""
        if self._is_set:
            return True
        if seconds <= 0:
            return False
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None

        def out_of_time() -> None:
            if not waiter.done():
                waiter.set_result(False)

        timer = clock.call_later(seconds, out_of_time)
        try:
            return await waiter
        finally:
            timer.cancel()
            self._waiters.pop(waiter, None)
