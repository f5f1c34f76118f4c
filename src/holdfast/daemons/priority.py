"""Real-time priority and locked memory for a daemon that must run in time (spec lease-wire 16, watchdog 3.1).

A failure is one log line, never a reason not to serve.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
from typing import Final

log = logging.getLogger(__name__)

OOM_SCORE: Final = -1000
"""Never chosen by the OOM killer: its death would cost the host."""
_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4


def protect_from_oom_killer() -> None:
    """To be called as root."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(OOM_SCORE))
    except OSError as error:
        log.info("OOM score stays: %s", error.strerror)


def raise_descriptor_limit() -> None:
    """As many descriptors as we may have: each client takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as error:
        log.warning("limit of descriptors stays: %s", error)


def become_real_time() -> None:
    """SCHED_RR at the highest priority; children start without it."""
    try:
        highest = os.sched_param(os.sched_get_priority_max(os.SCHED_RR))
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, highest)
    except OSError as error:
        log.error("set scheduler RR|RESET_ON_FORK priority failed: %s", error.strerror)


def lock_memory(level: int) -> None:
    """Level 1 what is mapped now, from 2 on what will be mapped too."""
    if level <= 0:
        return
    _lock(_MCL_CURRENT | (_MCL_FUTURE if level > 1 else 0))


def lock_memory_when_used() -> None:
    """What is mapped now, at once; later mappings page by page as they are used: thousands of threads' stacks
    would take gigabytes otherwise.
    """
    if _lock(_MCL_CURRENT):
        _lock(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)


def _lock(flags: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(flags):
        log.error("mlockall failed: %s", os.strerror(ctypes.get_errno()))
        return False
    return True
