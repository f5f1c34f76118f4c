"""What a machine does whose process 1 is the supervisor: emergency.json, with a real kernel and real resets."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any, Final

import pytest

from tests.guest.lab import Lab
from tests.guest.machine import Guest, Supervised

CASES: Final = {
    case["name"]: case
    for case in json.loads((Path(__file__).parents[1] / "vectors/supervisor/emergency.json").read_text())["cases"]
}
LIMIT_S: Final = 180.0
BYE: Final = "[Service]\nExecStart=/bin/sleep 100000\nExecStop=/bin/sh -c 'echo BYE-EXECSTOP >/dev/console'\n"
RUN: Final = "ExecStart=/bin/sh -c 'echo EM-RUN >/dev/console; exit {}'\n"
FAILS: Final = "[Service]\nType=oneshot\n" + RUN.format(1)
OLD: Final = "Restart=on-failure\nRestartSec=100ms\nStartLimitInterval=5min\nStartLimitAction=reboot-force\n"
UNITS: Final = {
    "fail-reboot": "[Unit]\nFailureAction=reboot\n" + FAILS,
    "fail-reboot-force": "[Unit]\nFailureAction=reboot-force\n" + FAILS,
    "fail-reboot-immediate": "[Unit]\nFailureAction=reboot-immediate\n" + FAILS,
    "fail-exit": "[Unit]\nFailureAction=exit\nFailureActionExitStatus=7\n" + FAILS,
    "success-poweroff-force": "[Unit]\nSuccessAction=poweroff-force\n[Service]\nType=oneshot\n" + RUN.format(0),
    "limit-old": f"[Service]\n{OLD}StartLimitBurst=4\n" + RUN.format(1),
    "wd-old": f"[Service]\nType=notify\nNotifyAccess=all\nWatchdogSec=1s\n{OLD}StartLimitBurst=2\n"
    "ExecStart=/bin/sh -c 'echo EM-RUN >/dev/console; systemd-notify --ready; exec sleep 1000'\n",
    "fail-restart-reboot": "[Unit]\nFailureAction=reboot-force\nStartLimitBurst=3\n"
    "[Service]\nRestart=on-failure\n" + RUN.format(1),
}
SIGNALS: Final = {
    "sigint": int(signal.SIGINT),
    "rtmin3": int(signal.SIGRTMIN) + 3,
    "rtmin4": int(signal.SIGRTMIN) + 4,
    "rtmin15": int(signal.SIGRTMIN) + 15,
}
GO: Final = {
    # Starts em.service, once: without a program of ours, which an emulated processor starts slowly.
    "go.path": "[Path]\nPathExists=/run/go\n",
    "go.service": "[Unit]\nOnSuccess=em.service\n[Service]\nType=oneshot\nExecStart=/bin/rm /run/go\n",
}
ENDINGS: Final = {"restart": "guest-reset", "power-off": "guest-shutdown"}
TOLD: Final = re.compile(
    r"EM-RUN|BYE-EXECSTOP|(?:em\.service: (?:Watchdog timeout|Scheduled restart|Start request|Failed with"
    r"|Main process)|Forcibly rebooting|Doing )[^\r]*"
)


def booted(lab: Lab, em: str = "") -> Guest:
    """bye.service runs; em.service waits for `go`."""
    units = {"bye.service": BYE, "em.service": em, **GO} if em else {"bye.service": BYE}
    arguments = ("bye.service", "go.path") if em else ("bye.service",)
    guest = lab.guest(supervised=Supervised(units, arguments))
    assert guest.run("cat", "/proc/1/comm").strip().startswith("python")
    guest.wait_for_line("Started bye.service", LIMIT_S)
    if em:
        guest.wait_for_line("Started go.path", LIMIT_S)
    return guest


def told(lines: list[str]) -> list[str]:
    """Marks of what ran, and what the supervisor said about it."""
    return [found.group() for line in lines if (found := TOLD.search(line))]


def ended(guest: Guest, case: dict[str, Any]) -> None:
    """As recorded: the machine, and whether units were stopped in order before."""
    if case["machine_ended"] == "halt":
        guest.wait_for_line("reboot: System halted", LIMIT_S)
        assert not guest.events_named("SHUTDOWN")
    else:
        assert guest.wait_for_event("SHUTDOWN", LIMIT_S).data["reason"] == ENDINGS[case["machine_ended"]]
    ours = told([line.text for line in guest.console])
    assert "Kernel panic" not in guest.tail()
    assert ("BYE-EXECSTOP" in ours) == case["bye_service_ExecStop_ran"], guest.tail()


@pytest.mark.parametrize("name", [*UNITS])
def test_emergency(lab: Lab, name: str) -> None:
    case = CASES[name]
    guest = booted(lab, UNITS[name])
    guest.run("touch", "/run/go")
    ended(guest, case)
    ours = told([line.text for line in guest.console])
    theirs = told(case["console"])
    if not any("Forcibly" in line for line in theirs):  # Not every recording has this line.
        ours = [line for line in ours if "Forcibly" not in line]
    kept = [line for line in ours if line != "EM-RUN"]
    assert kept == [line for line in theirs if line != "EM-RUN"], guest.tail()
    runs = sum("EM-RUN" in line for line in case["console"])
    assert not runs or sum("EM-RUN" in line.text for line in guest.console) == runs


@pytest.mark.parametrize("name", [*SIGNALS])
def test_signal(lab: Lab, name: str) -> None:
    guest = booted(lab)
    guest.ask(run=["sh", "-c", f"kill -{SIGNALS[name]} 1"])
    ended(guest, CASES[name])


def test_sigterm(lab: Lab) -> None:
    """A machine goes on, as systemd's does; then a signal that leaves out the order."""
    guest = booted(lab)
    guest.signal(1, signal.SIGTERM)
    guest.wait_for_line("Reloading.", LIMIT_S)
    guest.run("pgrep", "-f", "sleep 100000")
    guest.signal(1, int(signal.SIGRTMIN) + 14)
    ended(guest, CASES["sigterm"])
