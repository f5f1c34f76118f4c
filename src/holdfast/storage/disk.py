"""The narrow interface between those who decide about sectors and those who move them.

`Disk` is all that the lease rules know of storage. There are two kinds of implementation: `Device` over
an engine that talks to the kernel, and the simulated disk of `holdfast.testing`, which delays, loses and
reorders. Contract of both:

- offsets and lengths are bytes, multiples of `block_size`; nothing else is accepted (EINVAL);
- one sector (512 or 4096 bytes, whatever `block_size` is) is written atomically, larger I/O is not;
- every call ends within its `timeout_s`: result, StorageError, or DeadlineError;
- a call that missed its deadline leaves its I/O alive, with its buffer, until the kernel completes it;
- rule 12: while a write has an unknown outcome, a later write that overlaps it is not submitted: it waits
  for the older one within its own deadline. The same holds after a cancelled call;
- reads never wait for writes, and I/O to different sectors may complete in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from holdfast.storage.buffers import Buffer

Permit = Callable[[], None]
"""Asked immediately before a write is submitted; raises when it must not be any more (rule 15)."""


class Disk(Protocol):
    """One open file or block device."""

    @property
    def path(self) -> str:
        """The path it was opened with, for messages."""
        ...

    @property
    def block_size(self) -> int:
        """Logical block size: the unit of every offset and length. 512 or 4096."""
        ...

    @property
    def is_block_device(self) -> bool: ...

    async def read(self, offset: int, length: int, timeout_s: float) -> bytes:
        """`length` bytes as an own copy: for single sectors. Past the end: StorageError EMSGSIZE."""
        ...

    async def read_into(self, buffer: Buffer, offset: int, length: int, timeout_s: float) -> None:
        """Fill `buffer.view[:length]`: for whole areas, no copy.

        After any exception the contents are undefined; the caller releases the buffer in every case,
        the disk keeps it back from re-use until the kernel has let go of it.
        """
        ...

    async def write(
        self, offset: int, data: bytes | bytearray | memoryview, timeout_s: float, permit: Permit | None = None
    ) -> None:
        """Write and return when the data is stable (O_DSYNC). The data is copied before submission.

        `permit` is called right before submission, after any wait for an older write; what it raises is
        passed on and nothing is written.
        """
        ...

    async def settle(self, offset: int, length: int, timeout_s: float) -> None:
        """Return when no write of unknown outcome overlaps the range; DeadlineError(submitted=False) otherwise.

        Returns at once, without suspending, in the normal case that there is none.
        """
        ...
