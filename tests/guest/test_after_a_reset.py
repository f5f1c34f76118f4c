"""What a host wrote before its reset is there after it, and the driver says that it was the watchdog."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.guest.chain import STEP_LIMIT_S, WATCHDOG_DAEMON
from tests.guest.lab import I6300ESB, Lab


def test_files_survive(lab: Lab) -> None:
    disk = lab.file_system()
    guest = lab.guest(*I6300ESB, disk=disk, reboots=True)
    lab.mount(guest)
    directory = Path("/var/lib/holdfast")
    guest.run("sh", "-c", f"echo before >{directory}/note; sync {directory}/note")
    guest.run("modprobe", "i6300esb")
    guest.start(*WATCHDOG_DAEMON, log="watchdog")
    guest.wait_for_line("watchdog daemon started", STEP_LIMIT_S)
    guest.start(sys.executable, "-S", "-E", "/run/package/inside/client.py", "6", "3", "expiring", log="client")
    guest.wait_for_event("RESET", STEP_LIMIT_S)
    guest.wait_for_boot()
    lab.mount(guest)
    guest.run("modprobe", "i6300esb")
    assert guest.run("cat", str(directory / "note")) == "before\n"
    assert guest.run("cat", "/sys/class/watchdog/watchdog0/bootstatus") == "32\n"
