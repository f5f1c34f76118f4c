"""Choosing a host id, and storage on which no lockspace can be joined; with real records in files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from holdfast.client.daemon import Daemon
from holdfast.client.errors import ClientError
from holdfast.client.host_ids import HostRecord, Membership, choose_host_id, read_membership
from holdfast.client.space import SpaceRequest, ensure_joined, make_space_file
from holdfast.lease.errors import LeaseError
from holdfast.lease.format import init_lockspace
from holdfast.lease.geometry import MIB
from holdfast.lease.records import Leader, decode_leader, whole_sector
from holdfast.storage import close_disk, close_storage, open_disk
from holdfast.testing import FakeDaemon, FakeStorage

ME = "me"


def membership(*records: HostRecord, damaged: frozenset[int] = frozenset(), max_hosts: int = 4) -> Membership:
    return Membership("web", max_hosts, MIB, 10, records, damaged)


def used(host_id: int, name: str, timestamp: int = 77) -> HostRecord:
    return HostRecord(host_id, name, 1, timestamp, 10)


@pytest.mark.parametrize(
    ("found", "refused", "chosen"),
    [
        (membership(), [], 1),
        (membership(used(1, "other")), [], 2),
        (membership(used(1, "other", 0)), [], 1),
        (membership(used(1, "other", 0), used(3, ME, 0)), [], 3),
        (membership(used(1, "other"), used(3, ME)), [], 3),
        (membership(used(3, ME)), [3], 1),
        (membership(used(1, "other"), damaged=frozenset({2})), [], 3),
        (membership(used(3, ME), damaged=frozenset({3})), [], 1),
        (membership(*(used(n, "other") for n in (1, 2, 3, 4))), [], None),
        (membership(used(1, "other"), used(2, "other")), [3, 4], None),
    ],
)
def test_the_choice_of_a_host_id(found: Membership, refused: list[int], chosen: int | None) -> None:
    assert choose_host_id(found, ME, refused) == chosen


def formatted(path: Path, io_timeout: int = 10, name: str = "web") -> Path:
    async def write() -> None:
        path.touch()
        disk = await open_disk(str(path), timeout_s=10)
        try:
            await init_lockspace(disk, 0, name, io_timeout=io_timeout)
        finally:
            close_disk(disk)
            close_storage()

    asyncio.run(write())
    return path


def change(path: Path, host_id: int, **fields: Any) -> None:
    raw = bytearray(path.read_bytes())
    at = (host_id - 1) * 512
    changed: Leader = decode_leader(bytes(raw[at : at + 512]))._replace(**fields)
    raw[at : at + 512] = whole_sector(changed.encode(), 512)
    path.write_bytes(raw)


def test_the_records_of_a_real_lockspace(tmp_path: Path) -> None:
    path = formatted(tmp_path / "web", io_timeout=3)
    change(path, 2, owner_id=2, owner_generation=5, timestamp=99, resource_name=ME, io_timeout=7)
    raw = bytearray(path.read_bytes())
    raw[512 * 2 + 200 : 512 * 3] = b"x" * 312
    raw[512 * 3 + 40] ^= 1
    path.write_bytes(raw)
    found = asyncio.run(read_membership(str(path), 0, "web"))
    assert found.records == (HostRecord(2, ME, 5, 99, 7),)
    assert found.damaged == frozenset({4})
    assert (found.max_hosts, found.io_timeout) == (2000, 3)
    with pytest.raises(LeaseError) as other:
        asyncio.run(read_membership(str(path), 0, "db"))
    assert other.value.code == -226


async def join(directory: Path, request: SpaceRequest) -> tuple[int, list[str]]:
    """What `ensure_joined` makes of it, with a daemon that would join anything."""
    storage = FakeStorage()
    storage.make_space(request.name, request.path, io_timeout=10)
    async with FakeDaemon(directory / "run", storage, ME) as daemon, asyncio.timeout(20):
        joined = await ensure_joined(Daemon(daemon.run_dir), request)
        return joined.host_id, [call.command for call in daemon.calls]


def test_an_id_is_chosen_from_storage(tmp_path: Path) -> None:
    path = formatted(tmp_path / "web")
    change(path, 1, owner_id=1, owner_generation=1, timestamp=5, resource_name="other")
    host_id, calls = asyncio.run(join(tmp_path, SpaceRequest("web", str(path))))
    assert host_id == 2
    assert calls.count("ADD_LOCKSPACE") == 1


@pytest.mark.parametrize(
    ("content", "step"),
    [
        (None, "make it: holdfast lease init --space web:0:{path}:0 --with-index"),
        (b"", "format it (erases what is there): holdfast lease init --space web:0:{path}:0 --with-index"),
        (bytes(MIB), "format it (erases what is there): holdfast lease init --space web:0:{path}:0 --with-index"),
        (b"garbage " * 1000, "format it (erases what is there)"),
    ],
)
def test_storage_without_a_lockspace_is_explained(tmp_path: Path, content: bytes | None, step: str) -> None:
    path = tmp_path / "web"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ClientError) as caught:
        asyncio.run(join(tmp_path, SpaceRequest("web", str(path))))
    assert step.format(path=path) in str(caught.value)
    assert content is None or path.read_bytes() == content


def test_an_io_timeout_with_which_joining_takes_too_long_is_refused(tmp_path: Path) -> None:
    path = formatted(tmp_path / "web", io_timeout=10)
    with pytest.raises(ClientError, match="--io-timeout 4 or more"):
        asyncio.run(join(tmp_path, SpaceRequest("web", str(path), io_timeout=1)))
    assert asyncio.run(join(tmp_path, SpaceRequest("web", str(path), io_timeout=4)))[0] == 1


def test_two_starters_agree_on_one_file(tmp_path: Path) -> None:
    async def main() -> list[bool]:
        async with FakeDaemon(tmp_path / "run") as daemon, asyncio.timeout(20):
            client = Daemon(daemon.run_dir)
            path = tmp_path / "state" / "web.lease"
            made = await asyncio.gather(*(make_space_file(client, path, "web", 2) for _ in range(4)))
            assert [entry.name for entry in path.parent.iterdir()] == ["web.lease"]
            assert path.stat().st_mode & 0o777 == 0o600
            assert path.parent.stat().st_mode & 0o777 == 0o700
            return list(made)

    assert sorted(asyncio.run(main())) == [False, False, False, True]


def test_a_file_that_cannot_be_formatted_is_not_left_behind(tmp_path: Path) -> None:
    async def main() -> None:
        async with FakeDaemon(tmp_path / "run") as daemon, asyncio.timeout(20):
            daemon.fail("FORMAT_RINDEX", -5)
            with pytest.raises(ClientError):
                await make_space_file(Daemon(daemon.run_dir), tmp_path / "s" / "web.lease", "web", 2)
            assert list((tmp_path / "s").iterdir()) == []

    asyncio.run(main())
