"""Private daemons: names, and what killed runs left behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from holdfast.client.descendants import descendants, read_entry, running
from holdfast.client.embedded import EmbeddedDaemon, our_daemon, private_host_name, remove_leftovers
from holdfast.client.errors import DaemonUnreachable
from holdfast.client.warden import MARK_NAME, kill_marked


def leftover(parent: Path, name: str, age_s: float = 1000) -> Path:
    directory = parent / name
    directory.mkdir()
    (directory / "sanlock.pid").write_text("1\n")
    past = directory.stat().st_mtime - age_s
    os.utime(directory, (past, past))
    return directory


def test_only_dead_private_directories_are_removed(tmp_path: Path) -> None:
    dead = leftover(tmp_path, "holdfast-run-dead")
    young = leftover(tmp_path, "holdfast-run-young", age_s=0)
    other = leftover(tmp_path, "something-else")
    (tmp_path / "holdfast-run-link").symlink_to(other)
    alive = leftover(tmp_path, "holdfast-run-alive")
    script = "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX); "
    script += "print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(alive / "sanlock.pid")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        remove_leftovers(tmp_path)
        assert not dead.exists()
        assert young.exists()
        assert other.exists()
        assert alive.exists()
        holder.communicate(b"\n")
    remove_leftovers(tmp_path)
    assert not alive.exists()


def test_two_private_daemons_never_have_the_same_name() -> None:
    names = {private_host_name() for _ in range(100)}
    assert len(names) == 100
    assert all(len(name.encode()) <= 48 for name in names)


def test_the_command_of_the_private_daemon(tmp_path: Path) -> None:
    command = our_daemon(3, 7)(tmp_path, "me")
    assert "--no-watchdog" in command
    assert list(command)[-4:] == ["--io-timeout", "3", "--kill-grace", "7"]
    assert str(os.getpid()) in command


def test_a_private_daemon_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(DaemonUnreachable, match="ended at its start: no room for me"):
        asyncio.run(EmbeddedDaemon.start(lambda _, __: ["/bin/sh", "-c", "echo no room for me"]))
    with pytest.raises(DaemonUnreachable, match="cannot start"):
        asyncio.run(EmbeddedDaemon.start(lambda _, __: ["/no/such/program"]))
    assert list(tmp_path.iterdir()) == []


def test_only_marked_processes_are_killed() -> None:
    line = [sys.executable, "-c", "print(flush=True); input()"]
    # Of this run only: another run of the tests on this machine may be at the same place.
    mark = uuid.uuid4().hex
    environ = {**os.environ, MARK_NAME: mark}
    with (
        subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as marked,
        subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other,
    ):
        for process in (marked, other):
            assert process.stdout is not None
            process.stdout.readline()
        assert kill_marked(mark[:-1]) == 0
        assert kill_marked(mark) == 1
        assert marked.wait() == -9
        assert other.poll() is None
        other.communicate(b"\n")


def test_the_process_tree() -> None:
    script = "sleep 100 & echo $!; read line; kill $!"
    with subprocess.Popen(["/bin/sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        inner = int(shell.stdout.readline())
        found = {entry.pid: entry for entry in descendants(os.getpid())}
        assert found[shell.pid].parent == os.getpid()
        assert found[inner].parent == shell.pid
        left = {entry.pid for entry in running(os.getpid(), {shell.pid})}
        assert not {shell.pid, inner} & left
        shell.communicate(b"\n")
    assert read_entry(shell.pid) is None
