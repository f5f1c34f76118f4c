"""What the path daemon does with what is wrong, from the outside: one test per kind; docs/path.md has the table.

Always the same three: an error that says what it is, bounded memory, and all other paths checked on time.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import socket
import time
from pathlib import Path as FilePath

import pytest

from holdfast.path import dm
from holdfast.path.conf import Config
from holdfast.path.conf_merge import merge
from holdfast.path.control.listening import listen
from holdfast.path.control.operations import Refused
from holdfast.path.control.server import MAX_UNSENT, ControlServer
from holdfast.path.control.wire import encode
from holdfast.path.daemon.arrivals import MAX_AT_ONCE
from holdfast.path.discovery.uevents import ADD, CHANGE, MAX_QUEUED, REMOVE, Uevent
from holdfast.path.dm import DmError, MapState
from holdfast.path.dm_wire import Target
from holdfast.path.states import PathState
from holdfast.testing.fake_dm import FakeDm
from tests.unit.path_control_lab import PATIENCE_S
from tests.unit.path_daemon_lab import GREEDY, MULTIBUS, SIZE, DaemonLab, virtual

CONFS = sorted((FilePath(__file__).parents[1] / "vectors" / "path" / "conf").glob("*.conf"))
LONGEST_S = 8.0
"""max_polling_interval of the lab's configuration."""


def lab_with(tmp_path: FilePath, conf: str = MULTIBUS + "}\n", dm: FakeDm | None = None) -> DaemonLab:
    """36a: sda and sdb; 36c: sdc."""
    lab = DaemonLab(str(tmp_path), conf, dm=dm)
    for dev, wwid in (("sda", "36a"), ("sdb", "36a"), ("sdc", "36c")):
        lab.plug(dev, wwid, silently=True)
    return lab


def assert_on_time(lab: DaemonLab, *devs: str) -> None:
    """These were checked without a gap until now."""
    for dev in devs:
        started = [*lab.storage[dev].started, lab.loop.time()]
        gaps = [after - before for before, after in itertools.pairwise(started)]
        assert max(gaps) <= LONGEST_S + 1.0, (dev, max(gaps))


@pytest.mark.parametrize("rude", [False, True])
def test_a_path_that_vanishes_while_it_is_checked(tmp_path: FilePath, rude: bool) -> None:
    async def scene() -> None:
        async with lab_with(tmp_path) as lab:
            await lab.pass_time(3)
            old = lab.storage["sda"]
            old.hangs, old.rude = True, rude
            await lab.pass_time(9)
            assert old.under_way == 1
            lab.unplug("sda")
            await lab.pass_time(3)
            assert lab.tables() == {"36a": [["sdb"]], "36c": [["sdc"]]}
            assert "sda" not in lab.daemon._shared.registry.paths
            # Another unit gets its name while the old request still hangs.
            lab.plug("sda", "36e")
            await lab.pass_time(12)
            assert lab.tables() == {"36a": [["sdb"]], "36c": [["sdc"]], "36e": [["sda"]]}
            started = len(old.started)
            old.released.set()
            await lab.pass_time(12)
            assert len(old.started) == started
            assert lab.path("sda").record.state is PathState.UP
            assert_on_time(lab, "sda", "sdb", "sdc")

    virtual(scene)


def test_a_unit_whose_paths_change_their_size_one_by_one(
    tmp_path: FilePath, caplog: pytest.LogCaptureFixture
) -> None:
    """A map never gets a size that one of its paths does not have."""

    async def scene() -> None:
        async with lab_with(tmp_path) as lab:
            await lab.pass_time(3)
            lab.disks.change("sda", size=2 * SIZE)
            await lab.pass_time(3)
            assert lab.map("36a").record.length == SIZE
            with pytest.raises(Refused):
                await lab.daemon.resize_map("36a")
            await lab.daemon.reconfigure(True)
            await lab.pass_time(9)
            assert "different sizes" in caplog.text
            assert lab.map("36a").record.length == SIZE
            assert all(f" {SIZE} " not in line or " load " not in line for line in lab.dm.log)
            lab.disks.change("sdb", size=2 * SIZE)
            await lab.pass_time(3)
            assert await lab.daemon.resize_map("36a") == ""
            assert lab.map("36a").record.length == 2 * SIZE
            assert_on_time(lab, "sda", "sdb", "sdc")

    virtual(scene)


