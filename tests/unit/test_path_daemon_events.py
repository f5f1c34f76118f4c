"""Devices, udev and kernel tell the path daemon something (spec path 4.10, 4.11, 7.5, 10.6)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path as FilePath

import pytest

from holdfast.path.checkers.base import GHOST, CheckResult
from holdfast.path.daemon.wishes import Deeds
from holdfast.path.discovery.info import PathInfo
from holdfast.path.discovery.uevents import CHANGE, REMOVE, Uevent
from holdfast.path.dm_wire import UdevFlag
from holdfast.path.records import Path
from holdfast.path.states import PathState
from tests.unit.path_daemon_lab import MULTIBUS, SIZE, DaemonLab, virtual


def two_paths(tmp_path: FilePath, conf: str = MULTIBUS + "}\n", **more: object) -> DaemonLab:
    lab = DaemonLab(str(tmp_path), conf, **more)  # type: ignore[arg-type]
    for dev in ("sda", "sdb"):
        lab.plug(dev, "36a", silently=True)
    return lab


@pytest.mark.parametrize(
    ("flush", "retry", "opened", "stays"),
    [
        ("never", "queue", False, True),
        ("never", "fail", False, False),
        ("unused", "queue", True, True),
        ("unused", "queue", False, False),
        ("unused", "fail", False, False),
        ("always", "queue", False, False),
        ("always", "queue", True, True),
        ("unused", "fail", True, True),
    ],
)
def test_the_last_path_is_removed(tmp_path: FilePath, flush: str, retry: str, opened: bool, stays: bool) -> None:
    async def scene() -> None:
        conf = MULTIBUS + f"no_path_retry {retry}\nflush_on_last_del {flush}\n}}\n"
        async with two_paths(tmp_path, conf) as lab:
            await lab.pass_time(3)
            lab.dm.maps["36a"].open_count = int(opened)
            lab.unplug("sda")
            lab.unplug("sdb")
            await lab.pass_time(3)
            assert ("36a" in lab.tables()) is stays
            if stays:
                assert lab.tables() == {"36a": []}  # it holds no device that is gone
                assert lab.dm.io("36a") == ("queued" if retry == "queue" else "error")
                lab.plug("sdc", "36a")
                await lab.pass_time(3)
                assert lab.tables() == {"36a": [["sdc"]]}
                assert lab.dm.io("36a") == "ok"

    virtual(scene)


def test_deferred_remove(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path, MULTIBUS + "deferred_remove yes\n}\n") as lab:
            await lab.pass_time(3)
            lab.dm.maps["36a"].open_count = 1
            lab.unplug("sda")
            lab.unplug("sdb")
            await lab.pass_time(3)
            assert "36a: remove deferred" in lab.dm.log

    virtual(scene)


def test_queueing_ends_although_no_path_is_left_to_be_checked(tmp_path: FilePath) -> None:
    async def scene() -> None:
        conf = MULTIBUS + "no_path_retry 4\nflush_on_last_del never\n}\n"
        async with two_paths(tmp_path, conf) as lab:
            await lab.pass_time(3)
            lab.unplug("sda")
            lab.unplug("sdb")
            await lab.pass_time(2)
            assert lab.dm.io("36a") == "queued"
            await lab.pass_time(9)
            assert lab.dm.io("36a") == "error"

    virtual(scene)


def test_a_path_that_becomes_read_only(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path) as lab:
            await lab.pass_time(3)
            lab.disks.change("sda", {"DISK_RO": "1"}, read_only=True)
            await lab.pass_time(2)
            assert lab.daemon.snapshot().maps[0].write_prot == "ro"
            lab.disks.change("sda", {"DISK_RO": "0"}, read_only=False)
            await lab.pass_time(2)
            assert lab.daemon.snapshot().maps[0].write_prot == "rw"

    virtual(scene)


def test_a_path_that_leads_elsewhere_now(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path) as lab:
            await lab.pass_time(3)
            lab.disks.change("sda", wwid="36b")
            await lab.pass_time(3)
            assert lab.tables() == {"36a": [["sdb"]], "36b": [["sda"]]}

    virtual(scene)


def test_a_name_that_is_given_to_another_device(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path) as lab:
            await lab.pass_time(3)
            lab.disks.remove("sda", silently=True)
            lab.plug("sda", "36c")
            await lab.pass_time(3)
            assert lab.tables() == {"36a": [["sdb"]], "36c": [["sda"]]}

    virtual(scene)


def test_what_comes_back_down_is_checked_for_its_wwid_first(tmp_path: FilePath) -> None:
    says = {"wwid": "36a"}

    async def wwid_now(record: Path, info: PathInfo) -> str | None:
        return says["wwid"]

    async def scene() -> None:
        lab = two_paths(tmp_path, MULTIBUS + "recheck_wwid yes\n}\n", deeds=Deeds(wwid_now=wwid_now))
        for dev in ("sda", "sdb"):
            info = lab.disks.disks[dev]
            lab.disks.disks[dev] = as_scsi(info)
        async with lab:
            await lab.pass_time(3)
            lab.kill("sda")
            await lab.pass_time(10)
            lab.mend("sda")
            await lab.pass_time(4)
            assert lab.kernel_states("36a") == {"sda": "A", "sdb": "A"}
            says["wwid"] = "36other"
            lab.kill("sda")
            await lab.pass_time(10)
            lab.mend("sda")
            await lab.pass_time(4)
            assert lab.tables() == {"36a": [["sdb"]]}
            assert ("sda", "add") in lab.disks.retriggered

    virtual(scene)


def as_scsi(info: PathInfo) -> PathInfo:
    import dataclasses

    from holdfast.path.discovery.info import Bus

    return dataclasses.replace(info, bus=Bus.SCSI)


def test_paths_of_which_udev_says_nothing(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with DaemonLab(str(tmp_path), MULTIBUS + "}\n") as lab:
            lab.plug("sda", "", device_wwid="36a")
            await lab.pass_time(9)
            assert lab.disks.retriggered == []
            assert lab.path("sda").init.value == "udev-missing"
            await lab.pass_time(5)
            assert lab.disks.retriggered == [("sda", "change")]
            assert lab.path("sda").init.value == "udev-requested"
            await lab.pass_time(40)
            assert lab.disks.retriggered == [("sda", "change")] * 3
            await lab.pass_time(30)
            assert lab.tables() == {"36a": [["sda"]]}
            assert lab.path("sda").init.value == "ok"

    virtual(scene)


def test_udev_answers_a_retrigger(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with DaemonLab(str(tmp_path), MULTIBUS + "}\n") as lab:
            lab.disks.on_retrigger = lambda dev: lab.disks.change(dev, wwid="36a")
            lab.plug("sda", "")
            await lab.pass_time(13)
            assert lab.tables() == {"36a": [["sda"]]}
            assert lab.disks.retriggered == [("sda", "change")]

    virtual(scene)


def dm_event(lab: DaemonLab, action: str, name: str, **properties: str) -> Uevent:
    found = lab.dm.maps[name]
    every: Mapping[str, str] = {"DM_UUID": found.uuid, "DM_NAME": name, **properties}
    return Uevent(action, f"dm-{found.minor}", f"253:{found.minor}", every)


def test_marginal_paths_are_counted_by_the_kernels_events(tmp_path: FilePath) -> None:
    samples: list[str] = []

    async def sample(record: Path, info: PathInfo, seconds: float) -> tuple[int, int]:
        samples.append(info.dev)
        return 0, 1000

    async def scene() -> None:
        conf = (
            MULTIBUS + "marginal_path_double_failed_time 60\nmarginal_path_err_sample_time 120\n"
            "marginal_path_err_rate_threshold 10\nmarginal_path_err_recheck_gap_time 30\n}\n"
        )
        async with two_paths(tmp_path, conf, deeds=Deeds(sample=sample)) as lab:
            await lab.pass_time(3)
            dev_t = lab.disks.disks["sda"].dev_t
            for _ in range(2):
                lab.dm.io_error("36a", dev_t)
                lab.disks.send(dm_event(lab, CHANGE, "36a", DM_ACTION="PATH_FAILED", DM_PATH=dev_t))
                await lab.pass_time(0.5)
            await lab.pass_time(4)
            assert samples == ["sda"]
            await lab.pass_time(5)
            assert lab.kernel_states("36a") == {"sda": "A", "sdb": "A"}

    virtual(scene)


def test_ghost_delay(tmp_path: FilePath) -> None:
    async def scene() -> None:
        lab = two_paths(tmp_path, MULTIBUS + "ghost_delay 20\n}\n")
        for dev in ("sda", "sdb"):
            lab.answer(dev, GHOST)
        async with lab:
            await lab.pass_time(10)
            assert lab.dm.udev[0][1] & UdevFlag.NO_PATHS
            lab.answer("sda", CheckResult(PathState.UP))
            await lab.pass_time(8)
            name, flags = lab.dm.udev[-1]
            assert name == "36a"
            assert not flags & UdevFlag.NO_PATHS

    virtual(scene)


def test_cookies(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path, MULTIBUS + "skip_kpartx yes\n}\n") as lab:
            await lab.pass_time(3)
            lab.plug("sdc", "36a")
            await lab.pass_time(3)
            library = UdevFlag.DISABLE_LIBRARY_FALLBACK | UdevFlag.PRIMARY_SOURCE | UdevFlag.NO_KPARTX
            assert lab.dm.udev == [("36a", library), ("36a", library | UdevFlag.RELOAD)]

    virtual(scene)


def test_maps_that_others_make_and_remove(tmp_path: FilePath) -> None:
    async def scene() -> None:
        lab = DaemonLab(str(tmp_path), MULTIBUS.replace("greedy", "strict") + "}\n")
        lab.plug("sda", "36a", silently=True)
        async with lab:
            await lab.pass_time(3)
            assert lab.tables() == {}
            lab.make_in_kernel("theirs", "36a", [["sda"]])
            await lab.pass_time(3)
            # It is a map of ours by its UUID, and gets the name that it should have.
            assert [row.wwid for row in lab.daemon.snapshot().maps] == ["36a"]
            name = lab.daemon.snapshot().maps[0].name
            lab.kill("sda")
            await lab.pass_time(9)
            assert lab.kernel_states(name) == {"sda": "F"}
            event = dm_event(lab, REMOVE, name)
            lab.dm.remove(name)
            lab.disks.send(event)
            await lab.pass_time(3)
            assert lab.daemon.snapshot().maps == ()
            assert lab.path("sda").map is None
            lab.mend("sda")
            await lab.pass_time(20)
            assert lab.path("sda").record.state is PathState.UP
            assert lab.tables() == {}

    virtual(scene)


def test_lost_events(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path) as lab:
            await lab.pass_time(3)
            lab.plug("sdc", "36c", silently=True)
            lab.unplug("sdb", silently=True)
            lab.disks.lose_events()
            await lab.pass_time(3)
            assert lab.tables() == {"36a": [["sda"]], "36c": [["sdc"]]}

    virtual(scene)


def test_ten_thousand_events_in_a_second(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path) as lab:
            await lab.pass_time(3)
            checks = len(lab.storage["sda"].started)
            for number in range(10_000):
                lab.disks.send(Uevent(CHANGE, f"sd{'ab'[number % 2]}", lab.disks.disks["sda"].dev_t))
            assert lab.disks.queued_events < 20_000
            await lab.pass_time(10)
            assert len(lab.storage["sda"].started) > checks
            assert lab.tables() == {"36a": [["sda", "sdb"]]}
            assert not lab.daemon.is_busy
            assert sum("load" in line for line in lab.dm.log) == 1

    virtual(scene)


def test_a_device_that_hangs_while_it_is_read(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path) as lab:
            await lab.pass_time(3)
            lab.disks.hang("sda")
            lab.disks.change("sda", size=2 * SIZE)
            lab.plug("sdc", "36c")
            await lab.pass_time(3)
            assert "36c" in lab.tables()
            assert lab.path("sda").info.size == SIZE

    virtual(scene)


def test_disconnected_units_are_purged(tmp_path: FilePath) -> None:
    async def scene() -> None:
        device = tmp_path / "sysfs" / "device"
        device.mkdir(parents=True)
        (device / "delete").write_text("")
        lab = two_paths(tmp_path, MULTIBUS + "purge_disconnected yes\n}\n")
        import dataclasses

        info = lab.disks.disks["sda"]
        lab.disks.disks["sda"] = dataclasses.replace(info, sysfs_path=str(tmp_path / "sysfs"))
        async with lab:
            await lab.pass_time(3)
            lab.answer("sda", CheckResult(PathState.DISCONNECTED))
            await lab.pass_time(9)
            assert (device / "delete").read_text() == "1"
            assert lab.kernel_states("36a")["sda"] == "F"

    virtual(scene)
