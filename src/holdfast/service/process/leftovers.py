"""Processes that a supervisor has left which was killed: ended before any unit starts, so that none runs twice.

They are known by their unit's control group, by the mark that their unit had (`lineage.py`), or by pid and start
time and as children of such ones. They are no children of ours and nobody can tell how they end: they are not
adopted.

In reverse order of their units' first start, SIGTERM each, and some time to end before the next one gets it;
SIGKILL at the end, for all that are left.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Mapping
from typing import Final

from holdfast.daemons.processes import start_time
from holdfast.service.process.cgroups import Hierarchy
from holdfast.service.process.lineage import MARK_UNIT_BITS, children_of, limit_mark, read_entry
from holdfast.service.process.record import Recorded

log = logging.getLogger(__name__)

TURN_S: Final = 10.0
"""For which one unit holds up the next one's SIGTERM."""
TERM_S: Final = 90.0
"""From the first SIGTERM to SIGKILL (DefaultTimeoutStopSec=)."""
KILL_S: Final = 10.0
POLL_S: Final = 0.01
MAX_NAMED: Final = 16
UNKNOWN: Final = "?"
Left = dict[str, dict[int, int]]
"""Units, and start times of their processes by pid."""
Say = Callable[[str, str, int], None]


def find(recorded: Recorded, hierarchy: Hierarchy | None) -> Left:
    """Units that were started last come first. Looks at all of /proc; not for the loop."""
    found: dict[str, set[int]] = {}
    names = recorded.units
    if hierarchy is not None:
        known = frozenset(names.values())
        for unit, pids in hierarchy.populated():
            # Only by the record: a supervisor in other namespaces may use a group of the same name.
            if unit in known:
                found.setdefault(unit, set()).update(pids)
    if recorded.mark:
        for name in os.listdir("/proc"):
            if name.isdigit():
                index = limit_mark(int(name)) - recorded.mark
                if 0 <= index < 1 << MARK_UNIT_BITS:
                    found.setdefault(names.get(index, UNKNOWN), set()).add(int(name))
    for index, pid, start in recorded.processes:
        if start_time(pid) == start:
            found.setdefault(names.get(index, UNKNOWN), set()).update((pid, *_descendants(pid)))
    spared = _ancestors()
    order = {name: index for index, name in names.items()}
    left: Left = {}
    for unit in sorted(found, key=lambda unit: (-order.get(unit, len(order)), unit)):
        times = {pid: start_time(pid) for pid in found[unit] - spared}
        living = {pid: start for pid, start in times.items() if start is not None}
        if living:
            left[unit] = living
    return left


def _descendants(pid: int) -> set[int]:
    found: set[int] = set()
    todo = [pid]
    while todo:
        for child in children_of(todo.pop()):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def _ancestors() -> set[int]:
    """This process and those above it: it may have been started by somebody whose login is such a service's."""
    found: set[int] = set()
    at = os.getpid()
    while at > 0 and at not in found:
        found.add(at)
        entry = read_entry(at)
        at = entry.parent if entry is not None else 0
    return found


async def end(look: Callable[[], Left], say: Say) -> None:
    """Until `look` (called in a thread) finds nobody, or SIGKILL has not helped."""
    loop = asyncio.get_running_loop()
    left = await asyncio.to_thread(look)
    if not left:
        return
    for unit, pids in left.items():
        named = ", ".join(map(str, sorted(pids)[:MAX_NAMED]))
        say(unit, f"Left running by a supervisor that was killed, ended before anything starts: {named}", 4)
    limit = loop.time() + TERM_S
    asked: set[int] = set()
    for pids in left.values():
        _signal(pids, signal.SIGTERM)
        asked |= pids.keys()
        turn = min(loop.time() + TURN_S, limit)
        while _living(pids) and loop.time() < turn:
            await asyncio.sleep(POLL_S)
    while (left := await asyncio.to_thread(look)) and loop.time() < limit:
        # Those born meanwhile.
        for pids in left.values():
            _signal({pid: start for pid, start in pids.items() if pid not in asked}, signal.SIGTERM)
            asked |= pids.keys()
        await asyncio.sleep(POLL_S)
    limit = loop.time() + KILL_S
    while left and loop.time() < limit:
        for pids in left.values():
            _signal(pids, signal.SIGKILL)
        await asyncio.sleep(POLL_S)
        left = await asyncio.to_thread(look)
    for unit, pids in left.items():
        say(unit, f"Processes {', '.join(map(str, sorted(pids)))} survive SIGKILL", 3)


def _living(pids: Mapping[int, int]) -> bool:
    return any(start_time(pid) == start for pid, start in pids.items())


def _signal(pids: Mapping[int, int], number: int) -> None:
    """Only to those who still are what they were, asked after their descriptor was taken."""
    for pid, start in pids.items():
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            continue  # It is gone.
        try:
            if start_time(pid) == start:
                signal.pidfd_send_signal(pidfd, number)
                if number != signal.SIGKILL:
                    signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        except OSError as error:
            log.debug("process %d: %s", pid, error.strerror)
        finally:
            os.close(pidfd)
