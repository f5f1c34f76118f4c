"""Disks in memory, with the interface of the path daemon's discovery.

    finder = FakeDiscovery()
    finder.add(PathInfo("sda", "8:0", 131072, wwid="3600..."))       there, and an add event
    finder.change("sda", {"DISK_RO": "1"}, read_only=True)           changed, and a change event
    finder.remove("sda")                                             gone, and a remove event
    finder.hang("sdb"); finder.exclude("sdc", "(wwid x) blacklisted")
    finder.set_state("sda", PathState.DOWN)                          what `sysfs_state` says
    finder.send(Uevent("change", "dm-0", ...)); finder.lose_events()
    finder.retriggered, finder.wishes                                what was asked for

`on_retrigger` is called with each retriggered disk, as udev would answer.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from holdfast.path.conf import Config
from holdfast.path.discovery.calls import ReadTimeout
from holdfast.path.discovery.info import PathInfo
from holdfast.path.discovery.kernel_timeouts import Wish
from holdfast.path.discovery.uevents import ADD, CHANGE, REMOVE, Uevent, UeventQueue
from holdfast.path.records import Log
from holdfast.path.states import PathState


class FakeDiscovery:
    """See the module's text. One that hangs raises ReadTimeout at once, so that no time has to pass."""

    def __init__(self, *infos: PathInfo) -> None:
        self.disks: dict[str, PathInfo] = {info.dev: info for info in infos}
        self.config: Config | None = None
        self.reads: list[tuple[str, bool]] = []
        """Disks that were read, and whether the fallback was allowed."""
        self.retriggered: list[tuple[str, str]] = []
        self.wishes: list[Wish] = []
        self.states: dict[str, PathState] = {}
        self.on_retrigger: Callable[[str], None] | None = None
        self._hanging: set[str] = set()
        self._excluded: dict[str, str] = {}
        self._queue = UeventQueue()
        self._arrived = asyncio.Event()

    # What happens to the disks.

    def add(self, info: PathInfo, *, silently: bool = False) -> None:
        """A new disk, or one that replaces another of its name."""
        self.disks[info.dev] = info
        if not silently:
            self.send(Uevent(ADD, info.dev, info.dev_t, dict(info.properties)))

    def change(self, dev: str, properties: Mapping[str, str] | None = None, **changes: object) -> None:
        """Other values of `PathInfo`, and a change event with `properties`. KeyError: there is none."""
        info = dataclasses.replace(self.disks[dev], **changes)  # type: ignore[arg-type]
        self.disks[dev] = info
        self.send(Uevent(CHANGE, dev, info.dev_t, dict(properties or info.properties)))

    def remove(self, dev: str, *, silently: bool = False) -> None:
        """It is gone. KeyError: there was none."""
        info = self.disks.pop(dev)
        self.states.pop(dev, None)
        if not silently:
            self.send(Uevent(REMOVE, dev, info.dev_t))

    def hang(self, dev: str, hangs: bool = True) -> None:
        """Reading it ends in ReadTimeout."""
        (self._hanging.add if hangs else self._hanging.discard)(dev)

    def exclude(self, dev: str, reason: str = "blacklisted") -> None:
        """It is left alone; empty: not any more."""
        if reason:
            self._excluded[dev] = reason
        else:
            self._excluded.pop(dev, None)

    def set_state(self, dev: str, state: PathState) -> None:
        """What `sysfs_state` says of it."""
        self.states[dev] = state

    def send(self, event: Uevent) -> None:
        """As if the kernel, or udev, had sent it."""
        self._queue.put(event)
        self._arrived.set()

    def lose_events(self) -> None:
        """As if the kernel's buffer had been full."""
        self._queue.lost()
        self._arrived.set()

    # The interface.

    @property
    def excluded(self) -> Mapping[str, str]:
        return self._excluded

    @property
    def queued_events(self) -> int:
        """Waiting to be handed out."""
        return len(self._queue)

    def use(self, config: Config) -> None:
        self.config = config

    def start(self) -> None:
        """Events are heard from the beginning."""

    def close(self) -> None:
        """Nothing to give back."""

    def sysfs_state(self, info: PathInfo) -> PathState:
        """REMOVED when it is gone, else what was set, else UP."""
        return self.states.get(info.dev, PathState.UP) if info.dev in self.disks else PathState.REMOVED

    async def scan(self) -> list[PathInfo]:
        await asyncio.sleep(0)
        return [info for info in self.disks.values() if info.dev not in self._excluded]

    async def read(self, dev: str, *, fallback: bool = False) -> PathInfo | None:
        self.reads.append((dev, fallback))
        await asyncio.sleep(0)
        if dev in self._hanging:
            raise ReadTimeout(110, "no answer", dev)
        info = self.disks.get(dev)
        if info is None or dev in self._excluded:
            return None
        if fallback and not info.wwid and info.device_wwid:
            return dataclasses.replace(info, wwid=info.device_wwid, wwid_source="sysfs")
        return info

    async def events(self) -> AsyncIterator[Uevent]:
        while True:
            self._arrived.clear()
            while (event := self._queue.take()) is not None:
                yield event
            await self._arrived.wait()

    async def retrigger(self, dev: str, action: str = CHANGE) -> bool:
        self.retriggered.append((dev, action))
        if dev not in self.disks:
            return False
        if self.on_retrigger is not None:
            self.on_retrigger(dev)
        return True

    async def set_kernel_timeouts(self, wishes: Sequence[Wish]) -> list[Log]:
        self.wishes += wishes
        return []
