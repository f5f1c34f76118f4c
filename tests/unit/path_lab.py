"""A multipath map in virtual time: fake kernel, storage whose paths die, hang and come back, and what was logged.

async with Lab(...) as lab:
    lab.kill("sda"); await lab.pass_time(10); assert ...
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from holdfast.path.checkers.base import DOWN, UP, CheckResult
from holdfast.path.dm_text import GroupLine, PathLine, Table
from holdfast.path.grouping import build_table
from holdfast.path.records import Ask, Log, Map, MapSettings, Path
from holdfast.path.states import DmState, PathState
from holdfast.path.watch import MapWatch
from holdfast.testing.fake_dm import FakeDm, FakeKernel


@dataclass(eq=False)
class Storage:
    """What a path's device does. `answer` is what a check finds when the device answers."""

    loop: asyncio.AbstractEventLoop
    answer: CheckResult = UP
    latency_s: float = 0.001
    hangs: bool = False
    rude: bool = False
    """The checker does not keep its timeout."""
    started: list[float] = field(default_factory=list)
    ended: list[tuple[float, PathState]] = field(default_factory=list)
    priority: int = 1
    under_way: int = 0
    most_under_way: int = 0

    def __post_init__(self) -> None:
        self.released = asyncio.Event()

    async def check(self, timeout_s: float) -> CheckResult:
        self.started.append(self.loop.time())
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(self.latency_s)
            if self.hangs:
                if self.rude:
                    await self.released.wait()
                else:
                    try:
                        await asyncio.wait_for(self.released.wait(), timeout_s - self.latency_s)
                    except TimeoutError:
                        self.ended.append((self.loop.time(), PathState.TIMEOUT))
                        return CheckResult(PathState.TIMEOUT, " timed out")
            self.ended.append((self.loop.time(), self.answer.state))
            return self.answer
        finally:
            self.under_way -= 1

    def close(self) -> None:
        pass


class Lab:
    """One map; `lab.maps` watches of more can be added."""

    def __init__(
        self,
        settings: MapSettings,
        devices: int = 2,
        name: str = "mpatha",
        dm: FakeDm | None = None,
        position: int = 0,
        maps: int = 1,
        timeout_s: float = 30.0,
        groups: Callable[[list[Path]], None] | None = None,
        with_priorities: bool = False,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.dm = FakeDm() if dm is None else dm
        self.kernel = FakeKernel(self.dm)
        self.log: list[str] = []
        self.asked: list[str] = []
        self.map = Map(name, "36" + name, settings, position=position, maps=maps)
        letters = "abcdefghijklmnopqrstuvwxyz"
        first = 256 * len(self.dm.maps)
        self.map.paths = [
            Path(f"sd{letters[n]}", f"8:{first + 16 * n}", timeout_s=timeout_s, priority=1) for n in range(devices)
        ]
        if groups is not None:
            groups(self.map.paths)
        self.storage = {path: Storage(self.loop) for path in self.map.paths}
        self.dm.create(name, f"mpath-36{name}")
        for path in self.map.paths:
            path.state = PathState.UP  # so that groups have their order in the first table
        self.dm.load(name, 131072, build_table(self.map))
        for path in self.map.paths:
            path.state = PathState.UNCHECKED
        self.dm.resume(name)

        async def prioritize(path: Path, timeout_s: float) -> int:
            return self.storage[path].priority

        self.watch = MapWatch(
            self.map,
            self.kernel,
            lambda path: self.storage[path],
            prioritize=prioritize if with_priorities else None,
            log=self._write,
            ask=self._asked,
        )
        self._task: asyncio.Task[None] | None = None

    def _write(self, line: Log) -> None:
        self.log.append(f"{self.loop.time():g} {line.level} {line.text}")

    def _asked(self, ask: Ask) -> None:
        self.asked.append(f"{self.loop.time():g} {ask.wish.name} {ask.path.dev}")

    async def __aenter__(self) -> Lab:
        self._task = self.loop.create_task(self.watch.run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._task is not None
        if self._task.done():
            self._task.result()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def pass_time(self, seconds: float) -> None:
        """Let virtual time pass."""
        await asyncio.sleep(seconds)
        assert self._task is not None
        if self._task.done():
            self._task.result()

    def path(self, dev: str) -> Path:
        return next(path for path in self.map.paths if path.dev == dev)

    def kill(self, *devs: str) -> None:
        """Checks find it down, I/O fails."""
        for dev in devs:
            self.storage[self.path(dev)].answer = DOWN
            self.dm.broken.add(self.path(dev).dev_t)

    def mend(self, *devs: str) -> None:
        for dev in devs:
            self.storage[self.path(dev)].answer = UP
            self.dm.broken.discard(self.path(dev).dev_t)

    def hang(self, dev: str, rude: bool = False) -> None:
        storage = self.storage[self.path(dev)]
        storage.hangs, storage.rude = True, rude
        storage.released.clear()

    def release(self, dev: str) -> None:
        storage = self.storage[self.path(dev)]
        storage.hangs = False
        storage.released.set()

    def kernel_states(self) -> dict[str, str]:
        told = self._told()
        return {path.dev: told[path.dev_t].letter for path in self.map.paths if path.dev_t in told}

    def converged(self) -> list[str]:
        """Paths about which the kernel and we disagree."""
        told = self._told()
        return [
            f"{path.dev}: {path.state.word}, kernel {told[path.dev_t].value}"
            for path in self.map.paths
            if path.dev_t in told and path.state.is_good != (told[path.dev_t] is DmState.ACTIVE)
        ]

    def _told(self) -> dict[str, DmState]:
        groups = self.dm.read_map_quietly(self.map.name)
        return {path.dev_t: path.state for group in groups for path in group.paths}


def table_of(*groups: list[str]) -> Table:
    """Groups of device numbers."""
    return Table(
        tuple(GroupLine("service-time", tuple(PathLine(dev_t, ("1",)) for dev_t in group)) for group in groups)
    )
