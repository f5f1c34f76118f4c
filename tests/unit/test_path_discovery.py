"""Discovery as a whole: scans, WWIDs, blacklists, hanging devices, events (spec path 4.10, 7.6, 11, 12)."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from holdfast.path.conf import Config
from holdfast.path.conf_merge import merge
from holdfast.path.discovery import Discovery, Finder, PathInfo, ReadTimeout, Uevent, facade
from holdfast.path.discovery import device as device_module
from holdfast.path.discovery.identity import may_have_map, uid_attribute
from holdfast.path.discovery.initialisation import Initialisation, InitState, Retriggers
from holdfast.path.discovery.netlink import EventsLost
from holdfast.path.discovery.reading import read_disk
from holdfast.path.discovery.sysfs import Tree
from holdfast.path.discovery.udev import NoUdev, UdevRecord
from holdfast.path.discovery.uevents import ADD, CHANGE, REMOVE
from holdfast.path.sg import SgAnswer, SgCommand
from holdfast.path.states import PathState
from holdfast.testing.fake_discovery import FakeDiscovery
from holdfast.testing.fake_sysfs import Ata, FakeSysfs, FcPort, Usb, page_80, page_83, standard_inquiry

WWID = "35000c50015ea71aa"


def config_of(text: str = "") -> Config:
    return merge([("/etc/multipath.conf", text.encode())])


class FakeMonitor:
    """Events that a test sends; the descriptor is readable while there are some."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self.events: deque[Uevent | Exception | None] = deque()

    def send(self, *events: Uevent | Exception | None) -> None:
        if not self.events:
            self._write.send(b"x")
        self.events += events

    def fileno(self) -> int:
        return self._read.fileno()

    def receive(self, is_wanted: Callable[[str], bool] = lambda dev: True) -> Uevent | None:
        if not self.events:
            raise BlockingIOError
        event = self.events.popleft()
        if not self.events:
            self._read.recv(1)
        if isinstance(event, Exception):
            raise event
        return event

    def close(self) -> None:
        self._read.close()
        self._write.close()


class FakeUdev:
    """A database as a dictionary."""

    def __init__(self, records: Mapping[str, UdevRecord] | None = None) -> None:
        self.records = dict(records or {})
        self.monitors: list[FakeMonitor] = []
        self.hold: dict[str, threading.Event] = {}
        self.asked: list[str] = []
        self.gave_up: list[str] = []
        """Held so long that the test must be wrong."""

    def is_active(self) -> bool:
        return True

    def read(self, dev: str) -> UdevRecord | None:
        self.asked.append(dev)
        if dev in self.hold and not self.hold[dev].wait(20):
            self.gave_up.append(dev)
        return self.records.get(dev)

    def monitor(self) -> FakeMonitor:
        self.monitors.append(FakeMonitor())
        return self.monitors[-1]


def known(wwid: str = WWID, **others: str) -> UdevRecord:
    """A disk that udev has processed, with the property that disks usually have."""
    return UdevRecord({"DEVNAME": "/dev/x", "SCSI_IDENT_SERIAL": "1", "ID_SERIAL": wwid, **others})


def run(
    tmp_path: Path,
    scene: Callable[[FakeSysfs, FakeUdev, Discovery], Awaitable[None]],
    text: str = "",
    read_timeout_s: float = 10.0,
) -> None:
    async def main() -> None:
        sysfs, udev = FakeSysfs(tmp_path / "sys"), FakeUdev()
        found = Discovery(
            config_of(text),
            tree=sysfs.tree,
            udev=udev,
            nodes=str(tmp_path / "dev"),
            read_timeout_s=read_timeout_s,
        )
        try:
            await scene(sysfs, udev, found)
        finally:
            for hold in udev.hold.values():
                hold.set()
            found.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def names(infos: list[PathInfo]) -> list[str]:
    return [info.dev for info in infos]


