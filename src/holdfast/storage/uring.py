"""io_uring: writes to regular files and long reads, by the kernel's own worker threads, completions by eventfd.

Such a write may sleep where it is submitted (a file system frozen with fsfreeze, block allocation), so it must not
be submitted by the loop itself, and a Python thread that does it has to fight for the interpreter lock twice: that
costs as much as the write (measured on ext4: plain pwrite 95 us, here 150 us, in a thread 230 us). Every request
carries IOSQE_ASYNC: `io_uring_enter` only queues it, a kernel worker carries it out and may sleep. For a read of
a MiB that also takes the work of setting it up off the loop's core. Where io_uring is missing or forbidden (old
kernels, seccomp, sysctl) AIO and the device's lane of threads do the work.

Without that flag a write takes 110 us instead of 140 to 180, and a kernel from 6.12 on does not wait for a frozen
file system there; but ext4 then updates the file's mtime where it is submitted (80 us more when it has changed),
and would wait there for its journal. Set-up flags (COOP_TASKRUN, SINGLE_ISSUER), polling the ring's descriptor
instead of an eventfd, and binding the workers to a core change nothing that can be measured.

Must never: block the loop, free memory that the kernel may still write to. Spec lease-disk section 4.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import mmap
import os
import platform
import struct
from typing import Any, Final

from holdfast.storage.engine import Request

MAX_OUTSTANDING: Final = 256
"""Requests that one ring holds at a time, timed-out ones included; beyond it EAGAIN."""

# The same numbers on all machines.
_SETUP: Final = 425
_ENTER: Final = 426
_REGISTER: Final = 427
_REGISTER_EVENTFD: Final = 4
_OP_READ: Final = 22
_OP_WRITE: Final = 23
_SQE_ASYNC: Final = 16
_ENTER_GETEVENTS: Final = 1
_OFF_SQES: Final = 0x10000000
_FEATURE_SINGLE_MMAP: Final = 1
_FEATURE_NODROP: Final = 2

_PARAMS_BYTES: Final = 120
_SQE: Final = struct.Struct("<BBHiQQIIQ24x")
_CQE: Final = struct.Struct("<QiI")

_libc: Final = ctypes.CDLL(None, use_errno=True)

_kept_for_the_kernel: list[object] = []
"""Memory of rings that were closed with I/O outstanding: the kernel may still write to it, so it stays."""


def _call(number: int, *arguments: Any) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"io_uring call {number}: {os.strerror(error)}")
    return result


class UringEngine:
    """One ring. Use only from the event loop it was made on; close before the loop closes."""

    name = "uring"

    def __init__(self, loop: asyncio.AbstractEventLoop, max_outstanding: int = MAX_OUTSTANDING) -> None:
        """OSError: no io_uring here (ENOSYS, EPERM), or too old to keep every completion (ENOTSUP)."""
        params = bytearray(_PARAMS_BYTES)
        self._fd = _call(_SETUP, ctypes.c_uint(max_outstanding), (ctypes.c_char * len(params)).from_buffer(params))
        try:
            self._map(params)
            self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except BaseException:
            os.close(self._fd)
            raise
        try:
            number = ctypes.c_int(self._eventfd)
            _call(_REGISTER, ctypes.c_uint(self._fd), _REGISTER_EVENTFD, ctypes.byref(number), ctypes.c_uint(1))
            loop.add_reader(self._eventfd, self._on_event)
        except BaseException:
            os.close(self._eventfd)
            os.close(self._fd)
            raise
        self._loop: asyncio.AbstractEventLoop | None = loop
        self._limit = max_outstanding
        self._requests: dict[int, Request] = {}
        self._last = 0
        # Plain loads in program order are enough on x86; elsewhere a system call is the barrier.
        self._needs_barrier = platform.machine() != "x86_64"
        self._enter = _libc["syscall"]
        self._enter.argtypes = [ctypes.c_long, *[ctypes.c_uint] * 4, ctypes.c_void_p, ctypes.c_size_t]
        self._enter.restype = ctypes.c_long

    def _map(self, params: bytearray) -> None:
        sq_entries, cq_entries, _, _, _, features, _ = struct.unpack_from("<7I", params, 0)
        needed = _FEATURE_SINGLE_MMAP | _FEATURE_NODROP
        if features & needed != needed:
            raise OSError(errno.ENOTSUP, "io_uring of this kernel is too old")
        sq_head, sq_tail, sq_mask, _, _, _, sq_array = struct.unpack_from("<7I", params, 40)
        cq_head, cq_tail, cq_mask, _, _, cqes = struct.unpack_from("<6I", params, 80)
        size = max(sq_array + sq_entries * 4, cqes + cq_entries * _CQE.size)
        self._ring = mmap.mmap(self._fd, size, offset=0)
        self._sqes = mmap.mmap(self._fd, sq_entries * _SQE.size, offset=_OFF_SQES)
        words = self._words = memoryview(self._ring).cast("I")
        self._sq_head, self._sq_tail, self._sq_array = sq_head // 4, sq_tail // 4, sq_array // 4
        self._cq_head, self._cq_tail, self._cqes = cq_head // 4, cq_tail // 4, cqes
        self._sq_mask, self._cq_mask = words[sq_mask // 4], words[cq_mask // 4]
        for index in range(sq_entries):
            words[self._sq_array + index] = index

    @property
    def outstanding(self) -> int:
        """Requests that the kernel has now."""
        return len(self._requests)

    def submit(self, request: Request) -> None:
        """Hand it to a kernel worker. OSError EAGAIN beyond `MAX_OUTSTANDING`, and what the kernel refuses."""
        if len(self._requests) >= self._limit or self._loop is None:
            raise BlockingIOError(errno.EAGAIN, f"{self._limit} requests are outstanding")
        self._last = key = (self._last + 1) & 0x7FFFFFFFFFFFFFFF
        words = self._words
        tail = words[self._sq_tail]
        _SQE.pack_into(
            self._sqes,
            (tail & self._sq_mask) * _SQE.size,
            _OP_WRITE if request.is_write else _OP_READ,
            _SQE_ASYNC,
            0,
            request.fd,
            request.offset,
            request.buffer.address + request.start,
            request.length,
            0,
            key,
        )
        words[self._sq_tail] = (tail + 1) & 0xFFFFFFFF
        request.buffer.pin()
        self._requests[key] = request
        if self._enter(_ENTER, self._fd, 1, 0, 0, None, 0) == 1:
            return
        error = ctypes.get_errno() or errno.EAGAIN
        if words[self._sq_head] == tail:
            # Not taken: withdrawn, so that no later call submits it unnoticed.
            words[self._sq_tail] = tail
            del self._requests[key]
            request.buffer.unpin()
            raise OSError(error, f"io_uring_enter: {os.strerror(error)}")

    def poll(self) -> None:
        if self._needs_barrier:
            self._enter(_ENTER, self._fd, 0, 0, _ENTER_GETEVENTS, None, 0)
        words = self._words
        head = words[self._cq_head]
        while head != words[self._cq_tail]:
            at = self._cqes + (head & self._cq_mask) * _CQE.size
            key, result, _ = _CQE.unpack_from(self._ring, at)
            head = (head + 1) & 0xFFFFFFFF
            # Given back before the callback runs: it may submit, and so come here again.
            words[self._cq_head] = head
            self._requests.pop(key).complete(result)
            head = words[self._cq_head]

    def overdue(self, request: Request) -> bool:
        return False  # A kernel worker has it, or will: it cannot be taken back with certainty.

    def _on_event(self) -> None:
        try:
            os.eventfd_read(self._eventfd)
        except BlockingIOError:
            pass  # reaped already
        self.poll()

    def close(self) -> None:
        """Give the ring back. With I/O outstanding it is left to the process's end."""
        if self._loop is None:
            return
        loop, self._loop = self._loop, None
        self.poll()
        if not loop.is_closed():
            loop.remove_reader(self._eventfd)
        os.close(self._eventfd)
        if self._requests:
            _kept_for_the_kernel.append((self._requests, self._ring, self._sqes, self._fd))
            return
        self._words.release()
        self._ring.close()
        self._sqes.close()
        os.close(self._fd)
