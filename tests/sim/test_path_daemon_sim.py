"""Seeded simulation of the whole path daemon: devices come, go, die and hang, the kernel refuses and hangs,
operators command, configurations change, others remove maps.

Always: devices that are not ours are never touched; a table has paths of its own WWID only; a path has one check
at a time; the number of tasks is bounded. When all is well again: each map's table has exactly the paths that are
there, all in use; nothing waits; after a reconfigure every unit has its map. A failing seed is in the test's name.
"""

from __future__ import annotations

import asyncio
import errno
import random
from pathlib import Path as FilePath

import pytest

from holdfast.path.control.operations import Refused
from holdfast.path.discovery.uevents import CHANGE, Uevent
from tests.unit.path_daemon_lab import MULTIBUS, SIZE, DaemonLab, virtual

SEEDS = range(16)
STEPS = 120
UNITS = ("36a", "36b", "36c", "36d")
FOREIGN = ("mpathz", "vg-root")
MAX_DISKS = 14
MAX_TASKS = 400
QUIET_S = 1500.0
"""Longer than the longest pause between two attempts."""
CONFS = (
    MULTIBUS + "no_path_retry queue\n}\n",
    MULTIBUS + "no_path_retry 3\nflush_on_last_del never\n}\n",
    MULTIBUS + "user_friendly_names yes\nno_path_retry fail\nfailback immediate\n}\n",
)
BROKEN = 'blacklist {\nwwid "("\n}\n'


