"""The recorded exchanges of real clients with the real daemon, replayed against ours: replies must be equal.

What differs on purpose is listed per scenario with its reason (docs/compatibility.md); a difference that goes away
or comes up fails the test. Pids, times and lease versions are left out of the comparison of states.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import os
import random
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tests.unit.leased_harness import LeasedHost, Peer, leased_host

from holdfast.lease.resource import Lease
from holdfast.leased import lease_commands, wire
from holdfast.leased.leases import Stage
from holdfast.leased.spaces import Space
from holdfast.leased.wire import Command, Header

VECTORS = Path(__file__).parent / "wire"
RECORDED_DIRECTORY = b"/srv/lease"
UNTIL_EOF = (Command.STATUS, Command.HOST_STATUS, Command.RENEWAL, Command.LOG_DUMP)
COMPARED_KEYS = (
    "list",
    "flags",
    "restricted",
    "kill_count",
    "pid_dead",
    "cmd_active",
    "space_dead",
    "killing_pids",
)
HOSTS_LIMIT_S = 60.0
SHORT_FILES = {b"RV5": 1 << 20}
"""Files of the recording whose length matters."""
EAGAIN = -11
really_release = lease_commands._try_release
OWN_DAEMON_KEYS = {"io_timeout", "watchdog_fire_timeout"}

ON_PURPOSE: dict[str, dict[str, str]] = {
    "01": {
        "convert": "CONVERT to exclusive while other local clients hold it shared",
        "gets_early": "hosts right after the join",
        "acquire_badlease": "reading before a ballot",
    },
    "02": {},
    "03": {
        "orphan_only": "`ORPHAN_ONLY` without an orphan",
        "orphan_release": "RELEASE with ORPHAN from an unregistered connection",
        "multi_disk": "lease on several disks",
        "register_twice_held": "a second REGISTER on a connection",
        # What the second REGISTER left behind is in the recorded STATUS.
        "rel_all_9": "a second REGISTER on a connection",
    },
    "05": {
        "rindex_create": "index: create with a name that exists",
        # The first free slot is one earlier.
        "rindex_lookup": "index: create with a name that exists",
    },
    "06": {},
    "08": {},
}
"""Scenarios in which a reply differs, and the line of docs/compatibility.md that says why, by its first column."""

OUTSIDERS = {"01": (19375, "c70")}
"""Pid and connection of a process that does nothing but register and die: others act on its pid."""

OUTSIDER = """
import socket, sys, time
from holdfast.leased import wire
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.sendall(wire.encode_request(1) + wire.encode_request(wire.Command.VERSION))
sock.recv(32, socket.MSG_WAITALL)
print("registered", flush=True)
time.sleep(1000)
"""


def records(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt") as lines:
        return [json.loads(line) for line in lines]


@contextlib.contextmanager
def directory_of_equal_length() -> Iterator[str]:
    """Offsets and lengths in the recorded bytes must not change."""
    while True:
        name = f"/tmp/hf{random.Random().randrange(1000):03}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(name)
            break
    assert len(name) == len(RECORDED_DIRECTORY)
    try:
        yield name
    finally:
        shutil.rmtree(name)


def twins(found: list[dict[str, Any]]) -> set[str]:
    """Connections that only repeat another one, because a proxy recorded both of its sides."""
    streams: dict[str, list[str]] = {}
    order: list[str] = []
    for record in found:
        if record["rec"] == "connect":
            order.append(record["conn"])
            streams[record["conn"]] = []
        elif record["rec"] == "io":
            streams.setdefault(record["conn"], []).append(record["dir"] + record["hex"])
    repeated = set()
    for first, second in itertools.pairwise(order):
        if first not in repeated and streams[first] and streams[first] == streams[second]:
            repeated.add(second)
    return repeated


class Replay:
    """One file of exchanges against one daemon."""

    def __init__(self, host: LeasedHost, directory: str, found: list[dict[str, Any]]) -> None:
        self.host = host
        self.directory = directory.encode()
        self.records = found
        self.peers: dict[str, Peer] = {}
        self.scenario = ""
        self.asked: tuple[str, bytes] = ("", b"")
        self.different: dict[str, str] = {}
        self.compared = 0
        self.registered: list[str] = []
        """Connections that registered since the last command line."""
        self.may_release = asyncio.Event()
        self.may_release.set()
        self.outsider_pid = 0
        self.outsider: asyncio.subprocess.Process | None = None
        self.skipped = twins(found) if found and found[0].get("rec") == "cli" else set()

    def local(self, raw: bytes) -> bytes:
        return raw.replace(RECORDED_DIRECTORY, self.directory)

    def make_files(self) -> None:
        names: set[bytes] = set()
        for record in self.records:
            if record["rec"] == "io" and record["dir"] == "c2d":
                names |= set(re.findall(rb"/srv/lease/([^\0]+)\0", bytes.fromhex(record["hex"])))
            elif record["rec"] == "cli" and record["argv"][1:2] == ["client"]:
                names |= {name.encode() for name in re.findall(r"/srv/lease/(\w+):", " ".join(record["argv"]))}
        for name in names:
            path = os.path.join(self.directory.decode(), os.fsdecode(name))
            if not name.startswith(b"nope") and not os.path.exists(path):
                with open(path, "wb") as file:
                    file.truncate(SHORT_FILES.get(name, 8 << 20))

    async def run(self) -> None:
        self.make_files()
        spoke = False
        for position, record in enumerate(self.records):
            kind, conn = record["rec"], record.get("conn", "")
            if conn in self.skipped:
                continue
            if kind == "scenario":
                self.scenario = record["id"]
                await self.begin(self.scenario)
            elif kind == "connect":
                self.peers[conn] = await self.connect(conn)
                spoke = True
            elif kind == "client_close" and conn in self.peers:
                self.peers.pop(conn).close()
                await self.host.until(self.is_settled)
            elif kind == "io" and record["dir"] == "c2d":
                self.asked = conn, await self.request(record)
                if wire.decode_header(self.asked[1].ljust(wire.HEADER_SIZE)).cmd == Command.REGISTER:
                    self.registered.append(conn)
                await self.peers[conn].send(self.asked[1])
            elif kind == "io":
                await self.compare(self.peers[conn], bytes.fromhex(record["hex"]))
            elif kind == "cli":
                if not spoke and record["argv"][1:2] == ["client"] and record["rc"] == 0:
                    await self.set_up(record["argv"][2:])
                spoke = False
                await self.end_processes(record["argv"], position)

    async def begin(self, scenario: str) -> None:
        """What happened outside of the recorded connections."""

    async def connect(self, conn: str) -> Peer:
        return await self.host.connect()

    def is_settled(self) -> bool:
        """The daemon has noticed who is gone, has released what they held, and has ended what has to end."""
        daemon = self.host.daemon
        releasing = any(lease.stage is Stage.REM for lease in daemon.leases)
        ending = any((s.dead or s.removal_wanted) and not s.external_used for s in daemon.spaces)
        others = int(self.outsider is not None and self.outsider.returncode is None)
        gone = len(daemon.clients) <= len(self.peers) + others
        return self.host.serving.done() or (gone and not releasing and not ending)

    async def end_processes(self, argv: list[str], position: int) -> None:
        """What a command line did at its end: the end of a registered process is not in the recording."""
        ended, self.registered = self.registered if argv[2:3] == ["command"] else [], []
        met_release = self.next_acquire(position) == EAGAIN
        outsider = self.outsider if met_release and str(self.outsider_pid) in argv else None
        if not ended and outsider is None:
            return
        if met_release:
            self.may_release.clear()
        for conn in ended:
            self.peers.pop(conn).close()
        if outsider is not None:
            outsider.kill()
            await outsider.wait()
            await self.host.until(lambda: self.host.daemon.clients.by_pid(outsider.pid) is None)
        if self.may_release.is_set():
            await self.host.until(self.is_settled)
        else:
            await self.host.until(lambda: any(lease.stage is Stage.REM for lease in self.host.daemon.leases))

    def next_acquire(self, position: int) -> int:
        """The recorded result of the first ACQUIRE after a record."""
        for record in self.records[position:]:
            if record["rec"] == "io" and record["dir"] == "d2c":
                header = wire.decode_header(bytes.fromhex(record["hex"]))
                if header.cmd == Command.ACQUIRE:
                    return header.data
        return 0

    async def slow_release(self, space: Space, lease: Lease, new_name: str | None) -> int:
        """Where the recording met a release that was under way, ours takes as long."""
        await self.may_release.wait()
        return await really_release(space, lease, new_name)

    async def pid_of(self, recorded: int) -> int:
        """The process that plays the one of the recording."""
        if recorded != self.outsider_pid:
            return os.getpid()
        if self.outsider is None:
            self.outsider = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", OUTSIDER, self.host.options.socket_path), stdout=asyncio.subprocess.PIPE
            )
            assert self.outsider.stdout is not None
            assert await self.outsider.stdout.readline() == b"registered\n"
        return self.outsider.pid

    async def request(self, record: dict[str, Any]) -> bytes:
        raw = self.local(bytes.fromhex(record["hex"]))
        if len(raw) < wire.HEADER_SIZE:
            return raw
        header = wire.decode_header(raw)
        acts_on_pid = header.cmd in (Command.ACQUIRE, Command.RELEASE, Command.INQUIRE, Command.CONVERT)
        if header.magic == wire.MAGIC and acts_on_pid and 1000 < header.data2 < 900000:
            header = header._replace(data2=await self.pid_of(header.data2))
        return header.encode() + raw[wire.HEADER_SIZE :]

    async def set_up(self, words: list[str]) -> None:
        """What a command line did before the recording of its connections began."""
        given = dict(zip(words[1::2], words[2::2], strict=False))
        io_timeout = int(given.get("-o", "0"))
        local = {option: os.fsdecode(self.local(os.fsencode(value))) for option, value in given.items()}
        if words[0] == "init" and "-r" in local:
            lease = wire.str_to_res(local["-r"])
            header, _ = await self.host.once(Command.WRITE_RESOURCE, lease.encode_with_disks())
        elif words[0] in ("init", "add_lockspace"):
            name, host_id, path, offset = local["-s"].split(":")
            space = wire.Lockspace(name, int(host_id), 0, wire.Disk(path, int(offset))).encode()
            if words[0] == "init":
                header, _ = await self.host.once(Command.WRITE_LOCKSPACE, space, data2=io_timeout)
            else:
                header, _ = await self.host.once(Command.ADD_LOCKSPACE, space, data=io_timeout)
        else:
            return
        assert header.data == 0

    async def compare(self, peer: Peer, expected: bytes) -> None:
        self.compared += 1
        wanted = wire.decode_header(expected)
        if wanted.cmd in UNTIL_EOF and wanted.length != wire.EVENT_MESSAGE_SIZE:
            got = await self.until_quiet(peer)
        else:
            got = await framed(peer)
        header = wire.decode_header(got)
        if wanted.cmd == Command.GET_HOSTS and not wanted.data:
            got, header = await self.until_known(got, expected)
        if self.shown(header, got, b"") != self.shown(wanted, expected, got):
            self.different.setdefault(
                self.scenario, f"{self.shown(wanted, expected, got)} expected, got {self.shown(header, got, b'')}"
            )

        if wanted.cmd == Command.ACQUIRE and not self.may_release.is_set():
            self.may_release.set()
            await self.host.until(self.is_settled)

    async def until_known(self, got: bytes, expected: bytes) -> tuple[bytes, Header]:
        """Ask again until the hosts are in the states that were recorded, or time is up."""
        wanted = self.shown(wire.decode_header(expected), expected, got)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HOSTS_LIMIT_S):
                while self.shown(wire.decode_header(got), got, b"") != wanted:
                    await asyncio.sleep(0.05)
                    peer = await self.connect(self.asked[0])
                    await peer.send(self.asked[1])
                    got = await framed(peer)
                    peer.close()
        return got, wire.decode_header(got)

    async def until_quiet(self, peer: Peer) -> bytes:
        """A registered connection stays open after STATUS: its end is when nothing more comes."""
        data = await peer.receive(wire.HEADER_SIZE)
        loop = asyncio.get_running_loop()
        with contextlib.suppress(TimeoutError):
            while True:
                async with asyncio.timeout(0.5):
                    more = await loop.sock_recv(peer.sock, 1 << 20)
                if not more:
                    break
                data += more
        return data

    def shown(self, header: Header, raw: bytes, other: bytes) -> object:
        """What is compared of a reply. Clients that stopped reading early recorded only its beginning."""
        body = self.local(raw[wire.HEADER_SIZE :])
        if header.cmd == Command.LOG_DUMP:
            return header.cmd
        if header.cmd in UNTIL_EOF:
            states = sorted(map(comparable_state, wire.decode_status_items(body)), key=repr)
            return header.data, states if header.cmd != Command.RENEWAL else states[:1]
        if header.cmd == Command.GET_HOSTS:
            hosts = [wire.decode_host(body, at) for at in range(0, len(body), wire.HOST_SIZE)]
            return header, [host._replace(timestamp=min(host.timestamp, 1)) for host in hosts]
        if header.cmd == Command.INQUIRE:
            return header._replace(length=0), re.sub(rb":\d+(?=[ \0])", b":LVER", body)
        if header.cmd == Command.READ_RESOURCE_OWNERS:
            return header, owners(body)
        if other and len(raw) < len(other):
            body = self.local(raw[wire.HEADER_SIZE :]) + other[len(raw) :]
        return header, body


async def framed(peer: Peer) -> bytes:
    """A reply whose header says how long it is."""
    header, body = await peer.reply()
    return header.encode() + body


def owners(body: bytes) -> tuple[object, ...]:
    """Of a READ_RESOURCE_OWNERS reply: the resource without its version, the holders without their times."""
    if len(body) < wire.RESOURCE_SIZE:
        return (body,)
    resource = wire.decode_resource(body)._replace(lver=0)
    holders = [wire.decode_host(body, at) for at in range(wire.RESOURCE_SIZE, len(body), wire.HOST_SIZE)]
    return resource, [holder._replace(timestamp=min(holder.timestamp, 1)) for holder in holders]


def comparable_state(item: wire.StatusItem) -> tuple[object, ...]:
    pairs = wire.parse_pairs(item.state.text)
    keys = sorted(set(pairs) - OWN_DAEMON_KEYS) if item.state.type == wire.STATE_DAEMON else sorted(pairs)
    name = item.state.name if item.state.type in (wire.STATE_LOCKSPACE, wire.STATE_RESOURCE) else ""
    return item.state.type, name, tuple(keys), tuple((key, pairs.get(key)) for key in COMPARED_KEYS)


@pytest.mark.parametrize("number", sorted(ON_PURPOSE))
def test_replay(tmp_path: Path, number: str) -> None:
    async def main() -> Replay:
        async with leased_host(tmp_path, quick_join=number != "01", host_name="host") as host:
            found = records(next(VECTORS.glob(f"{number}-*.jsonl.gz")))
            with directory_of_equal_length() as directory:
                replay = Replay(host, directory, found)
                if number in OUTSIDERS:
                    replay.outsider_pid, conn = OUTSIDERS[number]
                    replay.skipped.add(conn)
                with mock.patch.object(lease_commands, "_try_release", replay.slow_release):
                    await replay.run()
                await host.close_clients()
                return replay

    replay = asyncio.run(main())
    unexplained = {key: text for key, text in replay.different.items() if key not in ON_PURPOSE[number]}
    assert not unexplained
    assert set(replay.different) == set(ON_PURPOSE[number])
    assert replay.compared


def test_each_difference_has_its_row() -> None:
    """What differs on purpose is in docs/compatibility.md, in the first column of a table."""
    text = Path(__file__).parents[2].joinpath("docs/compatibility.md").read_text()
    rows = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")}
    assert not {row for scenarios in ON_PURPOSE.values() for row in scenarios.values()} - rows
