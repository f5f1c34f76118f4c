"""Clients of the daemon: one per connection, and what the daemon knows of each (spec lease-wire sections 5, 6).

State only. Which bytes arrive is `connection`'s business, what they do is the commands'. A client becomes a
*registered* one by REGISTER; from then on the end of its connection is the death of its process.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from holdfast.daemons.processes import Process
from holdfast.leased import wire
from holdfast.leased.journal import SocketId

if TYPE_CHECKING:
    from holdfast.leased.leases import Token

FIRST_SLOT: Final = 2
"""Slots 0 and 1 are the helper and the listener in everybody's status output."""

OTHER_DESCRIPTORS: Final = 512
"""Kept for storage, event connections and the rest when the limit of open files is low."""
MIN_SLOTS: Final = 32

INITIAL_LEASE_SLOTS: Final = 8
MORE_LEASE_SLOTS: Final = 16

ESRCH: Final = -3
EBUSY: Final = -16


class Client:
    """One connection as STATUS shows it, and the leases that its process holds."""

    __slots__ = (
        "ci",
        "cmd_active",
        "cmd_last",
        "fd",
        "kill_count",
        "kill_last",
        "killargs",
        "killpath",
        "killpath_sent",
        "killpath_wants_pid",
        "name",
        "pid",
        "pid_dead",
        "process",
        "registered",
        "restricted",
        "sockets",
        "suspended",
        "tag",
        "tokens",
    )

    def __init__(self, ci: int, fd: int) -> None:
        self.ci = ci
        self.fd = fd
        self.name = ""
        self.pid = -1
        self.process: Process | None = None
        self.registered = False
        self.restricted = 0
        self.killpath = ""
        self.killargs = ""
        self.killpath_wants_pid = False
        self.killpath_sent = False
        self.cmd_active = 0
        self.cmd_last = 0
        self.pid_dead = False
        self.kill_count = 0
        self.kill_last = 0.0
        self.suspended = False
        self.sockets: tuple[SocketId, ...] = ()
        """Its ends of its connection, and of those that it had before; empty when that is not known."""
        self.tag = ""
        """Names its connection in the service manager's descriptor store."""
        self.tokens: list[Token | None] = []

    def register(self, pid: int, process: Process) -> None:
        self.pid = pid
        self.process = process
        self.registered = True
        self.name = str(pid)
        self.tokens = [None] * INITIAL_LEASE_SLOTS

    def add_token(self, token: Token) -> None:
        """Into the first free slot; there is no upper bound (spec 21 no. 7)."""
        tokens = self.tokens
        if None not in tokens:
            tokens.extend([None] * MORE_LEASE_SLOTS)
        tokens[tokens.index(None)] = token

    def drop_token(self, token: Token) -> None:
        self.tokens[self.tokens.index(token)] = None

    def held(self) -> list[Token]:
        """Its leases in slot order."""
        return [token for token in self.tokens if token is not None]

    def forget_kill_state(self) -> None:
        """It gave up everything in time and may acquire again (spec 7.3)."""
        self.kill_count = 0
        self.kill_last = 0.0
        self.killpath_sent = False

    def refusal(self, cmd: int) -> int:
        """Why a lease command may not act on this client now: 0 or a result code (spec 6.2)."""
        if not self.registered or self.pid_dead:
            return EBUSY
        if cmd == wire.Command.ACQUIRE and self.kill_count > 0:
            return EBUSY
        if self.cmd_active:
            return EBUSY
        return 0

    def status_pairs(self, kill_last: int) -> list[tuple[str, object]]:
        """Spec 13.2, CLIENT."""
        flags = (1 if self.killpath_wants_pid else 0) | (2 if self.killpath_sent else 0)
        return [
            ("ci", self.ci),
            ("fd", self.fd),
            ("pid", self.pid),
            ("flags", f"{flags:x}"),
            ("restricted", f"{self.restricted:x}"),
            ("cmd_active", self.cmd_active),
            ("cmd_last", self.cmd_last),
            ("pid_dead", int(self.pid_dead)),
            ("kill_count", self.kill_count),
            ("kill_last", kill_last),
            ("suspend", int(self.suspended)),
            ("need_free", 0),
        ]


def slots_for(descriptors: int) -> int:
    """How many slots a limit of open files permits: each registered client takes two, storage needs some too."""
    return max(min(wire.MAX_CLIENTS, (descriptors - OTHER_DESCRIPTORS) // 2), MIN_SLOTS)


class ClientTable:
    """All clients by slot; at most `MAX_CLIENTS` slots including the two reserved ones."""

    def __init__(self, limit: int = wire.MAX_CLIENTS) -> None:
        self._limit = limit
        self._by_ci: dict[int, Client] = {}
        self._by_pid: dict[int, list[Client]] = {}
        self._free: list[int] = []
        self._next = FIRST_SLOT

    def __len__(self) -> int:
        return len(self._by_ci)

    def __iter__(self) -> Iterator[Client]:
        """In slot order."""
        return iter([self._by_ci[ci] for ci in sorted(self._by_ci)])

    def add(self, fd: int) -> Client | None:
        """A client in the lowest free slot; None when all are taken."""
        if self._free:
            self._free.sort(reverse=True)
            ci = self._free.pop()
        elif self._next < self._limit:
            ci = self._next
            self._next += 1
        else:
            return None
        client = self._by_ci[ci] = Client(ci, fd)
        return client

    def restore(self, ci: int, fd: int) -> Client:
        """A client of an earlier daemon, in the slot that it had there. The slot is free."""
        assert ci not in self._by_ci
        while self._next <= ci:
            self._free.append(self._next)
            self._next += 1
        self._free.remove(ci)
        client = self._by_ci[ci] = Client(ci, fd)
        return client

    def register(self, client: Client, pid: int, process: Process) -> None:
        client.register(pid, process)
        self._by_pid.setdefault(pid, []).append(client)

    def forget_pid(self, client: Client) -> None:
        """Its process is dead: nobody may find it by pid any more, and its pid shows as -1."""
        same = self._by_pid.get(client.pid)
        if same is not None and client in same:
            same.remove(client)
            if not same:
                del self._by_pid[client.pid]
        client.pid = -1
        client.pid_dead = True

    def remove(self, client: Client) -> None:
        """Free the slot."""
        if client.registered and not client.pid_dead:
            self.forget_pid(client)
        if client.process is not None:
            client.process.close()
        del self._by_ci[client.ci]
        self._free.append(client.ci)

    def all_of_pid(self, pid: int) -> list[Client]:
        """Registered living ones, in no order."""
        return list(self._by_pid.get(pid, ()))

    def by_pid(self, pid: int) -> Client | None:
        """The first slot with that pid."""
        same = self._by_pid.get(pid)
        return min(same, key=lambda client: client.ci) if same else None
