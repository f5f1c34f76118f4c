"""The path daemon on fakes: maps are made, adopted, changed and removed as paths and configuration want it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path as FilePath

from holdfast.testing.virtual_loop import run_virtual
from tests.unit.path_daemon_lab import GREEDY, DaemonLab

Scene = Callable[[], Awaitable[None]]


def virtual(scene: Scene) -> None:
    async def main() -> None:
        await scene()

    run_virtual(main())


def test_a_map_is_made_of_the_paths_that_are_there(tmp_path: FilePath) -> None:
    async def scene() -> None:
        lab = DaemonLab(str(tmp_path), GREEDY + "path_grouping_policy multibus\n}\n")
        for dev in ("sda", "sdb"):
            lab.plug(dev, "36a", silently=True)
        async with lab:
            assert lab.tables() == {"36a": [["sda", "sdb"]]}
            await lab.pass_time(3)
            assert lab.kernel_states("36a") == {"sda": "A", "sdb": "A"}
            assert lab.daemon.state == "idle"
            snapshot = lab.daemon.snapshot()
            assert [row.dev for row in snapshot.paths] == ["sda", "sdb"]
            assert [row.name for row in snapshot.maps] == ["36a"]
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
        async with DaemonLab(str(tmp_path), GREEDY + "path_grouping_policy multibus\n}\n") as lab:
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
