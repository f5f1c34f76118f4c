"""Checkers: array pages, SG_IO in abandoned threads, direct reads that are late, entry points, contracts."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Awaitable, Callable
from importlib import metadata
from pathlib import Path

import pytest

from holdfast.path import checkers
from holdfast.path.checkers.arrays import (
    SNAPSHOT_MARK,
    EmcMemory,
    check_cciss_tur,
    check_emc_clariion,
    check_hp_sw,
    check_rdac,
    rdac_init,
)
from holdfast.path.checkers.base import CheckerContext, CheckResult
from holdfast.path.checkers.directio import DirectioChecker, probe_length
from holdfast.path.checkers.readsector0 import check_readsector0
from holdfast.path.checkers.tur import TurChecker
from holdfast.path.sg import SgAnswer, SgCommand, decode_header, decode_sense, encode_header, run_exchange
from holdfast.path.sg_io import SgPath, SgStalled, SgTimeout
from holdfast.path.states import Bus, PathState, acted_upon, shown_word, sysfs_state, unreadable_sysfs_state
from holdfast.storage.threads import ThreadPool
from holdfast.testing.virtual_loop import run_virtual
from tests.unit.probe_lab import FakeProbeIo

CLEAN = SgAnswer()
ILLEGAL = SgAnswer(status=2, info=1, sense=bytes.fromhex("7205200000000000"))
NOT_READY = SgAnswer(status=2, info=1, sense=bytes.fromhex("7202040300000000"))


def answers(*told: SgAnswer) -> Callable[[SgCommand], SgAnswer]:
    left = list(told)
    return lambda command: left.pop(0)


def patched(size: int, **bytes_at: int) -> bytes:
    page = bytearray(size)
    for name, value in bytes_at.items():
        page[int(name[1:])] = value
    return bytes(page)


@pytest.mark.parametrize(
    ("page", "state"),
    [
        (patched(48, b8=0x01), PathState.UP),
        (patched(48, b8=0x20), PathState.UP),
        (patched(48), PathState.GHOST),
        (patched(48, b0=0x20, b8=1), PathState.DOWN),
        (patched(48, b0=0x7F, b8=1), PathState.DOWN),
        (patched(48, b8=0x11, b10=3), PathState.DOWN),
        (patched(48, b8=0x11, b10=0xF), PathState.DOWN),
        (patched(48, b8=0x11, b10=0xF, b12=0xF), PathState.UP),
        (b"", PathState.GHOST),
    ],
)
def test_rdac(page: bytes, state: PathState) -> None:
    assert run_exchange(check_rdac(1), answers(SgAnswer(data=page))).state is state


def test_rdac_retries_and_refusals() -> None:
    busy = SgAnswer(host_status=2, info=1)
    assert (
        run_exchange(check_rdac(1), answers(*[busy] * 4, SgAnswer(data=patched(48, b8=1)))).state is PathState.UP
    )
    failed = run_exchange(check_rdac(1), answers(*[busy] * 5))
    assert failed == CheckResult(PathState.DOWN, " reports path is down: inquiry failed")
    assert run_exchange(check_rdac(1), answers(ILLEGAL)).state is PathState.WILD
    assert run_exchange(check_rdac(1), answers(SgAnswer(errno=errno.ENOTTY))).state is PathState.WILD


def test_rdac_sets_the_bit_once_if_it_can_be_changed() -> None:
    sent: list[SgCommand] = []
    current = patched(24, b1=18, b8=0x8A, b9=10)

    def device(command: SgCommand) -> SgAnswer:
        sent.append(command)
        return SgAnswer(data=patched(24, b13=0x40) if command.cdb[2] & 0x40 else current)

    run_exchange(rdac_init(1), device)
    assert [command.cdb.hex() for command in sent] == [
        "5a080a00000000001800",
        "5a084a00000000001800",
        "55100000000000001400",
    ]
    assert sent[2].data == patched(20, b8=0x0A, b9=10, b13=0x40)
    run_exchange(rdac_init(1), answers(SgAnswer(data=patched(24, b13=0x40))))
    run_exchange(rdac_init(1), answers(ILLEGAL))


def emc(**changes: int) -> bytes:
    return patched(128, **{"b1": 0xC0, "b4": 2, "b10": 7, "b27": 3, "b28": 4, "b30": 4, **changes})


def test_emc_clariion() -> None:
    shared: dict[str, object] = {}
    memory = EmcMemory()

    def check(*told: SgAnswer) -> CheckResult:
        return run_exchange(check_emc_clariion(1, memory, shared), answers(*told))

    assert check(SgAnswer(data=emc()), CLEAN) == CheckResult(PathState.UP, ": Active path is healthy")
    assert check(SgAnswer(data=emc(b10=8))).message == ": Logical Unit WWN has changed"
    snapshot = SgAnswer(status=2, info=1, sense=bytes.fromhex("7205250100000000"))
    assert check(SgAnswer(data=emc()), snapshot).message == ": Read error"
    assert shared[SNAPSHOT_MARK] is True
    assert check(SgAnswer(data=emc(b4=1))).state is PathState.DOWN
    assert check(SgAnswer(data=emc()), CLEAN).state is PathState.UP
    assert check(SgAnswer(data=emc(b4=1))).state is PathState.UP
    assert check(SgAnswer(data=emc(b4=0))).message == ": Logical Unit is unbound or LUNZ"
    assert check(SgAnswer(data=emc(b48=1))).state is PathState.SHAKY
    assert check(SgAnswer(data=emc(b30=0))).message == ": Path not correctly configured for failover"
    assert check(SgAnswer(data=b"")).message == ": Path unit report page in unknown format"
    assert check(SgAnswer(errno=5)).message == ": sending query command failed"
    assert check(NOT_READY).message == ": query command indicates error"
    assert check(ILLEGAL).state is PathState.WILD


def test_hp_sw_and_cciss_and_readsector0() -> None:
    recovered = SgAnswer(status=2, info=1, sense=bytes.fromhex("7201170000000000"))
    assert run_exchange(check_hp_sw(1), answers(CLEAN, CLEAN)).state is PathState.UP
    assert run_exchange(check_hp_sw(1), answers(recovered, NOT_READY)).state is PathState.GHOST
    assert run_exchange(check_hp_sw(1), answers(NOT_READY)).state is PathState.DOWN
    assert run_exchange(check_hp_sw(1), answers(ILLEGAL)).state is PathState.WILD
    assert run_exchange(check_cciss_tur(1), answers(CLEAN)).state is PathState.UP
    assert run_exchange(check_cciss_tur(1), answers(recovered)).state is PathState.DOWN
    interrupted = SgAnswer(errno=errno.EINTR)
    assert run_exchange(check_readsector0(1), answers(interrupted, interrupted, CLEAN)).state is PathState.UP
    assert run_exchange(check_readsector0(1), answers(SgAnswer(errno=errno.ENOMEM))).state is PathState.UP


def test_answer_header() -> None:
    header = encode_header(SgCommand(bytes(6), 1000, 48), 1, 2, 3)
    header[64:72] = bytes([2, 1, 0, 18, 0, 0, 8, 0])
    header[72:76] = (8).to_bytes(4, "little")
    header[80] = 1
    answer = decode_header(header, bytes.fromhex("70000200000000") + bytes(25), bytes(range(48)))
    assert (answer.status, answer.driver_status, answer.info) == (2, 8, 1)
    assert len(answer.sense) == 18
    assert answer.data == bytes(range(40))
    assert decode_sense(answer.sense).key == 2
    header[72:76] = b"\xff\xff\xff\x7f"
    assert decode_header(header, b"", bytes(48)).data == b""


def test_states() -> None:
    assert sysfs_state(Bus.SCSI, "running") is PathState.UP
    assert sysfs_state(Bus.SCSI, "quiesced") is PathState.PENDING
    assert sysfs_state(Bus.SCSI, "transport-offline") is PathState.DOWN
    assert sysfs_state(Bus.NVME, "live") is PathState.UP
    assert sysfs_state(Bus.NVME, "deleting (no IO)") is PathState.PENDING
    assert sysfs_state(Bus.CCW, "") is PathState.UP
    assert unreadable_sysfs_state(False, False) is PathState.REMOVED
    assert unreadable_sysfs_state(True, False) is PathState.DOWN
    assert acted_upon(PathState.DISCONNECTED) is PathState.DOWN
    assert shown_word(PathState.UP, False) == "undef"
    assert [state.word for state in PathState][:3] == ["wild", "unchecked", "down"]
    assert PathState.TIMEOUT.shown == "i/o timeout"


class Device:
    """SG_IO that hangs until it is let go, each call in its thread."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.calls = 0
        self.closed = threading.Event()

    def execute(self, command: SgCommand) -> SgAnswer:
        self.calls += 1
        self.go.wait(20)
        return CLEAN


