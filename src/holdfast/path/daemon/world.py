"""What the daemon needs of the world around it, as interfaces: each has a real and a fake implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from holdfast.path.checkers.base import Checker
from holdfast.path.conf import Config
from holdfast.path.discovery.info import PathInfo
from holdfast.path.discovery.kernel_timeouts import Wish
from holdfast.path.dm import DeviceMapper
from holdfast.path.path_settings import PathSettings
from holdfast.path.records import Log, Path
from holdfast.path.states import PathState

T = TypeVar("T")


class Uevent(Protocol):
    """One event of udev for a block device: `discovery.uevents.Uevent`."""

    @property
    def action(self) -> str:
        """add, remove, change, ..."""
        ...

    @property
    def dev(self) -> str:
        """sda, dm-3"""
        ...

    @property
    def dev_t(self) -> str: ...

    @property
    def properties(self) -> Mapping[str, str]: ...

    @property
    def merged(self) -> Sequence[Uevent]:
        """Further ones of the same action and WWID."""
        ...

    @property
    def is_rescan(self) -> bool:
        """Events were lost: look at everything."""
        ...

    @property
    def is_map(self) -> bool:
        """Of a device-mapper device."""
        ...

    @property
    def map_wwid(self) -> str:
        """Of a multipath map; "": it is none."""
        ...

    @property
    def failed_path(self) -> str:
        """`8:0`: the kernel has failed this path of the map; "": not that."""
        ...


class Discovery(Protocol):
    """Block devices as sysfs and udev know them: `discovery.facade.Discovery`."""

    @property
    def excluded(self) -> Mapping[str, str]:
        """Disks that are left alone, and why."""
        ...

    @property
    def queued_events(self) -> int: ...

    def use(self, config: Config) -> None:
        """This configuration counts from now on."""
        ...

    def start(self) -> None:
        """Hear of events from now on. OSError."""
        ...

    async def scan(self) -> list[PathInfo]:
        """All disks that may be paths, in the order in which they are listed from then on."""
        ...

    async def read(self, dev: str, *, fallback: bool = False) -> PathInfo | None:
        """One device anew; None: gone, or excluded. OSError: no answer. `fallback`: without udev's WWID."""
        ...

    def events(self) -> AsyncIterator[Uevent]: ...

    async def retrigger(self, dev: str, action: str = "change") -> bool:
        """Have the kernel send an event of the disk."""
        ...

    async def set_kernel_timeouts(self, wishes: Sequence[Wish]) -> list[Log]:
        """For the paths of a map that is set up. What was done and refused, to be logged."""
        ...

    def sysfs_state(self, info: PathInfo) -> PathState:
        """At once (spec 2.1)."""
        ...

    def close(self) -> None: ...


class DmCalls(Protocol):
    """Blocking calls to the device-mapper, one lane per map: `kernel.ThreadedKernel`."""

    async def call(self, name: str, work: Callable[[DeviceMapper], T], timeout_s: float = ...) -> T: ...

    def close(self) -> None: ...


class Blocking(Protocol):
    """Any other call that blocks, such as reading files: `blocking.Threads`."""

    async def run(self, lane: str, work: Callable[[], T], timeout_s: float = ...) -> T:
        """OSError ETIMEDOUT when it does not end in time; what it raises is passed on."""
        ...

    def close(self) -> None: ...


MakeChecker = Callable[[Path, PathInfo], Checker]
"""The checker that a path's record names. Does not block: the device is opened with the first check. KeyError."""

AskPriority = Callable[[Path, PathInfo, PathSettings, float], Awaitable[int] | int]
"""The priority of a path; negative: an error. Answers in so many seconds; a number where nothing is asked."""

LockPaths = Callable[[list[str]], AbstractContextManager[None]]
"""Hold udev off these devices while a map is made of them. Blocks; BlockingIOError: somebody else has one."""

SampleErrors = Callable[[Path, PathInfo, float], Awaitable[tuple[int, int]]]
"""Read a path for so many seconds: errors, and reads that ended (spec 4.9)."""
