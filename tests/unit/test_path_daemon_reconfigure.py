"""A new configuration for a running path daemon: what changes, and what has to stay (spec path 14, 16)."""

from __future__ import annotations

from pathlib import Path as FilePath

import pytest

from holdfast.path.control.operations import Refused
from holdfast.path.daemon.liveness import Promises
from holdfast.path.states import PathState
from tests.unit.path_daemon_lab import GREEDY, MULTIBUS, DaemonLab, virtual


def two_paths(tmp_path: FilePath, conf: str = MULTIBUS + "}\n", **more: object) -> DaemonLab:
    lab = DaemonLab(str(tmp_path), conf, **more)  # type: ignore[arg-type]
    for dev in ("sda", "sdb"):
        lab.plug(dev, "36a", silently=True)
    return lab


def test_a_weak_reconfigure_loads_only_what_changed(tmp_path: FilePath) -> None:
    async def scene() -> None:
        lab = two_paths(tmp_path)
        lab.plug("sdc", "36c", silently=True)
        async with lab:
            await lab.pass_time(3)
            lab.dm.log.clear()
            assert await lab.daemon.reconfigure(False) == ""
            await lab.pass_time(1)
            assert lab.dm.log == []
            lab.conf += (
                'multipaths {\nmultipath {\nwwid 36a\nno_path_retry queue\npath_selector "round-robin 0"\n}\n}\n'
            )
            await lab.daemon.reconfigure(False)
            await lab.pass_time(1)
            assert lab.dm.read_map("36a").table.queues
            assert all(line.startswith("36a:") for line in lab.dm.log)
            assert sum(" load " in line for line in lab.dm.log) == 1
            lab.dm.log.clear()
            await lab.daemon.reconfigure(True)
            await lab.pass_time(1)
            assert sum(" load " in line for line in lab.dm.log) == 2

    virtual(scene)


def test_what_a_reconfigure_keeps(tmp_path: FilePath) -> None:
    async def scene() -> None:
        conf = MULTIBUS + "no_path_retry 30\nmarginal_pathgroups on\n}\n"
        async with two_paths(tmp_path, conf) as lab:
            await lab.pass_time(3)
            await lab.daemon.fail_path("sda")
            await lab.daemon.set_marginal("sdb", True)
            lab.kill("sdb")
            await lab.pass_time(10)
            before = lab.daemon.snapshot().maps[0]
            assert before.in_recovery
            checks = len(lab.storage["sdb"].started)
            lab.conf = conf.replace("polling_interval 2", "polling_interval 3")
            await lab.daemon.reconfigure(True)
            await lab.pass_time(4)
            after = lab.daemon.snapshot().maps[0]
            assert after.in_recovery
            assert 0 < before.retry_tick - after.retry_tick <= 5
            assert (after.path_faults, after.q_timeouts) == (before.path_faults, before.q_timeouts)
            assert after.map_loads > before.map_loads
            assert lab.daemon.find_path("sdb").marginal
            assert lab.path("sda").record.is_disabled
            assert lab.daemon.find_path("sdb").checkint == 3
            assert len(lab.storage["sdb"].started) > checks
            lab.mend("sdb")
            await lab.pass_time(5)
            assert lab.kernel_states("36a") == {"sda": "F", "sdb": "A"}

    virtual(scene)


def test_checks_go_on_while_the_files_are_read(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path) as lab:
            await lab.pass_time(3)
            lab.calls.delay_s["mpath-36a"] = 25.0
            checks = len(lab.storage["sda"].started)
            await lab.daemon.reconfigure(True)
            assert lab.daemon.state == "configure"
            await lab.pass_time(10)
            assert lab.daemon.state == "configure"
            assert len(lab.storage["sda"].started) >= checks
            lab.calls.delay_s.clear()
            await lab.pass_time(200)
            assert lab.daemon.state == "idle"
            assert len(lab.storage["sda"].started) > checks

    virtual(scene)


def test_a_broken_configuration_is_not_taken_over(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path) as lab:
            await lab.pass_time(3)
            good = lab.conf
            lab.conf = 'blacklist {\ndevnode "("\n}\n'
            with pytest.raises(Refused, match="not taken over"):
                await lab.daemon.reconfigure(True)
            await lab.pass_time(2)
            assert lab.tables() == {"36a": [["sda", "sdb"]]}
            assert lab.daemon.state == "idle"
            assert lab.path("sda").record.state is PathState.UP
            lab.conf = good.replace("multibus", "failover")
            assert await lab.daemon.reconfigure(False) == ""
            await lab.pass_time(1)
            assert lab.tables() == {"36a": [["sda"], ["sdb"]]}

    virtual(scene)