def test_a_scan(tmp_path: Path) -> None:
    async def scene(sysfs: FakeSysfs, udev: FakeUdev, found: Discovery) -> None:
        sysfs.scsi("sda", host=1, transport=FcPort("rport-1:0-1"))
        sysfs.scsi("sdb", host=2, transport=FcPort("rport-2:0-1"))
        sysfs.nvme("nvme0n1")
        sysfs.dasd("dasda")
        sysfs.plain("loop0")
        sysfs.scsi("sdu", host=3, transport=Usb())
        sysfs.scsi("sdh", host=4)
        sysfs.set("sdh", "hidden", "1")
        udev.records = {
            "sda": known(),
            "sdb": known(),
            "nvme0n1": UdevRecord({"ID_WWN": "eui.0001"}),
            "dasda": UdevRecord({"ID_WWN": "x", "ID_UID": "IBM.7.2a.1"}),
            "sdu": known(),
        }
        infos = await found.scan()
        assert {info.dev: info.wwid for info in infos} == {
            "sda": WWID,
            "sdb": WWID,
            "nvme0n1": "eui.0001",
            "dasda": "IBM.7.2a.1",
        }
        assert all(info.wwid_source == "udev" for info in infos)
        assert found.excluded == {
            "loop0": "(device node name loop0) blacklisted",
            "sdu": "USB device (allow_usb_devices is off)",
            "sdh": "hidden",
        }
        assert "loop0" not in udev.asked  # What the name excludes costs nothing.
        sysfs.remove("sdb")
        assert "sdb" not in names(await found.scan())
        assert await found.read("sdb") is None
        assert "sdb" not in found.excluded  # Gone is not excluded.
        found.use(config_of("defaults {\n allow_usb_devices yes\n}\n"))
        assert {"sdu", "dasda"} & set(names(await found.scan())) == {"sdu"}

    # DASDs are on the built-in blacklist.
    run(tmp_path, scene, "blacklist_exceptions {\n device {\n vendor IBM\n product DASD\n }\n}\n")


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ('blacklist {\n property "ID_SERIAL"\n}\n', "(udev property ID_SERIAL) blacklisted"),
        ('blacklist {\n devnode "^sda$"\n}\n', "(device node name sda) blacklisted"),
        (
            "blacklist {\n device {\n vendor HOLDFAST\n product TEST\n }\n}\n",
            "(vendor/product HOLDFAST:TESTDISK) blacklisted",
        ),
        ('blacklist {\n protocol "scsi:ata"\n}\n', "(protocol scsi:ata) blacklisted"),
        (f"blacklist {{\n wwid {WWID}\n}}\n", f"(wwid {WWID}) blacklisted"),
        (f"blacklist {{\n wwid {WWID}\n}}\nblacklist_exceptions {{\n wwid {WWID}\n}}\n", ""),
    ],
)
def test_blacklists(tmp_path: Path, rules: str, reason: str) -> None:
    async def scene(sysfs: FakeSysfs, udev: FakeUdev, found: Discovery) -> None:
        sysfs.scsi("sda", transport=Ata())
        # The first listed property decides: the rules here name another one than the built-in exception.
        udev.records["sda"] = UdevRecord({"ID_SERIAL": WWID, "SCSI_IDENT_SERIAL": "1"})
        info = await found.read("sda")
        assert (info is None) == bool(reason)
        assert found.excluded.get("sda", "") == reason

    run(tmp_path, scene, rules)


def test_a_disk_with_a_serial_but_no_usual_property_is_excluded(tmp_path: Path) -> None:
    async def scene(sysfs: FakeSysfs, udev: FakeUdev, found: Discovery) -> None:
        sysfs.scsi("sda")
        udev.records["sda"] = UdevRecord({"ID_SERIAL": WWID})
        assert await found.read("sda") is None
        assert found.excluded["sda"] == "blacklisted, udev property missing"

    run(tmp_path, scene)


def test_a_disk_that_udev_does_not_know_yet(tmp_path: Path) -> None:
    async def scene(sysfs: FakeSysfs, udev: FakeUdev, found: Discovery) -> None:
        sysfs.scsi("sda")
        info = await found.read("sda")
        assert info is not None
        assert (info.wwid, info.udev_is_initialized, info.device_wwid) == ("", False, WWID)
        info = await found.read("sda", fallback=True)
        assert info is not None
        assert (info.wwid, info.wwid_source) == (WWID, "sysfs")
        udev.records["sda"] = known("another")
        info = await found.read("sda", fallback=True)
        assert info is not None
        assert (info.wwid, info.wwid_source, info.udev_is_initialized) == ("another", "udev", True)

    run(tmp_path, scene)


