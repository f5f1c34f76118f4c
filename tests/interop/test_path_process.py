"""The path daemon's process in namespaces of its own, at the host's addresses, asked by the real multipathd.

No device-mapper is needed: what maps are made of is for the guests (tests/guest).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0
NEEDED = ("multipathd", "unshare", "nsenter", "mount")
CONF = 'defaults {\n\tpolling_interval 5\n}\nblacklist {\n\tdevnode ".*"\n}\n'
"""No disk of this host is looked at."""


def what_is_missing() -> str | None:
    for program in NEEDED:
        if shutil.which(program) is None:
            return f"{program} is missing; install multipath-tools, util-linux, mount"
    probe = subprocess.run(["unshare", "-n", "-m", "true"], capture_output=True, timeout=PATIENCE_S, check=False)
    return "namespaces are not allowed here; run as root" if probe.returncode else None


@pytest.fixture(scope="module", autouse=True)
def the_original() -> None:
    """Skip, or fail in CI, without it."""
    missing = what_is_missing()
    if missing is None:
        return
    if os.environ.get("CI"):
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


class World:
    """A daemon whose /run is a directory of the test, in a network namespace of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = path / "run"
        self.run.mkdir()
        self.conf = path / "multipath.conf"
        self.conf.write_text(CONF)
        self.inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.inbox.bind(str(path / "notify"))
        self.inbox.settimeout(PATIENCE_S)
        self.log = path / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        own = ("--config", str(self.conf), "--state-dir", str(self.path / "state"), "-v", "3", *more)
        script = 'mount --bind "$1" /run && shift && exec "$@"'
        inner = (sys.executable, "-m", "holdfast", "path", "daemon", "-d", *own)
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("LISTEN_", "WATCHDOG_"))}
        clean.pop("MULTIPATH_SOCKET_NAME", None)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "-n", "-m", "sh", "-c", script, "sh", str(self.run), *inner],
                env={**clean, "PYTHONPATH": str(ROOT / "src"), "NOTIFY_SOCKET": str(self.path / "notify")},
                stdin=subprocess.DEVNULL,
                stderr=log,
            )

    def told(self, last: str) -> list[str]:
        """Messages to the service manager until this one."""
        found: list[str] = []
        while not found or found[-1] != last:
            try:
                found.append(self.inbox.recv(4096).decode().split("\n")[0])
            except TimeoutError:
                pytest.fail(f"{last} never came: {found} {self.log.read_text()}")
        return found

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A program in the daemon's namespaces."""
        assert self.process is not None
        enter = ["nsenter", "--target", str(self.process.pid), "--net", "--mount"]
        return subprocess.run(
            [*enter, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )

    def end(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        self.inbox.close()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


RELOAD = ["STATUS=configure", "RELOADING=1", "STATUS=up", "READY=1"]


def test_a_life_with_the_real_client(world: World) -> None:
    world.start()
    assert world.told("READY=1") == ["STATUS=startup", "STATUS=configure", "STATUS=up", "READY=1"]
    assert world.process is not None
    done = world.inside("multipathd", "show", "daemon")
    assert (done.returncode, done.stdout) == (0, f"pid {world.process.pid} idle\n"), world.log.read_text()
    done = world.inside("multipathd", "show", "status")
    assert done.stdout.startswith("path checker states:\n")
    assert "multipath-tools v" in world.inside("multipathd", "-knonsense").stdout
    # Both addresses: the real client uses the abstract one, ours the path first.
    ours = world.inside(sys.executable, "-m", "holdfast", "path", "show", "daemon", "--json")
    assert f'"pid": {world.process.pid}' in ours.stdout
    assert world.inside(sys.executable, "-m", "holdfast", "path", "show").stdout == "no paths\n"
    assert world.inside("multipathd", "reconfigure").stdout == "ok\n"
    assert world.told("READY=1") == RELOAD
    world.process.send_signal(signal.SIGHUP)
    assert world.told("READY=1") == RELOAD
    assert sorted(os.listdir(world.run)) == ["multipathd.pid", "multipathd.socket"]
    assert world.end() == 0, world.log.read_text()
    assert world.told("ERRNO=0") == ["STATUS=shutdown", "STOPPING=1", "ERRNO=0"]
    assert os.listdir(world.run) == []
    assert "Traceback" not in world.log.read_text()


def test_a_broken_file_at_a_reconfigure_changes_nothing(world: World) -> None:
    world.start()
    world.told("READY=1")
    world.conf.write_text('blacklist {\n\tdevnode "["\n}\n')
    assert world.inside("multipathd", "reconfigure").returncode in (0, 1)
    assert world.told("READY=1") == RELOAD
    assert "configuration not taken over" in world.log.read_text()
    assert ".*" in world.inside("multipathd", "show", "blacklist").stdout
    assert world.inside("multipathd", "shutdown").stdout == "ok\n"
    assert world.process is not None
    assert world.process.wait(PATIENCE_S) == 0


def test_the_two_daemons_keep_each_other_out(world: World) -> None:
    world.start()
    world.told("READY=1")
    # Whether it gets as far as the pid file without a device-mapper does not matter: it must not serve.
    real = world.inside("multipathd", "-d", "-s")
    assert real.returncode == 1
    assert world.inside("multipathd", "show", "daemon").stdout.startswith("pid ")
    assert world.end() == 0
