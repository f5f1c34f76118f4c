"""What the service manager is told, and the intervals under a watchdog, as recorded (spec path 5.1, 5.2)."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from typing import Any

import pytest
from tests.vectors.path_conf import HERE

from holdfast import notify
from holdfast.path.conf import Config
from holdfast.path.conf_parser import Sourced
from holdfast.path.daemon import liveness
from holdfast.path.daemon.notifying import Notifier
from holdfast.testing.virtual_loop import run_virtual

RECORDINGS = [json.loads(line) for line in (HERE / "notify.jsonl").read_text().splitlines()]
STATES = {"STATUS=startup": "startup", "STATUS=configure": "configure", "READY=1": "idle", "STATUS=up": ""}


def name_of(recording: dict[str, Any]) -> str:
    scenario = recording.get("scenario") or recording.get("conf_defaults") or ""
    return f"{recording['version']} {recording['WATCHDOG_USEC']} {scenario}"


def without_pings(recording: dict[str, Any]) -> list[str]:
    return [text for _, text in recording["messages"] if text != "WATCHDOG=1"]


@pytest.mark.parametrize("recording", RECORDINGS, ids=name_of)
def test_the_order_of_messages(recording: dict[str, Any]) -> None:
    """The daemon goes through the states that the recording shows: the messages are the same, one by one."""
    wanted = without_pings(recording)
    sent: list[tuple[str, ...]] = []

    def send(*lines: str) -> bool:
        sent.append(lines)
        return True

    notifier = Notifier(send)
    for text in wanted:
        if text in STATES:
            notifier.state(STATES[text])
        elif text == "STATUS=shutdown":
            notifier.state("running")  # ticks say nothing
            notifier.state("idle")
            notifier.state("shutdown")
        elif text.startswith("ERRNO="):
            notifier.ended(int(text.removeprefix("ERRNO=")))
    assert [lines[0] for lines in sent] == wanted
    # The difference: with the instant, so that Type=notify-reload works.
    for lines in sent:
        assert (len(lines) == 2) is (lines[0] == "RELOADING=1")
        assert all(re.fullmatch(r"MONOTONIC_USEC=\d+", line) for line in lines[1:])


def test_a_shutdown_during_a_reload_ends_the_reload_first() -> None:
    sent: list[str] = []

    def send(*lines: str) -> bool:
        sent.append(lines[0])
        return True

    notifier = Notifier(send)
    for state in ("startup", "configure", "idle", "configure", "shutdown", "idle"):
        notifier.state(state)
    notifier.ended(0)
    assert sent[-4:] == ["STATUS=shutdown", "READY=1", "STOPPING=1", "ERRNO=0"]


def pings_for(seconds: float, interval_s: float | None) -> list[float]:
    """The instants of pings of a daemon whose drivers are all well."""

    async def scene() -> list[float]:
        loop, found = asyncio.get_running_loop(), []

        def ping() -> bool:
            found.append(loop.time())
            return True

        task = asyncio.create_task(liveness.Liveness(interval_s, lambda now: None, ping).run())
        await asyncio.sleep(seconds)
        task.cancel()
        return found

    return run_virtual(scene())


NEW = [one for one in RECORDINGS if one["version"] == "0.14.3" and "scenario" not in one]


@pytest.mark.parametrize("recording", NEW, ids=name_of)
def test_pings_come_as_often_as_in_the_recording(
    recording: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least: the original counts whole seconds. None where the recording has none."""
    for key, value in (
        ("WATCHDOG_USEC", recording["WATCHDOG_USEC"]),
        ("WATCHDOG_PID", "1" if "WATCHDOG_PID" in recording else None),
    ):
        if value is None:
            monkeypatch.delenv(key, raising=False)
        else:
            monkeypatch.setenv(key, value)
    times = {text: at for at, text in recording["messages"]}
    theirs = [text for _, text in recording["messages"]].count("WATCHDOG=1")
    ours = pings_for(times["STATUS=shutdown"] - times["READY=1"], notify.watchdog_interval())
    assert len(ours) >= theirs
    assert bool(ours) is bool(theirs)
    if ours:
        assert ours[0] == 0
        half = int(recording["WATCHDOG_USEC"]) / 2e6
        assert all(later - earlier <= half for earlier, later in itertools.pairwise(ours))


OLD = [one for one in RECORDINGS if one["version"] == "0.9.4" and "conf_defaults" in one]


@pytest.mark.parametrize("recording", NEW + OLD, ids=name_of)
def test_intervals_as_in_the_log(recording: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """0.9.4 takes the watchdog's interval over, 0.14.3 does not."""
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", recording["WATCHDOG_USEC"] or "")
    settings = re.findall(r"(\w+) (\d+)", recording.get("conf_defaults", ""))
    config = Config(defaults={key: Sourced(int(value), "multipath.conf", 1) for key, value in settings})
    rule = "no" if recording["version"] == "0.14.3" else "0.9.4"
    found = liveness.take_over_intervals(config, rule, notify.watchdog_interval())
    wanted = [re.findall(r"\d+", line) for line in recording["log"] if line.startswith("polling interval")]
    assert [str(value) for value in found.intervals] == wanted[-1]


@pytest.mark.parametrize(
    ("watchdog_s", "defaults", "wanted"),
    [(5, {}, (5, 20)), (30, {}, (30, 30)), (5, {"polling_interval": 10}, (5, 40)), (0.5, {}, (5, 20))],
)
def test_the_rule_of_2013(watchdog_s: float, defaults: dict[str, int], wanted: tuple[int, int]) -> None:
    config = Config(defaults={key: Sourced(value, "multipath.conf", 1) for key, value in defaults.items()})
    assert liveness.take_over_intervals(config, "2013", watchdog_s).intervals == wanted
    assert liveness.take_over_intervals(config, "2013", None).intervals == config.intervals
