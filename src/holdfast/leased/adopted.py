"""Clients of an earlier daemon whose connections ended with it: when are they dead, and how are they ended?

With a connection, the end of the last copy of a client's socket is its death (spec lease-wire 6.4). Without one,
a client lives as long as its process, and after that as long as anybody holds its socket; `peer_sockets` knows.
Where the kernel does not tell, its descendants count instead, and where they are not known either, it stays until
an operator gives its leases back (`holdfast lease release --pid`): better a lease too long than two writers.

Signals go to the process while it lives, as always; when it has ended, to the others, each time after a fresh
look at who they are.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Final

from holdfast.daemons.processes import NO_FD, Process
from holdfast.leased import wire
from holdfast.leased.clients import Client
from holdfast.leased.heirs import Heirs, Use, survey_in_thread
from holdfast.leased.holders import Standing, look_for
from holdfast.leased.journal import MAX_SOCKETS, UNKNOWN_START, Holder, SocketId

if TYPE_CHECKING:
    from holdfast.leased.core import LeaseDaemon

log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""Between two looks at what gives no sign when it ends."""
NEVER_S: Final = 86400.0


class _Estate:
    """What is known of one adopted client."""

    def __init__(self, client: Client, heirs: Heirs) -> None:
        self.client = client
        self.heirs = heirs
        self.said: Use | None = None
        self.wanted = 0
        """Signal for the heirs that the next survey finds."""
        self.doomed = False
        """Whoever is found is killed, until nobody is left."""
        self.surveyed = False
        self.follows = False
        self.pidfds: list[int] = []
        self.process_fd = NO_FD


