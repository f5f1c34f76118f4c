"""Reads of a path that failed too often: how many of them fail? (marginal_path_*, spec path 4.9)"""

from __future__ import annotations

import asyncio
import errno
from typing import Final

from holdfast.path.marginal import SAMPLE_INTERVAL_S, SAMPLE_READ_TIMEOUT_S, SAMPLE_READS
from holdfast.path.probe_io import ProbeIo, probe_io
from holdfast.storage.errors import StorageError
from holdfast.storage.opening import Opened

READ_BYTES: Final = 4096


class _Sample:
    """The reads of one path, at most `SAMPLE_READS` at a time."""

    def __init__(self, io: ProbeIo, opened: Opened) -> None:
        self._io = io
        self._opened = opened
        self._length = max(READ_BYTES, opened.block_size)
        self._closed = False
        self.out = 0
        self.errors = 0
        self.reads = 0

    def fill(self) -> None:
        """As many reads as there is room for; one that is never answered keeps its place."""
        for _ in range(SAMPLE_READS - self.out):
            self.out += 1
            self._io.read(self._opened, self._length, self._ended)

    def _ended(self, result: int) -> None:
        self.out -= 1
        if self._closed:
            if not self.out:
                self._io.close(self._opened)
                self._io.detach()
            return
        self.reads += 1
        self.errors += result != self._length

    def finish(self) -> None:
        """What is still out failed; it lives on in the kernel and keeps the device open until it ends."""
        self.reads += self.out
        self.errors += self.out
        self._closed = True
        if not self.out:
            self._io.close(self._opened)
            self._io.detach()


async def sample(node: str, seconds: float, io: ProbeIo | None = None) -> tuple[int, int]:
    """Errors and reads in so many seconds; no read begins in the last `SAMPLE_READ_TIMEOUT_S`. OSError: the device
    cannot be opened.
    """
    loop = asyncio.get_running_loop()
    io = probe_io() if io is None else io
    io.attach()
    answer: asyncio.Future[Opened | StorageError] = loop.create_future()

    def is_open(result: Opened | StorageError) -> None:
        if not answer.done():
            answer.set_result(result)
        elif not isinstance(result, StorageError):
            io.close(result)

    ticket = io.open(node, is_open)
    try:
        async with asyncio.timeout(SAMPLE_READ_TIMEOUT_S):
            opened = await answer
    except (TimeoutError, asyncio.CancelledError) as error:
        io.withdraw(ticket)
        io.detach()
        if isinstance(error, TimeoutError):
            raise OSError(errno.ETIMEDOUT, "cannot be opened in time", node) from None
        raise
    if isinstance(opened, StorageError):
        io.detach()
        raise OSError(opened.errno, "cannot be opened", node)
    reads = _Sample(io, opened)
    try:
        ends = loop.time() + seconds
        while loop.time() < ends - SAMPLE_READ_TIMEOUT_S:
            reads.fill()
            await asyncio.sleep(SAMPLE_INTERVAL_S)
        while reads.out and loop.time() < ends:
            await asyncio.sleep(1.0)
    finally:
        reads.finish()
    return reads.errors, reads.reads
