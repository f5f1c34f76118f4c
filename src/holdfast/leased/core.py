"""The lease daemon: puts socket, clients, leases and lockspaces together (spec lease-wire sections 2, 5, 6, 12).

One process, one event loop, nothing on it blocks. Every task belongs to `LeaseDaemon.run`'s task group; an
unexpected error ends the daemon loudly, because a lease daemon that limps is worse than none: the watchdog, and
other hosts' patience, take over. Errors of one command end that command only.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import signal
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from holdfast import notify
from holdfast.clock import Clock, SystemClock
from holdfast.daemons.log import LogRing
from holdfast.daemons.processes import Process
from holdfast.lease.hosts import Notice
from holdfast.leased import block_queue, handover, lease_commands, resume, space_commands, wire
from holdfast.leased.adopted import AdoptedClients
from holdfast.leased.alarm import Alarm
from holdfast.leased.clients import Client, ClientTable, slots_for
from holdfast.leased.connections import Connections
from holdfast.leased.flight import FlightNotes
from holdfast.leased.helper import Helper
from holdfast.leased.helper_pipes import start_helper
from holdfast.leased.journal import RecordedLease
from holdfast.leased.leases import Key, LeaseTable, LocalLease
from holdfast.leased.options import DaemonOptions, generated_host_name
from holdfast.leased.peer_sockets import SocketTable
from holdfast.leased.programs import Programs
from holdfast.leased.record import RunRecord, snapshot
from holdfast.leased.requests import Requests
from holdfast.leased.service import ServiceLink
from holdfast.leased.spaces import Listed, Space, SpaceTable
from holdfast.observe.recorder import NoRecorder
from holdfast.storage import Device, Faults, close_disk, open_disk

log = logging.getLogger(__name__)

MAX_EXAMINED_AT_ONCE: Final = 64
FAREWELL_TURNS: Final = 10
"""Turns of the loop for commands that waited for the last lockspace's end to answer before the daemon leaves."""
MAX_WHOLE_AREAS: Final = 32
"""Commands that format or list a whole area at the same time, up to 8 MiB each; further ones wait for their turn.

Lease commands are not among them: they wait for nobody (spec 21 no. 14)."""


class _Leaving(Exception):
    """Ends the task group, and with it every task that still runs."""


