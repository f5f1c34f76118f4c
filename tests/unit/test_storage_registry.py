"""Opening: what is accepted, what is shared, what is closed when; and the faults on command."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from holdfast.storage import (
    DeadlineError,
    DeviceRegistry,
    Faults,
    StorageError,
    close_disk,
    close_storage,
    open_disk,
)
from holdfast.storage.current import registry

SIZE = 1 << 20
OPEN_S = 30.0


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(bytes(SIZE))
    return path


@asynccontextmanager
async def storage(linger_s: float = 0.0, max_open: int = 16) -> AsyncIterator[DeviceRegistry]:
    devices = DeviceRegistry(linger_s, max_open)
    try:
        yield devices
    finally:
        devices.close()


def open_descriptors(path: Path) -> int:
    count = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{number}") == str(path)
        except OSError:
            pass
    return count


async def until_closed(path: Path, left_open: int = 0) -> None:
    async with asyncio.timeout(30):
        while open_descriptors(path) != left_open:
            await asyncio.sleep(0.001)


class TestWhatIsStorage:
    @pytest.mark.parametrize(
        ("make", "expected"),
        [
            (lambda path: None, errno.ENOENT),
            (lambda path: path.mkdir(), errno.EISDIR),
            (lambda path: os.mkfifo(path), errno.ENOTBLK),
            (lambda path: path.symlink_to("/dev/zero"), errno.ENOTBLK),
            (lambda path: path.symlink_to(path), errno.ELOOP),
            (lambda path: socket.socket(socket.AF_UNIX).bind(str(path)), errno.ENOTBLK),
        ],
        ids=["missing", "directory", "fifo", "char-device", "symlink-loop", "socket"],
    )
    @pytest.mark.filterwarnings("ignore::ResourceWarning")
    def test_what_is_not_is_refused(self, tmp_path: Path, make: object, expected: int) -> None:
        path = tmp_path / "thing"
        make(path)  # type: ignore[operator]

        async def main() -> None:
            async with storage() as devices:
                with pytest.raises(StorageError) as caught:
                    await devices.open(str(path), OPEN_S)
            assert caught.value.errno == expected
            assert caught.value.operation == "open"
            assert caught.value.path == str(path)

        asyncio.run(main())

    @pytest.mark.parametrize(
        ("path", "expected"),
        [("a\0b", errno.EINVAL), ("", errno.ENOENT), ("/x" * 3000, errno.ENAMETOOLONG)],
        ids=["nul", "empty", "long"],
    )
    def test_impossible_paths(self, path: str, expected: int) -> None:
        async def main() -> None:
            async with storage() as devices:
                with pytest.raises(StorageError) as caught:
                    await devices.open(path, OPEN_S)
            assert caught.value.errno == expected

        asyncio.run(main())

    @pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan")])
    def test_impossible_timeouts(self, image: Path, timeout_s: float) -> None:
        async def main() -> None:
            async with storage() as devices:
                with pytest.raises(StorageError) as caught:
                    await devices.open(str(image), timeout_s)
            assert caught.value.errno == errno.EINVAL

        asyncio.run(main())

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything: run as an ordinary user")
    def test_no_permission(self, image: Path) -> None:
        image.chmod(0o400)

        async def main() -> None:
            async with storage() as devices:
                with pytest.raises(StorageError) as caught:
                    await devices.open(str(image), OPEN_S)
            assert caught.value.errno == errno.EACCES

        asyncio.run(main())

    def test_a_regular_file(self, image: Path) -> None:
        async def main() -> None:
            async with storage() as devices:
                device = await devices.open(str(image), OPEN_S)
                assert (device.path, device.size, device.is_block_device) == (str(image), SIZE, False)
                assert device.block_size in (512, 4096)
                data = os.urandom(device.block_size)
                await device.write(0, data, OPEN_S)
                assert await device.read(0, device.block_size, OPEN_S) == data

        asyncio.run(main())


@pytest.fixture
def block_device(image: Path) -> Iterator[Path]:
    if os.geteuid() != 0 or shutil.which("losetup") is None:
        pytest.skip("a loop device needs root and losetup (Debian package mount)")
    made = subprocess.run(
        ["losetup", "--find", "--show", "--sector-size", "4096", str(image)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no loop device can be made here: {made.stderr.strip()}")
    device = Path(made.stdout.strip())
    try:
        yield device
    finally:
        # The read-only flag would stay with the loop device for its next user.
        subprocess.run(["blockdev", "--setrw", str(device)], check=True)
        subprocess.run(["losetup", "--detach", str(device)], check=True)


def test_a_block_device(block_device: Path, image: Path) -> None:
    async def main() -> None:
        async with storage() as devices:
            device = await devices.open(str(block_device), OPEN_S)
            assert (device.block_size, device.size, device.is_block_device) == (4096, SIZE, True)
            assert device.engine == "aio"
            data = os.urandom(4096)
            await device.write(8192, data, OPEN_S)
            assert await device.read(8192, 4096, OPEN_S) == data
            assert image.read_bytes()[8192 : 8192 + 4096] == data
            with pytest.raises(StorageError) as caught:
                await device.read(SIZE, 4096, OPEN_S)
            assert caught.value.errno == errno.EMSGSIZE
            devices.release(device)
            await until_closed(block_device)

    asyncio.run(main())


def test_a_read_only_block_device(block_device: Path) -> None:
    subprocess.run(["blockdev", "--setro", str(block_device)], check=True)

    async def main() -> None:
        async with storage() as devices:
            with pytest.raises(StorageError) as caught:
                await devices.open(str(block_device), OPEN_S)
            assert caught.value.errno in (errno.EROFS, errno.EACCES)
            await until_closed(block_device)

    asyncio.run(main())


class TestSharing:
    def test_one_path_is_opened_once_and_closed_after_the_last_user(self, image: Path) -> None:
        async def main() -> None:
            async with storage() as devices:
                first, second = await asyncio.gather(*(devices.open(str(image), OPEN_S) for _ in range(2)))
                third = await devices.open(str(image), OPEN_S)
                assert first is second is third
                assert len(devices) == 1
                devices.release(first)
                devices.release(second)
                await third.read(0, third.block_size, OPEN_S)
                await until_closed(image, 1)
                devices.release(third)
                assert len(devices) == 0
                await until_closed(image)

        asyncio.run(main())

    def test_a_path_that_names_another_file_is_opened_anew(self, image: Path) -> None:
        async def main() -> None:
            async with storage(linger_s=60) as devices:
                old = await devices.open(str(image), OPEN_S)
                other = image.with_name("other")
                other.write_bytes(b"\1" * SIZE)
                other.rename(image)
                new = await devices.open(str(image), OPEN_S)
                assert new is not old
                assert (await new.read(0, 4096, OPEN_S))[0] == 1
                assert (await old.read(0, 4096, OPEN_S))[0] == 0
                devices.release(old)
                devices.release(new)
                image.unlink()
                with pytest.raises(StorageError) as caught:
                    await devices.open(str(image), OPEN_S)
                assert caught.value.errno == errno.ENOENT

        asyncio.run(main())

    def test_an_unused_device_lingers(self, image: Path) -> None:
        async def main() -> None:
            async with storage(linger_s=60) as devices:
                first = await devices.open(str(image), OPEN_S)
                devices.release(first)
                assert len(devices) == 1
                assert await devices.open(str(image), OPEN_S) is first
                devices.release(first)
            await until_closed(image)
            async with storage(linger_s=0.001) as devices:
                devices.release(await devices.open(str(image), OPEN_S))
                await until_closed(image)
                assert len(devices) == 0

        asyncio.run(main())

    def test_the_number_of_open_devices_is_bounded(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with storage(max_open=2) as devices:
                for name in "ab":
                    (tmp_path / name).write_bytes(bytes(4096))
                    await devices.open(str(tmp_path / name), OPEN_S)
                (tmp_path / "c").write_bytes(bytes(4096))
                with pytest.raises(StorageError) as caught:
                    await devices.open(str(tmp_path / "c"), OPEN_S)
                assert caught.value.errno == errno.EMFILE

        asyncio.run(main())

    def test_a_lingering_device_makes_room(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with storage(linger_s=60, max_open=2) as devices:
                for name in "abc":
                    (tmp_path / name).write_bytes(bytes(4096))
                    devices.release(await devices.open(str(tmp_path / name), OPEN_S))
                assert len(devices) == 2

        asyncio.run(main())

    def test_rule_12_survives_closing_and_opening_by_another_path(self, image: Path) -> None:
        link = image.with_name("link")
        link.hardlink_to(image)
        control = image.with_name("control")

        async def main() -> None:
            async with storage() as devices:
                faults = Faults(str(control))
                device = await devices.open(str(image), OPEN_S, faults)
                control.write_text("hang")
                with pytest.raises(DeadlineError):
                    await device.write(0, b"1" * 4096, 0.01)
                devices.release(device)
                control.unlink()
                # The hung write has not come back before the fault is seen to have ended.
                again = await devices.open(str(link), OPEN_S, faults)
                assert again is not device
                await again.write(0, b"2" * 4096, OPEN_S)
                assert image.read_bytes()[:4096] == b"2" * 4096
                await until_closed(image)

        asyncio.run(main())

    def test_two_loops_have_two_registries_and_nothing_is_left(self, image: Path) -> None:
        async def main() -> None:
            disk = await open_disk(str(image), timeout_s=OPEN_S)
            await disk.read(0, 4096, OPEN_S)
            close_disk(disk)
            second = await open_disk(str(image), timeout_s=OPEN_S)
            assert registry().threads <= 4
            close_storage()
            close_disk(second)  # harmless: it was closed with everything
            await until_closed(image)

        for _ in range(3):
            asyncio.run(main())

        async def careless() -> None:
            await (await open_disk(str(image), timeout_s=OPEN_S)).read(0, 4096, OPEN_S)

        asyncio.run(careless())
        asyncio.run(main())  # gives back what the closed loop left

    def test_an_open_that_was_cancelled_leaves_no_descriptor(self, image: Path) -> None:
        async def main() -> None:
            async with storage() as devices:
                for turns in range(6):
                    opening = asyncio.create_task(devices.open(str(image), OPEN_S))
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    opening.cancel()
                    try:
                        devices.release(await opening)
                    except asyncio.CancelledError:
                        pass
                await until_closed(image)

        asyncio.run(main())


class TestFaults:
    def test_hang_error_delay_and_back(self, image: Path, tmp_path: Path) -> None:
        control = tmp_path / "control"

        async def main() -> None:
            async with storage() as devices:
                faults = Faults(str(control))
                bad = await devices.open(str(image), OPEN_S, faults)
                good = await devices.open(str(image), OPEN_S)
                await bad.write(0, b"1" * 4096, OPEN_S)
                control.write_text("hang\n")
                with pytest.raises(DeadlineError) as written:
                    await bad.write(0, b"2" * 4096, 0.05)
                assert written.value.submitted
                with pytest.raises(DeadlineError) as blocked:
                    await bad.write(0, b"3" * 4096, 0.05)
                assert not blocked.value.submitted
                with pytest.raises(DeadlineError) as read:
                    await bad.read(0, 4096, 0.05)
                with pytest.raises(DeadlineError):
                    await devices.open(str(image), 0.05, faults)
                # Another host on the same storage is not concerned, not even on the same sector.
                assert await good.read(0, 4096, OPEN_S) == b"1" * 4096
                await good.write(0, b"4" * 4096, OPEN_S)
                control.unlink()
                assert read.value.pending is not None
                await read.value.pending.wait(OPEN_S)
                # The late write arrived, over the younger one of the other host: as on real storage.
                await bad.settle(0, 4096, OPEN_S)
                assert await good.read(0, 4096, OPEN_S) == b"2" * 4096
                for text, expected in (("error", errno.EIO), ("error 28", errno.ENOSPC), ("nonsense", errno.EIO)):
                    control.write_text(text)
                    for operation in (bad.read(0, 4096, OPEN_S), bad.write(0, bytes(4096), OPEN_S)):
                        with pytest.raises(StorageError) as caught:
                            await operation
                        assert caught.value.errno == expected
                    with pytest.raises(StorageError) as caught:
                        await devices.open(str(image), OPEN_S, faults)
                    assert caught.value.errno == expected
                assert await bad_file_is_untouched(image)
                control.write_text("delay 0.05")
                started = asyncio.get_running_loop().time()
                await bad.write(0, b"5" * 4096, OPEN_S)
                assert asyncio.get_running_loop().time() >= started + 0.05
                control.write_text("")
                assert await bad.read(0, 4096, OPEN_S) == b"5" * 4096
                assert bad.outstanding == 0

        async def bad_file_is_untouched(path: Path) -> bool:
            return path.read_bytes()[:4096] == b"2" * 4096

        asyncio.run(main())

    def test_what_hangs_when_everything_is_closed_never_reaches_the_storage(
        self, image: Path, tmp_path: Path
    ) -> None:
        control = tmp_path / "control"
        control.write_text("hang")

        async def main() -> None:
            async with storage() as devices:
                control.unlink()
                device = await devices.open(str(image), OPEN_S, Faults(str(control)))
                control.write_text("hang")
                with pytest.raises(DeadlineError):
                    await device.write(0, b"1" * 4096, 0.01)
            assert device.outstanding == 0
            await until_closed(image)
            assert image.read_bytes()[:1] == b"\0"

        asyncio.run(main())