def test_a_chosen_property_has_no_fallback(tmp_path: Path) -> None:
    async def scene(sysfs: FakeSysfs, udev: FakeUdev, found: Discovery) -> None:
        sysfs.scsi("sda")
        udev.records["sda"] = UdevRecord({"SCSI_IDENT_SERIAL": "1", "ID_SERIAL": WWID, "MY_ID": ""})
        info = await found.read("sda", fallback=True)
        assert info is not None
        assert info.wwid == ""
        udev.records["sda"] = UdevRecord({"SCSI_IDENT_SERIAL": "1", "MY_ID": "mine  "})
        info = await found.read("sda")
        assert info is not None
        assert info.wwid == "mine"

    run(tmp_path, scene, "defaults {\n uid_attribute MY_ID\n}\n")


def test_no_property_at_all_means_the_device(tmp_path: Path) -> None:
    async def scene(sysfs: FakeSysfs, udev: FakeUdev, found: Discovery) -> None:
        sysfs.scsi("sda")
        udev.records["sda"] = known("unused")
        info = await found.read("sda")
        assert info is not None
        assert (info.wwid, info.wwid_source) == (WWID, "sysfs")

    run(tmp_path, scene, 'defaults {\n uid_attribute ""\n}\n')


def test_uid_attrs_go_before_uid_attribute() -> None:
    config = config_of('defaults {\n uid_attrs "sd:MY_SD nvme:MY_NVME"\n uid_attribute OTHER\n}\n')
    assert uid_attribute(config, PathInfo("sda", "8:0", 1)) == "MY_SD"
    assert uid_attribute(config, PathInfo("dasda", "94:0", 1)) == "OTHER"


def test_without_udev_the_device_tells_its_wwid(tmp_path: Path) -> None:
    async def main() -> None:
        sysfs = FakeSysfs(tmp_path / "sys")
        sysfs.scsi("sda")
        found = Discovery(config_of(), tree=sysfs.tree, udev=NoUdev(), nodes=str(tmp_path))
        try:
            (info,) = await found.scan()
            assert (info.wwid, info.has_udev, info.udev_is_initialized) == (WWID, False, True)
        finally:
            found.close()

    asyncio.run(main())


def test_only_properties_in_use_are_kept(tmp_path: Path) -> None:
    async def scene(sysfs: FakeSysfs, udev: FakeUdev, found: Discovery) -> None:
        sysfs.scsi("sda")
        udev.records["sda"] = known(
            DM_MULTIPATH_DEVICE_PATH="1", ID_PATH="pci", DEVLINKS="/dev/disk/by-id/x " * 20
        )
        info = await found.read("sda")
        assert info is not None
        assert info.properties == {"ID_SERIAL": WWID, "DM_MULTIPATH_DEVICE_PATH": "1"}

    run(tmp_path, scene)


def test_a_device_that_hangs_delays_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(sysfs: FakeSysfs, udev: FakeUdev, found: Discovery) -> None:
        for number, dev in enumerate(("sda", "sdb", "sdc")):
            sysfs.scsi(dev, lun=number)
            udev.records[dev] = known(f"w{number}")
        before = await found.scan()
        udev.hold["sdb"] = threading.Event()
        # Not gone: what was known of it stays.
        assert await found.scan() == before
        assert any("kept as it was" in record.getMessage() for record in caplog.records)
        with pytest.raises(ReadTimeout):
            await found.read("sdb")
        # One call hangs, and no second one was sent after it.
        assert udev.asked.count("sdb") == 2
        assert (await found.read("sda")) is not None
        udev.records["sdb"] = known("new")
        udev.hold.pop("sdb").set()
        info = None
        for _ in range(1000):
            try:
                info = await found.read("sdb")
                break
            except ReadTimeout:
                await asyncio.sleep(0.01)
        assert info is not None
        assert info.wwid == "new"

    run(tmp_path, scene, read_timeout_s=0.2)


