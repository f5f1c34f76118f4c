"""What the daemon asks about block devices; `Discovery` answers it, and `holdfast.testing.FakeDiscovery`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from holdfast.path.conf import Config
from holdfast.path.discovery.info import PathInfo
from holdfast.path.discovery.kernel_timeouts import Wish
from holdfast.path.discovery.uevents import CHANGE, Uevent
from holdfast.path.records import Log
from holdfast.path.states import PathState


class Finder(Protocol):
    """What the daemon needs; `Discovery`, and `holdfast.testing.FakeDiscovery`."""

    @property
    def excluded(self) -> Mapping[str, str]:
        """Disks that are left alone, and why: as of the last scan and what was read since."""
        ...

    @property
    def queued_events(self) -> int:
        """Events that wait to be handed out (`busy` of show status)."""
        ...

    def use(self, config: Config) -> None:
        """This configuration counts from now on."""
        ...

    def start(self) -> None:
        """Hear of events from now on: before the first scan, so that nothing is missed. OSError."""
        ...

    def close(self) -> None:
        """No further events or reads. Does not wait for threads that hang."""
        ...

    def sysfs_state(self, info: PathInfo) -> PathState:
        """What the kernel says of the device, before any checker is asked (2.1). Does not block."""
        ...

    async def scan(self) -> list[PathInfo]:
        """All disks that may be paths, in udev's order. One that does not answer is as it was."""
        ...

    async def read(self, dev: str, *, fallback: bool = False) -> PathInfo | None:
        """One disk. None: gone, or excluded (see `excluded`). `fallback`: do not wait for udev's WWID any more.
        ReadTimeout.
        """
        ...

    def events(self) -> AsyncIterator[Uevent]:
        """Without end; what came since `start`. To be iterated by one task."""
        ...

    async def retrigger(self, dev: str, action: str = CHANGE) -> bool:
        """Have the kernel send an event of the disk. False: it cannot be done."""
        ...

    async def set_kernel_timeouts(self, wishes: Sequence[Wish]) -> list[Log]:
        """For the paths of a map that is set up. What was done and refused, to be logged."""
        ...
