"""Processes that a journal names: is the one that has this number now the same, another, or cannot anybody tell?

A pid alone proves nothing, it may have been given away again since. Pid and start time prove it, where /proc
shows them; the pidfd is opened first, so that the number cannot change hands between the look and the use.
"""

from __future__ import annotations

import enum
import errno
import os

from holdfast.daemons.processes import NO_FD, Process
from holdfast.leased.journal import UNKNOWN_START


class Standing(enum.Enum):
    """What became of a recorded process."""

    GONE = "it has ended; its number is free, or another's"
    SAME = "it lives"
    UNPROVEN = "a process with its number lives, and nobody can tell whether it is the same"


def look_for(pid: int, start: int) -> tuple[Standing, Process]:
    """The process as it is now; to be closed by the caller. Its descriptor is missing where it is GONE."""
    try:
        process = Process(pid)
    except OSError:
        process = _without_descriptor(pid)
    standing = _standing(process, start)
    if standing is Standing.GONE:
        process.close()
    return standing, process


def _standing(process: Process, start: int) -> Standing:
    if process.fd == NO_FD:
        return Standing.GONE if _number_is_free(process.pid) else Standing.UNPROVEN
    if process.is_gone():
        return Standing.GONE
    if process.start is None or start == UNKNOWN_START:
        # It may have become a zombie just now.
        return Standing.GONE if process.is_gone() else Standing.UNPROVEN
    return Standing.SAME if process.start == start else Standing.GONE


def _without_descriptor(pid: int) -> Process:
    """None could be had: it cannot be signalled, and nothing be proven of it."""
    process = Process.__new__(Process)
    process.pid, process.fd, process.start = pid, NO_FD, None
    return process


def _number_is_free(pid: int) -> bool:
    try:
        os.close(os.pidfd_open(pid))
    except OSError as error:
        # EINVAL (ENOENT in newer kernels): the number is that of a thread, so not of the process that was.
        return error.errno in (errno.ESRCH, errno.EINVAL, errno.ENOENT)
    return False