def test_one_that_cannot_be_read_does_not_cost_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(sysfs: FakeSysfs, udev: FakeUdev, found: Discovery) -> None:
        sysfs.scsi("sda")
        sysfs.scsi("sdb", lun=1)
        udev.records = {"sda": known(), "sdb": known()}
        read = udev.read

        def fails(dev: str) -> UdevRecord | None:
            if dev == "sda":
                raise MemoryError
            return read(dev)

        monkeypatch.setattr(udev, "read", fails)
        assert names(await found.scan()) == ["sdb"]
        assert "sda: cannot be read, left out" in caplog.text

    run(tmp_path, scene)


def test_a_device_that_does_not_answer_is_as_sysfs_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    def hangs(info: PathInfo, node: str, rdac: bool) -> PathInfo:
        go.wait(20)
        return info

    async def scene(sysfs: FakeSysfs, udev: FakeUdev, found: Discovery) -> None:
        sysfs.scsi("sda", serial="")
        udev.records["sda"] = known()
        try:
            info = await found.read("sda")
            assert info is not None
            assert (info.wwid, info.serial) == (WWID, "")
            assert names(await found.scan()) == ["sda"]  # The second call is not made.
        finally:
            go.set()

    monkeypatch.setattr(facade, "ask_node", hangs)
    run(tmp_path, scene, read_timeout_s=0.2)


def test_events_are_filtered_and_handed_out(tmp_path: Path) -> None:
    async def scene(sysfs: FakeSysfs, udev: FakeUdev, found: Discovery) -> None:
        found.start()
        (monitor,) = udev.monitors
        for event in (
            Uevent(ADD, "loop0"),
            Uevent(ADD, "sda", "8:0"),
            None,
            Uevent(CHANGE, "dm-0", properties={"DM_UUID": "mpath-x"}),
            EventsLost(),
            Uevent(REMOVE, "sdb"),
        ):
            monitor.send(event)
        seen: list[Uevent] = []
        async for event in found.events():
            seen.append(event)
            if event.dev == "sdb":
                break
        assert [(one.action, one.dev) for one in seen] == [("rescan", ""), (REMOVE, "sdb")]
        monitor.send(Uevent(ADD, "sda"))
        monitor.send(Uevent(ADD, "dm-0"))
        seen.clear()
        async for event in found.events():
            seen.append(event)
            if event.is_map:
                break
        assert [one.dev for one in seen] == ["sda", "dm-0"]
        # A map's events are wanted, and it is listed as a device that is no path.
        assert found.excluded == {
            "loop0": "(device node name loop0) blacklisted",
            "dm-0": "(device node name dm-0) blacklisted",
        }
        monitor.send(Uevent(REMOVE, "loop0"))
        monitor.send(Uevent(REMOVE, "dm-0"))
        monitor.send(Uevent(REMOVE, "sda"))
        async for event in found.events():
            if event.dev == "sda":
                break
        assert found.excluded == {}

    run(tmp_path, scene)


def test_a_flood_leaves_the_loop_to_others(tmp_path: Path) -> None:
    async def scene(sysfs: FakeSysfs, udev: FakeUdev, found: Discovery) -> None:
        found.start()
        turns = seen = most = 0
        last: dict[str, str] = {}

        async def others() -> None:
            nonlocal turns, most
            while True:
                turns += 1
                most = max(most, found.queued_events)
                await asyncio.sleep(0)

        task = asyncio.create_task(others())
        events = [
            Uevent((ADD, CHANGE, CHANGE, REMOVE)[number % 4], f"sd{'abcdefgh'[number // 4 % 8]}{number % 50}")
            for number in range(10_000)
        ]
        udev.monitors[0].send(*events, Uevent(ADD, "sdz"))
        async for event in found.events():
            seen += 1
            last[event.dev] = event.action
            if event.dev == "sdz":
                break
        task.cancel()
        assert turns >= 10_000 / 256
        assert most <= 1000  # Of 400 devices: what is out of date does not wait.
        assert last == {event.dev: event.action for event in [*events, Uevent(ADD, "sdz")]}
        assert seen <= 10_001

    run(tmp_path, scene)