class Scene:
    """One run."""

    def __init__(self, seed: int, directory: str) -> None:
        self.random = random.Random(seed)
        self.lab = DaemonLab(directory, CONFS[seed % len(CONFS)])
        self.wwid_of: dict[str, str] = {}
        """By device number, for ever: numbers are not used twice."""
        self.commands: set[asyncio.Task[None]] = set()
        self.complaints: list[str] = []
        self._named = 0

    async def run(self) -> None:
        lab = self.lab
        for name in FOREIGN:
            lab.dm.create(name, f"LVM-{name}")
        lab.dm.log.clear()
        for _ in range(self.random.randint(0, 6)):
            self._plug(silently=True)
        await self._busy_life()
        await self._quiet()

    async def _busy_life(self) -> None:
        await self.lab.__aenter__()
        for _ in range(STEPS):
            self.random.choice(self.acts)(self)
            await self.lab.pass_time(self.random.choice((0.0, 0.05, 0.5, 2.0, 7.0)))
            self._judge()

    # What happens.

    def _disk(self) -> str | None:
        disks = sorted(self.lab.disks.disks)
        return self.random.choice(disks) if disks else None

    def _plug(self, silently: bool = False) -> None:
        if len(self.lab.disks.disks) < MAX_DISKS:
            self._named += 1
            info = self.lab.plug(f"sd{self._named}", self.random.choice(UNITS), silently=silently)
            self.wwid_of[info.dev_t] = info.wwid

    def _unplug(self) -> None:
        dev = self._disk()
        if dev is not None:
            self.lab.unplug(dev)
            self.lab.storage[dev].released.set()

    def _rewire(self) -> None:
        """A name is given to a device of another unit at once."""
        dev = self._disk()
        if dev is not None:
            self.lab.kill(dev)
            self.lab.disks.remove(dev, silently=self.random.random() < 0.5)
            info = self.lab.plug(dev, self.random.choice(UNITS))
            self.wwid_of[info.dev_t] = info.wwid

    def _kill(self) -> None:
        dev = self._disk()
        if dev is not None:
            self.lab.kill(dev)

    def _mend(self) -> None:
        dev = self._disk()
        if dev is not None:
            self.lab.mend(dev)

    def _hang(self) -> None:
        dev = self._disk()
        if dev is not None:
            storage = self.lab.storage[dev]
            storage.hangs, storage.rude = True, self.random.random() < 0.3
            storage.released.clear()

    def _release(self) -> None:
        dev = self._disk()
        if dev is not None:
            self._let_go(dev)

    def _let_go(self, dev: str) -> None:
        storage = self.lab.storage[dev]
        storage.hangs = False
        storage.released.set()

    def _refuse(self) -> None:
        operation = self.random.choice(
            ("create", "load", "resume", "message", "read_map", "list_devices", "remove")
        )
        error = self.random.choice((errno.EPERM, errno.ENOMEM, errno.EIO, errno.EBUSY))
        self.lab.dm.refuse(operation, error, times=self.random.randint(1, 3))

    def _slow_kernel(self) -> None:
        lane = f"mpath-{self.random.choice(UNITS)}"
        self.lab.calls.delay_s[lane] = self.random.choice((0.0, 0.2, 5.0, 100.0))

    def _io_error(self) -> None:
        for name in sorted(self.lab.dm.maps):
            groups = self.lab.dm.read_map_quietly(name)
            if groups and groups[0].paths and self.random.random() < 0.5:
                self.lab.dm.io_error(name, groups[0].paths[0].dev_t)

    def _opened(self) -> None:
        for name in sorted(self.lab.dm.maps):
            if name not in FOREIGN:
                self.lab.dm.maps[name].open_count = self.random.randint(0, 1)

    def _changes(self) -> None:
        dev = self._disk()
        if dev is not None:
            self.lab.disks.change(dev, read_only=self.random.random() < 0.2)

    def _lost(self) -> None:
        self.lab.disks.lose_events()

    def _storm(self) -> None:
        dev = self._disk()
        if dev is not None:
            for _ in range(500):
                self.lab.disks.send(Uevent(CHANGE, dev, self.lab.disks.disks[dev].dev_t))

    def _somebody_removes(self) -> None:
        for name in sorted(self.lab.dm.maps):
            if name not in FOREIGN and not self.lab.dm.maps[name].open_count and self.random.random() < 0.3:
                self.lab.dm.maps[name].loaded = None
                del self.lab.dm.maps[name]
                self.lab.dm._wake()

    def _reads_hang(self) -> None:
        dev = self._disk()
        if dev is not None:
            self.lab.disks.hang(dev, self.random.random() < 0.5)

    def _exclude(self) -> None:
        dev = self._disk()
        if dev is not None:
            self.lab.disks.exclude(dev, self.random.choice(("", "blacklisted")))

    def _udev(self) -> None:
        self.lab.udev_answers = self.random.random() < 0.7

    def _command(self) -> None:
        daemon, dev, wwid = self.lab.daemon, self._disk() or "sdx", self.random.choice(UNITS)
        choices = (
            lambda: daemon.fail_path(dev),
            lambda: daemon.reinstate_path(dev),
            lambda: daemon.add_path(dev),
            lambda: daemon.remove_path(dev),
            lambda: daemon.add_map(wwid),
            lambda: daemon.remove_map(wwid),
            lambda: daemon.reload_map(wwid),
            lambda: daemon.resize_map(wwid),
            lambda: daemon.suspend_map(wwid),
            lambda: daemon.resume_map(wwid),
            lambda: daemon.disable_queueing(wwid),
            lambda: daemon.restore_queueing(None),
            lambda: daemon.set_marginal(dev, True),
            lambda: daemon.unset_marginal_map(wwid),
            lambda: daemon.switch_group(wwid, 1),
            lambda: daemon.reset_stats(None),
        )
        self._do(self.random.choice(choices)())

    def _reconfigure(self) -> None:
        conf = self.lab.conf
        self.lab.conf = BROKEN if self.random.random() < 0.2 else self.random.choice(CONFS)
        self._do(self.lab.daemon.reconfigure(self.random.random() < 0.5))
        if self.lab.conf == BROKEN:
            asyncio.get_running_loop().call_later(1.0, setattr, self.lab, "conf", conf)

    def _do(self, command: object) -> None:
        async def done() -> None:
            try:
                await command  # type: ignore[misc]
            except Refused:
                pass

        task = asyncio.create_task(done(), name="operator")
        self.commands.add(task)
        task.add_done_callback(self.commands.discard)

    acts = (
        *(_plug,) * 4,
        *(_unplug,) * 3,
        *(_kill, _mend) * 2,
        *(_hang, _release) * 2,
        *(_command,) * 4,
        _refuse,
        _refuse,
        _rewire,
        _slow_kernel,
        _io_error,
        _opened,
        _changes,
        _lost,
        _storm,
        _somebody_removes,
        _reads_hang,
        _exclude,
        _udev,
        _reconfigure,
    )

    # What must hold.

    def _judge(self) -> None:
        for line in self.lab.dm.log:
            assert not line.startswith(tuple(f"{name}:" for name in FOREIGN)), line
        self.lab.dm.log.clear()
        for found in self.lab.dm.maps.values():
            if found.live is not None and found.uuid.startswith("mpath-"):
                wwids = {self.wwid_of[path.line.dev_t] for group in found.live.groups for path in group.paths}
                assert wwids <= {found.uuid.removeprefix("mpath-")}, (found.name, wwids)
        for dev, storage in self.lab.storage.items():
            # One that was removed by command and added again is another path: its first check may begin while the
            # last one of the old is on its way out.
            assert storage.most_under_way <= 2, dev
        assert len(asyncio.all_tasks()) < MAX_TASKS + len(self.commands)

    async def _quiet(self) -> None:
        lab = self.lab
        await lab.pass_time(2)  # a configuration that was broken is mended a second later
        lab.udev_answers = True
        lab.calls.delay_s.clear()
        lab.dm._refusals.clear()
        lab.conf = CONFS[0]
        for dev in list(lab.disks.disks):
            self._let_go(dev)
            lab.mend(dev)
            lab.disks.hang(dev, False)
            lab.disks.exclude(dev, "")
            lab.disks.change(dev, read_only=False)
        for storage in lab.storage.values():
            storage.released.set()
        for name, found in lab.dm.maps.items():
            if name not in FOREIGN:
                found.open_count = 0
        await lab.pass_time(120)
        for dev in list(lab.disks.disks):
            self._do(lab.daemon.reinstate_path(dev))
        for wwid in UNITS:
            self._do(lab.daemon.resume_map(wwid))
            self._do(lab.daemon.unset_marginal_map(wwid))
        self._do(lab.daemon.restore_queueing(None))
        await lab.pass_time(QUIET_S)
        self._judge()
        assert not self.commands
        self._agrees(all_units=False)
        await lab.daemon.reconfigure(False)
        await lab.pass_time(60)
        self._agrees(all_units=True)
        assert lab.daemon.state == "idle"
        assert len(asyncio.all_tasks()) < 30
        assert sorted(lab.daemon._shared.registry.paths) == sorted(lab.disks.disks)
        loads = sum(" load " in line for line in lab.dm.log)
        await lab.pass_time(200)
        assert sum(" load " in line for line in lab.dm.log) == loads  # nothing moves any more
        await lab.end()

    def _agrees(self, all_units: bool) -> None:
        lab = self.lab
        members: dict[str, set[str]] = {}
        for info in lab.disks.disks.values():
            members.setdefault(info.wwid, set()).add(info.dev)
        maps = {
            found.uuid.removeprefix("mpath-"): found
            for found in lab.dm.maps.values()
            if found.uuid.startswith("mpath-")
        }
        for wwid, found in maps.items():
            states = lab.kernel_states(found.name)
            assert set(states) == members.get(wwid, set()), (wwid, states, members)
            assert set(states.values()) <= {"A"}, (wwid, states)
            known = lab.daemon._shared.registry.maps[wwid]
            assert known.record.name == found.name
            assert {path.dev for path in known.record.paths} == set(states)
            assert found.live is not None
            assert found.live.length == SIZE
            assert len(found.live.groups) <= 1
        assert set(lab.daemon._shared.registry.maps) == set(maps)
        if all_units:
            assert set(members) <= set(maps), (members, maps)
            assert all(lab.dm.read_map(found.name).table.queues for found in maps.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_path_daemon(seed: int, tmp_path: FilePath) -> None:
    async def scene() -> None:
        await Scene(seed, str(tmp_path)).run()

    virtual(scene)
