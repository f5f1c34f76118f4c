"""The manager around the rules, on virtual time: jobs, deadlines, reload, starvation, its end."""

from __future__ import annotations

import asyncio
from pathlib import Path

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
        assert lab.states() == {"a.service": "dead"}

    in_lab(lab, scene)
