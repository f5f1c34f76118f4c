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
import secrets
import signal
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, NamedTuple

from holdfast import notify
from holdfast.clock import Clock, SystemClock
from holdfast.daemons.log import LogRing
from holdfast.daemons.processes import NO_FD, Process
from holdfast.lease.errors import LeaseError
from holdfast.lease.hosts import Notice
from holdfast.leased import block_queue, handover, lease_commands, resume, space_commands, wire
from holdfast.leased.alarm import Alarm
from holdfast.leased.clients import ESRCH, Client, ClientTable, slots_for
from holdfast.leased.commands import TABLE, Context, Entry
from holdfast.leased.connection import Connection, step
from holdfast.leased.flight import FlightNotes
from holdfast.leased.hangups import Hangups
from holdfast.leased.helper import Helper
from holdfast.leased.helper_pipes import start_helper
from holdfast.leased.journal import Holder, RecordedLease
from holdfast.leased.leases import Key, LeaseTable, LocalLease
from holdfast.leased.options import DaemonOptions, generated_host_name
from holdfast.leased.programs import Programs
from holdfast.leased.record import RunRecord, snapshot
from holdfast.leased.service import ServiceLink
from holdfast.leased.spaces import Listed, Space, SpaceTable
from holdfast.leased.wire import Command, Header, Payload
from holdfast.observe.recorder import NoRecorder
from holdfast.storage import Device, Faults, close_disk, open_disk

log = logging.getLogger(__name__)

ERROR: Final = -201
EBUSY: Final = -16
E2BIG: Final = -7
EINVAL: Final = -22

BACKLOG: Final = wire.MAX_CLIENTS
"""As many as can be served: who connects without blocking is then refused by us, not by the kernel."""
ACCEPT_PAUSE_S: Final = 0.5
"""After running out of descriptors."""
MAX_UNSENT_BYTES: Final = 32 * 1024 * 1024
"""Replies that wait for slow readers, all connections together."""
MAX_EXAMINED_AT_ONCE: Final = 64
FAREWELL_TURNS: Final = 10
"""Turns of the loop for commands that waited for the last lockspace's end to answer before the daemon leaves."""
MAX_WHOLE_AREAS: Final = 32
"""Commands that format or list a whole area at the same time, up to 8 MiB each; further ones wait for their turn.

Lease commands are not among them: they wait for nobody (spec 21 no. 14)."""


class Call(NamedTuple):
    """One request with everything its handler needs."""

    connection: Connection
    header: Header
    payload: Payload
    target: Client
    """The client it acts on; for most commands the sender."""


