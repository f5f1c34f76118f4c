"""A guest with paths: udev as installed, dm-multipath, and several devices that lead to one logical unit.

    paths = path_lab.debug_paths(lab)            # four paths of scsi_debug with ALUA: sda to sdd
    paths = path_lab.shared_paths(lab, 2)        # two virtio-scsi paths to one image, each behind a `Disk`
    paths.set_state("sda", "offline")
    paths.disks[0].hang()                        # reads of sda wait; TEST UNIT READY is answered by QEMU

Both kinds of paths are there in one guest, or either.
"""

from __future__ import annotations

import sys
from typing import Final

from tests.guest.disk import Disk
from tests.guest.lab import Lab
from tests.guest.machine import Guest

PYTHON: Final = sys.executable
UDEVD: Final = "/lib/systemd/systemd-udevd"
MODULES: Final = ("dm-multipath", "dm-service-time", "dm-round-robin", "dm-queue-length", "scsi_dh_alua", "sd_mod")
STEP_LIMIT_S: Final = 90.0
SETTLE_LIMIT_S: Final = 300.0
"""udev's programs for each of 32 disks take seconds in a guest."""
DEBUG_DEVICES: Final = ("sda", "sdb", "sdc", "sdd")
"""In the order of scsi_debug's hosts: active/optimized, active/non-optimized, standby, active/optimized."""
DEBUG_SECTORS: Final = 131072
DEBUG_WWID: Final = "1Linux_scsi_debug_2000"
SHARED_WWN: Final = 0x5000C50015EA71AA
SHARED_WWID: Final = f"3{SHARED_WWN:x}"
SHARED_BYTES: Final = 16 << 20


class Paths:
    """One guest, and what its paths are made of."""

    def __init__(self, guest: Guest, disks: tuple[Disk, ...] = ()) -> None:
        """Loads the modules. Nothing else is started by this."""
        self.guest = guest
        self.disks = disks
        """Behind the virtio-scsi paths, in their order."""
        for module in MODULES:
            guest.run("modprobe", module)

    def start_udev(self) -> Paths:
        """Rules and programs as installed on this host. Devices that are there already are announced again."""
        self.guest.run("mkdir", "-p", "/run/udev")
        self.guest.start(UDEVD, log="udev")
        self.shell("until [ -S /run/udev/control ]; do sleep 0.1; done")
        self.shell("udevadm trigger --action=add --subsystem-match=block")
        return self.settle()

    def settle(self) -> Paths:
        """Until udev has nothing to do."""
        self.shell(f"udevadm settle --timeout={SETTLE_LIMIT_S:.0f}", limit_s=SETTLE_LIMIT_S)
        return self

    def add_debug_paths(self, hosts: int = len(DEBUG_DEVICES)) -> Paths:
        """scsi_debug: that many hosts, one logical unit. One after the other, so that the first is sda."""
        options = ("add_host=0", "vpd_use_hostno=0", "max_luns=1", "dev_size_mb=64")
        self.guest.run("modprobe", "scsi_debug", *options)
        self.shell(
            f"for number in $(seq {hosts}); do echo 1 >/sys/bus/pseudo/drivers/scsi_debug/add_host;"
            " until set -- /sys/block/sd*/device/access_state; [ -e $1 ] && [ $# -ge $number ];"
            " do sleep 0.05; done; done"
        )
        return self

    def inside(self, program: str, *arguments: str) -> str:
        """Run one of our programs for guests; its output. GuestError when it fails."""
        return self.guest.run(PYTHON, f"/run/package/inside/{program}", *arguments)

    def shell(self, script: str, check: bool = True, limit_s: float = STEP_LIMIT_S) -> str:
        """Run a script; its output."""
        return self.guest.run("sh", "-c", script, check=check, limit_s=limit_s)

    def set_state(self, dev: str, state: str) -> None:
        """`offline` or `running`, as the administrator would."""
        self.shell(f"echo {state} >/sys/block/{dev}/device/state")

    def write(self, path: str, text: str) -> None:
        """A file inside."""
        self.guest.ask(write=path, data=text)


def debug_paths(lab: Lab, hosts: int = len(DEBUG_DEVICES), *, name: str = "guest", udev: bool = True) -> Paths:
    """A guest with paths of scsi_debug."""
    # The disks before udev: its programs would take the processor from those that are still being looked for.
    paths = Paths(lab.guest(name=name)).add_debug_paths(hosts)
    return paths.start_udev() if udev else paths


def shared_paths(lab: Lab, count: int, *, name: str = "guest") -> Paths:
    """A guest with virtio-scsi paths to one image, each on a controller of its own: sda, sdb, ..."""
    image = lab.directory / f"{name}-shared.img"
    with image.open("wb") as file:
        file.truncate(SHARED_BYTES)
    disks = tuple(lab.disk(f"path{number}", image) for number in range(count))
    devices = [option for number, disk in enumerate(disks) for option in disk.scsi_devices(number, SHARED_WWN)]
    paths = Paths(lab.guest(*devices, name=name), disks)
    guest = paths.guest
    guest.run("modprobe", "virtio_scsi")
    paths.shell(f"until [ $(ls -d /sys/block/sd* | wc -l) -ge {count} ]; do sleep 0.1; done")
    return paths.start_udev()