class GarbledDm(FakeDm):
    """Of the maps in `texts` the kernel says that, as table and as status."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}

    def read_map(self, name: str) -> MapState:
        info = self.info(name)
        text = self.texts.get(info.name)
        if text is None:
            return super().read_map(name)
        targets = [Target(0, SIZE, "multipath", text)]
        return dm.map_state(info, targets, targets)


@pytest.mark.parametrize(
    "text", ["", "nonsense", "9999999 9 9", "0 0 1 1 service-time 0 1 1 8:0 1 and more", "-1 \0 x"]
)
def test_kernel_texts_that_do_not_parse(tmp_path: FilePath, text: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        found = GarbledDm()
        async with lab_with(tmp_path, dm=found) as lab:
            await lab.pass_time(3)
            found.texts["36a"] = text
            found.message("36a", f"fail_path {lab.path('sda').info.dev_t}")  # It has to be looked at.
            lab.plug("sdd", "36a")
            lab.plug("sde", "36e")
            await lab.pass_time(60)
            with contextlib.suppress(Refused):
                await lab.daemon.reload_map("36a")
            await lab.daemon.reconfigure(True)
            await lab.pass_time(60)
            assert {row.name for row in lab.daemon.snapshot().maps} == {"36a", "36c", "36e"}
            assert lab.tables()["36e"] == [["sde"]]
            assert "36a" in caplog.text
            assert len(caplog.records) < 500
            assert_on_time(lab, "sda", "sdb", "sdc", "sde")
            found.texts.clear()
            await lab.daemon.reconfigure(True)
            await lab.pass_time(60)
            assert lab.tables()["36a"] == [["sda", "sdb", "sdd"]]
            assert set(lab.kernel_states("36a").values()) == {"A"}

    virtual(scene)


@pytest.mark.parametrize("number", [errno.EIO, errno.EBUSY])
@pytest.mark.parametrize(
    "operation", ["info", "read_map", "message", "load", "resume", "suspend", "list_devices", "arm", "create"]
)
def test_a_kernel_that_refuses_for_a_while(
    tmp_path: FilePath, operation: str, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with lab_with(tmp_path) as lab:
            await lab.pass_time(3)
            lab.dm.refuse(operation, number, times=10**9)
            lab.kill("sda")
            lab.plug("sdd", "36c")
            lab.plug("sde", "36e")
            await lab.pass_time(40)
            await lab.daemon.reconfigure(True)
            await lab.pass_time(200)
            assert lab.path("sda").record.state is PathState.DOWN
            assert_on_time(lab, "sda", "sdb", "sdc", "sdd", "sde")
            assert len(lab.daemon.snapshot().paths) == 5
            assert len(caplog.records) < 3000
            lab.dm._refusals.clear()
            lab.mend("sda")
            if number == errno.EBUSY:
                # A device in use, as it seems: not tried again before something changes.
                lab.disks.change("sde")
                lab.disks.change("sdd")
            await lab.pass_time(330)
            assert lab.tables() == {"36a": [["sda", "sdb"]], "36c": [["sdc", "sdd"]], "36e": [["sde"]]}
            assert set(lab.kernel_states("36a").values()) == {"A"}

    virtual(scene)


def test_a_device_mapper_that_goes_away_for_good(tmp_path: FilePath) -> None:
    """Whatever is asked of it, the answer is ENODEV."""

    class Gone(FakeDm):
        is_gone = False

        def _enter(self, operation: str, name: str | None = None) -> None:
            if self.is_gone:
                raise DmError(errno.ENODEV, f"{operation} {name}: no device-mapper")
            super()._enter(operation, name)

    async def scene() -> None:
        found = Gone()
        async with lab_with(tmp_path, dm=found) as lab:
            await lab.pass_time(3)
            found.is_gone = True
            found._wake()
            lab.kill("sda")
            lab.plug("sdd", "36d")
            await lab.pass_time(100)
            assert lab.path("sda").record.state is PathState.DOWN
            assert lab.path("sdd").record.state is PathState.UP
            with pytest.raises((Refused, DmError)):
                await lab.daemon.add_map("36d")
            with contextlib.suppress(Refused):
                await lab.daemon.reconfigure(True)
            await lab.pass_time(100)
            assert_on_time(lab, "sda", "sdb", "sdc", "sdd")

    virtual(scene)


def test_ten_thousand_events_of_as_many_devices_in_a_second(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with lab_with(tmp_path) as lab:
            await lab.pass_time(3)
            before = len(asyncio.all_tasks())
            most_tasks = most_queued = 0
            for number in range(10_000):
                dev = f"sdx{number % 5000}"
                action = (ADD, CHANGE, REMOVE)[number % 3]
                lab.disks.send(Uevent(action, dev, f"9:{number}", {"DEVNAME": "x" * 100}))
                lab.disks.send(Uevent(CHANGE, f"dm-{number % 50}", "", {"DM_UUID": f"mpath-{number}"}))
                if number % 100 == 0:
                    await lab.pass_time(0.01)
                    most_tasks = max(most_tasks, len(asyncio.all_tasks()) - before)
                    most_queued = max(most_queued, lab.disks.queued_events)
            assert most_queued <= MAX_QUEUED
            # Maps that appear are settled a while later, a task each: no more of them than events.
            assert most_tasks <= 2 * MAX_AT_ONCE + 10_000
            await lab.pass_time(30)
            assert not lab.daemon.is_busy
            assert len(asyncio.all_tasks()) <= before
            assert lab.tables() == {"36a": [["sda", "sdb"]], "36c": [["sdc"]]}
            assert_on_time(lab, "sda", "sdb", "sdc")
            assert len(lab.daemon._shared.registry.paths) == 3

    virtual(scene)


@pytest.mark.parametrize("conf", CONFS, ids=lambda path: path.stem)
def test_any_configuration_at_a_reconfigure(tmp_path: FilePath, conf: FilePath) -> None:
    """Every recorded file, most of which are broken: it is taken over or refused, and checks go on."""
    text = conf.read_bytes().decode("utf-8", "surrogateescape")

    async def scene() -> None:
        async with lab_with(tmp_path) as lab:
            await lab.pass_time(3)
            lab.daemon._load_config = lambda: _parsed(text)
            checks = len(lab.storage["sdc"].started)
            refused = ""
            try:
                assert await lab.daemon.reconfigure(False) == ""
            except Refused as error:
                refused = error.text
            await lab.pass_time(60)
            assert lab.daemon.state == "idle"
            assert len(lab.storage["sdc"].started) > checks
            if refused:
                assert "multipath.conf:" in refused
                assert lab.tables() == {"36a": [["sda", "sdb"]], "36c": [["sdc"]]}
                assert_on_time(lab, "sda", "sdb", "sdc")
            lab.daemon._load_config = lambda: _parsed(lab.conf)
            assert await lab.daemon.reconfigure(False) == ""
            await lab.pass_time(60)
            assert {tuple(map(tuple, groups)) for groups in lab.tables().values()} == {
                (("sda", "sdb"),),
                (("sdc",),),
            }

    virtual(scene)


def _parsed(text: str) -> Config:
    return merge([("multipath.conf", text.encode("utf-8", "surrogateescape"))], native_nvme=False)


def test_a_start_with_a_rule_that_is_lost(tmp_path: FilePath) -> None:
    """It may be the one that excludes a disk: maps that are there are served, none is made before it is mended."""
    broken = [("multipath.conf", (MULTIBUS + "}\n").encode()), ("conf.d/more.conf", b'blacklist {\nwwid "("\n}\n')]

    class Broken(DaemonLab):
        def _config(self) -> Config:
            return merge(broken, native_nvme=False)

    async def scene() -> None:
        lab = Broken(str(tmp_path))
        for dev, wwid in (("sda", "36a"), ("sdb", "36a"), ("sdc", "36c")):
            lab.plug(dev, wwid, silently=True)
        lab.make_in_kernel("36a", "36a", [["sda", "sdb"]])
        async with lab:
            assert lab.daemon._shared.choices.config.rules_lost
            lab.plug("sdd", "36d")
            lab.kill("sda")
            await lab.pass_time(30)
            assert lab.tables() == {"36a": [["sda", "sdb"]]}
            assert lab.kernel_states("36a") == {"sda": "F", "sdb": "A"}
            assert_on_time(lab, "sda", "sdb", "sdc", "sdd")
            broken[1] = ("conf.d/more.conf", b'blacklist {\nwwid "36d"\n}\n')
            lab.disks.exclude("sdd")
            assert await lab.daemon.reconfigure(False) == ""
            await lab.pass_time(5)
            assert set(lab.tables()) == {"36a", "36c"}

    virtual(scene)


def test_a_configuration_that_cannot_be_read(tmp_path: FilePath, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with lab_with(tmp_path) as lab:
            await lab.pass_time(3)

            def fails() -> Config:
                raise OSError(errno.ETIMEDOUT, "no answer in 60 s", "/etc/multipath.conf")

            lab.daemon._load_config = fails
            with pytest.raises(Refused, match="not taken over"):
                await lab.daemon.reconfigure(True)
            await lab.pass_time(20)
            assert "/etc/multipath.conf" in caplog.text
            assert lab.daemon.state == "idle"
            assert_on_time(lab, "sda", "sdb", "sdc")

    virtual(scene)


def test_clients_that_never_read_and_checks_go_on(tmp_path: FilePath) -> None:
    """On a real loop: sockets are real. 60 clients ask for everything a thousand times and read nothing."""

    async def scene() -> None:
        lab = lab_with(tmp_path, GREEDY.replace("max_polling_interval 8", "max_polling_interval 1") + "}\n")
        path = str(tmp_path / "socket")
        listeners = listen([path])
        clients = []
        async with lab:
            server = ControlServer(listeners.sockets, lab.daemon)
            serving = asyncio.create_task(server.run())
            try:
                request = encode(b"show maps json\0") * 1000
                for _ in range(60):
                    client = socket.socket(socket.AF_UNIX)
                    clients.append(client)
                    client.setblocking(False)
                    client.connect(path)
                    with contextlib.suppress(BlockingIOError):
                        client.send(request)
                checks = {dev: len(lab.storage[dev].started) for dev in ("sda", "sdb", "sdc")}
                deadline = time.monotonic() + PATIENCE_S
                while any(len(lab.storage[dev].started) < before + 2 for dev, before in checks.items()):
                    assert time.monotonic() < deadline
                    assert server._unsent <= MAX_UNSENT
                    reader, writer = await asyncio.open_unix_connection(path)
                    writer.write(encode(b"show daemon\0"))
                    async with asyncio.timeout(PATIENCE_S):
                        length = int.from_bytes(await reader.readexactly(8), "little")
                        assert (await reader.readexactly(length)).startswith(b"pid ")
                    writer.close()
                    await writer.wait_closed()
                    await asyncio.sleep(0.1)
            finally:
                serving.cancel()
                await asyncio.wait([serving])
                for client in clients:
                    client.close()
                listeners.close()

    asyncio.run(scene())
