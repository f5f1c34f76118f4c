"""Rights that the lease daemon keeps when it becomes another user: to signal anybody, to start a new helper.

The original keeps them in its helper, which stays root and executes whatever the daemon tells it. Here the
daemon itself must be able to kill when the helper is gone, and to start another one with the same rights. So
CAP_KILL stays in force, and CAP_SETUID and CAP_SETGID stay *permitted* but switched off; only a forked child
switches them on, to execute as root. Programs that the daemon executes otherwise inherit none of them.

Linux only, through capset(2): there is nothing else to depend on.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

CAP_KILL: Final = 5
CAP_SETGID: Final = 6
CAP_SETUID: Final = 7

_VERSION_3: Final = 0x20080522
_PR_SET_KEEPCAPS: Final = 8
_ROOT: Final = 0

_libc = ctypes.CDLL(None, use_errno=True)
_kept = False
"""`reduce_to_killing` was called: root gave its rights up here, and only then there is a way back."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def keep_over_setuid() -> None:
    """Before setuid(2): what is permitted stays permitted. OSError when the kernel refuses."""
    if _libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0):
        raise _error("prctl(PR_SET_KEEPCAPS)")


def reduce_to_killing() -> None:
    """After setuid(2): give up everything but what this module's first lines name. OSError when refused."""
    global _kept
    _set(effective=1 << CAP_KILL, permitted=1 << CAP_KILL | 1 << CAP_SETUID | 1 << CAP_SETGID)
    _kept = True


def become_starter() -> None:
    """In a forked child, before exec: root again, if `reduce_to_killing` has kept the way back; else as we are.

    OSError when what was kept does not suffice.
    """
    if not _kept:
        return
    permitted = int(_get()[0].permitted)
    _set(effective=permitted, permitted=permitted)
    os.setgroups([])
    os.setresgid(_ROOT, _ROOT, _ROOT)
    os.setresuid(_ROOT, _ROOT, _ROOT)


def _get() -> ctypes.Array[_Data]:
    header, data = _Header(_VERSION_3, 0), (_Data * 2)()
    if _libc.capget(ctypes.byref(header), data):
        raise _error("capget")
    return data


def _set(effective: int, permitted: int) -> None:
    header, data = _Header(_VERSION_3, 0), (_Data * 2)()
    data[0].effective, data[0].permitted = effective, permitted
    if _libc.capset(ctypes.byref(header), data):
        raise _error("capset")


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
