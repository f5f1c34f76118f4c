"""The daemon as a process: start in the background, files, user, priority, memory (lease-wire 2, 16)."""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.leased import wire
from holdfast.leased.wire import Command
from tests.unit.leased_harness import CHILD

PATIENCE_S = 30.0
SANLOCK = "from holdfast.cli.lease_daemon import sanlock_main; raise SystemExit(sanlock_main())"
"""What the console script holdfast-sanlock runs."""
NOBODY = "nobody"
IS_ROOT = os.geteuid() == 0


def start(run_dir: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`sanlock daemon WORDS` of ours, until the command returns."""
    base = {key: value for key, value in os.environ.items() if not key.startswith("SANLOCK")}
    return subprocess.run(
        [sys.executable, "-c", SANLOCK, "daemon", "-w", "0", *words, "--run-dir", str(run_dir)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**base, **environment},
        timeout=PATIENCE_S,
        check=False,
    )


def call(run_dir: Path, command: int, data: int = 0) -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(str(run_dir / "sanlock.sock"))
        sock.sendall(wire.encode_request(command, data=data))
        answer = b""
        while more := sock.recv(65536):
            answer += more
            if command == Command.VERSION:
                break
        return answer


def daemon_pairs(run_dir: Path) -> dict[str, str]:
    items = wire.decode_status_items(call(run_dir, Command.STATUS, 1)[wire.HEADER_SIZE :])
    return wire.parse_pairs(items[0].state.text)


@contextlib.contextmanager
def running(run_dir: Path, *words: str, **environment: str) -> Iterator[int]:
    """A daemon in the background; its pid. It has left afterwards."""
    done = start(run_dir, *words, **environment)
    assert done.returncode == 0, done.stderr
    pid = int((run_dir / "sanlock.pid").read_text())
    fd = os.pidfd_open(pid)
    try:
        yield pid
    finally:
        signal.pidfd_send_signal(fd, signal.SIGTERM)
        wait_for_end(fd)
        os.close(fd)


def wait_for_end(fd: int) -> None:
    import select

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(PATIENCE_S * 1000), "the daemon did not leave"


def process_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A short path that other users can reach, which pytest's directories are not."""
    with tempfile.TemporaryDirectory(prefix="hf") as name:
        os.chmod(name, 0o755)
        yield Path(name) / "run"


def test_the_command_returns_when_the_daemon_serves(run_dir: Path) -> None:
    with running(run_dir) as pid:
        assert call(run_dir, Command.VERSION)
        assert os.getsid(pid) == pid
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}
        found = run_dir.stat()
        assert stat.S_IMODE(found.st_mode) == 0o775
        assert stat.S_IMODE((run_dir / "sanlock.sock").stat().st_mode) == 0o660
        assert stat.S_IMODE((run_dir / "sanlock.pid").stat().st_mode) == 0o644
    assert (run_dir / "sanlock.pid").exists()
    assert (run_dir / "sanlock.sock").exists(), "neither is removed"
    with running(run_dir):
        assert call(run_dir, Command.VERSION)


def test_a_daemon_that_cannot_start_says_so_and_fails_the_command(run_dir: Path) -> None:
    with running(run_dir):
        second = start(run_dir)
        assert second.returncode == 1
        assert second.stderr == (
            f"holdfast lease daemon: lockfile setlk error {run_dir}/sanlock.pid: "
            "Resource temporarily unavailable; another daemon runs in this directory\n"
        )
        assert call(run_dir, Command.VERSION), "the first one is unaffected"


def test_a_socket_path_that_cannot_be(run_dir: Path) -> None:
    done = start(run_dir / ("x" * 100))
    assert done.returncode == 1
    assert "choose a shorter run directory" in done.stderr


