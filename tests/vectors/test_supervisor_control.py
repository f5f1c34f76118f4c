"""systemctl's commands as recorded, through `holdfast-systemctl` and a manager on virtual time."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.service_lab import Inside, Lab, inside_commands
from tests.vectors.supervisor_world import vectors

from holdfast.cli import systemctl
from holdfast.testing.virtual_loop import VirtualLoop

_STEPS = vectors("control")["steps"]
_HEAD = "[Unit]\nDefaultDependencies=no\nDescription={}\n[Service]\n"
_UNITS = {
    "ct-run": "[Unit]\nDefaultDependencies=no\nDescription=Run test\n"
    "Documentation=man:foo(8) https://example.org/\n[Service]\nEnvironment=PN=ct-run\nType=notify\n"
    "ExecStart=/probe/p term:0 n:READY=1\\\\nSTATUS=working pause\nExecReload=/bin/true\nWatchdogSec=60\n"
    "[Install]\nWantedBy=multi-user.target\n",
    "ct-fail": _HEAD.format("Fail test") + "ExecStart=/probe/p exit:5\n",
    "ct-sig": _HEAD.format("Sig test") + "ExecStart=/probe/p kill:KILL\n",
    "ct-once": _HEAD.format("Once test") + "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n",
    "ct-slow": _HEAD.format("Slow") + "Type=notify\nTimeoutStartSec=1\nExecStart=/probe/p pause\n",
    "ct-noreload": _HEAD.format("NoReload") + "ExecStart=/probe/p pause\n",
    "ct-badreload": _HEAD.format("BadReload") + "ExecStart=/probe/p pause\nExecReload=/bin/false\n",
    "ct-stoppost": _HEAD.format("x") + "ExecStart=/probe/p s:200 exit:3\nExecStopPost=/probe/p env\n",
    "ct-stoppost-sig": _HEAD.format("x") + "ExecStart=/probe/p s:200 kill:KILL\nExecStopPost=/probe/p env\n",
    "ct-stoppost-exec": _HEAD.format("x") + "ExecStart=/nonexistent\nExecStopPost=/probe/p env\n",
}
_LEFT_OUT = {
    "systemctl show": "the manager's properties are Holdfast's own",
    "systemctl status": "the tree of the whole system",
    'systemctl list-units --all --no-pager "ct-*"': "units stay loaded when they have ended",
    "systemctl list-jobs": "jobs of the machine's own boot",
    "systemctl get-default": "the machine's own",
    "systemctl is-system-running": "the machine was still booting",
    "systemctl show-environment": "LANG is not ours to set",
    "systemctl list-sockets --no-pager": "the machine's own",
    "systemctl list-timers --no-pager": "the machine's own",
    "systemctl freeze ct-noreload": "not implemented",
    "systemctl --version | head -1": "Holdfast's own",
    "systemctl preset-all --preset-mode=enable-only --root=/nonexist": "not implemented",
    "systemctl status ct-once ct-run nosuch": "systemd forgets finished commands at a daemon-reload",
    "systemctl show -p MainPID --value ct-run": "another process",
    "systemctl list-dependencies --no-pager ct-run": "there are no slices",
}
_DROPPED = re.compile(r" +(Tasks|Memory|CPU|CGroup|IP): .*\n( +[├└]─.*\n)?")
_TIME = re.compile(r"since \w{3} [-0-9]+ [:0-9]+ \w+; .* ago")
_STAMP = re.compile(r"^\w{3} +\d+ [:0-9]+ (?:guest systemd\[1\]: )?", re.MULTILINE)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Lab, VirtualLoop]]:
    """A manager on its own loop, and the commands connected to it."""
    lab = Lab(tmp_path)
    lab.write({f"{name}.service": text for name, text in _UNITS.items()})
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(lab.open())
    inside_commands(monkeypatch, Inside(lab, loop))
    try:
        yield lab, loop
    finally:
        loop.run_until_complete(lab.close())
        asyncio.set_event_loop(None)
        loop.close()


def _same(text: str) -> str:
    """Without what differs from run to run, and what needs control groups."""
    text = _DROPPED.sub("", text)
    text = _TIME.sub("since T", text)
    text = re.sub(r"Duration: .*", "Duration: D", text)
    text = re.sub(r"(Process:|Main PID:) \d+", r"\1 N", text)
    text = re.sub(r"\(p\)", "(n/a)", text)
    return _STAMP.sub("", text).replace('": "', '":"').replace(', "', ',"')


def _whole(command: str, loop: VirtualLoop, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """A shell line of `systemctl`, `sleep` and `echo $?`."""
    code = 0
    for part in command.split(";"):
        words = [word.strip('"') for word in part.split()]
        if words[0] == "sleep":
            loop.run_until_complete(asyncio.sleep(float(words[1])))
        elif words[0] == "echo":
            print(code)
            code = 0
        else:
            code = systemctl.run(words[1:])
            loop.run_until_complete(asyncio.sleep(0.3))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_commands(world: tuple[Lab, VirtualLoop], capsys: pytest.CaptureFixture[str]) -> None:
    lab, loop = world
    compared = 0
    for step in _STEPS:
        command = step["cmd"]
        if command in _LEFT_OUT:
            continue
        if command.startswith("touch "):
            # systemd had forgotten the unit, and read the new file; ours stays loaded, and a warning is due.
            os.utime(lab.root / command.partition(";")[0].split()[1].lstrip("/"), ns=(1, 1))
            code, out, err = _whole(command.partition("; ")[2], loop, capsys)
            assert (code, out) == (step["rc"], step["stdout"])
            assert "ct-once.service changed on disk. Run 'systemctl daemon-reload'" in err
            continue
        code, out, err = _whole(command, loop, capsys)
        if command == "systemctl show ct-run":
            _compare_properties(step["stdout"], out)
            continue
        assert (command, err) == (command, step["stderr"])
        assert (command, _same(out).splitlines()) == (command, _same(step["stdout"]).splitlines())
        assert (command, code) == (command, step["rc"])
        compared += 1
    assert compared > 55


_OTHER_VALUES = frozenset(
    (
        "MainPID", "ExecMainPID", "ExecStart", "ExecStartEx", "WatchdogTimestampMonotonic", "ControlGroup",
        "After", "MemoryCurrent", "TasksCurrent", "CPUUsageNSec", "Requires", "TasksMax",
    )
)  # fmt: skip
"""Of other processes, or of control groups."""


def _compare_properties(expected: str, said: str) -> None:
    wanted = dict(line.split("=", 1) for line in expected.splitlines() if "=" in line)
    found = dict(line.split("=", 1) for line in said.splitlines())
    compared = 0
    for key, value in wanted.items():
        if key in found and key not in _OTHER_VALUES and "Timestamp" not in key:
            assert (key, found[key]) == (key, value)
            compared += 1
    assert compared > 55
    for key in ("StateChangeTimestamp", "ActiveEnterTimestampMonotonic", "ExecMainStartTimestamp"):
        assert found[key]
