"""Storage that hangs for real: a FUSE file system that holds requests back while others must go on."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from holdfast.storage import DeadlineError, Device, DeviceRegistry, StorageError
from holdfast.storage.aio import AioEngine
from tests.fuse.frozen_fs import FrozenFs

pytestmark = pytest.mark.fuse

SIZE = 1 << 20
HEALTHY_S = 30.0
SHORT_S = 0.1


def prepare(frozen_fs: FrozenFs, name: str = "lease") -> str:
    (frozen_fs.backing / name).write_bytes(bytes(SIZE))
    return str(frozen_fs.path / name)


def test_healthy_it_is_storage_like_any_other(frozen_fs: FrozenFs) -> None:
    path = prepare(frozen_fs)

    async def main() -> None:
        devices = DeviceRegistry(0)
        device = await devices.open(path, HEALTHY_S)
        assert device.engine == "threads"
        assert device.direct
        data = os.urandom(4096)
        await device.write(4096, data, HEALTHY_S)
        assert await device.read(4096, 4096, HEALTHY_S) == data
        assert (frozen_fs.backing / "lease").read_bytes()[4096:8192] == data
        frozen_fs.error(errno.EIO)
        for operation in (device.read(0, 512, HEALTHY_S), device.write(0, data, HEALTHY_S)):
            with pytest.raises(StorageError) as caught:
                await operation
            assert caught.value.errno == errno.EIO
        with pytest.raises(StorageError) as caught:
            await devices.open(path + "2", HEALTHY_S)
        assert caught.value.errno == errno.EIO
        for refusal in (errno.EACCES, errno.EROFS):
            frozen_fs.error(refusal, "open")
            with pytest.raises(StorageError) as caught:
                await devices.open(prepare(frozen_fs, "other"), HEALTHY_S)
            assert caught.value.errno == refusal
        frozen_fs.delay(0.02, "read")
        assert await device.read(4096, 4096, HEALTHY_S) == data
        devices.close()

    asyncio.run(main())


def test_a_frozen_mount_ends_every_call_in_time_while_healthy_storage_goes_on(
    frozen_fs: FrozenFs, tmp_path: Path
) -> None:
    path = prepare(frozen_fs)
    healthy_path = tmp_path / "healthy"
    healthy_path.write_bytes(bytes(SIZE))

    async def main() -> None:
        devices = DeviceRegistry(0)
        frozen = await devices.open(path, HEALTHY_S)
        healthy = await devices.open(str(healthy_path), HEALTHY_S)
        frozen_fs.hang()
        ended = asyncio.Event()
        rounds = 0

        async def go_on() -> None:
            nonlocal rounds
            while not ended.is_set():
                await healthy.write(0, bytes([rounds % 256]) * 512, HEALTHY_S)
                assert (await healthy.read(0, 512, HEALTHY_S))[0] == rounds % 256
                rounds += 1
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            group.create_task(go_on())
            with pytest.raises(DeadlineError) as read:
                await frozen.read(0, 512, SHORT_S)
            with pytest.raises(DeadlineError) as written:
                await frozen.write(512, b"1" * 512, SHORT_S)
            with pytest.raises(DeadlineError) as blocked:
                await frozen.write(512, b"2" * 512, SHORT_S)
            assert (written.value.submitted, blocked.value.submitted) == (True, False)
            for other in (path, path + "-other", str(frozen_fs.path)):
                with pytest.raises(DeadlineError):
                    await devices.open(other, SHORT_S)
            before = rounds
            while rounds < before + 3:
                await asyncio.sleep(0.001)
            ended.set()
        assert frozen_fs.held() >= 3
        frozen_fs.heal()
        assert read.value.pending is not None
        assert await read.value.pending.wait(HEALTHY_S) == bytes(512)
        await frozen.write(512, b"3" * 512, HEALTHY_S)
        assert (frozen_fs.backing / "lease").read_bytes()[512:1024] == b"3" * 512
        assert await devices.open(path, HEALTHY_S) is frozen
        devices.close()

    asyncio.run(main())


def test_many_hung_devices_do_not_take_the_threads_of_a_healthy_one(frozen_fs: FrozenFs, tmp_path: Path) -> None:
    paths = [prepare(frozen_fs, f"lease{number}") for number in range(5)]
    healthy_path = tmp_path / "healthy"
    healthy_path.write_bytes(bytes(SIZE))

    async def main() -> None:
        devices = DeviceRegistry(0)
        frozen = [await devices.open(path, HEALTHY_S) for path in paths]
        healthy = await devices.open(str(healthy_path), HEALTHY_S)
        frozen_fs.hang()
        for _ in range(4):
            results = await asyncio.gather(
                *(device.read(number * 512, 512, SHORT_S) for device in frozen for number in range(6)),
                return_exceptions=True,
            )
            assert all(isinstance(result, DeadlineError) for result in results)
            await healthy.write(0, bytes(512), HEALTHY_S)
        assert devices.threads < 80
        for _ in range(12):
            with pytest.raises(DeadlineError):
                await devices.open(paths[0], 0.01)
        again = await devices.open(str(healthy_path), HEALTHY_S)
        assert again is healthy
        frozen_fs.heal()
        await frozen[0].read(0, 512, HEALTHY_S)
        devices.close()

    asyncio.run(main())


def test_aio_that_hangs_completes_late_and_does_not_stop_closing(frozen_fs: FrozenFs) -> None:
    path = prepare(frozen_fs)

    async def main() -> None:
        for heal_before_closing in (True, False):
            aio = AioEngine(asyncio.get_running_loop(), 4)
            closed = asyncio.Event()

            def close_fd(fd: int, closed: asyncio.Event = closed) -> None:
                os.close(fd)
                closed.set()

            fd = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
            device = Device(aio, fd, path, block_size=512, size=SIZE, is_block_device=False, close_fd=close_fd)
            frozen_fs.hang("read")
            with pytest.raises(DeadlineError) as caught:
                await device.read(512, 512, SHORT_S)
            assert caught.value.pending is not None
            assert aio.outstanding == 1
            device.close()
            assert not closed.is_set()
            if heal_before_closing:
                frozen_fs.heal()
                assert await caught.value.pending.wait(HEALTHY_S) == bytes(512)
                assert closed.is_set()
                aio.close()
            else:
                aio.close()  # returns, although io_destroy would wait
                frozen_fs.heal()
                os.close(fd)

    asyncio.run(main())


def test_a_local_file_system_frozen_by_fsfreeze_does_not_stop_the_loop(tmp_path: Path) -> None:
    """AIO serves such files, but `io_submit` of a write would sleep until the file system is thawed."""
    missing = [tool for tool in ("mkfs.ext4", "losetup", "mount", "fsfreeze") if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"needs root, e2fsprogs, mount and util-linux; missing: {missing or 'root'}")
    image, mounted = tmp_path / "image", tmp_path / "ext4"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    made = subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no loop device can be mounted here: {made.stderr.strip()}")
    try:
        (mounted / "lease").write_bytes(bytes(SIZE))
        subprocess.run(["fsfreeze", "-f", str(mounted)], check=True)
        # Should the loop stop after all, this thaws it, and the test fails instead of hanging.
        thaw = threading.Timer(20, subprocess.run, [["fsfreeze", "-u", str(mounted)]])
        thaw.start()

        async def main() -> None:
            devices = DeviceRegistry(0)
            device = await devices.open(str(mounted / "lease"), HEALTHY_S)
            assert device.engine == "aio"
            with pytest.raises(DeadlineError) as caught:
                await device.write(512, b"1" * 512, SHORT_S)
            assert caught.value.submitted
            assert await device.read(0, 512, HEALTHY_S) == bytes(512)
            assert thaw.is_alive()
            await asyncio.to_thread(subprocess.run, ["fsfreeze", "-u", str(mounted)], check=True)
            await device.settle(512, 512, HEALTHY_S)
            assert await device.read(512, 512, HEALTHY_S) == b"1" * 512
            devices.release(device)
            devices.close()

        try:
            asyncio.run(main())
        finally:
            thaw.cancel()
            thaw.join()
            subprocess.run(["fsfreeze", "-u", str(mounted)], capture_output=True, check=False)
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=True)


def until_state(pid: int, state: str) -> bool:
    """Whether the process's main thread gets into that state of proc(5) within 30 s."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == state:
            return True
        time.sleep(0.005)
    return False


