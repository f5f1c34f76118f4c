"""Processes that a journal names: is the one that has this number now the same, another, or cannot anybody tell?

A pid alone proves nothing, it may have been given away again since. Pid and start time prove it, where /proc
shows them; the pidfd is opened first, so that the number cannot change hands between the look and the use.

Where nothing can go on, `end_holder` ends it, with those who have its socket.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import logging
import os
import signal
from collections.abc import Callable
from typing import Final

from holdfast.daemons.processes import NO_FD, Process
from holdfast.leased.heirs import Heirs, Use, survey_in_thread
from holdfast.leased.journal import UNKNOWN_START, Holder
from holdfast.leased.peer_sockets import SocketTable

log = logging.getLogger(__name__)

KILL_WAIT_S: Final = 5.0
"""How long a killed process of the previous run may take to be gone."""
POLL_S: Final = 0.05


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


async def end_holder(
    table: SocketTable | None, holder: Holder, send_signal: Callable[[Process, int], int]
) -> bool:
    """Kill what held leases in the previous run, and its heirs; whether all are proven gone."""
    standing, process = look_for(holder.pid, holder.start)
    heirs = Heirs(table, holder)
    heirs.ended = standing is Standing.GONE
    try:
        if not heirs.ended and (holder.start == UNKNOWN_START or process.fd == NO_FD):
            # /proc did not tell (hidepid): whoever has the number now may be it.
            log.error("process %d may be one of the previous run and cannot be ended", holder.pid)
            return False
        if not heirs.ended:
            if heirs.needs_family:
                # Later nobody knows whose children they were.
                heirs.take(await survey_in_thread(heirs.inodes), after_end=False, hold=True)
            log.error("process %d of the previous run holds leases: SIGKILL", holder.pid)
            send_signal(process, signal.SIGKILL)
        for _ in range(int(KILL_WAIT_S / POLL_S)):
            heirs.ended = heirs.ended or process.is_gone()
            if heirs.ended:
                use = heirs.use()
                if use is Use.UNUSED:
                    return True
                if use is Use.UNKNOWN:
                    break
                heirs.take(await survey_in_thread(heirs.inodes, threads=heirs.threads), after_end=True, hold=True)
            for heir in heirs.users:
                log.error("process %d has what process %d of the previous run had: SIGKILL", heir.pid, holder.pid)
                send_signal(heir, signal.SIGKILL)
            await asyncio.sleep(POLL_S)
        log.error("process %d of the previous run, or who has its socket, is not proven to be gone", holder.pid)
        return False
    finally:
        heirs.close()
        process.close()