def test_maps_that_are_excluded_now(tmp_path: FilePath) -> None:
    async def scene() -> None:
        lab = two_paths(tmp_path, MULTIBUS + "no_path_retry queue\n}\n")
        lab.plug("sdc", "36c", silently=True)
        lab.plug("sdd", "36c", silently=True)
        lab.plug("sde", "36e", silently=True)
        async with lab:
            await lab.pass_time(3)
            lab.dm.maps["36a"].open_count = 1
            for dev in ("sda", "sdb", "sdc", "sde"):
                lab.disks.exclude(dev)
            await lab.daemon.reconfigure(False)
            await lab.pass_time(2)
            # 36a is in use and stays as it is; 36c loses a path; 36e is removed.
            assert lab.tables() == {"36a": [["sda", "sdb"]], "36c": [["sdd"]]}
            lab.kill("sda")
            await lab.pass_time(9)
            assert lab.kernel_states("36a") == {"sda": "F", "sdb": "A"}
            with pytest.raises(Refused):
                await lab.daemon.reload_map("36a")
            for dev in ("sda", "sdb", "sdc", "sde"):
                lab.disks.exclude(dev, "")
            await lab.daemon.reconfigure(False)
            await lab.pass_time(2)
            assert lab.tables() == {"36a": [["sda", "sdb"]], "36c": [["sdc", "sdd"]], "36e": [["sde"]]}
            assert await lab.daemon.reload_map("36a") == ""

    virtual(scene)


def test_names_change(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path) as lab:
            await lab.pass_time(3)
            lab.dm.create("36a1", "part1-mpath-36a")
            lab.conf = MULTIBUS + "user_friendly_names yes\n}\n"
            await lab.daemon.reconfigure(False)
            await lab.pass_time(2)
            assert set(lab.dm.maps) == {"mpatha", "mpatha1"}
            assert lab.daemon.map_name("36a") == "mpatha"
            lab.kill("sda")
            await lab.pass_time(9)
            assert lab.kernel_states("mpatha") == {"sda": "F", "sdb": "A"}
            lab.dm.create("data", "LVM-other")
            lab.conf += "multipaths {\nmultipath {\nwwid 36a\nalias data\n}\n}\n"
            await lab.daemon.reconfigure(False)
            await lab.pass_time(2)
            assert set(lab.dm.maps) == {"mpatha", "mpatha1", "data"}

    virtual(scene)


def test_reconfigures_that_come_together_are_one(tmp_path: FilePath) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path) as lab:
            await lab.pass_time(3)
            states = len(lab.states)
            import asyncio

            await asyncio.gather(*(lab.daemon.reconfigure(False) for _ in range(50)))
            await lab.pass_time(2)
            assert lab.states[states:] == ["configure", "idle"]

    virtual(scene)


def test_promises_are_kept_by_a_configuration_that_goes_on(tmp_path: FilePath) -> None:
    async def scene() -> None:
        promises = Promises()
        lab = two_paths(tmp_path, GREEDY + "}\n")
        lab.daemon._promises = promises
        async with lab:
            assert promises.broken(lab.loop.time() + 1000) is None
            # Until udev has seen the new map a reconfigure leaves it for later, and would be done at once.
            await lab.pass_time(3)
            lab.calls.delay_s["mpath-36a"] = 25.0
            await lab.daemon.reconfigure(True)
            for _ in range(20):
                assert promises.broken(lab.loop.time()) is None
                await lab.pass_time(1)
            assert lab.daemon.state == "configure"
            assert promises.broken(lab.loop.time() + 1000) is not None
            await lab.pass_time(200)
            assert promises.broken(lab.loop.time() + 1000) is None

    virtual(scene)


def test_who_hears_of_a_new_configuration(tmp_path: FilePath, caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        async with two_paths(tmp_path) as lab:
            await lab.pass_time(3)
            heard: list[object] = []
            lab.daemon.on_config = lambda config: heard.append(config.default("uxsock_timeout").value)
            lab.conf = MULTIBUS + 'uxsock_timeout 9000\nuid_attrs "sd:ID_OTHER"\n}\n'
            for _ in range(3):
                await lab.daemon.reconfigure(False)
                await lab.pass_time(1)
            lab.conf = 'blacklist {\ndevnode "("\n}\n'
            with pytest.raises(Refused):
                await lab.daemon.reconfigure(False)
            assert heard == [9000, 9000, 9000]
            # What has to wait for a restart is said once, and again when it was taken back in between.
            assert caplog.text.count("uid_attrs stays unset until the daemon is started again") == 1
            lab.conf = MULTIBUS + "}\n"
            await lab.daemon.reconfigure(False)
            lab.conf = MULTIBUS + 'uid_attrs "sd:ID_OTHER"\n}\n'
            await lab.daemon.reconfigure(False)
            assert caplog.text.count("uid_attrs stays unset") == 2

    virtual(scene)
