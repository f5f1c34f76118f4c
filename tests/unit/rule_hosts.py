"""A few hosts on one simulated disk, for tests of single rules: an image, a clock and a membership per host."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from holdfast.lease.geometry import LFL_ALIGN_1M, MIB
from holdfast.lease.lockspace import RENEWAL_HISTORY, Lockspace
from holdfast.lease.records import (
    DELTA_DISK_MAGIC,
    DELTA_VERSION,
    PAXOS_DISK_MAGIC,
    PAXOS_VERSION,
    HostBlock,
    Leader,
    Request,
    decode_host_block,
    decode_leader,
    whole_sector,
)
from holdfast.lease.resource import Target
from holdfast.testing.sim_clock import SimClock, SimHost
from holdfast.testing.sim_disk import Op, SimDisk, SimStorage

SPACE = "space"
RESOURCE = "res"
AREA = MIB
IO = 2
FIRE = 60
NUM_HOSTS = 8
WATCHED = 8

_EMPTY = Leader(0, 0, LFL_ALIGN_1M, 512, 0, 1, 0, 0, 0, SPACE, "", 0, 0, 0, 0, IO, 0, 0, 0)
FREE_HOST = _EMPTY._replace(magic=DELTA_DISK_MAGIC, version=DELTA_VERSION)
FREE_LEASE = _EMPTY._replace(
    magic=PAXOS_DISK_MAGIC,
    version=PAXOS_VERSION,
    num_hosts=NUM_HOSTS,
    max_hosts=2000,
    resource_name=RESOURCE,
    io_timeout=0,
)


class Site:
    """The disk, and hosts that use it. Host id N runs as `host-N` with its own clock."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.storage = SimStorage(self.loop, 8 * MIB)
        for host_id in range(1, 2001):
            self.poke_host(host_id, FREE_HOST)
        self.poke_leader(FREE_LEASE)
        self.storage.poke(AREA + 512, whole_sector(Request().encode(), 512))
        self.trace: list[tuple[str, int, int]] = []
        self.storage.watcher = self

    # DiskWatcher
    def submitted(self, op: Op) -> None:
        self.trace.append((op.kind, op.offset, op.length))

    def landed(self, op: Op, before: bytes) -> None:
        pass

    def completed(self, op: Op, outcome: str) -> None:
        pass

    def host(
        self,
        host_id: int,
        name: str | None = None,
        *,
        io: int = IO,
        trust_own_name: bool = True,
        history_size: int = RENEWAL_HISTORY,
    ) -> Lockspace:
        host = SimHost(self.loop, f"host-{host_id}")
        return Lockspace(
            self.storage.attach(host),
            SimClock(host, boot_s=1000.0 * host_id),
            name=SPACE,
            host_id=host_id,
            host_name=name or f"host-{host_id}",
            io_timeout=io,
            fire_timeout=FIRE,
            watch_limit=WATCHED,
            trust_own_name=trust_own_name,
            history_size=history_size,
            rng=random.Random(host_id),
        )

    async def joined(self, host_id: int, name: str | None = None) -> Lockspace:
        space = self.host(host_id, name)
        await space.join()
        await space.renew()
        self.trace.clear()
        return space

    def target(self, space: Lockspace) -> Target:
        return Target(space.disk, AREA, RESOURCE)

    def peek_host(self, host_id: int) -> Leader:
        return decode_leader(self.storage.peek((host_id - 1) * 512, 512))

    def poke_host(self, host_id: int, record: Leader) -> None:
        self.storage.poke((host_id - 1) * 512, whole_sector(record.encode(), 512))

    def peek_leader(self) -> Leader:
        return decode_leader(self.storage.peek(AREA, 512))

    def poke_leader(self, leader: Leader) -> None:
        self.storage.poke(AREA, whole_sector(leader.encode(), 512))

    def peek_block(self, host_id: int) -> HostBlock:
        return decode_host_block(self.storage.peek(AREA + (host_id + 1) * 512, 512))[0]

    def poke_block(self, host_id: int, block: HostBlock) -> None:
        self.storage.poke(AREA + (host_id + 1) * 512, whole_sector(block.encode(), 512))

    def corrupt(self, offset: int, at: int) -> None:
        """Flip one bit of byte `at` of the sector at `offset`."""
        sector = bytearray(self.storage.peek(offset, 512))
        sector[at] ^= 1
        self.storage.poke(offset, bytes(sector))


def disk_of(space: Lockspace) -> SimDisk:
    assert isinstance(space.disk, SimDisk)
    return space.disk


def writes_to(offset: int) -> Callable[[Op], bool]:
    return lambda op: op.kind == "W" and op.offset == offset
