"""The path daemon on fakes: which maps are made, adopted, changed and removed (spec path 12, 14)."""

from __future__ import annotations

import errno
from pathlib import Path as FilePath
from unittest import mock

import pytest

from holdfast.path.control.operations import Refused
from holdfast.path.daemon.options import PathOptions
from holdfast.path.discovery.info import PathInfo
from holdfast.path.states import PathState
from holdfast.testing.fake_dm import FakeDm
from tests.unit.path_daemon_lab import GREEDY, MULTIBUS, SIZE, DaemonLab, virtual


def test_a_map_is_made_of_the_paths_that_are_there(tmp_path: FilePath) -> None:
    async def scene() -> None:
        lab = DaemonLab(str(tmp_path), MULTIBUS + "}\n")
        for dev in ("sda", "sdb"):
            lab.plug(dev, "36a", silently=True)
        async with lab:
            assert lab.tables() == {"36a": [["sda", "sdb"]]}
            await lab.pass_time(3)
            assert lab.kernel_states("36a") == {"sda": "A", "sdb": "A"}
            assert lab.daemon.state == "idle"
            snapshot = lab.daemon.snapshot()
            assert [row.dev for row in snapshot.paths] == ["sda", "sdb"]
            assert [(row.name, row.action, row.sysfs) for row in snapshot.maps] == [("36a", "create", "dm-0")]
            lab.kill("sda")
            await lab.pass_time(9)
            assert lab.kernel_states("36a") == {"sda": "F", "sdb": "A"}
            lab.mend("sda")
            await lab.pass_time(3)
            assert lab.kernel_states("36a") == {"sda": "A", "sdb": "A"}
        assert (tmp_path / "wwids").read_text().endswith("/36a/\n")
        assert lab.states == ["startup", "configure", "idle", "shutdown"]

    virtual(scene)


