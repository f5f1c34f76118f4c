"""Seeded simulation of the path rules: storage that dies, hangs, comes back; a kernel that refuses, fails paths.

Invariants: a path that gives no good answer is failed in the kernel within its deadline; checks of healthy paths
are never delayed by those that hang; each path has one check at a time; when all is well again, the kernel and we
agree and every path is in use. A failing seed is in the test's name and replays.
"""

from __future__ import annotations

import asyncio
import errno
import random
from dataclasses import dataclass

import pytest

from holdfast.path.checkers.base import DOWN, GHOST, UP
from holdfast.path.checks import GUARD_S
from holdfast.path.records import FAILBACK_IMMEDIATE, FAILBACK_MANUAL, MapSettings, Path, Policy
from holdfast.path.schedule import Intervals
from holdfast.testing.fake_dm import FakeDm
from holdfast.testing.virtual_loop import run_virtual
from tests.unit.path_lab import Lab

SEEDS = range(20)
DURATION_S = 400.0
TIMEOUT_S = 6.0
REFUSALS = 2
"""In a row; each costs a second."""
LATENCY_S = 0.5
SLACK_S = 2.0 + 2 * REFUSALS


@dataclass
class Sick:
    since: float
    seen_failed: bool = False


class Scene:
    """Three maps on one kernel, and what happens to them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.sick: dict[Path, Sick] = {}
        self.disturbed: dict[Path, float] = {}
        self.used_since: dict[Path, float] = {}
        self.complaints: list[str] = []

    async def run(self) -> None:
        chosen = self.random
        dm = FakeDm()
        polling = chosen.randint(1, 5)
        intervals = Intervals(polling, polling * chosen.randint(1, 5))
        self.intervals = intervals
        labs = []
        for position in range(3):
            settings = MapSettings(
                intervals=intervals,
                no_path_retry=chosen.choice((0, -1, -2, 3)),
                failback=chosen.choice((FAILBACK_MANUAL, FAILBACK_IMMEDIATE, 7)),
                policy=chosen.choice((Policy.FAILOVER, Policy.MULTIBUS, Policy.GROUP_BY_PRIO)),
            )
            labs.append(
                Lab(
                    settings,
                    devices=chosen.randint(1, 4),
                    name=f"mpath{'abc'[position]}",
                    dm=dm,
                    position=position,
                    maps=3,
                    timeout_s=TIMEOUT_S,
                    with_priorities=chosen.random() < 0.5,
                )
            )
        for lab in labs:
            for storage in lab.storage.values():
                storage.latency_s = chosen.uniform(0.0001, LATENCY_S)
        async with labs[0], labs[1], labs[2]:
            loop = asyncio.get_running_loop()
            end = loop.time() + DURATION_S
            while loop.time() < end:
                self.happen(chosen.choice(labs))
                until = loop.time() + chosen.uniform(0.01, 12)
                while loop.time() < until:
                    await asyncio.sleep(min(0.5, until - loop.time() + 0.001))
                    for lab in labs:
                        self.look_at(lab)
            await self.all_is_well(labs)
            assert self.complaints == []

    def happen(self, lab: Lab) -> None:
        chosen = self.random
        path = chosen.choice(lab.map.paths)
        storage = lab.storage[path]
        now = lab.loop.time()
        match chosen.randrange(10):
            case 0 | 1:
                lab.kill(path.dev)
            case 2 | 3 | 4:
                lab.release(path.dev)
                lab.mend(path.dev)
            case 5:
                lab.hang(path.dev, rude=chosen.random() < 0.3)
            case 6:
                lab.dm.refuse("message", errno.EBUSY, chosen.randint(1, REFUSALS), lab.map.name)
                lab.dm.refuse("read_map", errno.ENOMEM, chosen.randint(1, REFUSALS), lab.map.name)
                for found in lab.map.paths:
                    self.disturbed[found] = now
            case 7:
                if path.dev_t not in lab.dm.broken:
                    lab.dm.io_error(lab.map.name, path.dev_t)
                if chosen.random() < 0.7:  # otherwise the news is lost
                    lab.watch.kernel_event()
            case 8:
                storage.priority = chosen.choice((1, 10, 50))
                if storage.answer in (UP, GHOST):
                    storage.answer = chosen.choice((UP, GHOST))
            case 9:
                lab.dm.refuse("load", errno.EINVAL, chosen.randint(1, REFUSALS), lab.map.name)
        is_sick = storage.hangs or storage.answer is DOWN
        if is_sick and path not in self.sick:
            self.sick[path] = Sick(now)
        elif not is_sick:
            self.sick.pop(path, None)

    def look_at(self, lab: Lab) -> None:
        now = lab.loop.time()
        states = {told.dev_t: told.state.letter for g in lab.dm.read_map_quietly(lab.map.name) for told in g.paths}
        for path in lab.map.paths:
            storage = lab.storage[path]
            if storage.most_under_way > 1:
                self.complaints.append(f"{now}: {path.dev} was checked twice at a time")
            sick = self.sick.get(path)
            since = max(sick.since, self.disturbed.get(path, 0.0)) if sick else 0.0
            deadline = since + self.intervals.longest + TIMEOUT_S + GUARD_S + LATENCY_S + SLACK_S
            if not (sick and now > deadline and states.get(path.dev_t) == "A"):
                self.used_since[path] = now
            elif now - self.used_since.get(path, 0.0) > SLACK_S:  # just after a reload it may be
                self.complaints.append(f"{now}: {lab.map.name} {path.dev} is in use, sick since {sick.since}")
            last = max(storage.started[-1:] + [at for at, _ in storage.ended[-1:]], default=0.0)
            if not storage.under_way and now - last > self.intervals.longest + LATENCY_S + GUARD_S + SLACK_S:
                self.complaints.append(f"{now}: {lab.map.name} {path.dev} was checked last at {last}")

    async def all_is_well(self, labs: list[Lab]) -> None:
        for lab in labs:
            for path in lab.map.paths:
                lab.release(path.dev)
                lab.mend(path.dev)
        await asyncio.sleep(3 * self.intervals.longest + TIMEOUT_S + 20)
        for lab in labs:
            assert lab.converged() == []
            assert set(lab.kernel_states().values()) == {"A"}
            retry = lab.map.settings.no_path_retry
            if retry:
                live = lab.dm.maps[lab.map.name].live
                assert live is not None
                assert live.queues is (retry != -1)


@pytest.mark.parametrize("seed", SEEDS)
def test_seed(seed: int) -> None:
    run_virtual(Scene(seed).run())
