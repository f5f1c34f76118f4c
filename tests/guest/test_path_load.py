"""What each daemon costs for N paths: processor time and memory, one after the other in the same guest."""

from __future__ import annotations

import time
from typing import Final

import pytest

from tests.guest import path_lab, path_results
from tests.guest.lab import Lab
from tests.guest.path_daemons import DAEMONS, PathDaemon, conf, running

WINDOW_S: Final = 30.0
CLOCK_TICKS: Final = 100
"""Of /proc/PID/stat, in every kernel of Debian."""


def _cost(daemon: PathDaemon, count: int) -> dict[str, float]:
    daemon.wait(lambda: daemon.ask("show", "paths", "raw", "format", "%T").split() == ["ready"] * count, "all up")

    def seconds() -> tuple[float, float]:
        """Processor time, and when that was."""
        fields = daemon.paths.shell(f"cat /proc/{daemon.pid}/stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS, daemon.paths.guest.uptime

    used, began = seconds()
    time.sleep(WINDOW_S)
    used_later, ended = seconds()
    status = daemon.paths.shell(f"grep -E '^(VmRSS|RssAnon|VmLck|Threads)' /proc/{daemon.pid}/status")
    memory = {line.split(":")[0]: int(line.split()[1]) for line in status.splitlines()}
    return {"cpu_percent": round(100 * (used_later - used) / (ended - began), 2), **memory}


@pytest.mark.parametrize("count", [4, 32])
def test_cost(lab: Lab, count: int) -> None:
    """Every path is checked each second, the shortest interval there is."""
    paths = path_lab.debug_paths(lab, count)
    text = conf(
        force_sync="", max_polling_interval="1", path_grouping_policy="group_by_prio", no_path_retry="fail"
    )
    for kind in DAEMONS:
        with running(paths, kind, text) as daemon:
            cost = _cost(daemon, count)
        lab.record(f"{kind}, {count} paths checked each second: {cost}")
        path_results.put("cost", str(count), kind, cost)
