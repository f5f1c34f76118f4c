"""What a case on guests is given: a kernel, the compiled package, disks and guests that end with it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.guest import disk as disks
from tests.guest import kernel as kernels
from tests.guest import machine, package
from tests.guest.chain import DEVICE, Chain, Instants
from tests.guest.disk import Disk
from tests.guest.machine import SEARCH_PATH, Guest, Supervised

IO_TIMEOUT_S: Final = 1
PROGRAMS: Final = {
    "sanlock": "sanlock",
    "wdmd": "sanlock",
    "modprobe": "kmod",
    "mkfs.ext4": "e2fsprogs",
    "multipathd": "multipath-tools",
}
"""And the Debian packages that have them; the last one needs udev, dmsetup, kpartx and sg3-utils."""
FILE_SYSTEM_SIZE: Final = 16 << 20
MKFS_LIMIT_S: Final = 60
I6300ESB: Final = ("-device", "i6300esb")


records: Final[list[str]] = []
"""A line for each measurement, shown at the end of the run."""


@dataclass(frozen=True)
class Bench:
    """What all cases of a run share, made once."""

    kernel: kernels.Kernel
    package: Path
    image: Path
    """A formatted disk, to be copied."""


class Lab:
    """One case's own."""

    def __init__(self, bench: Bench, case: str, directory: Path, ending: contextlib.ExitStack) -> None:
        self.case = case
        self._bench = bench
        self.directory = directory
        self._ending = ending

    def disk(self, name: str = "disk", image: Path | None = None) -> Disk:
        """One guest's access to `image`, else to one of its own."""
        return self._ending.enter_context(Disk(image or self.image(name), self.directory, name))

    def file_system(self, name: str = "disk") -> Disk:
        """An empty ext4 file system, for `mount`."""
        made = self.directory / f"{name}.ext4"
        with made.open("wb") as file:
            file.truncate(FILE_SYSTEM_SIZE)
        subprocess.run(
            [_mkfs(), "-q", "-F", str(made)], check=True, stdin=subprocess.DEVNULL, timeout=MKFS_LIMIT_S
        )
        return self.disk(name, made)

    def mount(self, guest: Guest, where: str = "/var/lib/holdfast", device: str = DEVICE) -> None:
        """The guest's disk, a file system, there; after each boot."""
        guest.run("modprobe", "virtio_blk")
        guest.run("modprobe", "ext4")
        guest.run("mkdir", "-p", where)
        guest.run("mount", "-t", "ext4", device, where)

    def image(self, name: str = "shared") -> Path:
        """A formatted disk of its own, that several guests may share."""
        made = self.directory / f"{name}.img"
        shutil.copy(self._bench.image, made)
        return made

    def guest(
        self,
        *devices: str,
        name: str = "guest",
        disk: Disk | None = None,
        kept: Disk | None = None,
        reboots: bool = False,
        append: str = "",
        supervised: Supervised | None = None,
    ) -> Guest:
        """Booted. `kept`: another disk, behind `disk`."""
        wanted: Sequence[str] = (*devices, *(one for each in (disk, kept) if each for one in each.devices))
        guest = Guest(
            *(self._bench.kernel, self._bench.package, self.directory),
            name=name,
            devices=wanted,
            reboots=reboots,
            append=append,
            supervised=supervised,
        )
        self._ending.enter_context(guest)
        if disk:
            guest.run("modprobe", "virtio_blk")
            guest.run("chown", "sanlock", DEVICE)
        return guest

    def record(self, measured: object) -> None:
        """Show it at the end of the run."""
        records.append(f"{self.case.removeprefix('test_'):42} {measured}")

    def reset_in_time(self, chain: Chain) -> Instants:
        """Wait for the reset of `chain`'s guest, and judge it."""
        instants = chain.reset()
        self.record(instants)
        assert instants.in_time, f"{instants}\n{chain.guest.tail()}"
        return instants

    def chain(self, name: str = "guest", image: Path | None = None, host_id: int = 1) -> Chain:
        """A guest with i6300esb, its access to a disk, both daemons; the lockspace is joined."""
        made = self.unstarted(name, image)
        made.host_id = host_id
        return made.start().join()

    def unstarted(self, name: str = "guest", image: Path | None = None) -> Chain:
        """The same, without daemons."""
        disk = self.disk(name, image)
        return Chain(self.guest(*I6300ESB, name=name, disk=disk), disk, io_timeout=IO_TIMEOUT_S)


def _mkfs() -> str:
    return shutil.which("mkfs.ext4", path=SEARCH_PATH) or "mkfs.ext4"


def what_is_missing() -> str | None:
    """A sentence; None when all is there."""
    missing = machine.what_is_missing() or disks.what_is_missing()
    for program, package_name in PROGRAMS.items():
        if missing is None and shutil.which(program, path=SEARCH_PATH) is None:
            missing = f"{program} is missing: apt-get install {package_name}"
    return missing


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """NoKernel when there is none to be had."""
    with tempfile.TemporaryDirectory(prefix="hf-guests-") as name:
        home = Path(name)
        kernel = kernels.get()
        image = home / "image"
        disks.formatted(image, IO_TIMEOUT_S)
        yield Bench(kernel, package.compiled(home), image)


@contextlib.contextmanager
def lab(shared: Bench, case: str) -> Iterator[Lab]:
    """For the case of that name."""
    with contextlib.ExitStack() as ending:
        directory = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="hf-guest-")))
        yield Lab(shared, case, directory, ending)
