"""The watchdog daemon as a process, without any device, and hostile clients (spec watchdog 3.2 to 3.5, 8)."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.observe.flight import read
from holdfast.watchdog import asking, wire
from holdfast.watchdog.control import Ask, ControlError, ask
from holdfast.watchdog.wire import MESSAGE_SIZE, Command, Message

PATIENCE_S = 60.0
SOURCE = str(Path(__file__).parents[2] / "src")


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


class Daemon:
    """A daemon in its own directory; its device is a file that is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket_path = str(path / "run" / "wdmd.sock")
        self.process: subprocess.Popen[bytes] | None = None
        self.log = path / "log"

    def command(self, *more: str) -> list[str]:
        own = ("--run-dir", str(self.path / "run"), "--marker", str(self.path / "marker"))
        recorder = ("--recorder", str(self.path / "w.ring"))
        device = ("--device", str(self.path / "no-device"), "--systemd-settings", "no", "-G", "root")
        return [sys.executable, "-m", "holdfast", "watchdog", "daemon", *own, *recorder, *device, *more]

    def start(self, *more: str) -> None:
        with open(self.log, "ab") as file:
            self.process = subprocess.Popen(
                self.command("-D", *more), stderr=file, stdin=subprocess.DEVNULL, env=environment()
            )
        wait_for(self.serves, f"no daemon: {self.text()}")

    def serves(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.text()
        try:
            asking.status(self.socket_path)
        except OSError:
            return False
        return True

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # Blocking: with a timeout a full queue of connections is an error at once.
        sock.connect(self.socket_path)
        sock.settimeout(PATIENCE_S)
        return sock

    def dump_has(self, text: str) -> bool:
        return text in asking.dump(self.socket_path)

    def end(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": SOURCE}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path)
    try:
        yield made
    finally:
        made.kill()


def call(sock: socket.socket, message: Message) -> Message:
    sock.sendall(wire.encode(message))
    raw = b""
    while len(raw) < MESSAGE_SIZE:
        data = sock.recv(MESSAGE_SIZE - len(raw))
        assert data
        raw += data
    return wire.decode(raw)


def test_without_a_device_everybody_is_told(daemon: Daemon) -> None:
    daemon.start()
    with daemon.connect() as sock:
        assert call(sock, Message(Command.OPEN_WATCHDOG, fire_timeout=60)).fire_timeout == 0
        assert call(sock, Message(Command.STATUS, "kept")).name == "kept"
    status = ask(str(daemon.path / "run" / "holdfast-watchdog.sock"), Ask("status"))
    assert (status["phase"], status["device"]) == ("disarmed", None)
    with pytest.raises(ControlError, match="no watchdog device"):
        ask(str(daemon.path / "run" / "holdfast-watchdog.sock"), Ask("handover", "reboot"))
    with pytest.raises(ControlError, match="unknown"):
        ask(str(daemon.path / "run" / "holdfast-watchdog.sock"), Ask("explode"))
    assert daemon.end() == 0
    assert not (daemon.path / "marker").exists()
    assert [record.kind for record in read(str(daemon.path / "w.ring")).records] == ["start", "stop"]


def test_the_command_returns_when_it_serves(daemon: Daemon) -> None:
    done = subprocess.run(daemon.command(), env=environment(), capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    pid = int((daemon.path / "run" / "wdmd.pid").read_text())
    try:
        assert asking.status(daemon.socket_path).fire_timeout == 60
        again = subprocess.run(
            daemon.command(), env=environment(), capture_output=True, text=True, timeout=PATIENCE_S
        )
        assert again.returncode == 1
        assert "another watchdog daemon runs" in again.stderr
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not (daemon.path / "run" / "wdmd.pid").exists(), "it does not leave")


def test_a_partial_message_holds_nobody(daemon: Daemon) -> None:
    daemon.start()
    whole = wire.encode(Message(Command.REGISTER, "slow"))
    with daemon.connect() as slow, daemon.connect() as other:
        for at in range(0, MESSAGE_SIZE - 1, 25):
            slow.sendall(whole[at : min(at + 25, MESSAGE_SIZE - 1)])
            assert call(other, Message(Command.STATUS)).fire_timeout == 60
        assert not daemon.dump_has("name slow")
        slow.sendall(whole[-1:])
        wait_for(lambda: daemon.dump_has("name slow"), "the message is whole")


def test_garbage_and_half_messages_at_the_end(daemon: Daemon) -> None:
    daemon.start()
    rng = random.Random(7)
    for _ in range(50):
        with daemon.connect() as sock:
            junk = bytearray(rng.randbytes(rng.randrange(1, 3 * MESSAGE_SIZE)))
            for at in range(0, len(junk) - 8, MESSAGE_SIZE):
                # Not a command that arms: that is another test.
                junk[at + 4 : at + 8] = rng.choice((0, 1, 3, 8, 99, 1 << 31)).to_bytes(4, "little")
            sock.sendall(junk)
    wait_for(lambda: asking.dump(daemon.socket_path).count("client ") == 3, "connections are left")
    for request in (b"\n", b"{}\n", b"[1]\n", b'{"ask": 5}\n', b"x" * 100_000, b'{"ask":"status"}'):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE_S)
            sock.connect(str(daemon.path / "run" / "holdfast-watchdog.sock"))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(request)
                sock.shutdown(socket.SHUT_WR)
                sock.recv(65536)
    assert daemon.serves()
    assert daemon.end() == 0


def test_a_thousand_connections(daemon: Daemon) -> None:
    daemon.start()
    with contextlib.ExitStack() as stack:
        many = [stack.enter_context(daemon.connect()) for _ in range(1000)]
        for number in (0, 500, 999):
            assert call(many[number], Message(Command.STATUS)).fire_timeout == 60
        # Beyond the limit: closed at once, the others stay.
        more = [stack.enter_context(daemon.connect()) for _ in range(100)]
        assert sum(_is_closed(sock) for sock in more[-50:]) == 50
        assert call(many[1], Message(Command.STATUS)).fire_timeout == 60
    wait_for(lambda: asking.dump(daemon.socket_path).count("client ") == 3, "connections are left")


def _is_closed(sock: socket.socket) -> bool:
    try:
        sock.sendall(wire.encode(Message(Command.STATUS)))
        return sock.recv(1) == b""
    except OSError as error:
        return error.errno in (errno.EPIPE, errno.ECONNRESET)


def test_a_client_that_does_not_read_holds_nobody(daemon: Daemon) -> None:
    daemon.start()
    with daemon.connect() as deaf:
        deaf.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                deaf.send(wire.encode(Message(Command.STATUS)))
        assert daemon.serves()
        assert not daemon.dump_has("dead 1")


def test_sigterm_is_ignored_while_somebody_relies_on_it(daemon: Daemon) -> None:
    daemon.start()
    assert daemon.process is not None
    with daemon.connect() as sock:
        sock.sendall(wire.encode(Message(Command.REGISTER, "me")) + wire.encode(Message(Command.REFCOUNT_SET)))
        wait_for(lambda: daemon.dump_has("ref 1"), "not registered")
        daemon.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "SIGTERM ignored" in daemon.text(), "SIGTERM is not mentioned")
        assert daemon.serves()
        sock.sendall(wire.encode(Message(Command.REFCOUNT_CLEAR)))
        wait_for(lambda: not daemon.dump_has("ref 1"), "not cleared")
    assert daemon.end() == 0


