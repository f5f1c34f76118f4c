"""The path daemon as a process around a core that does nothing: start, signals, end (spec path 5, 14)."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.path.control.client import Connection
from holdfast.path.control.wire import encode

PATIENCE_S = 60.0
SILENCE_S = 0.3
"""Thirty times as long as between two pings of that test: then none comes any more."""
ROOT = Path(__file__).parents[2]


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


ACTIVATE = """
import fcntl, os, sys
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(",")]
for number, fd in enumerate(high):
    os.dup2(fd, 3 + number)
    os.close(fd)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(high)))
os.execv(sys.argv[2], sys.argv[2:])
"""
"""As the service manager: descriptors from 3 on, for this process."""


class Daemon:
    """One in a directory of its own, told to the notify socket there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.process: subprocess.Popen[str] | None = None
        self.inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.inbox.bind(str(path / "notify"))
        self.inbox.settimeout(PATIENCE_S)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("LISTEN_", "WATCHDOG_"))},
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
            "NOTIFY_SOCKET": str(path / "notify"),
        }

    @property
    def socket_path(self) -> str:
        return str(self.path / "multipathd.socket")

    def command(self, *more: str) -> list[str]:
        config = self.path / "multipath.conf"
        if not config.exists():
            config.write_text("defaults {\n}\n")
        own = ("--run-dir", str(self.path), "--config", str(config), "--state-dir", str(self.path))
        return [sys.executable, "-m", "tests.unit.path_process_main", *own, *more]

    def start(self, *more: str, scene: str = "", fds: tuple[int, ...] = (), **environment: str) -> None:
        before = (sys.executable, "-c", ACTIVATE, ",".join(map(str, fds))) if fds else ()
        self.process = subprocess.Popen(
            [*before, *self.command("-d", *more)],
            env={**self.environment, "SCENE": scene, **environment},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=fds,
        )

    def message(self, *skipped: str) -> str:
        """The next one, which is not one of these."""
        while (text := self.inbox.recv(4096).decode()) in skipped:
            pass
        return text

    def messages_to(self, last: str) -> list[str]:
        """Until this one has come; pings left out."""
        found: list[str] = []
        while not found or found[-1] != last:
            found.append(self.message("WATCHDOG=1").split("\n")[0])
        return found

    def ask(self, command: str) -> str:
        with Connection([self.socket_path], PATIENCE_S) as connection:
            return connection.ask(command)

    def end(self, number: int | None = signal.SIGTERM) -> tuple[int, str]:
        """Exit status and log."""
        assert self.process is not None
        if number is not None:
            self.process.send_signal(number)
        _, log = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, log

    def close(self) -> None:
        self.inbox.close()
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.process.communicate()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path)
    yield made
    made.close()


START = ["STATUS=startup", "STATUS=configure", "STATUS=up", "READY=1"]
END = ["STATUS=shutdown", "STOPPING=1", "ERRNO=0"]
RELOAD = ["STATUS=configure", "RELOADING=1", "STATUS=up", "READY=1"]


def left_behind(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.name not in ("multipath.conf", "notify"))


def test_a_whole_life(daemon: Daemon) -> None:
    daemon.start()
    assert daemon.messages_to("READY=1") == START
    assert daemon.process is not None
    pid = daemon.process.pid
    assert daemon.ask("show daemon") in (f"pid {pid} idle\n", f"pid {pid} running\n")
    assert (daemon.path / "multipathd.pid").read_text() == f"{pid}\n"
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.messages_to("READY=1") == RELOAD
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
        daemon.process.send_signal(number)
    assert daemon.ask("reconfigure") == "ok\n"
    assert daemon.messages_to("READY=1") == RELOAD
    status, log = daemon.end()
    assert status == 0, log
    assert daemon.messages_to("ERRNO=0") == END
    assert "stopped" in log
    assert left_behind(daemon.path) == []


@pytest.mark.parametrize(
    ("words", "by_frame", "syntax"),
    [
        ((), b"fail\n\0device not found\n\0", "fail\nbogus: not found\n"),
        (("--as", "0.14.3"), b"fail\ndevice not found\n\0", "fail\nbogus: not found\n"),
        (("--as", "0.9.4"), b"fail\n\0", "bogus: not found\n"),
    ],
)
def test_whose_words_replies_have(daemon: Daemon, words: tuple[str, ...], by_frame: bytes, syntax: str) -> None:
    daemon.start(*words)
    daemon.messages_to("READY=1")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(daemon.socket_path)
        client.sendall(encode(b"fail path nobody"))
        assert client.recv(4096)[8:] == by_frame
    assert daemon.ask("bogus").startswith(syntax)
    assert daemon.end()[0] == 0


def test_a_reconfigure_applies_what_is_the_process_own(daemon: Daemon) -> None:
    config = daemon.path / "multipath.conf"
    config.write_text("defaults {\nmax_fds 2048\n}\n")
    daemon.start()
    daemon.messages_to("READY=1")
    assert daemon.process is not None
    for text in (
        "verbosity 3\nuxsock_timeout 9000\nmax_fds 4096\n",
        "verbosity 3\nuxsock_timeout 9000\nmax_fds 1024\n",
        "verbosity 0\nuxsock_timeout 9000\nmax_fds 1024\n",
        "verbosity 0\nuxsock_timeout 5000\nmax_fds 8192\n",
    ):
        config.write_text(f"defaults {{\n{text}}}\n")
        assert daemon.ask("reconfigure") == "ok\n"
        limits = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
        assert limits[0] == (8192 if "8192" in text else 4096)
    status, log = daemon.end()
    assert status == 0
    said = [line.partition("]: ")[2] for line in log.splitlines() if "max_fds" in line or "verbos" in line]
    assert said == [
        "verbosity: 3 now",
        "max_fds: 4096 descriptors now",
        "max_fds 1024 holds when the daemon is started again, until then 4096",
        "verbosity: 0 now",
    ]
    assert "uxsock_timeout: clients wait 9 s now, not 4 s" in log
    assert "now, not 9 s" not in log