def test_a_monitor_that_breaks_asks_for_a_scan(tmp_path: Path) -> None:
    async def scene(sysfs: FakeSysfs, udev: FakeUdev, found: Discovery) -> None:
        found.start()
        udev.monitors[0].send(OSError(9, "bad"))
        async for event in found.events():
            assert event.is_rescan
            break

    run(tmp_path, scene)


def test_retriggering(tmp_path: Path) -> None:
    async def scene(sysfs: FakeSysfs, udev: FakeUdev, found: Discovery) -> None:
        sysfs.scsi("sda")
        assert await found.retrigger("sda")
        assert sysfs.get("sda", "uevent") == "change"
        assert await found.retrigger("sda", ADD)
        assert sysfs.get("sda", "uevent") == "add"
        assert not await found.retrigger("sdz")
        (sysfs.disk("sda") / "uevent").unlink()
        assert not await found.retrigger("sda")
        assert not (sysfs.disk("sda") / "uevent").exists()
        with pytest.raises(ValueError):
            await found.retrigger("sda", "remove")

    run(tmp_path, scene)


def test_what_sysfs_lacks_is_asked_of_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def execute(command: SgCommand) -> SgAnswer:
        assert command.cdb[0] == 0x12
        page = command.cdb[2] if command.cdb[1] & 1 else -1
        asked.append(page)
        pages = {
            -1: standard_inquiry(3),
            0x00: b"\0\0\0\x01\xc9",
            0x80: page_80(" ABC "),
            0x83: page_83(bytes.fromhex("5000c50015ea71ff"), group=5),
            0xC9: b"\0\xc9\0\x2cvac1" + bytes(40),
        }
        return SgAnswer(data=pages[page])

    sysfs = FakeSysfs(tmp_path / "sys")
    sysfs.scsi("sda", serial="", naa=b"")
    (sysfs.device("sda") / "vpd_pg0").unlink()
    info = read_disk("sda", sysfs.tree)
    assert info is not None
    assert device_module.needs_asking(info, False)
    more = device_module.ask(info, execute)
    assert (more.serial, more.device_wwid) == ("ABC", "35000c50015ea71ff")
    assert (more.tpgs, more.target_port_group, more.is_rdac) == (3, 5, True)
    # Not asked while the kernel says that it is down, nor if the node is another device's.
    sysfs.set_state("sda", "offline")
    assert not device_module.needs_asking(info, False)
    sysfs.set_state("sda", "running")
    assert device_module.ask_node(info, "/dev/null", False) == info
    # A device that lists its pages, and not these, is not asked for them.
    sysfs.set("sda", "device/vpd_pg0", b"\0\0\0\x01\0")
    asked.clear()
    assert not device_module.needs_asking(info, False)
    assert device_module.ask(info, execute) == info
    assert asked == []
    sysfs.scsi("sdb", host=1)
    whole = read_disk("sdb", sysfs.tree)
    assert whole is not None
    assert not device_module.needs_asking(whole, False)
    assert device_module.needs_asking(whole, True)


def test_the_real_machine() -> None:
    async def main() -> None:
        found = Discovery(config_of())
        try:
            found.start()
            for info in await found.scan():
                assert found.sysfs_state(info) in PathState
            assert set(found.excluded) <= set(Tree().disks())
        finally:
            found.close()

    asyncio.run(main())


def test_who_gets_a_map() -> None:
    def asks(mode: str, **facts: object) -> bool:
        config = config_of(f"defaults {{\n find_multipaths {mode}\n}}\n")
        values: dict[str, object] = {"map_exists": False, "paths": 1, "known_wwids": frozenset(), **facts}
        return may_have_map(config, "w", **values)  # type: ignore[arg-type]

    assert [asks(mode) for mode in ("off", "greedy", "on", "smart", "strict")] == [True, True, False, False, False]
    assert [asks(mode, paths=2) for mode in ("on", "smart", "strict")] == [True, True, False]
    assert all(asks(mode, known_wwids={"w"}) for mode in ("on", "smart", "strict"))
    assert not may_have_map(config_of(), "", map_exists=True, paths=2, known_wwids={""})


MISSING = PathInfo("sda", "8:0", 1)
THERE = dataclasses.replace(MISSING, wwid=WWID)


