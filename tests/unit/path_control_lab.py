"""A daemon behind the CLI socket that does nothing but remember, and clients that send any bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from unittest import mock

from holdfast.path.control import server as server_module
from holdfast.path.control.listening import listen
from holdfast.path.control.operations import Refused
from holdfast.path.control.rows import DeviceRow, GroupRow, MapRow, PathRow, Snapshot
from holdfast.path.control.server import ControlServer
from holdfast.path.keywords import NEW, Release

PATIENCE_S = 60.0
"""A bound for what has to happen; nothing takes so long unless it hangs."""


class FakeOperations:
    """Answers from `state` and texts; changing commands are noted in `calls` and answered with `outcome`."""

    def __init__(self, state: Snapshot | None = None) -> None:
        self.state = state or Snapshot(pid=4711)
        self.calls: list[tuple[object, ...]] = []
        self.outcome: str | Exception = ""
        self.gate: asyncio.Event | None = None
        """While it is there and not set, changing commands wait."""
        self.finished: list[str] = []
        self.config = {False: "defaults {\n}\n", True: "defaults {\n\tverbosity 2\n}\n"}
        self.blacklist = "device node rules:\n"
        self.device_rows: list[DeviceRow] = []
        self.reservation = {"status": "unset", "key": "none", "hold": "unset"}
        self.snapshots = 0

    def snapshot(self) -> Snapshot:
        self.snapshots += 1
        return self.state

    def metrics(self) -> Iterator[str]:
        yield from (f'holdfast_path_checks_total{{dev="{row.dev}"}} {row.checks}\n' for row in self.state.paths)

    def find_path(self, name: str) -> PathRow:
        for row in self.state.paths:
            if name in (row.dev, row.dev_t):
                return row
        raise Refused("device not found")

    def map_name(self, name: str) -> str:
        for row in self.state.maps:
            if name in (row.name, row.sysfs, row.wwid):
                return row.name
        raise Refused("device not found")

    def config_text(self, local: bool) -> str:
        return self.config[local]

    def blacklist_text(self) -> str:
        return self.blacklist

    def devices(self) -> list[DeviceRow]:
        return self.device_rows

    def reservation_status(self, map_name: str) -> str:
        return self._reservation("status", map_name)

    def reservation_key(self, map_name: str) -> str:
        return self._reservation("key", map_name)

    def reservation_hold(self, map_name: str) -> str:
        return self._reservation("hold", map_name)

    def _reservation(self, what: str, map_name: str) -> str:
        self.calls.append((f"get {what}", map_name))
        return self.reservation[what]

    async def _call(self, name: str, *arguments: object) -> str:
        self.calls.append((name, *arguments))
        if self.gate is not None:
            await self.gate.wait()
        self.finished.append(name)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    async def add_path(self, name: str) -> str:
        return await self._call("add_path", name)

    async def remove_path(self, name: str) -> str:
        return await self._call("remove_path", name)

    async def add_map(self, name: str) -> str:
        return await self._call("add_map", name)

    async def remove_map(self, name: str) -> str:
        return await self._call("remove_map", name)

    async def remove_maps(self) -> str:
        return await self._call("remove_maps")

    async def switch_group(self, map_name: str, group: int) -> str:
        return await self._call("switch_group", map_name, group)

    async def reconfigure(self, all_maps: bool) -> str:
        return await self._call("reconfigure", all_maps)

    async def suspend_map(self, name: str) -> str:
        return await self._call("suspend_map", name)

    async def resume_map(self, name: str) -> str:
        return await self._call("resume_map", name)

    async def resize_map(self, name: str) -> str:
        return await self._call("resize_map", name)

    async def reload_map(self, name: str) -> str:
        return await self._call("reload_map", name)

    async def reassign_map(self, name: str) -> str:
        return await self._call("reassign_map", name)

    async def reset_stats(self, map_name: str | None) -> str:
        return await self._call("reset_stats", map_name)

    async def fail_path(self, name: str) -> str:
        return await self._call("fail_path", name)

    async def reinstate_path(self, name: str) -> str:
        return await self._call("reinstate_path", name)

    async def disable_queueing(self, map_name: str | None) -> str:
        return await self._call("disable_queueing", map_name)

    async def restore_queueing(self, map_name: str | None) -> str:
        return await self._call("restore_queueing", map_name)

    async def force_queueing_daemon(self, forced: bool) -> str:
        return await self._call("force_queueing_daemon", forced)

    async def set_marginal(self, path_name: str, marginal: bool) -> str:
        return await self._call("set_marginal", path_name, marginal)

    async def unset_marginal_map(self, map_name: str) -> str:
        return await self._call("unset_marginal_map", map_name)

    async def set_reservation_status(self, map_name: str, is_set: bool, paths: str | None) -> str:
        return await self._call("set_reservation_status", map_name, is_set, paths)

    async def set_reservation_key(self, map_name: str, key: str | None) -> str:
        return await self._call("set_reservation_key", map_name, key)

    async def set_reservation_hold(self, map_name: str, is_set: bool) -> str:
        return await self._call("set_reservation_hold", map_name, is_set)

    async def shutdown(self) -> str:
        return await self._call("shutdown")


def two_maps() -> Snapshot:
    """Two maps with two paths each; of the first, one is down."""

    def path(number: int) -> PathRow:
        name = "mpatha" if number % 2 == 0 else "mpathb"
        is_down = number == 0
        return PathRow(
            dev=f"sd{chr(ord('a') + number)}",
            dev_t=f"8:{16 * number}",
            wwid=f"35000c50015ea71{'aa' if name == 'mpatha' else 'bb'}",
            hcil=f"{number // 2}:0:0:{number % 2}",
            dm_state="failed" if is_down else "active",
            state=2 if is_down else 3,
            vendor="HOLDFAST",
            product="TESTDISK",
            revision="2.5+",
            checker="tur",
            tick=1 + number,
            checkint=8,
            priority=1,
            size=131072,
            map_name=name,
            protocol="scsi:unspec",
            lun=number % 2,
        )

    paths = tuple(path(number) for number in range(4))

    def row(number: int) -> MapRow:
        own = tuple(one for one in paths if one.map_name == f"mpath{'ab'[number]}")
        return MapRow(
            name=own[0].map_name,
            wwid=own[0].wwid,
            sysfs=f"dm-{number}",
            failback=-1,
            no_path_retry=4,
            queues=True,
            active_paths=sum(one.state == 3 for one in own),
            size=131072,
            features="1 queue_if_no_path",
            vendor="HOLDFAST",
            product="TESTDISK",
            revision="2.5+",
            groups=(GroupRow("service-time 0", 1, "active", paths=own),),
        )

    return Snapshot(paths=paths, maps=(row(0), row(1)), pid=4711)


class Peer:
    """A connection that sends and takes any bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), PATIENCE_S)

    async def reply(self) -> bytes:
        """The next reply's text without its NUL; b"" at the end of the connection."""
        try:
            header = await asyncio.wait_for(self.reader.readexactly(8), PATIENCE_S)
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        (length,) = struct.unpack("=Q", header)
        text = await asyncio.wait_for(self.reader.readexactly(length), PATIENCE_S)
        assert text.endswith(b"\0")
        return text[:-1]

    async def ask(self, command: str) -> str:
        await self.send(frame(command.encode() + b"\0"))
        return (await self.reply()).decode("utf-8", "surrogateescape")

    async def is_closed(self) -> bool:
        """Waits for the end; what is left to read counts against it."""
        try:
            return await asyncio.wait_for(self.reader.read(1), PATIENCE_S) == b""
        except ConnectionError:
            return True

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def frame(text: bytes) -> bytes:
    """A request as it is on the wire."""
    return struct.pack("=Q", len(text)) + text