_AT_ONCE: Final = (Context.MAIN, Context.MAIN_OPEN)
_VERSION_REPLY: Final = wire.encode_version_reply()


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
        self.unwatched: list[tuple[Client, Holder]] = []
        """Adopted clients without connection and without pidfd."""
        self.programs = Programs()
        self.flight = FlightNotes(NoRecorder())
        """Replaced before `run` by one with a file."""
        self.set_queue: Callable[[str, int], int] = block_queue.set_queue
        """Sets max_sectors_kb in sysfs, in a thread; replaceable, because it needs root and a real disk."""
        self.helper = Helper(self.clock, start_helper, self.programs.run)
        self.leaving = False
        self.forced_shutdown = False
        self._faults = Faults(options.storage_faults) if options.storage_faults else None
        self._connections: dict[Client, Connection] = {}
        self._shutdown_waiters: list[Connection] = []
        self._unsent = 0
        self._accept_failed = False
        self.whole_areas = asyncio.Semaphore(MAX_WHOLE_AREAS)
        self._to_examine: deque[LocalLease] = deque()
        self._listener: socket.socket | None = None
        self._handing_over = False

    # -- life ----------------------------------------------------------------------------------------------

    async def run(self, listener: socket.socket) -> None:
        """Serve until shutdown (spec 12). The listener is bound; it is closed here."""
        self._loop = asyncio.get_running_loop()
        self._exit = asyncio.Event()
        self._loop.set_exception_handler(self._on_loop_error)
        self.alarm = Alarm()
        self._hangups = Hangups(self._loop)
        self._listener = listener
        self.reserved_slots[1].fd = listener.fileno()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.add_signal_handler(number, self.shutdown_if_unused)
        self._loop.add_signal_handler(signal.SIGUSR2, self.hand_over)
        self.record.read()
        resume.restore(self)
        self.record.start(lambda: snapshot(self))
        self.service.close_rest()
        self.service.keep_listener(listener)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                resume.launch(self)
                self.spawn_vital(self._serve(listener), "serve")
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

    async def _serve(self, listener: socket.socket) -> None:
        """Those who come at once shall find the lockspaces and leases of the last daemon."""
        await resume.settled(self)
        if not self._exit.is_set():
            self._loop.add_reader(listener.fileno(), self._accept)
            for connection in list(self._connections.values()):
                connection.go_on()
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
        self._handing_over = self.leaving = True
        if self._listener is not None:
            self._loop.remove_reader(self._listener.fileno())
        for connection in self._connections.values():
            connection.pause()
        self._exit.set()

    def commands_running(self) -> bool:
        return any(connection.suspended or connection.unsent for connection in self._connections.values())

    def _begin_leaving(self) -> None:
        self.leaving = True
        for space in self.spaces:
            if space.listed is Listed.ADD or self.forced_shutdown:
                space_commands.want_removal(space)
        self._exit.set()

    async def _finish(self) -> None:
        """Until the last lockspace is gone; requests are served meanwhile."""
        if self._handing_over:
            await handover.finish_commands(self)
            raise _Leaving
        notify.stopping()
        while len(self.spaces):
            await self.spaces.wait_changed()
        for _ in range(FAREWELL_TURNS):
            await asyncio.sleep(0)
        log.info("shutdown")
        for connection in self._shutdown_waiters:
            connection.reply(wire.encode_shutdown_reply())
        # Nobody owns anything any more: whatever command still waits is cut off.
        raise _Leaving

    def _close_everything(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
        over = not self._handing_over and not len(self.spaces)
        if over:
            self.service.drop_listener()
        for client, connection in list(self._connections.items()):
            if over:
                self._forget_connection(client, connection)
            self._hangups.forget(connection.sock)
            connection.close()
        self._hangups.close()
        for client in self.clients:
            self._unwatch(client)
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

    # -- connections ---------------------------------------------------------------------------------------

    def _accept(self) -> None:
        assert self._listener is not None
        # One per turn: the loop calls again while there are more, and whoever is connected gets a turn in between.
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return
        except OSError as error:
            if not self._accept_failed:
                log.error("accept: %s", error)
            self._accept_failed = True
            self._loop.remove_reader(self._listener.fileno())
            self._loop.call_later(ACCEPT_PAUSE_S, self._accept_again)
            return
        self._accept_failed = False
        client = self.clients.add(sock.fileno())
        if client is None:
            # The original accepts, never serves and never closes (spec 21 no. 10).
            sock.close()
            return
        if self.options.debug_clients:
            log.debug("cl %d:%d add", client.ci, client.fd)
        sock.setblocking(False)
        connection = self._connections[client] = Connection(sock, client, self, self._loop)
        connection.start()

    def connect(self, client: Client, sock: socket.socket) -> None:
        """A registered client's connection that an earlier daemon had. It is read when this one serves."""
        connection = self._connections[client] = Connection(sock, client, self, self._loop)
        connection.marks = self.service.marks
        connection.pause()

    def _forget_connection(self, client: Client, connection: Connection) -> None:
        """Also where copies of it are kept for a successor."""
        if connection.marks is not None:
            connection.shut_down()
            self.service.drop_client(client.tag)

    # -- adopted clients that have no connection -----------------------------------------------------------

    def watch_process(self, client: Client) -> None:
        """The end of its process is the end of the client."""
        assert client.process is not None
        self._loop.add_reader(client.process.fd, self.process_gone, client)
        client.watched = True

    def _unwatch(self, client: Client) -> None:
        if client.watched and client.process is not None and client.process.fd != NO_FD:
            self._loop.remove_reader(client.process.fd)
        client.watched = False

    def process_gone(self, client: Client) -> None:
        """As `connection_lost`, for a client that has no connection."""
        self._unwatch(client)
        if client.pid_dead or client in self._connections:
            return
        log.warning("client %d pid %d, adopted without a connection, has ended", client.ci, client.pid)
        self._note_death(client)
        if not client.cmd_active:
            self._bury(client)

    def _attach(self, connection: Connection, process: Process, token_number: int) -> bool:
        """A process whose connection the last daemon took with it comes again; False: it is a new client.

        Only when there is exactly one such client of this very process, or the one that holds the lease which the
        request names by its token. Not to one that was restricted to nothing: it would never be answered.
        """
        found = [
            client
            for client in self.clients.all_of_pid(process.pid)
            if client.watched and client.process is not None and client.process.start == process.start
        ]
        if token_number:
            found = [client for client in found if any(t.number == token_number for t in client.held())]
        if len(found) != 1 or process.start is None or found[0].restricted & wire.RESTRICT_ALL:
            return False
        newcomer, client = connection.client, found[0]
        self._unwatch(client)
        self.clients.remove(newcomer)
        del self._connections[newcomer]
        self._connections[client] = connection
        connection.client, client.fd = client, newcomer.fd
        log.warning("client %d pid %d has a connection again", client.ci, client.pid)
        return True

    def hold_ended(self, local: LocalLease, persistent: bool) -> None:
        """Of a lease of the last daemon that is not verified yet."""
        resume.hold_ended(self, local, persistent)

    def _accept_again(self) -> None:
        if self._listener is not None and self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener.fileno(), self._accept)

    def connection_lost(self, connection: Connection) -> None:
        """The last copy of a client's socket was closed: for a registered one, its death (spec 6.4)."""
        client = connection.client
        if self.options.debug_clients:
            log.debug("cl %d:%d free", client.ci, client.fd)
        self._connections.pop(client, None)
        self._forget_connection(client, connection)
        self._hangups.forget(connection.sock)
        connection.close()
        if not client.registered:
            self.clients.remove(client)
            return
        self._note_death(client)
        if client.cmd_active:
            return  # A command of another connection acts on it; `_serve` cleans up (spec 6.3).
        self._bury(client)

    def _note_death(self, client: Client) -> None:
        if client.pid_dead:
            return
        log.debug(
            "client_pid_dead %d,%d,%d cmd_active %d suspend %d",
            *(client.ci, client.fd, client.pid, client.cmd_active, client.suspended),
        )
        if client.kill_count:
            log.error("dead %d ci %d count %d", client.pid, client.ci, client.kill_count)
        self.clients.forget_pid(client)
        for space in {token.local.space for token in client.held()}:
            space.wake()

    def _hung_up(self, connection: Connection) -> None:
        """A registered process died while its own command runs: it uses nothing any more (spec 6.3).

        Its slot stays until the command has ended, which bounds how many commands of the dead there can be.
        """
        client = connection.client
        self._note_death(client)
        if not client.cmd_active:
            self._release_leases_of(client)

    def _bury(self, client: Client) -> None:
        self._release_leases_of(client)
        self.record.client_gone(client)
        self.clients.remove(client)

    def _release_leases_of(self, client: Client) -> None:
        try:
            lease_commands.release_after_death(self, client)
        except Exception:
            # Its leases stay held by this host, which is safe; STATUS shows them.
            log.exception("client %d: releasing its leases failed unexpectedly", client.ci)

    def detach(self, connection: Connection) -> socket.socket:
        """Its socket lives on as an event descriptor; the client slot is free again."""
        client = connection.client
        self._connections.pop(client, None)
        sock = connection.detach()
        if client.registered:
            self.service.drop_client(client.tag)
            self.clients.forget_pid(client)
            self._bury(client)
        else:
            self.clients.remove(client)
        return sock

    def may_buffer(self, size: int) -> bool:
        return self._unsent + size <= MAX_UNSENT_BYTES

    def buffered(self, change: int) -> None:
        self._unsent += change

    # -- requests ------------------------------------------------------------------------------------------

    def look_at(self, connection: Connection, header: Header) -> Entry | int | None:
        """Spec 5 and 6.2: None for unknown commands, a code for what is refused before its payload is read."""
        entry = TABLE.get(header.cmd)
        if entry is None:
            return _DIRECT.get(header.cmd)
        if entry.context is Context.REGISTERED:
            refusal = self._refuse(connection, header)
            if refusal:
                return refusal
            if header.cmd == Command.ACQUIRE and header.data & 0xFFFFFFFF > wire.MAX_RESOURCES:
                return E2BIG
        return entry

    def _refuse(self, connection: Connection, header: Header) -> int:
        if _is_orphan_release(header) and header.data2 == wire.SELF_PID:
            return 0  # Orphans belong to nobody: no client is needed (spec 21 no. 11).
        if header.data2 == wire.SELF_PID:
            return connection.client.refusal(header.cmd)
        if header.cmd == Command.KILLPATH:
            return EINVAL  # The original would read the payload from the target's socket (spec 21 no. 9).
        target = self.clients.by_pid(header.data2)
        return ESRCH if target is None else target.refusal(header.cmd)

    def _target(self, connection: Connection, header: Header) -> Client:
        if header.data2 == wire.SELF_PID:
            return connection.client
        target = self.clients.by_pid(header.data2)
        assert target is not None  # `_refuse` has looked, and nothing ran in between.
        return target

    def serve(self, connection: Connection, header: Header, payload: Payload, verdict: object) -> None:
        """A complete request. Most are answered before this returns."""
        assert isinstance(verdict, Entry)
        client = connection.client
        if verdict.shown_as:
            client.name = verdict.shown_as
        if verdict.context is Context.REGISTERED:
            call = Call(connection, header, payload, self._target(connection, header))
            call.target.cmd_active = header.cmd
        else:
            call = Call(connection, header, payload, client)
            if verdict.context is Context.WORKER and not verdict.shown_as:
                client.name = f"cmd{header.cmd}"
        if self.options.debug_cmds >> header.cmd & 1:
            self.log_ring.note(
                "cmd_%s %d,%d,%d flags %x", verdict.name, client.ci, client.fd, client.pid, header.cmd_flags
            )
        if verdict.context in _AT_ONCE:
            reply = self._answer(verdict, call)
            if reply is not None:
                connection.reply(reply, close=verdict.close_after_reply)
            elif verdict.close_after_reply and not client.registered and not connection.detached:
                self.connection_lost(connection)
            return
        connection.suspend()
        waiting = step(self._run(verdict, call))
        if waiting is not None:
            self._tasks.create_task(waiting, name=verdict.command.name)
            if client.registered:
                self._hangups.watch(connection.sock, lambda: self._hung_up(connection))

    def _answer(self, entry: Entry, call: Call) -> bytes | None:
        """A command of the main loop: nothing in it waits."""
        try:
            reply = entry.handler(self, call)
            assert reply is None or isinstance(reply, bytes)
            return reply
        except Exception:
            log.exception("%s failed unexpectedly", entry.command.name.lower())
            return wire.encode_reply(call.header, ERROR)

    async def _run(self, entry: Entry, call: Call) -> None:
        """One command from start to reply; the outermost boundary for its errors."""
        reply: bytes | None
        close = False
        try:
            outcome = _handler(entry, call.header)(self, call)
            reply = outcome if outcome is None or isinstance(outcome, bytes) else await outcome
        except (LeaseError, wire.FormatError) as error:
            log.info("%s: %s", entry.command.name.lower(), error)
            reply = wire.encode_reply(call.header, error.code)
        except Exception:
            log.exception("%s failed unexpectedly", entry.command.name.lower())
            reply = wire.encode_reply(call.header, ERROR)
            # Some clients wait for a body after any result; the end of the connection tells them.
            close = True
        connection = call.connection
        if connection.client.registered:
            self._hangups.forget(connection.sock)
        if entry.context is Context.REGISTERED:
            self._end_command(call)
        if connection.client.pid_dead and not connection.closed:
            self.connection_lost(connection)  # What it had sent besides is not served: nobody is there.
        if reply is not None:
            connection.reply(reply, close=close)
        connection.resume()

    def _end_command(self, call: Call) -> None:
        target = call.target
        target.cmd_active = 0
        if target.pid_dead and target is not call.connection.client:
            # It died while another connection's command acted on it.
            if target in self._connections:
                self._release_leases_of(target)  # A command of its own still runs and keeps the slot.
            else:
                self._bury(target)

    # -- commands about the connection or the daemon itself ------------------------------------------------

    def _register(self, call: Call) -> None:
        """No reply: libsanlock would take it for the next one's (spec 6.1). A second one is ignored."""
        client = call.connection.client
        if client.registered:
            log.warning("client %d pid %d registers again, ignored", client.ci, client.pid)
            return
        connection = call.connection
        try:
            process = Process.at_other_end(connection.sock, connection.accepted_at)
        except OSError as error:
            # No descriptor left to hold on to the process: it could not be killed, so it must not get a lease.
            log.error("client %d cannot be registered, closed: %s", client.ci, error)
            self.connection_lost(connection)
            return
        token_number = call.header.data if call.header.cmd_flags & wire.REGISTER_AGAIN else 0
        if self._attach(connection, process, token_number):
            client = connection.client
            process.close()
        else:
            self.clients.register(client, process.pid, process)
        client.tag = secrets.token_hex(8)
        connection.marks = self.service.marks
        self.record.client(client)
        self.service.keep_client(client.tag, connection.sock)

    def _restrict(self, call: Call) -> bytes:
        call.connection.client.restricted = call.header.cmd_flags
        if call.connection.client.registered:
            self.record.client(call.connection.client)
        return wire.encode_reply(call.header)

    def _version(self, call: Call) -> bytes:
        return _VERSION_REPLY

    def _shutdown(self, call: Call) -> None:
        if call.header.data:
            self.shutdown_forced()
        else:
            self.shutdown_if_unused()

    def _shutdown_wait(self, call: Call) -> bytes | None:
        if not call.header.data and not self.forced_shutdown and len(self.spaces):
            return wire.encode_reply(call.header, EBUSY)
        if call.connection not in self._shutdown_waiters:
            self._shutdown_waiters.append(call.connection)
        if call.header.data:
            self.shutdown_forced()
        else:
            self.shutdown_if_unused()
        return None

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
        if client.process is not None:
            self.send_signal(client.process, number)

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


def _is_orphan_release(header: Header) -> bool:
    flags = header.cmd_flags
    return (
        header.cmd == Command.RELEASE and flags & (wire.RELEASE_ALL | wire.RELEASE_ORPHAN) == wire.RELEASE_ORPHAN
    )


def _handler(entry: Entry, header: Header) -> Any:
    return lease_commands.release_orphans if _is_orphan_release(header) else entry.handler


_DIRECT: Final[dict[int, Entry]] = {
    int(command): Entry(command, context, handler, shown_as)
    for command, context, handler, shown_as in (
        (Command.REGISTER, Context.MAIN_OPEN, LeaseDaemon._register, ""),
        (Command.RESTRICT, Context.MAIN_OPEN, LeaseDaemon._restrict, ""),
        (Command.VERSION, Context.MAIN_OPEN, LeaseDaemon._version, ""),
        (Command.SHUTDOWN, Context.MAIN, LeaseDaemon._shutdown, "shutdown"),
        (Command.SHUTDOWN_WAIT, Context.MAIN_OPEN, LeaseDaemon._shutdown_wait, ""),
    )
}
