"""I/O on behalf of the rules: failures of storage and of records become LeaseErrors that say where.

Nothing is decided here. Whoever must distinguish a missed deadline from a refused write looks at the code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from holdfast.lease.errors import LeaseError, storage_code
from holdfast.storage.disk import Disk
from holdfast.storage.errors import StorageError


@contextmanager
def located(disk: Disk, offset: int) -> Iterator[None]:
    """Errors of the block get their place: StorageError becomes LeaseError, details get path and offset."""
    try:
        yield
    except StorageError as error:
        raise LeaseError(storage_code(error), str(error)) from error
    except LeaseError as error:
        raise LeaseError(error.code, f"{disk.path}:{offset}: {error.detail}") from error
