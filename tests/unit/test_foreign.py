"""Records of newer formats, of other kinds, and damaged ones are refused everywhere, never taken for free.

A newer program may keep leases by rules that we do not know (compare-and-write, no timeouts). Each test puts one
such record where a normal one was and tries everything that could use it: an error, and not one write.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from holdfast.lease.errors import Code, LeaseError
from holdfast.lease.format import init_resource
from holdfast.lease.geometry import MIB, SMALL
from holdfast.lease.hosts import HostStatus
from holdfast.lease.inspect import detect_geometry, read_lockspace, read_owners, read_resource
from holdfast.lease.lockspace import Lockspace
from holdfast.lease.records import (
    DELTA_DISK_MAGIC,
    MBLOCK_SHARED,
    PAXOS_DISK_CLEAR,
    RINDEX_DISK_MAGIC,
    HostBlock,
    decode_leader,
)
from holdfast.lease.request import clear_request, write_request
from holdfast.lease.resource import AcquireOptions, Target, acquire
from holdfast.lease.rindex import create, delete, format_index, rebuild
from holdfast.testing.memory_disk import MemoryDisk
from holdfast.testing.virtual_loop import run_virtual
from tests.unit.memory_space import SPACE, joined

RES = MIB
INDEX = 2 * MIB
NOWAIT = AcquireOptions(owner_nowait=True)

FOREIGN_LEADERS: list[tuple[str, dict[str, Any], int]] = [
    ("newer flags", {"flags": 0x110}, Code.LEADER_VERSION),
    ("top flag", {"flags": 0x80000010}, Code.LEADER_VERSION),
    ("newer version", {"version": 0x00070001}, Code.LEADER_VERSION),
    ("older version", {"version": 0x00050004}, Code.LEADER_VERSION),
    ("other magic", {"magic": 0x06152011}, Code.LEADER_MAGIC),
    ("cleared", {"magic": PAXOS_DISK_CLEAR}, Code.LEADER_MAGIC),
    ("a lockspace", {"magic": DELTA_DISK_MAGIC}, Code.LEADER_MAGIC),
    ("an index", {"magic": RINDEX_DISK_MAGIC}, Code.LEADER_MAGIC),
]
FOREIGN_DELTAS: list[tuple[str, dict[str, Any], int]] = [
    ("newer flags", {"flags": 0x110}, Code.LEADER_VERSION),
    ("short hold is no flag of hosts but known", {"version": 0x00040004, "flags": 0x11}, Code.LEADER_VERSION),
    ("newer version", {"version": 0x00040000}, Code.LEADER_VERSION),
    ("other magic", {"magic": 0x12212011}, Code.LEADER_MAGIC),
    ("other lockspace", {"space_name": "other"}, Code.LEADER_LOCKSPACE),
]


def play(scenario: Callable[[MemoryDisk, Lockspace], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        disk = MemoryDisk()
        space = await joined(disk)
        await init_resource(disk, RES, SPACE, "r", SMALL)
        await format_index(disk, INDEX, SPACE, SMALL)
        await create(space, disk, INDEX, "inside")
        await scenario(disk, space)

    run_virtual(main())


async def code_of(doing: Coroutine[Any, Any, Any]) -> int:
    with pytest.raises(LeaseError) as caught:
        await doing
    return caught.value.code


def change(disk: MemoryDisk, offset: int, **fields: Any) -> None:
    """Change fields of the record at `offset`; its checksum is made to fit."""
    record = decode_leader(bytes(disk.data[offset : offset + 200]))
    disk.data[offset : offset + 200] = record._replace(**fields).encode()


def block_offset(host_id: int) -> int:
    return RES + SMALL.host_sector_offset(host_id)


def put_block(disk: MemoryDisk, host_id: int, block: HostBlock) -> None:
    disk.data[block_offset(host_id) : block_offset(host_id) + 144] = block.encode()


@pytest.mark.parametrize(
    ("fields", "code"), [case[1:] for case in FOREIGN_LEADERS], ids=[c[0] for c in FOREIGN_LEADERS]
)
def test_a_foreign_resource_is_refused_by_everybody(fields: dict[str, Any], code: int) -> None:
    async def scenario(disk: MemoryDisk, space: Lockspace) -> None:
        change(disk, RES, **fields)
        before = bytes(disk.data)
        target = Target(disk, RES, "r")
        for doing in (
            acquire(space, target, NOWAIT),
            acquire(space, target, AcquireOptions(shared=True, owner_nowait=True)),
            read_resource(disk, RES, SPACE, "r"),
            read_owners(disk, RES, SPACE, "r"),
            write_request(disk, RES, SPACE, "r", 5, 1),
            clear_request(disk, RES, SPACE, "r"),
        ):
            assert await code_of(doing) == code
        assert bytes(disk.data) == before

    play(scenario)


@pytest.mark.parametrize(
    ("fields", "code"), [case[1:] for case in FOREIGN_LEADERS], ids=[c[0] for c in FOREIGN_LEADERS]
)
def test_a_foreign_internal_lease_stops_the_index(fields: dict[str, Any], code: int) -> None:
    async def scenario(disk: MemoryDisk, space: Lockspace) -> None:
        change(disk, INDEX + MIB, **fields)
        before = bytes(disk.data)
        for doing in (
            create(space, disk, INDEX, "another"),
            delete(space, disk, INDEX, "inside"),
            rebuild(space, disk, INDEX),
        ):
            assert await code_of(doing) == code
        assert bytes(disk.data) == before

    play(scenario)


@pytest.mark.parametrize(
    "block",
    [
        HostBlock(mbal=7, lver=1, flags=0x2),
        HostBlock(mbal=7, lver=1, flags=0x80000001),
        HostBlock(mode_flags=0x2, mode_generation=1),
        HostBlock(mode_flags=MBLOCK_SHARED | 0x4, mode_generation=1),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_a_foreign_host_block_is_never_passed_over(block: HostBlock, shared: bool) -> None:
    async def scenario(disk: MemoryDisk, space: Lockspace) -> None:
        put_block(disk, 5, block)
        leader = bytes(disk.data[RES : RES + 512])
        doing = acquire(space, Target(disk, RES, "r"), AcquireOptions(shared=shared, owner_nowait=True))
        assert await code_of(doing) == Code.LEADER_VERSION
        assert bytes(disk.data[RES : RES + 512]) == leader
        assert await code_of(read_owners(disk, RES)) == Code.LEADER_VERSION

    play(scenario)


@pytest.mark.parametrize(
    ("fields", "code"), [case[1:] for case in FOREIGN_DELTAS], ids=[c[0] for c in FOREIGN_DELTAS]
)
@pytest.mark.parametrize("timestamp", [0, 77])
def test_a_foreign_owner_is_never_taken_for_gone(fields: dict[str, Any], code: int, timestamp: int) -> None:
    """Whatever its record shows where ours has the timestamp and the generation."""

    async def scenario(disk: MemoryDisk, space: Lockspace) -> None:
        change(disk, RES, owner_id=2, owner_generation=1, timestamp=50, lver=1, write_id=2)
        change(disk, 512, owner_id=2, owner_generation=9, timestamp=timestamp, **fields)
        before = bytes(disk.data)
        assert await code_of(acquire(space, Target(disk, RES, "r"))) == code
        assert await code_of(read_lockspace(disk, 0, SPACE, 2)) == code
        assert bytes(disk.data) == before

    play(scenario)


@pytest.mark.parametrize(
    ("fields", "code"), [case[1:] for case in FOREIGN_DELTAS], ids=[c[0] for c in FOREIGN_DELTAS]
)
def test_a_foreign_host_id_is_not_joined(fields: dict[str, Any], code: int) -> None:
    async def main() -> None:
        disk = MemoryDisk()
        await joined(disk)
        change(disk, 512, **fields)
        before = bytes(disk.data)
        assert await code_of(joined(disk, host_id=2)) == code
        assert bytes(disk.data) == before

    run_virtual(main())


@pytest.mark.parametrize(("fields", "code"), [case[1:] for case in FOREIGN_DELTAS[:4]])
def test_a_foreign_lockspace_is_not_joined(fields: dict[str, Any], code: int) -> None:
    """Recognised by its first record, before the own one is looked at."""

    async def main() -> None:
        disk = MemoryDisk()
        await joined(disk)
        change(disk, 0, **fields)
        before = bytes(disk.data)
        assert await code_of(joined(disk, host_id=2)) == code
        assert await code_of(detect_geometry(disk, 0, 10)) == code
        assert bytes(disk.data) == before

    run_virtual(main())


@pytest.mark.parametrize("fields", [case[1] for case in FOREIGN_DELTAS], ids=[c[0] for c in FOREIGN_DELTAS])
def test_a_sharer_whose_record_turned_foreign_is_alive(fields: dict[str, Any]) -> None:
    """Its record shows timestamp 0, but not in words we know: its mark is not cleared, the lease is refused."""

    async def scenario(disk: MemoryDisk, space: Lockspace) -> None:
        change(disk, 512, owner_id=2, owner_generation=1, timestamp=50)
        await space.renew()
        change(disk, 512, timestamp=0, owner_generation=2, **fields)
        await space.renew()
        put_block(disk, 2, HostBlock(mode_flags=MBLOCK_SHARED, mode_generation=1))
        block = bytes(disk.data[block_offset(2) : block_offset(2) + 512])
        assert space.hosts.status(2, space.clock.now()) is not HostStatus.FREE
        assert await code_of(acquire(space, Target(disk, RES, "r"), NOWAIT)) == -errno.EAGAIN
        assert bytes(disk.data[block_offset(2) : block_offset(2) + 512]) == block

    play(scenario)


@pytest.mark.parametrize("newer", [{"flags": 0x110}, {"version": 0x00040000}])
def test_silence_does_not_prove_a_host_of_a_newer_format_dead(newer: dict[str, Any]) -> None:
    async def scenario(disk: MemoryDisk, space: Lockspace) -> None:
        change(disk, 512, owner_id=2, owner_generation=1, timestamp=50, **newer)
        change(disk, 1024, owner_id=3, owner_generation=1, timestamp=50)
        await space.renew()
        later = space.clock.now() + 100_000
        assert space.hosts.alive(2, 1, later)
        assert space.hosts.status(2, later) is HostStatus.UNKNOWN
        assert not space.hosts.alive(3, 1, later)
        assert space.hosts.status(3, later) is HostStatus.DEAD

    play(scenario)


def test_a_damaged_record_proves_nothing_but_its_silence_counts() -> None:
    async def scenario(disk: MemoryDisk, space: Lockspace) -> None:
        change(disk, 512, owner_id=2, owner_generation=1, timestamp=50)
        await space.renew()
        disk.data[512:1024] = bytes(512)
        await space.renew()
        now = space.clock.now()
        assert space.hosts.alive(2, 1, now)
        assert not space.hosts.alive(2, 1, now + 100)

    play(scenario)


def test_damage_to_the_first_record_does_not_keep_the_others_out() -> None:
    """As with the original (tried): only host 1 itself is concerned."""

    async def main() -> None:
        disk = MemoryDisk()
        await joined(disk)
        disk.data[168] ^= 1
        space = await joined(disk, host_id=2)
        assert space.generation == 1
        assert await code_of(joined(disk, host_id=1)) == Code.LEADER_CHECKSUM

    run_virtual(main())


def test_sizes_from_a_damaged_first_record_do_not_lead_to_another_hosts_sector() -> None:
    """512 turned into 4096: host 2 would find host 9's record in "its" sector."""

    async def main() -> None:
        disk = MemoryDisk()
        await joined(disk)
        disk.data[12:16] = (4096).to_bytes(4, "little")
        before = bytes(disk.data)
        assert await code_of(joined(disk, host_id=2)) == Code.ADDLS_SIZES
        assert bytes(disk.data) == before

    run_virtual(main())
