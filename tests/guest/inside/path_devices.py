"""Checkers, prioritizers and WWIDs on real SCSI devices: `path_devices.py sda sdb sdc sdd`.

Four paths of scsi_debug: target port groups active/optimized, active/non-optimized, standby, active/optimized.
Every step asserts; the last line says `all steps passed`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from holdfast.path import checkers, wwid
from holdfast.path.checkers.base import Checker, CheckerContext
from holdfast.path.priorities import scsi_exchange
from holdfast.path.priorities.alua import Tpgs, find_group, find_groups, find_tpgs
from holdfast.path.priorities.plain import sysfs_priority
from holdfast.path.sg import Exchange, Result, SgAnswer, inquiry
from holdfast.path.sg_io import MAX_OUTSTANDING, SgPath, SgStalled
from holdfast.path.states import PathState
from holdfast.storage import close_storage
from holdfast.storage.threads import ThreadPool

TIMEOUT_S: Final = 10.0
PATIENCE_S: Final = 60.0
CHECKERS: Final = ("tur", "directio", "readsector0")
SCSI_DEBUG: Final = Path("/sys/bus/pseudo/drivers/scsi_debug")
IGNORE_COMMANDS: Final = "0x4"
"""scsi_debug's opts: with every_nth the command is never answered."""


def step(name: str) -> None:
    print(f"step: {name}", flush=True)


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout


def device(dev: str) -> Path:
    return Path(f"/sys/block/{dev}/device")


@asynccontextmanager
async def opened(node: str) -> AsyncIterator[SgPath]:
    """Its commands; the descriptor is closed at the end."""
    pool = ThreadPool(asyncio.get_running_loop(), 16)
    path = SgPath.on_descriptor(pool, os.open(node, os.O_RDONLY | os.O_NONBLOCK))
    try:
        yield path
    finally:
        path.close()
        pool.close()


@asynccontextmanager
async def checker_of(name: str, dev: str) -> AsyncIterator[Checker]:
    async with opened(f"/dev/{dev}") as sg:
        context = CheckerContext(dev, f"/dev/{dev}", sg, block_size=os.stat(f"/dev/{dev}").st_blksize)
        checker = checkers.find(name)(context)
        try:
            yield checker
        finally:
            checker.close()


async def states(dev: str) -> None:
    step(f"checkers of {dev}: running, offline, running")
    for name in CHECKERS:
        async with checker_of(name, dev) as checker:
            assert (await checker.check(TIMEOUT_S)).state is PathState.UP, name
            (device(dev) / "state").write_text("offline\n")
            result = await checker.check(TIMEOUT_S)
            assert result.state is PathState.DOWN, f"{name}: {result}"
            (device(dev) / "state").write_text("running\n")
            assert (await checker.check(TIMEOUT_S)).state is PathState.UP, name


async def all_up(devs: list[str]) -> None:
    step("checkers of all paths")
    for dev in devs:
        for name in CHECKERS:
            if name != "tur" and (device(dev) / "access_state").read_text().strip() == "standby":
                continue  # The array refuses reads there.
            async with checker_of(name, dev) as checker:
                result = await checker.check(TIMEOUT_S)
                assert result.state is PathState.UP, f"{name} of {dev}: {result}"
        async with checker_of("none", dev) as checker:
            assert (await checker.check(TIMEOUT_S)).state is PathState.UP


async def not_scsi() -> None:
    step("a device that knows no SCSI")
    output("modprobe", "brd", "rd_nr=1", "rd_size=4096")
    for name, expected in (("tur", PathState.WILD), ("readsector0", PathState.DOWN), ("directio", PathState.UP)):
        async with checker_of(name, "ram0") as checker:
            result = await checker.check(TIMEOUT_S)
            assert result.state is expected, f"{name} of ram0: {result}"


async def ask(dev: str, exchange: Exchange[Result]) -> Result:
    async with opened(f"/dev/{dev}") as sg:
        return await sg.run(lambda: exchange, TIMEOUT_S)


async def priorities(devs: list[str]) -> None:
    step("priorities")
    groups = set()
    for dev, expected in zip(devs, (50, 10, 1, 50), strict=True):
        shown = (device(dev) / "access_state").read_text()
        preferred = (device(dev) / "preferred_path").read_text()
        alua = await ask(dev, scsi_exchange("alua", 5000))
        assert alua == expected == sysfs_priority(shown, preferred), f"{dev}: {alua}, {shown}"
        assert await ask(dev, find_tpgs(5000)) == Tpgs.IMPLICIT
        group = await ask(dev, find_group(5000))
        known = await ask(dev, find_groups(5000))
        assert known is not None
        assert group in [one.group for one in known]
        groups.add(group)
    assert len(groups) == len(devs)


def page(number: int, length: int = 254) -> Exchange[SgAnswer]:
    answer = yield inquiry(number, length, 5000)
    return answer


async def identities(devs: list[str]) -> None:
    step("WWIDs")
    for dev in devs:
        answer = await ask(dev, page(0x83))
        assert answer.is_clean
        chosen = wwid.wwid_of_page_83(answer.data).wwid
        assert chosen == wwid.wwid_of_page_83((device(dev) / "vpd_pg83").read_bytes()).wwid
        shown = output("udevadm", "info", "--query=property", f"/dev/{dev}")
        properties = dict(line.partition("=")[::2] for line in shown.splitlines())
        assert chosen == wwid.wwid_of_property(properties["ID_SERIAL"]), f"{chosen}, {properties['ID_SERIAL']}"
        serial = wwid.serial_of_page_80((await ask(dev, page(0x80))).data)
        assert serial == wwid.serial_of_page_80((device(dev) / "vpd_pg80").read_bytes())
        assert serial == properties["SCSI_IDENT_SERIAL"]
        print(f"{dev}: {chosen} serial {serial}", flush=True)


async def hanging(dev: str) -> None:
    """All commands of the driver are ignored; they come back when the kernel's error handler gives up."""
    step("commands that are not answered")
    # The error handler aborts after the command's own timeout.
    async with checker_of("tur", dev) as checker, opened(f"/dev/{dev}") as sg:
        assert (await checker.check(TIMEOUT_S)).state is PathState.UP
        (SCSI_DEBUG / "opts").write_text(IGNORE_COMMANDS)
        (SCSI_DEBUG / "every_nth").write_text("1")
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.05)
                ticks += 1

        ticker = asyncio.create_task(tick())
        try:
            results = [await checker.check(0.5) for _ in range(MAX_OUTSTANDING + 1)]
            assert [result.state for result in results] == [PathState.TIMEOUT] * (MAX_OUTSTANDING + 1), results
            assert ticks > 2, "the loop went on meanwhile"
        finally:
            ticker.cancel()
            (SCSI_DEBUG / "every_nth").write_text("0")
            (SCSI_DEBUG / "opts").write_text("0")
        deadline = time.monotonic() + PATIENCE_S
        while (result := await checker.check(TIMEOUT_S)).state is not PathState.UP:
            assert time.monotonic() < deadline, result
            await asyncio.sleep(0.2)
        try:
            await sg.run(lambda: page(0x80), TIMEOUT_S)
        except SgStalled:
            raise AssertionError("a path of its own is not stalled") from None


async def run() -> None:
    devs = sys.argv[1:5]
    await all_up(devs)
    await states(devs[0])
    await not_scsi()
    await priorities(devs)
    await identities(devs)
    await hanging(devs[1])
    close_storage()
    print("all steps passed", flush=True)


if __name__ == "__main__":
    asyncio.run(run())
