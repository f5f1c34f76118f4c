"""Who wants the host to be reset unless heard of again: connections and their expiries (spec watchdog 3.3, 8.9).

Pure bookkeeping, no sockets and no clock. A slot outlives its connection when the client went away with an
expiry set: nobody can extend or clear it any more, and the host is reset when it is reached. That is the
promise to other hosts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from holdfast.watchdog.timing import DEFAULT_FIRE_TIMEOUT_S
from holdfast.watchdog.wire import Command, Message

MAX_CLIENTS: Final = 1024
"""Connections beyond are closed at once. The original has no limit and one table that only grows."""


@dataclass(eq=False)
class Client:
    """One slot. Times are whole CLOCK_MONOTONIC seconds, 0 for none."""

    ci: int
    pid: int = 0
    """0 until REGISTER, like the original's."""
    name: str = ""
    refcount: bool = False
    """A flag, although it is called a count: while it is set, SIGTERM does not end the daemon."""
    renewal: int = 0
    expire: int = 0
    dead: bool = False
    """The connection is gone; the expiry stands."""
    asked_for: int = 0
    """The fire timeout of its OPEN_WATCHDOG; 0: it never sent one (an old client)."""
    uid: int = -1
    """Of its process; -1: unknown, for a slot of an earlier daemon."""
    start: int = 0
    """When its process started, clock ticks since boot; 0: unknown."""
    inherited: bool = False
    """Of an earlier daemon that died. Its process may come back for it."""
    supersedes: Client | None = None
    """An inherited slot of the same process and name, which ends with this one's first expiry."""

    @property
    def arms(self) -> bool:
        """Whether the device must be armed for it. Old clients never ask for that, they just rely on it (4.3)."""
        return bool(self.asked_for or self.refcount or self.expire)


@dataclass
class Clients:
    """All slots, by number."""

    slots: dict[int, Client] = field(default_factory=dict)
    _next: int = 2
    """The original's slots 0 and 1 are its signals and its listener; its dump shows them."""

    def __iter__(self) -> Iterator[Client]:
        return iter(self.slots.values())

    def __len__(self) -> int:
        return len(self.slots)

    def connected(self) -> Client | None:
        """A slot for a new connection; None when all are taken."""
        if len(self.slots) >= MAX_CLIENTS:
            return None
        client = Client(self._next)
        self._next += 1
        self.slots[client.ci] = client
        return client

    def kept(self, entries: Iterable[Client]) -> None:
        """Take over slots of an earlier run: dead ones, with their expiries."""
        for entry in entries:
            entry.ci = self._next
            entry.dead = True
            self._next += 1
            self.slots[entry.ci] = entry

    def closed(self, client: Client) -> bool:
        """The connection ended. True when its expiry stays in force."""
        if client.expire:
            client.dead = True
            return True
        self.slots.pop(client.ci, None)
        return False

    def apply(self, client: Client, message: Message, peer_pid: int, peer_start: int = 0) -> bool:
        """A message without a reply. False when it is none of those."""
        if message.cmd == Command.REGISTER:
            client.pid, client.start, client.name = peer_pid, peer_start, message.name
            client.supersedes = self._inherited_from(client)
        elif message.cmd == Command.REFCOUNT_SET:
            client.refcount = True
        elif message.cmd == Command.REFCOUNT_CLEAR:
            client.refcount = False
        elif message.cmd == Command.TEST_LIVE:
            client.renewal, client.expire = message.renewal, message.expire
            if client.supersedes is not None:
                # Not earlier: without a word on its expiry the old one stands.
                self.slots.pop(client.supersedes.ci, None)
                client.supersedes = None
        else:
            return False
        return True

    def supersede(self, client: Client) -> bool:
        """A restarted lease daemon has proven that it is what the dead one of its name was: that slot ends.

        Only for the same user, and only once the new slot has an expiry of its own: there is never a moment
        without one. A name alone, as REGISTER gives it, never does this (spec 3.3).
        """
        if not client.expire or not client.name:
            return False
        dead = [one for one in self if one.dead and (one.name, one.uid) == (client.name, client.uid)]
        for one in dead:
            del self.slots[one.ci]
        return bool(dead)

    def _inherited_from(self, client: Client) -> Client | None:
        """The slot that this very process had with a daemon that died. A name alone proves nothing (spec 3.3)."""
        if not client.start:
            return None
        same = (client.name, client.pid, client.start)
        return next((one for one in self if one.inherited and (one.name, one.pid, one.start) == same), None)

    @property
    def earliest_expire(self) -> int | None:
        """Of all clients with an expiry; None when nobody has one."""
        return min((client.expire for client in self if client.expire), default=None)

    @property
    def refcounted(self) -> bool:
        """Whether anybody, also one that is dead, keeps the daemon from leaving."""
        return any(client.refcount for client in self)

    @property
    def arming(self) -> bool:
        """Whether the device must be armed."""
        return any(client.arms for client in self)

    def expiring_before(self, instant: float) -> list[Client]:
        """Those whose expiry is not after `instant`, the first to expire first."""
        return sorted((one for one in self if one.expire and one.expire <= instant), key=lambda one: one.expire)

    def wanted_fire_timeout(self) -> int:
        """For arming now: what the first client asked for, else the default of old clients."""
        return next((client.asked_for for client in self if client.asked_for), DEFAULT_FIRE_TIMEOUT_S)
