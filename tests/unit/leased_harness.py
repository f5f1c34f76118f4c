"""A lease daemon on the test's own event loop, real sockets and real files; and clients that speak raw bytes.

Clients of this process are registered with this process's pid: `LeasedHost` makes sure that no test can ever
signal it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest import mock

from holdfast.daemons.log import LineFormatter, LogRing
from holdfast.daemons.processes import Process
from holdfast.lease import timing
from holdfast.leased import wire
from holdfast.leased.core import LeaseDaemon
from holdfast.leased.daemon import listen, make_run_dir
from holdfast.leased.options import DaemonOptions
from holdfast.leased.wire import Command, Disk, Header, Lockspace, Payload, Resource
from holdfast.storage import close_storage

PATIENCE_S = 15.0
"""A wait that takes longer is a failure, not a slow machine."""

CHILD = """
import signal, socket, sys, time
from holdfast.leased import wire
path, space, name, disk, flags, ignore, restrict = sys.argv[1:8]
if ignore == "1":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
sock = socket.socket(socket.AF_UNIX)
sock.connect(path)
def call(cmd, body=b"", flags=0, data=0, reply=True):
    sock.sendall(wire.encode_request(cmd, body, flags=flags, data=data, data2=wire.SELF_PID))
    return wire.decode_header(sock.recv(32, socket.MSG_WAITALL)).data if reply else 0
call(1, reply=False)
if int(restrict):
    call(10, flags=int(restrict))
for argument in sys.argv[8:]:
    path, _, args = argument.partition(" ")
    body = path.encode().ljust(128, bytes(1)) + args.encode().ljust(128, bytes(1))
    call(17, body, flags=1)
lease = wire.resource(space, name, [wire.Disk(disk)], flags=int(flags))
print(call(7, wire.Payload((lease,), wire.Options("child")).encode(True), data=1), flush=True)
while True:
    time.sleep(60)
"""
"""A process of its own that registers, acquires one lease, says the result, and holds it."""


class Peer:
    """One client connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def receive(self, count: int) -> bytes:
        data = b""
        async with asyncio.timeout(PATIENCE_S):
            while len(data) < count:
                more = await asyncio.get_running_loop().sock_recv(self.sock, count - len(data))
                if not more:
                    raise ConnectionResetError(f"closed after {len(data)} of {count} bytes")
                data += more
        return data

    async def reply(self) -> tuple[Header, bytes]:
        """The next framed reply."""
        header = wire.decode_header(await self.receive(wire.HEADER_SIZE))
        return header, await self.receive(header.length - wire.HEADER_SIZE)

    async def call(self, cmd: int, payload: bytes = b"", **fields: int) -> tuple[Header, bytes]:
        fields.setdefault("data2", 0)
        await self.send(wire.encode_request(cmd, payload, **fields))
        return await self.reply()

    async def result(self, cmd: int, payload: bytes = b"", **fields: int) -> int:
        return (await self.call(cmd, payload, **fields))[0].data

    async def until_closed(self) -> bytes:
        """What is left, up to EOF."""
        data = b""
        async with asyncio.timeout(PATIENCE_S):
            while more := await asyncio.get_running_loop().sock_recv(self.sock, 65536):
                data += more
        return data

    async def acquire(self, *leases: Resource, flags: int = 0, owner: str = "") -> int:
        body = Payload(leases, wire.Options(owner)).encode(with_disks=True)
        return await self.result(Command.ACQUIRE, body, flags=flags, data=len(leases), data2=wire.SELF_PID)

    async def release(self, *leases: Resource, flags: int = 0) -> int:
        body = b"".join(lease.encode() for lease in leases)
        return await self.result(Command.RELEASE, body, flags=flags, data=len(leases), data2=wire.SELF_PID)

    async def inquire(self) -> str:
        header, body = await self.call(Command.INQUIRE, data2=wire.SELF_PID)
        assert header.data == 0
        return body.rstrip(b"\0").decode()

    def close(self) -> None:
        self.sock.close()


