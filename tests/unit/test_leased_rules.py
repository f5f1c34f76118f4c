"""Decisions of the daemon without a socket: recovery table, signals, arguments, record, options, log."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys

import pytest

from holdfast.daemons.log import LineFormatter, LogRing
from holdfast.daemons.processes import Process, start_time
from holdfast.leased import wire
from holdfast.leased.clients import ClientTable
from holdfast.leased.killpath import killpath_argv, split_arguments
from holdfast.leased.options import DaemonOptions
from holdfast.leased.recovery import Action, Event, Kill, Phase, choose_kill, react


def test_a_lost_lockspace_never_becomes_healthy_again() -> None:
    for phase in (Phase.FAILING, Phase.REMOVING, Phase.STUCK):
        for event in Event:
            assert react(phase, event)[0] is not Phase.HEALTHY


def test_the_first_kill_round_comes_with_the_failure() -> None:
    assert react(Phase.HEALTHY, Event.LOST) == (Phase.FAILING, (Action.BEGIN_FAILING, Action.KILL_ROUND))
    assert react(Phase.FAILING, Event.REMOVE) == (Phase.REMOVING, (Action.KILL_ROUND,))
    assert react(Phase.STUCK, Event.ROUND) == (Phase.STUCK, ())
    assert react(Phase.STUCK, Event.CLEAR) == (Phase.GONE, (Action.END,))
    assert react(Phase.HEALTHY, Event.CLEAR) == (Phase.HEALTHY, ())


TERM, KILL = Kill(signal.SIGTERM), Kill(signal.SIGKILL)


@pytest.mark.parametrize(
    ("phase", "in_grace", "grace", "killpath", "sent", "restricted", "expected"),
    [
        (Phase.FAILING, True, 40, False, False, 0, TERM),
        (Phase.FAILING, False, 40, False, False, 0, KILL),
        (Phase.FAILING, True, 40, True, False, 0, Kill(killpath=True)),
        (Phase.FAILING, True, 40, True, True, 0, Kill()),
        (Phase.FAILING, False, 40, True, True, 0, KILL),
        (Phase.FAILING, False, 0, True, False, 0, KILL),
        (Phase.REMOVING, True, 40, True, False, 0, KILL),
        (Phase.FAILING, True, 40, False, False, wire.RESTRICT_SIGTERM, KILL),
        (Phase.FAILING, False, 40, False, False, wire.RESTRICT_SIGKILL, TERM),
        (Phase.REMOVING, False, 40, False, False, wire.RESTRICT_SIGKILL, TERM),
        (Phase.FAILING, True, 40, False, False, wire.RESTRICT_SIGKILL | wire.RESTRICT_SIGTERM, KILL),
    ],
)
def test_choice_of_signal(
    phase: Phase, in_grace: bool, grace: int, killpath: bool, sent: bool, restricted: int, expected: Kill
) -> None:
    chosen = choose_kill(
        phase=phase,
        in_grace=in_grace,
        kill_grace=grace,
        has_killpath=killpath,
        killpath_sent=sent,
        restricted=restricted,
    )
    assert chosen == expected


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("one two\\ three four\\\\five", ["one", "two three", "four\\five"]),
        ("  a   b ", ["a", "b"]),
        ("a\\nb c", ["a"]),
        ("a b\\", ["a", "b"]),
        ("a\x01b", ["a"]),
        ("é", []),
        ("", []),
    ],
)
def test_killpath_arguments(text: str, arguments: list[str]) -> None:
    assert split_arguments(text) == arguments


def test_killpath_has_at_most_eight_arguments_and_the_pid_is_last() -> None:
    assert killpath_argv("/k", "1 2 3 4 5 6 7 8 9", 42) == ["/k", "1", "2", "3", "4", "5", "6", "42"]
    assert killpath_argv("/k", "1 2 3 4 5 6 7 8 9", 0) == ["/k", "1", "2", "3", "4", "5", "6", "7"]


def test_a_process_that_is_gone_is_never_signalled() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        process = Process(child.pid)
        assert process.signal(0) == 0
        assert not process.is_gone()
        assert process.start == start_time(child.pid)
        child.kill()
        child.wait()
        assert process.is_gone()
        assert process.signal(signal.SIGKILL) != 0
        process.close()
        assert Process(child.pid).signal(0) != 0


def test_client_slots_are_reused_from_the_lowest() -> None:
    table = ClientTable(limit=5)
    first, second, third = (table.add(fd) for fd in (10, 11, 12))
    assert (first.ci, second.ci, third.ci) == (2, 3, 4)  # type: ignore[union-attr]
    assert table.add(13) is None
    assert first is not None
    table.remove(first)
    again = table.add(14)
    assert again is not None
    assert again.ci == 2


def test_the_first_slot_with_a_pid_is_found() -> None:
    table = ClientTable()
    first, second = table.add(1), table.add(2)
    assert first is not None
    assert second is not None
    me = os.getpid()
    table.register(second, me, Process(me))
    table.register(first, me, Process(me))
    assert table.by_pid(me) is first
    table.forget_pid(first)
    assert table.by_pid(me) is second
    assert table.by_pid(0) is None
    table.remove(first)
    table.remove(second)
    assert table.by_pid(me) is None


# -- options and log -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fire", "given", "grace"), [(60, None, 40), (59, None, 15), (29, None, 0), (29, 5, 5)])
def test_kill_grace(fire: int, given: int | None, grace: int) -> None:
    assert DaemonOptions(run_dir="/x", fire_timeout_s=fire, kill_grace_s=given).kill_grace == grace


def test_log_ring_keeps_the_newest_lines_and_cuts_long_ones() -> None:
    ring = LogRing(LineFormatter(True), max_bytes=2000)
    for number in range(100):
        ring.emit(logging.LogRecord("x", logging.INFO, "", 0, "line %d " + "y" * 600, (number,), None))
    lines = ring.dump().split(b"\n")
    assert b"line 99" in lines[-1]
    assert all(len(line) <= 511 for line in lines)
    assert len(ring.dump()) <= 2000
