"""Page-aligned memory that can be handed to the kernel, and a pool that re-uses it.

A buffer is borrowed by its user and pinned by each I/O in flight; it returns to the pool when neither
remains. An I/O that missed its deadline so keeps its memory for as long as the kernel may write to it.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Final

PAGE = mmap.PAGESIZE
_MADV_WIPEONFORK: Final = 18

MAX_POOLED_BYTES = 4 * 1024 * 1024
"""What a pool keeps for re-use; more is returned to the kernel."""


class Buffer:
    """`size` bytes of zeroed, page-aligned memory: `view` for Python, `address` for system calls."""

    __slots__ = ("_map", "_pins", "_pool", "address", "lent", "size", "view")

    def __init__(self, size: int, pool: BufferPool | None = None) -> None:
        self.size = (size + PAGE - 1) // PAGE * PAGE
        self._map = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # open(2) on O_DIRECT: a fork makes private memory copy-on-write, and what the kernel reads into it then
        # may end in the child's copy. Memory that a child gets as zeros instead is never shared with it.
        self._map.madvise(_MADV_WIPEONFORK)
        self.view = memoryview(self._map)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self._pool = pool
        self._pins = 0
        self.lent = True

    def pin(self) -> None:
        """An I/O starts to use the memory."""
        self._pins += 1

    def unpin(self) -> None:
        """The kernel is done with it."""
        self._pins -= 1
        if not self._pins and not self.lent:
            self._return()

    def release(self) -> None:
        """The borrower is done with it; must not touch `view` afterwards. Releasing twice is a mistake."""
        assert self.lent
        self.lent = False
        if not self._pins:
            self._return()

    def _return(self) -> None:
        if self._pool is not None:
            self._pool.take_back(self)

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()


class BufferPool:
    """Free buffers by size. Never blocks and never fails below the kernel's own limits."""

    def __init__(self, max_pooled_bytes: int = MAX_POOLED_BYTES) -> None:
        self._free: dict[int, list[Buffer]] = {}
        self._pooled_bytes = 0
        self._max_pooled_bytes = max_pooled_bytes

    def borrow(self, size: int) -> Buffer:
        """A buffer of at least `size` bytes; its contents are whatever the last user left."""
        rounded = (size + PAGE - 1) // PAGE * PAGE
        free = self._free.get(rounded)
        if free:
            buffer = free.pop()
            self._pooled_bytes -= rounded
            buffer.lent = True
            return buffer
        return Buffer(rounded, self)

    def take_back(self, buffer: Buffer) -> None:
        """Called by a buffer that neither a borrower nor the kernel uses any more."""
        if self._pooled_bytes + buffer.size <= self._max_pooled_bytes:
            free = self._free.get(buffer.size)
            if free is None:
                free = self._free[buffer.size] = []
            free.append(buffer)
            self._pooled_bytes += buffer.size


POOL = BufferPool()
"""The process's pool. All users run on one event loop; threads only fill memory that is pinned for them."""
