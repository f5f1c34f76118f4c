"""The directio checker on storage that really hangs: bounded answers, one read, and its late completion counts."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.path.checkers.base import CheckerContext
from holdfast.path.checkers.directio import DirectioChecker
from holdfast.path.states import PathState
from tests.fuse.frozen_fs import FrozenFs

pytestmark = pytest.mark.fuse

HEALTHY_S = 30.0
SHORT_S = 0.05


def test_hang_and_return(frozen_fs: FrozenFs) -> None:
    (frozen_fs.backing / "sda").write_bytes(bytes(1 << 20))

    async def scene() -> None:
        checker = DirectioChecker(CheckerContext("sda", str(frozen_fs.path / "sda")))
        assert (await checker.check(HEALTHY_S)).state is PathState.UP
        frozen_fs.hang("read")
        for _ in range(3):
            assert (await checker.check(SHORT_S)).state is PathState.DOWN
        frozen_fs.wait_until_held(1)
        assert frozen_fs.held() == 1, "one read is out, whatever the number of checks"
        assert checker.is_waiting
        frozen_fs.heal()
        async with asyncio.timeout(HEALTHY_S):
            while (await checker.check(HEALTHY_S)).state is not PathState.UP:
                await asyncio.sleep(0.001)
        assert not checker.is_waiting
        frozen_fs.error()
        assert (await checker.check(HEALTHY_S)).state is PathState.DOWN
        frozen_fs.hang("read")
        assert (await checker.check(SHORT_S)).state is PathState.DOWN
        checker.close()  # with a read outstanding
        frozen_fs.heal()

    asyncio.run(scene())


def test_an_open_that_hangs(frozen_fs: FrozenFs) -> None:
    (frozen_fs.backing / "sda").write_bytes(bytes(1 << 20))

    async def scene() -> None:
        checker = DirectioChecker(CheckerContext("sda", str(frozen_fs.path / "sda")))
        frozen_fs.hang()
        assert (await checker.check(SHORT_S)).state is PathState.DOWN
        frozen_fs.heal()
        assert (await checker.check(HEALTHY_S)).state is PathState.UP
        checker.close()

    asyncio.run(scene())
