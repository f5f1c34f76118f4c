"""Linux AIO: one kernel context per event loop, completions through an eventfd, results read from the ring.

For block devices and for reads of regular files on local file systems, opened with O_DIRECT. Every such request
carries RWF_NOWAIT: where the kernel would have to sleep inside `io_submit` (no free queue slot, an inode lock
held by somebody whose disk hangs) it answers EAGAIN, and the request goes to the device's lane of threads.
Writes to regular files never come here: `io_submit` of a write sleeps while the file system is frozen by
fsfreeze, and when it extends the file or allocates blocks; RWF_NOWAIT helps against neither.

Measured (two busy cores, median per 512 bytes): read ext4 59 us against 120 in a thread; write ext4 1.8 to 3.6 ms
against 0.19 in a thread; write to a loop device 0.15 ms against 4.0; file in memory 5.2 against 3.0 inline.
1 MiB from ext4: 0.63 ms in one piece, 0.83 in four, 0.96 in eight: areas are not split.

Must never: block the loop, free memory that the kernel may still write to. Spec lease-disk section 4.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import platform
import struct
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from holdfast.storage.engine import Engine, Request

MAX_OUTSTANDING: Final = 1024
"""Requests that one context holds at a time, timed-out ones included; beyond it EAGAIN. Several devices' share."""

_CALLS: Final = {
    # machine: io_setup, io_destroy, io_getevents, io_submit
    "x86_64": (206, 207, 208, 209),
    "aarch64": (0, 1, 4, 2),
}
_IOCB: Final = struct.Struct("<QIIHhIQQqQII")
_EVENT: Final = struct.Struct("<QQqq")
_CMD_PREAD: Final = 0
_CMD_PWRITE: Final = 1
_FLAG_RESFD: Final = 1
_RWF_NOWAIT: Final = 8
_FALL_BACK: Final = frozenset({errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL})
"""How io_submit refuses what it cannot do without sleeping."""
_RING_MAGIC: Final = 0xA10A10A1
_RING_HEADER_BYTES: Final = 32
_HEAD, _TAIL = 2, 3  # words of the ring's header

_libc: Final = ctypes.CDLL(None, use_errno=True)


def _system_call(*argument_types: Any) -> Callable[..., int]:
    function = _libc["syscall"]  # by index: a new pointer each time, so each can have its own signature
    function.argtypes = [ctypes.c_long, *argument_types]
    function.restype = ctypes.c_long
    return cast(Callable[..., int], function)


_setup_call = _system_call(ctypes.c_uint, ctypes.c_void_p)
_destroy_call = _system_call(ctypes.c_ulong)
_submit_call = _system_call(ctypes.c_ulong, ctypes.c_long, ctypes.c_void_p)
_getevents_call = _system_call(ctypes.c_ulong, ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)

_kept_for_the_kernel: list[object] = []
"""Memory of contexts that were closed with I/O outstanding: the kernel may still write to it, so it stays."""


