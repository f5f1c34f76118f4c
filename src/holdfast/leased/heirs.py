"""Who else uses what a process was given: those that hold its socket, and its descendants.

`survey` looks through /proc and belongs into a thread (`survey_in_thread`): with thousands of processes it takes
tens of milliseconds. What it may not look into (processes of others, without CAP_SYS_PTRACE) it names. Whether a
socket is in use at all is not asked here but of the kernel (`peer_sockets`): who sees nobody has proven nothing.

`Heirs` draws the conclusions for one process: in use, not in use, or nobody can tell.
"""

from __future__ import annotations

import asyncio
import enum
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from holdfast.daemons.processes import NO_FD, Process
from holdfast.leased.journal import UNKNOWN_START, Holder
from holdfast.leased.peer_sockets import SocketTable

MAX_HEIRS: Final = 256
"""Of one client, found by one survey; each takes a descriptor. When these have ended it is looked again."""
INIT: Final = 1
"""Holds what a service left with it; nobody may end it."""


class Use(enum.Enum):
    """Of what a process was given."""

    USED = "others that have it from the process run"
    UNUSED = "nobody has it any more"
    UNKNOWN = "nobody can tell"


class Seen(NamedTuple):
    """A living process as /proc shows it to everybody."""

    pid: int
    parent: int
    session: int
    start: int


@dataclass(slots=True)
class Survey:
    """What one look through /proc found."""

    processes: dict[int, Seen] = field(default_factory=dict)
    holders: dict[int, set[int]] = field(default_factory=dict)
    """Inode of a wanted socket to: pids that hold it."""
    hidden: set[int] = field(default_factory=set)
    """Processes that could not be looked into."""


def survey(inodes: frozenset[int], *, threads: bool = False) -> Survey:
    """Every process, and who holds the sockets with these inodes; blocking.

    `threads`: also those descriptors that single threads have for themselves.
    """
    found = Survey()
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    try:
        names = os.listdir("/proc")
    except OSError:
        names = []
    for name in names:
        seen = _read(name) if name.isdigit() else None
        if seen is None:
            continue
        found.processes[seen.pid] = seen
        if wanted:
            held = _held(seen.pid, wanted, threads)
            if held is None:
                found.hidden.add(seen.pid)
            for inode in held or ():
                found.holders.setdefault(inode, set()).add(seen.pid)
    return found


