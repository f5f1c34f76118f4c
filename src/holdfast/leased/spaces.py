"""Lockspaces of this daemon: their lists, how requests match them, and who uses them (spec lease-wire 9.1 to 9.4).

State and matching only. `membership` runs the life of one lockspace.
"""

from __future__ import annotations

import asyncio
import enum
import socket
from collections.abc import Iterator
from typing import Final

from holdfast.clock import Clock
from holdfast.lease.lockspace import Lockspace
from holdfast.lease.signal import Signal
from holdfast.leased import wire
from holdfast.leased.recovery import Phase
from holdfast.storage import Device

EAGAIN: Final = -11
EEXIST: Final = -17
EINVAL: Final = -22
EINPROGRESS: Final = -115
ENOENT: Final = -2
ENOMEM: Final = -12

MAX_SPACES: Final = 949
"""On all lists together: as many as a GET_LOCKSPACES reply of the original carries (spec 13.5). Beyond it -12."""


class Listed(enum.Enum):
    """The three lists of spec 9.1."""

    ADD = "add"
    ACTIVE = "spaces"
    REM = "rem"


class Space:
    """One lockspace of this daemon, from its ADD to its end."""

    def __init__(self, number: int, name: str, host_id: int, path: str, offset: int, io_timeout: int) -> None:
        self.number = number
        self.name = name
        self.host_id = host_id
        self.path = path
        self.offset = offset
        self.io_timeout = io_timeout
        self.listed = Listed.ADD
        self.phase = Phase.HEALTHY
        self.removal_wanted = False
        self.renew_fail = False
        self.external_used = False
        self.used_by_orphans = False
        self.blocked_checks = 0
        self.lockspace: Lockspace | None = None
        self.resumed_generation = 0
        """Of the daemon before us, whose membership this is to go on with; 0: joined by this one."""
        self.resumed_link: socket.socket | None = None
        """The watchdog connection that came with it."""
        self.renewing: asyncio.Task[None] | None = None
        self.device: Device | None = None
        self.kept_devices: list[Device] = []
        """Of leases that are over, but for a leader write that may still arrive."""
        self.events: list[socket.socket] = []
        self.rindex_busy = False
        self.internal_leftovers: set[tuple[str, str]] = set()
        """Records of internal leases of resource indexes that could not be given back at once."""
        self.operations = 0
        self.acquire_last_attempt = 0
        self.set_max_sectors_kb = 0
        """What was written to the block device's queue; 0: nothing."""
        self.added: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.last_examined: dict[int, float] = {}

    @property
    def usable(self) -> bool:
        """Leases may be acquired in it."""
        return self.listed is Listed.ACTIVE and self.phase is Phase.HEALTHY

    @property
    def dead(self) -> bool:
        """It failed or is being removed: nothing is written to storage for its leases any more."""
        return self.phase is not Phase.HEALTHY or self.listed is Listed.REM

    @property
    def membership(self) -> Lockspace:
        """The lease of our host id; only for lockspaces that have joined."""
        assert self.lockspace is not None
        return self.lockspace

    def wake(self) -> None:
        """Something changed that its keeper has to look at."""
        if self.lockspace is not None:
            self.lockspace.changed.pulse()

    def operation(self) -> _Operation:
        """While a lease operation runs the lockspace counts as used, whoever started it (spec 21 no. 25)."""
        return _Operation(self)

    def same_place(self, path: str, offset: int) -> bool:
        return self.path == path and self.offset == offset

    def matches(self, wanted: wire.Lockspace) -> bool:
        """Identity for INQ and REM: name, path and offset; host id unless 0 (spec 9.1)."""
        return (
            self.name == wanted.name
            and self.same_place(wanted.disk.path, wanted.disk.offset)
            and wanted.host_id in (0, self.host_id)
        )

    def shown(self, flags: int = 0) -> wire.Lockspace:
        return wire.Lockspace(self.name, self.host_id, flags, wire.Disk(self.path, self.offset))


class _Operation:
    """One lease operation in progress. A class, because a generator costs more than the bookkeeping."""

    __slots__ = ("_space",)

    def __init__(self, space: Space) -> None:
        self._space = space

    def __enter__(self) -> None:
        self._space.operations += 1

    def __exit__(self, *_exception: object) -> None:
        space = self._space
        space.operations -= 1
        if not space.operations and space.phase is not Phase.HEALTHY:
            space.wake()


class SpaceTable:
    """All lockspaces; new ones at the head, so that listings show the newest first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._spaces: list[Space] = []
        self._last_number = 0
        self.changed = Signal()
        """Pulled whenever a lockspace changes its list or ends."""

    def __len__(self) -> int:
        return len(self._spaces)

    def __iter__(self) -> Iterator[Space]:
        return iter(list(self._spaces))

    def listed(self, *lists: Listed) -> list[Space]:
        """Members of the lists, in the order of the lists given."""
        return [space for one in lists for space in self._spaces if space.listed is one]

    def refuse_add(self, wanted: wire.Lockspace) -> int:
        """Why a lockspace cannot be added: 0 or a result code, in the order of spec 9.2."""
        path, offset = wanted.disk.path, wanted.disk.offset
        if not wanted.name or not wanted.host_id or not path:
            return EINVAL
        identical = {
            space.listed
            for space in self._spaces
            if space.name == wanted.name and space.same_place(path, offset) and space.host_id == wanted.host_id
        }
        for listed, code in ((Listed.ACTIVE, EEXIST), (Listed.ADD, EINPROGRESS), (Listed.REM, EAGAIN)):
            if listed in identical:
                return code
        if any(space.name == wanted.name or space.same_place(path, offset) for space in self._spaces):
            return EINVAL
        return ENOMEM if len(self._spaces) >= MAX_SPACES else 0

    def add(self, wanted: wire.Lockspace, io_timeout: int) -> Space:
        self._last_number += 1
        space = Space(
            self._last_number, wanted.name, wanted.host_id, wanted.disk.path, wanted.disk.offset, io_timeout
        )
        self._spaces.insert(0, space)
        return space

    def move(self, space: Space, listed: Listed) -> None:
        self._spaces.remove(space)
        self._spaces.insert(0, space)
        space.listed = listed
        self.changed.pulse()

    def remove(self, space: Space) -> None:
        self._spaces.remove(space)
        self.changed.pulse()

    def inquire(self, wanted: wire.Lockspace) -> int:
        """INQ_LOCKSPACE: 0, -115 or -2."""
        found = [space.listed for space in self._spaces if space.matches(wanted)]
        if Listed.ACTIVE in found:
            return 0
        return EINPROGRESS if found else ENOENT

    def find(self, wanted: wire.Lockspace) -> Space | None:
        """For REM: active before add before rem."""
        for space in self.listed(Listed.ACTIVE, Listed.ADD, Listed.REM):
            if space.matches(wanted):
                return space
        return None

    def active(self, name: str) -> Space | None:
        """By name among the active ones."""
        for space in self._spaces:
            if space.name == name and space.listed is Listed.ACTIVE:
                return space
        return None

    def any_named(self, name: str) -> Space | None:
        """By name on all three lists (HOST_STATUS, RENEWAL)."""
        for space in self.listed(Listed.ACTIVE, Listed.ADD, Listed.REM):
            if space.name == name:
                return space
        return None

    async def wait_changed(self, seconds: float = 86400.0) -> None:
        await self.changed.wait(self._clock, seconds)