def test_the_end_of_the_process_does_not_wait_for_calls_that_hang(frozen_fs: FrozenFs) -> None:
    """Python leaves; the kernel keeps the stuck thread, killed or not, until the file system answers."""
    path = prepare(frozen_fs)
    program = """
import asyncio, sys
from holdfast.storage import DeadlineError, close_storage, open_disk

async def main():
    disk = await open_disk(sys.argv[1], timeout_s=30)
    print("open", flush=True)
    sys.stdin.readline()
    try:
        await disk.write(0, bytes(512), timeout_s=0.05)
    except DeadlineError:
        close_storage()
        print("late", flush=True)

asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        frozen_fs.hang("read", "write")
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "late\n"
        # The main thread is gone ("Z") while the stuck one lives.
        assert until_state(process.pid, "Z")
        assert frozen_fs.held() > 0
        frozen_fs.heal()
        assert process.wait(30) == 0


def test_nothing_is_left_of_a_frozen_mount(tmp_path: Path) -> None:
    from tests.fuse.frozen_fs import what_is_missing

    missing = what_is_missing()
    if missing is not None:
        pytest.skip(missing)
    file_system = FrozenFs(tmp_path)
    try:
        path = prepare(file_system)

        async def main() -> None:
            devices = DeviceRegistry(0)
            device = await devices.open(path, HEALTHY_S)
            file_system.hang()
            with pytest.raises(DeadlineError) as caught:
                await device.read(0, 512, SHORT_S)
            file_system.close()
            # The kernel ended what hung.
            assert caught.value.pending is not None
            with pytest.raises(StorageError) as failed:
                await caught.value.pending.wait(HEALTHY_S)
            assert failed.value.errno != errno.ETIMEDOUT
            devices.close()

        asyncio.run(main())
        assert str(tmp_path) not in Path("/proc/mounts").read_text()
    finally:
        file_system.close()
