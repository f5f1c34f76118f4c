"""A daemon that was killed comes back under its old name: nobody's process outlives its lease (lease-disk 6.3)."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from holdfast.leased import wire
from holdfast.leased.wire import Command, Disk, Lockspace
from tests.unit.leased_harness import CHILD

DAEMON = """
import sys
from holdfast.leased.daemon import run_daemon
from holdfast.leased.options import DaemonOptions
sys.exit(run_daemon(DaemonOptions(
    run_dir=sys.argv[1], host_name="host", use_watchdog=False, fire_timeout_s=10, mlock_level=0
)))
"""
PATIENCE_S = 20.0


def start_daemon(run_dir: Path) -> subprocess.Popen[bytes]:
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON, str(run_dir)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            assert call(run_dir, Command.VERSION) == 0
        except OSError:
            assert daemon.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return daemon


def call(run_dir: Path, cmd: int, payload: bytes = b"", data: int = 0, data2: int = 0) -> int:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(str(run_dir / "sanlock.sock"))
        sock.sendall(wire.encode_request(cmd, payload, data=data, data2=data2))
        return wire.decode_header(sock.recv(32, socket.MSG_WAITALL)).data


def hold(run_dir: Path, lease: wire.Resource) -> subprocess.Popen[bytes]:
    arguments = [str(run_dir / "sanlock.sock"), "LS", lease.name, lease.disks[0].path, "0", "1", "0"]
    child = subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout as said:
        assert said.readline() == b"0\n"
    return child


def test_the_holder_is_killed_before_the_lockspace_is_joined_again(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    for name in ("LS", "R"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
    space = Lockspace("LS", 1, 0, Disk(str(tmp_path / "LS"))).encode()
    lease = wire.resource("LS", "R", [Disk(str(tmp_path / "R"))])
    processes = [start_daemon(run_dir)]
    try:
        assert call(run_dir, Command.WRITE_LOCKSPACE, space, data2=1) == 0
        assert call(run_dir, Command.WRITE_RESOURCE, lease.encode_with_disks()) == 0
        assert call(run_dir, Command.ADD_LOCKSPACE, space, data=1) == 0
        holder = hold(run_dir, lease)
        processes.append(holder)
        processes[0].send_signal(signal.SIGKILL)
        processes[0].wait()
        assert holder.poll() is None
        processes.append(start_daemon(run_dir))
        assert holder.poll() is None, "nothing is killed before the lockspace is wanted again"
        assert call(run_dir, Command.ADD_LOCKSPACE, space, data=1) == 0
        assert holder.wait(PATIENCE_S) == -signal.SIGKILL
        processes.append(hold(run_dir, lease))
        assert call(run_dir, Command.SHUTDOWN_WAIT, data=1) == 0
        assert processes[-2].wait(PATIENCE_S) == 0
        assert processes[-1].wait(PATIENCE_S) == -signal.SIGKILL
        assert not (run_dir / "holdfast.record").exists()
    finally:
        for process in processes:
            process.kill()
            process.wait()
