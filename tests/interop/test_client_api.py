"""Our client, `holdfast.Lease` and `holdfast run` with the real sanlock daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast.client.daemon import Daemon
from holdfast.client.space import make_space_file
from tests.interop.conftest import StartHost
from tests.interop.hosts import Host, daemon_environment, wait_until

IO_TIMEOUT_S = 1
LIMIT_S = 120.0


def made(host: Host, directory: Path) -> str:
    """A space file made by the daemon as `holdfast run` makes it."""
    path = directory / "web.lease"
    asyncio.run(make_space_file(Daemon(host.run_dir), path, "web", IO_TIMEOUT_S))
    return str(path)


@pytest.fixture(params=["original", "holdfast"])
def start_host(request: pytest.FixtureRequest) -> StartHost:
    """Each kind of daemon in turn."""
    start: StartHost = request.getfixturevalue("start_real" if request.param == "original" else "start_ours")
    return start


def in_process_of_its_own(scene: str, *arguments: object) -> None:
    """Run a function of client_scenes.py in a process that the daemon may kill: it registers with a daemon."""
    command = [sys.executable, "-m", "tests.interop.client_scenes", scene, *map(str, arguments)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=2 * LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_commands(directory: Path, start_host: StartHost) -> None:
    host = start_host("alpha")
    in_process_of_its_own("the_commands", host.run_dir, made(host, directory))


def test_leases_of_two_hosts(directory: Path, start_real: StartHost) -> None:
    first, second = start_real("alpha"), start_real("beta")
    in_process_of_its_own("leases_of_two_hosts", first.run_dir, second.run_dir, made(first, directory))


def test_a_stopped_daemon_is_no_proof(directory: Path, start_real: StartHost) -> None:
    # The daemon is killed while stopped: continued, it would kill whoever held the lease.
    host = start_real("alpha")
    in_process_of_its_own("stopped_daemon", host.run_dir, made(host, directory), host.process.pid)


@contextmanager
def running_command(
    host: Host, path: str, directory: Path, *options: str, command: str
) -> Iterator[subprocess.Popen[str]]:
    """`holdfast run` beside a daemon; killed at the end."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "holdfast", "run", "--run-dir", str(host.run_dir), "--lease", "web:r"),
            *("--space-path", path, *options, "--", "/bin/sh", "-c", command),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
        env=daemon_environment(host.run_dir),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_run(directory: Path, start_host: StartHost) -> None:
    host = start_host("alpha")
    path = made(host, directory)
    command = "echo $HOLDFAST_LEASE_VERSION $HOLDFAST_HOST_ID $HOLDFAST_GENERATION; exit 6"
    with running_command(host, path, directory, command=command) as process:
        out, _ = process.communicate(timeout=LIMIT_S)
        assert (process.returncode, out) == (6, "1 1 1\n")
    # Given back on storage, not by the daemon some time later.
    assert ":2 p " not in host.cli("client", "status").output
    ready = directory / "ready"
    with running_command(host, path, directory, command=f"echo > {ready}; sleep 1000") as process:
        wait_until(ready.exists, "the command runs")
        assert f"p {_shell_of(process.pid)} " in host.cli("client", "status").output
        with running_command(host, path, directory, "--no-wait", command="echo ran") as other:
            out, err = other.communicate(timeout=LIMIT_S)
            assert (other.returncode, out) == (73, "")
            assert "process" in err or "exists already" in err
        assert host.cli("client", "rem_lockspace", "-s", f"web:1:{path}:0").status == 0
        _, err = process.communicate(timeout=LIMIT_S)
        # The daemon kills the lease's users when the lockspace is removed: the runner sees that, or the loss.
        assert process.returncode in (74, 137), err


def _shell_of(pid: int) -> int:
    """The command among the children of `holdfast run` (another one is its warden)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    shells = [child for child in children if Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"/bin/sh\0")]
    assert len(shells) == 1
    return int(shells[0])


def test_run_ends_its_command_when_the_daemon_dies(directory: Path, start_host: StartHost) -> None:
    host = start_host("alpha")
    path = made(host, directory)
    ready = directory / "ready"
    with running_command(
        host, path, directory, "--on-lost", "kill", command=f"echo $$ > {ready}; exec sleep 1000"
    ) as process:
        wait_until(lambda: ready.exists() and bool(ready.read_text()), "the command runs")
        pid = int(ready.read_text())
        os.kill(host.process.pid, signal.SIGKILL)
        _, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 74, err
        assert not Path(f"/proc/{pid}").exists()
