"""A lease daemon in memory, for tests of programs that use one: speaks the socket, fails on command.

    storage = FakeStorage()
    storage.make_space("web", "/web.lease", io_timeout=1)
    async with FakeDaemon(run_dir, storage) as daemon:
        daemon.join("web", host_id=1)
        daemon.fail("ACQUIRE", -243)            # the next ACQUIRE: held by a live host
        ...                                     # the program under test, with SANLOCK_RUN_DIR = run_dir
        daemon.stop_renewing("web")             # from now on no renewal is proven
        daemon.lose("web")                      # the lockspace fails; signals are left to the test

Nothing is written to disk but the socket, nobody is killed, nothing waits for lease deadlines: ADD and REM succeed
at once. The protocol is that of spec lease-wire sections 3 to 9 and 13, as far as holdfast's own client uses it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import defaultdict
from collections.abc import Callable, Container
from pathlib import Path
from typing import NamedTuple, Self

from holdfast.leased import wire
from holdfast.leased.wire import Command
from holdfast.testing.fake_lease_commands import LeaseHandlers
from holdfast.testing.fake_news_commands import NewsCommands
from holdfast.testing.fake_state import FakeClient, JoinedSpace, now
from holdfast.testing.fake_storage import MIB, FakeHost, FakeSpace, FakeStorage
from holdfast.testing.fake_storage_commands import Answer, StorageCommands

SOCKET_NAME = "sanlock.sock"
EVENT_GOODBYE = struct.pack("=I", 1)


class Call(NamedTuple):
    """A request that arrived."""

    command: str
    pid: int


Handler = Callable[[FakeClient, wire.Header, wire.Payload], Answer]


class FakeDaemon(StorageCommands, LeaseHandlers, NewsCommands):
    """The daemon. Use as `async with`; everything may be called while it runs."""

    def __init__(self, run_dir: Path | str, storage: FakeStorage | None = None, host_name: str = "fake") -> None:
        self.run_dir = Path(run_dir)
        self.storage = storage if storage is not None else FakeStorage()
        self.host_name = host_name
        self.spaces: dict[str, JoinedSpace] = {}
        self.calls: list[Call] = []
        """Every request so far."""
        self.daemon_values: dict[str, object] = {"use_watchdog": 0, "uid": os.geteuid(), "gid": os.getegid()}
        """Further pairs of the STATUS reply."""
        self.clients: list[FakeClient] = []
        self.orphans: dict[tuple[str, str], wire.Resource] = {}
        self.renewals: list[tuple[int, int, int, int, int]] = []
        self.log_text = ""
        self.requests: dict[tuple[str, int], tuple[int, int]] = {}
        self.events: list[tuple[str, wire.HostEvent, int]] = []
        self.examined: list[tuple[str, str]] = []
        self.goodbyes = 0
        self.settings: list[tuple[str, int]] = []
        self._failures: dict[str, list[int]] = defaultdict(list)
        self._delays: dict[str, float] = {}
        self._gate = asyncio.Event()
        self._gate.set()
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Condition()
        self._serving: set[asyncio.Task[object]] = set()

    def joined(self) -> Container[str]:
        return self.spaces

    async def __aenter__(self) -> Self:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        path = self.run_dir / SOCKET_NAME
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(path))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.drop_connections()
        self._gate.set()
        (self.run_dir / SOCKET_NAME).unlink(missing_ok=True)
        await asyncio.gather(*self._serving, return_exceptions=True)

    # What a test may do

    def fail(self, command: str, code: int, times: int = 1) -> None:
        """The next `times` requests of this name (`ACQUIRE`, ...) get `code` and nothing happens."""
        self._failures[command] += [code] * times

    def delay(self, command: str, seconds: float) -> None:
        """Requests of this name are answered that much later; 0 ends it."""
        self._delays[command] = seconds

    def hang(self) -> None:
        """Requests are accepted and not answered until `resume`."""
        self._gate.clear()

    def resume(self) -> None:
        """Answer again."""
        self._gate.set()

    def drop_connections(self) -> None:
        """Close every connection, as a daemon that was killed."""
        for client in self.clients:
            client.writer.transport.abort()

    def join(self, space: str, host_id: int = 1) -> JoinedSpace:
        """Join a lockspace that is on the storage."""
        for (path, offset), found in self.storage.spaces.items():
            if found.name == space:
                return self._join(found, host_id, path, offset, 0)
        raise KeyError(space)

    def rejoin(self, space: str) -> None:
        """As after a restart of the daemon: the generation grows, leases are forgotten."""
        self.spaces[space].generation += 1
        for client in self.clients:
            client.leases.clear()

    def stop_renewing(self, space: str) -> None:
        """No renewal succeeds any more."""
        self.spaces[space].last_success = now()

    def lose(self, space: str) -> None:
        """The lockspace has failed; a real daemon would now begin to kill."""
        self.spaces[space].failing = True

    def take_away(self, space: str, resource: str) -> None:
        """Somebody released this lease behind its holder's back."""
        for client in self.clients:
            client.leases.pop((space, resource), None)

    def registered_pids(self) -> list[int]:
        """Processes that are registered now."""
        return [client.pid for client in self.clients if client.pid > 0]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a request or a disconnection made `condition` true."""
        async with self._changed:
            await self._changed.wait_for(condition)

    # Connections

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock: socket.socket = writer.get_extra_info("socket")
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        client = FakeClient(writer, struct.unpack("3i", credentials)[0])
        self.clients.append(client)
        serving = asyncio.current_task()
        assert serving is not None
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        try:
            await self._serve_client(client, reader)
        except ConnectionError:
            # The client left, in the middle of a request perhaps: the same as a clean end.
            pass
        finally:
            self.clients.remove(client)
            for key in list(client.leases):
                self._end_hold(client, key)
            writer.close()
            await self._notify()

    async def _serve_client(self, client: FakeClient, reader: asyncio.StreamReader) -> None:
        raw = bytearray()
        while True:
            while len(raw) < wire.HEADER_SIZE:
                raw += await self._more(reader)
            header = wire.decode_header(raw)
            if header.magic != wire.MAGIC or client.restricted & wire.RESTRICT_ALL:
                del raw[: wire.HEADER_SIZE]
                continue
            while (taken := wire.take_payload(header, raw, wire.HEADER_SIZE)) is None:
                raw += await self._more(reader)
            del raw[: taken[1]]
            name = Command(header.cmd).name
            self.calls.append(Call(name, client.peer_pid))
            await self._notify()
            if delay := self._delays.get(name):
                await asyncio.sleep(delay)
            await self._gate.wait()
            if self._failures[name]:
                answer = Answer(self._failures[name].pop(0))
            else:
                handler: Handler = getattr(self, f"_do_{name.lower()}", self._do_unknown)
                answer = handler(client, header, taken[0])
            if not answer.silent:
                client.writer.write(wire.encode_reply(header, answer.result, answer.data2, answer.body))
                await client.writer.drain()
            await self._notify()
            if answer.close and client.pid < 0:
                return
            if client.listens_to:
                # An event descriptor: nothing is read from it any more but the word that it is over, and its end.
                while part := await reader.read(65536):
                    self.goodbyes += part == EVENT_GOODBYE
                return

    @staticmethod
    async def _more(reader: asyncio.StreamReader) -> bytes:
        part = await reader.read(65536)
        if not part:
            raise ConnectionResetError("end of file")
        return part

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # Commands about the daemon

    def _do_unknown(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        return Answer(-95)

    def _do_register(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        client.pid, client.name = client.peer_pid, str(client.peer_pid)
        return Answer(silent=True)

    def _do_restrict(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        client.restricted = header.cmd_flags
        return Answer()

    def _do_killpath(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        return Answer()

    def _do_version(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        return Answer(0, wire.DAEMON_VERSION)

    def _do_shutdown_wait(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        if self.spaces and not header.data:
            return Answer(-16)
        self.spaces.clear()
        return Answer()

    def _do_shutdown(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        if header.data:
            self.spaces.clear()
        return Answer(silent=True, close=True)

    def _do_status(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        values = {**self.daemon_values, "monotime": now(), "version_str": wire.DAEMON_VERSION_TEXT}
        states = [wire.State(wire.STATE_DAEMON, 0, 0, self.host_name, wire.format_pairs(values.items())).encode()]
        for other in self.clients:
            states.append(wire.State(wire.STATE_CLIENT, other.pid & 0xFFFFFFFF, 0, other.name, "").encode())
        for space in self.spaces.values():
            state = wire.State(wire.STATE_LOCKSPACE, 0, space.host_id, space.name, self._space_text(space))
            lockspace = wire.Lockspace(space.name, space.host_id, 0, wire.Disk(space.path, space.offset))
            states.append(state.encode() + lockspace.encode())
        for other in self.clients:
            for lease in other.leases.values():
                text = f"list=held flags=0 sector_size=512 align_size={MIB} lver={lease.lver}"
                state = wire.State(wire.STATE_RESOURCE, other.pid, lease.lver, lease.name, text)
                states.append(state.encode() + lease._replace(lver=0).encode_with_disks())
        for orphan in self.orphans.values():
            state = wire.State(wire.STATE_RESOURCE, 0, orphan.lver, orphan.name, "list=orphan flags=0")
            states.append(state.encode() + orphan._replace(lver=0).encode_with_disks())
        return Answer(body=b"".join(states), close=True)

    def _space_text(self, space: JoinedSpace) -> str:
        failing = int(space.failing)
        pairs = {
            "list": "spaces",
            "space_id": list(self.spaces).index(space.name) + 1,
            "io_timeout": space.io_timeout,
            "align_size": MIB,
            "host_generation": space.generation,
            "renew_fail": failing,
            "space_dead": failing,
            "killing_pids": failing,
            "renewal_last_success": now() if space.last_success is None else space.last_success,
        }
        return wire.format_pairs(pairs.items())

    # Lockspaces

    def _join(self, found: FakeSpace, host_id: int, path: str, offset: int, io_timeout: int) -> JoinedSpace:
        before = found.hosts.get(host_id)
        generation = before.generation + 1 if before else 1
        found.hosts[host_id] = FakeHost(self.host_name, generation, now())
        joined = JoinedSpace(found.name, host_id, path, offset, io_timeout or found.io_timeout, generation)
        self.spaces[found.name] = joined
        return joined

    def _do_add_lockspace(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        assert payload.lockspace is not None
        name, host_id, _, disk = payload.lockspace
        if name in self.spaces:
            return Answer(-17 if self.spaces[name].host_id == host_id else -22)
        found = self.storage.spaces.get((disk.path, disk.offset))
        if found is None:
            return Answer(-223)
        if found.name != name:
            return Answer(-226)
        owner = found.hosts.get(host_id)
        if owner is not None and owner.timestamp and owner.name != self.host_name:
            return Answer(-262)
        self._join(found, host_id, disk.path, disk.offset, header.data)
        return Answer()

    def _do_inq_lockspace(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        assert payload.lockspace is not None
        return Answer(0 if payload.lockspace.name in self.spaces else -2)

    def _do_rem_lockspace(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        assert payload.lockspace is not None
        space = self.spaces.get(payload.lockspace.name)
        if space is None:
            return Answer(-2)
        used = any(key[0] == space.name for other in self.clients for key in other.leases)
        if used and header.cmd_flags & wire.REM_UNUSED:
            return Answer(-16)
        del self.spaces[space.name]
        self.end_events(space.name)
        self.storage.spaces[space.path, space.offset].hosts[space.host_id].timestamp = 0
        return Answer()

    def _do_get_lockspaces(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        found = [
            wire.Lockspace(space.name, space.host_id, 0, wire.Disk(space.path, space.offset)).encode()
            for space in self.spaces.values()
        ]
        return Answer(0, len(found), b"".join(found), close=True)

    def _hosts_of(self, payload: wire.Payload) -> tuple[JoinedSpace, dict[int, FakeHost]] | None:
        assert payload.lockspace is not None
        space = self.spaces.get(payload.lockspace.name)
        if space is None:
            return None
        return space, self.storage.spaces[space.path, space.offset].hosts

    def _do_get_hosts(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        found = self._hosts_of(payload)
        if found is None:
            return Answer(-2, close=True)
        space, hosts = found
        wanted = payload.lockspace.host_id if payload.lockspace else 0
        entries = [
            wire.Host(host_id, host.generation, host.timestamp, space.io_timeout, host.life).encode()
            for host_id, host in sorted(hosts.items())
            if host.timestamp and wanted in (0, host_id)
        ]
        return Answer(0, len(entries), b"".join(entries), close=True)

    def _do_host_status(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        found = self._hosts_of(payload)
        if found is None:
            return Answer(-28, close=True)
        space, hosts = found
        states = []
        for host_id, host in sorted(hosts.items()):
            pairs = {
                "last_check": now(),
                "last_live": now() - host.silent_s,
                "owner_generation": host.generation,
                "io_timeout": space.io_timeout,
                "owner_name": host.name,
            }
            text = wire.format_pairs(pairs.items())
            states.append(wire.State(wire.STATE_HOST, host_id, host.timestamp, "", text).encode())
        return Answer(body=b"".join(states), close=True)
