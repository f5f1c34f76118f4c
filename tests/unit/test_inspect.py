"""Reading without taking part: names, sizes, codes and I/O of the read commands (spec lease-disk 1, 10.3)."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Coroutine
from typing import Any

import pytest

from holdfast.lease.errors import Code, LeaseError
from holdfast.lease.format import init_resource
from holdfast.lease.geometry import LARGE, MIB, SMALL, Geometry
from holdfast.lease.inspect import (
    Holder,
    Kind,
    detect_geometry,
    read_lockspace,
    read_owners,
    read_resource,
)
from holdfast.lease.records import PAXOS_DISK_MAGIC, HostBlock, Leader, decode_leader
from holdfast.testing.memory_disk import MemoryDisk, Transfer
from tests.vectors.disk_vectors import image


def code_of(doing: Coroutine[Any, Any, Any]) -> int:
    with pytest.raises(LeaseError) as caught:
        asyncio.run(doing)
    return caught.value.code


def resource(*, owner: tuple[int, int, int] = (0, 0, 0), num_hosts: int = 8, **blocks: HostBlock) -> MemoryDisk:
    """A resource at offset 0; blocks as h1=..., h2=..."""
    disk = MemoryDisk()
    asyncio.run(init_resource(disk, 0, "s", "r", SMALL, num_hosts=num_hosts))
    leader = decode_leader(bytes(disk.data[:200]))._replace(
        owner_id=owner[0], owner_generation=owner[1], timestamp=owner[2]
    )
    put(disk, leader)
    for name, block in blocks.items():
        start = SMALL.host_sector_offset(int(name[1:]))
        disk.data[start : start + 144] = block.encode()
    disk.take_trace()
    return disk


def put(disk: MemoryDisk, leader: Leader) -> None:
    disk.data[:200] = leader.encode()


SHARED = HostBlock(mbal=1, flags=1, mode_flags=1, mode_generation=3)


def test_read_lockspace_needs_two_small_reads_or_one() -> None:
    disk = MemoryDisk(image("ls_three_live_hosts"))
    info = asyncio.run(read_lockspace(disk, 0, "", 2))
    assert (info.name, info.host_id, info.io_timeout, info.geometry) == ("vector-ls", 2, 2, SMALL)
    assert disk.take_trace() == [Transfer("read", 0, 4096), Transfer("read", 512, 512)]
    asyncio.run(read_lockspace(disk, 0, "vector-ls", 1, SMALL))
    assert disk.take_trace() == [Transfer("read", 0, 512)]


def test_read_lockspace_errors() -> None:
    disk = MemoryDisk(image("ls_three_live_hosts"))
    assert code_of(read_lockspace(disk, 0, "other")) == Code.LEADER_LOCKSPACE
    assert code_of(read_lockspace(disk, 0, "", 0)) == -errno.EINVAL
    assert code_of(read_lockspace(disk, 0, "", 2001)) == Code.LEADER_MAGIC
    odd = MemoryDisk(image("ls_three_live_hosts"))
    put(odd, decode_leader(bytes(odd.data[:200]))._replace(sector_size=1024))
    assert code_of(read_lockspace(odd, 0)) == -errno.EINVAL
    assert code_of(read_lockspace(disk, MIB)) == -errno.EMSGSIZE
    assert code_of(read_lockspace(disk, 7)) == -errno.EINVAL
    assert code_of(read_lockspace(MemoryDisk(image("res_released")), 0)) == Code.LEADER_MAGIC
    disk.fail("read", errno.EIO)
    assert code_of(read_lockspace(disk, 0)) == -errno.EIO
    disk.fail("read", errno.ETIMEDOUT)
    assert code_of(read_lockspace(disk, 0)) == Code.AIO_TIMEOUT


def test_read_resource_needs_one_small_read() -> None:
    disk = MemoryDisk(image("res_released"))
    info = asyncio.run(read_resource(disk, 0))
    assert (info.space_name, info.resource_name, info.lver, info.geometry) == ("vector-ls", "res2", 2, SMALL)
    assert disk.take_trace() == [Transfer("read", 0, 4096)]
    asyncio.run(read_resource(disk, 0, "vector-ls", "res2", SMALL))
    assert disk.take_trace() == [Transfer("read", 0, 512)]


def test_read_resource_errors() -> None:
    disk = MemoryDisk(image("res_released"))
    assert code_of(read_resource(disk, 0, "other")) == Code.LEADER_LOCKSPACE
    assert code_of(read_resource(disk, 0, "", "other")) == Code.LEADER_RESOURCE
    assert code_of(read_resource(disk, MIB)) == -errno.EMSGSIZE
    assert code_of(read_resource(MemoryDisk(bytes(MIB)), 0)) == Code.LEADER_MAGIC
    assert code_of(read_resource(MemoryDisk(image("res_cleared")), 0)) == Code.LEADER_MAGIC


def test_errors_say_where() -> None:
    with pytest.raises(LeaseError, match="memory:1048576: leader record: magic 0x0"):
        asyncio.run(read_resource(MemoryDisk(bytes(2 * MIB)), MIB))


def test_geometry_of_either_kind() -> None:
    lockspace, lease = MemoryDisk(image("init_ls_4096_2m")), MemoryDisk(image("init_res_4096_2m"))
    sizes = Geometry(4096, 2 * MIB)
    assert asyncio.run(detect_geometry(lockspace, 0, 10)) == sizes
    assert asyncio.run(detect_geometry(lease, 0, 10)) == sizes
    assert code_of(detect_geometry(lease, 0, 10, Kind.LOCKSPACE)) == Code.LEADER_MAGIC
    assert code_of(detect_geometry(lockspace, 0, 10, Kind.RESOURCE)) == Code.LEADER_MAGIC


def test_a_damaged_first_record_still_tells_the_sizes() -> None:
    """It is host 1's; the original lets the other hosts join."""
    area = bytearray(image("ls_three_live_hosts"))
    area[168] ^= 1
    assert asyncio.run(detect_geometry(MemoryDisk(area), 0, 10, Kind.LOCKSPACE)) == SMALL


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"version": 0x00070004}, Code.LEADER_VERSION),
        ({"flags": 0x110}, Code.LEADER_VERSION),
        ({"sector_size": 777}, Code.LEADER_SECTORSIZE),
        ({"sector_size": 0}, Code.LEADER_SECTORSIZE),
        ({"flags": 0x80}, Code.ADDLS_SIZES),
    ],
)
def test_sizes_that_can_not_be(change: dict[str, Any], code: int) -> None:
    disk = resource()
    put(disk, decode_leader(bytes(disk.data[:200]))._replace(**change))
    assert code_of(detect_geometry(disk, 0, 10)) == code
    assert code_of(read_resource(disk, 0)) == code
    assert code_of(read_owners(disk, 0)) == (code if change.get("sector_size") != 0 else -errno.EINVAL)


