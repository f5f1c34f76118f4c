"""What operators ask of the path daemon (spec path 4.6, 4.8, 6.4)."""

from __future__ import annotations

import errno
import json
from pathlib import Path as FilePath

import pytest

from holdfast.path.control.operations import Refused
from holdfast.path.daemon.wishes import Deeds
from holdfast.path.discovery.info import PathInfo
from holdfast.path.prkeys import ReservationKey
from holdfast.path.records import Path
from holdfast.path.states import PathState
from tests.unit.path_daemon_lab import GREEDY, MULTIBUS, SIZE, DaemonLab, virtual


def test_fail_and_reinstate(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path) as lab:
            await lab.pass_time(3)
            assert await lab.daemon.fail_path("8:0") == ""
            assert lab.kernel_states("36a") == {"sda": "F", "sdb": "A"}
            await lab.pass_time(30)
            assert lab.kernel_states("36a") == {"sda": "F", "sdb": "A"}
            assert await lab.daemon.reload_map("36a") == ""
            await lab.pass_time(5)
            assert lab.kernel_states("36a") == {"sda": "F", "sdb": "A"}
            assert await lab.daemon.reinstate_path("/dev/sda") == ""
            assert lab.kernel_states("36a") == {"sda": "A", "sdb": "A"}
            for command in (lab.daemon.fail_path("sdx"), lab.daemon.reinstate_path("9:9")):
                with pytest.raises(Refused, match="device not found"):
                    await command

    virtual(scene)


def test_state_of_the_device_of_a_path_that_was_failed(tmp_path: FilePath) -> None:
    """Nobody checks it; whether its device is online is listed all the same."""

    async def scene() -> None:
        async with two_paths(tmp_path) as lab:
            await lab.pass_time(3)
            await lab.daemon.fail_path("8:0")
            lab.disks.set_state("sda", PathState.DOWN)
            await lab.pass_time(30)
            assert [row.sysfs_down for row in lab.daemon.snapshot().paths] == [True, False]
            lab.disks.set_state("sda", PathState.UP)
            await lab.pass_time(30)
            assert not lab.daemon.find_path("sda").sysfs_down
            assert lab.kernel_states("36a") == {"sda": "F", "sdb": "A"}

    virtual(scene)


def two_paths(tmp_path: FilePath, conf: str = MULTIBUS + "}\n", **more: object) -> DaemonLab:
    lab = DaemonLab(str(tmp_path), conf, **more)  # type: ignore[arg-type]
    for dev in ("sda", "sdb"):
        lab.plug(dev, "36a", silently=True)
    return lab


def test_queueing_by_command_survives_reloads_and_reconfigures(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path, MULTIBUS + "no_path_retry queue\n}\n") as lab:
            await lab.pass_time(3)
            assert lab.dm.read_map("36a").table.queues
            await lab.daemon.disable_queueing("36a")
            assert not lab.dm.read_map("36a").table.queues
            await lab.daemon.reconfigure(True)
            lab.plug("sdc", "36a")
            await lab.pass_time(30)
            assert len(lab.tables()["36a"][0]) == 3
            assert not lab.dm.read_map("36a").table.queues
            await lab.daemon.restore_queueing(None)
            assert lab.dm.read_map("36a").table.queues

    virtual(scene)


def test_remove_and_add_maps(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path) as lab:
            await lab.pass_time(2)
            found = lab.dm.maps["36a"]
            found.open_count = 1
            with pytest.raises(Refused, match="map or partition in use"):
                await lab.daemon.remove_map("36a")
            assert lab.tables() == {"36a": [["sda", "sdb"]]}
            found.open_count = 0
            lab.dm.create("36a-part1", "part1-mpath-36a")
            assert await lab.daemon.remove_map("36a") == ""
            assert lab.tables() == {}
            await lab.pass_time(60)
            assert lab.tables() == {}  # it stays away
            assert [row.map_name for row in lab.daemon.snapshot().paths] == ["", ""]
            assert await lab.daemon.add_map("36a") == ""
            assert lab.tables() == {"36a": [["sda", "sdb"]]}
            assert await lab.daemon.remove_maps() == ""
            await lab.daemon.reconfigure(False)
            await lab.pass_time(1)
            assert lab.tables() == {"36a": [["sda", "sdb"]]}
            with pytest.raises(Refused, match="device not found"):
                await lab.daemon.add_map("36nobody")

    virtual(scene)


