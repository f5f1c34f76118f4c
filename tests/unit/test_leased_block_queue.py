"""max_sectors_kb of a lockspace's block device (lease-wire 16): what is set, and that failure is only said."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from holdfast.leased import block_queue, wire
from holdfast.leased.block_queue import attribute_of_device, queue_attribute, set_queue, wanted_kb
from holdfast.leased.helper import Helper
from holdfast.storage import Device
from tests.unit.leased_harness import leased_host

MIB = 1 << 20


@pytest.mark.parametrize(("setting", "expected"), [("ignore", 0), ("align", 8192), (512, 512)])
def test_what_is_wanted(setting: int | str, expected: int) -> None:
    assert wanted_kb(setting, 8 * MIB) == expected


def disk(tmp_path: Path, present: int = 128, hardware: int = 4096) -> Path:
    queue = tmp_path / "block" / "sdx" / "queue"
    queue.mkdir(parents=True)
    (queue / "max_sectors_kb").write_text(f"{present}\n")
    (queue / "max_hw_sectors_kb").write_text(f"{hardware}\n")
    return queue.parent


def test_the_queue_takes_what_the_hardware_can(tmp_path: Path) -> None:
    attribute = disk(tmp_path) / "queue" / "max_sectors_kb"
    assert set_queue(str(attribute), 1024) == 1024
    assert attribute.read_text() == "1024\n"
    assert set_queue(str(attribute), 8192) == 4096
    assert attribute.read_text() == "4096\n"


def test_what_is_so_already_is_not_written(tmp_path: Path) -> None:
    attribute = disk(tmp_path, present=1024) / "queue" / "max_sectors_kb"
    with mock.patch.object(block_queue, "write_sysfs") as write:
        assert set_queue(str(attribute), 1024) == 1024
    write.assert_not_called()


def test_a_partition_has_the_queue_of_its_disk(tmp_path: Path) -> None:
    whole = disk(tmp_path)
    partition = whole / "sdx1"
    partition.mkdir()
    (partition / "partition").write_text("1\n")
    (whole / "dev").write_text("8:0\n")
    numbers = tmp_path / "numbers"
    numbers.mkdir()
    (numbers / "8:0").symlink_to(whole)
    (numbers / "8:1").symlink_to(partition)
    for minor in (0, 1):
        found = attribute_of_device(os.makedev(8, minor), str(numbers))
        assert found == str(numbers / "8:0" / "queue" / "max_sectors_kb")
    assert attribute_of_device(os.makedev(9, 9), str(numbers)) is None
    assert queue_attribute(str(whole / "queue" / "max_sectors_kb")) is None, "a file has no queue"


def joined_on_a_block_device(tmp_path: Path, setter: Any, **settings: Any) -> tuple[int, bytes]:
    """What STATUS shows after a lockspace was added, and the log; regular files pass for block devices."""

    async def main() -> tuple[int, bytes]:
        async with leased_host(tmp_path, **settings) as host:
            host.daemon.set_queue = setter
            await host.make_space("LS")
            tried = [task for task in asyncio.all_tasks() if task.get_name().startswith("max_sectors_kb")]
            await asyncio.gather(*tried)
            items = [item for item in await host.status() if item.state.type == wire.STATE_LOCKSPACE]
            shown = wire.parse_pairs(items[0].state.text)["set_max_sectors_kb"]
            return int(shown), host.daemon.log_ring.dump()

    with (
        mock.patch.object(Device, "is_block_device", True),
        mock.patch.object(block_queue, "queue_attribute", return_value="/sys/x"),
    ):
        return asyncio.run(main())


def test_it_is_set_when_a_lockspace_is_added(tmp_path: Path) -> None:
    asked = []

    def setter(attribute: str, wanted: int) -> int:
        asked.append((attribute, wanted))
        return wanted

    shown, _ = joined_on_a_block_device(tmp_path, setter, max_sectors_kb="align")
    assert asked == [("/sys/x", 1024)]
    assert shown == 1024


def test_ignore_leaves_it_alone(tmp_path: Path) -> None:
    setter = mock.Mock()
    assert joined_on_a_block_device(tmp_path, setter, max_sectors_kb="ignore")[0] == 0
    setter.assert_not_called()


def test_failure_is_only_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    setter = mock.Mock(side_effect=PermissionError(13, "Permission denied"))
    assert joined_on_a_block_device(tmp_path, setter)[0] == 0
    assert "max_sectors_kb 1024 of" in caplog.text
    assert "Permission denied" in caplog.text


def test_the_helper_writes_what_we_may_not(tmp_path: Path) -> None:
    asked = []

    def write_sysfs(helper: Helper, path: str, number: int) -> bool:
        asked.append((path, number))
        return True

    attribute = disk(tmp_path) / "queue" / "max_sectors_kb"

    def setter(_: str, wanted: int) -> int:
        return set_queue(str(attribute), wanted)

    with (
        mock.patch.object(block_queue, "write_sysfs", side_effect=PermissionError(13, "Permission denied")),
        mock.patch.object(Helper, "write_sysfs", write_sysfs),
    ):
        shown, _ = joined_on_a_block_device(tmp_path, setter)
    assert asked == [(str(attribute), 1024)]
    assert shown == 1024


def test_a_queue_that_does_not_answer_holds_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:

    released = threading.Event()
    monkeypatch.setattr(block_queue, "WRITE_LIMIT_S", 0.01)

    def setter(attribute: str, wanted: int) -> int:
        assert released.wait(15)
        return wanted

    try:
        assert joined_on_a_block_device(tmp_path, setter)[0] == 0
    finally:
        released.set()
    assert "no answer" in caplog.text
