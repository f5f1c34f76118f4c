"""Looking at leases on storage without a daemon: opens, reads, closes; never writes.

For people who want to know, beside or instead of a daemon. What is read here proves nothing about who is alive:
only watching a host's record change does (spec lease-disk 7.2).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from holdfast.lease.errors import LeaseError, storage_code
from holdfast.storage.errors import StorageError

if TYPE_CHECKING:
    from holdfast.client.addresses import IndexAddress
    from holdfast.lease.rindex import Place
    from holdfast.storage.disk import Disk

READ_TIMEOUT_S = 10.0


@asynccontextmanager
async def opened(path: str) -> AsyncIterator[Disk]:
    """Storage for reading, closed at once afterwards. LeaseError with the code of what failed."""
    # Storage engines are loaded by who reads storage, not by every user of the client.
    from holdfast.storage import DeviceRegistry

    registry = DeviceRegistry(linger_s=0)
    try:
        disk = await registry.open(path, READ_TIMEOUT_S)
        try:
            yield disk
        finally:
            registry.release(disk)
    except StorageError as error:
        raise LeaseError(storage_code(error), str(error)) from error
    finally:
        registry.close()


async def index_entries(index: IndexAddress) -> list[Place]:
    """Every name of a resource index with the offset of its resource. LeaseError as from `lease.rindex`."""
    from holdfast.lease.rindex import list_entries

    async with opened(index.path) as disk:
        return await list_entries(disk, index.offset, index.space, timeout_s=READ_TIMEOUT_S)
