"""Lease daemons in processes of their own, to be killed and started again, and a small service manager for them.

Hosts of one test share the files in its directory. Joining does not wait for rivals; io_timeout is 1 s, so that a
lease is proven for 8 s without a daemon.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.lease.errors import Code
from holdfast.leased import wire
from holdfast.leased.wire import Command, Disk, Lockspace, Resource

PATIENCE_S = 20.0
IO_TIMEOUT = 1
ADD_ATTEMPTS = 5

DAEMON = """
import os, sys
from holdfast.lease import timing
timing.join_check_delay = lambda io: 0.01
from holdfast.leased.daemon import run_daemon
from holdfast.leased.options import DaemonOptions
if "LISTEN_FDS" in os.environ:
    os.environ["LISTEN_PID"] = str(os.getpid())
sys.exit(run_daemon(DaemonOptions(**eval(sys.argv[1]))))
"""
CHILD = """
import os, signal, socket, sys, time
from holdfast.leased import wire
path, space, restrict = sys.argv[1:4]
sock = socket.socket(socket.AF_UNIX)
sock.connect(path)
def call(cmd, body=b"", flags=0, data=0):
    sock.sendall(wire.encode_request(cmd, body, flags=flags, data=data, data2=wire.SELF_PID))
    header = wire.decode_header(sock.recv(32, socket.MSG_WAITALL))
    more = header.length - 32 if cmd == wire.Command.INQUIRE else 0
    return header.data, sock.recv(more, socket.MSG_WAITALL) if more else b""
sock.sendall(wire.encode_request(1))
if int(restrict):
    call(10, flags=int(restrict))
for line in sys.stdin:
    word, *rest = line.split()
    if word == "take":
        name, disk, flags, acquire_flags = rest
        lease = wire.resource(space, name, [wire.Disk(disk)], flags=int(flags))
        body = wire.Payload((lease,), wire.Options("child")).encode(True)
        print(call(7, body, data=1, flags=int(acquire_flags))[0], flush=True)
    elif word == "release":
        print(call(8, wire.resource(space, rest[0]).encode(), data=1)[0], flush=True)
    elif word == "lvb":
        body = wire.resource(space, rest[0]).encode() + rest[1].encode()
        print(call(wire.Command.SET_LVB, body)[0], flush=True)
    elif word == "inquire":
        print(call(wire.Command.INQUIRE)[1].rstrip(bytes(1)).decode(), flush=True)
    elif word == "half":
        sock.sendall(wire.encode_request(wire.Command.INQUIRE)[:20])
        print(0, flush=True)
    elif word == "again":
        sock.close()
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        sock.sendall(wire.encode_request(1, flags=int(len(rest) > 0), data=int(rest[0]) if rest else 0))
        print(0, flush=True)
    elif word == "eof":
        try:
            print(len(sock.recv(1)), flush=True)
        except ConnectionResetError:
            print(0, flush=True)
    elif word == "fork":
        # One that inherits the socket, or one that closes it; in a session of its own, so that nobody is like it.
        gate = os.pipe()
        heir = os.fork()
        if not heir:
            for fd in (0, 1):
                os.close(fd)
            os.setsid()
            if rest == ["without"]:
                sock.close()
            os.write(gate[1], b".")
            while True:
                signal.pause()
        os.read(gate[0], 1)
        for fd in gate:
            os.close(fd)
        print(heir, flush=True)
    elif word == "close":
        sock.close()
        print(0, flush=True)
