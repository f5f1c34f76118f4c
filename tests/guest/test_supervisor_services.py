"""The supervisor as process 1 of a machine with device-mapper and a hardware watchdog, and what it looks after."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import Any, Final

from tests.guest.chain import WATCHDOG_DAEMON, load_driver
from tests.guest.lab import I6300ESB, Lab
from tests.guest.machine import Guest, Supervised

LIMIT_S: Final = 180.0
PACKAGING: Final = Path(__file__).parents[2] / "packaging"
SEED: Final = "[Service]\nWatchdogSec=10s\nRestart=on-failure\nRestartPreventExitStatus=1\nTimeoutAbortSec=5s\n"
"""The lines that multipathd's unit file has elsewhere (supervisor 0); 5 s are short for an emulated processor.
The last one is ours: not to wait for 90 s."""
GUARDED_S: Final = 10


def ask(guest: Guest, verb: str, *units: str, **fields: Any) -> dict[str, Any]:
    """One request to process 1."""
    request = json.dumps({"verb": verb, "units": units, **fields})
    answer: dict[str, Any] = json.loads(
        guest.run(sys.executable, "-SE", "/run/package/inside/service_ask.py", request)
    )
    assert "error" not in answer, answer
    return answer


def show(guest: Guest, unit: str, *names: str) -> list[str]:
    """Properties."""
    found = ask(guest, "show", unit, properties=list(names))["units"][0]
    return [found[name] for name in names]


def job(guest: Guest, verb: str, unit: str) -> str:
    """Its result."""
    done = ask(guest, verb, unit)["jobs"][0]
    return str(done.get("result", done))


def test_multipathd(lab: Lab) -> None:
    """From its package's unit files: readiness, socket, watchdog, reload, crash, restart, stop."""
    drop_in = {"multipathd.service.d/seed.conf": SEED}
    units = ("multipathd.socket", "multipathd.service")
    guest = lab.guest(supervised=Supervised(drop_in, units, "mount -t cgroup2 cgroup2 /sys/fs/cgroup"))
    guest.wait_for_line("Started multipathd.service", LIMIT_S)
    main, status, pinged = show(guest, "multipathd.service", "MainPID", "StatusText", "WatchdogTimestampMonotonic")
    assert status == "up"
    assert int(pinged) > 0
    assert guest.run("cat", f"/proc/{main}/cgroup").strip().endswith("/multipathd.service")
    assert guest.run("multipathd", "show", "daemon").split()[:2] == ["pid", main]
    assert job(guest, "reload", "multipathd.service") == "done"
    assert show(guest, "multipathd.service", "MainPID") == [main]

    # Only a thread that takes it can die of SIGABRT; 0.9.4 has none: it dies of SIGKILL, under systemd as well.
    masks = re.findall(r"SigBlk:\s+(\w+)", guest.run("sh", "-c", f"cat /proc/{main}/task/*/status"))
    blocks_abort = all(int(mask, 16) >> (signal.SIGABRT - 1) & 1 for mask in masks)
    lab.record(f"every thread of multipathd blocks SIGABRT: {blocks_abort}")
    seen = len(guest.console)
    guest.signal(int(main), signal.SIGSTOP)
    guest.wait_for_line("multipathd.service: Watchdog timeout (limit 10s)!", LIMIT_S, after=seen)
    guest.wait_for_line(
        f"multipathd.service: Killing process {main} (multipathd) with signal SIGABRT", LIMIT_S, after=seen
    )
    if blocks_abort:
        guest.wait_for_line(
            f"multipathd.service: Killing process {main} (multipathd) with signal SIGKILL", LIMIT_S, after=seen
        )
    guest.wait_for_line("multipathd.service: Failed with result 'watchdog'", LIMIT_S, after=seen)
    guest.wait_for_line("Started multipathd.service", LIMIT_S, after=seen)
    (second,) = show(guest, "multipathd.service", "MainPID")
    assert second != main

    seen = len(guest.console)
    guest.signal(int(second), signal.SIGKILL)
    guest.wait_for_line("multipathd.service: Failed with result 'signal'", LIMIT_S, after=seen)
    guest.wait_for_line("Started multipathd.service", LIMIT_S, after=seen)
    assert show(guest, "multipathd.service", "NRestarts") == ["2"]
    assert job(guest, "restart", "multipathd.service") == "done"
    assert guest.run("multipathd", "show", "daemon").startswith("pid ")
    assert job(guest, "stop", "multipathd.service") == "done"
    assert show(guest, "multipathd.service", "ActiveState", "Result") == ["inactive", "success"]
    assert show(guest, "multipathd.socket", "SubState") == ["listening"]
    # Whoever asks it, starts it.
    guest.run("multipathd", "show", "daemon", check=False)
    guest.wait_for_line("Started multipathd.service", LIMIT_S, after=seen + 1)


def test_a_supervisor_that_hangs_is_reset(lab: Lab) -> None:
    """Service, supervisor, watchdog daemon, hardware watchdog: process 1 is frozen, the machine restarts."""
    command = shlex.join(WATCHDOG_DAEMON)
    units = {
        "holdfast-watchdog.service": (PACKAGING / "holdfast-watchdog.service").read_text(),
        "holdfast-watchdog.service.d/guest.conf": f"[Service]\nExecStart=\nExecStart={command}\nExecStop=\n"
        "Environment=PYTHONPATH=/run/package\n",
    }
    setup = "mount -t cgroup2 cgroup2 /sys/fs/cgroup"
    guest = lab.guest(*I6300ESB, supervised=Supervised(units, ("--watchdog", str(GUARDED_S)), setup))
    load_driver(guest)
    assert job(guest, "start", "holdfast-watchdog.service") == "done"
    guest.wait_for_line("guarded by the watchdog daemon: this loop", LIMIT_S)
    guest.run("mkdir", "/sys/fs/cgroup/hang")
    guest.run("sh", "-c", "echo 1 >/sys/fs/cgroup/hang/cgroup.procs; echo 1 >/sys/fs/cgroup/hang/cgroup.freeze")
    guest.wait_for_event("WATCHDOG", LIMIT_S)
    assert guest.wait_for_event("SHUTDOWN", LIMIT_S).data["reason"] == "guest-reset"
