"""Formatting: what is refused before anything is written, how much is written, and failures (spec 6.1, 8.2)."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Coroutine
from typing import Any

import pytest

from holdfast.lease.errors import Code, LeaseError
from holdfast.lease.format import default_geometry_of, init_lockspace, init_resource
from holdfast.lease.geometry import LARGE, MIB, SMALL, Geometry
from holdfast.lease.inspect import Kind, detect_geometry, read_lockspace, read_resource
from holdfast.testing.memory_disk import MemoryDisk, Transfer


def code_of(doing: Coroutine[Any, Any, Any]) -> int:
    with pytest.raises(LeaseError) as caught:
        asyncio.run(doing)
    return caught.value.code


ALL_SIZES = [SMALL, Geometry(4096, MIB), Geometry(4096, 2 * MIB), Geometry(4096, 4 * MIB), LARGE]


@pytest.mark.parametrize("geometry", ALL_SIZES)
def test_what_was_formatted_is_recognised(geometry: Geometry) -> None:
    disk = MemoryDisk()
    offset = 3 * geometry.align_size
    asyncio.run(init_lockspace(disk, 0, "s" * 48, geometry, 255))
    asyncio.run(init_resource(disk, offset, "s" * 48, "r" * 48, geometry))
    assert asyncio.run(detect_geometry(disk, 0, 10, Kind.LOCKSPACE)) == geometry
    assert asyncio.run(detect_geometry(disk, offset, 10, Kind.RESOURCE)) == geometry
    last = asyncio.run(read_lockspace(disk, 0, "s" * 48, geometry.max_hosts))
    assert (last.io_timeout, last.record.timestamp, last.geometry) == (255, 0, geometry)
    info = asyncio.run(read_resource(disk, offset, "s" * 48, "r" * 48))
    assert (info.leader.num_hosts, info.leader.max_hosts) == (geometry.max_hosts, geometry.max_hosts)


@pytest.mark.parametrize(
    ("given", "stored"), [(0, 2000), (1, 1), (7, 7), (2000, 2000), (2001, 2000), (2**40, 2000)]
)
def test_number_of_hosts(given: int, stored: int) -> None:
    disk = MemoryDisk()
    asyncio.run(init_resource(disk, 0, "s", "r", SMALL, num_hosts=given))
    assert asyncio.run(read_resource(disk, 0)).leader.num_hosts == stored


def test_sizes_when_nobody_says() -> None:
    assert default_geometry_of(MemoryDisk()) == SMALL
    assert default_geometry_of(MemoryDisk(is_block_device=True)) == SMALL
    assert default_geometry_of(MemoryDisk(is_block_device=True, block_size=4096)) == LARGE
    assert default_geometry_of(MemoryDisk(block_size=4096)) == LARGE
    device = MemoryDisk(8 * MIB, is_block_device=True, block_size=4096)
    assert asyncio.run(init_lockspace(device, 0, "s")) == LARGE


BAD_ARGUMENTS: list[dict[str, Any]] = [
    {"offset": 512},
    {"offset": MIB + 4096},
    {"offset": -MIB},
    {"offset": 2**63 - MIB},
    {"offset": MIB, "geometry": LARGE},
    {"name": ""},
    {"name": "x" * 49},
    {"name": "ä" * 25},
    {"name": "a\0b"},
]


@pytest.mark.parametrize("change", BAD_ARGUMENTS)
def test_bad_arguments_are_refused_before_any_io(change: dict[str, Any]) -> None:
    offset, geometry, name = change.get("offset", 0), change.get("geometry", SMALL), change.get("name", "n")
    disk = MemoryDisk(8 * MIB, is_block_device=True)
    assert code_of(init_lockspace(disk, offset, name, geometry)) == -errno.EINVAL
    assert code_of(init_resource(disk, offset, name, "r", geometry)) == -errno.EINVAL
    assert code_of(init_resource(disk, offset, "s", name, geometry)) == -errno.EINVAL
    assert disk.trace == []


@pytest.mark.parametrize("io_timeout", [-1, 256, 65536])
def test_io_timeouts_that_do_not_survive_are_refused(io_timeout: int) -> None:
    disk = MemoryDisk()
    assert code_of(init_lockspace(disk, 0, "s", SMALL, io_timeout)) == -errno.EINVAL
    assert disk.trace == []


def test_io_timeout_0_is_the_default() -> None:
    disk = MemoryDisk()
    asyncio.run(init_lockspace(disk, 0, "s", SMALL, 0))
    assert asyncio.run(read_lockspace(disk, 0)).io_timeout == 10


def test_small_sectors_on_a_device_with_large_ones_are_refused() -> None:
    disk = MemoryDisk(8 * MIB, is_block_device=True, block_size=4096)
    assert code_of(init_lockspace(disk, 0, "s", SMALL)) == -errno.EINVAL
    assert disk.trace == []


def test_a_negative_number_of_hosts_is_refused() -> None:
    assert code_of(init_resource(MemoryDisk(), 0, "s", "r", SMALL, num_hosts=-1)) == -errno.EINVAL


@pytest.mark.parametrize("size", [0, 4096, MIB, 2 * MIB - 512])
def test_a_short_device_is_refused_before_anything_is_written(size: int) -> None:
    disk = MemoryDisk(size, is_block_device=True)
    assert code_of(init_lockspace(disk, MIB, "s", SMALL)) == -errno.EMSGSIZE
    assert code_of(init_resource(disk, MIB, "s", "r", SMALL)) == -errno.EMSGSIZE
    assert {one.operation for one in disk.trace} == {"read"}


def test_a_device_that_just_fits_is_formatted_after_one_small_read() -> None:
    disk = MemoryDisk(2 * MIB, is_block_device=True)
    asyncio.run(init_resource(disk, MIB, "s", "r", SMALL))
    assert disk.trace == [Transfer("read", 2 * MIB - 512, 512), Transfer("write", MIB, MIB)]


def test_a_full_disk_is_reported() -> None:
    assert code_of(init_lockspace(MemoryDisk(max_size=4096), 0, "s", SMALL)) == -errno.ENOSPC


def test_a_lockspace_whose_commit_failed_can_not_be_joined() -> None:
    disk = MemoryDisk()
    disk.after = lambda transfer: disk.fail("write", errno.EIO) if transfer.length == MIB else None
    assert code_of(init_lockspace(disk, 0, "s", SMALL)) == -errno.EIO
    assert len(disk.data) == MIB
    assert code_of(detect_geometry(disk, 0, 10, Kind.LOCKSPACE)) == Code.LEADER_MAGIC
    assert code_of(read_lockspace(disk, 0, "s", 1, SMALL)) == Code.LEADER_MAGIC
    assert asyncio.run(read_lockspace(disk, 0, "s", 2, SMALL)).record.timestamp == 0


def test_a_missed_deadline_has_its_own_code() -> None:
    disk = MemoryDisk()
    disk.fail("write", errno.ETIMEDOUT)
    assert code_of(init_resource(disk, 0, "s", "r", SMALL)) == Code.AIO_TIMEOUT