def test_a_map_that_cannot_be_flushed_is_as_it_was(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path, MULTIBUS + "no_path_retry queue\n}\n") as lab:
            await lab.pass_time(2)
            lab.dm.refuse("remove", errno.EBUSY)
            with pytest.raises(Refused):
                await lab.daemon.remove_map("36a")
            assert lab.dm.read_map("36a").table.queues
            assert lab.dm.io("36a") == "ok"

    virtual(scene)


def test_remove_and_add_paths(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path) as lab:
            await lab.pass_time(2)
            assert await lab.daemon.remove_path("sda") == ""
            assert lab.tables() == {"36a": [["sdb"]]}
            assert [row.dev for row in lab.daemon.snapshot().paths] == ["sdb"]
            assert await lab.daemon.add_path("sda") == ""
            assert lab.tables() == {"36a": [["sda", "sdb"]]}
            lab.disks.exclude("sdc")
            assert await lab.daemon.add_path("sdc") == "blacklisted"
            with pytest.raises(Refused, match="device not found"):
                await lab.daemon.add_path("sdq")

    virtual(scene)


def test_while_udev_has_not_seen_a_map_changes_wait(tmp_path: FilePath, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path, udev_answers=False) as lab:
            await lab.pass_time(2)
            for command in (lab.daemon.reload_map("36a"), lab.daemon.suspend_map("36a")):
                with pytest.raises(Refused, match="creation uevent"):
                    await command
            lab.plug("sdc", "36a")
            await lab.pass_time(2)
            assert lab.tables() == {"36a": [["sda", "sdb"]]}
            assert await lab.daemon.remove_path("sda") == "delayed"
            assert lab.tables() == {"36a": [["sda", "sdb"]]}
            await lab.pass_time(30)
            assert "timeout waiting on creation uevent" in caplog.text
            assert lab.tables() == {"36a": [["sdb", "sdc"]]}

    virtual(scene)


def test_suspend_and_resume(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path) as lab:
            await lab.pass_time(2)
            assert await lab.daemon.suspend_map("36a") == ""
            await lab.pass_time(1)
            assert lab.daemon.snapshot().maps[0].dm_state == "suspend"
            lab.kill("sda")
            await lab.pass_time(10)
            assert lab.kernel_states("36a") == {"sda": "A", "sdb": "A"}
            assert await lab.daemon.resume_map("36a") == ""
            await lab.pass_time(3)
            assert lab.kernel_states("36a") == {"sda": "F", "sdb": "A"}

    virtual(scene)


def test_resize(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path) as lab:
            await lab.pass_time(2)
            lab.disks.change("sda", size=2 * SIZE)
            await lab.pass_time(2)
            assert lab.dm.read_map("36a").length == SIZE
            with pytest.raises(Refused, match="different sizes"):
                await lab.daemon.resize_map("36a")
            lab.disks.change("sdb", size=2 * SIZE)
            await lab.pass_time(2)
            assert lab.dm.read_map("36a").length == SIZE
            assert await lab.daemon.resize_map("36a") == ""
            assert lab.dm.read_map("36a").length == 2 * SIZE
            assert lab.tables() == {"36a": [["sda", "sdb"]]}

    virtual(scene)