def test_a_hung_device_has_two_commands_at_most() -> None:
    async def scene() -> None:
        device = Device()
        pool = ThreadPool(asyncio.get_running_loop())
        path = SgPath(pool, device.execute, device.closed.set)
        checker = TurChecker(CheckerContext("sda", "/dev/sda", path))
        try:
            for _ in range(3):
                assert await checker.check(0.02) == CheckResult(PathState.TIMEOUT, " timed out")
            assert (path.outstanding, device.calls) == (2, 2)
            path.close()
            assert not device.closed.is_set()
            with pytest.raises(SgStalled):
                await path.run(lambda: check_cciss_tur(1), 1)
            device.go.set()
            async with asyncio.timeout(10):
                while not device.closed.is_set():
                    await asyncio.sleep(0.001)
        finally:
            device.go.set()
            pool.close()

    asyncio.run(scene())


def test_a_device_that_comes_back_is_up() -> None:
    async def scene() -> None:
        device = Device()
        pool = ThreadPool(asyncio.get_running_loop())
        path = SgPath(pool, device.execute)
        checker = TurChecker(CheckerContext("sda", "/dev/sda", path))
        try:
            assert (await checker.check(0.02)).state is PathState.TIMEOUT
            device.go.set()
            assert (await checker.check(10)).state is PathState.UP

            def broken(command: SgCommand) -> SgAnswer:
                raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await SgPath(pool, broken).run(lambda: check_cciss_tur(1), 10)
        finally:
            device.go.set()
            pool.close()

    asyncio.run(scene())


