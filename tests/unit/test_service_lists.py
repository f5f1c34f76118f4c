"""`list-timers`, `list-sockets`, `list-paths`, and how status shows sockets and timers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.cli import systemctl
from holdfast.cli.service_times import relative
from holdfast.testing.virtual_loop import VirtualLoop
from tests.unit.service_lab import Inside, Lab, inside_commands

ONESHOT = "[Service]\nType=oneshot\nExecStart=/bin/true\n"
UNITS = {
    "tm-a.timer": "[Timer]\nOnActiveSec=10min\nOnUnitActiveSec=1h\n",
    "tm-a.service": ONESHOT,
    "tm-c.timer": "[Timer]\nOnCalendar=daily\nPersistent=yes\n",
    "tm-c.service": ONESHOT,
    "tm-off.timer": "[Timer]\nOnActiveSec=1s\n",
    "tm-off.service": ONESHOT,
    "sk-b.socket": "[Socket]\nListenStream=/run/pf/b.sock\nListenStream=127.0.0.1:7778\nAccept=yes\n",
    "sk-b@.service": ONESHOT,
    "sk-a.socket": "[Socket]\nListenDatagram=@abs-a\nListenStream=/run/pf/a.sock\n",
    "sk-a.service": ONESHOT,
    "pa-a.path": "[Path]\nPathExists=/run/pf/pa\nPathChanged=/run/pf/other\n",
    "pa-a.service": ONESHOT,
}
Say = Callable[..., str]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Lab, VirtualLoop]]:
    """A manager with all units but tm-off started."""
    lab = Lab(tmp_path)
    lab.write(UNITS)
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    loop.run_until_complete(lab.open())
    inside_commands(monkeypatch, Inside(lab, loop))
    loop.run_until_complete(lab.manager.ensure(["tm-off.timer"]))
    for name in UNITS:
        if name.endswith((".timer", ".path")) and name != "tm-off.timer":
            assert loop.run_until_complete(lab.start(name)) == "done"
    try:
        yield lab, loop
    finally:
        loop.run_until_complete(lab.close())
        asyncio.set_event_loop(None)
        loop.close()


@pytest.fixture
def say(lab: tuple[Lab, VirtualLoop], capsys: pytest.CaptureFixture[str]) -> Say:
    """What a command prints; it must succeed."""

    def run(*words: str) -> str:
        code = systemctl.run(words)
        said = capsys.readouterr()
        assert (code, said.err) == (0, "")
        return said.out

    return run


def test_timers_in_the_order_in_which_they_come(lab: tuple[Lab, VirtualLoop], say: Say) -> None:
    rows = json.loads(say("list-timers", "-o", "json"))
    assert [row["unit"] for row in rows if row["unit"] == "tm-a.timer"] == ["tm-a.timer"]
    assert {row["unit"]: row["last"] for row in rows} == {"tm-a.timer": None, "tm-c.timer": None}
    assert [row["next"] for row in rows] == sorted(row["next"] for row in rows)
    midnight = next(row["next"] for row in rows if row["unit"] == "tm-c.timer")
    assert midnight % 1_000_000 == 0
    text = say("list-timers")
    head, *lines = text.splitlines()
    assert head.split() == ["NEXT", "LEFT", "LAST", "PASSED", "UNIT", "ACTIVATES"]
    row = next(line for line in lines if "tm-a.timer" in line)
    assert re.match(r"\w{3} [-0-9]+ [:0-9]+ \w+ (9|10)min left +- +- +tm-a.timer +tm-a.service$", row)
    assert lines[-3:] == ["", "2 timers listed.", "Pass --all to see loaded but inactive timers, too."]
    assert "tm-off.timer" in say("list-timers", "--all")
    assert "tm-c.timer" not in say("list-timers", "tm-a*")


def test_a_timer_that_came_knows_when(lab: tuple[Lab, VirtualLoop], say: Say) -> None:
    _, loop = lab
    loop.run_until_complete(asyncio.sleep(601))
    row = next(row for row in json.loads(say("list-timers", "-o", "json")) if row["unit"] == "tm-a.timer")
    assert row["last"] is not None
    shown = say("show", "tm-a.timer", "-p", "LastTriggerUSec,LastTriggerUSecMonotonic,TimersMonotonic,Unit")
    assert "LastTriggerUSec=" in shown
    assert "TimersMonotonic={ OnActiveUSec=10min ; next_elapse=0 }\n" in shown
    assert re.search(r"TimersMonotonic=\{ OnUnitActiveUSec=1h ; next_elapse=1h 10min .*\}\n", shown)
    assert "Unit=tm-a.service\n" in shown


def test_properties_of_calendars_and_paths(say: Say) -> None:
    shown = say("show", "tm-c.timer", "-p", "TimersCalendar,NextElapseUSecMonotonic")
    assert re.search(r"^TimersCalendar=\{ OnCalendar=\*-\*-\* 00:00:00 ; next_elapse=\w{3} .* \}$", shown, re.M)
    assert "NextElapseUSecMonotonic=infinity\n" in shown
    assert say("show", "pa-a.path", "-p", "Paths,Unit") == (
        "Unit=pa-a.service\nPaths=/run/pf/pa (PathExists)\nPaths=/run/pf/other (PathChanged)\n"
    )


def test_sockets_by_address(lab: tuple[Lab, VirtualLoop], say: Say) -> None:
    _, loop = lab
    assert say("list-sockets") == "0 sockets listed.\nPass --all to see loaded but inactive sockets, too.\n"
    loop.run_until_complete(lab[0].manager.ensure(["sk-a.socket", "sk-b.socket"]))
    assert say("list-sockets", "--all", "--show-types").splitlines() == [
        "LISTEN         TYPE     UNIT        ACTIVATES",
        "/run/pf/a.sock Stream   sk-a.socket sk-a.service",
        "/run/pf/b.sock Stream   sk-b.socket -",
        "127.0.0.1:7778 Stream   sk-b.socket -",
        "@abs-a         Datagram sk-a.socket sk-a.service",
        "",
        "4 sockets listed.",
    ]


def test_paths(say: Say) -> None:
    assert say("list-paths", "--no-legend").splitlines() == [
        "/run/pf/other PathChanged pa-a.path pa-a.service",
        "/run/pf/pa    PathExists  pa-a.path pa-a.service",
    ]


def test_status_of_a_timer_and_of_a_socket(
    lab: tuple[Lab, VirtualLoop], capsys: pytest.CaptureFixture[str]
) -> None:
    assert systemctl.run(["status", "-n0", "tm-a.timer"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "● tm-a.timer"
    assert lines[2].startswith("     Active: active (waiting) since ")
    assert re.match(r"    Trigger: \w{3} .*; (9|10)min( \d+s)? left$", lines[3])
    assert lines[4:] == ["   Triggers: ○ tm-a.service"]
    assert systemctl.run(["status", "-n0", "tm-off.timer"]) == 3
    assert "    Trigger: n/a" in capsys.readouterr().out.splitlines()
    assert systemctl.run(["status", "-n0", "sk-b.socket"]) == 3
    assert capsys.readouterr().out.splitlines()[3:] == [
        "     Listen: /run/pf/b.sock (Stream)",
        "             127.0.0.1:7778 (Stream)",
        "   Accepted: 0; Connected: 0;",
    ]


def test_spans_are_rougher_the_further_away_they_are() -> None:
    seconds = {0.0000005: "0us", 0.2: "200ms", 59.9: "59s", 97: "1min 37s", 786: "13min", 11_100: "3h 5min",
               93_600: "1 day 2h", 200_000: "2 days", 900_000: "1 week 3 days", 5_300_000: "2 months 0 days",
               40_000_000: "1 year 3 months"}  # fmt: skip
    assert {span: relative(span * 1e6) for span in seconds} == seconds