class AioEngine:
    """One kernel AIO context. Use only from the event loop it was made on; close before the loop closes."""

    name = "aio"

    def __init__(self, loop: asyncio.AbstractEventLoop, max_outstanding: int = MAX_OUTSTANDING) -> None:
        """OSError: the kernel has no AIO (ENOSYS) or its limit fs.aio-max-nr is used up (EAGAIN)."""
        calls = _CALLS.get(platform.machine())
        if calls is None:
            raise OSError(errno.ENOSYS, "Linux AIO system call numbers are unknown for this machine")
        self._setup_nr, self._destroy_nr, self._getevents_nr, self._submit_nr = calls
        context = ctypes.c_ulong(0)
        if _setup_call(self._setup_nr, max_outstanding, ctypes.byref(context)) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"io_setup for {max_outstanding} requests: {os.strerror(error)}")
        self._context = context.value
        self._loop: asyncio.AbstractEventLoop | None = loop
        self._iocbs = bytearray(_IOCB.size * max_outstanding)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._iocbs))
        self._pointer_base = base
        self._pointers = (ctypes.c_void_p * max_outstanding)(
            *(base + _IOCB.size * i for i in range(max_outstanding))
        )
        self._pointer_at = [ctypes.addressof(self._pointers) + 8 * i for i in range(max_outstanding)]
        self._requests: list[Request | None] = [None] * max_outstanding
        self._fallbacks: list[Engine | None] = [None] * max_outstanding
        self._free = list(range(max_outstanding - 1, -1, -1))
        self._limit = max_outstanding
        self._map_ring()
        self._events = bytearray(_EVENT.size * max_outstanding)
        self._events_address = ctypes.addressof(ctypes.c_char.from_buffer(self._events))
        self._no_wait = (ctypes.c_longlong * 2)(0, 0)
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        loop.add_reader(self._eventfd, self._on_event)

    def _map_ring(self) -> None:
        """Look at the completion ring in memory where that is sound, else ask the kernel each time."""
        header = (ctypes.c_uint32 * (_RING_HEADER_BYTES // 4)).from_address(self._context)
        # Plain loads in program order are enough on x86 only; elsewhere a barrier would be needed.
        self._use_ring = (
            platform.machine() == "x86_64"
            and header[4] == _RING_MAGIC
            and header[6] == 0  # incompatible features
            and header[7] == _RING_HEADER_BYTES
        )
        self._ring_size = header[1]
        size = _RING_HEADER_BYTES + self._ring_size * _EVENT.size if self._use_ring else _RING_HEADER_BYTES
        self._ring_bytes = memoryview((ctypes.c_char * size).from_address(self._context)).cast("B")
        self._ring_words = self._ring_bytes[:_RING_HEADER_BYTES].cast("I")

    @property
    def outstanding(self) -> int:
        """Requests that the kernel has now."""
        return self._limit - len(self._free)

    @property
    def room(self) -> int:
        """Requests that it takes now."""
        return len(self._free) if self._loop is not None else 0

    def submit(self, request: Request, fallback: Engine | None = None) -> None:
        """Start a request; it may be complete on return. OSError EAGAIN beyond `MAX_OUTSTANDING`.

        With `fallback` the kernel is asked not to sleep, and what it cannot do so goes there.
        """
        if not self._free or self._loop is None:
            raise BlockingIOError(errno.EAGAIN, f"{self._limit} requests are outstanding")
        slot = self._prepare(request, fallback)
        if _submit_call(self._submit_nr, self._context, 1, self._pointer_at[slot]) != 1:
            error = ctypes.get_errno()
            self._take_back(slot)
            if fallback is not None and error in _FALL_BACK:
                fallback.submit(request)
                return
            raise OSError(error, f"io_submit: {os.strerror(error)}")
        # What completed inside io_submit is finished here, without a turn of the loop.
        self.poll()

    def submit_many(self, requests: Sequence[Request], fallback: Engine | None = None) -> None:
        """Like `submit`, all in one system call; at most `room`. What the kernel refuses completes with -errno."""
        assert self._loop is not None
        slots = [self._prepare(request, fallback) for request in requests]
        base = self._pointer_base
        pointers = array("Q", [base + slot * _IOCB.size for slot in slots])
        at = pointers.buffer_info()[0]
        done = 0
        while done < len(slots):
            count = _submit_call(self._submit_nr, self._context, len(slots) - done, at + 8 * done)
            if count > 0:
                done += count
                continue
            # The first of them is at fault, those behind it were not looked at.
            error = ctypes.get_errno()
            request = requests[done]
            self._take_back(slots[done])
            done += 1
            if fallback is not None and error in _FALL_BACK:
                self._fall_back(request, fallback)
            else:
                request.buffer.pin()  # `complete` takes it off again
                request.complete(-error)
        self.poll()

    def _prepare(self, request: Request, fallback: Engine | None) -> int:
        """A slot with the request in it, pinned."""
        slot = self._free.pop()
        buffer = request.buffer
        _IOCB.pack_into(
            self._iocbs,
            slot * 64,
            slot,
            0,
            _RWF_NOWAIT if fallback is not None else 0,
            _CMD_PWRITE if request.is_write else _CMD_PREAD,
            0,
            request.fd,
            buffer.address + request.start,
            request.length,
            request.offset,
            0,
            _FLAG_RESFD,
            self._eventfd,
        )
        self._requests[slot] = request
        self._fallbacks[slot] = fallback
        buffer.pin()
        return slot

    def _take_back(self, slot: int) -> None:
        """The kernel did not accept it."""
        request = self._requests[slot]
        assert request is not None
        self._requests[slot] = self._fallbacks[slot] = None
        self._free.append(slot)
        request.buffer.unpin()

    @staticmethod
    def _fall_back(request: Request, fallback: Engine) -> None:
        """An unpinned request goes to `fallback`; what that refuses completes with -errno."""
        try:
            fallback.submit(request)
        except OSError as error:
            request.buffer.pin()
            request.complete(-(error.errno or errno.EAGAIN))

    def poll(self) -> None:
        if not self._use_ring:
            self._poll_by_call()
            return
        words = self._ring_words
        head = words[_HEAD]
        while head != words[_TAIL]:
            slot, _, result, _ = _EVENT.unpack_from(self._ring_bytes, _RING_HEADER_BYTES + head * 32)
            head = (head + 1) % self._ring_size
            # Given back before the callback runs: it may submit, and so come here again.
            words[_HEAD] = head
            self._finish(slot, result)
            head = words[_HEAD]

    def _poll_by_call(self) -> None:
        while True:
            count = _getevents_call(
                self._getevents_nr,
                self._context,
                0,
                self._limit,
                self._events_address,
                ctypes.addressof(self._no_wait),
            )
            if count <= 0:
                return
            events = [_EVENT.unpack_from(self._events, i * 32) for i in range(count)]
            for slot, _, result, _ in events:
                self._finish(slot, result)

    def _finish(self, slot: int, result: int) -> None:
        request = self._requests[slot]
        fallback = self._fallbacks[slot]
        assert request is not None
        self._requests[slot] = self._fallbacks[slot] = None
        self._free.append(slot)
        if fallback is not None and result in (-errno.EAGAIN, -errno.EOPNOTSUPP):
            if not request.is_permitted():
                request.complete(-errno.ECANCELED)
                return
            try:
                fallback.submit(request)  # pins the buffer for itself
            except OSError as error:
                request.complete(-(error.errno or errno.EAGAIN))
            else:
                request.buffer.unpin()
            return
        request.complete(result)

    def overdue(self, request: Request) -> bool:
        # io_cancel practically always fails for files and block devices (spec section 4): not tried.
        return False

    def _on_event(self) -> None:
        try:
            os.eventfd_read(self._eventfd)
        except BlockingIOError:
            pass  # reaped from the ring already
        self.poll()

    def close(self) -> None:
        """Give the context back. With I/O outstanding it is left to the process's end: io_destroy would wait."""
        if self._loop is None:
            return
        loop, self._loop = self._loop, None
        if loop.is_closed():
            for request in self._requests:
                if request is not None:
                    request.waiter = None  # whoever waited ended with the loop
        self.poll()
        if not loop.is_closed():
            loop.remove_reader(self._eventfd)
        os.close(self._eventfd)
        if self.outstanding:
            _kept_for_the_kernel.append((self._requests, self._iocbs, self._pointers))
        else:
            self._ring_words.release()
            self._ring_bytes.release()
            _destroy_call(self._destroy_nr, self._context)
