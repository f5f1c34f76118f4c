"""Formatting: the installed sanlock writes the same bytes, and reads ours."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from holdfast.lease.format import init_lockspace, init_resource
from holdfast.lease.geometry import LARGE, MIB, SMALL, Geometry
from holdfast.lease.rindex import INTERNAL_LEASE, create, delete, format_index, list_entries
from holdfast.testing.memory_disk import MemoryDisk
from holdfast.testing.virtual_loop import run_virtual
from tests.unit.memory_space import SPACE, joined

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(shutil.which("sanlock") is None, reason="sanlock is missing: apt-get install sanlock"),
]

ALL_SIZES = [SMALL, Geometry(4096, MIB), Geometry(4096, 2 * MIB), Geometry(4096, 4 * MIB), LARGE]


def direct(action: str, *arguments: str) -> list[str]:
    """Lines printed by `sanlock direct`."""
    done = subprocess.run(
        ["sanlock", "direct", action, *arguments], capture_output=True, check=False, timeout=60, text=True
    )
    return done.stdout.splitlines()


def sizes(geometry: Geometry) -> list[str]:
    return ["-Z", str(geometry.sector_size), "-A", f"{geometry.align_size // MIB}M"]


@pytest.mark.parametrize("geometry", ALL_SIZES, ids=str)
@pytest.mark.parametrize("name", ["n", "n" * 48])
def test_lockspaces_have_the_same_bytes(tmp_path: Path, geometry: Geometry, name: str) -> None:
    path = tmp_path / "image"
    path.touch()
    assert direct("init", "-s", f"{name}:0:{path}:0", "-o", "7", *sizes(geometry)) == ["init done 0"]
    disk = MemoryDisk()
    asyncio.run(init_lockspace(disk, 0, name, geometry, 7))
    assert path.read_bytes() == bytes(disk.data)


@pytest.mark.parametrize("geometry", ALL_SIZES, ids=str)
@pytest.mark.parametrize("num_hosts", [0, 5, 5000])
def test_resources_have_the_same_bytes(tmp_path: Path, geometry: Geometry, num_hosts: int) -> None:
    path = tmp_path / "image"
    path.touch()
    options = ["-n", str(num_hosts)] if num_hosts else []
    assert direct("init", "-r", f"s:{'r' * 48}:{path}:0", *options, *sizes(geometry)) == ["init done 0"]
    disk = MemoryDisk()
    asyncio.run(init_resource(disk, 0, "s", "r" * 48, geometry, num_hosts=num_hosts))
    assert path.read_bytes() == bytes(disk.data)


@pytest.mark.parametrize("geometry", ALL_SIZES, ids=str)
def test_indexes_have_the_same_bytes(tmp_path: Path, geometry: Geometry) -> None:
    path = tmp_path / "image"
    path.touch()
    assert direct("format", "-x", f"s:{path}:0", *sizes(geometry)) == ["format done 0"]
    disk = MemoryDisk()
    asyncio.run(format_index(disk, 0, "s", geometry))
    theirs = bytearray(path.read_bytes())
    padding = geometry.align_size + geometry.sector_size + 20
    theirs[padding : padding + 4] = bytes(4)  # Of the request record: the original leaves memory contents there.
    assert theirs == disk.data


def test_the_original_reads_an_index_that_we_changed_and_rebuilds_it_alike(tmp_path: Path) -> None:
    disk = MemoryDisk()

    async def change() -> None:
        space = await joined(disk)
        await format_index(disk, MIB, SPACE, SMALL)
        for name in ("aaa", "b" * 48, "ccc"):
            await create(space, disk, MIB, name)
        await delete(space, disk, MIB, "aaa")

    run_virtual(change())
    path = tmp_path / "image"
    path.write_bytes(disk.data)
    index = f"{SPACE}:{path}:1M"
    assert direct("lookup", "-x", index, "-e", "ccc", *sizes(SMALL)) == [
        "lookup done 0",
        f"name ccc offset {5 * MIB}",
    ]
    assert direct("lookup", "-x", index, "-e", "aaa", *sizes(SMALL)) == ["lookup done -2"]
    leader = direct("read_leader", "-r", f"{SPACE}:{INTERNAL_LEASE}:{path}:2M")
    assert leader[0] == "read_leader done 0"
    assert "lver 4" in leader
    assert direct("rebuild", "-x", index, *sizes(SMALL)) == ["rebuild done 0"]
    assert path.read_bytes() == bytes(disk.data)


def test_we_read_an_index_that_the_original_changed(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(6 * MIB))
    index = f"s:{path}:1M"
    assert direct("format", "-x", index, *sizes(SMALL)) == ["format done 0"]
    for entry in (f"one:{4 * MIB}", f"two:{3 * MIB}"):
        assert direct("update", "-x", index, "-e", entry, *sizes(SMALL)) == ["update done 0"]
    entries = asyncio.run(list_entries(MemoryDisk(path.read_bytes()), MIB, "s"))
    assert [(place.name, place.offset) for place in entries] == [("two", 3 * MIB), ("one", 4 * MIB)]