def test_shutdown_over_the_socket(daemon: Daemon) -> None:
    daemon.start()
    daemon.messages_to("READY=1")
    assert daemon.ask("shutdown") == "ok\n"
    assert daemon.messages_to("ERRNO=0") == END
    assert daemon.end(None)[0] == 0


def test_a_second_daemon_is_kept_out(daemon: Daemon) -> None:
    daemon.start()
    daemon.messages_to("READY=1")
    again = subprocess.run(
        daemon.command("-d"), env=daemon.environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert again.returncode == 1
    assert "runs already: stop it first" in again.stderr
    assert daemon.messages_to("ERRNO=1") == ["STATUS=startup", "ERRNO=1"]
    # The first one has lost nothing by it.
    assert daemon.ask("show daemon").startswith("pid ")
    assert daemon.end()[0] == 0


@pytest.mark.parametrize("scene", ["refuses", "broken configuration", "no configuration"])
def test_starts_that_would_fail_again_exit_with_1(daemon: Daemon, scene: str) -> None:
    if scene == "broken configuration":
        (daemon.path / "multipath.conf").write_text('blacklist {\n\tdevnode "["\n}\n')
    elif scene == "no configuration":
        daemon.command()
    daemon.start(*(["--config", str(daemon.path / "none")] if scene == "no configuration" else []), scene=scene)
    status, log = daemon.end(None)
    assert status == 1, log
    assert daemon.messages_to("ERRNO=1")[-1] == "ERRNO=1"
    assert left_behind(daemon.path) == []


def test_a_defect_is_worth_another_start(daemon: Daemon) -> None:
    daemon.start(scene="defect")
    status, log = daemon.end(None)
    assert status == 70
    assert "a defect" in log
    assert daemon.messages_to("ERRNO=70")[-3:] == ["STATUS=shutdown", "STOPPING=1", "ERRNO=70"]
    assert left_behind(daemon.path) == []


def test_an_end_in_the_middle_of_the_start(daemon: Daemon) -> None:
    daemon.start(scene="starts for ever")
    assert daemon.messages_to("STATUS=configure") == START[:2]
    assert daemon.ask("show daemon").endswith("configure\n")
    assert daemon.end()[0] == 0
    assert daemon.messages_to("ERRNO=0") == END


def test_storage_that_hangs_does_not_keep_it(daemon: Daemon) -> None:
    daemon.start(scene="never stops")
    daemon.messages_to("READY=1")
    status, log = daemon.end()
    assert status == 0
    assert "left behind" in log
    assert daemon.messages_to("ERRNO=0") == END


def test_in_the_background_the_command_returns_when_it_serves(daemon: Daemon) -> None:
    done = subprocess.run(daemon.command(), env=daemon.environment, capture_output=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    pid = int((daemon.path / "multipathd.pid").read_text())
    try:
        assert daemon.ask("show daemon").startswith(f"pid {pid} ")
    finally:
        os.kill(pid, signal.SIGTERM)
        daemon.messages_to("ERRNO=0")
        wait_for(lambda: left_behind(daemon.path) == [], "it does not leave")


@pytest.mark.parametrize("count", [1, 2])
def test_socket_activation(daemon: Daemon, count: int) -> None:
    paths = [str(daemon.path / f"activated{number}") for number in range(count)]
    listeners = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in paths]
    for path, listener in zip(paths, listeners, strict=True):
        listener.bind(path)
        listener.listen(8)
    # Whoever connects before it runs is answered as well.
    with Connection(paths[:1], PATIENCE_S) as early:
        daemon.start(fds=tuple(listener.fileno() for listener in listeners))
        assert early.ask("show daemon").startswith("pid ")
    for path in paths:
        with Connection([path], PATIENCE_S) as connection:
            assert connection.ask("show daemon").startswith("pid ")
    assert not os.path.exists(daemon.socket_path)
    assert daemon.end()[0] == 0
    # They are the manager's: the next call starts the daemon again.
    assert all(os.path.exists(path) for path in paths)
    for listener in listeners:
        listener.close()


def test_pings_end_when_the_loop_stands_still(daemon: Daemon) -> None:
    daemon.start(WATCHDOG_USEC="20000")
    daemon.messages_to("READY=1")
    assert daemon.message() == "WATCHDOG=1"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(daemon.socket_path)
        client.sendall(encode(b"fail path block"))
        last = None
        for _ in range(1000):
            if not select.select([daemon.inbox], [], [], SILENCE_S)[0]:
                break
            last = daemon.inbox.recv(64)
        else:
            pytest.fail("pings of a loop that stands still")
    assert last in (b"WATCHDOG=1", None)
    assert daemon.process is not None
    assert daemon.process.poll() is None


def test_a_watchdog_for_somebody_else(daemon: Daemon) -> None:
    daemon.start(WATCHDOG_USEC="1000", WATCHDOG_PID="1")
    daemon.messages_to("READY=1")
    assert daemon.ask("reconfigure") == "ok\n"
    assert daemon.message().startswith("STATUS=configure")
    assert daemon.end()[0] == 0
