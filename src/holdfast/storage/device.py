"""`Disk` over an engine: deadlines, alignment, short transfers, and rule 12.

Spec lease-disk section 4 and rule 12 of section 13. A call ends in its time whatever the storage does; its
request, when the kernel has it, lives on with its buffer. Must never submit a write that overlaps one whose
outcome is unknown, never close a descriptor that a request still uses, never suspend when the I/O completed
at once.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from typing import Final

from holdfast.storage.buffers import POOL, Buffer
from holdfast.storage.disk import Permit
from holdfast.storage.engine import Engine, Request, set_result
from holdfast.storage.errors import DeadlineError, StorageError
from holdfast.storage.inline import InlineEngine

MAX_TRANSFER_BYTES: Final = 64 * 1024 * 1024
"""Longest single read or write; larger lengths are a caller's mistake."""

END_OF_OFFSETS: Final = 2**63
"""off_t is signed: what lies behind cannot be asked for, and offsets come from the wire as u64."""


MAX_OUTSTANDING: Final = 256
"""Requests of one device that are not complete, timed-out ones included; beyond it EAGAIN. Less than what the
engines hold, so that a device that hangs leaves room for the others."""


class Writes:
    """Outstanding writes of one piece of storage, whichever `Device` submitted them (rule 12).

    Kept by identity of the storage and not by descriptor, so that closing and opening again does not
    forget a write that the kernel still has.
    """

    __slots__ = ("_outstanding", "_waiters")

    def __init__(self) -> None:
        self._outstanding: list[Request] = []
        self._waiters: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._outstanding)

    def add(self, request: Request) -> None:
        self._outstanding.append(request)

    def remove(self, request: Request) -> None:
        """Its outcome is known, or it was withdrawn before the kernel had it."""
        self._outstanding.remove(request)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def overlaps(self, offset: int, length: int) -> bool:
        end = offset + length
        return any(r.offset < end and offset < r.offset + r.length for r in self._outstanding)

    async def wait_until_clear(self, offset: int, length: int, timeout_s: float) -> bool:
        """True when no outstanding write overlaps any more, False when time ran out first."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self.overlaps(offset, length):
            if loop.time() >= deadline:
                return False
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters.append(waiter)
            timer = loop.call_at(deadline, set_result, waiter)
            try:
                await waiter
            finally:
                timer.cancel()
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        return True


class Device:
    """One open file or block device; implements `storage.disk.Disk`. Made by `DeviceRegistry.open`."""

    def __init__(
        self,
        engine: Engine,
        fd: int,
        path: str,
        *,
        block_size: int,
        size: int,
        is_block_device: bool,
        direct: bool = True,
        writes: Writes | None = None,
        close_fd: Callable[[int], None] = os.close,
    ) -> None:
        self._engine = engine
        self._at_once = engine if isinstance(engine, InlineEngine) and engine.any_alignment else None
        self._fd = fd
        self._path = path
        self._block_size = block_size
        self._size = size
        self._is_block_device = is_block_device
        self._direct = direct
        self._writes = Writes() if writes is None else writes
        self._close_fd = close_fd
        self._open = True
        self._requests_in_kernel = 0

    @property
    def path(self) -> str:
        return self._path

    @property
    def block_size(self) -> int:
        return self._block_size

    @property
    def is_block_device(self) -> bool:
        return self._is_block_device

    @property
    def size(self) -> int:
        """Bytes when it was opened; a file may have grown since."""
        return self._size

    @property
    def direct(self) -> bool:
        """Opened with O_DIRECT. False on file systems that refuse it: reads may then be answered by a cache."""
        return self._direct

    @property
    def engine(self) -> str:
        """Name of the engine that serves it."""
        return self._engine.name

    @property
    def outstanding(self) -> int:
        """Requests of this device that the engine has not completed."""
        return self._requests_in_kernel

    def __repr__(self) -> str:
        return f"<Device {self._path} by {self._engine.name}, {self._requests_in_kernel} outstanding>"

    async def read(self, offset: int, length: int, timeout_s: float) -> bytes:
        self._check("read", offset, length, timeout_s)
        if self._at_once is not None:
            return self._read_at_once(self._at_once, offset, length)
        buffer = POOL.borrow(length)
        try:
            await self._read(buffer, offset, length, timeout_s)
            return bytes(buffer.view[:length])
        finally:
            buffer.release()

    async def read_into(self, buffer: Buffer, offset: int, length: int, timeout_s: float) -> None:
        self._check("read", offset, length, timeout_s)
        if length > buffer.size:
            raise StorageError(
                errno.EINVAL, "read", self._path, offset, length, f"the buffer has only {buffer.size} bytes"
            )
        await self._read(buffer, offset, length, timeout_s)

    async def write(
        self, offset: int, data: bytes | bytearray | memoryview, timeout_s: float, permit: Permit | None = None
    ) -> None:
        length = len(data)
        self._check("write", offset, length, timeout_s)
        if self._at_once is not None:
            # Nothing of this device is ever outstanding: rule 12 has nothing to wait for.
            if permit is not None:
                permit()  # rule 15
            self._write_at_once(self._at_once, offset, data)
            return
        buffer = POOL.borrow(length)
        try:
            buffer.view[:length] = data
            left_s = timeout_s
            if len(self._writes) and self._writes.overlaps(offset, length):
                # rule 12: an older write may reach the disk at any time; ours must not be submitted beside it
                left_s = await self._settle("write", offset, length, timeout_s)
                self._check("write", offset, length, left_s)
            # No await from the check for overlaps to here: nobody can have submitted one in between.
            request = Request(True, self._fd, buffer, offset, length)
            if permit is not None:
                permit()  # rule 15
                request.permit = permit
            self._submit(request, "write")
            if request.result is None:
                self._writes.add(request)
                request.on_done = self._write_done
                await self._wait(request, "write", left_s, timeout_s)
            self._check_result(request, "write")
        finally:
            buffer.release()

    def _read_at_once(self, engine: InlineEngine, offset: int, length: int) -> bytes:
        try:
            data = engine.read(self._fd, offset, length)
        except OSError as error:
            raise self._refused("read", offset, length, error) from error
        if len(data) != length:
            raise self._short("read", offset, length, len(data))
        return data

    def _write_at_once(self, engine: InlineEngine, offset: int, data: bytes | bytearray | memoryview) -> None:
        try:
            written = engine.write(self._fd, offset, data)
        except OSError as error:
            raise self._refused("write", offset, len(data), error) from error
        if written != len(data):
            raise self._short("write", offset, len(data), written)

    def _refused(self, operation: str, offset: int, length: int, error: OSError) -> StorageError:
        text = error.strerror or str(error)
        return StorageError(error.errno or errno.EIO, operation, self._path, offset, length, text)

    def _short(self, operation: str, offset: int, length: int, done: int) -> StorageError:
        detail = f"only {done} bytes were transferred"
        return StorageError(errno.EMSGSIZE, operation, self._path, offset, length, detail)

    async def settle(self, offset: int, length: int, timeout_s: float) -> None:
        self._check("settle", offset, length, timeout_s)
        if len(self._writes) and self._writes.overlaps(offset, length):
            await self._settle("settle", offset, length, timeout_s)

    async def _settle(self, operation: str, offset: int, length: int, timeout_s: float) -> float:
        """Wait for older writes of the range; the seconds that are left, more than 0. Else DeadlineError."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        clear = await self._writes.wait_until_clear(offset, length, timeout_s)
        left_s = deadline - loop.time()
        if not clear or left_s <= 0:
            raise DeadlineError(operation, self._path, offset, length, timeout_s, submitted=False)
        return left_s

    async def _read(self, buffer: Buffer, offset: int, length: int, timeout_s: float) -> None:
        request = Request(False, self._fd, buffer, offset, length)
        self._submit(request, "read")
        if request.result is None:
            request.on_done = self._read_done
            await self._wait(request, "read", timeout_s, timeout_s)
        self._check_result(request, "read")

    def _check(self, operation: str, offset: int, length: int, timeout_s: float) -> None:
        block_size = self._block_size
        possible = 0 <= offset < END_OF_OFFSETS - length and 0 < length <= MAX_TRANSFER_BYTES
        if not possible or offset % block_size or length % block_size:
            detail = f"offset and length must be multiples of {block_size}, length 1 to {MAX_TRANSFER_BYTES}"
            raise StorageError(errno.EINVAL, operation, self._path, offset, length, detail)
        if not timeout_s > 0:
            detail = f"a timeout of {timeout_s} s is not possible"
            raise StorageError(errno.EINVAL, operation, self._path, offset, length, detail)
        if not self._open:
            raise StorageError(errno.EBADF, operation, self._path, offset, length, "the device was closed")

    def _submit(self, request: Request, operation: str) -> None:
        if self._requests_in_kernel >= MAX_OUTSTANDING:
            detail = f"{MAX_OUTSTANDING} requests of this device are outstanding"
            raise StorageError(errno.EAGAIN, operation, self._path, request.offset, request.length, detail)
        try:
            self._engine.submit(request)
        except OSError as error:
            raise self._refused(operation, request.offset, request.length, error) from error
        if request.result is None:
            self._requests_in_kernel += 1

    def _read_done(self, request: Request) -> None:
        self._one_less()

    def _write_done(self, request: Request) -> None:
        self._writes.remove(request)
        self._one_less()

    def _one_less(self) -> None:
        self._requests_in_kernel -= 1
        if not self._open:
            self._close_if_unused()

    async def _wait(self, request: Request, operation: str, left_s: float, timeout_s: float) -> None:
        """Until the request is complete; DeadlineError after `left_s`. Cancelled: the request lives on."""
        try:
            if await request.wait(left_s):
                return
            self._engine.poll()  # the loop may have been late itself: the disk is not to blame for that
            if request.result is not None:
                return
        except asyncio.CancelledError:
            if request.result is None:
                self._let_go(request)
            raise
        withdrawn = self._let_go(request)
        pending = None if request.is_write or withdrawn else PendingRead(self, request)
        raise DeadlineError(
            operation,
            self._path,
            request.offset,
            request.length,
            timeout_s,
            submitted=not withdrawn,
            pending=pending,
        )

    def _let_go(self, request: Request) -> bool:
        withdrawn = self._engine.overdue(request)
        if withdrawn:
            if request.is_write:
                self._writes.remove(request)
            self._one_less()
        return withdrawn

    def _check_result(self, request: Request, operation: str) -> None:
        result = request.result
        if result == request.length:
            return
        if request.refusal is not None:
            raise request.refusal
        assert result is not None
        if result < 0:
            raise StorageError(-result, operation, self._path, request.offset, request.length)
        raise self._short(operation, request.offset, request.length, result)

    def close(self) -> None:
        """No further I/O (EBADF). The descriptor is closed when the last outstanding request has completed."""
        if self._open:
            self._open = False
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        # A request that waits for its thread would hit whatever file got this descriptor's number next.
        if not self._requests_in_kernel:
            fd, self._fd = self._fd, -1
            self._close_fd(fd)


class PendingRead:
    """A read that missed its deadline; holds its buffer until it is garbage or `wait` returned its data."""

    def __init__(self, device: Device, request: Request) -> None:
        self._device = device
        self._request = request
        # The buffer must not be re-used for others before our data was taken out of it.
        self._buffer: Buffer | None = request.buffer
        request.buffer.pin()

    async def wait(self, timeout_s: float) -> bytes:
        """The data of that very read. DeadlineError after `timeout_s`, StorageError if it failed."""
        request = self._request
        if not await request.wait(timeout_s):
            raise DeadlineError(
                "read", self._device.path, request.offset, request.length, timeout_s, submitted=True, pending=self
            )
        buffer = self._buffer
        if buffer is None:
            raise StorageError(
                errno.EINVAL,
                "read",
                self._device.path,
                request.offset,
                request.length,
                "its data was taken already",
            )
        self._buffer = None
        try:
            self._device._check_result(request, "read")
            return bytes(buffer.view[request.start : request.start + request.length])
        finally:
            buffer.unpin()
