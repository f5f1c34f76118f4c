"""Our dump and read_leader print what the original printed (recorded outputs), and read what they must."""

from __future__ import annotations

import asyncio
import errno

import pytest

from holdfast.lease.dump import DumpedIndex, DumpedLockspace, DumpedResource, dump, find_geometry
from holdfast.lease.dump_text import SIZES_NOT_FOUND, Detail, dump_lines, leader_lines
from holdfast.lease.errors import Code, LeaseError
from holdfast.lease.geometry import LARGE, MIB, SMALL
from holdfast.lease.inspect import Kind
from holdfast.lease.records import decode_leader
from holdfast.printable import printable
from holdfast.testing.memory_disk import MemoryDisk, Transfer
from tests.vectors.dump_cases import LEADERS, Case, build, cases, golden


async def our_dump(case: Case) -> str:
    found = []
    disk = MemoryDisk(build(case.image))
    try:
        async for line in dump_lines(disk, case.offset, case.size, detail=Detail(case.detail)):
            found.append(line)
    except LeaseError as error:
        if error.code != Code.LEADER_MAGIC:
            raise
        found.append(SIZES_NOT_FOUND)
    return "".join(f"{line}\n" for line in found)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_dump_prints_what_the_original_prints(case: Case) -> None:
    assert asyncio.run(our_dump(case)) == golden()["dump"][case.name]


@pytest.mark.parametrize("name", LEADERS)
def test_leader_fields_are_printed_as_the_original_prints_them(name: str) -> None:
    option, what = LEADERS[name].split()
    kind = Kind.RESOURCE if option == "-r" else Kind.LOCKSPACE
    offset = 0 if kind is Kind.RESOURCE else (int(what.split(":")[1]) - 1) * 512
    ours = leader_lines(decode_leader(build(name)[offset:]), kind)
    assert list(ours) == golden()["read_leader"][name].splitlines()[1:]


def test_an_index_is_shown_when_sizes_are_given() -> None:
    async def first() -> DumpedIndex:
        async for area in dump(MemoryDisk(build("rindex_512_1m")), geometry=SMALL):
            assert isinstance(area, DumpedIndex)
            return area
        raise AssertionError("nothing found")

    index = asyncio.run(first())
    assert [(entry.offset, entry.entry.name) for entry in index.entries] == [(512, "aaa"), (640, "ccc")]


def test_everything_known_is_found_with_one_read_per_area() -> None:
    disk = MemoryDisk(build("whole_device"))

    async def areas() -> list[type]:
        return [type(area) async for area in dump(disk, 0, 12 * MIB)]

    kinds = asyncio.run(areas())
    assert kinds == [DumpedLockspace, DumpedIndex, *[DumpedResource] * 4, *[DumpedResource] * 4, DumpedLockspace]
    assert disk.trace == [
        Transfer("read", 0, 4096),
        *(Transfer("read", area * MIB, MIB) for area in range(12)),
    ]


def test_a_number_of_hosts_beyond_the_area_is_not_believed() -> None:
    """The original reads beyond its buffer here."""
    area = bytearray(build("res_shared_three"))
    area[:200] = decode_leader(bytes(area))._replace(num_hosts=2**64 - 1).encode()

    async def blocks() -> int:
        async for one in dump(MemoryDisk(area)):
            assert isinstance(one, DumpedResource)
            return len(one.blocks)
        return 0

    assert asyncio.run(blocks()) == 3


def test_impossible_sizes_are_an_error() -> None:
    area = bytearray(build("res_shared_three"))
    area[:200] = decode_leader(bytes(area))._replace(sector_size=777).encode()
    with pytest.raises(LeaseError) as caught:
        asyncio.run(find_geometry(MemoryDisk(area), 0, 0, 10))
    assert caught.value.code == Code.LEADER_SECTORSIZE


def test_the_search_for_sizes_ends() -> None:
    """1024 steps of a MiB, here on a device that answers every read with zeros."""
    disk = MemoryDisk(4096)

    async def endless(offset: int, length: int, timeout_s: float) -> bytes:
        disk.trace.append(Transfer("read", offset, length))
        return bytes(length)

    disk.read = endless  # type: ignore[method-assign]
    with pytest.raises(LeaseError) as caught:
        asyncio.run(find_geometry(disk, 0, 0, 10))
    assert caught.value.code == Code.LEADER_MAGIC
    assert len(disk.trace) == 1024


def test_an_offset_that_can_not_be_read_is_an_error() -> None:
    with pytest.raises(LeaseError) as caught:
        asyncio.run(our_dump(Case("late", 0, offset=7)))
    assert caught.value.code == -errno.EINVAL


def test_read_errors_are_reported_and_not_taken_for_the_end() -> None:
    disk = MemoryDisk(build("whole_device"))
    disk.fail("read", errno.EIO, 2 * MIB)

    async def areas() -> None:
        async for _ in dump(disk):
            pass

    with pytest.raises(LeaseError) as caught:
        asyncio.run(areas())
    assert caught.value.code == -errno.EIO


def test_an_area_longer_than_the_device_ends_the_dump() -> None:
    async def areas() -> list[object]:
        return [area async for area in dump(MemoryDisk(build("ls_three_live_hosts")), geometry=LARGE)]

    assert asyncio.run(areas()) == []


def test_names_can_not_drive_a_terminal() -> None:
    assert printable("\x1b[31mred\n\udcff") == "\\x1b[31mred\\x0a\\xff"
    assert printable("größe 1") == "größe 1"
