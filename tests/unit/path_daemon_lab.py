"""A whole path daemon in virtual time: fake devices, fake kernel, storage that dies, hangs and comes back.

async with DaemonLab(conf) as lab:
    lab.plug("sda", "36a"); await lab.pass_time(5); assert lab.tables() == {...}
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace

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
from holdfast.path.discovery.uevents import CHANGE, Uevent
from holdfast.path.dm import DeviceMapper, DmError
from holdfast.path.path_settings import PathSettings
from holdfast.path.records import Path
from holdfast.testing.fake_discovery import FakeDiscovery
from holdfast.testing.fake_dm import FakeCalls, FakeDm
from holdfast.testing.virtual_loop import run_virtual
from tests.unit.path_lab import Storage, table_of

SIZE = 131072
GREEDY = "defaults {\nfind_multipaths greedy\npolling_interval 2\nmax_polling_interval 8\n"


MULTIBUS = GREEDY + "path_grouping_policy multibus\n"


def virtual(scene: Callable[[], Awaitable[None]]) -> None:
    """Run a test's scene in virtual time."""

    async def main() -> None:
        await scene()

    run_virtual(main())


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
        self.disks = FakeDiscovery()
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
        return next((info.dev for info in self.disks.disks.values() if info.dev_t == dev_t), "")

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
                        Uevent(CHANGE, f"dm-{found.minor}", f"253:{found.minor}", {"DM_UUID": found.uuid})
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

    def make_in_kernel(self, name: str, wwid: str, groups: list[list[str]], size: int = SIZE) -> None:
        """A map that is there before the daemon is."""
        self.dm.create(name, f"mpath-{wwid}")
        self.dm.load(name, size, table_of(*[[self.disks.disks[dev].dev_t for dev in group] for group in groups]))
        self.dm.resume(name)
        self.dm.log.clear()

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
        self.storage[dev] = Storage(self.loop)
        self.disks.add(info, silently=silently)
        return info

    def unplug(self, dev: str, *, silently: bool = False) -> None:
        self.kill(dev)
        self.disks.remove(dev, silently=silently)

    def kill(self, *devs: str) -> None:
        for dev in devs:
            self.storage[dev].answer = DOWN
            self.dm.broken.add(self.disks.disks[dev].dev_t)

    def mend(self, *devs: str) -> None:
        for dev in devs:
            self.storage[dev].answer = UP
            self.dm.broken.discard(self.disks.disks[dev].dev_t)

    def answer(self, dev: str, result: CheckResult) -> None:
        self.storage[dev].answer = result

    # What is there.

    def map(self, wwid: str) -> KnownMap:
        return self.daemon._shared.registry.maps[wwid]

    def path(self, dev: str) -> KnownPath:
        return self.daemon._shared.registry.paths[dev]

    def tables(self) -> dict[str, list[list[str]]]:
        """Name of each map in the kernel to the names of its groups' devices."""
        names = {info.dev_t: info.dev for info in self.disks.disks.values()}
        return {
            found.name: [
                sorted(names.get(path.line.dev_t, path.line.dev_t) for path in group.paths)
                for group in (found.live.groups if found.live is not None else [])
            ]
            for found in self.dm.maps.values()
        }

    def kernel_states(self, name: str) -> dict[str, str]:
        names = {info.dev_t: info.dev for info in self.disks.disks.values()}
        groups = self.dm.read_map_quietly(name)
        return {names.get(path.dev_t, path.dev_t): path.state.letter for group in groups for path in group.paths}
