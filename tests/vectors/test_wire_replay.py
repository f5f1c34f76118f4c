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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.leased_harness import LeasedHost, Peer, leased_host

from holdfast.leased import wire
from holdfast.leased.leases import Stage
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
OWN_DAEMON_KEYS = {"io_timeout", "watchdog_fire_timeout"}

ON_PURPOSE: dict[str, dict[str, str]] = {
    "01": {
        "convert": "to exclusive while shared by another local client: -11",
        "gets_early": "hosts are known as soon as the lockspace is active",
        "exit_release": "recorded with processes that died; here all clients are one process",
        "command": "the same",
        "killpath": "the same",
        "set_config": "the same",
        "acquire_badlease": "recorded with a shorter file",
    },
    "02": {},
    "03": {
        "orphan_only": "-2 without an orphan",
        "orphan_release": "needs no registered client",
        "multi_disk": "one disk only",
        "register_twice_held": "the second REGISTER is ignored",
        "rel_all_9": "the same",
    },
    "05": {
        "rindex_create": "a name that exists is refused (-17): two hosts could each own one of its two leases",
        "rindex_lookup": "follows from rindex_create: the first free slot is one earlier",
    },
    "06": {"command2": "recorded with processes that died; here all clients are one process"},
    "08": {},
}


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
                    file.truncate(8 << 20)

    async def run(self) -> None:
        self.make_files()
        spoke = False
        for record in self.records:
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
                self.asked = conn, self.request(record)
                await self.peers[conn].send(self.asked[1])
            elif kind == "io":
                await self.compare(self.peers[conn], bytes.fromhex(record["hex"]))
            elif kind == "cli":
                if not spoke and record["argv"][1:2] == ["client"] and record["rc"] == 0:
                    await self.set_up(record["argv"][2:])
                spoke = False

    async def begin(self, scenario: str) -> None:
        """What happened outside of the recorded connections."""

    async def connect(self, conn: str) -> Peer:
        return await self.host.connect()

    def is_settled(self) -> bool:
        """The daemon has noticed who is gone, has released what they held, and has ended what has to end."""
        daemon = self.host.daemon
        releasing = any(lease.stage is Stage.REM for lease in daemon.leases)
        ending = any((s.dead or s.removal_wanted) and not s.external_used for s in daemon.spaces)
        gone = len(daemon.clients) <= len(self.peers)
        return self.host.serving.done() or (gone and not releasing and not ending)

    def request(self, record: dict[str, Any]) -> bytes:
        raw = self.local(bytes.fromhex(record["hex"]))
        if len(raw) < wire.HEADER_SIZE:
            return raw
        header = wire.decode_header(raw)
        acts_on_pid = header.cmd in (Command.ACQUIRE, Command.RELEASE, Command.INQUIRE, Command.CONVERT)
        if header.magic == wire.MAGIC and acts_on_pid and 1000 < header.data2 < 900000:
            header = header._replace(data2=os.getpid())
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
                await replay.run()
                await host.close_clients()
                return replay

    replay = asyncio.run(main())
    unexplained = {key: text for key, text in replay.different.items() if key not in ON_PURPOSE[number]}
    assert not unexplained
    assert set(replay.different) == set(ON_PURPOSE[number])
    assert replay.compared
