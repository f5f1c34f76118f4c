"""A host joined to a lockspace on a memory disk, in virtual time: for tests of what is built on lockspaces."""

from __future__ import annotations

import asyncio
import random

from holdfast.lease.format import init_lockspace
from holdfast.lease.geometry import SMALL, Geometry
from holdfast.lease.lockspace import Lockspace
from holdfast.testing.memory_disk import MemoryDisk
from holdfast.testing.sim_clock import SimClock, SimHost

SPACE = "space"


async def joined(disk: MemoryDisk, host_id: int = 1, geometry: Geometry = SMALL) -> Lockspace:
    """Formats the lockspace at offset 0 when the disk is empty; the disk's trace begins after the join."""
    if not disk.data:
        await init_lockspace(disk, 0, SPACE, geometry, 1)
    host = SimHost(asyncio.get_running_loop(), f"host-{host_id}")
    space = Lockspace(
        disk,
        SimClock(host),
        name=SPACE,
        host_id=host_id,
        host_name=f"host-{host_id}",
        io_timeout=1,
        rng=random.Random(host_id),
    )
    await space.join()
    disk.take_trace()
    return space