"""
"""A process that registers and does what is written to it, line by line."""


def until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Holder:
    """A client process."""

    def __init__(self, host: Host, space: str, restrict: int) -> None:
        self.host = host
        arguments = [str(host.socket_path), space, str(restrict)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.children: list[int] = []

    @property
    def pid(self) -> int:
        return self.process.pid

    def say(self, *words: object) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
        assert ready, words
        return self.process.stdout.readline().decode().rstrip("\n")

    def fork(self, *how: str) -> int:
        """The pid of a child that has inherited the socket, or `without`."""
        child = int(self.say("fork", *how))
        self.children.append(os.pidfd_open(child))
        return child

    def take(self, name: str, flags: int = 0, acquire_flags: int = 0) -> int:
        return int(self.say("take", name, self.host.file(f"R{name}"), flags, acquire_flags))

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)

    def kill_children(self) -> None:
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(child, signal.SIGKILL)
            select.select([child], [], [], PATIENCE_S)
            os.close(child)
        self.children.clear()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@dataclass
class Host:
    """One host: a run directory, a daemon now and then, and its clients."""

    directory: Path
    host_id: int = 1
    options: dict[str, object] = field(default_factory=dict)
    manager: Manager | None = None
    daemon: subprocess.Popen[bytes] | None = None
    holders: list[Holder] = field(default_factory=list)

    @property
    def run_dir(self) -> Path:
        return self.directory / f"run{self.host_id}"

    @property
    def socket_path(self) -> Path:
        return self.run_dir / "sanlock.sock"

    @property
    def record(self) -> Path:
        return self.run_dir / "holdfast.record"

    def start(self, **options: object) -> None:
        settings: dict[str, object] = {
            "run_dir": str(self.run_dir),
            "host_name": f"host{self.host_id}",
            "use_watchdog": False,
            "fire_timeout_s": 10,
            "mlock_level": 0,
            "logfile": str(self.directory / f"log{self.host_id}"),
            **self.options,
            **options,
        }
        command = [sys.executable, "-c", DAEMON, repr(settings)]
        if self.manager is not None:
            self.daemon = self.manager.start(command)
        else:
            self.daemon = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        until(self._answers)

    def _answers(self) -> bool:
        assert self.daemon is not None
        assert self.daemon.poll() is None, self.log()
        try:
            return self.ask(Command.VERSION, patience_s=1.0)[0].data == 0
        except OSError:
            return False

    def log(self) -> str:
        path = self.directory / f"log{self.host_id}"
        return path.read_text() if path.exists() else ""

    def end(self, number: int = signal.SIGKILL) -> int:
        assert self.daemon is not None
        self.daemon.send_signal(number)
        return self.daemon.wait(PATIENCE_S)

    def quiet(self) -> None:
        """Return when everybody is answered, also as far as a successor can know (a moment after the answer)."""
        marks = self.run_dir / "holdfast.busy"
        until(lambda: not marks.exists() or 1 not in marks.read_bytes())

    def restart(self, **options: object) -> None:
        self.end()
        self.start(**options)

    def ask(
        self, cmd: int, payload: bytes = b"", patience_s: float = PATIENCE_S, **fields: int
    ) -> tuple[wire.Header, bytes]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(patience_s)
            sock.connect(str(self.socket_path))
            fields.setdefault("data2", 0)
            sock.sendall(wire.encode_request(cmd, payload, **fields))
            header = wire.decode_header(sock.recv(32, socket.MSG_WAITALL))
            body = b""
            if cmd == Command.STATUS:
                while part := sock.recv(65536):
                    body += part
            elif cmd == Command.INQUIRE:
                body = sock.recv(header.length - 32, socket.MSG_WAITALL) if header.length > 32 else b""
            return header, body

    def call(self, cmd: int, payload: bytes = b"", **fields: int) -> int:
        return self.ask(cmd, payload, **fields)[0].data

    def file(self, name: str, size: int = 1 << 20) -> str:
        path = self.directory / name
        if not path.exists():
            with path.open("wb") as file:
                file.truncate(size)
        return str(path)

    @property
    def space(self) -> Lockspace:
        return Lockspace("LS", self.host_id, 0, Disk(self.file("LS")))

    def lease(self, name: str) -> Resource:
        return wire.resource("LS", name, [Disk(self.file(f"R{name}"))])

    def format(self, *names: str) -> None:
        assert self.call(Command.WRITE_LOCKSPACE, self.space.encode(), data2=IO_TIMEOUT) == 0
        for name in names:
            assert self.call(Command.WRITE_RESOURCE, self.lease(name).encode_with_disks()) == 0

    def add(self) -> int:
        """Join; again when the disk of a loaded machine took longer than the io timeout of one second."""
        for _ in range(ADD_ATTEMPTS):
            result = self.call(Command.ADD_LOCKSPACE, self.space.encode(), data=IO_TIMEOUT)
            if result != Code.AIO_TIMEOUT:
                break
        return result

    def holder(self, restrict: int = 0) -> Holder:
        made = Holder(self, "LS", restrict)
        self.holders.append(made)
        return made

    def status(self) -> list[wire.StatusItem]:
        return wire.decode_status_items(self.ask(Command.STATUS)[1])

    def leases(self) -> dict[str, tuple[str, int, int]]:
        """Name to list, pid and lver."""
        return {
            item.state.name: (wire.parse_pairs(item.state.text)["list"], item.state.data32, item.state.data64)
            for item in self.status()
            if item.resource is not None
        }

    def listed(self, name: str) -> str:
        return self.leases().get(name, ("", 0, 0))[0]

    def token(self, name: str) -> int:
        found = [item for item in self.status() if item.resource is not None and item.state.name == name]
        return int(wire.parse_pairs(found[0].state.text)["token_id"])

    def generation(self) -> int:
        for item in self.status():
            if item.lockspace is not None:
                return int(wire.parse_pairs(item.state.text)["host_generation"])
        return 0

    def clients(self) -> list[tuple[int, int]]:
        """pid and fd of the registered ones."""
        return [
            (item.state.data32, int(wire.parse_pairs(item.state.text)["fd"]))
            for item in self.status()
            if item.state.type == wire.STATE_CLIENT and item.state.data32 not in (0, 0xFFFFFFFF)
        ]

    def inquire(self, pid: int) -> tuple[int, str]:
        header, body = self.ask(Command.INQUIRE, data2=pid)
        return header.data, body.rstrip(b"\0").decode()

    def release_for(self, pid: int, name: str) -> int:
        return self.call(Command.RELEASE, self.lease(name).encode(), data=1, data2=pid)

    def close(self) -> None:
        for holder in self.holders:
            holder.kill()
            holder.kill_children()
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()


class Manager:
    """Keeps descriptors and messages of one service: the part of a service manager that matters here."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self.messages: list[str] = []
        self.store: list[tuple[str, int]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._lock = threading.Lock()
        self._end, self._ended = os.pipe()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self.environ = {"WATCHDOG_USEC": "1000000"}

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        """The service with everything that is in the store."""
        environ = {**os.environ, **self.environ, "NOTIFY_SOCKET": str(self.path), "FDSTORE": "100"}
        with self._lock:
            copies = [(name, os.dup(fd)) for name, fd in self.store]
        if copies:
            environ["LISTEN_FDS"] = str(len(copies))
            environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in copies)
        high = [os.dup2(fd, 200 + index) for index, (_, fd) in enumerate(copies)]

        def arrange() -> None:
            for index, fd in enumerate(high):
                os.dup2(fd, 3 + index)

        try:
            return subprocess.Popen(
                command,
                env=environ,
                stderr=subprocess.DEVNULL,
                preexec_fn=arrange,
                pass_fds=tuple(range(3, 3 + len(copies))),
            )
        finally:
            for fd in (*high, *(fd for _, fd in copies)):
                os.close(fd)

    def names(self) -> list[str]:
        with self._lock:
            return sorted(name.split("-")[0] for name, _ in self.store)

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([self._socket.fileno(), self._end], [], [])
            if self._end in ready:
                return
            self._take()

    def _take(self) -> None:
        raw, ancillary, _, _ = self._socket.recvmsg(8192, socket.CMSG_SPACE(64 * 4))
        fds = array.array("i")
        for _, _, data in ancillary:
            fds.frombytes(data)
        lines = raw.decode().split("\n")
        name = next((line[7:] for line in lines if line.startswith("FDNAME=")), "stored")
        with self._lock:
            self.messages.append(raw.decode())
            if "FDSTORE=1" in lines:
                self.store += [(name, fd) for fd in fds]
                return
            for fd in fds:
                os.close(fd)
            if "FDSTOREREMOVE=1" in lines:
                for entry in [entry for entry in self.store if entry[0] == name]:
                    self.store.remove(entry)
                    os.close(entry[1])

    def close(self) -> None:
        os.close(self._ended)
        self._thread.join()
        os.close(self._end)
        self._socket.close()
        for _, fd in self.store:
            os.close(fd)


@contextlib.contextmanager
def hosts(directory: Path, *made: Host) -> Iterator[None]:
    """Nothing of them is left afterwards; pytest shows their logs when the test fails."""
    try:
        yield
    finally:
        # Always: a fixture is not told that its test has failed.
        for host in made:
            print(f"--- host {host.host_id}\n{host.log()}")
            if host.record.exists():
                print(host.record.read_text())
        for host in made:
            host.close()
            if host.manager is not None:
                host.manager.close()