async def survey_in_thread(inodes: frozenset[int], *, threads: bool = False) -> Survey:
    """As `survey`. The thread is left alone when this is cancelled; it ends by itself."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Survey] = loop.create_future()

    def finish(found: Survey) -> None:
        if not done.done():
            done.set_result(found)

    def work() -> None:
        found = survey(inodes, threads=threads)
        try:
            loop.call_soon_threadsafe(finish, found)
        except RuntimeError:
            pass  # The daemon has ended meanwhile.

    threading.Thread(target=work, name="survey", daemon=True).start()
    return await done


def _read(name: str) -> Seen | None:
    """None: it is gone. A process whose first thread has ended shows as a zombie while others run."""
    try:
        with open(f"/proc/{name}/stat", "rb") as file:
            text = file.read()
        # The command name may contain anything, so count from its closing parenthesis.
        fields = text[text.rfind(b")") + 2 :].split()
        if fields[0] in (b"Z", b"X") and len(os.listdir(f"/proc/{name}/task")) < 2:
            return None
        return Seen(int(name), int(fields[1]), int(fields[3]), int(fields[19]))
    except (OSError, IndexError, ValueError):
        return None


def _held(pid: int, wanted: dict[str, int], threads: bool) -> set[int] | None:
    """None: we may not look."""
    places = [f"/proc/{pid}/fd"]
    if threads:
        try:
            places = [f"/proc/{pid}/task/{task}/fd" for task in os.listdir(f"/proc/{pid}/task")]
        except OSError:
            pass
    found: set[int] = set()
    for place in places:
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    try:
                        link = os.readlink(entry.path)
                    except FileNotFoundError:
                        continue
                    if link in wanted:
                        found.add(wanted[link])
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError:
            return None
    return found


class Heirs:
    """Those who have something of one process that held a lease: its socket, or else its blood."""

    def __init__(self, table: SocketTable | None, holder: Holder) -> None:
        self.holder = holder
        self.ended = False
        """The process itself has, and everything below is about the others."""
        self._table = table
        self._users: dict[tuple[int, int], Process] = {}
        self._family: set[tuple[int, int]] = set()
        self._sessions: set[int] = set()
        self._family_known = False
        self._looked_after_end = False
        self._hidden = False
        self.threads = False
        """The last survey did not find who holds the socket: look into the threads too."""

    @property
    def inodes(self) -> frozenset[int]:
        return frozenset(one.inode for one in self.holder.sockets)

    @property
    def needs_family(self) -> bool:
        """Whether descendants have to be followed while the process lives: later nobody knows whose they were."""
        return self._hidden or self._socket_in_use() is None

    def _socket_in_use(self) -> bool | None:
        answers = [self._table.is_open(one) for one in self.holder.sockets] if self._table is not None else []
        if any(answers):
            return True
        return None if not answers or None in answers else False

    def use(self) -> Use:
        """By others than the process itself. Asks the kernel, does not wait."""
        in_use = self._socket_in_use()
        if in_use is not None:
            return Use.USED if in_use else Use.UNUSED
        if not self._family_known:
            return Use.UNKNOWN
        # What a survey before the end of the process has not seen may have been forked since.
        return Use.USED if self._family or not self._looked_after_end else Use.UNUSED

    @property
    def users(self) -> list[Process]:
        """Those that are known; to be signalled when the lease must end."""
        return list(self._users.values())

    def take(self, found: Survey, after_end: bool, *, hold: bool) -> None:
        """Learn from a survey; `after_end`: it was begun when the process had ended. `hold`: for `users`."""
        root = found.processes.get(self.holder.pid)
        self._hidden = self.holder.pid in found.hidden or self._hidden
        if root is not None and root.start == self.holder.start != UNKNOWN_START:
            self._family_known = True
            self._family.add((root.pid, root.start))
        self._follow_family(found)
        self._looked_after_end = after_end
        holders: set[int] = set()
        for inode in self.inodes:
            holders |= found.holders.get(inode, set())
        # Where a socket is known, blood counts only for those that nobody may look into.
        known = self._socket_in_use() is not None
        family = {pid for pid, _ in self._family if not known or pid in found.hidden}
        self.threads = known and not holders
        self._replace_users(found.processes[pid] for pid in sorted(holders | family) if hold)

    def _follow_family(self, found: Survey) -> None:
        """Children of the family, and everybody in a session that one of it leads, are of the family."""
        family = {
            pid for pid, start in self._family if pid in found.processes and found.processes[pid].start == start
        }
        sessions = self._sessions | family
        more = True
        while more:
            added = {
                seen.pid
                for seen in found.processes.values()
                if seen.pid not in family
                and seen.pid != os.getpid()
                and (seen.parent in family or seen.session in sessions)
            }
            family |= added
            sessions |= added
            more = bool(added)
        self._family = {(pid, found.processes[pid].start) for pid in family}
        # A number is not given away while it is that of a session.
        self._sessions = {seen.session for seen in found.processes.values() if seen.session in sessions}

    def _replace_users(self, users: Iterable[Seen]) -> None:
        kept: dict[tuple[int, int], Process] = {}
        for seen in users:
            if seen.pid in (self.holder.pid, os.getpid(), INIT) or len(kept) >= MAX_HEIRS:
                continue
            key = (seen.pid, seen.start)
            process = self._users.pop(key, None) or _open(seen)
            if process is not None:
                kept[key] = process
        self.close()
        self._users = kept

    def close(self) -> None:
        for process in self._users.values():
            process.close()
        self._users = {}


def _open(seen: Seen) -> Process | None:
    """The very process that was seen; None when it is gone."""
    try:
        process = Process(seen.pid)
    except OSError:
        return None
    now = _read(str(seen.pid))
    if process.fd == NO_FD or now is None or now.start != seen.start or process.is_gone():
        process.close()
        return None
    return process
