"""The journal of this run, `RUNDIR/holdfast.record`: what a daemon that was killed leaves to its successor.

Closes the hole of spec lease-disk 6.3. A daemon that comes back under its old host name would own its host id
again within seconds, with a new generation, and all other hosts would take the leases of the old one, while the
processes that hold them still run. So each hold is written down before the lease is taken. A successor goes on
under the same generation where it can prove that it may (`resume`); where it cannot, it joins only after the
recorded processes are proven gone.

Appending costs microseconds: one line before an acquire, one after a release; everything else rides along or is
rare. The file is rewritten, from the daemon's own tables, when it has doubled. It lies in the run directory
(tmpfs); `run_tag` tells whether it is of this boot and of these namespaces, because pids mean nothing elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from holdfast.daemons.processes import Process
from holdfast.lease.errors import Code, LeaseError
from holdfast.leased import journal, wire
from holdfast.leased.clients import Client
from holdfast.leased.holders import end_holder
from holdfast.leased.journal import (
    CONFIG_ORPHANS,
    CONFIG_USED,
    FLAG_LVB,
    ORPHAN,
    UNKNOWN_START,
    Holder,
    Journal,
    RecordedClient,
    RecordedLease,
    RecordedSpace,
    replay,
)
from holdfast.leased.leases import LocalLease, Stage, Token
from holdfast.leased.peer_sockets import SocketTable
from holdfast.leased.spaces import Listed, Space

if TYPE_CHECKING:
    from holdfast.leased.core import LeaseDaemon

log = logging.getLogger(__name__)

FILE_NAME: Final = "holdfast.record"
REWRITE_BYTES: Final = 262144
"""Rewritten at this size at the earliest."""
FLUSH_S: Final = 0.1
"""Lines that storage could tell as well are written together with the next one, or after this time."""
MAX_PENDING_BYTES: Final = 16384


def run_tag() -> str:
    """Names this boot and the namespaces that give pids and clocks their meaning."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        parts = [file.read().strip()]
    for name in ("pid", "time"):
        try:
            parts.append(os.readlink(f"/proc/self/ns/{name}"))
        except OSError:
            parts.append(name)  # A kernel without that namespace has one of it.
    return ",".join(parts)


class RecordUnwritable(Exception):
    """No journal of this run can be begun, so no lease could be taken. What the previous run left is untouched."""


