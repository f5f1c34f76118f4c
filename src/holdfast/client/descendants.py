"""All processes below this one: finding, ending and reaping them (a command must not outlive its lease).

This process is their subreaper, so a process whose parent ended appears as our own child: the tree below us is
complete. Processes are signalled through pidfds after their place in the tree was checked again: a number that was
recycled meanwhile is never hit.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection
from typing import NamedTuple


class Entry(NamedTuple):
    """A line of /proc: state `Z` is a zombie."""

    pid: int
    parent: int
    state: str


def read_entry(pid: int) -> Entry | None:
    """The process with this number, None when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            raw = file.read()
    except OSError:
        return None
    # The name is in parentheses and may contain anything, parentheses too.
    fields = raw[raw.rfind(b")") + 2 :].split()
    return Entry(pid, int(fields[1]), fields[0].decode("ascii", "replace"))


def read_entries() -> dict[int, Entry]:
    """Every process."""
    entries = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (entry := read_entry(int(name))) is not None:
            entries[entry.pid] = entry
    return entries


def descendants(root: int, leave_out: Collection[int] = ()) -> list[Entry]:
    """Everything below `root`, zombies included, without `leave_out` and what is below them."""
    children: dict[int, list[Entry]] = {}
    for entry in read_entries().values():
        children.setdefault(entry.parent, []).append(entry)
    found: list[Entry] = []
    todo = [root]
    while todo:
        for entry in children.get(todo.pop(), ()):
            if entry.pid not in leave_out:
                found.append(entry)
                todo.append(entry.pid)
    return found


def running(root: int, leave_out: Collection[int] = ()) -> list[Entry]:
    """As `descendants`, without zombies: these can do nothing any more."""
    return [entry for entry in descendants(root, leave_out) if entry.state not in ("Z", "X")]


def send(entry: Entry, number: int) -> bool:
    """Signal this very process; False when it is gone or not ours to signal."""
    try:
        fd = os.pidfd_open(entry.pid)
    except OSError:
        return False
    try:
        now = read_entry(entry.pid)
        if now is None or now.parent not in (entry.parent, os.getpid()):
            return False
        signal.pidfd_send_signal(fd, number)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def reap(keep: Collection[int]) -> None:
    """Take zombies among our children off the list, except `keep`, whose exit status somebody wants."""
    own = os.getpid()
    for entry in read_entries().values():
        if entry.parent == own and entry.state == "Z" and entry.pid not in keep:
            try:
                os.waitpid(entry.pid, os.WNOHANG)
            except ChildProcessError:
                continue