@pytest.mark.parametrize("magic", [0, PAXOS_DISK_MAGIC])
@pytest.mark.parametrize(
    ("sector_size", "flags", "code"), [(0, 0, -22), (0, 0x10, -22), (1024, 0, -1), (1024, 0x10, None)]
)
def test_owners_where_sizes_say_nothing(magic: int, sector_size: int, flags: int, code: int | None) -> None:
    """As the original, which looks at the sizes before the magic."""
    disk = resource()
    change: dict[str, Any] = {"magic": magic, "sector_size": sector_size, "flags": flags}
    put(disk, decode_leader(bytes(disk.data[:200]))._replace(**change))
    assert code_of(read_owners(disk, 0)) == (code or (Code.LEADER_SECTORSIZE if magic else Code.LEADER_MAGIC))


def test_owners_of_nothing_in_a_short_file() -> None:
    assert code_of(read_owners(MemoryDisk(bytes(4096)), 0)) == -errno.EMSGSIZE


def test_names_of_owners_must_be_equal_even_when_empty() -> None:
    assert code_of(read_owners(resource(), 0, "", "r")) == Code.LEADER_LOCKSPACE
    assert code_of(read_owners(resource(), 0, "s", "")) == Code.LEADER_RESOURCE


@pytest.mark.parametrize(
    "change", [{"num_hosts": 2001}, {"num_hosts": 2**64 - 1}, {"max_hosts": 0}, {"max_hosts": 2**64 - 1}]
)
def test_numbers_of_hosts_that_can_not_be(change: dict[str, Any]) -> None:
    """The original's daemon dies when asked for the owners of such a resource."""
    disk = resource()
    put(disk, decode_leader(bytes(disk.data[:200]))._replace(**change))
    assert code_of(read_owners(disk, 0)) == Code.LEADER_NUMHOSTS
    assert code_of(read_resource(disk, 0)) == Code.LEADER_NUMHOSTS


def test_owners_are_read_with_a_small_and_an_exact_read() -> None:
    disk = resource(owner=(2, 4, 99), h3=SHARED, h8=SHARED._replace(mode_generation=9))
    owners = asyncio.run(read_owners(disk, 0, "s", "r", SMALL))
    assert owners.holders == (Holder(2, 4, 99), Holder(3, 3, 0), Holder(8, 9, 0))
    assert owners.shared
    assert disk.trace == [Transfer("read", 0, 4096), Transfer("read", 0, 10 * 512)]


def test_blocks_beyond_num_hosts_do_not_count() -> None:
    disk = resource(num_hosts=2, h3=SHARED)
    assert asyncio.run(read_owners(disk, 0)).holders == ()


def test_an_owner_that_is_marked_shared_is_listed_once() -> None:
    owners = asyncio.run(read_owners(resource(owner=(3, 3, 99), h3=SHARED), 0))
    assert owners.holders == (Holder(3, 3, 99),)
    assert owners.shared


def test_sizes_given_and_wrong_are_refused() -> None:
    assert code_of(read_owners(resource(), 0, "s", "r", LARGE)) == -errno.EINVAL
    assert code_of(read_owners(MemoryDisk(bytes(MIB)), 0, "s", "r", LARGE)) == -errno.EINVAL


def test_damage_without_meaning_for_the_list_is_passed_over() -> None:
    disk = resource(owner=(2, 4, 99), h3=HostBlock(mbal=7, lver=1))
    disk.data[SMALL.host_sector_offset(3) + 48] ^= 1
    assert asyncio.run(read_owners(disk, 0)).holders == (Holder(2, 4, 99),)


def test_an_area_that_is_formatted_between_the_reads_is_noticed() -> None:
    disk = resource()
    smaller = resource(num_hosts=3).data

    def formatted_meanwhile(transfer: Transfer) -> None:
        disk.data[:] = smaller

    disk.after = formatted_meanwhile
    assert code_of(read_owners(disk, 0)) == Code.LEADER_DIFF