class LeasedHost:
    """A running daemon with its files, and everything a test starts around it."""

    def __init__(self, directory: Path, options: DaemonOptions) -> None:
        self.directory = directory
        self.options = options
        self.daemon = LeaseDaemon(options, LogRing(LineFormatter(False)))
        self.serving: asyncio.Task[None]
        self._peers: list[Peer] = []
        self._children: list[asyncio.subprocess.Process] = []

    async def connect(self, register: bool = False) -> Peer:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        await asyncio.get_running_loop().sock_connect(sock, self.options.socket_path)
        peer = Peer(sock)
        self._peers.append(peer)
        if register:
            await peer.send(wire.encode_request(Command.REGISTER))
        return peer

    async def once(self, cmd: int, payload: bytes = b"", **fields: int) -> tuple[Header, bytes]:
        """One call on a connection of its own."""
        peer = await self.connect()
        try:
            return await peer.call(cmd, payload, **fields)
        finally:
            peer.close()

    async def status(self) -> list[wire.StatusItem]:
        peer = await self.connect()
        await peer.send(wire.encode_request(Command.STATUS))
        raw = await peer.until_closed()
        peer.close()
        return wire.decode_status_items(raw[wire.HEADER_SIZE :])

    async def held(self) -> dict[str, str]:
        """Lease name to its list, by STATUS."""
        return {
            item.state.name: wire.parse_pairs(item.state.text)["list"]
            for item in await self.status()
            if item.resource is not None
        }

    def file(self, name: str, size: int = 1 << 20) -> str:
        path = self.directory / name
        if not path.exists():
            path.write_bytes(b"")
            os.truncate(path, size)
        return str(path)

    def space(self, name: str, host_id: int = 1) -> Lockspace:
        return Lockspace(name, host_id, 0, Disk(self.file(name)))

    def lease(self, space: str, name: str, flags: int = 0, lver: int = 0) -> Resource:
        return wire.resource(space, name, [Disk(self.file(f"{space}.{name}"))], flags=flags, lver=lver)

    async def make_space(self, name: str, host_id: int = 1, io_timeout: int = 1, format: bool = True) -> Lockspace:
        """Formatted and joined."""
        space = self.space(name, host_id)
        if format:
            header, _ = await self.once(Command.WRITE_LOCKSPACE, space.encode(), data2=io_timeout)
            assert header.data == 0
        header, _ = await self.once(Command.ADD_LOCKSPACE, space.encode(), data=io_timeout)
        assert header.data == 0, header
        return space

    async def make_lease(self, space: str, name: str, flags: int = 0) -> Resource:
        lease = self.lease(space, name, flags)
        plain = lease._replace(flags=0)
        header, _ = await self.once(Command.WRITE_RESOURCE, plain.encode_with_disks())
        assert header.data == 0
        return lease

    async def child(
        self, lease: Resource, *, ignore_sigterm: bool = False, restrict: int = 0, killpath: str = ""
    ) -> asyncio.subprocess.Process:
        """A process that holds `lease`."""
        arguments = [self.options.socket_path, lease.lockspace_name, lease.name, lease.disks[0].path]
        arguments += [str(lease.flags), str(int(ignore_sigterm)), str(restrict)]
        if killpath:
            arguments.append(killpath)
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHILD, *arguments, stdout=asyncio.subprocess.PIPE
        )
        self._children.append(child)
        assert child.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            assert await child.stdout.readline() == b"0\n"
        return child

    async def until(self, condition: Callable[[], bool | Awaitable[bool]], patience_s: float = PATIENCE_S) -> None:
        """Wait for something to become so."""
        async with asyncio.timeout(patience_s):
            while True:
                met = condition()
                if met if isinstance(met, bool) else await met:
                    return
                await asyncio.sleep(0.01)

    async def close_clients(self) -> None:
        for child in self._children:
            if child.returncode is None:
                child.kill()
            await child.wait()
        for peer in self._peers:
            peer.close()
        await self.until(lambda: self.serving.done() or not len(self.daemon.clients))


@contextlib.asynccontextmanager
async def leased_host(directory: Path, quick_join: bool = True, **settings: Any) -> AsyncIterator[LeasedHost]:
    """A daemon for the duration of the block; everything is gone afterwards."""
    settings.setdefault("use_watchdog", False)
    settings.setdefault("fire_timeout_s", 10)
    options = DaemonOptions(run_dir=str(directory / settings.pop("run_name", "run")), **settings)
    make_run_dir(options)
    host = LeasedHost(directory, options)
    own_pid = os.getpid()
    really_signal = Process.signal

    def never_ourselves(process: Process, number: int) -> int:
        assert process.pid != own_pid, "a test client of this process would have been killed"
        return really_signal(process, number)

    patches: list[Any] = [mock.patch.object(Process, "signal", never_ourselves)]
    if quick_join:
        # How long a joining host waits for a rival is the business of the tests of `lease.lockspace`.
        patches.append(mock.patch.object(timing, "join_check_delay", return_value=0.01))
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        serving = host.serving = asyncio.create_task(host.daemon.run(listen(options)))
        try:
            yield host
            await host.close_clients()
        finally:
            host.daemon.shutdown_forced()
            async with asyncio.timeout(PATIENCE_S):
                await serving
            if options.run_dir.endswith("/run"):
                close_storage()  # Shared by all daemons of this loop: the outermost one ends it.
