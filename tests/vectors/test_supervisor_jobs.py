"""Dependencies, transactions, start limits and single facts as observed, against our rules on virtual time."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
from tests.vectors.supervisor_world import World, vectors

_DEPS = vectors("deps")["cases"]
_SLOW = (
    "requires-dies bindsto-dies bindsto-clean-exit requires-b-autorestart stopwhenunneeded conflict-both-wanted "
    "cycle-wants allow-isolate"
)
_PAUSES = dict.fromkeys(_SLOW.split(), 4000)
"""Milliseconds between two commands, where something had to happen meanwhile; else 50."""
_NOT_PURE = {
    "masked": "masking is the loader's matter (test_supervisor_install)",
    "ignore-deps": "a unit of an earlier case was still running there",
}
_MISSING = frozenset({"dbus.service", "probe.service", "systemd-journald.service"})


@pytest.mark.parametrize("case", _DEPS, ids=lambda case: case["name"])
def test_dependencies(case: dict[str, Any]) -> None:
    name = case["name"]
    if name in _NOT_PURE:
        pytest.skip(_NOT_PURE[name])
    world = World(case["units"], each_round=False)
    for step in case["steps"]:
        _step(world, step)
        world.advance(_PAUSES.get(name, 50))
    world.advance(12_000)
    for unit, expected in case["final"].items():
        shown = world.show(unit)
        assert (unit, shown["ActiveState"]) == (unit, expected["ActiveState"])
        if expected["Result"] is not None:
            assert (unit, shown["Result"]) == (unit, expected["Result"])
    wanted = [(unit, _kind(text)) for _, unit, text in case["events"] if _kind(text)]
    done = [(unit, text) for _, unit, text in world.events if _kind(text)]
    if name in ("requires-no-order", "propagates-stop", "conflicts", "partof-stop", "allow-isolate"):
        wanted, done = sorted(wanted), sorted(done)  # Units without order between them.
    assert done == wanted
    for line in case["log"]:
        if (
            "cycle" in line
            or "Found dependency" in line
            or ("condition check" in line and line.split(" ")[0] in case["units"])
        ):
            assert any(line in said for said in world.log), line


def _kind(text: str) -> str:
    for word in ("start ", "got-signal 15"):
        if text.startswith(word) or text == word.strip():
            return word.strip()
    return ""


def _step(world: World, step: dict[str, Any]) -> None:
    words = step["cmd"].split()
    verb = words[1]
    options = [word for word in words[2:] if word.startswith("-")]
    units = [word for word in words[2:] if not word.startswith("-")]
    if verb == "is-active":
        assert [world.show(unit)["ActiveState"] for unit in units] == step["stdout"].split("\n"), step["cmd"]
    elif verb in ("start", "stop", "restart", "isolate"):
        mode = "isolate" if verb == "isolate" else "replace"
        modes = [option.partition("=")[2] for option in options if option.startswith("--job-mode=")]
        codes, said = [], []
        for unit in units:
            type_ = "start" if verb == "isolate" else verb
            wait = "--no-block" not in options and len(units) == 1
            code, text = world.command(type_, unit, modes[0] if modes else mode, wait)
            codes.append(code)
            said.append(text)
        world.advance(0 if len(units) == 1 else 2000)
        assert max(codes) == step["rc"], said
        error = step["stderr"].split("\n")[0]
        if error.startswith("Failed to"):
            assert error in said


_LIMITS = vectors("start-limit")["cases"]
_UNLOADED = {"sl-onesucc": 2}
"""Units whose counter systemd loses with the unit; ours stays: so many starts succeed."""
_BETWEEN = {"sl-window2": [4000, 3000, 0, 0, 0], "sl-manual": [3000, 0, 0, 0, 0]}


@pytest.mark.parametrize("case", _LIMITS, ids=lambda case: case["name"])
def test_start_limits(case: dict[str, Any]) -> None:
    name, unit = case["name"], f"{case['name']}.service"
    world = World({unit: case["unit"]})
    if "sleep" in case["steps"][0]["cmd"]:
        world.command("start", unit, wait=False)
        world.advance(14_000)
        step = case["steps"][0]
        burst = int(step["show"]["StartLimitBurst"])
        starts = sum(text == "start" for _, _, text in world.events)
        if case["final"]["ActiveState"] == "failed":
            assert starts == step["starts"] == burst
            keys = ("ActiveState", "SubState", "Result", "NRestarts", "ExecMainCode", "ExecMainStatus")
            shown = world.show(unit)
            assert {key: shown[key] for key in keys} == {key: case["final"][key] for key in keys}
        else:
            assert world.show(unit)["ActiveState"] == "activating"
            assert starts > 3
        return
    for number, step in enumerate(case["steps"]):
        verb = step["cmd"].split()[1]
        if verb == "reset-failed":
            world.reset_failed(unit)
        elif verb in ("start", "restart"):
            code, _ = world.command(verb, unit)
            if number < _UNLOADED.get(name, 99):
                assert (number, code) == (number, step["rc"])
            else:
                assert code == (1 if number == _UNLOADED[name] else 0)
        world.advance(10)
        if number < _UNLOADED.get(name, 99) and step["Result"] is not None:
            shown = world.show(unit)
            assert (number, shown["ActiveState"], shown["Result"]) == (number, step["ActiveState"], step["Result"])
        world.advance(_BETWEEN.get(name, [0] * 9)[number])


def test_the_new_spelling_in_service_is_unknown() -> None:
    text = "[Service]\nRestart=always\nStartLimitIntervalSec=60\nStartLimitBurst=2\nExecStart=/bin/false\n"
    world = World({"a.service": text})
    file = world.units["a.service"].file
    assert file is not None
    assert (file.unit.start_limit_interval_sec, file.unit.start_limit_burst) == (10_000_000, 2)
    assert [str(one) for one in file.complaints] == [
        "a.service:3: Unknown key 'StartLimitIntervalSec' in section [Service], ignoring."
    ]


_MISC = vectors("misc")
_SHOWN = re.compile(r"systemctl start (\S+);(?: sleep (\S+);)? systemctl show -p (\S+) (\S+)$")
_OTHER = {"mi-osforce", "mi-empty"}


@pytest.mark.parametrize(
    "step", [step for step in _MISC["steps"] if _SHOWN.match(step["cmd"])], ids=lambda step: step["cmd"].split()[2]
)
def test_single_facts(step: dict[str, Any]) -> None:
    match = _SHOWN.match(step["cmd"])
    assert match is not None
    name, pause, keys = match[1].rstrip(";"), match[2], match[3].split(",")
    source = name if name in _MISC["units"] else name.partition("@")[0] + "@"
    if source not in _MISC["units"] or name == "mi-alias" or name == "mi-wants":
        pytest.skip("names and links are the loader's matter (test_supervisor_install)")
    unit = f"{name}.service"
    world = World({unit: _MISC["units"][source]})
    _, error = world.command("start", unit)
    if name.endswith("@"):
        assert error == step["stderr"].split("\n")[0]
        return
    if pause:
        world.advance(int(float(pause) * 1000))
    expected = dict(line.split("=", 1) for line in step["stdout"].split("\n") if "=" in line)
    shown = world.show(unit)
    assert {key: shown[key] for key in keys if key in shown} == {
        key: value for key, value in expected.items() if key in shown
    }
    if "bad unit file" in step["stderr"] or "masked" in step["stderr"]:
        assert error == step["stderr"].split("\n")[0]


def test_stop_during_auto_restart() -> None:
    world = World({"a.service": _MISC["units"]["mi-ar2"]})
    world.command("start", "a.service")
    world.advance(1000)
    assert world.show("a.service")["SubState"] == "auto-restart"
    assert world.command("stop", "a.service")[0] == 0
    world.advance(30_000)
    shown = world.show("a.service")
    assert (shown["ActiveState"], shown["SubState"], shown["Result"], shown["NRestarts"]) == (
        "inactive", "dead", "success", "0",
    )  # fmt: skip


def test_start_during_auto_restart_waits_for_it() -> None:
    world = World({"a.service": _MISC["units"]["mi-ar"]})
    world.command("start", "a.service")
    world.advance(3000)
    job = world.submit("start", "a.service")
    world.advance(10_000)
    assert job not in world.done
    world.advance(8_000)
    assert world.done[job].ok
    assert world.show("a.service")["NRestarts"] == "1"


def test_exec_stop_and_its_relatives_are_told() -> None:
    world = World({"a.service": _MISC["units"]["mi-stopenv"]})
    world.command("start", "a.service")
    world.command("reload", "a.service")
    world.command("stop", "a.service")
    told = [(spawn.role.value, dict(spawn.variables)) for _, spawn in world.spawned]
    assert told == [
        ("ExecStart", {}),
        ("ExecReload", {"MAINPID": "101"}),
        ("ExecStop", {"MAINPID": "101", "SERVICE_RESULT": "success"}),
        ("ExecStopPost", {"SERVICE_RESULT": "success", "EXIT_CODE": "exited", "EXIT_STATUS": "0"}),
    ]


_NEWER = vectors("new-257")["units"]


def _run_newer(*names: str) -> World:
    world = World({f"{name}.service": _NEWER[name]["unit"] for name in names})
    for name in names:
        if not name.startswith("nw-h"):
            world.command("start", f"{name}.service", wait=False)
    world.advance(20_000)
    for name in names:
        shown, expected = world.show(f"{name}.service"), _NEWER[name]["props"]
        for key in ("ActiveState", "SubState", "Result", "NRestarts", "ExecMainCode", "ExecMainStatus"):
            assert (name, key, shown[key]) == (name, key, expected[key])
    return world


def test_on_failure_in_normal_mode_fires_each_round() -> None:
    world = _run_newer("nw-normal", "nw-h2")
    triggered = [line for line in world.log if "Triggering OnFailure" in line]
    assert (
        len(triggered) == len([line for line in _NEWER["nw-normal"]["log"] if "Triggering OnFailure" in line]) == 4
    )


def test_on_failure_in_direct_mode_fires_at_the_end() -> None:
    world = _run_newer("nw-direct", "nw-h1")
    assert [unit for _, unit, text in world.events if text == "start"].count("nw-h1.service") == 1


def test_dependants_outlive_direct_restarts() -> None:
    world = _run_newer("nw-dep", "nw-direct2")
    assert [(unit, text) for _, unit, text in world.events if unit == "nw-dep.service"] == [
        ("nw-dep.service", "start")
    ]


def test_restart_steps() -> None:
    case = vectors("new-257")["restart_steps"]
    world = World({"a.service": case["unit"]})
    world.command("start", "a.service", wait=False)
    world.advance(60_000)
    starts = [ms for ms, _, text in world.events if text == "start"]
    delays = [after - before for before, after in itertools.pairwise(starts)]
    assert delays[:6] == [1000, 2000, 4000, 8000, 16_000, 16_000]
    smaller = World({"a.service": case["max_smaller_than_RestartSec"]["unit"]}).units["a.service"].file
    assert smaller is not None
    assert smaller.service is not None
    assert smaller.service.restart_sec == 2_000_000
    assert "RestartMaxDelaySec= has a value smaller" in str(smaller.complaints[0])


def test_notify_reload() -> None:
    world = World({"a.service": _NEWER["nw-reload"]["unit"]})
    assert world.command("start", "a.service")[0] == 0
    job = world.submit("reload", "a.service")
    world.advance(100)
    assert world.show("a.service")["SubState"] == "reload-notify"
    world.advance(700)
    assert world.done[job].ok
    assert world.show("a.service")["SubState"] == "running"
    deaf = World({"a.service": _NEWER["nw-reload-sig"]["unit"]})
    deaf.command("start", "a.service")
    assert deaf.command("reload", "a.service")[0] == 1
    assert deaf.show("a.service")["ActiveState"] == "active"


def test_failure_action_at_once_and_limit_action_at_the_end() -> None:
    text = (
        "[Unit]\nStartLimitBurst=3\nStartLimitIntervalSec=60\n{}Action=reboot-force\n[Service]\nRestart=on-failure\n"
        "ExecStart=/bin/false\n"
    )
    for key, runs in (("Failure", 1), ("StartLimit", 3)):
        world = World({"a.service": text.format(key)})
        world.command("start", "a.service", wait=False)
        while not world.emergencies:
            world.advance(50)
        assert world.emergencies[0] == "reboot-force"
        assert len(world.spawned) == runs
