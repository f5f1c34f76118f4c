"""Who renders next: long listings in small steps, one step in a turn of the loop (spec path 16: no stalls).

One rendering per user is under way, users take turns, root is among them; so nobody
delays another user by more than a step per user, whatever he asks for and how often.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Generator
from typing import Final

MAX_USERS_AT_ONCE: Final = 8
"""Renderings under way, each of which holds what it has made so far; root is always among them."""
STEP_S: Final = 0.004
"""How long the loop does nothing else; what is begun between two yields is finished."""
REST: Final = 1.0
"""How long users other than root pause after a step, as a share of its time: they never take the whole core."""
ROOT: Final = 0

Frame = list[bytearray]
"""A reply as it goes out, in pieces."""
Work = Generator[None, None, Frame]
"""Yields between steps."""


class Turns:
    """Advances renderings. `run` has to run for `render` to end."""

    def __init__(self) -> None:
        self._waiting: dict[int, deque[tuple[Work, asyncio.Future[Frame]]]] = {}
        self._order: deque[int] = deque()
        self._wake = asyncio.Event()

    async def render(self, uid: int, rendering: Work) -> Frame:
        """Its frame. What the rendering raises comes out here; when this is cancelled, it ends unfinished."""
        done: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        if uid not in self._waiting:
            self._waiting[uid] = deque()
            self._queue_up(uid)
        self._waiting[uid].append((rendering, done))
        self._wake.set()
        return await done

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._order:
                self._wake.clear()
                await self._wake.wait()
            uid = self._next()
            began = loop.time()
            self._step(uid)
            await asyncio.sleep(0 if ROOT in self._waiting else (loop.time() - began) * REST)

    def _next(self) -> int:
        """Whose turn it is. Those behind the first `MAX_USERS_AT_ONCE` wait until one of them has nothing left."""
        uid = self._order.popleft()
        self._order.insert(MAX_USERS_AT_ONCE - 1, uid)
        return uid

    def _step(self, uid: int) -> None:
        waiting = self._waiting[uid]
        rendering, done = waiting[0]
        over = done.done()
        if over:
            rendering.close()
        else:
            over = _advance(rendering, done)
        if over:
            waiting.popleft()
            self._order.remove(uid)
            if waiting:
                # Behind those who have not begun yet: eight users who never stop do not keep the ninth waiting.
                self._queue_up(uid)
            else:
                del self._waiting[uid]

    def _queue_up(self, uid: int) -> None:
        if uid == ROOT:
            self._order.appendleft(uid)
        else:
            self._order.append(uid)


def _advance(rendering: Work, done: asyncio.Future[Frame]) -> bool:
    """Go on for `STEP_S`; whether that was the end."""
    until = time.monotonic() + STEP_S
    try:
        next(rendering)
        while time.monotonic() < until:
            next(rendering)
    except StopIteration as end:
        done.set_result(end.value)
    except Exception as error:
        done.set_exception(error)
    else:
        return False
    return True
