"""The first process of a guest: takes commands from the host over a serial port, one JSON line each.

    {"id": 1, "run": ["cmd", ...], "limit_s": 10}     runs to its end: {"id": 1, "status": 0, "output": "..."}
    {"id": 2, "start": ["cmd", ...], "log": "name"}   goes on; its output is copied to the console with that name
    {"id": 3, "signal": PID, "number": 9}
    {"id": 4, "write": "/path", "data": "..."}
    {"id": 5}                                         nothing: every answer has the guest's CLOCK_MONOTONIC

Needs nothing but Python's library. It is process 1: when it ends the kernel panics.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from typing import Any

PORT = "/dev/virtio-ports/holdfast"
CONSOLE = "/dev/console"


def main() -> None:
    """For ever."""
    os.environ.update(PATH="/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root", LC_ALL="C.UTF-8")
    environment = os.environ.get("HOLDFAST_GUEST_ENVIRONMENT", "")
    os.environ.update(json.loads(environment) if environment else {})
    port = open_port()
    say(port, {"ready": True, "boot_s": time.clock_gettime(time.CLOCK_BOOTTIME)})
    running: dict[int, subprocess.Popen[bytes]] = {}
    for line in port:
        request = json.loads(line)
        try:
            answer = perform(request, running)
        except (OSError, subprocess.SubprocessError, KeyError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        say(port, {"id": request.get("id"), "uptime": time.clock_gettime(time.CLOCK_MONOTONIC), **answer})


def open_port() -> Any:
    """The host's end may take a moment to appear."""
    for _ in range(200):
        for path in [PORT, *vports()]:
            if os.path.exists(path):
                return open(path, "r+b", buffering=0)
        time.sleep(0.05)
    raise SystemExit(f"no {PORT}")


def vports() -> list[str]:
    """Without udev the port has its kernel name only."""
    base = "/sys/class/virtio-ports"
    if not os.path.isdir(base):
        return []
    found = []
    for name in sorted(os.listdir(base)):
        with open(f"{base}/{name}/name") as file:
            if file.read().strip() == "holdfast":
                found.append(f"/dev/{name}")
    return found


def say(port: Any, message: dict[str, object]) -> None:
    """One line. The port takes 32 KiB at a time."""
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[port.write(data) :]


def perform(request: dict[str, Any], running: dict[int, subprocess.Popen[bytes]]) -> dict[str, object]:
    """One request."""
    if "run" in request:
        done = subprocess.run(
            request["run"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=request.get("limit_s", 60),
            check=False,
            restore_signals=False,
        )
        return {"status": done.returncode, "output": done.stdout.decode(errors="replace")}
    if "start" in request:
        process = subprocess.Popen(
            request["start"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            restore_signals=False,
        )
        running[process.pid] = process
        threading.Thread(target=copy, args=(process, request.get("log", "?")), daemon=True).start()
        return {"pid": process.pid}
    if "signal" in request:
        os.kill(request["signal"], request["number"])
        return {}
    if "write" in request:
        with open(request["write"], "w") as file:
            file.write(request["data"])
        return {}
    return {}


def copy(process: subprocess.Popen[bytes], name: str) -> None:
    """A program's output to the console, line by line, with the guest's time; and how it ended."""
    assert process.stdout is not None
    with open(CONSOLE, "wb", buffering=0) as console:
        for line in process.stdout:
            console.write(b"@%.3f %s: %s" % (time.clock_gettime(time.CLOCK_MONOTONIC), name.encode(), line))
        status = process.wait()
        console.write(b"@%.3f %s: ended %d\n" % (time.clock_gettime(time.CLOCK_MONOTONIC), name.encode(), status))


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    main()