@pytest.mark.parametrize("most_bytes", [0, 8], ids=["not even the pid", "the pid, but no record"])
def test_a_full_run_directory_is_said_in_one_line(run_dir: Path, most_bytes: int) -> None:
    # A limit of file sizes is what a full file system is, without the right to mount one.
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    for words in ([], ["-D"]):
        ended = subprocess.run(
            [sys.executable, "-c", SANLOCK, "daemon", "-w", "0", *words, "--run-dir", str(run_dir)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            preexec_fn=limit,
        )
        assert ended.returncode == 1
        said = ended.stderr.splitlines()[-1]
        file = "holdfast.record" if most_bytes else "sanlock.pid"
        assert str(run_dir / file) in said
        assert "unexpected" not in ended.stderr
        assert "Traceback" not in ended.stderr


def test_after_kill_9_the_next_one_starts_over_the_files(run_dir: Path) -> None:
    assert start(run_dir).returncode == 0
    fd = os.pidfd_open(int((run_dir / "sanlock.pid").read_text()))
    signal.pidfd_send_signal(fd, signal.SIGKILL)
    wait_for_end(fd)
    os.close(fd)
    with pytest.raises(ConnectionRefusedError):
        call(run_dir, Command.VERSION)
    with running(run_dir):
        assert call(run_dir, Command.VERSION)


def test_options_arrive_in_status(run_dir: Path) -> None:
    words = [
        "-h",
        "0",
        "-l",
        "0",
        "-g",
        "61",
        "-t",
        "1",
        "-H",
        "0",
        "-Q",
        "0",
        "-R",
        "2",
        "-e",
        "a-host",
        "-b",
        "5",
        "-a",
        "0",
    ]
    with running(run_dir, *words, SANLOCK_PRIVILEGED="0"):
        shown = daemon_pairs(run_dir)
        assert shown["our_host_name"] == "a-host"
        assert (shown["kill_grace_seconds"], shown["max_worker_threads"]) == ("40", "2")
        assert (shown["renewal_history_size"], shown["quiet_fail"], shown["debug_renew"]) == ("0", "0", "2")
        assert (shown["use_watchdog"], shown["use_aio"], shown["mlock_level"]) == ("0", "0", "0")
        assert shown["debug_cmds"] == "0xfffffffffe06ffff"
        assert (shown["max_sectors_kb_num"], shown["max_sectors_kb_align"]) == ("1024", "0")
        log = call(run_dir, Command.LOG_DUMP).decode("utf-8", "replace")
        for line in (
            f"Using non-standard run directory '{run_dir}'",
            "Running in unprivileged mode",
            "sanlock daemon started 3.8.5 host a-host (",
            "no watchdog: if this daemon hangs or is killed",
            "-g 61 is ignored",
        ):
            assert f"]: {line}" in log


def test_the_log_file_is_written_by_another_user_too(run_dir: Path) -> None:
    log = run_dir.parent / "log"
    words = ["--logfile", str(log), *(["-U", NOBODY] if IS_ROOT else [])]
    with running(run_dir, *words):
        assert call(run_dir, Command.VERSION)
    assert "sanlock daemon started" in log.read_text()


def test_memory_is_locked_or_the_failure_is_logged(run_dir: Path) -> None:
    with running(run_dir, "-l", "1") as pid:
        locked = int(process_status(pid)["VmLck"].split()[0])
        log = call(run_dir, Command.LOG_DUMP)
        assert locked > 0 or b"mlockall failed" in log


def test_real_time_priority_or_the_failure_is_logged(run_dir: Path) -> None:
    with running(run_dir, "-h", "1") as pid:
        policy = os.sched_getscheduler(pid)
        log = call(run_dir, Command.LOG_DUMP)
        if b"set scheduler" not in log:
            assert policy == os.SCHED_RR | os.SCHED_RESET_ON_FORK
            assert os.sched_getparam(pid).sched_priority == os.sched_get_priority_max(os.SCHED_RR)


@pytest.mark.skipif(not IS_ROOT, reason="needs root: changes the user of a process")
def test_root_becomes_the_configured_user_and_may_still_kill(run_dir: Path) -> None:
    entry = pwd.getpwnam(NOBODY)
    with running(run_dir, "-U", NOBODY, "-l", "0") as pid:
        found = process_status(pid)
        assert found["Uid"].split() == [str(entry.pw_uid)] * 4
        assert found["Gid"].split() == [str(entry.pw_gid)] * 4
        only_kill = 1 << 5
        assert int(found["CapEff"], 16) in (0, only_kill)
        log = call(run_dir, Command.LOG_DUMP)
        assert int(found["CapEff"], 16) == only_kill or b"degraded: only the first helper" in log
        directory, sock = run_dir.stat(), (run_dir / "sanlock.sock").stat()
        assert (directory.st_uid, directory.st_gid) == (entry.pw_uid, 0)
        assert (sock.st_uid, sock.st_gid) == (entry.pw_uid, entry.pw_gid)
        assert daemon_pairs(run_dir)["uid"] == str(entry.pw_uid)


def send(run_dir: Path, command: int, payload: bytes, data: int = 0, data2: int = 0) -> int:
    """One framed call; its result."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(str(run_dir / "sanlock.sock"))
        sock.sendall(wire.encode_request(command, payload, data=data, data2=data2))
        return wire.decode_header(sock.recv(wire.HEADER_SIZE, socket.MSG_WAITALL)).data


@pytest.mark.skipif(not IS_ROOT, reason="needs root: changes the user of a process")
def test_a_daemon_that_is_not_root_any_more_ends_processes_of_root(run_dir: Path) -> None:
    paths = [run_dir.parent / name for name in ("LS", "R")]
    for path in paths:
        path.touch()
        os.truncate(path, 1 << 20)
        os.chown(path, pwd.getpwnam(NOBODY).pw_uid, -1)
    space = wire.Lockspace("LS", 1, 0, wire.Disk(str(paths[0]))).encode()
    lease = wire.resource("LS", "R", [wire.Disk(str(paths[1]))])
    with running(run_dir, "-U", NOBODY, "-l", "0", "-e", "me"):
        if b"degraded: only the first helper" in call(run_dir, Command.LOG_DUMP):
            pytest.skip("root here may not keep CAP_KILL (a container without it?)")
        assert send(run_dir, Command.WRITE_LOCKSPACE, space, data2=1) == 0
        assert send(run_dir, Command.WRITE_RESOURCE, lease.encode_with_disks()) == 0
        assert send(run_dir, Command.ADD_LOCKSPACE, space, data=1) == 0
        words = [str(run_dir / "sanlock.sock"), "LS", "R", str(paths[1]), "0", "1", "0"]
        with subprocess.Popen([sys.executable, "-c", CHILD, *words], stdout=subprocess.PIPE) as child:
            try:
                assert child.stdout is not None
                assert child.stdout.readline() == b"0\n"
                assert send(run_dir, Command.REM_LOCKSPACE, space) == 0
                assert child.wait(PATIENCE_S) == -signal.SIGKILL
            finally:
                child.kill()


@pytest.mark.skipif(not IS_ROOT, reason="needs root: changes the owner of files")
def test_unprivileged_root_stays_root_but_gives_the_socket_away(run_dir: Path) -> None:
    entry = pwd.getpwnam(NOBODY)
    with running(run_dir, "-U", NOBODY, SANLOCK_PRIVILEGED="0") as pid:
        assert process_status(pid)["Uid"].split() == ["0"] * 4
        assert (run_dir / "sanlock.sock").stat().st_uid == entry.pw_uid
        assert run_dir.stat().st_gid == entry.pw_gid


@pytest.mark.skipif(not IS_ROOT, reason="needs root: changes the user of a process")
def test_a_file_that_init_makes_belongs_to_the_daemon(run_dir: Path) -> None:
    path = run_dir.parent / "LS"
    with running(run_dir, "-U", NOBODY, "-l", "0"):
        words = ["lease", "init", "--run-dir", str(run_dir), "--space", f"LS:0:{path}:0"]
        # The directory is root's, the file is not; its size comes with the format.
        done = subprocess.run(
            [sys.executable, "-m", "holdfast", *words], capture_output=True, timeout=PATIENCE_S, check=False
        )
        assert path.stat().st_uid == pwd.getpwnam(NOBODY).pw_uid
        assert done.returncode == 0, done.stderr


def test_unknown_names_are_said_and_become_0(run_dir: Path) -> None:
    done = start(run_dir, "-U", "no-such-user", "-G", "no-such-group")
    assert "user 'no-such-user' not found, using uid: 0" in done.stderr
    if done.returncode:
        assert not IS_ROOT
        return
    with contextlib.closing(_Pid(run_dir)) as pid:
        log = call(run_dir, Command.LOG_DUMP)
        assert b"group 'no-such-group' not found" in log
        signal.pidfd_send_signal(pid.fd, signal.SIGTERM)
        wait_for_end(pid.fd)


class _Pid:
    def __init__(self, run_dir: Path) -> None:
        self.fd = os.pidfd_open(int((run_dir / "sanlock.pid").read_text()))

    def close(self) -> None:
        os.close(self.fd)


def test_in_the_foreground_lines_go_to_stderr(run_dir: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SANLOCK, "daemon", "-D", "-w", "0", "--run-dir", str(run_dir)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process, process.stderr as lines:
        deadline = time.monotonic() + PATIENCE_S
        while not (run_dir / "sanlock.sock").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        # The socket exists a moment before anybody listens there.
        while time.monotonic() < deadline:
            try:
                call(run_dir, Command.VERSION)
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
        said = lines.read()
    assert "]: sanlock daemon started 3.8.5" in said
    assert "]: cmd_version " in said, "debug lines too"