class AdoptedClients:
    """All clients that have no connection, and the watch over them."""

    def __init__(self, daemon: LeaseDaemon) -> None:
        self._daemon = daemon
        self._loop = asyncio.get_running_loop()
        self._estates: dict[Client, _Estate] = {}
        self._wake = asyncio.Event()

    def __contains__(self, client: Client) -> bool:
        return client in self._estates

    # -- who is adopted ------------------------------------------------------------------------------------

    def add(self, client: Client) -> None:
        """It has no connection from now on; its process may have ended already."""
        assert client.process is not None
        process = client.process
        holder = Holder(process.pid, process.start or UNKNOWN_START, client.sockets)
        estate = self._estates[client] = _Estate(client, Heirs(self._daemon.sockets, holder))
        if process.fd != NO_FD:
            estate.process_fd = process.fd
            self._loop.add_reader(process.fd, self._process_ended, estate)
        self._wake.set()

    def remove(self, client: Client) -> None:
        """It has a connection again, or is dead."""
        estate = self._estates.pop(client, None)
        if estate is None:
            return
        self._unwatch_process(estate)
        self._unwatch_heirs(estate)
        estate.heirs.close()

    def close(self) -> None:
        for client in list(self._estates):
            self.remove(client)

    def still_used(self, client: Client) -> bool:
        """Whether others hold a socket that the client had before the one that has ended now."""
        return any(self._daemon.sockets.is_open(one) for one in client.sockets[:-1])

    def returning(self, process: Process, token_number: int) -> Client | None:
        """The client that this process was and can go on as: None, and it is a new one.

        Only when there is exactly one such client of this very process, or the one that holds the lease which the
        request names by its token. Not to one that was restricted to nothing: it would never be answered.
        """
        found = [
            estate.client
            for estate in self._estates.values()
            if estate.client.pid == process.pid and estate.heirs.holder.start == process.start
        ]
        if token_number:
            found = [client for client in found if any(t.number == token_number for t in client.held())]
        if len(found) != 1 or found[0].restricted & wire.RESTRICT_ALL or len(found[0].sockets) >= MAX_SOCKETS:
            return None
        return found[0]

    def sockets_now(self, client: Client, newest: SocketId | None) -> tuple[SocketId, ...]:
        """Of one that is connected again: what others may still hold counts as before."""
        earlier = [one for one in client.sockets if self._daemon.sockets.is_open(one) is not False]
        return (*earlier, newest) if newest is not None else ()

    # -- signals -------------------------------------------------------------------------------------------

    def has_heirs(self, client: Client) -> bool:
        """Its process has ended, others go on."""
        return client in self._estates and self._estates[client].heirs.ended

    def signal(self, client: Client, number: int) -> int:
        """0, or the positive errno. Heirs are looked up first, which takes a moment."""
        assert client.process is not None
        if not self.has_heirs(client):
            return self._daemon.send_signal(client.process, number)
        self._estates[client].wanted = number
        self._wake.set()
        return 0

    def doom(self, client: Client) -> None:
        """SIGKILL to the process, and to its heirs until none is left."""
        if client.process is not None:
            self._daemon.send_signal(client.process, signal.SIGKILL)
        if client in self._estates:
            self._estates[client].doomed = True
            self._wake.set()

    # -- watching ------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """As long as the daemon runs."""
        while True:
            try:
                async with asyncio.timeout(LOOK_S if self._must_look() else NEVER_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                for estate in list(self._estates.values()):
                    self._settle(estate)
                await self._survey()
            except Exception:
                # Its leases stay held, which is safe; the next look is in a second.
                log.exception("looking after adopted clients failed unexpectedly")
                await asyncio.sleep(LOOK_S)

    def _must_look(self) -> bool:
        return any(
            estate.heirs.ended or estate.doomed or estate.process_fd == NO_FD or estate.heirs.needs_family
            for estate in self._estates.values()
        )

    def _process_ended(self, estate: _Estate) -> None:
        self._unwatch_process(estate)
        estate.heirs.ended = True
        self._settle(estate)
        self._wake.set()

    def _heir_ended(self, estate: _Estate) -> None:
        self._unwatch_heirs(estate)
        self._settle(estate)
        self._wake.set()

    def _settle(self, estate: _Estate) -> None:
        """Conclude from what is known now; nothing waits."""
        client, heirs = estate.client, estate.heirs
        if client not in self._estates:
            return
        if not heirs.ended and estate.process_fd == NO_FD:
            standing, process = look_for(heirs.holder.pid, heirs.holder.start)
            process.close()
            heirs.ended = standing is Standing.GONE
        if not heirs.ended:
            return
        use = heirs.use()
        if use is Use.UNUSED or (not client.held() and not client.cmd_active):
            log.warning("client %d pid %d, adopted without a connection, has ended", client.ci, client.pid)
            self.remove(client)
            self._daemon.connections.adopted_gone(client)
        elif use is not estate.said:
            estate.said = use
            if use is Use.USED:
                log.warning(
                    "client %d pid %d has ended, others with its socket, or descendants, go on: its leases stay",
                    *(client.ci, client.pid),
                )
            else:
                log.error(
                    "client %d pid %d has ended, and nobody can tell whether its descendants run: its leases stay"
                    " until somebody who knows says `holdfast lease release --all --pid %d`",
                    *(client.ci, client.pid, client.pid),
                )

    def _wants_survey(self, estate: _Estate) -> bool:
        heirs = estate.heirs
        if not estate.surveyed or estate.doomed or estate.wanted:
            return True
        if heirs.ended:
            return not estate.pidfds or heirs.needs_family
        return heirs.needs_family

    async def _survey(self) -> None:
        estates = [estate for estate in self._estates.values() if self._wants_survey(estate)]
        if not estates:
            return
        ended = {estate for estate in estates if estate.heirs.ended}
        # A signal that is wanted from now on is for those whom the next survey finds.
        signals = {estate: signal.SIGKILL if estate.doomed else estate.wanted for estate in estates}
        for estate in estates:
            estate.wanted = 0
        # Who only follows descendants needs no look at descriptors.
        looked_for = [one for one in estates if one.heirs.ended or signals[one] or not one.surveyed]
        inodes = frozenset[int]().union(*(estate.heirs.inodes for estate in looked_for))
        found = await survey_in_thread(inodes, threads=any(estate.heirs.threads for estate in estates))
        for estate in estates:
            if self._estates.get(estate.client) is not estate:
                continue
            self._unwatch_heirs(estate)
            estate.surveyed = True
            estate.heirs.take(found, estate in ended, hold=bool(estate.heirs.ended or signals[estate]))
            if signals[estate]:
                self._signal_heirs(estate, signals[estate])
            if estate.heirs.needs_family and not estate.follows:
                estate.follows = True
                log.warning(
                    "client %d: nobody shows us who has its socket: from now on we follow %d and its children",
                    *(estate.client.ci, estate.heirs.holder.pid),
                )
            if estate.heirs.ended:
                self._watch_heirs(estate)
                self._settle(estate)

    def _signal_heirs(self, estate: _Estate, number: int) -> None:
        for process in estate.heirs.users:
            failed = self._daemon.send_signal(process, number)
            log.error(
                "client %d pid %d: signal %d to %d, which has its socket or is its descendant%s",
                *(estate.client.ci, estate.client.pid, number, process.pid, f": errno {failed}" if failed else ""),
            )

    def _watch_heirs(self, estate: _Estate) -> None:
        for process in estate.heirs.users:
            self._loop.add_reader(process.fd, self._heir_ended, estate)
            estate.pidfds.append(process.fd)

    def _unwatch_heirs(self, estate: _Estate) -> None:
        for fd in estate.pidfds:
            self._loop.remove_reader(fd)
        estate.pidfds.clear()

    def _unwatch_process(self, estate: _Estate) -> None:
        if estate.process_fd != NO_FD:
            self._loop.remove_reader(estate.process_fd)
            estate.process_fd = NO_FD