def test_a_successor_keeps_the_expiries(daemon: Daemon) -> None:
    daemon.start()
    expire = int(time.monotonic()) + 1000
    with daemon.connect() as sock:
        sock.sendall(wire.encode(Message(Command.REGISTER, "sanlock_LS:1")))
        sock.sendall(wire.encode(Message(Command.TEST_LIVE, renewal=1, expire=expire)))
        wait_for(lambda: daemon.dump_has(f"expire {expire}"), "no expiry")
        daemon.kill()
        daemon.start()
        assert daemon.dump_has(f"dead 1 ref 0 now {int(time.monotonic())}"[:12])
        assert daemon.dump_has(f"expire {expire}")
        # The same process comes back for it.
        with daemon.connect() as again:
            again.sendall(wire.encode(Message(Command.REGISTER, "sanlock_LS:1")))
            again.sendall(wire.encode(Message(Command.TEST_LIVE)))
            wait_for(lambda: not daemon.dump_has(f"expire {expire}"), "it stays")
    assert daemon.end() == 0


def test_a_wdmd_that_crashed_is_respected(daemon: Daemon) -> None:
    (daemon.path / "marker").touch()
    done = subprocess.run(
        daemon.command("-D"), env=environment(), capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 1
    assert "is not ours" in done.stderr
    assert (daemon.path / "marker").exists()


def test_sighup_finds_new_scripts(daemon: Daemon) -> None:
    (daemon.path / "d").mkdir()
    daemon.start("-S", "1", "-s", str(daemon.path / "d"))
    assert daemon.process is not None
    script = daemon.path / "d" / "check"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: daemon.dump_has("script 0 name check"), "not found")
    assert daemon.end() == 0
