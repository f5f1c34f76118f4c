"""Limits, scheduling and memory of the path daemon's process (spec path 5.5). Nothing here keeps it from serving.

What the service manager has set in the unit is left alone: it says so in the environment (LimitNOFILE,
OOMScoreAdjust).
"""

from __future__ import annotations

import logging
import os
import resource
from typing import Final

from holdfast.daemons import priority

log = logging.getLogger(__name__)

NR_OPEN: Final = "/proc/sys/fs/nr_open"
DEFAULT_NR_OPEN: Final = 1 << 20


def raise_descriptor_limit(max_fds: object) -> None:
    """RLIMIT_NOFILE to `max_fds` of multipath.conf: a number, or `max`: the kernel's; None: leave it."""
    wanted = wanted_descriptors(max_fds)
    if wanted is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    except (OSError, ValueError) as error:
        log.warning("limit of descriptors: %d is refused (%s), %d holds", wanted, error, hard)
        priority.raise_descriptor_limit()


def wanted_descriptors(max_fds: object) -> int | None:
    """What `max_fds` of multipath.conf comes to; None: the limit is not the daemon's business."""
    if "LimitNOFILE" in os.environ:
        return None
    wanted = _nr_open() if max_fds == "max" else max_fds
    return wanted if isinstance(wanted, int) and wanted > 0 else None


def descriptor_limit() -> int:
    """RLIMIT_NOFILE as it holds now."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _nr_open() -> int:
    try:
        with open(NR_OPEN, encoding="ascii") as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return DEFAULT_NR_OPEN


def protect() -> None:
    """Out of reach of the OOM killer, scheduled before others as far as RLIMIT_RTPRIO allows, never paged out."""
    if "OOMScoreAdjust" not in os.environ:
        priority.protect_from_oom_killer()
    become_real_time()
    priority.lock_memory_when_used()


def become_real_time() -> None:
    """SCHED_RR at the hard limit of RLIMIT_RTPRIO, not at all where that is 0 (0.9.9 and later)."""
    _, hard = resource.getrlimit(resource.RLIMIT_RTPRIO)
    highest = os.sched_get_priority_max(os.SCHED_RR)
    level = highest if hard == resource.RLIM_INFINITY else min(hard, highest)
    if level < os.sched_get_priority_min(os.SCHED_RR):
        return
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(level))
    except OSError as error:
        log.warning("scheduling stays ordinary: SCHED_RR %d: %s", level, error.strerror)
