"""A disk in memory that answers at once and remembers what was asked of it.

For tests of programs and rules that need storage but no adversary: nothing is delayed, lost or reordered
(the simulated disk does that). Every I/O is appended to `trace`, so that a test can compare the exact
sequence; errors are injected by the test, operation by operation.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Literal, NamedTuple

from holdfast.storage.buffers import Buffer
from holdfast.storage.disk import Permit
from holdfast.storage.errors import DeadlineError, StorageError

Operation = Literal["read", "write"]


class Transfer(NamedTuple):
    """One I/O as it was asked for; also one that failed."""

    operation: Operation
    offset: int
    length: int


class Fault(NamedTuple):
    """The next transfer of this kind, at this offset if one is given, fails with errno."""

    operation: Operation
    errno: int
    offset: int | None = None


class MemoryDisk:
    """Implements `storage.disk.Disk` on a bytearray.

    Like the real thing a "file" grows when written past its end, up to `max_size` (then ENOSPC), and a
    "block device" does not grow.
    """

    def __init__(
        self,
        contents: bytes | bytearray | int = 0,
        *,
        block_size: int = 512,
        path: str = "memory",
        is_block_device: bool = False,
        max_size: int = 256 * 1024 * 1024,
    ) -> None:
        """`contents`: initial bytes, or a number of zero bytes."""
        self.data = bytearray(contents)
        self.trace: list[Transfer] = []
        self.faults: list[Fault] = []
        self.path = path
        self.block_size = block_size
        self.is_block_device = is_block_device
        self.max_size = max_size
        self.after: Callable[[Transfer], None] | None = None
        """Called when a transfer has succeeded, before its caller goes on: to change the world in between."""

    def fail(self, operation: Operation, error: int, offset: int | None = None) -> None:
        """The next matching transfer fails once with errno `error`; ETIMEDOUT: it misses its deadline, undone."""
        self.faults.append(Fault(operation, error, offset))

    def take_trace(self) -> list[Transfer]:
        """What happened since the last call."""
        taken, self.trace = self.trace, []
        return taken

    async def read(self, offset: int, length: int, timeout_s: float) -> bytes:
        self._begin(Transfer("read", offset, length), timeout_s)
        if offset + length > len(self.data):
            raise self._error(errno.EMSGSIZE, Transfer("read", offset, length))
        found = bytes(self.data[offset : offset + length])
        self._succeeded(Transfer("read", offset, length))
        return found

    async def read_into(self, buffer: Buffer, offset: int, length: int, timeout_s: float) -> None:
        buffer.view[:length] = await self.read(offset, length, timeout_s)

    async def write(
        self, offset: int, data: bytes | bytearray | memoryview, timeout_s: float, permit: Permit | None = None
    ) -> None:
        if permit is not None:
            permit()
        transfer = Transfer("write", offset, len(data))
        self._begin(transfer, timeout_s)
        end = offset + len(data)
        if end > len(self.data):
            if self.is_block_device or end > self.max_size:
                raise self._error(errno.ENOSPC, transfer)
            self.data.extend(bytes(end - len(self.data)))
        self.data[offset:end] = data
        self._succeeded(transfer)

    async def settle(self, offset: int, length: int, timeout_s: float) -> None:
        """Every write has a known outcome here."""

    def _begin(self, transfer: Transfer, timeout_s: float) -> None:
        self.trace.append(transfer)
        if timeout_s <= 0 or transfer.offset % self.block_size or transfer.length % self.block_size:
            raise self._error(errno.EINVAL, transfer)
        if transfer.offset < 0 or transfer.length <= 0:
            raise self._error(errno.EINVAL, transfer)
        for fault in self.faults:
            if fault.operation == transfer.operation and fault.offset in (None, transfer.offset):
                self.faults.remove(fault)
                if fault.errno == errno.ETIMEDOUT:
                    raise DeadlineError(*transfer[:1], self.path, *transfer[1:], timeout_s)
                raise self._error(fault.errno, transfer)

    def _succeeded(self, transfer: Transfer) -> None:
        if self.after is not None:
            self.after(transfer)

    def _error(self, error: int, transfer: Transfer) -> StorageError:
        return StorageError(error, transfer.operation, self.path, transfer.offset, transfer.length)
