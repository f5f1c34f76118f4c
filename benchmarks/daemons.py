"""Start and stop the two daemons under comparison, each with a run directory of its own."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.wire import BenchmarkError, Connection

START_LIMIT_S = 15.0
STOP_LIMIT_S = 15.0
POLL_S = 0.002


@dataclass(frozen=True)
class Program:
    """A daemon that can be started: `command` may hold {run_dir} and {host_name}."""

    name: str
    command: tuple[str, ...]


# Neither daemon gets a watchdog or real-time priority; both lock their memory, as they do in service. The original
# runs in the background, because in the foreground (-D) it writes every debug message, which would be unfair.
SANLOCK = Program(
    "sanlock",
    ("sanlock", "daemon", "-w", "0", "-h", "0", "-l", "1", "-L", "-1", "-S", "-1", "-e", "{host_name}"),
)
CLI = "from holdfast.cli.main import main; raise SystemExit(main())"
_SETTINGS = "--foreground --log-level 4 --no-watchdog --mlock-level 1 --run-dir {run_dir} --host-name {host_name}"
HOLDFAST = Program("holdfast", (sys.executable, "-c", CLI, "lease", "daemon", *_SETTINGS.split()))


@dataclass(frozen=True)
class Daemon:
    """A running daemon."""

    program: Program
    pid: int
    socket: Path
    log: Path
    start_s: float
    """From its start until its socket answered."""


def with_bytecode() -> dict[str, str]:
    """Our environment, but Python may keep bytecode on disk, as that of an installed program is.

    Without it every start would measure the compiler.
    """
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@contextlib.contextmanager
def running(program: Program, directory: Path, host_name: str) -> Iterator[Daemon]:
    """Run `program` until the end of the block; its socket, pid file and log lie in `directory`.

    At the end it is killed, whatever it does: nothing of value is on its disks.
    """
    run_dir = directory / "run"
    run_dir.mkdir(parents=True)
    log = directory / "log"
    command = [part.format(run_dir=run_dir, host_name=host_name) for part in program.command]
    environment = dict(with_bytecode(), SANLOCK_RUN_DIR=str(run_dir))
    # Containers often lack CAP_SYS_RESOURCE, and the original refuses to start without it unless told this.
    environment.setdefault("SANLOCK_PRIVILEGED", "0")
    start = time.perf_counter()
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise BenchmarkError(f"{program.name} is not installed: {error}") from error
    pid = None
    try:
        pid = _wait_until_ready(process, run_dir, log, program)
        yield Daemon(program, pid, run_dir / "sanlock.sock", log, time.perf_counter() - start)
    finally:
        # The group has the daemon's helper process too, unless the daemon went into the background: then its
        # helper ends by itself.
        for kill, target in ((os.killpg, process.pid), (os.kill, pid)):
            if target is not None:
                with contextlib.suppress(ProcessLookupError):
                    kill(target, signal.SIGKILL)
        process.wait(STOP_LIMIT_S)


def _wait_until_ready(process: "subprocess.Popen[bytes]", run_dir: Path, log: Path, program: Program) -> int:
    """The daemon's process id, once its socket answers."""
    socket, pid_file = run_dir / "sanlock.sock", run_dir / "sanlock.pid"
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() in (None, 0):
        try:
            with Connection(socket):
                return int(pid_file.read_text())
        except (FileNotFoundError, ConnectionRefusedError, ValueError):
            time.sleep(POLL_S)
    tail = log.read_text(errors="replace")[-2000:]
    raise BenchmarkError(f"{program.name} did not start: {shlex.join(program.command)}\n{tail}")
