"""Formatting, inspection and dump on real files, through the storage layer."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from holdfast.lease.dump import DumpedIndex, DumpedLockspace, DumpedResource, dump
from holdfast.lease.errors import LeaseError
from holdfast.lease.format import init_lockspace, init_resource
from holdfast.lease.geometry import LARGE, MIB, SMALL, Geometry
from holdfast.lease.inspect import read_lockspace, read_owners, read_resource
from holdfast.lease.rindex import format_index, list_entries, set_entry
from holdfast.storage import close_disk, open_disk
from holdfast.storage.device import Device


@pytest.mark.parametrize("geometry", [SMALL, Geometry(4096, 2 * MIB), LARGE], ids=str)
def test_an_empty_file_grows_and_is_read_back(tmp_path: Path, geometry: Geometry) -> None:
    path = tmp_path / "leases"
    path.touch()

    async def use(disk: Device) -> None:
        align = geometry.align_size
        await init_lockspace(disk, 0, "s", geometry, 3)
        await format_index(disk, align, "s", geometry)
        await init_resource(disk, 3 * align, "s", "r", geometry)
        await set_entry(disk, align, "s", "r", 3 * align)
        assert (await read_lockspace(disk, 0, "s", geometry.max_hosts)).io_timeout == 3
        assert (await read_resource(disk, 3 * align)).geometry == geometry
        assert (await read_owners(disk, 3 * align, "s", "r")).holders == ()
        assert [place.offset for place in await list_entries(disk, align, "s")] == [3 * align]
        kinds = [type(area) async for area in dump(disk)]
        assert kinds == [DumpedLockspace, DumpedIndex, DumpedResource, DumpedResource]
        with pytest.raises(LeaseError) as caught:
            await read_resource(disk, 4 * align)
        assert caught.value.code == -errno.EMSGSIZE

    async def main() -> None:
        disk = await open_disk(str(path), timeout_s=10)
        try:
            await use(disk)
        finally:
            close_disk(disk)

    asyncio.run(main())
    assert path.stat().st_size == 4 * geometry.align_size
