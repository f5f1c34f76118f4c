"""What can go wrong when sectors are moved. One small tree; every error names object and numbers."""

from __future__ import annotations

import errno as errno_names
import os
from typing import Protocol


class PendingRead(Protocol):
    """A read that missed its deadline and lives on in the kernel together with its buffer."""

    async def wait(self, timeout_s: float) -> bytes:
        """Its data, when it completes within `timeout_s`; else DeadlineError again; else its StorageError."""
        ...


class StorageError(Exception):
    """An I/O that failed: `errno` is positive; a short transfer is EMSGSIZE (spec lease-disk 4)."""

    def __init__(self, errno: int, operation: str, path: str, offset: int, length: int, detail: str = "") -> None:
        self.errno = errno
        self.operation = operation
        self.path = path
        self.offset = offset
        self.length = length
        self.detail = detail
        super().__init__(
            f"{operation} {length} bytes at {offset} of {path}: "
            f"{detail or os.strerror(errno)} ({errno_names.errorcode.get(errno, errno)})"
        )


class DeadlineError(StorageError):
    """The I/O did not complete in `timeout_s`.

    `submitted` tells whether the kernel got it: a submitted *write* may still reach the disk at any later
    time (rule 12); one that was only waiting for older I/O never will.
    `pending` lets a reader go on waiting for the very same read.
    """

    def __init__(
        self,
        operation: str,
        path: str,
        offset: int,
        length: int,
        timeout_s: float,
        *,
        submitted: bool = True,
        pending: PendingRead | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self.submitted = submitted
        self.pending = pending
        state = "still outstanding" if submitted else "not submitted: older I/O is outstanding"
        super().__init__(
            errno_names.ETIMEDOUT,
            operation,
            path,
            offset,
            length,
            f"no completion in {timeout_s:g} s, {state}",
        )
