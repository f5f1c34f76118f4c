"""Checkers and priorities of real devices, on nodes that are none (spec path 3, 13.1)."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import threading
from pathlib import Path as FilePath

import pytest

from holdfast.path import checkers
from holdfast.path.checkers.base import CheckResult, begin_of
from holdfast.path.daemon.configuration import load_config
from holdfast.path.daemon.devices import Devices, Node
from holdfast.path.daemon.process_options import ProcessOptions
from holdfast.path.discovery.info import Bus, PathInfo
from holdfast.path.path_settings import PathSettings
from holdfast.path.priorities.plain import FAILED
from holdfast.path.records import Path
from holdfast.path.states import PathState

PATIENCE_S = 60.0
ALUA = PathSettings(prio="alua")
INFO = PathInfo("sdz", "65:144", 2048, bus=Bus.SCSI, wwid="36z")


@pytest.mark.parametrize(
    ("checker", "needs_no_task", "found"),
    [
        ("directio", True, {PathState.WILD}),
        ("tur", False, {PathState.WILD, PathState.DOWN}),
        ("none", False, {PathState.UP}),
    ],
)
def test_a_checker_of_a_device_that_is_not_there(
    checker: str, needs_no_task: bool, found: set[PathState], tmp_path: FilePath
) -> None:
    async def scene() -> None:
        devices = Devices(str(tmp_path))
        made = devices.make_checker(Path("sdz", "65:144", checker_name=checker), INFO)
        try:
            begin = begin_of(made)
            assert (begin is not None) is needs_no_task
            result: CheckResult = await asyncio.wait_for(made.check(30.0), 60)
            assert result.state in found
        finally:
            made.close()
            devices.close()

    asyncio.run(scene())


def test_making_a_checker_touches_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: FilePath) -> None:
    """It happens on the loop, for a device that may hang."""

    def touched(*args: object, **more: object) -> None:
        raise AssertionError(f"{args} on the loop")

    async def scene() -> None:
        devices = Devices(str(tmp_path))
        try:
            for name in checkers.BUILT_IN:
                with monkeypatch.context() as patch:
                    for call in ("open", "stat", "lstat", "readlink", "listdir", "scandir", "access"):
                        patch.setattr(os, call, touched)
                    patch.setattr("builtins.open", touched)
                    made = devices.make_checker(Path("sdz", "65:144", checker_name=name), INFO)
                made.close()
        finally:
            devices.close()

    asyncio.run(scene())


@pytest.mark.parametrize("checker", sorted(set(checkers.BUILT_IN) - {"none", "directio"}))
def test_a_device_that_hangs_in_open_delays_no_other(
    checker: str, monkeypatch: pytest.MonkeyPatch, tmp_path: FilePath
) -> None:
    """directio opens by `probe_io`: see test_path_frozen."""
    opening, go_on = threading.Event(), threading.Event()

    def hanging(node: Node) -> int:
        if node._node.endswith("hangs"):
            opening.set()
            assert go_on.wait(PATIENCE_S)
        raise OSError(errno.ENXIO, "nothing behind it")

    monkeypatch.setattr(Node, "_open", hanging)

    async def scene() -> None:
        devices = Devices(str(tmp_path))
        hung, well = (PathInfo(dev, "65:144", 2048, bus=Bus.SCSI, wwid="36z") for dev in ("hangs", "other"))
        records = {info.dev: Path(info.dev, info.dev_t, checker_name=checker) for info in (hung, well)}
        made = {info.dev: devices.make_checker(records[info.dev], info) for info in (hung, well)}
        try:
            check = asyncio.create_task(made["hangs"].check(PATIENCE_S))
            priority = devices.priority(records["hangs"], hung, ALUA, PATIENCE_S)
            assert not isinstance(priority, int)
            weighing = asyncio.ensure_future(priority)
            async with asyncio.timeout(PATIENCE_S):
                while not opening.is_set():
                    await asyncio.sleep(0.001)
                # All the while the loop runs, and the other path is told at once that there is nothing.
                for _ in range(5):
                    result = await made["other"].check(PATIENCE_S)
                    assert result.state in (PathState.DOWN, PathState.WILD)
                assert not check.done()
                # As many as are allowed hang: nothing more is begun, and nobody waits for it.
                assert (await made["hangs"].check(PATIENCE_S)).state is PathState.TIMEOUT
                go_on.set()
                assert (await check).state in (PathState.DOWN, PathState.WILD)
                assert await weighing == FAILED
        finally:
            go_on.set()
            for one in made.values():
                one.close()
            devices.close()

    asyncio.run(scene())


def test_what_the_checkers_of_one_unit_remember_goes_with_the_last_of_them(tmp_path: FilePath) -> None:
    async def scene() -> None:
        devices = Devices(str(tmp_path))
        made = [
            devices.make_checker(Path(dev, "8:0", checker_name="emc_clariion"), INFO) for dev in ("sdy", "sdz")
        ]
        assert len(devices._shared) == 1
        for one in made:
            one.close()
        del made, one
        gc.collect()
        assert len(devices._shared) == 0
        devices.close()

    asyncio.run(scene())


def test_checkers_of_others_are_imported_before_they_are_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: FilePath, caplog: pytest.LogCaptureFixture
) -> None:
    """What is on a disk that hangs must not be needed by the loop."""
    looked_for: list[str] = []

    class Entry:
        def load(self) -> object:
            if looked_for[-1] == "broken":
                raise ImportError("it lacks something")
            return checkers.NoneChecker

    def entry_points(*, group: str, name: str) -> list[Entry]:
        looked_for.append(name)
        return [] if name == "missing" else [Entry()]

    monkeypatch.setattr("holdfast.path.checkers.metadata.entry_points", entry_points)
    monkeypatch.setattr(checkers, "_found", {})
    conf = tmp_path / "multipath.conf"
    conf.write_text(
        "defaults {\npath_checker mine\n}\n"
        "devices {\ndevice {\nvendor A\nproduct B\npath_checker broken\n}\n}\n"
        "overrides {\npath_checker missing\n}\n"
    )
    load_config(ProcessOptions(config=str(conf), config_dir=None))
    assert sorted(looked_for) == ["broken", "mine", "missing"]
    assert "path checker broken cannot be used: ImportError" in caplog.text
    assert checkers.find("mine") is checkers.NoneChecker
    assert not checkers.is_known("broken")
    assert not checkers.is_known("missing")
    assert len(looked_for) == 3
    load_config(ProcessOptions(config=str(conf), config_dir=None))
    assert sorted(looked_for[3:]) == ["broken", "missing"]  # They may have been installed meanwhile.


def test_priorities_without_asking(tmp_path: FilePath) -> None:
    async def scene() -> None:
        devices = Devices(str(tmp_path))
        record = Path("sdz", "65:144")
        try:
            assert devices.priority(record, INFO, PathSettings(prio="const"), 1.0) == 1
            weighted = PathSettings(prio="weightedpath", prio_args="devname sdz 7")
            assert devices.priority(record, INFO, weighted, 1.0) == 7
            broken = PathSettings(prio="weightedpath", prio_args="nonsense")
            assert devices.priority(record, INFO, broken, 1.0) == -1
        finally:
            devices.close()

    asyncio.run(scene())