class Lab:
    """A running server and its clients."""

    def __init__(self, server: ControlServer, operations: FakeOperations, path: str) -> None:
        self.server = server
        self.operations = operations
        self.path = path
        self.uids: list[int] = []
        """Whose the next connections are, in their order; root's when empty."""
        self._peers: list[Peer] = []

    async def connect(self, uid: int = 0) -> Peer:
        self.uids.append(uid)
        reader, writer = await asyncio.open_unix_connection(self.path)
        peer = Peer(reader, writer)
        self._peers.append(peer)
        return peer

    async def ask(self, command: str, uid: int = 0) -> str:
        peer = await self.connect(uid)
        return await peer.ask(command)

    def uid_of(self, _: socket.socket) -> int:
        """Stands for the kernel's word about a new connection."""
        return self.uids.pop(0) if self.uids else 0

    async def close(self) -> None:
        for peer in self._peers:
            await peer.close()


@contextlib.asynccontextmanager
async def laboratory(
    operations: FakeOperations | None = None,
    release: Release = NEW,
    timeout_s: float = PATIENCE_S,
    *,
    fails_briefly: bool = False,
) -> AsyncIterator[Lab]:
    """A server on a path socket; the users of its clients are what the test says."""
    operations = operations or FakeOperations(two_maps())
    with tempfile.TemporaryDirectory(prefix="hf-control-") as directory:
        path = str(Path(directory, "socket"))
        listeners = listen([path])
        server = ControlServer(
            listeners.sockets, operations, release=release, timeout_s=timeout_s, fails_briefly=fails_briefly
        )
        lab = Lab(server, operations, path)
        with mock.patch.object(server_module, "_peer_uid", lab.uid_of):
            running = asyncio.create_task(server.run())
            try:
                yield lab
            finally:
                running.cancel()
                await asyncio.wait([running], timeout=PATIENCE_S)
                await lab.close()
                listeners.close()
        if not running.cancelled() and (error := running.exception()) is not None:
            raise error
