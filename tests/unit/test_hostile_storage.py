"""Whatever lies on storage, readers answer or raise LeaseError: nothing else, and nothing is written."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from holdfast.lease.dump_text import Detail, dump_lines, leader_lines
from holdfast.lease.errors import LeaseError
from holdfast.lease.geometry import SMALL
from holdfast.lease.inspect import Kind, detect_geometry, read_lockspace, read_owners, read_resource
from holdfast.lease.records import decode_leader
from holdfast.lease.request import write_request
from holdfast.lease.rindex import list_entries, lookup
from holdfast.testing.memory_disk import MemoryDisk
from tests.vectors.disk_vectors import image, names

IMAGES = {name: image(name) for name in names() if len(image(name)) == 1024 * 1024}

INTERESTING = st.one_of(
    st.binary(min_size=1, max_size=64),
    st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\x00\x02\x00\x00", b"\x00\x10\x00\x00", b"\x7f" + b"\xff" * 7]),
)
EDITS = st.lists(st.tuples(st.integers(0, 4 * 512), INTERESTING), max_size=4)


async def read_everything(disk: MemoryDisk) -> None:
    async def dump_text() -> None:
        async for line in dump_lines(disk, detail=Detail.BLOCKS):
            assert line.isprintable()

    attempts: list[Coroutine[Any, Any, Any]] = [
        detect_geometry(disk, 0, 1),
        detect_geometry(disk, 0, 1, Kind.LOCKSPACE),
        read_lockspace(disk, 0),
        read_lockspace(disk, 0, "x", 2, SMALL),
        read_resource(disk, 0),
        read_owners(disk, 0),
        read_owners(disk, 0, geometry=SMALL),
        lookup(disk, 0, "X"),
        lookup(disk, 0, "X", "aaa", 3 * 1024 * 1024),
        list_entries(disk, 0, "X", SMALL),
        write_request(disk, 0, "a name", "that does not occur", 1, 1),
        dump_text(),
    ]
    for attempt in attempts:
        with contextlib.suppress(LeaseError):
            await attempt
    for line in leader_lines(decode_leader(bytes(disk.data[:512].ljust(512, b"\0"))), Kind.RESOURCE):
        assert line.isprintable()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(IMAGES)), EDITS)
@example("rindex_512_1m", [(24, b"\0" * 8)])
@example("res_shared_three", [(16, b"\xff" * 16)])
def test_edited_images(name: str, edits: list[tuple[int, bytes]]) -> None:
    data = bytearray(IMAGES[name])
    for position, content in edits:
        data[position : position + len(content)] = content
    disk = MemoryDisk(bytes(data))
    asyncio.run(read_everything(disk))
    assert bytes(disk.data) == bytes(data)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=8192))
def test_garbage_of_any_length(data: bytes) -> None:
    disk = MemoryDisk(data)
    asyncio.run(read_everything(disk))
    assert bytes(disk.data) == data
