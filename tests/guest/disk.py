"""A small disk that outlives guests: an image file behind an nbdkit of its own, which hangs or fails on command.

Each guest gets an nbdkit of its own over the same image, so that storage is taken away from one guest only. The
image has what the last completed write of any guest left.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final

from holdfast.lease.records import decode_leader
from tests.guest.package import SOURCE

NBDKIT: Final = "nbdkit"
START_LIMIT_S: Final = 20.0
CALL_LIMIT_S: Final = 20.0
SECTOR: Final = 512
MIB: Final = 1 << 20
SPACE: Final = "LS"
RESOURCE: Final = "R"
RESOURCE_OFFSET: Final = MIB
COUNTER_OFFSET: Final = 2 * MIB
"""Free for a test's own bytes."""
SIZE: Final = 4 * MIB


def what_is_missing() -> str | None:
    """What disks need and this machine has not; None when all is there."""
    return None if shutil.which(NBDKIT) else f"{NBDKIT} is missing: apt-get install nbdkit"


def formatted(image: Path, io_timeout: int) -> None:
    """A lockspace (`SPACE`) and a resource (`RESOURCE`) in a new image."""
    with image.open("wb") as file:
        file.truncate(SIZE)
    for what in (
        ("--space", f"{SPACE}:0:{image}:0", "--io-timeout", str(io_timeout)),
        ("--resource", f"{SPACE}:{RESOURCE}:{image}:{RESOURCE_OFFSET}"),
    ):
        command = [sys.executable, "-m", "holdfast", "lease", "init", "--direct", *what]
        environment = dict(os.environ, PYTHONPATH=str(SOURCE))
        subprocess.run(command, check=True, capture_output=True, timeout=CALL_LIMIT_S, env=environment)


def last_renewal(image: Path, host_id: int) -> int:
    """The timestamp that a host wrote last, seconds of its CLOCK_BOOTTIME; 0: it has left."""
    with image.open("rb") as file:
        file.seek((host_id - 1) * SECTOR)
        return decode_leader(file.read(SECTOR)).timestamp


class Disk:
    """One guest's access to an image."""

    def __init__(self, image: Path, directory: Path, name: str = "disk") -> None:
        """Starts an nbdkit; its files lie in `directory`."""
        self.image = image
        self._name = name
        self._socket = directory / f"{name}.nbd"
        self._control = directory / f"{name}.pause"
        self._errors = directory / f"{name}.errors"
        command = [
            *(NBDKIT, "--foreground", "--unix", str(self._socket)),
            *("--filter=error", "--filter=pause", "file", f"file={image}", f"pause-control={self._control}"),
            *("error=EIO", "error-rate=100%", f"error-file={self._errors}"),
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_LIMIT_S
        while not self._socket.exists() or not self._control.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"{' '.join(command)}: does not serve")
            time.sleep(0.02)

    def __enter__(self) -> Disk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def devices(self) -> list[str]:
        """For QEMU; /dev/vda inside, /dev/vdb when it is the second one."""
        drive = f"if=none,id={self._name},format=raw,cache=none,werror=report,rerror=report"
        return [
            *("-drive", f"file=nbd+unix:///?socket={self._socket},{drive}"),
            *("-device", f"virtio-blk-pci,drive={self._name},share-rw=on"),
        ]

    def scsi_devices(self, number: int, wwn: int) -> list[str]:
        """For QEMU: a path to a logical unit of that name, on controller `number` of its own."""
        drive = f"if=none,id={self._name},format=raw,cache=none,werror=report,rerror=report"
        unit = f"drive={self._name},bus=scsi{number}.0,serial=hftest,wwn={wwn:#x},vendor=HOLDFAST,product=TESTDISK"
        return [
            *("-drive", f"file=nbd+unix:///?socket={self._socket},{drive}"),
            *("-device", f"virtio-scsi-pci,id=scsi{number}", "-device", f"scsi-hd,{unit},share-rw=on"),
        ]

    def hang(self) -> None:
        """Requests wait from now on; those under way are answered first."""
        self._pause(b"p")

    def go_on(self) -> None:
        """Requests that waited are served."""
        self._pause(b"r")

    def fail(self) -> None:
        """Every request from now on: EIO."""
        self._errors.touch()

    def work(self) -> None:
        """No errors any more."""
        self._errors.unlink(missing_ok=True)

    def stop(self) -> None:
        """The server is stopped in its tracks, with what it was doing."""
        self._process.send_signal(signal.SIGSTOP)

    def _pause(self, what: bytes) -> None:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(CALL_LIMIT_S)
            control.connect(str(self._control))
            control.sendall(what)
            answer = control.recv(1)
            if answer != what.upper():
                raise RuntimeError(f"nbdkit's pause filter answers {answer!r} to {what!r}")

    def close(self) -> None:
        """End it, also a stopped one."""
        self._process.kill()
        self._process.wait(CALL_LIMIT_S)
