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
import time
from collections import defaultdict
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

from holdfast.leased import wire
from holdfast.leased.wire import Command
from holdfast.testing.fake_storage import MIB, FakeHost, FakeSpace, FakeStorage
from holdfast.testing.fake_storage_commands import Answer, StorageCommands

SOCKET_NAME = "sanlock.sock"


class Call(NamedTuple):
    """A request that arrived."""

    command: str
    pid: int


@dataclass(slots=True)
class JoinedSpace:
    """A lockspace of this daemon. `last_success` None: it renews all the time."""

    name: str
    host_id: int
    path: str
    offset: int
    io_timeout: int
    generation: int
    last_success: int | None = None
    failing: bool = False


@dataclass(slots=True, eq=False)
class _Client:
    """A connection."""

    writer: asyncio.StreamWriter
    peer_pid: int
    pid: int = -1
    name: str = ""
    restricted: int = 0
    leases: dict[tuple[str, str], wire.Resource] = field(default_factory=dict)


Handler = Callable[[_Client, wire.Header, wire.Payload], Answer]


class FakeDaemon(StorageCommands):
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
        self._clients: list[_Client] = []
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
        for client in self._clients:
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
        for client in self._clients:
            client.leases.clear()

    def stop_renewing(self, space: str) -> None:
        """No renewal succeeds any more."""
        self.spaces[space].last_success = self._now()

    def lose(self, space: str) -> None:
        """The lockspace has failed; a real daemon would now begin to kill."""
        self.spaces[space].failing = True

    def take_away(self, space: str, resource: str) -> None:
        """Somebody released this lease behind its holder's back."""
        for client in self._clients:
            client.leases.pop((space, resource), None)

    def registered_pids(self) -> list[int]:
        """Processes that are registered now."""
        return [client.pid for client in self._clients if client.pid > 0]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a request or a disconnection made `condition` true."""
        async with self._changed:
            await self._changed.wait_for(condition)

    # Connections

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock: socket.socket = writer.get_extra_info("socket")
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        client = _Client(writer, struct.unpack("3i", credentials)[0])
        self._clients.append(client)
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
            self._clients.remove(client)
            for key in list(client.leases):
                self._release(client, key)
            writer.close()
            await self._notify()

    async def _serve_client(self, client: _Client, reader: asyncio.StreamReader) -> None:
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

    @staticmethod
    async def _more(reader: asyncio.StreamReader) -> bytes:
        part = await reader.read(65536)
        if not part:
            raise ConnectionResetError("end of file")
        return part

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    @staticmethod
    def _now() -> int:
        return int(time.clock_gettime(time.CLOCK_MONOTONIC))

    def _target(self, client: _Client, header: wire.Header) -> _Client | int:
        """The client that a lease command acts on, or why not (spec 6.2)."""
        if header.data2 == wire.SELF_PID:
            return client if client.pid > 0 else -16
        return next((other for other in self._clients if other.pid == header.data2), -3)

    # Commands about the daemon

    def _do_unknown(self, client: _Client, header: wire.Header, payload: wire.Payload) -> Answer:
        return Answer(-95)

    def _do_register(self, client: _Client, header: wire.Header, payload: wire.Payload) -> Answer:
        client.pid, client.name = client.peer_pid, str(client.peer_pid)
        return Answer(silent=True)

    def _do_restrict(self, client: _Client, header: wire.Header, payload: wire.Payload) -> Answer:
        client.restricted = header.cmd_flags
        return Answer()

    def _do_killpath(self, client: _Client, header: wire.Header, payload: wire.Payload) -> Answer:
        return Answer()

    def _do_version(self, client: _Client, header: wire.Header, payload: wire.Payload) -> Answer:
        return Answer(0, wire.DAEMON_VERSION)

    def _do_shutdown_wait(self, client: _Client, header: wire.Header, payload: wire.Payload) -> Answer:
        if self.spaces and not header.data:
            return Answer(-16)
        self.spaces.clear()
        return Answer()

    def _do_status(self, client: _Client, header: wire.Header, payload: wire.Payload) -> Answer:
        values = {**self.daemon_values, "monotime": self._now(), "version_str": wire.DAEMON_VERSION_TEXT}
        states = [wire.State(wire.STATE_DAEMON, 0, 0, self.host_name, wire.format_pairs(values.items())).encode()]
        for other in self._clients:
            states.append(wire.State(wire.STATE_CLIENT, other.pid & 0xFFFFFFFF, 0, other.name, "").encode())
        for space in self.spaces.values():
            state = wire.State(wire.STATE_LOCKSPACE, 0, space.host_id, space.name, self._space_text(space))
            lockspace = wire.Lockspace(space.name, space.host_id, 0, wire.Disk(space.path, space.offset))
            states.append(state.encode() + lockspace.encode())
        for other in self._clients:
            for lease in other.leases.values():
                text = f"list=held flags=0 sector_size=512 align_size={MIB} lver={lease.lver}"
                state = wire.State(wire.STATE_RESOURCE, other.pid, lease.lver, lease.name, text)
                states.append(state.encode() + lease._replace(lver=0).encode_with_disks())
        return Answer(body=b"".join(states), close=True)

    def _space_text(self, space: JoinedSpace) -> str:
        failing = int(space.failing)
        pairs = {
            "list": "spaces",
            "io_timeout": space.io_timeout,
            "align_size": MIB,
            "host_generation": space.generation,
            "renew_fail": failing,
            "space_dead": failing,
            "killing_pids": failing,
            "renewal_last_success": self._now() if space.last_success is None else space.last_success,
        }
        return wire.format_pairs(pairs.items())

    # Lockspaces

    def _join(self, found: FakeSpace, host_id: int, path: str, offset: int, io_timeout: int) -> JoinedSpace:
        before = found.hosts.get(host_id)
        generation = before.generation + 1 if before else 1
        found.hosts[host_id] = FakeHost(self.host_name, generation, self._now())
        joined = JoinedSpace(found.name, host_id, path, offset, io_timeout or found.io_timeout, generation)
        self.spaces[found.name] = joined
        return joined

    def _do_add_lockspace(self, client: _Client, header: wire.Header, payload: wire.Payload) -> Answer:
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

    def _do_inq_lockspace(self, client: _Client, header: wire.Header, payload: wire.Payload) -> Answer:
        assert payload.lockspace is not None
        return Answer(0 if payload.lockspace.name in self.spaces else -2)

    def _do_rem_lockspace(self, client: _Client, header: wire.Header, payload: wire.Payload) -> Answer:
        assert payload.lockspace is not None
        space = self.spaces.get(payload.lockspace.name)
        if space is None:
            return Answer(-2)
        used = any(key[0] == space.name for other in self._clients for key in other.leases)
        if used and header.cmd_flags & wire.REM_UNUSED:
            return Answer(-16)
        del self.spaces[space.name]
        self.storage.spaces[space.path, space.offset].hosts[space.host_id].timestamp = 0
        return Answer()

    def _do_get_lockspaces(self, client: _Client, header: wire.Header, payload: wire.Payload) -> Answer:
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

    def _do_get_hosts(self, client: _Client, header: wire.Header, payload: wire.Payload) -> Answer:
        found = self._hosts_of(payload)
        if found is None:
            return Answer(-2, close=True)
        space, hosts = found
        wanted = payload.lockspace.host_id if payload.lockspace else 0
        entries = [
            wire.Host(host_id, host.generation, host.timestamp, space.io_timeout, wire.HOST_LIVE).encode()
            for host_id, host in sorted(hosts.items())
            if host.timestamp and wanted in (0, host_id)
        ]
        return Answer(0, len(entries), b"".join(entries), close=True)

    def _do_host_status(self, client: _Client, header: wire.Header, payload: wire.Payload) -> Answer:
        found = self._hosts_of(payload)
        if found is None:
            return Answer(-28, close=True)
        space, hosts = found
        states = []
        for host_id, host in sorted(hosts.items()):
            pairs = {
                "last_check": self._now(),
                "last_live": host.timestamp,
                "owner_generation": host.generation,
                "io_timeout": space.io_timeout,
                "owner_name": host.name,
            }
            text = wire.format_pairs(pairs.items())
            states.append(wire.State(wire.STATE_HOST, host_id, host.timestamp, "", text).encode())
        return Answer(body=b"".join(states), close=True)

    # Leases

    def _do_acquire(self, client: _Client, header: wire.Header, payload: wire.Payload) -> Answer:
        target = self._target(client, header)
        if isinstance(target, int):
            return Answer(target)
        taken: list[tuple[str, str]] = []
        for wanted in payload.resources:
            result = self._acquire(target, wanted)
            if result:
                for key in taken:
                    self._release(target, key)
                return Answer(result)
            taken.append((wanted.lockspace_name, wanted.name))
        if payload.options is not None:
            target.name = payload.options.owner_name
        return Answer()

    def _acquire(self, client: _Client, wanted: wire.Resource) -> int:
        key = (wanted.lockspace_name, wanted.name)
        space = self.spaces.get(wanted.lockspace_name)
        if space is None or space.failing:
            return -28
        shared = bool(wanted.flags & wire.RES_SHARED)
        for other in self._clients:
            held = other.leases.get(key)
            if held is not None and not (shared and held.flags & wire.RES_SHARED):
                return -17
        disk = wanted.disks[0]
        resource = self.storage.resources.get((disk.path, disk.offset))
        if resource is None:
            return -223
        if (resource.space, resource.name) != key:
            return -227
        if wanted.flags & wire.RES_LVER and wanted.lver != resource.lver:
            return -240
        others = {host_id for host_id in resource.shared if host_id != space.host_id}
        if resource.owner not in (0, space.host_id):
            return -243
        if others and not shared:
            return -11
        if shared:
            resource.shared[space.host_id] = space.generation
        else:
            resource.lver += 1
            resource.owner, resource.generation = space.host_id, space.generation
            resource.timestamp = self._now()
        client.leases[key] = wanted._replace(lver=resource.lver, flags=wire.RES_SHARED if shared else 0)
        return 0

    def _release(self, client: _Client, key: tuple[str, str]) -> int:
        held = client.leases.pop(key, None)
        if held is None:
            return -1
        space = self.spaces.get(key[0])
        resource = self.storage.resources.get((held.disks[0].path, held.disks[0].offset))
        if space is not None and not space.failing and resource is not None:
            if held.flags & wire.RES_SHARED:
                if not any(key in other.leases for other in self._clients):
                    resource.shared.pop(space.host_id, None)
            else:
                resource.owner = resource.timestamp = 0
        return 0

    def _do_release(self, client: _Client, header: wire.Header, payload: wire.Payload) -> Answer:
        target = self._target(client, header)
        if isinstance(target, int):
            return Answer(target)
        keys = [(lease.lockspace_name, lease.name) for lease in payload.resources]
        if header.cmd_flags & wire.RELEASE_ALL:
            keys = list(target.leases)
        return Answer(min([self._release(target, key) for key in keys], default=0))

    def _do_inquire(self, client: _Client, header: wire.Header, payload: wire.Payload) -> Answer:
        target = self._target(client, header)
        if isinstance(target, int):
            return Answer(target)
        if not target.leases:
            return Answer()
        try:
            text = wire.args_to_state(target.leases.values())
        except wire.FormatError as error:
            return Answer(error.code, len(target.leases))
        return Answer(0, len(target.leases), text.encode() + b"\0")

    def _do_convert(self, client: _Client, header: wire.Header, payload: wire.Payload) -> Answer:
        target = self._target(client, header)
        if isinstance(target, int):
            return Answer(target)
        wanted = payload.resources[0]
        held = target.leases.get((wanted.lockspace_name, wanted.name))
        if held is None:
            return Answer(-2)
        if held.flags & wire.RES_SHARED == wanted.flags & wire.RES_SHARED:
            return Answer(-114)
        self._release(target, (held.lockspace_name, held.name))
        return Answer(self._acquire(target, held._replace(flags=wanted.flags & wire.RES_SHARED, lver=0)))
