"""Plain system calls on the loop, for files that live in memory (tmpfs, ramfs) and nowhere else.

There is no device that could hang: AIO on such a file runs the same copy inside `io_submit`, only with
more system calls around it. Must never be used for anything that has a disk or a network behind it.
"""

from __future__ import annotations

import errno
import os

from holdfast.storage.engine import Request


class InlineEngine:
    """Completes every request before `submit` returns."""

    name = "inline"

    def __init__(self, any_alignment: bool = False) -> None:
        """`any_alignment`: the files take any memory and need no aligned buffer in between."""
        self.any_alignment = any_alignment

    def submit(self, request: Request) -> None:
        start = request.start
        part = request.buffer.view[start : start + request.length]
        request.buffer.pin()
        try:
            if request.is_write:
                result = os.pwrite(request.fd, part, request.offset)
            else:
                result = os.preadv(request.fd, (part,), request.offset)
        except OSError as error:
            result = -(error.errno or errno.EIO)
        request.complete(result)

    def read(self, fd: int, offset: int, length: int) -> bytes:
        """A small read without a buffer in between: memory asks for no alignment. OSError."""
        return os.pread(fd, length, offset)

    def write(self, fd: int, offset: int, data: bytes | bytearray | memoryview) -> int:
        """Bytes written. OSError."""
        return os.pwrite(fd, data, offset)

    def poll(self) -> None:
        """Nothing is ever outstanding."""

    def overdue(self, request: Request) -> bool:
        return False