class RunRecord:
    """The journal of this run, and what the previous one left behind."""

    def __init__(self, run_dir: str) -> None:
        self.path = os.path.join(run_dir, FILE_NAME)
        self.previous = Journal()
        """What is not settled yet: each lockspace until it is resumed, or proven unused, or waited out."""
        self.send_signal: Callable[[Process, int], int] = Process.signal
        """How what the previous run left is ended."""
        self.sockets: SocketTable | None = None
        self._snapshot: Callable[[], Journal] = Journal
        self._tag = run_tag()
        self._fd = -1
        self._bytes = 0
        self._rewrite_at = REWRITE_BYTES
        self._broken = False
        self._pending: list[str] = []
        self._pending_bytes = 0
        self._flush_timer: asyncio.TimerHandle | None = None

    def read(self) -> None:
        """Learn what the previous run left. Nothing is changed."""
        try:
            self.previous = self._read()
        except FileNotFoundError:
            pass  # It ended properly, or the host was booted since.
        except (OSError, ValueError) as error:
            log.error("%s: %s; host ids with our name will be waited out", self.path, error)
            self.previous = Journal(unknown=True)

    def _read(self) -> Journal:
        fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            info = os.fstat(fd)
            # The directory may be open to a group: processes are not killed on the word of just anybody.
            if not stat.S_ISREG(info.st_mode) or info.st_uid not in (0, os.geteuid()) or info.st_mode & 0o022:
                raise ValueError("not a file that only we may write")
            if info.st_size > journal.MAX_BYTES:
                raise ValueError(f"{info.st_size} bytes are too many")
            found = replay(file.read(journal.MAX_BYTES + 1).decode("ascii"))
        if not found.run or found.run == self._tag:
            return found
        if found.run.split(",")[0] != self._tag.split(",")[0]:
            log.info("%s is of an earlier boot: nothing of it is left", self.path)
            return Journal()
        raise ValueError("written in another pid or time namespace")

    def start(self, snapshot: Callable[[], Journal]) -> None:
        """Begin this run's journal; `snapshot` gives what is so now, at any time. RecordUnwritable."""
        self._snapshot = snapshot
        try:
            self._rewrite()
        except OSError as error:
            raise RecordUnwritable(f"{self.path} cannot be written: {error.strerror}") from error

    def conservative(self) -> None:
        """Adopt nothing: of the previous run only the processes count, as those of format 1."""
        for name in list(self.previous.spaces):
            self.previous.only_holders(name)
        self.previous.clients.clear()

    # -- writing -------------------------------------------------------------------------------------------

    def _rewrite(self) -> None:
        self._pending.clear()
        self._pending_bytes = 0
        text = "".join([f"{journal.FORMAT}\nrun {self._tag}\n", *self._snapshot().lines()])
        temporary = self.path + ".new"
        data = text.encode("ascii")
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if os.write(fd, data) != len(data):
                raise OSError(28, "no space left")
            os.rename(temporary, self.path)
        except BaseException:
            os.close(fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._bytes = len(data)
        self._rewrite_at = max(REWRITE_BYTES, 2 * len(data))
        self._broken = False

    def _append(self, line: str) -> bool:
        """Now, with everything that waited. False when it could not be written (the directory is full); logged."""
        if self._fd < 0:
            return True
        if self._pending:
            line = "".join(self._pending) + line
            self._pending.clear()
            self._pending_bytes = 0
        try:
            if self._broken:
                # The last line was cut; nothing may follow it.
                self._rewrite()
            data = line.encode("ascii")
            written = os.write(self._fd, data)
        except OSError as error:
            log.error("%s: %s", self.path, error)
            self._broken = True
            return False
        if written != len(data):
            self._broken = True
            return False
        self._bytes += written
        if self._bytes > self._rewrite_at:
            self._compact()
        return True

    def _compact(self) -> None:
        try:
            self._rewrite()
        except OSError as error:
            # The long file is as good; it is tried again when that has doubled.
            log.error("%s: %s", self.path, error)
            self._rewrite_at *= 2

    def _append_soon(self, line: str) -> None:
        """For what a successor could find out on storage: no system call of its own."""
        if self._fd < 0:
            return
        self._pending.append(line)
        self._pending_bytes += len(line)
        if self._pending_bytes > MAX_PENDING_BYTES:
            self._append("")
        elif self._flush_timer is None:
            self._flush_timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        self._flush_timer = None
        if self._pending:
            self._append("")

    def _stop(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        if self._pending:
            self._append("")
        os.close(self._fd)
        self._fd = -1

    def close(self) -> None:
        """A proper end: nobody holds anything. What the previous run left unsettled is kept."""
        if self._fd < 0:
            return
        self._stop()
        previous = self.previous
        if not previous.spaces and not previous.old_holders and not previous.unknown:
            os.unlink(self.path)

    def keep(self) -> None:
        """The end of this process, but not of what it records: a successor goes on."""
        if self._fd >= 0:
            self._stop()

    # -- lockspaces ----------------------------------------------------------------------------------------

    def joined(self, space: Space) -> None:
        """Processes may hold leases in it now.

        What the previous run left there is over, proven or waited out; or it goes on: `resume` settles its leases.
        """
        if space.resumed_generation:
            self.previous.spaces.pop(space.name, None)
        else:
            self.previous.forget_space(space.name)
        self.configured(space)

    def configured(self, space: Space) -> None:
        """It is joined, or its settings changed."""
        self._append(journal.join_line(recorded_space(space)))

    def renewed(self, space: Space, timestamp: int) -> None:
        self._append(journal.renew_line(space.name, timestamp))

    def failed(self, space: Space) -> None:
        """Lost or being removed: it can never be resumed (rule 15)."""
        self._append(f"failed {journal.quote(space.name)}\n")

    def left(self, space: Space) -> None:
        """Nobody uses it any more."""
        self._append(f"left {journal.quote(space.name)}\n")

    # -- clients -------------------------------------------------------------------------------------------

    def client(self, client: Client) -> None:
        """It registered, or what must be known to end it changed."""
        if client.process is not None:
            self._append(journal.client_line(recorded_client(client)))

    def client_gone(self, client: Client) -> None:
        """Its slot is free."""
        if client.process is not None:
            self._append_soon(f"end {client.ci}\n")

    # -- leases --------------------------------------------------------------------------------------------

    def take(self, client: Client, local: LocalLease, persistent: bool) -> None:
        """Before the client gets the lease. LeaseError ERROR when it cannot be written down: then it must not."""
        flags = (wire.RES_SHARED if local.shared else 0) | (wire.RES_PERSISTENT if persistent else 0)
        if local.lvb:
            flags |= FLAG_LVB
        disk = local.resource.disks[0]
        if not self._append(journal.take_line(*local.key, client.ci, flags, disk.offset, disk.path)):
            raise LeaseError(Code.ERROR, f"{self.path} cannot be written")

    def taken(self, local: LocalLease) -> None:
        """The lease is on storage, with this version and mode."""
        self._append_soon(journal.lver_line(*local.key, local.lver, local.shared))

    def converted(self, local: LocalLease) -> None:
        """Before the client is told."""
        self._append(journal.lver_line(*local.key, local.lver, local.shared))

    def dropped(self, token: Token) -> None:
        """One of several holders is out."""
        space, name = token.local.key
        self._append(f"drop {journal.quote(space)} {journal.quote(name)} {token.client.ci}\n")

    def leaving(self, local: LocalLease) -> None:
        """Nobody's any more, and it takes longer to tell storage."""
        self._append(journal.lease_line("rem", *local.key))

    def freed(self, local: LocalLease) -> None:
        """It is over."""
        self._append(journal.lease_line("free", *local.key))

    def orphaned(self, local: LocalLease) -> None:
        space, name = local.key
        self._append(f"orphan {journal.quote(space)} {journal.quote(name)} {local.pid}\n")

    def value(self, local: LocalLease) -> None:
        """A changed LVB, before its client is told."""
        if local.lease is not None and local.lease.lvb is not None:
            space, name = local.key
            self._append(f"lvb {journal.quote(space)} {journal.quote(name)} {local.lease.lvb.hex()}\n")

    def internal(self, lease: RecordedLease) -> None:
        """Before the internal lease of a resource index is taken. LeaseError ERROR as `take`."""
        if not self._append("".join(journal.lease_lines(lease))):
            raise LeaseError(Code.ERROR, f"{self.path} cannot be written")

    def internal_freed(self, lease: RecordedLease) -> None:
        self._append(journal.lease_line("free", *lease.key))

    # -- the previous run ----------------------------------------------------------------------------------

    async def prove_gone(self, space_name: str) -> bool:
        """Whether nothing of the previous run uses the lockspace any more: kills what does, and looks.

        False: the host id must be waited out like a stranger's.
        """
        previous = self.previous
        if previous.unknown:
            return False
        holders = previous.holders_of(space_name)
        orphaned = any(lease.orphan for lease in previous.leases_of(space_name))
        gone = not orphaned or _log_orphans()
        outcomes = await asyncio.gather(*[self._end(holder) for holder in sorted(holders)])
        gone = all(outcomes) and gone
        if gone and (space_name in previous.spaces or space_name in previous.old_holders):
            previous.forget_space(space_name)
            self._append(f"left {journal.quote(space_name)}\n")
        return gone

    async def _end(self, holder: Holder) -> bool:
        return _log_orphans() if holder == ORPHAN else await end_holder(self.sockets, holder, self.send_signal)


def _log_orphans() -> bool:
    log.error("the previous run left orphan leases: nobody can tell whether they are in use")
    return False


# -- what is so now ----------------------------------------------------------------------------------------


def recorded_client(client: Client) -> RecordedClient:
    assert client.process is not None
    return RecordedClient(
        client.ci,
        client.tag or "0",
        client.process.pid,
        client.process.start or UNKNOWN_START,
        client.restricted,
        client.killpath_wants_pid,
        client.name,
        client.killpath,
        client.killargs,
        client.sockets,
    )


def recorded_space(space: Space) -> RecordedSpace:
    lockspace = space.membership
    config = (CONFIG_USED if space.external_used else 0) | (CONFIG_ORPHANS if space.used_by_orphans else 0)
    return RecordedSpace(
        space.name,
        space.host_id,
        lockspace.generation,
        space.io_timeout,
        space.offset,
        space.path,
        lockspace.host_name,
        config,
        lockspace.last_success,
    )


def _recorded_lease(local: LocalLease) -> RecordedLease:
    disk = local.resource.disks[0]
    lease = local.lease
    found = RecordedLease(
        *local.key,
        disk.path,
        disk.offset,
        (wire.RES_SHARED if local.shared else 0) | (FLAG_LVB if local.lvb else 0),
        {token.client.ci: token.persistent for token in local.tokens},
        shared=local.shared,
        lver=local.lver,
        leaving=local.stage is Stage.REM,
        orphan=local.stage is Stage.ORPHAN,
        pid=max(local.pid, 0),
    )
    if lease is not None and lease.lvb is not None and lease.lvb_dirty:
        found.lvb = bytes(lease.lvb)
    return found


def snapshot(daemon: LeaseDaemon) -> Journal:
    """What is so now, in the daemon's tables, and what of the previous run is not settled."""
    previous = daemon.record.previous
    now = Journal(unknown=previous.unknown, old_holders=dict(previous.old_holders))
    dead: list[str] = []
    for client in daemon.clients:
        if client.registered and client.process is not None and not client.pid_dead:
            now.clients[client.ci] = recorded_client(client)
    for space in daemon.spaces:
        if space.lockspace is None or not space.lockspace.joined or space.listed is Listed.REM:
            continue
        now.spaces[space.name] = recorded_space(space)
        dead += [space.name] if space.dead else []
    for name, recorded in previous.spaces.items():
        now.spaces.setdefault(name, recorded)
    now.leases.update(previous.leases)
    for local in daemon.leases:
        if local.space.name in now.spaces and not local.adopting:
            now.leases[local.key] = _recorded_lease(local)
    for key, internal in daemon.internal_leases.items():
        now.leases[key] = internal
    for name in dead:
        now.only_holders(name)
    return now