class LeaseDaemon:
    """All state of a running daemon. `run` returns when it is time to leave."""

    def __init__(self, options: DaemonOptions, log_ring: LogRing, clock: Clock | None = None) -> None:
        self.options = options
        self.log_ring = log_ring
        self.clock: Clock = clock or SystemClock()
        self.host_name = options.host_name or generated_host_name()
        self.uid = options.uid if options.uid is not None else os.geteuid()
        self.gid = options.gid if options.gid is not None else os.getegid()
        self.clients = ClientTable(slots_for(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
        self.reserved_slots = (Client(0, -1), Client(1, -1))
        self.reserved_slots[0].name = "helper"
        self.reserved_slots[1].name = "listener"
        self.leases = LeaseTable()
        self.spaces = SpaceTable(self.clock)
        self.record = RunRecord(options.run_dir)
        self.record.send_signal = self.send_signal
        self.service = ServiceLink(options.run_dir, private=bool(options.parent_pid))
        self.internal_leases: dict[Key, RecordedLease] = {}
        """Of resource indexes, while they may be ours."""
        self.programs = Programs()
        self.flight = FlightNotes(NoRecorder())
        """Replaced before `run` by one with a file."""
        self.set_queue: Callable[[str, int], int] = block_queue.set_queue
        """Sets max_sectors_kb in sysfs, in a thread; replaceable, because it needs root and a real disk."""
        self.helper = Helper(self.clock, start_helper, self.programs.run)
        self.requests = Requests(self)
        self.leaving = False
        self.forced_shutdown = False
        self._faults = Faults(options.storage_faults) if options.storage_faults else None
        self.whole_areas = asyncio.Semaphore(MAX_WHOLE_AREAS)
        self._to_examine: deque[LocalLease] = deque()
        self.handing_over = False

    # -- life ----------------------------------------------------------------------------------------------

    async def run(self, listener: socket.socket) -> None:
        """Serve until shutdown (spec 12). The listener is bound; it is closed here."""
        self._loop = asyncio.get_running_loop()
        self._exit = asyncio.Event()
        self._loop.set_exception_handler(self._on_loop_error)
        self.alarm = Alarm()
        self.reserved_slots[1].fd = listener.fileno()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.add_signal_handler(number, self.shutdown_if_unused)
        self._loop.add_signal_handler(signal.SIGUSR2, self.hand_over)
        self.sockets = self.record.sockets = SocketTable()
        self.adopted = AdoptedClients(self)
        self.connections = Connections(self, listener)
        self.record.read()
        resume.restore(self)
        self.record.start(lambda: snapshot(self))
        self.service.close_rest()
        self.service.keep_listener(listener)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                resume.launch(self)
                self.spawn_vital(self.adopted.watch(), "adopted clients")
                self.spawn_vital(self._serve(), "serve")
                self.spawn_vital(notify.keep_watchdog_alive(lambda: handover.is_sound(self)), "service watchdog")
                if self.options.parent_pid:
                    self._watch_parent(self.options.parent_pid)
                await self._exit.wait()
                await self._finish()
        except* _Leaving:
            self.flight.stop()
        finally:
            self._close_everything()
            self.flight.close()

    async def _serve(self) -> None:
        """Those who come at once shall find the lockspaces and leases of the last daemon."""
        await resume.settled(self)
        if not self._exit.is_set():
            self.connections.start_accepting()
        notify.ready(self.summary())
        await handover.keep_manager_informed(self)

    def summary(self) -> str:
        """One line for the service manager."""
        clients = sum(client.registered for client in self.clients)
        return f"{len(self.spaces.listed(Listed.ACTIVE))} lockspaces, {len(self.leases)} leases, {clients} clients"

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        """Background work on one lease; its errors end that work only."""

        async def contained() -> None:
            try:
                await coroutine
            except Exception:
                log.exception("%s failed unexpectedly", name)

        self._tasks.create_task(contained(), name=name)

    def run_command(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        """The rest of a command that has to wait; it contains its errors itself."""
        self._tasks.create_task(coroutine, name=name)

    def spawn_vital(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        """Work without which no lockspace is watched: an error that it lets out ends the daemon."""
        self._tasks.create_task(coroutine, name=name)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        log.error("%s", context.get("message"), exc_info=context.get("exception"))

    def _watch_parent(self, pid: int) -> None:
        """An embedded daemon leaves with the program that started it, killing what still holds a lease."""
        parent = Process(pid)
        if parent.fd < 0 or os.getppid() != pid:
            self.shutdown_forced()
            return

        def gone() -> None:
            self._loop.remove_reader(parent.fd)
            log.warning("parent process %d is gone", pid)
            self.shutdown_forced()

        self._loop.add_reader(parent.fd, gone)

    # -- shutdown ------------------------------------------------------------------------------------------

    def shutdown_if_unused(self) -> None:
        """A signal, or SHUTDOWN without force. An earlier forced request stays (spec 21 no. 20)."""
        if self.forced_shutdown:
            return
        if self.spaces.listed(Listed.ACTIVE):
            log.info("ignore shutdown, lockspace exists")
            return
        # A lockspace being added is undone (spec 12).
        self._begin_leaving()

    def shutdown_forced(self) -> None:
        """Kill the users of every lockspace, remove them all, then leave."""
        self.forced_shutdown = True
        self._begin_leaving()

    def hand_over(self) -> None:
        """End, and leave everything to a successor (`handover`)."""
        why_not = handover.refusal(self)
        if why_not:
            log.error("handover refused: %s", why_not)
            return
        log.warning("handing over: %s", self.summary())
        self.handing_over = self.leaving = True
        self.connections.pause()
        self._exit.set()

    def _begin_leaving(self) -> None:
        self.leaving = True
        for space in self.spaces:
            if space.listed is Listed.ADD or self.forced_shutdown:
                space_commands.want_removal(space)
        self._exit.set()

    async def _finish(self) -> None:
        """Until the last lockspace is gone; requests are served meanwhile."""
        if self.handing_over:
            await handover.finish_commands(self)
            raise _Leaving
        notify.stopping()
        while len(self.spaces):
            await self.spaces.wait_changed()
        for _ in range(FAREWELL_TURNS):
            await asyncio.sleep(0)
        log.info("shutdown")
        for connection in self.requests.shutdown_waiters:
            connection.reply(wire.encode_shutdown_reply())
        # Nobody owns anything any more: whatever command still waits is cut off.
        raise _Leaving

    def _close_everything(self) -> None:
        self.connections.close_listener()
        over = not self.handing_over and not len(self.spaces)
        if over:
            self.service.drop_listener()
        self.connections.close(over=over)
        self.adopted.close()
        self.sockets.close()
        for client in self.clients:
            if client.process is not None:
                client.process.close()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            self._loop.remove_signal_handler(number)
        self.helper.close()
        self.programs.close()
        self.alarm.close()
        if over:
            self.record.close()
        else:
            self.record.keep()
        self.service.close(keep=not over)

    def hold_ended(self, local: LocalLease, persistent: bool) -> None:
        """Of a lease of the last daemon that is not verified yet."""
        resume.hold_ended(self, local, persistent)

    # -- what handlers use ---------------------------------------------------------------------------------

    async def open_disk(self, path: str, timeout_s: float) -> Device:
        return await open_disk(path, timeout_s=timeout_s, faults=self._faults)

    def close_disk(self, device: Device) -> None:
        close_disk(device)

    def forget_lease(self, lease: LocalLease) -> None:
        """It is over for this daemon: out of the table, out of its holders' hands, its storage given back."""
        for token in list(lease.tokens):
            lease_commands.drop_token(self, token)
        if self.leases.get(lease.key) is lease:
            self.record.freed(lease)
        self.leases.forget(lease)
        if lease.device is None:
            return
        lockspace = lease.space.lockspace
        if lockspace is not None and any(disk is lease.device for disk, _ in lockspace.contested_writes):
            # `Lockspace.settle_contested` has to ask this very device whether its last write has ended.
            lease.space.kept_devices.append(lease.device)
        else:
            self.close_disk(lease.device)
        lease.device = None

    def notice(self, space: Space, notice: Notice) -> None:
        try:
            space_commands.deliver_notice(self, space, notice)
        except Exception:
            # The renewal that brought it goes on.
            log.exception("s%d notice failed unexpectedly", space.number)

    def examine(self, leases: Iterable[LocalLease]) -> None:
        """Look at their request blocks in the background, a few at a time."""
        begin = not self._to_examine
        for lease in leases:
            if not lease.to_examine:
                lease.to_examine = True
                self._to_examine.append(lease)
        if begin and self._to_examine:
            self.spawn(self._examine_all(), "examine")

    async def _examine_all(self) -> None:
        while self._to_examine:
            some = [self._to_examine[i] for i in range(min(MAX_EXAMINED_AT_ONCE, len(self._to_examine)))]
            for lease in some:
                lease.to_examine = False
            outcomes = await asyncio.gather(
                *[space_commands.examine_request(self, lease) for lease in some], return_exceptions=True
            )
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    # Of that lease alone: the queue must go on, or no request is ever looked at again.
                    log.error("examine failed unexpectedly", exc_info=outcome)
            for _ in some:
                self._to_examine.popleft()

    def serve_request(self, client: Client, lease: LocalLease, force_mode: int) -> None:
        """Another host wants the lease (spec 14.2)."""
        if force_mode == wire.REQUEST_FORCE:
            number = signal.SIGTERM if lease.restricted & wire.RESTRICT_SIGKILL else signal.SIGKILL
        elif force_mode == wire.REQUEST_GRACEFUL:
            if lease.killpath:
                self.helper.run_program(lease.killpath, lease.killargs, 0)
                return
            number = signal.SIGKILL if lease.restricted & wire.RESTRICT_SIGTERM else signal.SIGTERM
        else:
            return
        self.signal_client(client, number)

    def signal_client(self, client: Client, number: int) -> int:
        """The process, or when that has ended those who still use what it had. 0, or the positive errno."""
        return self.adopted.signal(client, number) if client.process is not None else 0

    def run_killpath(self, client: Client) -> bool:
        """Start the client's killpath. True when it was started (it then counts as sent)."""
        pid = client.pid if client.killpath_wants_pid else 0
        return self.helper.run_program(client.killpath, client.killargs, pid)

    def send_signal(self, process: Process, number: int) -> int:
        """Signal it ourselves, or by the helper when we may not. 0, or the positive errno."""
        failed = process.signal(number)
        if failed == errno.EPERM:
            self.helper.kill(process, number)
            return 0
        return failed
