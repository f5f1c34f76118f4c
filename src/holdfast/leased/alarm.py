"""A timer that counts suspended time, so that a lease that expired while the host slept is seen on waking up.

The event loop's timers stand still during suspend; CLOCK_BOOTTIME does not. One timerfd, set to the earliest
deadline of all lockspaces, wakes their keepers at once when the host resumes. It decides nothing.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from typing import Final

from holdfast.leased.spaces import Space

_TFD_TIMER_ABSTIME: Final = 1
_TFD_NONBLOCK_CLOEXEC: Final = os.O_NONBLOCK | os.O_CLOEXEC


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Alarm:
    """Wakes lockspaces at their deadlines by CLOCK_BOOTTIME. Without timerfd (never on Linux) it does nothing."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._loop = asyncio.get_running_loop()
        self._deadlines: dict[Space, float] = {}
        self._set_to = 0.0
        self._fd: int = self._libc.timerfd_create(time.CLOCK_BOOTTIME, _TFD_NONBLOCK_CLOEXEC)
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._fired)

    def set_at(self, space: Space, deadline: float) -> None:
        """`deadline` in CLOCK_BOOTTIME seconds. Later ones cost nothing: the timer moves when it fires."""
        self._deadlines[space] = deadline
        if not self._set_to or deadline < self._set_to:
            self._arm(deadline)

    def forget(self, space: Space) -> None:
        self._deadlines.pop(space, None)

    def _arm(self, deadline: float) -> None:
        if self._fd < 0:
            return
        self._set_to = deadline
        whole = int(deadline)
        value = _Timespec(max(whole, 1), int((deadline - whole) * 1e9))
        self._libc.timerfd_settime(
            self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(_Itimerspec(_Timespec(0, 0), value)), None
        )

    def _fired(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._set_to = 0.0
        for space, deadline in list(self._deadlines.items()):
            if deadline <= now:
                del self._deadlines[space]
                space.wake()
        if self._deadlines:
            self._arm(min(self._deadlines.values()))

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
