"""What real services did under systemd 252 and 257, against our state machine on virtual time."""

from __future__ import annotations

from typing import Any

import pytest
from tests.vectors.supervisor_world import World, vectors

_MATRIX = vectors("restart-matrix")["rows"]
_UNIT = "[Unit]\nDefaultDependencies=no\nStartLimitIntervalSec=0\n[Service]\n"


@pytest.mark.parametrize("row", _MATRIX, ids=lambda row: f"{row['way']}/{row['policy']}")
def test_restart_matrix(row: dict[str, Any]) -> None:
    text = f"{_UNIT}Restart={row['policy']}\nRestartSec=1h\n{row['service']}\n"
    world = World({"a.service": text})
    world.command("start", "a.service", wait=False)
    world.advance(120_000)
    shown = world.show("a.service")
    keys = ["LoadState", "ActiveState", "SubState", "Result", "NRestarts"]
    if not row["unit_was_unloaded"]:
        keys += ["ExecMainCode", "ExecMainStatus"]
    assert {key: shown[key] for key in keys} == {key: str(row[key]) for key in keys}
    assert (shown["SubState"] == "auto-restart") == row["will_restart"]


_KILL = vectors("kill")["cases"]


@pytest.mark.parametrize("case", _KILL, ids=lambda case: case["name"])
def test_kill(case: dict[str, Any]) -> None:
    world = World({"a.service": f"[Unit]\nDefaultDependencies=no\n[Service]\n{case['service']}\n"})
    world.command("start", "a.service", wait=False)
    world.advance(12_000)
    before = world.show("a.service")
    keys = ["ActiveState", "SubState", "Result"]
    assert {key: before[key] for key in keys} == {key: case["before_stop"][key] for key in keys}
    world.command("stop", "a.service", wait=False)
    world.advance(30_000)
    after = world.show("a.service")
    if after["Result"] != "success":
        keys += ["ExecMainCode", "ExecMainStatus"]
    assert {key: after[key] for key in keys} == {key: case["after_stop"][key] for key in keys}
    assert _timeouts(world.log) == _timeouts(case["log"])


def _timeouts(log: list[str]) -> list[str]:
    return [line.split(": ", 1)[-1] for line in log if "timed out" in line]


_WATCHDOG = vectors("watchdog")["cases"]


@pytest.mark.parametrize("case", _WATCHDOG, ids=lambda case: case["name"])
def test_watchdog(case: dict[str, Any]) -> None:
    world = World({"a.service": f"[Unit]\nDefaultDependencies=no\n[Service]\n{case['service']}\n"})
    world.command("start", "a.service", wait=False)
    if case["name"] == "stop-disarms":
        world.advance(1000)
        world.command("stop", "a.service", wait=False)
    world.advance(9500)
    expected, shown = case["final"], world.show("a.service")
    keys = ["ActiveState", "SubState", "Result", "NRestarts", "StatusText"]
    if expected["Result"] != "success" or expected["ActiveState"] == "active":
        keys += ["ExecMainCode", "ExecMainStatus", "WatchdogUSec"]
    assert {key: shown[key] for key in keys} == {key: expected[key] for key in keys}
    said = [line.split("a.service: ", 1)[-1] for line in world.log]
    theirs = [line for _, line in case["manager_log_ms"]]
    for word in ("Watchdog timeout", "Watchdog request", "State '", "field is invalid"):
        assert [line for line in said if word in line] == [
            line.split(".service: ", 1)[-1] for line in theirs if word in line
        ]


_NOTIFY = vectors("notify")["cases"]
_NEWER = {case["name"]: case["differs"] for case in vectors("new-257")["notify_differences_from_252"]["cases"]}
_NOT_PURE = {
    "all-from-dead-child": "a sender that is gone cannot be attributed: the shell's matter",
    "mainpid-foreign": "needs a process of another unit",
    "mainpid-foreign-nonroot": "needs a process of another unit",
    "cred-claim-pid1": "credentials are the shell's matter",
}
_DIFFERENT = {
    "reloading-hang": "a reload that is never finished ends after TimeoutStartSec: the service is running again",
}


@pytest.mark.parametrize("case", _NOTIFY, ids=lambda case: case["name"])
def test_notify(case: dict[str, Any]) -> None:
    name = case["name"]
    if name in _NOT_PURE:
        pytest.skip(_NOT_PURE[name])
    expected = dict(case["props"]) | {key: both["257"] for key, both in _NEWER.get(name, {}).items()}
    world = World({"a.service": f"[Unit]\nDefaultDependencies=no\n[Service]\n{case['service']}\n"})
    world.command("start", "a.service", wait=False)
    world.advance(11_000)
    shown = world.show("a.service")
    keys = ["ActiveState", "SubState", "Result", "NRestarts", "StatusText", "StatusErrno", "NotifyAccess"]
    if name in _DIFFERENT:
        assert (shown["ActiveState"], shown["SubState"]) == ("active", "running")
        return
    if expected["ActiveState"] is None:
        assert "a.service: Status message in notification message is not UTF-8 clean, ignoring." in world.log
        return
    assert {key: shown[key] for key in keys} == {key: expected[key] for key in keys}


CHAIN = """\
     0 a.service  dead -> start
     0 a.service  start -> start-post
     0 a.service  start-post -> running
     0 a.service  job start: done
  1000 a.service  Watchdog timeout (limit 1s)!
  1000 a.service  Killing process 101 with signal SIGABRT.
  1000 a.service  running -> stop-watchdog
  1000 a.service  Main process exited, code=killed, status=6/ABRT
  1000 a.service  Failed with result 'watchdog'.
  1000 a.service  stop-watchdog -> failed
  1000 a.service  failed -> auto-restart
  1100 a.service  Scheduled restart job, restart counter is at 1.
  1100 a.service  auto-restart -> start
  1100 a.service  start -> start-post
  1100 a.service  start-post -> running
  1100 a.service  job start: done
  2100 a.service  Watchdog timeout (limit 1s)!
  2100 a.service  Killing process 102 with signal SIGABRT.
  2100 a.service  running -> stop-watchdog
  2100 a.service  Main process exited, code=killed, status=6/ABRT
  2100 a.service  Failed with result 'watchdog'.
  2100 a.service  stop-watchdog -> failed
  2100 a.service  failed -> auto-restart
  2200 a.service  Scheduled restart job, restart counter is at 2.
  2200 a.service  Start request repeated too quickly.
  2200 a.service  reboot-force: unit a.service failed
  2200 a.service  Failed with result 'watchdog'.
  2200 a.service  auto-restart -> failed
  2200 a.service  job start: failed"""


def test_from_a_missing_ping_to_the_reboot() -> None:
    """The chain of the watchdogs, old spellings in [Service]: hung, killed, restarted, and the host is reset."""
    text = (
        "[Unit]\nDefaultDependencies=no\n[Service]\nType=notify\nWatchdogSec=1s\nRestart=on-failure\n"
        "StartLimitInterval=5min\nStartLimitBurst=2\nStartLimitAction=reboot-force\n"
        "ExecStart=/probe/p n:READY=1 pause\n"
    )
    world = World({"a.service": text})
    world.command("start", "a.service", wait=False)
    world.advance(5000)
    assert "\n".join(world.transcript) == CHAIN
