"""Paths that fail and return under I/O; what becomes of I/O without any path; failback. With either daemon."""

from __future__ import annotations

from typing import Final

import pytest

from tests.guest import path_lab
from tests.guest.lab import Lab
from tests.guest.path_daemons import DAEMONS, MAP, PathDaemon, conf, running
from tests.guest.path_io import Writer
from tests.guest.path_lab import DEBUG_DEVICES, Paths

SDA, SDB, SDC, SDD = "8:0", "8:16", "8:32", "8:48"
ALL: Final = (SDA, SDB, SDC, SDD)
BEST: Final = ("sda", "sdd")
"""Both active/optimized: the best group when groups are made by priority."""


def _all(letter: str) -> dict[str, str]:
    return dict.fromkeys(ALL, letter)


def _set(paths: Paths, devs: tuple[str, ...], state: str) -> None:
    for dev in devs:
        paths.set_state(dev, state)


def _is_current(daemon: PathDaemon, group: int) -> bool:
    return daemon.status().groups[group - 1].state.letter == "A"


@pytest.mark.parametrize("kind", DAEMONS)
def test_path_offline_and_back(lab: Lab, kind: str) -> None:
    """Data is written and verified meanwhile; nothing of it fails."""
    paths = path_lab.debug_paths(lab)
    with running(paths, kind, conf(no_path_retry="fail", failback="immediate")) as daemon:
        daemon.wait_for_map(len(ALL))
        writer = Writer(paths.guest, MAP)
        paths.set_state("sda", "offline")
        daemon.wait_for_paths({SDA: "F", SDD: "A"})
        writer.wait_for_rounds()
        paths.set_state("sda", "running")
        daemon.wait_for_paths(_all("A"))
        # The whole best group: the next one takes over, and gives back.
        _set(paths, BEST, "offline")
        daemon.wait_for_paths({SDA: "F", SDD: "F", SDB: "A"})
        writer.wait_for_rounds()
        assert _is_current(daemon, 2)
        _set(paths, BEST, "running")
        daemon.wait_for_paths(_all("A"))
        daemon.wait(lambda: _is_current(daemon, 1), "back to the best group")
        writer.wait_for_rounds()
        assert writer.end() == 0


@pytest.mark.parametrize("kind", DAEMONS)
def test_operator(lab: Lab, kind: str) -> None:
    """A path that the operator has failed stays failed while its checker would find it good."""
    paths = path_lab.debug_paths(lab)
    with running(paths, kind, conf(no_path_retry="fail")) as daemon:
        daemon.wait_for_map(len(ALL))
        assert daemon.ask("fail", "path", "sdb").strip() == "ok"
        daemon.wait_for_paths({SDB: "F", SDA: "A"})
        paths.set_state("sda", "offline")
        daemon.wait_for_paths({SDA: "F"})
        paths.set_state("sda", "running")
        daemon.wait_for_paths({SDA: "A"})
        # Others were checked since: it would have been reinstated by now.
        assert daemon.path_states()[SDB] == "F"
        assert daemon.ask("reinstate", "path", "sdb").strip() == "ok"
        daemon.wait_for_paths(_all("A"))


@pytest.mark.parametrize("kind", DAEMONS)
@pytest.mark.parametrize("mode", ["fail", "queue", "3"])
def test_no_path_left(lab: Lab, kind: str, mode: str) -> None:
    paths = path_lab.debug_paths(lab)
    with running(paths, kind, conf(no_path_retry=mode)) as daemon:
        daemon.wait_for_map(len(ALL))
        queueing = {"fail": "off", "queue": "on", "3": "3 chk"}[mode]
        daemon.wait(lambda: daemon.shown("%Q") == queueing, f"queueing {queueing}")
        assert ("queue_if_no_path" in daemon.table()) == (mode != "fail")
        writer = Writer(paths.guest, MAP)
        _set(paths, DEBUG_DEVICES, "offline")
        daemon.wait_for_paths(_all("F"))
        if mode == "queue":
            _still_queues(daemon, writer)
        else:
            writer.wait_for_error()
            daemon.wait(lambda: "queue_if_no_path" not in daemon.table(), "no queueing")
            daemon.wait(lambda: daemon.shown("%Q") == "off", "queueing off")
        _set(paths, DEBUG_DEVICES, "running")
        daemon.wait_for_paths(_all("A"))
        daemon.wait(lambda: daemon.shown("%Q") == queueing, f"queueing {queueing} again")
        assert ("queue_if_no_path" in daemon.table()) == (mode != "fail")
        writer.wait_for_rounds()
        failed = writer.end()
        assert (failed > 0) == (mode != "queue")


def _still_queues(daemon: PathDaemon, writer: Writer) -> None:
    """While paths are looked at again and again."""
    before = writer.rounds
    for _ in range(3):
        daemon.wait(lambda: "faulty" in daemon.shown("%T", "paths"), "paths are known to be bad")
    assert "queue_if_no_path" in daemon.table()
    assert writer.rounds <= before + 1, "I/O without a path"
    assert writer.errors == 0


@pytest.mark.parametrize("kind", DAEMONS)
@pytest.mark.parametrize("mode", ["immediate", "followover", "5", "manual"])
def test_failback(lab: Lab, kind: str, mode: str) -> None:
    """The best group fails and returns; which one is used then."""
    paths = path_lab.debug_paths(lab)
    with running(paths, kind, conf(no_path_retry="queue", failback=mode)) as daemon:
        daemon.wait_for_map(len(ALL))
        writer = Writer(paths.guest, MAP)
        assert _is_current(daemon, 1)
        _set(paths, BEST, "offline")
        daemon.wait(lambda: _is_current(daemon, 2), "the second group is used")
        daemon.wait_for_paths({SDA: "F", SDD: "F"})
        _set(paths, BEST, "running")
        daemon.wait_for_paths(_all("A"))
        if mode == "manual":
            writer.wait_for_rounds(4)
            assert _is_current(daemon, 2)
            assert daemon.ask("switch", "map", MAP, "group", "1").strip() == "ok"
        daemon.wait(lambda: _is_current(daemon, 1), "the best group is used again")
        if mode == "followover":
            # The operator's own choice is respected: no path of the best group has come up since.
            assert daemon.ask("switch", "map", MAP, "group", "2").strip() == "ok"
            daemon.wait(lambda: _is_current(daemon, 2), "the second group is used")
            writer.wait_for_rounds(4)
            assert _is_current(daemon, 2)
        writer.wait_for_rounds()
        assert writer.end() == 0
