"""The resource index: operations, their I/O, their order, and what must be refused (spec section 11)."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.lease.errors import Code, LeaseError
from holdfast.lease.format import init_lockspace, init_resource
from holdfast.lease.geometry import MIB, SMALL, Geometry
from holdfast.lease.inspect import read_resource
from holdfast.lease.lockspace import Lockspace
from holdfast.lease.records import (
    RINDEX_DISK_MAGIC,
    RINDEX_VERSION,
    RindexEntry,
    RindexHeader,
    decode_host_block,
    decode_leader,
)
from holdfast.lease.resource import Lease, Target, Unclear, acquire
from holdfast.lease.rindex import (
    INTERNAL_LEASE,
    Place,
    create,
    delete,
    format_index,
    list_entries,
    lookup,
    open_index,
    rebuild,
    rebuild_unlocked,
    set_entry,
)
from holdfast.lease.rindex_layout import Entries, Index
from holdfast.testing.memory_disk import MemoryDisk, Transfer
from holdfast.testing.virtual_loop import run_virtual
from tests.unit.memory_space import SPACE, joined
from tests.vectors.disk_vectors import image

INDEX = MIB
LEASE = 2 * MIB
FIRST = 3 * MIB
TABLE = 512 + 64 * 4096
BIG = Geometry(4096, 2 * MIB)


def play(scenario: Callable[[MemoryDisk, Lockspace], Coroutine[Any, Any, None]], max_resources: int = 0) -> None:
    async def main() -> None:
        disk = MemoryDisk()
        space = await joined(disk)
        await format_index(disk, INDEX, SPACE, SMALL, max_resources)
        disk.take_trace()
        await scenario(disk, space)

    run_virtual(main())


async def code_of(doing: Coroutine[Any, Any, Any]) -> int:
    with pytest.raises(LeaseError) as caught:
        await doing
    return caught.value.code


def entry_at(disk: MemoryDisk, slot: int) -> bytes:
    start = INDEX + 512 + 64 * slot
    return bytes(disk.data[start : start + 64])


def writes(trace: list[Transfer]) -> list[tuple[int, int]]:
    return [(one.offset, one.length) for one in trace if one.operation == "write"]


# -- format --------------------------------------------------------------------------------------------------


def test_format_gives_the_bytes_of_the_original_with_two_writes() -> None:
    disk = MemoryDisk(MIB)
    asyncio.run(format_index(disk, MIB, "X", SMALL))
    assert disk.trace == [Transfer("write", MIB, MIB), Transfer("write", 2 * MIB, MIB)]
    assert bytes(disk.data[MIB : 2 * MIB]) == image("rindex_empty_512_1m")
    lease = asyncio.run(read_resource(disk, 2 * MIB, "X", INTERNAL_LEASE))
    assert lease.leader.num_hosts == 2000


@pytest.mark.parametrize(
    ("geometry", "flag", "most"),
    [
        (SMALL, 1, 16000),
        (Geometry(4096, MIB), 1, 16000),
        (BIG, 2, 32000),
        (Geometry(4096, 4 * MIB), 4, 64000),
        (Geometry(4096, 8 * MIB), 8, 128000),
    ],
)
def test_max_resources_is_cut_to_what_fits(geometry: Geometry, flag: int, most: int) -> None:
    disk = MemoryDisk()
    index = asyncio.run(format_index(disk, 0, "X", geometry, 10**9))
    assert (index.header.flags, index.header.sector_size, index.header.max_resources) == (
        flag,
        geometry.sector_size,
        most,
    )
    again = asyncio.run(open_index(disk, 0, "X"))
    assert (again.header, again.geometry, again.slot_count) == (index.header, geometry, most)
    assert again.used_length <= geometry.align_size


@pytest.mark.parametrize(
    ("offset", "name", "count"), [(512, "X", 0), (-MIB, "X", 0), (MIB, "", 0), (MIB, "x" * 49, 0), (MIB, "X", -1)]
)
def test_format_refuses_before_anything_is_written(offset: int, name: str, count: int) -> None:
    disk = MemoryDisk(4 * MIB)
    assert asyncio.run(code_of(format_index(disk, offset, name, SMALL, count))) == -errno.EINVAL
    assert disk.trace == []


def test_format_needs_room_for_the_lease_too() -> None:
    disk = MemoryDisk(2 * MIB, is_block_device=True)
    assert asyncio.run(code_of(format_index(disk, MIB, "X", SMALL))) == -errno.EMSGSIZE
    assert writes(disk.trace) == []


# -- reading -------------------------------------------------------------------------------------------------


def recorded(name: str = "rindex_512_1m") -> MemoryDisk:
    return MemoryDisk(bytes(MIB) + image(name) + bytes(MIB))


async def find(disk: MemoryDisk, name: str = "", offset: int = 0) -> Place:
    return await lookup(disk, INDEX, "X", name, offset, SMALL)


def test_lookup_of_an_index_of_the_original() -> None:
    """aaa in slot 0, bbb deleted from slot 1, ccc in slot 2; answers as the original gives them."""
    disk = recorded()

    async def check() -> None:
        assert await find(disk, "aaa") == Place("aaa", 3 * MIB)
        assert await find(disk, "aaa", 3 * MIB) == Place("aaa", 3 * MIB)
        assert await find(disk, offset=5 * MIB) == Place("ccc", 5 * MIB)
        assert await find(disk, offset=4 * MIB) == Place("", 4 * MIB)
        assert await find(disk) == Place("", 4 * MIB)
        assert await code_of(find(disk, "bbb")) == -errno.ENOENT
        assert await code_of(find(disk, "aa")) == -errno.ENOENT
        assert await code_of(find(disk, "aaa", 5 * MIB)) == Code.RINDEX_DIFF
        assert await code_of(find(disk, "bbb", 4 * MIB)) == Code.RINDEX_DIFF
        assert await list_entries(disk, INDEX, "X") == [Place("aaa", 3 * MIB), Place("ccc", 5 * MIB)]

    asyncio.run(check())


def test_lookup_reads_the_header_and_the_table() -> None:
    disk = recorded()
    asyncio.run(find(disk, "aaa"))
    assert disk.trace == [Transfer("read", INDEX, 512), Transfer("read", INDEX, TABLE)]


@pytest.mark.parametrize("offset", [512, INDEX, LEASE, FIRST + 1, FIRST + 4096 * MIB, 2**62])
def test_offsets_that_are_no_slot_are_refused(offset: int) -> None:
    """The original takes all but the unaligned ones, and underflows below the first slot."""
    disk = recorded()
    before = bytes(disk.data)
    assert asyncio.run(code_of(find(disk, offset=offset))) == Code.RINDEX_OFFSET
    assert asyncio.run(code_of(set_entry(disk, INDEX, "X", "new", offset, SMALL))) == Code.RINDEX_OFFSET
    assert bytes(disk.data) == before


def test_a_stray_entry_in_the_header_sector_is_not_listed() -> None:
    places = asyncio.run(list_entries(recorded("rindex_underflow_entry"), INDEX, "X"))
    assert [place.name for place in places] == ["aaa", "aaa", "ccc"]


def header(**change: Any) -> RindexHeader:
    good = RindexHeader(RINDEX_DISK_MAGIC, RINDEX_VERSION, 1, 512, 4096, 0, INDEX, "X")
    return good._replace(**change)


HEADER_FAULTS: list[tuple[dict[str, Any], int]] = [
    ({"magic": 0}, Code.RINDEX_MAGIC),
    ({"version": 0x00020002}, Code.RINDEX_VERSION),
    ({"flags": 0x11}, Code.RINDEX_VERSION),
    ({"lockspace_name": "Y"}, Code.RINDEX_LOCKSPACE),
    ({"rx_offset": 2 * INDEX}, Code.RINDEX_OFFSET),
    ({"sector_size": 777}, Code.LEADER_SECTORSIZE),
    ({"sector_size": 512, "flags": 8}, Code.ADDLS_SIZES),
    ({"sector_size": 4096, "flags": 2}, Code.RINDEX_OFFSET),
]


@pytest.mark.parametrize(("change", "code"), HEADER_FAULTS)
def test_headers_that_can_not_be_believed(change: dict[str, Any], code: int) -> None:
    disk = recorded()
    disk.data[INDEX : INDEX + 80] = header(**change).encode()
    for doing in (
        find(disk),
        set_entry(disk, INDEX, "X", "new", FIRST, SMALL),
        rebuild_unlocked(disk, INDEX, "X", SMALL),
    ):
        assert asyncio.run(code_of(doing)) == code
    assert writes(disk.trace) == []


@pytest.mark.parametrize(("stored", "used"), [(0, 16000), (5, 5), (2**32 - 1, 16000)])
def test_the_number_of_slots_stays_within_the_area(stored: int, used: int) -> None:
    disk = recorded()
    disk.data[INDEX : INDEX + 80] = header(max_resources=stored).encode()
    index = asyncio.run(open_index(disk, INDEX, "X"))
    assert index.slot_count == used
    asyncio.run(find(disk))


def test_an_entry_with_the_offset_of_another_place_is_not_followed() -> None:
    """A damaged entry for `evil` points to the lockspace at 0: deleting it must not clear the lockspace."""

    async def scenario(disk: MemoryDisk, space: Lockspace) -> None:
        start = INDEX + 512
        disk.data[start : start + 64] = RindexEntry(res_offset=0, name="evil").encode()
        before = bytes(disk.data[:MIB])
        assert await code_of(lookup(disk, INDEX, SPACE, "evil", 0, SMALL)) == Code.RINDEX_DIFF
        assert await code_of(delete(space, disk, INDEX, "evil")) == Code.RINDEX_DIFF
        assert bytes(disk.data[:MIB]) == before

    play(scenario)


# -- the table against a plain reading -------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["", "a", "ab", "b" * 48, "b" * 47, "ä"]), max_size=12), st.data())
def test_searching_bytes_finds_what_decoding_finds(names: list[str], data: st.DataObject) -> None:
    index = Index(MemoryDisk(), 0, header(rx_offset=0, max_resources=12), SMALL)
    entries = Entries(index, bytes(index.used_length))
    for slot, name in enumerate(names):
        entries[slot] = RindexEntry(res_offset=index.slot_offset(slot) if name else 0, name=name)
    wanted = data.draw(st.sampled_from(["a", "ab", "b" * 48, "b" * 47, "b", "ä", "c"]))
    padded = names + [""] * (12 - len(names))
    assert entries.has(wanted) == (wanted in padded)
    if wanted in padded:
        assert entries.find(wanted) == padded.index(wanted)
    if "" in padded:
        assert entries.first_free() == padded.index("")
    else:
        with pytest.raises(LeaseError):
            entries.first_free()
    assert list(entries.used()) == [(slot, name) for slot, name in enumerate(padded) if name]


def test_an_entry_without_name_but_with_an_offset_is_not_free() -> None:
    index = Index(MemoryDisk(), 0, header(rx_offset=0, max_resources=3), SMALL)
    entries = Entries(index, bytes(index.used_length))
    entries[0] = RindexEntry(res_offset=index.slot_offset(0))
    assert entries.first_free() == 1


# -- changes ---------------------------------------------------------------------------------------------------


def test_create_writes_the_resource_before_the_entry_and_releases_the_lease() -> None:
    async def scenario(disk: MemoryDisk, space: Lockspace) -> None:
        assert await create(space, disk, INDEX, "aaa", num_hosts=5) == FIRST
        trace = disk.take_trace()
        assert trace[0] == Transfer("read", INDEX, 512)
        assert [one for one in trace if one.operation == "read" and one.length == TABLE] == [
            Transfer("read", INDEX, TABLE)
        ]
        # Ballot (twice the own block, then the leader), resource, entry, RELEASED, leader.
        assert writes(trace) == [
            (LEASE + 1024, 512),
            (LEASE + 1024, 512),
            (LEASE, 512),
            (FIRST, MIB),
            (INDEX + 512, 512),
            (LEASE + 1024, 512),
            (LEASE, 512),
        ]
        assert entry_at(disk, 0) == RindexEntry(FIRST, 0, 0, "aaa").encode()
        info = await read_resource(disk, FIRST, SPACE, "aaa")
        assert (info.leader.num_hosts, info.lver) == (5, 0)
        internal = await read_resource(disk, LEASE, SPACE, INTERNAL_LEASE)
        assert (internal.lver, internal.leader.timestamp) == (1, 0)
        assert decode_host_block(bytes(disk.data[LEASE + 1024 : LEASE + 1536]))[0].released
        assert await create(space, disk, INDEX, "bbb") == FIRST + MIB

    play(scenario)


def test_delete_frees_the_entry_before_the_resource_is_cleared() -> None:
    async def scenario(disk: MemoryDisk, space: Lockspace) -> None:
        for name in ("aaa", "bbb", "ccc"):
            await create(space, disk, INDEX, name)
        disk.take_trace()
        await delete(space, disk, INDEX, "bbb")
        assert writes(disk.take_trace())[3:5] == [(INDEX + 512, 512), (FIRST + MIB, MIB)]
        assert entry_at(disk, 1) == bytes(64)
        assert await code_of(read_resource(disk, FIRST + MIB)) == Code.LEADER_MAGIC
        assert await list_entries(disk, INDEX, SPACE) == [Place("aaa", FIRST), Place("ccc", FIRST + 2 * MIB)]
        assert await create(space, disk, INDEX, "ddd") == FIRST + MIB

    play(scenario)


def test_what_create_and_delete_refuse() -> None:
    async def scenario(disk: MemoryDisk, space: Lockspace) -> None:
        await create(space, disk, INDEX, "aaa")
        assert await code_of(create(space, disk, INDEX, "aaa")) == -errno.EEXIST
        assert await create(space, disk, INDEX, "aaa", unique=False) == FIRST + MIB
        assert await code_of(create(space, disk, INDEX, "bbb")) == -errno.ENOENT
        assert await code_of(create(space, disk, INDEX, "")) == -errno.EINVAL
        assert await code_of(delete(space, disk, INDEX, "zzz")) == -errno.ENOENT
        assert await code_of(delete(space, disk, INDEX, "aaa", 512)) == Code.RINDEX_OFFSET
        # The internal lease was given back each time.
        internal = await read_resource(disk, LEASE)
        assert internal.leader.timestamp == 0
        assert len(disk.data) == FIRST + 2 * MIB

    play(scenario, max_resources=2)


def test_operations_of_one_daemon_exclude_each_other() -> None:
    async def scenario(disk: MemoryDisk, space: Lockspace) -> None:
        gate = asyncio.Event()
        plain_read = disk.read

        async def held_up(offset: int, length: int, timeout_s: float) -> bytes:
            await gate.wait()
            return await plain_read(offset, length, timeout_s)

        disk.read = held_up  # type: ignore[method-assign]
        first = asyncio.create_task(create(space, disk, INDEX, "aaa"))
        await asyncio.sleep(0)
        for doing in (
            create(space, disk, INDEX, "bbb"),
            delete(space, disk, INDEX, "a"),
            rebuild(space, disk, INDEX),
        ):
            assert await code_of(doing) == -errno.EBUSY
        gate.set()
        assert await first == FIRST
        await delete(space, disk, INDEX, "aaa")

    play(scenario)


def test_a_live_holder_of_the_internal_lease_is_not_waited_for() -> None:
    async def scenario(disk: MemoryDisk, space: Lockspace) -> None:
        other = await joined(disk, host_id=2)
        lease = await acquire(other, Target(disk, LEASE, INTERNAL_LEASE))
        assert lease.lver == 1
        await other.renew()
        disk.take_trace()
        code = await code_of(create(space, disk, INDEX, "aaa"))
        assert code in (Code.ACQUIRE_IDLIVE, Code.ACQUIRE_OWNED_RETRY)
        assert writes(disk.trace) == []

    play(scenario)


def test_nothing_is_written_for_a_lost_lockspace() -> None:
    async def scenario(disk: MemoryDisk, space: Lockspace) -> None:
        await create(space, disk, INDEX, "aaa")
        space.fail()
        disk.take_trace()
        for doing in (
            create(space, disk, INDEX, "bbb"),
            delete(space, disk, INDEX, "aaa"),
            rebuild(space, disk, INDEX),
        ):
            assert await code_of(doing) == -errno.ENOSPC
        assert writes(disk.trace) == []

    play(scenario)


def test_a_lockspace_lost_in_the_middle_stops_the_next_write() -> None:
    """Rule 15: lost while the resource is being formatted; the entry is not written, nor is the lease freed."""

    async def scenario(disk: MemoryDisk, space: Lockspace) -> None:
        disk.after = lambda transfer: space.fail() if transfer.offset == FIRST else None
        assert await code_of(create(space, disk, INDEX, "aaa")) == -errno.ENOSPC
        assert writes(disk.trace)[-1] == (FIRST, MIB)
        assert entry_at(disk, 0) == bytes(64)

    play(scenario)


@pytest.mark.parametrize("lost_after", [Transfer("read", INDEX, TABLE), Transfer("write", INDEX + 512, 512)])
def test_a_lost_lockspace_does_not_format_anything(lost_after: Transfer) -> None:
    """Lost after the table was read: nothing more; lost after delete freed the entry: the resource stays."""

    async def scenario(disk: MemoryDisk, space: Lockspace) -> None:
        await create(space, disk, INDEX, "aaa")
        disk.take_trace()
        disk.after = lambda transfer: space.fail() if transfer == lost_after else None
        if lost_after.operation == "read":
            assert await code_of(create(space, disk, INDEX, "bbb")) == -errno.ENOSPC
        else:
            assert await code_of(delete(space, disk, INDEX, "aaa")) == -errno.ENOSPC
        assert MIB not in [length for _, length in writes(disk.trace)]
        assert (await read_resource(disk, FIRST)).resource_name == "aaa"

    play(scenario)


def test_a_lease_that_can_not_be_given_back_is_handed_over() -> None:
    async def scenario(disk: MemoryDisk, space: Lockspace) -> None:
        left: list[Lease | Unclear] = []

        async def take_over(what: Lease | Unclear) -> None:
            left.append(what)

        def after_the_entry(transfer: Transfer) -> None:
            if transfer == Transfer("write", INDEX + 512, 512):
                disk.fail("write", errno.ETIMEDOUT)

        disk.after = after_the_entry
        assert await create(space, disk, INDEX, "aaa", leftover=take_over) == FIRST
        assert len(left) == 1
        assert isinstance(left[0], Lease)

    play(scenario)


def test_set_entry_changes_one_sector_and_keeps_its_neighbours() -> None:
    disk = recorded()
    asyncio.run(set_entry(disk, INDEX, "X", "bbb", 4 * MIB, SMALL))
    assert disk.trace == [
        Transfer("read", INDEX, 512),
        Transfer("read", INDEX + 512, 512),
        Transfer("write", INDEX + 512, 512),
    ]
    names = [place.name for place in asyncio.run(list_entries(disk, INDEX, "X"))]
    assert names == ["aaa", "bbb", "ccc"]
    asyncio.run(set_entry(disk, INDEX, "X", "", 3 * MIB, SMALL))
    assert [place.name for place in asyncio.run(list_entries(disk, INDEX, "X"))] == ["bbb", "ccc"]
    assert asyncio.run(code_of(set_entry(disk, INDEX, "X", "n", 0, SMALL))) == -errno.EINVAL
    assert asyncio.run(code_of(set_entry(disk, INDEX, "X", "n" * 49, 3 * MIB, SMALL))) == -errno.EINVAL


# -- rebuild ---------------------------------------------------------------------------------------------------


def test_rebuild_finds_what_create_left_behind() -> None:
    async def scenario(disk: MemoryDisk, space: Lockspace) -> None:
        for name in ("aaa", "bbb", "ccc"):
            await create(space, disk, INDEX, name)
        await delete(space, disk, INDEX, "bbb")
        before = bytes(disk.data[INDEX : INDEX + MIB])
        disk.data[INDEX + 512 : INDEX + MIB] = bytes(MIB - 512)
        disk.take_trace()
        assert await rebuild(space, disk, INDEX) == 2
        assert bytes(disk.data[INDEX : INDEX + MIB]) == before
        trace = disk.take_trace()
        slots = [one for one in trace if one.operation == "read" and one.offset >= FIRST]
        assert slots == [Transfer("read", FIRST + slot * MIB, 512) for slot in range(4)]
        assert (INDEX, MIB) in writes(trace)

    play(scenario)


def test_rebuild_keeps_a_damaged_resource() -> None:
    disk = MemoryDisk(bytes(MIB) + image("rindex_empty_512_1m") + bytes(MIB) + image("bad_leader_checksum"))
    assert asyncio.run(rebuild_unlocked(disk, INDEX, "X", SMALL)) == 1
    assert asyncio.run(find(disk, "res1")) == Place("res1", FIRST)


@pytest.mark.parametrize("what", ["lockspace", "index", "newer version", "newer flags"])
def test_rebuild_refuses_what_it_would_otherwise_offer_as_free(what: str) -> None:
    disk = MemoryDisk(bytes(MIB) + image("rindex_512_1m") + bytes(MIB))

    async def prepare() -> None:
        await init_resource(disk, FIRST, "X", "aaa", SMALL)
        if what == "lockspace":
            await init_lockspace(disk, FIRST + MIB, "Z", SMALL)
        elif what == "index":
            await format_index(disk, FIRST + MIB, "Z", SMALL)
        else:
            await init_resource(disk, FIRST + MIB, "X", "bbb", SMALL)
            change: dict[str, Any] = {"version": 0x00070000} if what == "newer version" else {"flags": 0x110}
            record = decode_leader(bytes(disk.data[FIRST + MIB :]))._replace(**change)
            disk.data[FIRST + MIB : FIRST + MIB + 200] = record.encode()
        disk.take_trace()
        await rebuild_unlocked(disk, INDEX, "X", SMALL)

    expected = Code.RINDEX_DIFF if what in ("lockspace", "index") else Code.LEADER_VERSION
    assert asyncio.run(code_of(prepare())) == expected
    assert writes(disk.trace) == []


def test_rebuild_stops_at_a_read_error_without_writing() -> None:
    disk = MemoryDisk(bytes(MIB) + image("rindex_512_1m") + bytes(5 * MIB))
    disk.fail("read", errno.EIO, FIRST + 2 * MIB)
    assert asyncio.run(code_of(rebuild_unlocked(disk, INDEX, "X", SMALL))) == -errno.EIO
    assert writes(disk.trace) == []
