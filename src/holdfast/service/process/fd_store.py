"""Descriptors that services leave with the supervisor (spec supervisor 9.6)."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from holdfast.service.process import kernel

MAX_EVENTS: Final = 64


@dataclass(slots=True)
class _Stored:
    unit: str
    name: str
    fd: int
    polled: bool


class FdStore:
    """Of all units. Most recently stored first, as they are handed back."""

    def __init__(self) -> None:
        self._units: dict[str, list[_Stored]] = {}
        self._polled: dict[int, _Stored] = {}
        # The loop's own way of watching would wake for data that nobody reads here: only ends count.
        self._poll = select.epoll()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._poll, self._hung_up)

    def of(self, unit: str) -> list[tuple[str, int]]:
        """Names and descriptors; they stay the store's."""
        return [(one.name, one.fd) for one in self._units.get(unit, ())]

    def add(
        self, unit: str, name: str, fds: list[int], limit: int, poll: bool, log: Callable[[str, int], None]
    ) -> None:
        """Takes all of `fds`; those that are duplicates or too many are closed."""
        stored = self._units.setdefault(unit, [])
        while fds:
            fd = fds.pop(0)
            if any(_same(one.fd, fd) for one in stored):
                os.close(fd)
            elif len(stored) >= limit:
                log(f"Cannot store more fds than FileDescriptorStoreMax={limit}, closing remaining.", 4)
                for rest in (fd, *fds):
                    os.close(rest)
                fds.clear()
            else:
                one = _Stored(unit, name, fd, poll and self._watch(fd))
                stored.insert(0, one)
                if one.polled:
                    self._polled[fd] = one
        if not stored:
            del self._units[unit]

    def _watch(self, fd: int) -> bool:
        try:
            self._poll.register(fd, 0)
        except OSError:
            return False  # A regular file has no end.
        return True

    def _hung_up(self) -> None:
        for fd, _events in self._poll.poll(0, MAX_EVENTS):
            one = self._polled.get(fd)
            if one is not None:
                self._drop(one)

    def _drop(self, one: _Stored) -> None:
        if self._polled.pop(one.fd, None) is not None:
            try:
                self._poll.unregister(one.fd)
            except OSError:
                pass
        os.close(one.fd)
        stored = self._units[one.unit]
        stored.remove(one)
        if not stored:
            del self._units[one.unit]

    def remove(self, unit: str, name: str) -> None:
        """All of that name."""
        for one in list(self._units.get(unit, ())):
            if one.name == name:
                self._drop(one)

    def clear(self, unit: str) -> None:
        """All of a unit."""
        for one in list(self._units.get(unit, ())):
            self._drop(one)

    def close(self) -> None:
        """All."""
        for unit in list(self._units):
            self.clear(unit)
        self._loop.remove_reader(self._poll)
        self._poll.close()


def _same(first: int, second: int) -> bool:
    try:
        return kernel.same_file(os.getpid(), first, second)
    except OSError:
        return False
