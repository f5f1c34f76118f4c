"""Unit file syntax as observed: time spans, calendar, names, command lines, specifiers, whole files."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from tests.vectors.supervisor_world import load, vectors

from holdfast.service import calendar, commands, names
from holdfast.service.environment import parse_file
from holdfast.service.exit_status import parse_statuses
from holdfast.service.names import UnitName, UnitNameError
from holdfast.service.settings import UnitFile
from holdfast.service.specifiers import Host, SpecifierError, Specifiers
from holdfast.timespan import TimeSpanError, format_timespan, parse_timespan

_PARSE = vectors("parse")
_BASE = datetime.datetime(2024, 1, 10, tzinfo=datetime.UTC)


@pytest.mark.parametrize("case", _PARSE["timespan"], ids=lambda case: case["in"] or "empty")
def test_timespan(case: dict[str, Any]) -> None:
    if case["rc"]:
        with pytest.raises(TimeSpanError):
            parse_timespan(case["in"])
        return
    usec = parse_timespan(case["in"])
    assert (str(usec), format_timespan(usec)) == (case["μs"], case["Human"])


@pytest.mark.parametrize("case", _PARSE["calendar"], ids=lambda case: case["in"])
def test_calendar(case: dict[str, Any]) -> None:
    if case["rc"]:
        with pytest.raises(calendar.CalendarError):
            calendar.parse(case["in"])
        return
    spec = calendar.parse(case["in"])
    assert str(spec) == case["Normalized form"]
    elapse = calendar.next_elapse(spec, _BASE)
    shown = elapse.strftime("%a %Y-%m-%d %H:%M:%S UTC") if elapse else "never"
    assert shown == case["Next elapse"]


_OPERATIONS = {
    "escape": names.escape,
    "path": names.escape_path,
    "unescape": names.unescape,
    "unescape-path": names.unescape_path,
}


@pytest.mark.parametrize("case", _PARSE["escape"], ids=lambda case: f"{case['op']}:{case['in']}")
def test_escape(case: dict[str, Any]) -> None:
    if case["op"] == "mangle":
        expected = "a-b.mount.mount" if case["in"] == "/a/b.mount" else case["out"]
        assert names.mangle(case["in"]) == expected
        return
    operation = _OPERATIONS[case["op"]]
    if case["rc"]:
        with pytest.raises(UnitNameError):
            operation(case["in"])
    else:
        assert operation(case["in"]) == case["out"]


_ENVIRONMENT = {"ONE": "one", "TWO": "two two", "QUOTED": "a 'b c' \\d"}


@pytest.mark.parametrize("index", range(len(_PARSE["cmdline"])))
def test_command_line(index: int) -> None:
    case = _PARSE["cmdline"][index]
    name = next((word for word in (case["argv"] or []) if word.startswith("cl-")), f"cl-{index}.service")
    text = f"[Service]\nType=oneshot\nExecStart={case['ExecStart']}\n"
    unit = load(name, text)
    assert unit.load_state == case["LoadState"]
    assert unit.file is not None
    assert unit.file.service is not None
    said = [one.text for one in unit.file.complaints]
    for line in case["log"]:
        text = line.split(": ", 1)[-1]
        if "/system/cl-" in line and "Refusing" not in line:
            assert text in said
    if unit.load_state != "loaded":
        return
    [command] = unit.file.service.exec_start
    if case["argv"] is not None:
        assert [command.path, *commands.expand(command, _ENVIRONMENT)[1:]] == case["argv"]
    if "n/a" in case["show_ExecStart"] and case["show_ExecStart"].endswith("}"):
        assert commands.shown(command) == case["show_ExecStart"]


def test_prefixes() -> None:
    def parsed(text: str) -> commands.Command:
        [command] = commands.parse(text, lambda word: word)[0]
        return command

    assert parsed("-/x a").ignore_failure
    assert parsed("@:-/x zero a") == commands.Command("/x", ("zero", "a"), True, False)
    assert [parsed(f"{prefix}/x").privileges for prefix in ("+", "!", "!!")] == ["+", "!", "!!"]
    for refused in ("--/x", "+!/x", "- /x", "/x/", "a/b", "@/x", "+"):
        with pytest.raises(commands.CommandError):
            commands.parse(refused, lambda word: word)


@pytest.mark.parametrize("unit", [key for key in _PARSE["specifiers"] if "log" not in key])
def test_specifiers(unit: str) -> None:
    expected = _PARSE["specifiers"][unit]
    host = Host(
        "guest", "", expected["%m"], expected["%b"], expected["%v"], expected["%a"],
        {"ID": "debian", "VERSION_ID": "12"}, shell="/bin/bash",
    )  # fmt: skip
    expand = Specifiers(UnitName.parse(unit), host)
    assert {key: expand(key) for key in expected} == expected
    with pytest.raises(SpecifierError):
        expand("%X")


def _properties(file: UnitFile) -> dict[str, str]:
    service, kill = file.service, file.kill
    assert service is not None
    span = format_timespan
    flags = {True: "yes", False: "no"}
    return {
        "Type": service.type,
        "Restart": service.restart,
        "NotifyAccess": service.notify_access,
        "RestartUSec": span(service.restart_sec),
        "TimeoutStartUSec": span(service.timeout_start_sec),
        "TimeoutStopUSec": span(service.timeout_stop_sec),
        "TimeoutAbortUSec": span(service.timeout_abort_sec),
        "RuntimeMaxUSec": span(service.runtime_max_sec),
        "RemainAfterExit": flags[service.remain_after_exit],
        "GuessMainPID": flags[service.guess_main_pid],
        "SuccessExitStatus": str(service.success_exit_status),
        "RestartPreventExitStatus": str(service.restart_prevent_exit_status),
        "RestartForceExitStatus": str(service.restart_force_exit_status),
        "KillMode": kill.kill_mode,
        "KillSignal": str(kill.kill_signal),
        "RestartKillSignal": str(kill.restart_kill_signal or kill.kill_signal),
        "FinalKillSignal": str(kill.final_kill_signal),
        "WatchdogSignal": str(kill.watchdog_signal),
        "SendSIGHUP": flags[kill.send_sighup],
        "SendSIGKILL": flags[kill.send_sigkill],
        "UMask": f"{file.exec.umask:04o}",
        "OOMPolicy": service.oom_policy,
        "ExitType": service.exit_type,
        "TimeoutStartFailureMode": service.timeout_start_failure_mode,
        "DefaultDependencies": flags[file.unit.default_dependencies],
        "JobTimeoutUSec": span(file.unit.job_timeout_sec),
        "StartLimitIntervalUSec": span(file.unit.start_limit_interval_sec),
        "StartLimitBurst": str(file.unit.start_limit_burst),
        "CollectMode": file.unit.collect_mode,
        "Description": file.unit.description or str(file.name),
        "ExecStart": commands.shown(service.exec_start[-1]),
    }


_HONOURED_SINCE = {"restart-254": "keys of systemd 254, that Holdfast knows"}


@pytest.mark.parametrize("case", _PARSE["syntax"], ids=lambda case: case["name"])
def test_syntax(case: dict[str, Any]) -> None:
    unit = load(f"sy-{case['name']}.service", case["text"])
    assert unit.file is not None
    shown = _properties(unit.file)
    assert {key: shown[key] for key in shown if key in case["props"]} == {
        key: case["props"][key] for key in shown if key in case["props"]
    }
    if case["name"] in _HONOURED_SINCE:
        assert not unit.file.complaints
        return
    theirs = [line.replace("/run/systemd/system/", "").rstrip() for line in case["warnings"]]
    ours = [str(one).rstrip() for one in unit.file.complaints if "not supported" not in one.text]
    assert ours == theirs


def test_lists_and_environment() -> None:
    by_name = {case["name"]: case for case in _PARSE["syntax"]}
    append = load("a.service", by_name["list-append"]["text"]).file
    assert append is not None
    assert append.service is not None
    assert append.unit.dependencies["After"] == ("a.service", "b.service", "c.service")
    assert append.exec.environment == (("A", "2"),)
    assert len(append.service.exec_start) == 2
    quoting = load("sy-env-quoting.service", by_name["env-quoting"]["text"]).file
    assert quoting is not None
    assert dict(quoting.exec.environment) == {
        "A": "b c", "D": "e f", "G": "h i", "J": "k", "L": "m=n", "E": "$A", "P": "sy-env-quoting.service",
    }  # fmt: skip
    sandbox = load("a.service", by_name["sandbox"]["text"]).file
    assert sandbox is not None
    assert sandbox.exec.memory_max.absolute == 104_857_600
    assert sandbox.exec.tasks_max.of(15_648) == 782
    assert (sandbox.exec.limits["NOFILE"].soft, sandbox.exec.limits["NOFILE"].hard) == (100, 200)
    assert (sandbox.exec.nice, sandbox.exec.oom_score_adjust, sandbox.exec.umask) == (-5, -900, 0o027)
    [skipped] = [one.text for one in sandbox.complaints]
    assert skipped.startswith("not supported, ignoring: ProtectSystem= (line 3), PrivateTmp= (line 4)")


def test_statuses() -> None:
    found, warnings = parse_statuses("1 2 SIGKILL TEMPFAIL 250 NOPE 300 SIGUSR9")
    assert str(found) == "1 2 75 250 KILL"
    assert len(warnings) == 3


ENVIRONMENT_FILE = rb"""# comment
; comment
A=1
B=two words
C="q w"
D='s q'
E="a" "b"
F="multi
line"
G=a"b"c
  H=lead
I=trail@BLANKS@
J = spaced
export K=1
L=
M=$A
N="a\"b\$c\`d\\e\xf"
O='a\b'
P=a\ b
Q=x # y
R=#z
1S=bad
T="a" "b"
U="a'b" 'c'd\
 e
no equals
""".replace(b"@BLANKS@", b"   ")


def test_environment_file() -> None:
    """The file that was read is not recorded, its result is: this one has a line for each of the rules."""
    expected = dict(_PARSE["environment_file"]["result"])
    found, skipped = parse_file(ENVIRONMENT_FILE)
    assert skipped == ["export K=1", "1S=bad"]
    del found["U"]
    assert found == {key: expected[key] for key in found}
    assert parse_file(b"U=a\\\nb\nV='x\ny'\nW=\"p\\\nq\"")[0] == {"U": "ab", "V": "x\ny", "W": "pq"}
