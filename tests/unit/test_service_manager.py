"""The manager around the rules, on virtual time: jobs, deadlines, reload, starvation, its end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from holdfast.service.events import Active
from holdfast.service.manager.emergency import How, Place
from tests.unit.service_lab import Lab, in_lab

PLAIN = "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/probe/p pause\n"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_a_service_starts_and_stops(lab: Lab) -> None:
    lab.write({"a.service": "[Unit]\nDescription=An example\n[Service]\nExecStart=/probe/p pause\n"})

    async def scene() -> None:
        assert await lab.start("a.service") == "done"
        assert lab.states() == {"a.service": "running"}
        assert lab.manager.core.active("sysinit.target") is Active.ACTIVE
        assert await lab.start("a.service", "stop") == "done"
        assert lab.states() == {"a.service": "dead"}
        assert lab.log("a.service") == [
            "Started a.service - An example.",
            "Stopping a.service - An example...",
            "a.service: Deactivated successfully.",
            "Stopped a.service - An example.",
        ]

    in_lab(lab, scene)


def test_nothing_wakes_an_idle_manager(lab: Lab) -> None:
    lab.write({"a.service": PLAIN})

    async def scene() -> None:
        await lab.start("a.service")
        assert lab.manager._timer is None

    in_lab(lab, scene)


def test_the_end_in_order_has_the_status_of_the_main_unit(lab: Lab) -> None:
    lab = Lab(lab.root, main="b.service")
    lab.write({
        "a.service": "[Service]\nExecStart=/probe/p term:0 pause\n",
        "b.service": "[Unit]\nRequires=a.service\nAfter=a.service\n[Service]\nExecStart=/probe/p s:1000 exit:7\n",
    })  # fmt: skip

    async def scene() -> None:
        await lab.life.begin()
        assert await lab.life.ended == 7
        assert lab.states() == {"a.service": "dead", "b.service": "failed"}
        assert [ending.kind for ending in lab.system.endings] == ["exit"]

    in_lab(lab, scene)


def test_failure_action_in_a_container_and_on_a_machine(tmp_path: Path) -> None:
    text = "[Unit]\nFailureAction=reboot-force\n[Service]\nExecStart=/probe/p exit:1\n"
    for place in Place:
        lab = Lab(tmp_path, place)
        lab.write({"a.service": text})

        async def scene(lab: Lab = lab) -> None:
            await lab.start("a.service")
            await lab.life.ended
            assert [(ending.kind, ending.how) for ending in lab.system.endings] == [("reboot", How.FORCE)]

        in_lab(lab, scene)


def test_sigterm_stops_in_the_reverse_order_of_the_start(lab: Lab) -> None:
    lab.write({
        "a.service": "[Service]\nExecStart=/probe/p catch:USR1 term:0 pause\n",
        "b.service": "[Unit]\nAfter=a.service\nRequires=a.service\n[Service]\nExecStart=/probe/p term:0 pause\n",
    })  # fmt: skip

    async def scene() -> None:
        await lab.start("b.service")
        await asyncio.sleep(0.1)
        lab.life.signals()[15]()
        assert await lab.life.ended == 0
        ends = [unit for _, unit, text in lab.host.events if text.startswith("got-signal")]
        assert ends == ["b.service", "a.service"]

    in_lab(lab, scene)


def test_units_without_default_dependencies_are_ended_last(lab: Lab) -> None:
    lab.write({"a.service": PLAIN})

    async def scene() -> None:
        await lab.start("a.service")
        lab.life.signals()[15]()
        await asyncio.wait_for(asyncio.shield(lab.life.ended), 1000)
        assert not lab.manager.living()

    in_lab(lab, scene)


def test_an_automatic_restart_waits_on_the_timer(lab: Lab) -> None:
    lab.write({"a.service": PLAIN.replace("pause", "s:100 exit:1") + "Restart=on-failure\nRestartSec=5\n"})

    async def scene() -> None:
        await lab.start("a.service")
        began = asyncio.get_running_loop().time()
        while lab.manager.core.machines["a.service"].run.restarts < 2:
            await asyncio.sleep(0.05)
        assert 10.2 <= asyncio.get_running_loop().time() - began <= 10.4

    in_lab(lab, scene)


def test_new_files_are_found_changed_ones_after_a_reload(lab: Lab) -> None:
    lab.write({"a.service": PLAIN})

    async def scene() -> None:
        assert await lab.start("b.service") == "not-found"
        lab.write({"b.service": PLAIN + "TimeoutStopSec=7\n"})
        assert await lab.start("b.service") == "done"
        lab.write({"b.service": PLAIN + "TimeoutStopSec=9\n"})
        shown = (await lab.ask("show", "b"))["units"][0]
        assert (shown["TimeoutStopUSec"], shown["NeedDaemonReload"]) == ("7s", "yes")
        await lab.ask("daemon-reload")
        shown = (await lab.ask("show", "b"))["units"][0]
        assert (shown["TimeoutStopUSec"], shown["NeedDaemonReload"], shown["SubState"]) == ("9s", "no", "running")
        (lab.root / "run/systemd/system/b.service").unlink()
        await lab.ask("daemon-reload")
        shown = (await lab.ask("show", "b"))["units"][0]
        assert (shown["LoadState"], shown["SubState"]) == ("not-found", "running")
        assert (await lab.ask("stop", "b"))["jobs"] == [{"unit": "b.service", "result": "done"}]
        assert "b.service" not in lab.manager.core.graph.units

    in_lab(lab, scene)


def test_a_reload_begins_soft_watchdogs_anew(lab: Lab) -> None:
    text = PLAIN.replace("pause", "n:READY=1 pause") + "Type=notify\nWatchdogSec=6\n"
    lab.write({"a.service": text})

    async def scene() -> None:
        await lab.start("a.service")
        machine = lab.manager.core.machines["a.service"]
        began = machine.run.watchdog_deadline
        await asyncio.sleep(3)
        await lab.manager.reload()
        assert machine.run.watchdog_deadline == began + 3_000_000
        await asyncio.sleep(5.9)
        assert machine.state.value == "running"
        await asyncio.sleep(0.2)
        assert machine.result.value == "watchdog"

    in_lab(lab, scene)


def test_a_late_manager_does_not_kill_for_its_own_delay(lab: Lab) -> None:
    text = PLAIN.replace("pause", "n:READY=1 pause") + "Type=notify\nWatchdogSec=2\n"
    lab.write({"a.service": text})

    async def scene() -> None:
        await lab.start("a.service")
        machine = lab.manager.core.machines["a.service"]
        loop = asyncio.get_running_loop()
        # Stopped for five seconds, the deadline in their midst: its timer comes three seconds late.
        loop._now += 5  # type: ignore[attr-defined]
        await asyncio.sleep(2.9)
        assert machine.state.value == "running"
        delayed = [line for line in lab.log("a.service") if "supervisor itself was delayed" in line]
        assert len(delayed) == 1
        assert delayed[0].endswith("the watchdog waits 3s longer.")
        await asyncio.sleep(0.2)
        assert machine.result.value == "watchdog"

    in_lab(lab, scene)


def test_excuses_have_a_bound() -> None:
    from holdfast.service.manager.starvation import MAX_GRANT_USEC, Starvation

    starvation = Starvation()
    assert not starvation.is_starved(200_000)
    assert starvation.is_starved(20_000_000)
    assert starvation.grant("a", 7, 20_000_000)[0] == 20_000_000
    assert starvation.grant("a", 7, 20_000_000)[0] == MAX_GRANT_USEC - 20_000_000
    assert starvation.grant("a", 7, 20_000_000)[0] == 0
    assert starvation.grant("a", 8, 20_000_000)[0] == 20_000_000


def test_a_thousand_units_start_in_order_and_stop_in_reverse(lab: Lab) -> None:
    count = 1000
    lab.write({f"u{n:03}.service": f"[Unit]\nAfter=u{n // 2:03}.service\nRequires=u{n // 2:03}.service\n"
               "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecStop=/bin/true\n"
               for n in range(1, count)})  # fmt: skip
    lab.write({"u000.service": PLAIN})
    lab.write({"all.target": "[Unit]\nRequires=" + " ".join(f"u{n:03}.service" for n in range(count)) + "\n"})

    async def scene() -> None:
        assert await lab.start("all.target") == "done"
        assert len(lab.manager.core.machines) == count
        started = [unit for unit, action in lab.host.performed if type(action).__name__ == "Spawn"]
        place = {unit: at for at, unit in enumerate(started)}
        assert all(place[f"u{n // 2:03}.service"] < place[f"u{n:03}.service"] for n in range(2, count))
        lab.host.performed.clear()
        lab.life.signals()[15]()
        await lab.life.ended
        stopped = [unit for unit, action in lab.host.performed if type(action).__name__ == "Spawn"]
        place = {unit: at for at, unit in enumerate(stopped)}
        assert all(place[f"u{n // 2:03}.service"] > place[f"u{n:03}.service"] for n in range(2, count))
        assert not len(lab.manager.core.jobs)

    in_lab(lab, scene)


def test_a_cycle_is_explained(lab: Lab) -> None:
    for one, other in ("ab", "bc", "ca"):
        text = PLAIN.replace("[Service]", f"Requires={other}.service\nAfter={other}.service\n[Service]")
        lab.write({f"{one}.service": text})

    async def scene() -> None:
        reply = await lab.ask("start", "a")
        assert reply["jobs"][0]["error"]["text"] == "Transaction order is cyclic. See system logs for details."
        lines = [line for line in lab.log("a.service") if "cycle" in line or "dependency on" in line]
        assert lines[0].endswith("Found ordering cycle on a.service/start")
        assert len(lines) == 4
        assert lab.states() == {}

    in_lab(lab, scene)


def test_instances_that_nobody_needs_are_unloaded(lab: Lab) -> None:
    lab.write({"i@.service": "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/probe/p s:100 exit:0\n"})

    async def scene() -> None:
        for number in range(50):
            assert await lab.start(f"i@{number}.service") == "done"
        assert len(lab.manager.core.machines) == 50
        await asyncio.sleep(1)
        assert not lab.manager.core.machines
        assert not [unit for unit in lab.manager.core.graph.units if unit.startswith("i@")]
        for number in range(50):
            await lab.ask("show", f"i@{number}", privileged=False)
        await lab.ask("start", "basic.target")
        assert not [unit for unit in lab.manager.core.graph.units if unit.startswith("i@")]
        assert not [unit for unit in lab.manager.histories if unit.startswith("i@")]

    in_lab(lab, scene)


def test_only_root_changes_anything(lab: Lab) -> None:
    lab.write({"a.service": PLAIN})

    async def scene() -> None:
        for verb in ("start", "kill", "exit", "daemon-reload", "reset-failed", "cancel"):
            reply = await lab.ask(verb, "a", privileged=False)
            assert reply["error"]["kind"] == "denied", verb
        reply = await lab.ask("service-watchdogs", privileged=False, enabled=False)
        assert reply["error"]["kind"] == "denied"
        assert (await lab.ask("service-watchdogs", privileged=False))["enabled"]
        for verb in ("show", "status", "units", "list-jobs", "dependencies", "ping", "show-manager"):
            assert "error" not in await lab.ask(verb, "a", privileged=False), verb
        assert (await lab.ask("nonsense"))["error"]["kind"] == "unknown-verb"

    in_lab(lab, scene)


def test_who_waits_is_told_and_who_cancels_too(lab: Lab) -> None:
    lab.write({"a.service": "[Unit]\nDefaultDependencies=no\n[Service]\nType=notify\nExecStart=/probe/p pause\n"})

    async def scene() -> None:
        started = asyncio.ensure_future(lab.ask("start", "a"))
        await asyncio.sleep(1)
        jobs = (await lab.ask("list-jobs"))["jobs"]
        assert [(job["unit"], job["type"], job["state"]) for job in jobs] == [("a.service", "start", "running")]
        assert (await lab.ask("cancel", jobs=[999]))["error"]["kind"] == "not-found"
        await lab.ask("cancel", jobs=[jobs[0]["id"]])
        assert (await started)["jobs"][0]["result"] == "canceled"

    in_lab(lab, scene)


def test_the_outlook(lab: Lab) -> None:
    text = PLAIN.replace("[Service]", "StartLimitBurst=3\n[Service]").replace("pause", "exit:4")
    lab.write({"a.service": text + "Restart=on-failure\nRestartSec=2\n"})

    async def scene() -> None:
        await lab.start("a.service")
        await asyncio.sleep(1)
        outlook = (await lab.ask("status", "a"))["units"][0]["outlook"]
        assert (outlook["failed"], outlook["restarts_in"], outlook["restarts"]) == ("exit-code", 1_000_000, 0)
        assert (outlook["start_limit"]["left"], outlook["start_limit"]["window_ends_in"]) == (2, 9_000_000)
        await asyncio.sleep(8)
        outlook = (await lab.ask("status", "a"))["units"][0]["outlook"]
        assert outlook["start_limit"]["left"] == 0
        assert "restarts_in" not in outlook

    in_lab(lab, scene)


def test_events_are_told_to_watchers(lab: Lab) -> None:
    lab.write({"a.service": PLAIN})

    async def scene() -> None:
        watcher = lab.manager.feed.subscribe()
        await lab.start("a.service")
        seen = list[tuple[str, Any]]()
        while len(seen) < 5:
            item = await watcher.next()
            assert item is not None
            if item.get("unit") == "a.service":
                seen.append((item["event"], item.get("sub") or item.get("result") or item.get("text")))
        assert seen[:2] == [("unit", "start"), ("unit", "start-post")]
        assert seen[2] == ("unit", "running")
        assert ("job", "done") in seen
        assert ("log", "Started a.service.") in seen

    in_lab(lab, scene)


def test_a_condition_on_a_disk_that_hangs_delays_its_unit_only(lab: Lab) -> None:
    lab.write({
        "a.service": PLAIN.replace("[Service]", "ConditionPathExists=/hung\n[Service]"),
        "b.service": PLAIN.replace("[Service]", "AssertPathExists=!/b\n[Service]"),
    })  # fmt: skip

    async def scene() -> None:
        answer = asyncio.get_running_loop().create_future()

        async def offload(call: Any, /, *arguments: Any) -> Any:
            result = call(*arguments)
            if isinstance(result, dict) and any(one.argument == "/hung" for one, _ in result):
                await answer
            return result

        lab.manager._judge._offload = offload
        started = asyncio.ensure_future(lab.start("a.service"))
        assert await lab.start("b.service") == "done"
        assert lab.states() == {"a.service": "dead", "b.service": "running"}
        assert not started.done()
        await asyncio.sleep(10.1)
        assert await started == "done"
        assert lab.log("a.service")[-1].startswith("a.service was skipped because of an unmet condition check")

    in_lab(lab, scene)
