"""A whole path daemon in virtual time: fake devices, fake kernel, storage that dies, hangs and comes back.

async with DaemonLab(conf) as lab:
    lab.plug("sda", "36a"); await lab.pass_time(5); assert lab.tables() == {...}
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from holdfast.path.checkers.base import DOWN, UP, CheckResult
from holdfast.path.conf import Config
from holdfast.path.conf_merge import merge
from holdfast.path.daemon.blocking import Inline
from holdfast.path.daemon.config_choices import ConfigChoices
from holdfast.path.daemon.core import PathDaemon
from holdfast.path.daemon.options import PathOptions
from holdfast.path.daemon.registry import KnownMap, KnownPath
from holdfast.path.daemon.wishes import Deeds
from holdfast.path.discovery.info import PathInfo
from holdfast.path.dm import DeviceMapper, DmError
from holdfast.path.path_settings import PathSettings
from holdfast.path.records import Path
from holdfast.path.states import PathState
from holdfast.testing.fake_dm import FakeCalls, FakeDm
from tests.unit.path_lab import Storage

SIZE = 131072
GREEDY = "defaults {\nfind_multipaths greedy\npolling_interval 2\nmax_polling_interval 8\n"


@dataclass(frozen=True)
class Event:
    """A uevent."""

    action: str
    dev: str
    dev_t: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)
    merged: Sequence[Event] = ()

    @property
    def is_rescan(self) -> bool:
        return self.action == "rescan"

    @property
    def is_map(self) -> bool:
        return self.dev.startswith("dm-")

    @property
    def map_wwid(self) -> str:
        uuid = self.properties.get("DM_UUID", "")
        return uuid.removeprefix("mpath-") if uuid.startswith("mpath-") else ""

    @property
    def failed_path(self) -> str:
        return self.properties.get("DM_PATH", "") if self.properties.get("DM_ACTION") == "PATH_FAILED" else ""


class Disks:
    """`world.Discovery` in memory."""

    def __init__(self) -> None:
        self.infos: dict[str, PathInfo] = {}
        self.excluded: dict[str, str] = {}
        self.states: dict[str, PathState] = {}
        self.retriggered: list[tuple[str, str]] = []
        self.hanging: set[str] = set()
        self._queue: deque[Event] = deque()
        self._arrived = asyncio.Event()

    @property
    def queued_events(self) -> int:
        return len(self._queue)

    def use(self, config: Config) -> None:
        pass

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass

    def send(self, event: Event) -> None:
        self._queue.append(event)
        self._arrived.set()

    async def scan(self) -> list[PathInfo]:
        await asyncio.sleep(0)
        return [info for info in self.infos.values() if info.dev not in self.excluded]

    async def read(self, dev: str, *, fallback: bool = False) -> PathInfo | None:
        await asyncio.sleep(0)
        if dev in self.hanging:
            raise TimeoutError(110, "no answer")
        found = self.infos.get(dev)
        if found is None or dev in self.excluded:
            return None
        if fallback and not found.wwid and found.vpd_data:
            return replace(found, wwid=found.vpd_data, wwid_source="sysfs")
        return found

    async def events(self) -> AsyncIterator[Event]:
        while True:
            self._arrived.clear()
            while self._queue:
                yield self._queue.popleft()
            await self._arrived.wait()

    async def retrigger(self, dev: str, action: str = "change") -> bool:
        self.retriggered.append((dev, action))
        return dev in self.infos

    def sysfs_state(self, info: PathInfo) -> PathState:
        return self.states.get(info.dev, PathState.UP) if info.dev in self.infos else PathState.REMOVED


class DaemonLab:
    """The daemon and its world."""

    def __init__(
        self,
        directory: str,
        conf: str = GREEDY + "}\n",
        *,
        dm: FakeDm | None = None,
        with_dm: bool = True,
        options: PathOptions | None = None,
        udev_answers: bool = True,
        deeds: Deeds | None = None,
        with_priorities: bool = False,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.dm = FakeDm() if dm is None else dm
        self.with_dm = with_dm
        self.disks = Disks()
        self.storage: dict[str, Storage] = {}
        self.conf = conf
        self.states: list[str] = []
        self.udev_answers = udev_answers
        self.calls = FakeCalls(self.dm)
        self.options = options or PathOptions()
        self.options = replace(
            self.options,
            bindings_file=os.path.join(directory, "bindings"),
            wwids_file=os.path.join(directory, "wwids"),
            prkeys_file=os.path.join(directory, "prkeys"),
            failed_directory=os.path.join(directory, "failed"),
        )
        self._minors = 0
        self._seen_maps: set[str] = set()

        def priority(path: Path, info: PathInfo, plan: PathSettings, timeout_s: float) -> int:
            return self.storage[path.dev].priority

        self.daemon = PathDaemon(
            self.options,
            self._open_dm,
            self.disks,
            self._make_checker,
            self._config(),
            ConfigChoices,
            self._config,
            priority=priority if with_priorities else None,
            deeds=deeds,
            calls_of=lambda dm: self.calls,
            blocking=Inline(),
            name_of=self._name_of,
            on_state=self.states.append,
        )
        self._task: asyncio.Task[None] | None = None

    def _config(self) -> Config:
        return merge([("multipath.conf", self.conf.encode())], native_nvme=False)

    def _open_dm(self) -> DeviceMapper:
        if not self.with_dm:
            raise DmError(2, "no device-mapper here")
        return self.dm

    def _make_checker(self, record: Path, info: PathInfo) -> Storage:
        return self.storage[info.dev]

    def _name_of(self, dev_t: str) -> str:
        return next((info.dev for info in self.disks.infos.values() if info.dev_t == dev_t), "")

    async def __aenter__(self) -> DaemonLab:
        await self.daemon.start()
        self._task = self.loop.create_task(self._run())
        return self

    async def _run(self) -> None:
        udev = self.loop.create_task(self._udev())
        try:
            await self.daemon.run()
        finally:
            udev.cancel()
            await asyncio.wait([udev])

    async def _udev(self) -> None:
        """Answers the creation of maps with a change event a little later."""
        while True:
            await asyncio.sleep(0.5)
            for found in list(self.dm.maps.values()):
                if self.udev_answers and found.live is not None and found.uuid not in self._seen_maps:
                    self._seen_maps.add(found.uuid)
                    self.disks.send(
                        Event("change", f"dm-{found.minor}", f"253:{found.minor}", {"DM_UUID": found.uuid})
                    )
            self._seen_maps &= {found.uuid for found in self.dm.maps.values()}

    async def __aexit__(self, *exc: object) -> None:
        await self.end()

    async def end(self) -> None:
        if self._task is None:
            return
        task, self._task = self._task, None
        if task.done():
            task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self.daemon.stop()
        left = [one for one in asyncio.all_tasks() if one is not asyncio.current_task()]
        assert not left, left

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if self._task is not None and self._task.done():
            self._task.result()

    # Devices.

    def plug(self, dev: str, wwid: str, *, size: int = SIZE, silently: bool = False, **more: object) -> PathInfo:
        info = PathInfo(
            dev,
            f"8:{16 * self._minors}",
            size,
            wwid=wwid,
            vendor="HOLDFAST",
            product="TESTDISK",
            **more,  # type: ignore[arg-type]
        )
        self._minors += 1
        self.disks.infos[dev] = info
        self.storage[dev] = Storage(self.loop)
        if not silently:
            self.disks.send(Event("add", dev, info.dev_t))
        return info

    def unplug(self, dev: str, *, silently: bool = False) -> None:
        info = self.disks.infos.pop(dev)
        self.storage[dev].answer = DOWN
        self.dm.broken.add(info.dev_t)
        if not silently:
            self.disks.send(Event("remove", dev, info.dev_t))

    def change(self, dev: str, **changes: object) -> None:
        self.disks.infos[dev] = replace(self.disks.infos[dev], **changes)  # type: ignore[arg-type]
        self.disks.send(Event("change", dev, self.disks.infos[dev].dev_t))

    def kill(self, *devs: str) -> None:
        for dev in devs:
            self.storage[dev].answer = DOWN
            self.dm.broken.add(self.disks.infos[dev].dev_t)

    def mend(self, *devs: str) -> None:
        for dev in devs:
            self.storage[dev].answer = UP
            self.dm.broken.discard(self.disks.infos[dev].dev_t)

    def answer(self, dev: str, result: CheckResult) -> None:
        self.storage[dev].answer = result

    # What is there.

    def map(self, wwid: str) -> KnownMap:
        return self.daemon._shared.registry.maps[wwid]

    def path(self, dev: str) -> KnownPath:
        return self.daemon._shared.registry.paths[dev]

    def tables(self) -> dict[str, list[list[str]]]:
        """Name of each map in the kernel to the names of its groups' devices."""
        names = {info.dev_t: info.dev for info in self.disks.infos.values()}
        return {
            found.name: [
                sorted(names.get(path.line.dev_t, path.line.dev_t) for path in group.paths)
                for group in (found.live.groups if found.live is not None else [])
            ]
            for found in self.dm.maps.values()
        }

    def kernel_states(self, name: str) -> dict[str, str]:
        names = {info.dev_t: info.dev for info in self.disks.infos.values()}
        groups = self.dm.read_map_quietly(name)
        return {names.get(path.dev_t, path.dev_t): path.state.letter for group in groups for path in group.paths}
