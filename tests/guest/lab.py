"""What a case on guests is given: a kernel, the compiled package, disks and guests that end with it."""

from __future__ import annotations

import contextlib
import shutil
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
from tests.guest.machine import Guest

IO_TIMEOUT_S: Final = 1
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
        """A formatted disk of its own, or one guest's access to `image` of another."""
        if image is None:
            image = self.directory / f"{name}.img"
            shutil.copy(self._bench.image, image)
        return self._ending.enter_context(Disk(image, self.directory, name))

    def guest(
        self, *devices: str, name: str = "guest", disk: Disk | None = None, reboots: bool = False, append: str = ""
    ) -> Guest:
        """Booted."""
        wanted: Sequence[str] = (*devices, *(disk.devices if disk else ()))
        guest = Guest(
            *(self._bench.kernel, self._bench.package, self.directory),
            name=name,
            devices=wanted,
            reboots=reboots,
            append=append,
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
        disk = self.disk(name, image)
        guest = self.guest(*I6300ESB, name=name, disk=disk)
        return Chain(guest, disk, host_id=host_id, io_timeout=IO_TIMEOUT_S).start().join()


def what_is_missing() -> str | None:
    """A sentence; None when all is there."""
    missing = machine.what_is_missing() or disks.what_is_missing()
    for program in ("sanlock", "modprobe"):
        if missing is None and shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            missing = f"{program} is missing: apt-get install {'kmod' if program == 'modprobe' else program}"
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