def test_paths_come_and_go(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with DaemonLab(str(tmp_path), MULTIBUS + "}\n") as lab:
            assert lab.tables() == {}
            lab.plug("sda", "36a")
            await lab.pass_time(2)
            assert lab.tables() == {"36a": [["sda"]]}
            lab.plug("sdb", "36a")
            await lab.pass_time(2)
            assert lab.tables() == {"36a": [["sda", "sdb"]]}
            lab.unplug("sda")
            await lab.pass_time(2)
            assert lab.tables() == {"36a": [["sdb"]]}
            lab.unplug("sdb")
            await lab.pass_time(2)
            assert lab.tables() == {}
            assert lab.daemon.snapshot().paths == ()

    virtual(scene)


def test_paths_of_one_unit_that_come_together_are_loaded_once(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with DaemonLab(str(tmp_path), MULTIBUS + "}\n") as lab:
            for number in range(8):
                lab.plug(f"sd{chr(97 + number)}", "36a")
            await lab.pass_time(2)
            assert sum(" load " in line for line in lab.dm.log) == 1
            assert len(lab.tables()["36a"][0]) == 8

    virtual(scene)


@pytest.mark.parametrize(
    ("mode", "one", "two", "known"),
    [
        ("off", True, True, True),
        ("greedy", True, True, True),
        ("on", False, True, True),
        ("smart", False, True, True),
        ("strict", False, False, True),
    ],
)
def test_find_multipaths(tmp_path: FilePath, mode: str, one: bool, two: bool, known: bool) -> None:
    async def scene() -> None:
        (tmp_path / "wwids").write_text("/36known/\n")
        async with DaemonLab(str(tmp_path), GREEDY.replace("greedy", mode) + "}\n") as lab:
            lab.plug("sda", "36one")
            lab.plug("sdb", "36two")
            lab.plug("sdc", "36two")
            lab.plug("sdd", "36known")
            await lab.pass_time(2)
            assert set(lab.tables()) == {
                wwid for wwid, there in (("36one", one), ("36two", two), ("36known", known)) if there
            }
            if mode == "strict":
                await lab.daemon.add_map("36two")
                assert "36two" in lab.tables()
            orphans = [row.dev for row in lab.daemon.snapshot().paths if not row.map_name]
            assert orphans == [] if one else "sda" in orphans

    virtual(scene)


def test_paths_without_a_map_are_checked_too(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with DaemonLab(str(tmp_path), GREEDY.replace("greedy", "strict") + "}\n") as lab:
            lab.plug("sda", "36a")
            await lab.pass_time(30)
            assert lab.path("sda").record.state is PathState.UP
            lab.kill("sda")
            await lab.pass_time(9)
            assert lab.path("sda").record.state is PathState.DOWN
            assert len(lab.storage["sda"].started) > 5
            assert lab.dm.log == []

    virtual(scene)


def test_listings_ask_the_kernel_for_nothing(tmp_path: FilePath) -> None:
    """Sysfs is read by checks, and listed as they found it: with thousands of paths reading takes long."""

    async def scene() -> None:
        lab = DaemonLab(str(tmp_path), MULTIBUS + "}\n")
        lab.plug("sda", "36a", silently=True)
        async with lab:
            lab.disks.set_state("sda", PathState.DOWN)
            await lab.pass_time(21)
            with mock.patch.object(lab.disks, "sysfs_state", side_effect=AssertionError):
                assert [row.sysfs_down for row in lab.daemon.snapshot().paths] == [True]
                assert lab.daemon.find_path("sda").sysfs_down

    virtual(scene)


@pytest.mark.parametrize("monitor_only", [False, True])
def test_state_files_that_are_made_at_the_start(tmp_path: FilePath, monitor_only: bool) -> None:
    async def scene() -> None:
        options = PathOptions(monitor_only=monitor_only)
        async with DaemonLab(str(tmp_path), MULTIBUS + "}\n", options=options) as lab:
            await lab.pass_time(3)
            made = [name for name in ("bindings", "prkeys", "wwids") if (tmp_path / name).exists()]
            assert made == ([] if monitor_only else ["bindings", "wwids"])

    virtual(scene)


def test_adopted_maps_keep_name_and_table(tmp_path: FilePath) -> None:
    async def scene() -> None:
        lab = DaemonLab(str(tmp_path), MULTIBUS + "user_friendly_names yes\n}\n")
        for dev in ("sda", "sdb"):
            lab.plug(dev, "36a", silently=True)
        lab.make_in_kernel("mpathq", "36a", [["sda", "sdb"]])
        async with lab:
            await lab.pass_time(3)
            assert lab.dm.log == []
            assert lab.tables() == {"mpathq": [["sda", "sdb"]]}
            assert "mpathq 36a\n" in (tmp_path / "bindings").read_text()
            lab.plug("sdc", "36c")
            await lab.pass_time(2)
            assert "mpatha" in lab.tables()

    virtual(scene)


def test_adopted_maps_are_brought_into_shape(tmp_path: FilePath) -> None:
    async def scene() -> None:
        conf = MULTIBUS + "}\nmultipaths {\nmultipath {\nwwid 36a\nalias data\n}\n}\n"
        lab = DaemonLab(str(tmp_path), conf)
        for dev in ("sda", "sdb"):
            lab.plug(dev, "36a", silently=True)
        lab.make_in_kernel("old", "36a", [["sda"], ["sdb"]], size=SIZE // 2)
        async with lab:
            assert lab.tables() == {"data": [["sda", "sdb"]]}
            assert lab.dm.read_map("data").length == SIZE

    virtual(scene)


def test_a_path_that_is_known_from_a_table_only_stays(tmp_path: FilePath) -> None:
    async def scene() -> None:
        lab = DaemonLab(str(tmp_path), MULTIBUS + "}\n")
        lab.plug("sda", "36a", silently=True)
        late = lab.plug("sdb", "36a", silently=True)
        lab.make_in_kernel("36a", "36a", [["sda", "sdb"]])
        del lab.disks.disks["sdb"]
        async with lab:
            await lab.pass_time(2)
            assert lab.tables() == {"36a": [[late.dev_t, "sda"]]} or lab.tables() == {"36a": [["sda", late.dev_t]]}
            assert {row.init_state for row in lab.daemon.snapshot().paths} == {"ok", "partial"}
            await lab.pass_time(30)
            assert lab.kernel_states("36a") == {"sda": "A", late.dev_t: "A"}  # not failed: nothing is known of it
            lab.disks.add(late)
            await lab.pass_time(3)
            assert lab.tables() == {"36a": [["sda", "sdb"]]}
            assert [(row.dev, row.init_state) for row in lab.daemon.snapshot().paths] == [
                ("sda", "ok"),
                ("sdb", "ok"),
            ]
            assert not any("load" in line for line in lab.dm.log)

    virtual(scene)


def test_other_devices_are_never_touched(tmp_path: FilePath) -> None:
    async def scene() -> None:
        lab = DaemonLab(str(tmp_path), MULTIBUS + "user_friendly_names yes\n}\n")
        lab.dm.create("mpatha", "LVM-x")
        lab.dm.create("36b", "")
        lab.dm.log.clear()
        lab.plug("sda", "36a", silently=True)
        async with lab:
            assert lab.tables()["mpathb"] == [["sda"]]
            lab.conf = lab.conf.replace("user_friendly_names yes", "user_friendly_names no")
            lab.plug("sdb", "36b")
            await lab.daemon.reconfigure(True)
            await lab.pass_time(4)
            with pytest.raises(Refused):
                await lab.daemon.remove_map("mpatha")
            assert not any(line.startswith(("mpatha:", "36b:")) for line in lab.dm.log)
            assert set(lab.dm.maps) == {"mpatha", "36b", "36a"}

    virtual(scene)


def test_the_same_wwid_with_different_sizes_is_never_merged(
    tmp_path: FilePath, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        lab = DaemonLab(str(tmp_path), MULTIBUS + "}\n")
        lab.plug("sda", "36a", silently=True)
        lab.plug("sdb", "36a", size=SIZE // 2, silently=True)
        lab.plug("sdc", "36c", silently=True)
        async with lab:
            assert lab.tables() == {"36c": [["sdc"]]}
            assert "different sizes" in caplog.text
            lab.plug("sdd", "36c", size=SIZE // 2)
            await lab.pass_time(2)
            assert lab.tables() == {"36c": [["sdc"]]}
            assert "does not match" in caplog.text

    virtual(scene)


def test_monitor_only_changes_nothing(tmp_path: FilePath) -> None:
    async def scene() -> None:
        lab = DaemonLab(
            str(tmp_path), MULTIBUS + "no_path_retry queue\n}\n", options=PathOptions(monitor_only=True)
        )
        for dev in ("sda", "sdb"):
            lab.plug(dev, "36a", silently=True)
        lab.plug("sdc", "36c", silently=True)
        lab.make_in_kernel("old", "36a", [["sda"], ["sdb"]])
        async with lab:
            lab.kill("sda")
            await lab.pass_time(10)
            lab.unplug("sdb")
            await lab.pass_time(10)
            await lab.daemon.reconfigure(True)
            for command in (lab.daemon.remove_map("old"), lab.daemon.fail_path("sda"), lab.daemon.add_map("36c")):
                with pytest.raises(Refused):
                    await command
            assert lab.path("sda").record.state is PathState.DOWN
        assert lab.dm.log == []
        assert list(tmp_path.iterdir()) == []

    virtual(scene)


def test_no_device_mapper(tmp_path: FilePath, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        lab = DaemonLab(str(tmp_path), with_dm=False)
        lab.plug("sda", "36a", silently=True)
        async with lab:
            await lab.pass_time(5)
            assert lab.path("sda").record.state is PathState.UP
            assert "no device-mapper" in caplog.text
            with pytest.raises(Refused):
                await lab.daemon.add_map("36a")
            lab.with_dm = True
            await lab.pass_time(12)
            assert lab.tables() == {"36a": [["sda"]]}

    virtual(scene)


@pytest.mark.parametrize("operation", ["create", "load", "resume", "list_devices"])
def test_a_kernel_that_refuses_is_asked_again(tmp_path: FilePath, operation: str) -> None:
    async def scene() -> None:
        lab = DaemonLab(str(tmp_path), MULTIBUS + "}\n")
        lab.plug("sda", "36a", silently=True)
        lab.dm.refuse(operation, errno.EPERM, times=1)
        async with lab:
            await lab.pass_time(1)
            if operation in ("create", "load", "resume"):
                assert lab.tables() == {}  # no empty device is left
                assert (tmp_path / "failed" / "36a").exists()
            await lab.pass_time(20)
            assert lab.tables() == {"36a": [["sda"]]}
            assert not (tmp_path / "failed" / "36a").exists()

    virtual(scene)


def test_a_device_in_use_is_left_until_something_changes(tmp_path: FilePath) -> None:
    async def scene() -> None:
        lab = DaemonLab(str(tmp_path), MULTIBUS + "}\n")
        info = lab.plug("sda", "36a", silently=True)
        lab.dm.claimed.add(info.dev_t)
        async with lab:
            await lab.pass_time(1000)
            assert sum("create" in line for line in lab.dm.log) == 1
            assert lab.tables() == {}
            lab.dm.claimed.clear()
            lab.disks.change("sda")
            await lab.pass_time(2)
            assert lab.tables() == {"36a": [["sda"]]}

    virtual(scene)


def test_a_path_that_the_kernel_refuses_does_not_harm_its_map(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with DaemonLab(str(tmp_path), MULTIBUS + "}\n") as lab:
            lab.plug("sda", "36a")
            await lab.pass_time(3)
            info = lab.plug("sdb", "36a")
            lab.dm.claimed.add(info.dev_t)
            await lab.pass_time(5)
            assert lab.tables() == {"36a": [["sda"]]}
            assert lab.path("sdb").map is None
            loads = len(lab.dm.log)
            await lab.pass_time(20)
            assert len(lab.dm.log) - loads <= 4
            with pytest.raises(Refused, match="refused"):
                await lab.daemon.add_path("sdb")
            lab.dm.claimed.clear()
            assert await lab.daemon.add_path("sdb") == ""
            assert lab.tables() == {"36a": [["sda", "sdb"]]}

    virtual(scene)


def test_a_map_whose_text_does_not_parse(tmp_path: FilePath) -> None:
    class Strange(FakeDm):
        def read_map(self, name: str) -> object:  # type: ignore[override]
            found = self._map("read_map", name)
            if found.name == "strange":
                self._enter("never")
                raise self._text_error(name)
            return super().read_map(name)

        @staticmethod
        def _text_error(name: str) -> OSError:
            return OSError(errno.EINVAL, f"{name}: no table")

    async def scene() -> None:
        dm = Strange()
        lab = DaemonLab(str(tmp_path), MULTIBUS + "}\n", dm=dm)
        lab.plug("sda", "36a", silently=True)
        lab.plug("sdb", "36b", silently=True)
        lab.make_in_kernel("strange", "36a", [["sda"]])
        lab.make_in_kernel("36b", "36b", [["sdb"]])
        async with lab:
            await lab.pass_time(5)
            lab.kill("sdb")
            await lab.pass_time(9)
            rows = {row.name: row for row in lab.daemon.snapshot().maps}
            assert rows["strange"].dm_state == "undef"
            assert rows["36b"].dm_state == "active"
            assert lab.kernel_states("36b") == {"sdb": "F"}
            assert not any(line.startswith("strange") for line in lab.dm.log)

    virtual(scene)


def test_excluded_maps_are_left_alone_at_the_start(tmp_path: FilePath) -> None:
    async def scene() -> None:
        conf = MULTIBUS + "no_path_retry queue\n}\nblacklist {\nwwid 36a\n}\n"
        lab = DaemonLab(str(tmp_path), conf)
        lab.plug("sda", "36a", silently=True)
        lab.make_in_kernel("old", "36a", [["sda"]])
        lab.disks.exclude("sda")
        async with lab:
            await lab.pass_time(10)
            assert lab.dm.log == []
            assert lab.daemon.snapshot().maps == ()

    virtual(scene)


def test_a_hanging_map_delays_no_other(tmp_path: FilePath) -> None:
    async def scene() -> None:
        lab = DaemonLab(str(tmp_path), MULTIBUS + "}\n")
        for number in range(4):
            lab.plug(f"sd{chr(97 + number)}", f"36{number}", silently=True)
        async with lab:
            await lab.pass_time(10)
            lab.calls.delay_s["mpath-360"] = 1e9
            lab.kill("sda", "sdb")
            await lab.pass_time(9)
            assert lab.kernel_states("361") == {"sdb": "F"}
            lab.plug("sde", "364")
            await lab.pass_time(2)
            assert "364" in lab.tables()
            await lab.daemon.reconfigure(False)
            lab.plug("sdf", "365")
            await lab.pass_time(2)
            assert "365" in lab.tables()
            lab.calls.delay_s.clear()
            await lab.pass_time(60)
            assert lab.kernel_states("360") == {"sda": "F"}

    virtual(scene)


def test_a_hanging_path_does_not_keep_its_map_from_being_made(tmp_path: FilePath) -> None:
    async def scene() -> None:
        lab = DaemonLab(str(tmp_path), MULTIBUS + "}\n")
        lab.plug("sda", "36a", silently=True)
        lab.plug("sdb", "36a", silently=True)
        lab.storage["sda"].hangs = True
        async with lab:
            assert lab.tables() == {"36a": [["sda", "sdb"]]}
            assert lab.loop.time() < 6
            await lab.pass_time(40)
            assert lab.kernel_states("36a") == {"sda": "F", "sdb": "A"}
            assert lab.storage["sda"].most_under_way == 1

    virtual(scene)


def test_the_end_switches_queueing_off(tmp_path: FilePath) -> None:
    async def scene(extra: str, forced: bool, queues: bool) -> None:
        lab = DaemonLab(str(tmp_path), MULTIBUS + f"no_path_retry queue\n{extra}}}\n")
        lab.plug("sda", "36a", silently=True)
        async with lab:
            await lab.pass_time(2)
            assert lab.dm.read_map("36a").table.queues
            if forced:
                await lab.daemon.force_queueing_daemon(True)
        assert lab.dm.read_map("36a").table.queues is queues
        assert lab.tables() == {"36a": [["sda"]]}

    virtual(lambda: scene("", False, False))
    virtual(lambda: scene("queue_without_daemon yes\n", False, True))
    virtual(lambda: scene("", True, True))


def test_priorities_are_known_before_the_first_table(tmp_path: FilePath) -> None:
    async def scene() -> None:
        conf = GREEDY + "path_grouping_policy group_by_prio\n}\n"
        lab = DaemonLab(str(tmp_path), conf, with_priorities=True)
        for dev, priority in (("sda", 10), ("sdb", 50), ("sdc", 10)):
            lab.plug(dev, "36a", silently=True)
            lab.storage[dev].priority = priority
        async with lab:
            assert lab.tables() == {"36a": [["sdb"], ["sda", "sdc"]]}
            await lab.pass_time(10)
            assert sum("load" in line for line in lab.dm.log) == 1

    virtual(scene)


def test_a_path_of_unknown_size_alone_makes_no_map(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with DaemonLab(str(tmp_path)) as lab:
            lab.disks.add(PathInfo("sdz", "65:144", 0, wwid="36z"))
            await lab.pass_time(2)
            assert lab.tables() == {}

    virtual(scene)
