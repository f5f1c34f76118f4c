"""`holdfast run` while the host's lease daemon is killed and started again: the command goes on, or is ended."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.restart_harness import PATIENCE_S, Host, hosts, until

WAITS = (
    "echo $$ $HOLDFAST_LEASE_VERSION > {0}/new; mv {0}/new {0}/begun; until test -e {0}/go; do sleep 0.02; done; "
)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host with a joined lockspace and one formatted lease."""
    made = Host(tmp_path)
    with hosts(tmp_path, made):
        made.start()
        made.format("a")
        assert made.add() == 0
        yield made


@contextmanager
def run(host: Host, command: str) -> Iterator[subprocess.Popen[str]]:
    """`holdfast run` of a shell command, which has begun."""
    lease = f"LS:a:{host.file('Ra')}:0"
    program = [sys.executable, "-m", "holdfast", "run", "--run-dir", str(host.run_dir), "--lease", lease]
    with subprocess.Popen(
        [*program, "--on-lost", "kill", "--", "/bin/sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            until(lambda: (host.directory / "begun").exists() or process.poll() is not None, 2 * PATIENCE_S)
            assert process.poll() is None, process.communicate()[1]
            yield process
        finally:
            process.kill()


def begun(host: Host) -> list[int]:
    """Pid of the command and its lease version."""
    return [int(word) for word in (host.directory / "begun").read_text().split()]


def test_the_command_goes_on_with_the_same_lease_and_nobody_else_gets_it(host: Host, tmp_path: Path) -> None:
    other = Host(tmp_path, 2)
    with hosts(tmp_path, other):
        other.start()
        assert other.add() == 0
        rival = other.holder()
        with run(host, WAITS.format(tmp_path) + "exit 7") as process:
            pid, version = begun(host)
            assert host.leases()["a"] == ("held", pid, version)
            for _ in range(2):
                host.end()
                assert rival.take("a") == -243
                host.start()
                assert host.leases()["a"] == ("held", pid, version)
            assert rival.take("a") == -243
            (tmp_path / "go").touch()
            _, errors = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 7, errors
        until(lambda: "a" not in host.leases())
        assert rival.take("a") == 0


def test_what_the_command_leaves_behind_is_gone_before_the_lease_is(host: Host, tmp_path: Path) -> None:
    other = Host(tmp_path, 2)
    with hosts(tmp_path, other):
        other.start()
        assert other.add() == 0
        command = f"setsid sleep 1000 & echo $! > {tmp_path}/child; " + WAITS.format(tmp_path) + "exit 7"
        with run(host, command) as process:
            child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}")
            assert child.exists()
            host.restart()
            (tmp_path / "go").touch()
            _, errors = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 7, errors
            assert not child.exists()
        until(lambda: "a" not in host.leases())
        assert other.holder().take("a") == 0


def test_a_daemon_that_does_not_resume_ends_the_command(host: Host, tmp_path: Path) -> None:
    with run(host, WAITS.format(tmp_path)) as process:
        pid, _ = begun(host)
        host.end()
        host.start(resume=False)
        _, errors = process.communicate(timeout=2 * PATIENCE_S)
        assert process.returncode == 74, errors
        assert "lease lost: lockspace LS is not joined any more" in errors
        assert not Path(f"/proc/{pid}").exists()
    assert host.add() == 0
    assert host.holder().take("a") == 0