def state_of(waiting: Initialisation) -> InitState:
    return waiting.state


def test_udev_is_asked_so_often_and_then_no_more() -> None:
    waiting = Initialisation("sda", Retriggers(tries=3, delay_s=10, interval_s=20))
    waiting.seen(MISSING, 100.0)
    assert state_of(waiting) is InitState.MISSING
    assert waiting.due(105.0).action == ""
    instants = []
    while waiting.due_at is not None:
        now = waiting.due_at
        step = waiting.due(now)
        if step.action:
            instants.append(now)
            assert step.action == CHANGE
            assert state_of(waiting) is InitState.REQUESTED
            waiting.seen(MISSING, now)  # The event came, without a WWID.
    assert instants == [110.0, 130.0, 150.0]
    assert state_of(waiting) is InitState.FAILED
    assert step.log is not None
    assert step.log.text == "sda: not initialized after 3 udev retriggers"
    assert waiting.allows_fallback
    waiting.seen(THERE, 200.0)
    assert (waiting.state, waiting.due_at, waiting.allows_fallback) == (InitState.OK, None, False)


def test_a_partial_path_is_asked_for_until_it_comes() -> None:
    waiting = Initialisation("sda")
    waiting.known_from_table(0.0)
    assert waiting.due(179.0).action == ""
    assert waiting.due(180.0, udev_knows_it=False).action == ADD
    assert waiting.due(360.0).action == CHANGE
    waiting.seen(MISSING, 361.0)
    assert state_of(waiting) is InitState.MISSING


def test_without_retriggers_it_fails_at_once() -> None:
    waiting = Initialisation("sda", Retriggers.of(config_of("defaults {\n retrigger_tries 0\n}\n")))
    waiting.seen(MISSING, 0.0)
    assert waiting.due_at == 10.0
    assert waiting.due(10.0).action == ""
    assert state_of(waiting) is InitState.FAILED


def test_the_fake_is_a_finder() -> None:
    async def main() -> None:
        fake = FakeDiscovery(THERE)
        finder: Finder = fake
        finder.start()
        assert names(await finder.scan()) == ["sda"]
        fake.add(dataclasses.replace(MISSING, dev="sdb", dev_t="8:16", device_wwid=WWID))
        fake.change("sda", size=7)
        fake.remove("sdb", silently=True)
        fake.send(Uevent(CHANGE, "dm-0"))
        seen = []
        async for event in finder.events():
            seen.append((event.action, event.dev))
            if event.is_map:
                break
        assert seen == [(ADD, "sdb"), (CHANGE, "sda"), (CHANGE, "dm-0")]
        info = await finder.read("sda")
        assert info is not None
        assert info.size == 7
        assert finder.sysfs_state(info) is PathState.UP
        fake.set_state("sda", PathState.DOWN)
        assert finder.sysfs_state(info) is PathState.DOWN
        fake.hang("sda")
        with pytest.raises(ReadTimeout):
            await finder.read("sda")
        fake.hang("sda", False)
        fake.exclude("sda", "blacklisted")
        assert await finder.read("sda") is None
        assert not await finder.retrigger("sdb")
        assert fake.retriggered == [("sdb", CHANGE)]

    asyncio.run(main())


def test_many_that_hang_do_not_add_up(tmp_path: Path) -> None:
    """More than are read at a time hang: the one behind them is read while they still do."""

    async def scene(sysfs: FakeSysfs, udev: FakeUdev, found: Discovery) -> None:
        hanging = [f"sd{one}{two}" for one in "abcde" for two in "abcd"]
        for number, dev in enumerate([*hanging, "sdz"]):
            sysfs.scsi(dev, host=9 if dev == "sdz" else 1, lun=number)
            udev.records[dev] = known(f"w{number}")
        udev.hold = {dev: threading.Event() for dev in hanging}
        scan = asyncio.create_task(found.scan())
        while "sdz" not in udev.asked:
            assert not scan.done()
            await asyncio.sleep(0.01)
        assert set(hanging) <= set(udev.asked)
        assert udev.gave_up == []
        for hold in udev.hold.values():
            hold.set()
        assert len(await scan) == 21

    run(tmp_path, scene, read_timeout_s=60)
