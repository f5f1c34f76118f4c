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

    def poll(self) -> None:
        """Nothing is ever outstanding."""

    def overdue(self, request: Request) -> bool:
        return False
