"""Hosts for interop tests: the real sanlock daemon or Holdfast's, each in a run directory of its own.

Both are driven by the same real clients: the `sanlock` command line and python3-sanlock under Debian's Python.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

START_LIMIT_S: Final = 15.0
STOP_LIMIT_S: Final = 10.0
CALL_LIMIT_S: Final = 60.0
DEBIAN_PYTHON: Final = "/usr/bin/python3"

REAL: Final = ("sanlock", "daemon", "-D", "-w", "0", "-h", "0", "-l", "0", "-e", "{host_name}")
OURS: Final = (
    *(sys.executable, "-c", "from holdfast.cli.main import main; raise SystemExit(main())"),
    *("lease", "daemon", "--foreground", "--no-watchdog", "--run-dir", "{run_dir}", "--host-name", "{host_name}"),
)


def what_is_missing() -> str | None:
    """What these tests need and this machine has not, and how to get it; None when all is there."""
    if shutil.which("sanlock", path=search_path()) is None:
        return "the real sanlock is missing: apt-get install sanlock"
    if not Path(DEBIAN_PYTHON).exists():
        return f"{DEBIAN_PYTHON} is missing: apt-get install python3"
    # -I, here and in start_script: not our module of the same name, should PYTHONPATH lead to it.
    probe = subprocess.run([DEBIAN_PYTHON, "-I", "-c", "import sanlock"], capture_output=True, check=False)
    if probe.returncode != 0:
        return "the real client library's Python binding is missing: apt-get install python3-sanlock"
    return None


def search_path() -> str:
    """PATH with the directories of system programs, which users often lack."""
    return os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"


@dataclass(frozen=True)
class Answer:
    """What a command line program said."""

    status: int
    output: str


@dataclass
class Host:
    """One running lease daemon."""

    name: str
    directory: Path
    process: subprocess.Popen[bytes]
    holders: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def run_dir(self) -> Path:
        """Where its socket lies."""
        return self.directory / "run"

    @property
    def environment(self) -> dict[str, str]:
        """The environment that leads clients to this daemon."""
        return daemon_environment(self.run_dir)

    def cli(self, *arguments: str, limit_s: float = CALL_LIMIT_S) -> Answer:
        """Run `sanlock ARGUMENTS` against this daemon; output is stdout and stderr together."""
        done = subprocess.run(
            ["sanlock", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment,
            timeout=limit_s,
            check=False,
        )
        return Answer(done.returncode, done.stdout.decode(errors="backslashreplace"))

    def start_script(self, script: Path, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a script that uses python3-sanlock against this daemon; killed with the host at the latest."""
        process = subprocess.Popen(
            [DEBIAN_PYTHON, "-I", str(script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment,
        )
        self.holders.append(process)
        return process

    def hold(self, *resources: str, shared: bool = False) -> subprocess.Popen[bytes]:
        """A process that holds `resources` (command line syntax) until it is killed; returns once it has them.

        It is `sanlock client command ... -c sleep`: registered, acquired, then executed in the same process.
        """
        wanted = [part for resource in resources for part in ("-r", resource + (":SH" if shared else ""))]
        process = subprocess.Popen(
            ["sanlock", "client", "command", *wanted, "-c", "/bin/sleep", "1000"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment,
        )
        self.holders.append(process)

        def executes_sleep() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"{self.name}: could not acquire {resources}: {_rest(process)}")
            return Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n"

        wait_until(executes_sleep, f"{self.name} acquires {resources}")
        return process

    def is_live(self, space: str, host_id: int) -> bool:
        """Whether this daemon reports `host_id` of lockspace `space` as LIVE."""
        inside = False
        for line in self.cli("client", "gets", "-h", "1").output.splitlines():
            if line.startswith("s "):
                inside = line.startswith(f"s {space}:")
            elif inside and line.startswith(f"h {host_id} ") and line.rstrip().endswith(" LIVE"):
                return True
        return False

    def kill(self) -> None:
        """SIGKILL the daemon and all clients started here."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for process in self.holders:
            process.kill()
        for process in (self.process, *self.holders):
            process.wait(STOP_LIMIT_S)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
        self.holders.clear()

    def log(self) -> str:
        """What the daemon has logged."""
        return (self.directory / "log").read_text(errors="replace")


def _rest(process: subprocess.Popen[bytes]) -> str:
    return process.stdout.read().decode(errors="replace") if process.stdout else ""


def daemon_environment(run_dir: Path) -> dict[str, str]:
    """The environment of a daemon and of its clients."""
    # SANLOCK_PRIVILEGED=0: containers often lack CAP_SYS_RESOURCE, without which the original does not start.
    return dict(
        os.environ, SANLOCK_RUN_DIR=str(run_dir), SANLOCK_PRIVILEGED="0", PATH=search_path(), LC_ALL="C.UTF-8"
    )


def start_process(command: tuple[str, ...], directory: Path, host_name: str) -> subprocess.Popen[bytes]:
    """Start a daemon in the foreground with its log in `directory`; does not wait for anything."""
    run_dir = directory / "run"
    run_dir.mkdir(parents=True, exist_ok=True)
    filled = [part.format(run_dir=run_dir, host_name=host_name) for part in command]
    with (directory / "log").open("ab") as log:
        return subprocess.Popen(
            filled,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=daemon_environment(run_dir),
            start_new_session=True,
        )


@contextlib.contextmanager
def running(command: tuple[str, ...], directory: Path, host_name: str) -> Iterator[Host]:
    """A daemon that answers on its socket; killed with its clients at the end of the block."""
    host = Host(host_name, directory, start_process(command, directory, host_name))
    try:

        def answers() -> bool:
            if host.process.poll() is not None:
                raise AssertionError(f"{host_name} ended with {host.process.returncode}:\n{host.log()[-3000:]}")
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(str(host.run_dir / "sanlock.sock")) == 0

        wait_until(answers, f"{host_name} answers", START_LIMIT_S)
        yield host
    finally:
        host.kill()


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = CALL_LIMIT_S) -> None:
    """Return once `condition` holds; AssertionError with `what` after the limit."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"still not after {limit_s:g} s: {what}")
        time.sleep(0.05)


def new_file(path: Path, mebibytes: int) -> Path:
    """A file of zeros."""
    with path.open("wb") as file:
        file.truncate(mebibytes << 20)
    return path
