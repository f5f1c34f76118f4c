"""Request records, step by step (spec lease-disk 10.1)."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Coroutine
from typing import Any

import pytest

from holdfast.lease.errors import Code, LeaseError
from holdfast.lease.geometry import MIB, SMALL
from holdfast.lease.records import REQ_FORCE, REQ_GRACEFUL, Request, decode_request
from holdfast.lease.request import clear_request, demands, read_request, write_request
from holdfast.testing.memory_disk import MemoryDisk, Transfer
from tests.vectors.disk_vectors import image

SPACE, RES = "vector-ls", "res1"


def owned() -> MemoryDisk:
    """Owned by host 2 in version 1; version 2 is asked for already."""
    return MemoryDisk(image("res_owned_with_request"))


async def ask(disk: MemoryDisk, lver: int, mode: int = REQ_FORCE, **options: Any) -> int | None:
    return await write_request(disk, 0, SPACE, RES, lver, mode, geometry=SMALL, **options)


def code_of(doing: Coroutine[Any, Any, Any]) -> int:
    with pytest.raises(LeaseError) as caught:
        asyncio.run(doing)
    return caught.value.code


def stored(disk: MemoryDisk) -> Request:
    return decode_request(bytes(disk.data[512:1024]))


def test_a_request_costs_two_reads_and_a_write_and_names_the_owner() -> None:
    disk = owned()
    assert asyncio.run(ask(disk, 3)) == 2
    assert disk.trace == [Transfer("read", 0, 512), Transfer("read", 512, 512), Transfer("write", 512, 512)]
    assert stored(disk) == Request(lver=3, force_mode=REQ_FORCE)
    assert bytes(disk.data[536:1024]) == bytes(1024 - 536)


def test_sizes_are_found_when_not_given() -> None:
    disk = owned()
    assert asyncio.run(write_request(disk, 0, SPACE, RES, 3, REQ_GRACEFUL)) == 2
    assert disk.trace[0] == Transfer("read", 0, 4096)
    large = MemoryDisk(image("init_res_4096_2m"))
    asyncio.run(clear_request(large, 0, "G", "res"))
    assert large.trace[1:] == [Transfer("read", 4096, 4096), Transfer("write", 4096, 4096)]


def test_the_same_version_may_be_asked_for_again() -> None:
    assert asyncio.run(ask(owned(), 2)) == 2


def test_next_version() -> None:
    disk = owned()
    assert asyncio.run(ask(disk, 0, next_lver=True)) == 2
    assert stored(disk).lver == 2
    disk = owned()
    asyncio.run(ask(disk, 7, next_lver=True))
    assert stored(disk).lver == 7


@pytest.mark.parametrize("lver", [0, 1])
def test_old_versions_are_refused(lver: int) -> None:
    disk = owned()
    assert code_of(ask(disk, lver)) == Code.REQUEST_OLD
    assert disk.trace == [Transfer("read", 0, 512)]


def test_a_newer_request_is_not_replaced() -> None:
    disk = owned()
    asyncio.run(ask(disk, 9))
    assert code_of(ask(disk, 8)) == Code.REQUEST_LVER
    assert stored(disk).lver == 9


def test_a_free_lease_needs_no_request() -> None:
    disk = MemoryDisk(image("res_released"))
    assert asyncio.run(write_request(disk, 0, SPACE, "res2", 99, REQ_FORCE)) is None
    assert [one.operation for one in disk.trace] == ["read"]


@pytest.mark.parametrize(("lver", "mode"), [(-1, 1), (2**64, 1), (3, -1), (3, 2**32)])
def test_numbers_that_do_not_fit(lver: int, mode: int) -> None:
    disk = owned()
    assert code_of(ask(disk, lver, mode)) == -errno.EINVAL
    assert disk.trace == []


def test_clear() -> None:
    disk = owned()
    asyncio.run(clear_request(disk, 0, SPACE, RES))
    assert stored(disk) == Request()


def test_the_wrong_resource_is_not_touched() -> None:
    disk = owned()
    assert code_of(clear_request(disk, 0, SPACE, "other")) == Code.LEADER_RESOURCE
    assert code_of(write_request(disk, 0, "other", RES, 9, 1)) == Code.LEADER_LOCKSPACE
    assert code_of(clear_request(MemoryDisk(bytes(MIB)), 0, SPACE, RES)) == Code.LEADER_MAGIC
    assert bytes(disk.data) == image("res_owned_with_request")


def test_a_permit_is_asked_before_the_write() -> None:
    def refuse() -> None:
        raise LeaseError(-errno.ENOSPC, "lost")

    disk = owned()
    assert code_of(ask(disk, 3, permit=refuse)) == -errno.ENOSPC
    assert bytes(disk.data) == image("res_owned_with_request")


def test_failed_io_has_its_code() -> None:
    disk = owned()
    disk.fail("write", errno.ETIMEDOUT)
    assert code_of(ask(disk, 3)) == Code.AIO_TIMEOUT
    disk.fail("read", errno.EIO, 512)
    assert code_of(ask(disk, 3)) == -errno.EIO


def test_the_holder_reads_it() -> None:
    record = asyncio.run(read_request(owned(), 0, SMALL))
    assert demands(record, 1)
    assert not demands(record, 2)
    assert not demands(Request(lver=5, force_mode=0), 1)
    assert not demands(Request(), 0)