@pytest.mark.parametrize(("rule", "grows", "shrinks"), [("grow_only", True, False), ("grow_shrink", True, True)])
def test_auto_resize(tmp_path: FilePath, rule: str, grows: bool, shrinks: bool) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path, MULTIBUS + f"auto_resize {rule}\n}}\n") as lab:
            await lab.pass_time(2)
            for size, allowed in ((2 * SIZE, grows), (SIZE // 2, shrinks)):
                before = lab.dm.read_map("36a").length
                for dev in ("sda", "sdb"):
                    lab.disks.change(dev, size=size)
                await lab.pass_time(2)
                assert lab.dm.read_map("36a").length == (size if allowed else before)

    virtual(scene)


def test_marginal_by_hand(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path, MULTIBUS + "marginal_pathgroups on\n}\n") as lab:
            await lab.pass_time(2)
            assert await lab.daemon.set_marginal("sda", True) == ""
            assert lab.tables() == {"36a": [["sdb"], ["sda"]]}
            await lab.daemon.reconfigure(False)
            await lab.pass_time(1)
            assert lab.daemon.find_path("sda").marginal
            assert await lab.daemon.unset_marginal_map("36a") == ""
            assert lab.tables() == {"36a": [["sda", "sdb"]]}

    virtual(scene)


def test_switch_group_and_statistics(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path, GREEDY + "}\n") as lab:
            await lab.pass_time(2)
            assert await lab.daemon.switch_group("dm-0", 2) == ""
            assert "switch_group 2" in lab.dm.maps["36a"].messages
            row = lab.daemon.snapshot().maps[0]
            assert (row.switch_grp, row.map_loads) == (1, 1)
            with pytest.raises(Refused):
                await lab.daemon.switch_group("36a", 3)
            assert await lab.daemon.reset_stats("36a") == ""
            assert lab.daemon.snapshot().maps[0].switch_grp == 0
            with pytest.raises(Refused, match="not changed"):
                await lab.daemon.reassign_map("36a")

    virtual(scene)


def test_reservation_keys(tmp_path: FilePath) -> None:
    registered: list[str] = []

    async def register(record: Path, info: PathInfo, key: ReservationKey, all_ports: bool) -> bool:
        registered.append(f"{info.dev} {key.text}")
        return True

    async def scene() -> None:
        conf = MULTIBUS + "reservation_key file\n}\n"
        async with two_paths(tmp_path, conf, deeds=Deeds(register_key=register)) as lab:
            await lab.pass_time(2)
            assert lab.daemon.reservation_key("36a") == "none"
            assert await lab.daemon.set_reservation_key("36a", "0x123abc:aptpl") == ""
            assert lab.daemon.reservation_key("36a") == "0x123abc:aptpl"
            assert await lab.daemon.set_reservation_status("36a", True, None) == ""
            assert lab.daemon.reservation_status("36a") == "set"
            lab.kill("sda")
            await lab.pass_time(10)
            lab.mend("sda")
            await lab.pass_time(4)
            assert registered == ["sda 0X0000000000123abc"]
            assert lab.kernel_states("36a")["sda"] == "A"
            assert await lab.daemon.set_reservation_key("36a", None) == ""
            assert lab.daemon.reservation_status("36a") == "unset"

    virtual(scene)


def test_keys_are_refused_where_they_are_not_wanted(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path) as lab:
            with pytest.raises(Refused):
                await lab.daemon.set_reservation_key("36a", "0x1")
            await lab.daemon.set_reservation_status("36a", True, None)
            assert lab.daemon.reservation_status("36a") == "unset"

    virtual(scene)


def test_shutdown_ends_the_daemon(tmp_path: FilePath) -> None:
    async def scene() -> None:
        lab = two_paths(tmp_path)
        await lab.__aenter__()
        assert await lab.daemon.shutdown() == ""
        assert lab._task is not None
        await lab._task
        await lab.end()
        assert lab.daemon.state == "shutdown"
        assert lab.path("sda").record.state is PathState.UP

    virtual(scene)


def test_listings_have_what_the_kernel_has(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path, MULTIBUS + "no_path_retry 4\n}\n") as lab:
            await lab.pass_time(3)
            snapshot = lab.daemon.snapshot()
            row = snapshot.maps[0]
            assert (row.features, row.hw_handler, row.active_paths) == ("1 queue_if_no_path", "0", 2)
            assert (row.vendor, row.product, row.size) == ("HOLDFAST", "TESTDISK", SIZE)
            assert [path.dev for path in row.groups[0].paths] == ["sda", "sdb"]
            assert row.groups[0].selector == "service-time 0"
            assert {path.dm_state for path in snapshot.paths} == {"active"}
            assert lab.daemon.map_name("dm-0") == lab.daemon.map_name("36a") == "36a"
            assert lab.daemon.config_text(local=False).startswith("defaults {")
            assert lab.daemon.blacklist_text().startswith("device node rules:")
            lab.kill("sda", "sdb")
            await lab.pass_time(4)
            assert lab.daemon.snapshot().maps[0].retry_tick > 0

    virtual(scene)


RECORDED = FilePath(__file__).parents[1] / "vectors" / "path" / "show-config.jsonl"


def test_the_local_configuration_as_the_original_shows_it(tmp_path: FilePath) -> None:
    """Recorded with two maps of a disk that has no entry in the hardware table."""
    replies = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    (recorded,) = (
        one["reply"].rstrip("\0")
        for one in replies
        if (one["version"], one["command"]) == ("0.14.3", "show config local")
    )
    written = recorded.partition("\n}")[0] + '\n}\nblacklist {\ndevnode "^(fd|sr|loop|ram)"\n}\n'

    async def scene() -> None:
        lab = DaemonLab(str(tmp_path), written)
        for number, dev in enumerate(("sda", "sdb", "sdc", "sdd")):
            lab.plug(dev, f"35000c50015ea71{('aa', 'bb')[number % 2]}", silently=True)
        async with lab:
            await lab.pass_time(3)
            assert lab.daemon.config_text(local=True) == recorded

    virtual(scene)


def test_the_local_configuration_has_what_is_used(tmp_path: FilePath) -> None:
    entries = "".join(
        f"device {{\nvendor {vendor}\nproduct {product}\nno_path_retry {retry}\n}}\n"
        for vendor, product, retry in (("HOLD", "TEST", 7), ("HOLDFAST", "OTHER", 8), ("XYZ", ".*", 9))
    )
    conf = (
        MULTIBUS
        + "user_friendly_names yes\n}\n"
        + f"devices {{\n{entries}}}\n"
        + "multipaths {\nmultipath {\nwwid 36a\nalias data\n}\nmultipath {\nwwid 36c\nno_path_retry 5\n}\n}\n"
    )

    async def scene() -> None:
        lab = two_paths(tmp_path, conf)
        lab.plug("sdc", "36c", silently=True)
        lab.plug("sdd", "36d", silently=True)
        async with lab:
            await lab.pass_time(3)
            text = lab.daemon.config_text(local=True)
            devices = text[text.index("\ndevices {") : text.index("\noverrides {")]
            assert devices.count("device {") == 1
            assert '\t\tvendor "HOLD"\n\t\tproduct "TEST"\n' in devices
            assert text[text.index("multipaths {") :] == (
                'multipaths {\n\tmultipath {\n\t\twwid "36a"\n\t\talias "data"\n\t}\n'
                '\tmultipath {\n\t\twwid "36c"\n\t\t# alias "mpatha"\n\t\tno_path_retry 5\n\t}\n'
                '\tmultipath {\n\t\twwid "36d"\n\t\t# alias "mpathb"\n\t}\n}\n'
            )
            everything = lab.daemon.config_text(local=False)
            assert everything.count("device {") > 10
            assert "# alias" not in everything
            lab.unplug("sdd")
            await lab.pass_time(3)
            assert "36d" not in lab.daemon.config_text(local=True)

    virtual(scene)
