"""Checkers and priorities of real devices, on nodes that are none (spec path 3, 13.1)."""

from __future__ import annotations

import asyncio
from pathlib import Path as FilePath

import pytest

from holdfast.path.checkers.base import CheckResult, begin_of
from holdfast.path.daemon.devices import Devices
from holdfast.path.discovery.info import Bus, PathInfo
from holdfast.path.path_settings import PathSettings
from holdfast.path.records import Path
from holdfast.path.states import PathState

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
