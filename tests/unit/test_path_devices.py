"""The daemon's doors to the host: devices behind paths, locks, threads, reservations, samples."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import threading
from pathlib import Path as FilePath

import pytest

from holdfast.path.checkers.base import BeginsChecks
from holdfast.path.daemon.blocking import Threads
from holdfast.path.daemon.devices import Devices, Node
from holdfast.path.daemon.path_locks import lock_paths
from holdfast.path.daemon.sampling import sample
from holdfast.path.discovery.info import Bus, PathInfo
from holdfast.path.path_settings import PathSettings
from holdfast.path.prkeys import ReservationKey
from holdfast.path.records import Path
from holdfast.path.reservations import keys_in, read_keys_command, register, register_command
from holdfast.path.sg import SgAnswer, SgCommand, run_exchange, tur_command
from holdfast.path.states import PathState


def test_a_node_that_is_another_device() -> None:
    node = Node("/dev/null", "8:0")
    assert node.execute(tur_command(1000)).errno == errno.ENODEV
    assert Node("/dev/not-there", "8:0").execute(tur_command(1000)).errno == errno.ENOENT
    node.close()


@pytest.mark.parametrize(
    ("prio", "args", "value"),
    [
        ("const", "", 1),
        ("weightedpath", "hbtl 1:.:.:. 7 .* 3", 7),
        ("weightedpath", "devname sdx 7 sd. 4", 4),
        ("weightedpath", "nonsense", -1),
        ("path_latency", "", -1),
        ("ontap", "", -1),
    ],
)
def test_priorities_that_ask_nothing(prio: str, args: str, value: int) -> None:
    async def scene() -> None:
        devices = Devices()
        info = PathInfo("sda", "8:0", 1, hcil=(1, 0, 0, 0))
        assert devices.priority(Path("sda", "8:0"), info, PathSettings(prio=prio, prio_args=args), 1.0) == value
        devices.close()

    asyncio.run(scene())


def test_priorities_out_of_sysfs(tmp_path: FilePath) -> None:
    async def scene() -> None:
        devices = Devices()
        (tmp_path / "access_state").write_text("standby\n")
        (tmp_path / "ana_state").write_text("optimized\n")
        info = PathInfo("sda", "8:0", 1, sysfs_path=str(tmp_path), device_path=str(tmp_path))
        for prio, value in (("sysfs", 1), ("ana", 50)):
            answer = devices.priority(Path("sda", "8:0"), info, PathSettings(prio=prio), 5.0)
            assert not isinstance(answer, int)
            assert await answer == value
        devices.close()

    asyncio.run(scene())


def test_checkers_of_devices_that_are_not_there(tmp_path: FilePath) -> None:
    async def scene() -> None:
        devices = Devices(str(tmp_path))
        info = PathInfo("sda", "8:0", 1, Bus.SCSI)
        for name, begins, state in (("tur", False, PathState.DOWN), ("directio", True, PathState.WILD)):
            record = Path("sda", "8:0", checker_name=name)
            checker = devices.make_checker(record, info)
            assert isinstance(checker, BeginsChecks) is begins
            assert (await checker.check(5.0)).state is state
            checker.close()
        with pytest.raises(KeyError):
            devices.make_checker(Path("sda", "8:0", checker_name="nobody"), info)
        devices.close()

    asyncio.run(scene())


def test_locks_on_paths(tmp_path: FilePath) -> None:
    (tmp_path / "sda").write_text("")
    with lock_paths(["sda", "missing"], str(tmp_path)), lock_paths(["sda"], str(tmp_path)):
        fd = os.open(tmp_path / "sda", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with pytest.raises(BlockingIOError), lock_paths(["sda"], str(tmp_path)):
        pass
    os.close(fd)


def test_threads_pass_on_what_comes_back_and_give_up() -> None:
    async def scene() -> None:
        threads = Threads()
        go = threading.Event()
        assert await threads.run("a", lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await threads.run("a", lambda: 1 // 0)
        with pytest.raises(OSError, match="no answer"):
            await threads.run("hung", lambda: go.wait(20), 0.02)
        assert await threads.run("a", lambda: 8) == 8  # other lanes go on
        go.set()
        threads.close()

    asyncio.run(scene())


def test_reservation_keys_on_the_wire() -> None:
    assert read_keys_command(1000).cdb.hex() == "5e000000000000200000"
    command = register_command(ReservationKey(0x123ABC, True), 1000, all_ports=True)
    assert command.cdb.hex() == "5f060000000000001800"
    assert command.data.hex() == "00000000000000000000000000123abc0000000005000000"
    answer = bytes.fromhex("00000001000000100000000000123abc00000000000000ff")
    assert keys_in(answer) == (0x123ABC, 0xFF)
    assert keys_in(answer[:20]) == (0x123ABC,)
    assert keys_in(b"") == ()


@pytest.mark.parametrize(("keys", "commands"), [([0x123ABC], [0x5E, 0x5F]), ([0xFF], [0x5E])])
def test_a_key_is_registered_where_it_is_known(keys: list[int], commands: list[int]) -> None:
    seen: list[int] = []

    def execute(command: SgCommand) -> SgAnswer:
        seen.append(command.cdb[0])
        data = b"".join(key.to_bytes(8, "big") for key in keys)
        return SgAnswer(data=bytes(4) + len(data).to_bytes(4, "big") + data)

    assert run_exchange(register(ReservationKey(0x123ABC), 1000), execute)
    assert seen == commands


def test_a_device_that_refuses_its_key() -> None:
    assert not run_exchange(register(ReservationKey(1), 1000), lambda command: SgAnswer(errno=errno.EIO))


def test_samples(tmp_path: FilePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.path.daemon.sampling.SAMPLE_READ_TIMEOUT_S", 20.0)
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 16))

    async def scene() -> None:
        errors, reads = await sample(str(path), 20.25)
        assert reads >= 32
        assert errors == 0
        with pytest.raises(OSError, match="cannot be opened"):
            await sample(str(tmp_path / "missing"), 21)

    asyncio.run(scene())
