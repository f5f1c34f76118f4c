"""The environment, set-property, clean, log-level; warnings of files that changed; what control groups count."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli import systemctl
from holdfast.cli.service_environment import quoted
from holdfast.service.control import changes
from holdfast.service.manager.environment import MAX_BYTES, MAX_VARIABLES, ManagerEnvironment
from holdfast.service.process.cgroups import Group
from holdfast.testing.virtual_loop import VirtualLoop
from tests.unit.service_lab import Inside, Lab, inside_commands

_BARE = "[Unit]\nDefaultDependencies=no\n[Service]\n"
UNITS = {
    "a.service": _BARE + "ExecStart=/probe/p pause\nRuntimeDirectory=ra\nCacheDirectory=ca/x\nStateDirectory=sa\n",
    "bare.service": _BARE + "ExecStart=/probe/p pause\n",
    "dog.service": _BARE + "Type=notify\nWatchdogSec=1\nExecStart=/probe/p n:READY=1 pause\n",
    "a.socket": "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/a\n",
}
Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Lab, VirtualLoop]]:
    """A manager; nothing is started."""
    lab = Lab(tmp_path)
    lab.write(UNITS)
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


@pytest.fixture
def say(lab: tuple[Lab, VirtualLoop], capsys: pytest.CaptureFixture[str]) -> Say:
    """Exit code and what a command prints."""

    def run(*words: str) -> tuple[int, str, str]:
        code = systemctl.run(words)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_variables_are_set_and_unset(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
    assert say("show-environment") == (0, path, "")
    assert say("set-environment", "A=1", "B=two words", "PATH=/x") == (0, "", "")
    assert say("show-environment") == (0, "A=1\nB=$'two words'\nPATH=/x\n", "")
    assert say("show", "-p", "Environment") == (0, 'Environment=A=1 "B=two words" PATH=/x\n', "")
    assert say("unset-environment", "A=2", "B", "PATH") == (0, "", "")
    assert say("show-environment") == (0, "A=1\n" + path, "")
    failed = "Failed to set environment: Invalid environment assignments\n"
    for bad in ("C", "1=x", "=x", "A-B=x"):
        assert say("set-environment", "C=1", bad) == (1, "", failed)
    assert "C=" not in say("show-environment")[1]
    monkeypatch.setenv("D", "here")
    monkeypatch.delenv("E", raising=False)
    assert say("import-environment", "D", "E") == (0, "", "Environment variable $E not set, ignoring.\n")
    assert "D=here\n" in say("show-environment")[1]
    assert say("set-environment") == (1, "", "Too few arguments.\n")


def test_the_environment_is_bounded() -> None:
    environment = ManagerEnvironment({"PATH": "/bin"})
    with pytest.raises(ValueError, match="more than"):
        environment.set([f"A{number}=" for number in range(MAX_VARIABLES + 1)])
    with pytest.raises(ValueError, match="more than"):
        environment.set(["A=" + "x" * MAX_BYTES])
    assert dict(environment) == {"PATH": "/bin"}


@pytest.mark.parametrize("value", ["", "plain/x:1", "two words", "it's", "a\\b", "line\nline\ttab", "\x07é$x`y`"])
def test_a_shell_reads_what_is_shown(value: str) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    script = f'A={quoted(value)}; printf %s "$A"'
    done = subprocess.run([bash, "-c", script], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    assert done.stdout.decode() == value


def test_a_property_is_a_drop_in(lab: tuple[Lab, VirtualLoop], say: Say) -> None:
    world, _ = lab
    assert say("start", "a")[0] == 0
    assert say("set-property", "--runtime", "a", "TasksMax=5", "TimeoutStopSec=7", "Description=Now so") == (
        0,
        "",
        "",
    )
    folder = world.root / "run/holdfast/control/a.service.d"
    assert sorted(os.listdir(folder)) == ["50-Description.conf", "50-TasksMax.conf", "50-TimeoutStopSec.conf"]
    assert (folder / "50-TasksMax.conf").read_text() == "# Written by set-property.\n[Service]\nTasksMax=5\n"
    assert say("show", "a", "-p", "Description,TimeoutStopUSec,NeedDaemonReload,ActiveState") == (
        0, "TimeoutStopUSec=7s\nDescription=Now so\nActiveState=active\nNeedDaemonReload=no\n", "",
    )  # fmt: skip
    assert "TasksMax=5" in say("cat", "a")[1]
    assert say("set-property", "--runtime", "a", "MemoryMax=1M", "CPUQuota=50%")[0] == 0
    assert sorted(say("show", "a", "-p", "TasksMax,MemoryMax,MemoryMin,CPUQuotaPerSecUSec")[1].splitlines()) == [
        "CPUQuotaPerSecUSec=500ms", "MemoryMax=1048576", "MemoryMin=0", "TasksMax=5",
    ]  # fmt: skip
    assert say("set-property", "a", "TimeoutStopSec=9") == (0, "", "")
    assert (world.root / "etc/systemd/system/a.service.d/50-TimeoutStopSec.conf").exists()
    assert say("show", "a", "-p", "TimeoutStopUSec")[1] == "TimeoutStopUSec=7s\n"  # The other one hides it.


@pytest.mark.parametrize(
    ("assignment", "text"),
    [
        ("Nonsense=1", "Cannot set property Nonsense, or unknown property."),
        ("WantedBy=x.target", "Cannot set property WantedBy, or unknown property."),
        ("TasksMax", "Not an assignment: TasksMax"),
        ("TasksMax=some", "some"),
        ("Restart=perhaps", "perhaps"),
        ("Description=a\n[Service]", "a value has one line of text"),
        ("Description=a\\", "a value has one line of text"),
    ],
)
def test_a_bad_property_writes_nothing(lab: tuple[Lab, VirtualLoop], say: Say, assignment: str, text: str) -> None:
    code, out, err = say("set-property", "--runtime", "a", "TasksMax=5", assignment)
    assert (code, out) == (1, "")
    assert err.startswith("Failed to set unit properties on a.service: ")
    assert text in err
    assert not (lab[0].root / "run/holdfast").exists()


def test_properties_of_units_that_are_not_there(say: Say) -> None:
    assert say("set-property", "nosuch", "TasksMax=5") == (
        5, "", "Failed to set unit properties on nosuch.service: Unit nosuch.service not found.\n",
    )  # fmt: skip


def test_clean(lab: tuple[Lab, VirtualLoop], say: Say, tmp_path: Path) -> None:
    world, _ = lab
    world.host.bases = str(tmp_path / "dirs")
    for name in ("runtime/ra", "cache/ca/x", "state/sa"):
        (tmp_path / "dirs" / name / "deep").mkdir(parents=True)
    assert say("start", "a")[0] == 0
    busy = "Failed to clean unit a.service: Unit is not inactive or has pending job.\n"
    assert say("clean", "a") == (1, "", busy)
    assert say("stop", "a")[0] == 0
    assert say("clean", "a") == (0, "", "")
    left = sorted(str(path.relative_to(tmp_path / "dirs")) for path in (tmp_path / "dirs").rglob("*"))
    assert left == ["cache", "cache/ca", "runtime", "state", "state/sa", "state/sa/deep"]
    assert say("clean", "--what=state,logs", "a") == (0, "", "")
    assert say("clean", "--what=nonsense", "a")[2].startswith("Cannot clean nonsense: known are all, ")
    assert os.listdir(tmp_path / "dirs/state") == []
    none = "Failed to clean unit bare.service: No matching resources found.\n"
    assert say("clean", "bare") == (1, "", none)


def test_what_a_link_points_to_is_not_cleaned(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to("kept")
    assert not changes.remove_tree(str(tmp_path / "link"))
    assert not changes.remove_tree(str(tmp_path / "nothing"))
    assert (tmp_path / "kept").is_dir()


def test_log_level(lab: tuple[Lab, VirtualLoop], say: Say) -> None:
    assert say("log-level") == (0, "info\n", "")
    assert say("log-level", "debug") == (0, "", "")
    assert say("log-level") == (0, "debug\n", "")
    assert lab[0].manager.log_level.level == 7


def test_nobody_else_may_change_anything(lab: tuple[Lab, VirtualLoop]) -> None:
    world, loop = lab
    requests: dict[str, dict[str, Any]] = {
        "set-environment": {"assignments": ["A=1"]}, "unset-environment": {"assignments": ["A"]},
        "set-property": {"assignments": ["TasksMax=1"]}, "clean": {}, "log-level": {"level": "debug"},
    }  # fmt: skip
    for verb, fields in requests.items():
        reply = loop.run_until_complete(world.ask(verb, "a.service", privileged=False, **fields))
        assert reply["error"]["kind"] == "denied"
    assert loop.run_until_complete(world.ask("log-level", privileged=False)) == {"level": "info"}
    assert "environment" in loop.run_until_complete(world.ask("show-environment", privileged=False))


def test_watchdogs_that_are_off_are_off_for_services_to_come(lab: tuple[Lab, VirtualLoop], say: Say) -> None:
    _, loop = lab
    assert say("service-watchdogs", "no")[0] == 0
    assert say("start", "dog")[0] == 0
    loop.run_until_complete(asyncio.sleep(5))
    assert say("is-active", "dog")[1] == "active\n"


def test_a_unit_that_changed_on_disk(lab: tuple[Lab, VirtualLoop], say: Say) -> None:
    world, _ = lab
    assert say("start", "a") == (0, "", "")
    warning = (
        "Warning: The unit file, source configuration file or drop-ins of a.service changed on disk. "
        "Run 'systemctl daemon-reload' to reload units.\n"
    )
    world.write({"mine.conf": "[Service]\nTasksMax=3\n"}, "etc/systemd/system/a.service.d")
    assert say("restart", "a") == (0, "", warning)
    assert say("status", "a")[2] == warning
    assert say("daemon-reload")[0] == 0
    assert say("restart", "a") == (0, "", "")
    os.utime(world.root / "run/systemd/system/a.service", ns=(1, 1))
    assert say("stop", "a") == (0, "", warning)


def test_what_a_control_group_counts(lab: tuple[Lab, VirtualLoop], say: Say, tmp_path: Path) -> None:
    world, _ = lab
    assert say("show", "a", "-p", "ControlGroup,MemoryCurrent,TasksCurrent,CPUUsageNSec")[1] == (
        "ControlGroup=\nMemoryCurrent=[not set]\nTasksCurrent=[not set]\nCPUUsageNSec=[not set]\n"
    )
    group = tmp_path / "group"
    group.mkdir()
    for name, text in {"memory.current": "131072\n", "pids.current": "3\n", "pids.max": "9\n",
                       "cpu.stat": "usage_usec 44120\nuser_usec 1\n"}.items():  # fmt: skip
        (group / name).write_text(text)
    world.host.groups["a.service"] = "/sub/a.service", Group(str(group), True)
    assert say("start", "a")[0] == 0
    assert say("show", "a", "-p", "ControlGroup,MemoryCurrent,TasksCurrent,CPUUsageNSec")[1] == (
        "ControlGroup=/sub/a.service\nMemoryCurrent=131072\nTasksCurrent=3\nCPUUsageNSec=44120000\n"
    )
    lines = say("status", "-n0", "a")[1].splitlines()
    assert lines[4:7] == ["      Tasks: 3 (limit: 9)", "     Memory: 128.0K", "        CPU: 44ms"]
    assert say("set-property", "--runtime", "a", "TasksMax=5")[0] == 0
    assert (group / "pids.max").read_text().startswith("5")