def test_a_command_without_a_thread_is_withdrawn() -> None:
    async def scene() -> None:
        device = Device()
        pool = ThreadPool(asyncio.get_running_loop(), max_threads=1)
        first, second = SgPath(pool, device.execute), SgPath(pool, device.execute)
        try:
            with pytest.raises(SgTimeout):
                await first.run(lambda: check_cciss_tur(1), 0.02)
            with pytest.raises(SgTimeout):
                await second.run(lambda: check_cciss_tur(1), 0.02)
            assert (device.calls, second.outstanding) == (1, 0)
        finally:
            device.go.set()
            pool.close()

    asyncio.run(scene())


def test_no_descriptor_and_real_file(tmp_path: Path) -> None:
    """A regular file is no SCSI device: ENOTTY, through the real system call."""
    (tmp_path / "file").write_bytes(bytes(4096))

    async def scene() -> None:
        assert (await TurChecker(CheckerContext("sda", "/dev/sda")).check(1)).state is PathState.WILD
        pool = ThreadPool(asyncio.get_running_loop())
        path = SgPath.on_descriptor(pool, os.open(tmp_path / "file", os.O_RDONLY))
        result = await TurChecker(CheckerContext("sda", "/dev/sda", path)).check(10)
        assert result == CheckResult(PathState.WILD, " doesn't support this device")
        path.close()
        pool.close()

    asyncio.run(scene())


def test_probe_length() -> None:
    assert probe_length(64 * 2**20, 512) == 4096
    assert probe_length(512 * 7, 512) == 512
    assert probe_length(1024 * 3, 512) == 1024
    assert probe_length(2**30, 4096) == 4096


def test_directio_on_a_file(tmp_path: Path) -> None:
    node = tmp_path / "disk"
    node.write_bytes(bytes(65536))
    node.chmod(0o400)

    async def scene() -> None:
        checker = DirectioChecker(CheckerContext("sda", str(node)))
        assert await checker.check(10) == CheckResult(PathState.UP, " reports path is up")
        assert (await checker.check(10)).state is PathState.UP
        checker.close()
        missing = DirectioChecker(CheckerContext("sdb", str(tmp_path / "none")))
        assert (await missing.check(10)).state is PathState.WILD
        missing.close()

    asyncio.run(scene())


def with_device(scene: Callable[[FakeProbeIo, DirectioChecker], Awaitable[None]]) -> None:
    """In virtual time; nothing is left behind after `close`."""

    async def main() -> None:
        io = FakeProbeIo()
        checker = DirectioChecker(CheckerContext("sda", "/dev/sda"), lambda: io)
        await scene(io, checker)
        checker.close()
        io.release()
        assert (io.users, len(io.timeouts)) == (0, 0)
        assert io.closes == (1 if io.reads else 0)

    run_virtual(main())


