"""Hearing that some child has died, whichever (spec supervisor 12.2).

Children that are known have pidfds. Orphans are the supervisor's children before anybody knows them; only SIGCHLD
or waitid tell of their end. SIGCHLD is not for this: all signals of the process go through one small pipe of the
event loop, and when hundreds of children die at once it is full and a SIGTERM is lost. So a thread waits, without
reaping.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Final

PAUSE_S: Final = 0.01
"""From one notice to the next: what is not reaped yet would be noticed over and over."""
NO_CHILD_S: Final = 0.5
JOIN_LIMIT_S: Final = 1.0


class Deaths:
    """Calls back in the loop, soon after a child's end and as long as there are zombies."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._go = threading.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._wait, name="deaths", daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        while not self._closed:
            try:
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                self._go.wait(NO_CHILD_S)
                continue
            if self._closed:
                return
            try:
                self._loop.call_soon_threadsafe(self._notice)
            except RuntimeError:
                return  # The loop is closed.
            self._go.wait()
            self._go.clear()

    def _notice(self) -> None:
        if self._closed:
            return
        self._timer = self._loop.call_later(PAUSE_S, self._go.set)
        self._callback()

    def stop(self) -> None:
        """No callback any more. The thread leaves when the next child has ended."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._go.set()

    def join(self) -> None:
        """After `stop`, while a zombie is there."""
        self._thread.join(JOIN_LIMIT_S)
