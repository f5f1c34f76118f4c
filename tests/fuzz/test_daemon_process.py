"""Bad input and scale against a daemon in a process of its own: it lives, serves, and does not grow."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.lease.geometry import SMALL
from holdfast.lease.records import PAXOS_DISK_MAGIC, PAXOS_VERSION, Leader, Request
from holdfast.leased import wire
from holdfast.leased.wire import Command, Disk, Lockspace
from tests.interop.conftest import private_directory
from tests.interop.hosts import OURS, Host, daemon_environment, new_file, running, wait_until

MIB = 1 << 20
REPOSITORY = Path(__file__).parents[2]
LEASES = 500
PER_PROCESS = 60
REPLY_LIMIT_S = 30.0
WARM_UP_SEEDS = range(3)
FUZZ_SEEDS = range(3, 12)
CONVERSATIONS = 120
MOST_GROWTH_KIB = 16 * 1024
"""Of the resident set after the warm-up: the log ring (1 MiB as text, more as objects) fills up, 4 MiB of buffers
are pooled, the allocator keeps some."""


@pytest.fixture
def directory() -> Iterator[Path]:
    with private_directory() as path:
        yield path


@pytest.fixture
def host(directory: Path) -> Iterator[Host]:
    with running(OURS, directory / "host", "host") as one:
        yield one


class Client:
    """An unregistered, well-behaved client with a bound on every answer."""

    def __init__(self, host: Host) -> None:
        self.path = str(host.run_dir / "sanlock.sock")

    def call(self, cmd: int, body: bytes = b"", **fields: int) -> tuple[wire.Header, bytes]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(self.path)
            sock.settimeout(REPLY_LIMIT_S)
            fields.setdefault("data2", 0)
            sock.sendall(wire.encode_request(cmd, body, **fields))
            if cmd == Command.STATUS:
                raw = b""
                while more := sock.recv(1 << 20):
                    raw += more
                return wire.decode_header(raw), raw[wire.HEADER_SIZE :]
            header = wire.decode_header(sock.recv(wire.HEADER_SIZE, socket.MSG_WAITALL))
            return header, sock.recv(header.length - wire.HEADER_SIZE, socket.MSG_WAITALL)

    def result(self, cmd: int, body: bytes = b"", **fields: int) -> int:
        return self.call(cmd, body, **fields)[0].data

    def items(self, kind: int) -> list[wire.StatusItem]:
        return [one for one in wire.decode_status_items(self.call(Command.STATUS)[1]) if one.state.type == kind]


def join(client: Client, path: Path, name: str = "LS") -> Lockspace:
    space = Lockspace(name, 1, 0, Disk(str(path)))
    # Joined quickly, because the record says 1; lost only after 80 s, so that a loaded machine does not lose it.
    assert client.result(Command.WRITE_LOCKSPACE, space.encode(), data2=1) == 0
    assert client.result(Command.ADD_LOCKSPACE, space.encode(), data=10) == 0
    return space


def many_resources(path: Path) -> Path:
    """LEASES formatted resources that take one page each: a file of 500 MiB, nearly all of it holes."""
    with path.open("wb") as file:
        file.truncate(LEASES * MIB)
        for number in range(LEASES):
            head = (PAXOS_DISK_MAGIC, PAXOS_VERSION, SMALL.align_flag, 512, 8, 2000, 0, 0, 0)
            leader = Leader._make((*head, "LS", f"R{number}", *[0] * 8))
            file.seek(number * MIB)
            file.write(leader.encode().ljust(512, b"\0") + Request().encode().ljust(512, b"\0"))
    return path


def owned(path: Path) -> list[int]:
    """Numbers of the resources whose leader has a timestamp."""
    with path.open("rb") as file:
        found = []
        for number in range(LEASES):
            file.seek(number * MIB + 152)
            if file.read(8) != bytes(8):
                found.append(number)
    return found


@contextlib.contextmanager
def crowd(host: Host, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """One `crowd_client`, killed at the end."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.fuzz.crowd_client",
            str(host.run_dir / "sanlock.sock"),
            *map(str, arguments),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env=environment(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def environment() -> dict[str, str]:
    paths = [str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")]
    return dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, paths)))


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def order(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(text + "\n")
    process.stdin.flush()


def test_five_hundred_leases_released_at_once(host: Host, directory: Path) -> None:
    """By RELEASE ALL, by lists, by the death of all their processes; 60 each, where the original crashes."""
    client = Client(host)
    join(client, new_file(directory / "space", 1))
    path = many_resources(directory / "resources")
    starts = range(0, LEASES, PER_PROCESS)
    for way in ("all", "list", "death"):
        with contextlib.ExitStack() as stack:
            holders = [
                stack.enter_context(crowd(host, "hold", path, first, min(PER_PROCESS, LEASES - first)))
                for first in starts
            ]
            assert [line_of(holder) for holder in holders] == ["holding"] * len(holders)
            assert len(owned(path)) == LEASES
            assert len(client.items(4)) == LEASES
            for holder in holders:
                if way == "death":
                    holder.kill()
                else:
                    order(holder, way)
            if way == "death":
                wait_until(lambda: not client.items(4), "all leases are released")
            else:
                assert [line_of(holder) for holder in holders] == ["released 0"] * len(holders)
                assert client.items(4) == []
            assert owned(path) == []
    assert host.process.poll() is None


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    """The soft limit of this process raised to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip(f"{hard} open files are possible here, 4096 are needed: raise the hard limit of RLIMIT_NOFILE")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_connections_than_slots(host: Host, directory: Path) -> None:
    """1022 are served, however idle; each one more is closed at once; afterwards there is room again."""
    client = Client(host)
    join(client, new_file(directory / "space", 1))
    path = many_resources(directory / "resources")
    with many_descriptors(), contextlib.ExitStack() as stack, crowd(host, "hold", path, 0, 8) as holder:
        assert line_of(holder) == "holding"

        def connect() -> socket.socket:
            # Without a time limit: a connect that must not block fails when the daemon's backlog is full.
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(client.path)
            sock.settimeout(REPLY_LIMIT_S)
            return sock

        idle = [connect() for _ in range(wire.MAX_CLIENTS - 2 - 1)]
        beyond = [connect() for _ in range(40)]
        assert [sock.recv(1) for sock in beyond] == [b""] * len(beyond)
        for sock in (idle[0], idle[-1]):
            sock.sendall(wire.encode_request(Command.VERSION))
            assert sock.recv(wire.HEADER_SIZE, socket.MSG_WAITALL) == wire.encode_version_reply()
        order(holder, "all")
        assert line_of(holder) == "released 0"
        idle.pop().close()
        wait_until(lambda: answers(client), "a slot is free again")


def answers(client: Client) -> bool:
    try:
        return client.result(Command.VERSION) == 0
    except (OSError, wire.FormatError, ValueError):
        return False
    except Exception as error:  # struct.error of an empty header: closed at once
        if type(error).__name__ != "error":
            raise
        return False


def test_a_thousand_clients_die_at_once(host: Host, directory: Path) -> None:
    """Registered and not, with requests half sent, under way, or answered and not read."""
    client = Client(host)
    join(client, new_file(directory / "space", 1))
    path = many_resources(directory / "resources")
    with many_descriptors(), crowd(host, "connections", 500, 500, path) as process:
        assert line_of(process) == "open"
        process.kill()
        process.wait()
        wait_until(lambda: not client.items(4), "all leases are released")
        # The helper, the listener, and the connection that asks.
        wait_until(lambda: len(client.items(2)) <= 3, "all slots are free")
    assert owned(path) == []
    assert host.process.poll() is None


def test_few_descriptors(directory: Path) -> None:
    """With a hard limit of 100 open files: fewer slots, errors for who comes too late, no spinning, no end."""
    limited = ("/bin/sh", "-c", 'ulimit -n 100; exec "$@"', "sh", *OURS)
    with running(limited, directory / "host", "host") as host, contextlib.ExitStack() as stack:
        client = Client(host)
        space = join(client, new_file(directory / "space", 1))
        path = many_resources(directory / "resources")
        with crowd(host, "hold", path, 0, 8) as holder:
            assert line_of(holder) == "holding"
            for number in range(120):
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                sock.connect(client.path)
                with contextlib.suppress(OSError):
                    sock.sendall(wire.encode_request(Command.REGISTER if number % 2 else Command.VERSION))
            order(holder, "list")
            assert line_of(holder) == "released 0"
        stack.close()
        wait_until(lambda: answers(client), "it serves again")
        assert client.result(Command.INQ_LOCKSPACE, space.encode()) == 0
        assert host.log().count("accept:") <= 3


def rss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError(f"no VmRSS of {pid}")


def test_hostile_processes(host: Host, directory: Path) -> None:
    """A daemon of its own process, real files, processes that it may kill; a holder and a reader beside them."""
    client = Client(host)
    good = directory / "good"
    join(client, new_file(good, 1), "LS")
    path = many_resources(directory / "resources")
    storage = new_file(directory / "storage", 8)
    prey = Lockspace("LT", 1, 0, Disk(str(storage)))
    lease = wire.resource("LS", "R9", [Disk(str(path), 9 * MIB)])
    with crowd(host, "hold", path, 0, 8) as holder:
        assert line_of(holder) == "holding"
        before = 0
        for seed in (*WARM_UP_SEEDS, *FUZZ_SEEDS):
            if seed == FUZZ_SEEDS[0]:
                before = rss_kib(host.process.pid)
            client.result(Command.WRITE_LOCKSPACE, prey.encode(), data2=1)
            client.result(Command.ADD_LOCKSPACE, prey.encode(), data=1, flags=wire.ADD_ASYNC)
            replay = f"python -m tests.fuzz.against {client.path} {storage} {seed} {CONVERSATIONS}"
            hostile = subprocess.Popen(
                [sys.executable, *replay.split()[1:]],
                cwd=REPOSITORY,
                # It may be killed: what it leaves behind goes with the test's directory.
                env=dict(environment(), TMPDIR=str(directory)),
                stderr=subprocess.PIPE,
                text=True,
            )
            try:
                while hostile.poll() is None:
                    # Served in its bound while they are at it.
                    assert client.result(Command.VERSION) == 0, replay
                    assert client.result(Command.READ_RESOURCE, lease.encode_with_disks()) == 0, replay
                    assert client.items(1), replay
                assert hostile.wait() in (0, -9, -15), (replay, hostile.communicate()[1])
            finally:
                hostile.kill()
                hostile.communicate()
            assert host.process.poll() is None, replay
            assert "unexpected" not in host.log(), replay
            assert "Traceback" not in host.log(), replay
        assert rss_kib(host.process.pid) - before < MOST_GROWTH_KIB
        order(holder, "all")
        assert line_of(holder) == "released 0"


def test_environment_leads_to_this_daemon(host: Host) -> None:
    """No test of this file can reach another daemon of the machine."""
    assert daemon_environment(host.run_dir)["SANLOCK_RUN_DIR"] == str(host.run_dir)
    assert Client(host).path.startswith(str(host.run_dir))