def test_directio_reads_one_block_at_a_time_and_counts_late_ones() -> None:
    async def scene(io: FakeProbeIo, checker: DirectioChecker) -> None:
        assert (await checker.check(6)).state is PathState.UP
        io.hangs = True
        for _ in range(4):
            assert (await checker.check(6)).state is PathState.DOWN
        assert io.loop.time() == 6  # one is out: the others have their answer at once
        assert io.reads == [4096] * 2
        io.release()
        assert not checker.is_waiting
        assert (await checker.check(6)).state is PathState.UP
        assert len(io.reads) == 2  # the late one was the answer
        assert (await checker.check(6)).state is PathState.UP
        assert (len(io.reads), io.opens) == (3, 1)

    with_device(scene)


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (4096, PathState.UP),
        (512, PathState.DOWN),
        (0, PathState.DOWN),
        (-errno.EIO, PathState.DOWN),
        (-errno.EINVAL, PathState.DOWN),
        (-errno.EAGAIN, PathState.UNCHECKED),
        (-errno.ENOMEM, PathState.UNCHECKED),
    ],
)
def test_directio_results(result: int, state: PathState) -> None:
    async def scene(io: FakeProbeIo, checker: DirectioChecker) -> None:
        io.result = result
        found = await checker.check(6)
        assert found.state is state
        assert found.message == {PathState.UP: " reports path is up", PathState.DOWN: " reports path is down"}.get(
            state, " is not available"
        )
        io.hangs = True
        assert (await checker.check(6)).state is PathState.DOWN
        io.release()
        assert (await checker.check(6)).state is state

    with_device(scene)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (errno.ENXIO, PathState.DOWN),
        (errno.ENOENT, PathState.WILD),
        (errno.EACCES, PathState.WILD),
        (errno.EMFILE, PathState.UNCHECKED),
    ],
)
def test_directio_that_cannot_open(error: int, state: PathState) -> None:
    async def scene(io: FakeProbeIo, checker: DirectioChecker) -> None:
        io.open_error = error
        assert (await checker.check(6)).state is state
        io.open_error = None
        assert (await checker.check(6)).state is PathState.UP
        assert io.opens == 2

    with_device(scene)


def test_directio_whose_open_hangs() -> None:
    async def scene(io: FakeProbeIo, checker: DirectioChecker) -> None:
        io.opening_hangs = True
        for _ in range(3):
            assert (await checker.check(6)).state is PathState.DOWN
        assert (io.opens, io.loop.time()) == (1, 18)
        io.release()
        assert (await checker.check(6)).state is PathState.UP
        assert io.opens == 1

    with_device(scene)


def test_directio_without_a_thread_says_nothing_of_the_path() -> None:
    async def scene(io: FakeProbeIo, checker: DirectioChecker) -> None:
        io.opening_hangs = io.no_thread = True
        assert await checker.check(6) == CheckResult(PathState.UNCHECKED, " is not available")
        io.opening_hangs = False
        assert (await checker.check(6)).state is PathState.UP

    with_device(scene)


@pytest.mark.parametrize("opening", [True, False])
def test_directio_closed_while_the_kernel_has_its_request(opening: bool) -> None:
    """The descriptor is closed when the read comes back, and nobody hears of it."""
    told: list[CheckResult] = []

    async def scene(io: FakeProbeIo, checker: DirectioChecker) -> None:
        assert opening or (await checker.check(6)).state is PathState.UP
        io.hangs, io.opening_hangs = not opening, opening
        checker.begin(6, told.append)
        await asyncio.sleep(1)
        checker.close()
        assert (io.closes, io.outstanding, io.users) == (0, 1, 1)
        io.release()
        assert (io.closes, io.users) == (1, 0)
        io.reads.append(0)

    with_device(scene)
    assert not told


def test_a_cancelled_check_leaves_a_late_read() -> None:
    async def scene(io: FakeProbeIo, checker: DirectioChecker) -> None:
        assert (await checker.check(6)).state is PathState.UP
        io.hangs = True
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await checker.check(6)
        assert checker.is_waiting
        assert len(io.timeouts) == 0
        io.release()
        assert (await checker.check(6)).state is PathState.UP
        assert len(io.reads) == 2

    with_device(scene)


def test_names_and_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(checkers.known()) >= {
        "tur",
        "directio",
        "readsector0",
        "rdac",
        "emc_clariion",
        "hp_sw",
        "cciss_tur",
        "none",
    }
    context = CheckerContext("nvme0n1", "/dev/nvme0n1")
    none = checkers.find("none")(context)
    assert asyncio.run(none.check(1)) == CheckResult(PathState.UP)
    none.close()
    with pytest.raises(KeyError):
        checkers.find("nonsense")
    entry = metadata.EntryPoint("mine", "holdfast.path.checkers:NoneChecker", checkers.GROUP)
    monkeypatch.setattr(metadata, "entry_points", lambda **wanted: [entry])
    monkeypatch.setattr(checkers, "_found", {})
    assert "mine" in checkers.known()
    assert checkers.find("mine") is checkers.NoneChecker
