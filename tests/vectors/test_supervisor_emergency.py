"""What the machine did (emergency.json), through a manager with a fake system on virtual time."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.unit.service_lab import Lab, in_lab
from tests.vectors.supervisor_world import vectors

from holdfast.service.events import Role, Spawn
from holdfast.service.manager.emergency import How, Place

_CASES = {case["name"]: case for case in vectors("emergency")["cases"]}
_OLD = "StartLimitInterval=5min\nStartLimitBurst={burst}\nStartLimitAction=reboot-force\nRestart=on-failure\n"
_FAILS = "[Service]\nType=oneshot\nExecStart=/probe/p exit:1\n"
_UNITS = {
    "fail-reboot": "[Unit]\nFailureAction=reboot\n" + _FAILS,
    "fail-reboot-force": "[Unit]\nFailureAction=reboot-force\n" + _FAILS,
    "fail-reboot-immediate": "[Unit]\nFailureAction=reboot-immediate\n" + _FAILS,
    "fail-exit": "[Unit]\nFailureAction=exit\nFailureActionExitStatus=7\n" + _FAILS,
    "success-poweroff-force": "[Unit]\nSuccessAction=poweroff-force\n" + _FAILS.replace("exit:1", "exit:0"),
    "limit-old": "[Service]\n" + _OLD.format(burst=4) + "RestartSec=100ms\nExecStart=/probe/p exit:1\n",
    "wd-old": "[Service]\nType=notify\nWatchdogSec=1s\n"
    + _OLD.format(burst=2)
    + "ExecStart=/probe/p n:READY=1 pause\n",
    "fail-restart-reboot": "[Unit]\nFailureAction=reboot-force\nStartLimitBurst=3\n[Service]\nRestart=on-failure\n"
    "ExecStart=/probe/p exit:1\n",
}
_SIGNALS = {
    "sigint": int(signal.SIGINT),
    "rtmin3": int(signal.SIGRTMIN) + 3,
    "rtmin4": int(signal.SIGRTMIN) + 4,
    "rtmin15": int(signal.SIGRTMIN) + 15,
}
_KINDS = {"restart": "reboot", "power-off": "poweroff", "halt": "halt"}
_BYE = "[Service]\nExecStart=/probe/p term:0 pause\nExecStop=/probe/p log:bye\n"
_NOT_OURS = ("Shutting down.", "Sending SIG", "Rebooting.", "Powering off.", "reboot: ")


@pytest.mark.parametrize("name", [*_UNITS, *_SIGNALS])
def test_on_a_machine(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    case = _CASES[name]
    lab = Lab(tmp_path, Place.MACHINE)
    lab.write({"bye.service": _BYE, "em.service": _UNITS.get(name, "")})
    caplog.set_level("INFO", "holdfast")

    async def scene() -> None:
        await lab.start("bye.service")
        await asyncio.sleep(1)
        if name in _SIGNALS:
            lab.life.signals()[_SIGNALS[name]]()
        else:
            await lab.start("em.service")
        async with asyncio.timeout(60):
            await lab.life.ended
        (ending,) = lab.system.endings
        assert ending.kind == _KINDS[case["machine_ended"]]
        bye = any(isinstance(action, Spawn) and action.role is Role.STOP for _, action in lab.host.performed)
        assert bye == case["bye_service_ExecStop_ran"]
        assert (ending.how is How.ORDERED) == bye

    in_lab(lab, scene)
    said = "\n".join(record.getMessage() for record in caplog.records)
    position = 0
    for line in _told(case):
        found = said.find(line, position)
        assert found >= 0, line
        position = found


def _told(case: dict[str, Any]) -> list[str]:
    """Lines about the unit and the decision; the manager's own last words are the kernel's and systemd's."""
    lines = []
    for line in case["console"]:
        unit = line.startswith("em.service: ") and "process" not in line
        if (unit or line.startswith(("Forcibly", "Doing"))) and not line.startswith(_NOT_OURS):
            lines.append(line)
    return lines


def test_sigterm_leaves_a_machine_running(tmp_path: Path) -> None:
    """systemd executes itself anew; Holdfast reads its files again."""
    lab = Lab(tmp_path, Place.MACHINE)
    lab.write({"bye.service": _BYE})

    async def scene() -> None:
        await lab.start("bye.service")
        lab.life.signals()[int(signal.SIGTERM)]()
        await asyncio.sleep(5)
        assert lab.states() == {"bye.service": "running"}
        assert not lab.life.is_ending

    in_lab(lab, scene)


def test_in_a_container_exit_has_the_status(tmp_path: Path) -> None:
    lab = Lab(tmp_path, Place.CONTAINER)
    lab.write({"bye.service": _BYE, "em.service": _UNITS["fail-exit"]})

    async def scene() -> None:
        await lab.start("bye.service")
        await lab.start("em.service")
        assert await lab.life.ended == 7
        assert lab.system.endings[0].kind == "exit"

    in_lab(lab, scene)


def test_many_ctrl_alt_del_give_up_the_order(tmp_path: Path) -> None:
    lab = Lab(tmp_path, Place.MACHINE)
    lab.write({"slow.service": "[Service]\nExecStart=/probe/p ign:TERM pause\n"})

    async def scene() -> None:
        await lab.start("slow.service")
        await asyncio.sleep(1)
        for _ in range(8):
            lab.life.signals()[int(signal.SIGINT)]()
        await lab.life.ended
        assert [(one.kind, one.how) for one in lab.system.endings] == [("reboot", How.FORCE)]

    in_lab(lab, scene)
