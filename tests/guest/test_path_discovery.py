"""Disks of many kinds, a real sysfs and udev: the same facts as the real multipathd prints (spec path 11)."""

from __future__ import annotations

import json
from typing import Any, Final

from tests.guest import path_lab
from tests.guest.lab import Lab

IMAGE_BYTES: Final = 16 << 20
CONTROLLERS: Final = ("ahci,id=ahci", "qemu-xhci", "lsi53c895a,id=spi", "virtio-scsi-pci,id=virtio")
DISKS: Final = (
    "ide-hd,bus=ahci.0",
    "nvme,serial=foo",
    "usb-storage",
    "scsi-hd,bus=spi.0,serial=spi1",
    "scsi-hd,bus=virtio.0,serial=vs1,wwn=0x5000c50015ea71ab",
)
MODULES: Final = ("ahci", "nvme", "xhci_pci", "usb_storage", "sym53c8xx", "virtio_scsi", "sd_mod")
CONF: Final = """\
defaults {
    find_multipaths strict
    allow_usb_devices yes
}
blacklist_exceptions {
    property ".*"
}
"""
FORMAT: Final = "%d|%D|%i|%n|%r|%N|%R|%a|%P|%z|%w|%S"
UNDEF: Final = "[undef]"


def shown(path: dict[str, Any]) -> str:
    """As the original prints it."""
    names = ("target_wwnn", "target_wwpn", "host_wwnn", "host_wwpn", "host_adapter")
    size = path["size"] // 2048
    return "|".join(
        [
            path["dev"],
            path["dev_t"],
            ":".join(map(str, path["hcil"])),
            *(path[name] or UNDEF for name in names),
            path["protocol"],
            path["serial"],
            path["wwid"],
            f"{size}M",
        ]
    )


def test_many_kinds_of_disks(lab: Lab) -> None:
    options = [word for one in CONTROLLERS for word in ("-device", one)]
    for number, disk in enumerate(DISKS):
        image = lab.directory / f"disk{number}.img"
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        options += ["-drive", f"file={image},if=none,format=raw,id=disk{number}"]
        options += ["-device", f"{disk},drive=disk{number}"]
    paths = path_lab.Paths(lab.guest(*options))
    for module in MODULES:
        paths.guest.run("modprobe", module)
    paths.shell(f"until [ $(ls -d /sys/block/sd* /sys/block/nvme* | wc -l) -ge {len(DISKS)} ]; do sleep 0.1; done")
    paths.start_udev().add_debug_paths().settle()
    paths.write("/etc/multipath.conf", CONF)

    daemon = paths.guest.start("multipathd", "-d", log="multipathd")
    paths.shell("until multipathd show daemon 2>/dev/null | grep -q idle; do sleep 0.2; done")
    theirs = paths.guest.run("multipathd", "show", "paths", "raw", "format", FORMAT).splitlines()
    paths.guest.run("multipathd", "shutdown")
    paths.shell(f"while [ -d /proc/{daemon} ]; do sleep 0.1; done", check=False)

    answers: dict[str, Any] = {}
    for line in paths.inside("path_discovery.py", path_lab.DEBUG_WWID).splitlines():
        answers |= json.loads(line)
    # The original fills NVMe's serial number up with blanks.
    expected = ["|".join(part.strip() for part in line.split("|")) for line in theirs]
    assert [shown(path) for path in answers["paths"]] == expected
    assert answers["excluded"] == {}
    debug = next(path for path in answers["paths"] if path["wwid"] == path_lab.DEBUG_WWID)
    assert debug["access_state"] == "active/optimized"
    assert (debug["tpgs"], debug["attached_handler"]) == (1, "alua")

    assert answers["retriggered"] is True
    assert answers["event"] == ["change", debug["dev_t"], path_lab.DEBUG_WWID]
    assert answers["states"] == ["DOWN", "UP", "REMOVED"]
    assert answers["gone"] is True
    dev, host = debug["dev"], debug["scsi_host"]
    assert answers["lines"] == [
        f"{dev}: setting scsi timeouts is unsupported for protocol scsi:unspec",
        f"{dev}: eh_deadline 30 of {host} set",
        f"{dev}: max_retries 3 of {':'.join(map(str, debug['hcil']))} set",
        f"{dev}: max_sectors_kb 256 of queue set",
    ]
