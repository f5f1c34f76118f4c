"""A unit's control group as `show` tells it: the kernel's name, what it counts, limits that change (spec 12.4)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdfast.service.process.cgroups import Group, Usage
from tests.unit.process_lab import TRACKING, UNIT, lab, unit_file


@pytest.mark.parametrize("tracking", TRACKING)
def test_the_kernels_name(tmp_path: Path, tracking: str) -> None:
    async def scene() -> None:
        async with lab(tmp_path, tracking) as it:
            assert it.host.control_group(UNIT) is None
            pid = await it.spawn(unit_file(""), "/bin/sleep 100")
            group = it.host.control_group(UNIT)
            if tracking == "lineage":
                assert group is None
                return
            assert group is not None
            path = Path(f"/proc/{pid}/cgroup")
            await it.until(lambda: any(line.endswith(f":{group[0]}") for line in path.read_text().splitlines()))
            usage = group[1].usage()
            assert usage.memory is None or usage.memory > 0
            assert usage.cpu_nsec is None or usage.cpu_nsec >= 0

    asyncio.run(scene())


def test_what_cannot_be_read_is_not_counted(tmp_path: Path) -> None:
    (tmp_path / "pids.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("nonsense\n")
    (tmp_path / "cpu.stat").write_text("")
    assert Group(str(tmp_path), True).usage() == Usage()
    assert Group(str(tmp_path / "none"), True).usage() == Usage()


def test_a_limit_that_does_not_count_any_more_is_lifted(tmp_path: Path) -> None:
    for name in ("memory.max", "pids.max", "cpu.max"):
        (tmp_path / name).write_text("")
    group = Group(str(tmp_path), True)
    assert group.renew(unit_file("MemoryMax=1M\nTasksMax=5").exec) == []
    assert (tmp_path / "memory.max").read_text().startswith("1048576")
    (tmp_path / "memory.max").write_text("")
    assert group.renew(unit_file("TasksMax=6\nIOWeight=5").exec) == ["IOWeight"]
    assert (tmp_path / "memory.max").read_text() == "max"
    assert (tmp_path / "pids.max").read_text().startswith("6")
