"""Under a service manager with WatchdogSec: a hanging path is no reason to be killed, a blocked loop is."""

from __future__ import annotations

import signal
from typing import Final

from tests.guest import path_lab
from tests.guest.lab import Lab
from tests.guest.path_daemons import (
    COMMANDS,
    MAP,
    START_LIMIT_S,
    STEP_LIMIT_S,
    PathDaemon,
    clean,
    conf,
    write_conf,
)
from tests.guest.path_lab import PYTHON, Paths

WATCHDOG_S: Final = 15
"""Long, because the guest is slow."""
PINGS: Final = 3
PATHS: Final = 2
PYTHON_PATH: Final = "/run/package:/run/package/inside/blocking_checker"
KILLED: Final = "watchdog: no ping in time"


def _supervised(paths: Paths, text: str) -> PathDaemon:
    """`pid` is the service manager's."""
    write_conf(paths, text)
    program = (PYTHON, "-S", "-E", "/run/package/inside/path_supervisor.py", str(WATCHDOG_S))
    command = ("env", f"PYTHONPATH={PYTHON_PATH}", *program, *COMMANDS["holdfast"])
    seen = len(paths.guest.console)
    pid = paths.guest.start(*command, log="manager")
    paths.guest.wait_for_line("notify READY=1", START_LIMIT_S, after=seen)
    return PathDaemon(paths, "holdfast", pid).wait_for_map(PATHS)


def _pings(paths: Paths, count: int) -> None:
    """Wait for that many more."""
    for _ in range(count):
        paths.guest.wait_for_line("notify WATCHDOG=1", STEP_LIMIT_S, after=len(paths.guest.console))


def test_hung_path_and_blocked_loop(lab: Lab) -> None:
    paths = path_lab.shared_paths(lab, PATHS)
    guest = paths.guest
    common = {"path_grouping_policy": "multibus", "detect_checker": "no", "checker_timeout": "3", "force_sync": ""}
    daemon = _supervised(paths, conf(path_checker="readsector0", **common))
    paths.disks[0].hang()
    daemon.wait_for_paths({"8:0": "F", "8:16": "A"})
    _pings(paths, PINGS)
    paths.disks[0].go_on()
    daemon.wait_for_paths({"8:0": "A"})
    assert not any(KILLED in line.text for line in list(guest.console))
    guest.signal(daemon.pid, signal.SIGTERM)
    guest.wait_for_line("manager: daemon ended 0", STEP_LIMIT_S)
    clean(paths)
    seen = len(guest.console)
    _supervised(paths, conf(path_checker="blocking", **common))
    _pings(paths, 1)
    paths.shell("touch /run/block")
    guest.wait_for_line(KILLED, STEP_LIMIT_S, after=seen)
    guest.wait_for_line("manager: daemon ended -6", STEP_LIMIT_S, after=seen)
    table = paths.shell(f"dmsetup table {MAP}")
    assert "multipath" in table, "the map stays"
