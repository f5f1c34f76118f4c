"""A path whose reads hang, while TEST UNIT READY is still answered: neither other paths' checks nor the CLI wait.

Each daemon in turn in the same guest. The original's synchronous checkers (readsector0) stop its loop and its CLI;
its directio does not. What both take is recorded, in milliseconds as a client inside sees it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

import pytest

from tests.guest import path_lab, path_results
from tests.guest.lab import Lab
from tests.guest.path_daemons import PathDaemon, conf, running
from tests.guest.path_lab import PYTHON, Paths

PATHS: Final = 3
WINDOW_S: Final = 20
COMMANDS: Final = ("show paths", "show topology", "show maps status", "show status", "show maps json")
CHECKS: Final = 3
"""Of each other path, while one hangs."""


@dataclass(frozen=True)
class Seen:
    """What the client saw in `WINDOW_S`, milliseconds of all commands together."""

    p50: float
    p99: float
    most: float
    answers: int
    failed: int
    """Replies that were `timeout`."""

    @classmethod
    def of(cls, paths: Paths) -> Seen:
        """Asks."""
        program = (PYTHON, "-S", "-E", "/run/package/inside/path_cli.py")
        told = json.loads(paths.guest.run(*program, str(WINDOW_S), *COMMANDS))
        taken = sorted(one for each in told["ms"].values() for one in each)
        return cls(taken[len(taken) // 2], taken[len(taken) * 99 // 100], taken[-1], len(taken), told["failed"])

    def __str__(self) -> str:
        return f"p50 {self.p50:.1f} ms, p99 {self.p99:.1f} ms, {self.failed} of {self.answers} timed out"


def _requests(paths: Paths) -> list[int]:
    """That each path's device has had: checks go there, and nothing else."""
    told = paths.shell("cat /sys/block/sd[a-c]/device/iorequest_cnt")
    return [int(line, 16) for line in told.split()]


def _all_checked(before: list[int], now: list[int]) -> bool:
    """The others."""
    return all(have >= had + CHECKS for had, have in zip(before[1:], now[1:], strict=True))


def _hang(daemon: PathDaemon, lab: Lab, checker: str) -> tuple[Seen, Seen]:
    paths = daemon.paths
    daemon.wait_for_map(PATHS)
    calm = Seen.of(paths)
    paths.disks[0].hang()
    try:
        before = _requests(paths)
        hanging = Seen.of(paths)
        after = _requests(paths)
        if daemon.kind == "holdfast":
            daemon.wait(lambda: daemon.path_states()["8:0"] == "F", "the hanging path is failed")
            daemon.wait(lambda: _all_checked(before, _requests(paths)), "the others are checked")
            assert daemon.path_states()["8:16"] == daemon.path_states()["8:32"] == "A"
    finally:
        paths.disks[0].go_on()
    daemon.wait_for_paths({"8:0": "A", "8:16": "A", "8:32": "A"})
    checks = [now - then for then, now in zip(before, after, strict=True)][1:]
    lab.record(f"{daemon.kind}, {checker}: {calm}; one path hangs: {hanging}, checks of the others {checks}")
    path_results.put(
        "hang", checker, daemon.kind, {"calm": vars(calm), "hanging": vars(hanging), "checks": checks}
    )
    return calm, hanging


@pytest.mark.parametrize("checker", ["readsector0", "directio"])
def test_hanging_path(lab: Lab, checker: str) -> None:
    paths = path_lab.shared_paths(lab, PATHS)
    text = conf(
        path_checker=checker,
        detect_checker="no",
        checker_timeout="5",
        path_grouping_policy="multibus",
        force_sync="",
    )
    with running(paths, "multipathd", text) as daemon:
        _, real = _hang(daemon, lab, checker)
    with running(paths, "holdfast", text) as daemon:
        _, ours = _hang(daemon, lab, checker)
    lab.record(f"{checker}: p99 of the CLI while a path hangs, ours / multipathd: {ours.p99 / real.p99:.4f}")
    path_results.put("hang", checker, "ratio of p99", ours.p99 / real.p99)
    assert ours.failed == 0
