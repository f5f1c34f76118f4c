"""What must be known after a crash of the daemon: which processes hold leases of which lockspaces.

Closes the hole of spec lease-disk 6.3. A daemon that comes back under its old host name would own its host id
again within seconds, with a new generation, and all other hosts would take the leases of the old one, while the
processes that hold them still run. So each hold is written down, in the run directory (tmpfs: a reboot removes
it), before the lease is taken; a restarted daemon uses the shortcut only after those processes are proven gone.

The file is a journal of lines, replayed at start. Appending costs microseconds; it is rewritten when it has grown.
Without a configured host name there is no shortcut and nothing is recorded.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from functools import lru_cache
from typing import Final

from holdfast.daemons.processes import Process, start_time
from holdfast.lease.errors import Code, LeaseError
from holdfast.leased.clients import Client

log = logging.getLogger(__name__)

FILE_NAME: Final = "holdfast.record"
FORMAT: Final = "holdfast-record 1"
REWRITE_BYTES: Final = 262144
KILL_WAIT_S: Final = 5.0
"""How long a killed process of the previous run may take to be gone."""
POLL_S: Final = 0.05

UNKNOWN_START: Final = 0

Holder = tuple[int, int]
"""pid, start time in clock ticks since boot."""

ORPHAN: Final[Holder] = (0, 0)
"""In place of a process: leases that are held without one."""


def replay(text: str) -> dict[str, set[Holder]]:
    """Lockspaces that were joined when the journal ended, with the processes that held leases in them.

    ValueError for anything that is not such a journal. A last line without its newline was never promised.
    """
    lines = text.split("\n")[:-1]
    if not lines:
        return {}
    if lines[0] != FORMAT:
        raise ValueError(f"first line is {lines[0]!r}, not {FORMAT!r}")
    spaces: dict[str, set[Holder]] = {}
    for line in lines[1:]:
        word, *rest = line.split(" ", 3)
        if word == "join":
            spaces.setdefault(_unquote(rest[0]), set())
        elif word == "left":
            spaces.pop(_unquote(rest[0]), None)
        elif word in ("hold", "drop"):
            holder = (int(rest[1]), int(rest[2]))
            holders = spaces.setdefault(_unquote(rest[0]), set())
            if word == "hold":
                holders.add(holder)
            else:
                holders.discard(holder)
        else:
            raise ValueError(f"unknown line {line!r}")
    return spaces


def _quote(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").hex()


# The same few processes take and drop leases all day.
@lru_cache(maxsize=1024)
def _line(word: str, space_name: str, holder: Holder) -> str:
    return f"{word} {_quote(space_name)} {holder[0]} {holder[1]}"


@lru_cache(maxsize=1024)
def _bytes_of(line: str) -> bytes:
    return (line + "\n").encode("ascii")


def _unquote(text: str) -> str:
    return bytes.fromhex(text).decode("utf-8", "surrogateescape")


class RunRecord:
    """The journal of this run, and what the previous one left behind."""

    def __init__(self, run_dir: str, enabled: bool) -> None:
        self._path = os.path.join(run_dir, FILE_NAME)
        self._enabled = enabled
        self._fd = -1
        self._bytes = 0
        self._spaces: dict[str, dict[Holder, int]] = {}
        self._previous: dict[str, set[Holder]] = {}
        self._previous_unknown = False

    def open(self) -> None:
        """Read what is there, and begin a new journal that still contains what is not yet settled."""
        if not self._enabled:
            return
        try:
            with open(self._path, encoding="ascii") as file:
                self._previous = replay(file.read())
        except FileNotFoundError:
            pass  # The previous run ended properly, or the host was booted since.
        except (OSError, ValueError, IndexError) as error:
            log.error("%s: %s; host ids with our name will be waited out", self._path, error)
            self._previous_unknown = True
        self._rewrite()

    def _rewrite(self) -> None:
        lines = [FORMAT]
        for name, previous in self._previous.items():
            lines.append(f"join {_quote(name)}")
            lines += [f"hold {_quote(name)} {pid} {start}" for pid, start in sorted(previous)]
        for name, holders in self._spaces.items():
            lines.append(f"join {_quote(name)}")
            lines += [f"hold {_quote(name)} {pid} {start}" for pid, start in holders]
        if self._previous_unknown:
            lines[0] = "unknown"
        temporary = self._path + ".new"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        data = ("\n".join(lines) + "\n").encode("ascii")
        os.write(fd, data)
        os.rename(temporary, self._path)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._bytes = len(data)

    def _append(self, line: str) -> bool:
        """False when it could not be written (the run directory is full); logged."""
        if self._fd < 0:
            return True
        try:
            if self._bytes > REWRITE_BYTES:
                self._rewrite()
                return True
            data = _bytes_of(line)
            written = os.write(self._fd, data)
        except OSError as error:
            log.error("%s: %s", self._path, error)
            return False
        self._bytes += written
        return written == len(data)

    def joined(self, space_name: str, host_id: int, generation: int) -> None:
        """Processes may hold leases in it now. What the previous run left there is over: proven, or waited out."""
        if self._enabled:
            self._previous.pop(space_name, None)
            self._spaces.setdefault(space_name, {})
            self._append(f"join {_quote(space_name)}")

    def left(self, space_name: str) -> None:
        """Nobody uses it any more."""
        if self._enabled and self._spaces.pop(space_name, None) is not None:
            self._append(f"left {_quote(space_name)}")

    def holds(self, client: Client, space_name: str) -> None:
        """Before the process gets a lease there. Counted: several connections may share a pid.

        LeaseError ERROR when it cannot be written down: then the process must not get the lease.
        """
        if not self._enabled or client.process is None:
            return
        if not self._count(space_name, _holder(client)):
            raise LeaseError(Code.ERROR, f"{self._path} cannot be written")

    def holds_no_more(self, client: Client, space_name: str) -> None:
        """One lease less."""
        if self._enabled and client.process is not None:
            self._uncount(space_name, _holder(client))

    def orphaned(self, space_name: str) -> None:
        """A lease has no process any more and stays held: after a crash nothing proves that it is unused."""
        if self._enabled:
            self._count(space_name, ORPHAN)

    def orphan_gone(self, space_name: str) -> None:
        """It was adopted, released, or its lockspace ended."""
        if self._enabled:
            self._uncount(space_name, ORPHAN)

    def _count(self, space_name: str, holder: Holder) -> bool:
        holders = self._spaces.setdefault(space_name, {})
        count = holders.get(holder, 0)
        if not count and not self._append(_line("hold", space_name, holder)):
            return False
        holders[holder] = count + 1
        return True

    def _uncount(self, space_name: str, holder: Holder) -> None:
        holders = self._spaces.get(space_name)
        if holders is None or holder not in holders:
            return
        holders[holder] -= 1
        if not holders[holder]:
            del holders[holder]
            self._append(_line("drop", space_name, holder))

    async def prove_gone(self, space_name: str) -> bool:
        """Whether nothing of the previous run uses the lockspace any more: kills what does, and looks.

        False: the host id must be waited out like a stranger's.
        """
        if not self._enabled:
            return True
        if self._previous_unknown:
            return False
        holders = self._previous.get(space_name)
        if holders is None:
            return True
        gone = True
        for pid, start in sorted(holders):
            gone = await _kill_and_see(pid, start) and gone
        if gone:
            del self._previous[space_name]
            self._append(f"left {_quote(space_name)}")
        return gone

    def close(self) -> None:
        """A proper end: nobody holds anything. What the previous run left unsettled is kept."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        if not self._previous and not self._previous_unknown:
            os.unlink(self._path)


def _holder(client: Client) -> Holder:
    assert client.process is not None
    return client.process.pid, client.process.start or UNKNOWN_START


async def _kill_and_see(pid: int, start: int) -> bool:
    if (pid, start) == ORPHAN:
        log.error("the previous run left orphan leases: nobody can tell whether they are in use")
        return False
    if start == UNKNOWN_START:
        # /proc did not tell (hidepid): whoever has the number now may be it.
        whoever = Process(pid)
        gone = whoever.is_gone()
        whoever.close()
        return gone
    if start_time(pid) != start:
        return True
    process = Process(pid)
    try:
        # The start time is compared again behind the pidfd: the number may have been reused in between.
        if process.start != start:
            return True
        log.error("process %d of the previous run holds leases: SIGKILL", pid)
        process.signal(signal.SIGKILL)
        for _ in range(int(KILL_WAIT_S / POLL_S)):
            if process.is_gone():
                return True
            await asyncio.sleep(POLL_S)
        log.error("process %d of the previous run does not die", pid)
        return False
    finally:
        process.close()
