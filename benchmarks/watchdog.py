"""`python -m benchmarks.watchdog`: what an idle watchdog daemon costs, ours (with its guard) and wdmd.

Armed it needs a device: run it as root in a virtual machine with softdog or i6300esb; the device is disarmed at
the end. Without one, only the disarmed daemon is measured. `--wdmd` measures the original too, which uses the
host's own /run/wdmd and /dev/shm/wdmd. Needs nothing but the standard library and Holdfast.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import children, cpu_ns, memory, switches
from holdfast.watchdog import asking, wire
from holdfast.watchdog.wire import MESSAGE_SIZE, Command, Message

START_LIMIT_S = 30.0
SETTLE_S = 2.0
WDMD = "/usr/sbin/wdmd"
WDMD_SOCKET = "/run/wdmd/wdmd.sock"
MINUTE_S = 60.0
FAR_S = 100_000


def measure(pid: int, seconds: float) -> dict[str, float]:
    """One process and its children for a while: wake-ups and CPU time per minute, KiB of memory."""
    pids = [pid, *children(pid)]
    before = [(switches(one).voluntary, cpu_ns(one)) for one in pids]
    time.sleep(seconds)
    after = [(switches(one).voluntary, cpu_ns(one)) for one in pids]
    per_minute = MINUTE_S / seconds
    used = [memory(one) for one in pids]
    return {
        "processes": len(pids),
        "wakeups_per_min": sum(b[0] - a[0] for a, b in zip(before, after, strict=True)) * per_minute,
        "cpu_ms_per_min": sum(b[1] - a[1] for a, b in zip(before, after, strict=True)) / 1e6 * per_minute,
        "rss_kib": sum(one.resident_kib for one in used),
        "anonymous_kib": sum(one.anonymous_kib for one in used),
    }


@contextmanager
def daemon(command: Sequence[str], path: str) -> Iterator[int]:
    """A daemon in the foreground, until the block ends."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            try:
                asking.status(path)
                break
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{command[0]} does not serve: {error}") from error
                time.sleep(0.05)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_LIMIT_S)


@contextmanager
def client(path: str) -> Iterator[bool]:
    """One that relies on the device for the whole measurement; whether the device could be armed."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(START_LIMIT_S)
        sock.connect(path)
        sock.sendall(
            wire.encode(Message(Command.OPEN_WATCHDOG, fire_timeout=60)) + wire.encode(Message(Command.STATUS))
        )
        first = wire.decode(_exactly(sock, MESSAGE_SIZE))
        if first.cmd == Command.OPEN_WATCHDOG:
            _exactly(sock, MESSAGE_SIZE)
        now = int(time.monotonic())
        sock.sendall(wire.encode(Message(Command.REGISTER, "benchmark")))
        if first.fire_timeout:
            sock.sendall(wire.encode(Message(Command.TEST_LIVE, renewal=now, expire=now + FAR_S)))
        try:
            yield first.fire_timeout == 60
        finally:
            sock.sendall(wire.encode(Message(Command.TEST_LIVE)))


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise SystemExit("the watchdog daemon closed the connection")
        data += more
    return data


def show(name: str, state: str, found: dict[str, float]) -> None:
    """One row."""
    print(
        f"| {name} | {state} | {found['processes']:.0f} | {found['wakeups_per_min']:.1f} | "
        f"{found['cpu_ms_per_min']:.1f} | {found['rss_kib'] / 1024:.1f} | {found['anonymous_kib'] / 1024:.1f} |",
        flush=True,
    )


def run_one(name: str, command: Sequence[str], path: str, seconds: float) -> None:
    """Disarmed, then with a client."""
    with daemon(command, path) as pid:
        time.sleep(SETTLE_S)
        # wdmd 3.8.5 has the device armed from its start on.
        show(name, "no client", measure(pid, seconds))
        with client(path) as is_armed:
            if not is_armed:
                print(f"{name}: no device, not measured with a client", file=sys.stderr)
                return
            time.sleep(SETTLE_S)
            show(name, "one client", measure(pid, seconds))


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="per state (120)")
    parser.add_argument("--wdmd", action="store_true", help="the original too")
    arguments = parser.parse_args()
    print("| daemon | state | processes | wake-ups/min | CPU ms/min | RSS MiB | anonymous MiB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        run_dir = Path(directory) / "run"
        own = [sys.executable, "-m", "holdfast", "watchdog", "daemon", "-D", "-G", "root"]
        places = ["--run-dir", str(run_dir), "--marker", str(Path(directory) / "marker")]
        recorder = ["--recorder", str(Path(directory) / "ring"), "--systemd-settings", "no"]
        run_one("Holdfast", [*own, *places, *recorder], str(run_dir / "wdmd.sock"), arguments.seconds)
    if arguments.wdmd:
        os.makedirs(os.path.dirname(WDMD_SOCKET), exist_ok=True)
        run_one("wdmd", [WDMD, "-D", "-G", "root"], WDMD_SOCKET, arguments.seconds)


if __name__ == "__main__":
    main()
