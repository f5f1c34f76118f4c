"""What happens, for whoever watches: unit states, ends of jobs, log lines. A slow watcher loses its feed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

MAX_PENDING: Final = 4096
"""Events that a watcher has not taken yet; one more, and its feed ends."""
MAX_WATCHERS: Final = 64

Item = Mapping[str, Any]


class TooManyWatchers(Exception):
    """Refused."""


class Watcher:
    """One reader's queue. `None` at its end."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Item | None] = asyncio.Queue(MAX_PENDING + 1)
        self.lost = False

    def put(self, item: Item) -> bool:
        """False: it is full, and over."""
        if self._queue.qsize() >= MAX_PENDING:
            self.lost = True
            self.end()
            return False
        self._queue.put_nowait(item)
        return True

    def end(self) -> None:
        """Nothing more will come."""
        if not self._queue.full():
            self._queue.put_nowait(None)

    async def next(self) -> Item | None:
        """The next event; None: the end."""
        return await self._queue.get()


class Feed:
    """All watchers."""

    def __init__(self) -> None:
        self._watchers: list[Watcher] = []

    @property
    def is_watched(self) -> bool:
        """Whether anybody looks."""
        return bool(self._watchers)

    def put(self, item: Item) -> None:
        """Something happened."""
        if self._watchers:
            self._watchers = [one for one in self._watchers if one.put(item)]

    def subscribe(self) -> Watcher:
        """A new watcher. TooManyWatchers."""
        if len(self._watchers) >= MAX_WATCHERS:
            raise TooManyWatchers(f"{MAX_WATCHERS} watchers already")
        watcher = Watcher()
        self._watchers.append(watcher)
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """It looks no more."""
        if watcher in self._watchers:
            self._watchers.remove(watcher)

    def close(self) -> None:
        """The manager leaves."""
        for watcher in self._watchers:
            watcher.end()
        self._watchers = []
