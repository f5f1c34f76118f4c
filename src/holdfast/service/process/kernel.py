"""System calls and /proc files that Python has no names for: cloning, capabilities, kcmp, who is whose child.

The forker process imports this file: nothing large may be imported here. All functions raise OSError.
"""

from __future__ import annotations

import ctypes
import os
import struct

_MACHINE = os.uname().machine
_SYS_CLONE3 = 435
_SYS_CLONE = {"x86_64": 56, "aarch64": 220}.get(_MACHINE, 220)
_SYS_KCMP = {"x86_64": 312, "aarch64": 272}.get(_MACHINE, 272)
_SYS_RT_SIGACTION = {"x86_64": 13, "aarch64": 134}.get(_MACHINE, 134)
_SYS_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}.get(_MACHINE, 30)
_CLONE_PARENT = 0x8000
_CLONE_INTO_CGROUP = 0x200000000
_CLONE_ARGS = struct.Struct("<11Q")
_KCMP_FILE = 0
_IOPRIO_WHO_PROCESS = 1
_CAPABILITY_VERSION_3 = 0x20080522
_ENOSYS = 38
_EINVAL = 22
NO_FD = -1
CAP_SYS_RESOURCE = 24
OOM_SCORE_MIN = -1000

PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_TIMERSLACK = 29
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _syscall(number: int, *arguments: object) -> int:
    return _check(_libc.syscall(ctypes.c_long(number), *arguments))


def prctl(option: int, *arguments: int) -> int:
    """prctl(2); arguments that are not given are 0."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return _check(_libc.prctl(option, *(ctypes.c_ulong(one) for one in padded)))


def set_process_name(name: bytes) -> None:
    """The name that `ps` shows; 15 bytes count."""
    _check(_libc.prctl(PR_SET_NAME, ctypes.c_char_p(name), 0, 0, 0))


def clone_sibling(cgroup_fd: int = NO_FD) -> int:
    """Fork, but the child's parent is the caller's parent. 0 in the child. `cgroup_fd`: born in that cgroup (v2).

    Only for a process with one thread: the interpreter does not learn of it.
    """
    flags, group = _CLONE_PARENT, 0
    if cgroup_fd != NO_FD:
        flags, group = flags | _CLONE_INTO_CGROUP, cgroup_fd
    # The exit signal must be 0: it is that of the caller.
    arguments = _CLONE_ARGS.pack(flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, group)
    buffer = ctypes.create_string_buffer(arguments, len(arguments))
    try:
        return _syscall(_SYS_CLONE3, buffer, ctypes.c_size_t(len(arguments)))
    except OSError as error:
        if error.errno != _ENOSYS or group:
            raise
    zero = ctypes.c_ulong(0)
    return _syscall(_SYS_CLONE, ctypes.c_ulong(_CLONE_PARENT | 17), zero, zero, zero, zero)


def same_file(pid: int, first: int, second: int) -> bool:
    """Whether two descriptors of a process are one open file."""
    return _syscall(_SYS_KCMP, pid, pid, _KCMP_FILE, ctypes.c_ulong(first), ctypes.c_ulong(second)) == 0


def set_io_priority(value: int) -> None:
    """ioprio_set(2) of the calling process: class << 13 | level."""
    _syscall(_SYS_IOPRIO_SET, _IOPRIO_WHO_PROCESS, 0, value)


def reset_all_signals() -> None:
    """Every signal to its default, those too that the C library keeps for itself and some parents ignore."""
    default = ctypes.create_string_buffer(32)
    for number in range(1, 65):
        try:
            _syscall(_SYS_RT_SIGACTION, number, default, None, ctypes.c_size_t(8))
        except OSError:
            continue  # SIGKILL and SIGSTOP.


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def inherit_capabilities(mask: int) -> None:
    """Make these permitted ones inheritable and effective too, as the ambient set demands."""
    header, data = _Header(_CAPABILITY_VERSION_3, 0), (_Data * 2)()
    _check(_libc.capget(ctypes.byref(header), data))
    for index in (0, 1):
        part = mask >> (32 * index) & 0xFFFFFFFF & data[index].permitted
        data[index].inheritable |= part
        data[index].effective |= part
    _check(_libc.capset(ctypes.byref(header), data))


def raise_ambient(number: int) -> None:
    """Add one capability to the ambient set."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number)


def limit_inheritable(keep: int) -> None:
    """Take everything out of the inheritable set that is not in the mask `keep`, and so out of the ambient set.
    What is inheritable outlives an execve whatever the bounding set says.
    """
    header, data = _Header(_CAPABILITY_VERSION_3, 0), (_Data * 2)()
    _check(_libc.capget(ctypes.byref(header), data))
    for index in (0, 1):
        data[index].inheritable &= keep >> (32 * index) & 0xFFFFFFFF
    _check(_libc.capset(ctypes.byref(header), data))


def drop_from_bounding(keep: int) -> None:
    """Drop everything from the bounding set that is not in the mask `keep`."""
    present = bounding_set()[1]
    for number in range(64):
        if present >> number & 1 and not keep >> number & 1:
            prctl(PR_CAPBSET_DROP, number)


def bounding_set() -> tuple[int, int]:
    """Masks of the capabilities that the kernel knows, and of those that we may still get."""
    known = present = 0
    for number in range(64):
        try:
            has = prctl(PR_CAPBSET_READ, number)
        except OSError as error:
            if error.errno == _EINVAL:
                break  # There are no more.
            raise
        known |= 1 << number
        present |= has << number
    return known, present


_PIDFD_GET_INFO = 0xC040FF0B
_PIDFD_INFO_CGROUP = 1 << 2
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_INFO = struct.Struct("<QQ11Ii")


def pidfd_end(pidfd: int) -> tuple[int, int]:
    """What the kernel still knows of a process that may be gone: cgroup (v2, the inode of its directory; 0: not
    known), wait status (-1: not known). OSError before Linux 6.13.
    """
    import fcntl

    buffer = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_CGROUP | _PIDFD_INFO_EXIT, *(0,) * 13))
    fcntl.ioctl(pidfd, _PIDFD_GET_INFO, buffer)
    mask, cgroup, *_numbers, status = _PIDFD_INFO.unpack(buffer)
    return (cgroup if mask & _PIDFD_INFO_CGROUP else 0), (status if mask & _PIDFD_INFO_EXIT else -1)


def oom_floor() -> int:
    """The least oom_score_adj that children can have: CAP_SYS_RESOURCE takes the limit away."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            effective = next((int(line.split()[1], 16) for line in file if line.startswith("CapEff:")), 0)
        if effective >> CAP_SYS_RESOURCE & 1:
            return OOM_SCORE_MIN
        with open("/proc/self/oom_score_adj", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return OOM_SCORE_MIN
