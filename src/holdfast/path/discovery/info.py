"""What is known of a block device that may be a path (spec path 11.1)."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class Bus(enum.Enum):
    """How a path is attached; decided by the kernel's name for it."""

    SCSI = "scsi"
    NVME = "nvme"
    CCW = "ccw"
    CCISS = "cciss"
    UNKNOWN = "undef"


@dataclass(frozen=True, slots=True)
class PathInfo:
    """One whole disk as sysfs and udev's database show it. Never changed: read again, and replaced."""

    dev: str
    """The kernel's name: sda."""
    dev_t: str
    """8:0"""
    size: int
    """512-byte sectors."""
    bus: Bus = Bus.UNKNOWN
    protocol: str = "undef"
    """As `%P` prints it: scsi:fcp, nvme:tcp, ..."""
    hcil: tuple[int, int, int, int] | None = None
    """SCSI host, channel, id, LUN; NVMe: host, cntlid, namespace instance, nsid."""
    vendor: str = ""
    product: str = ""
    revision: str = ""
    serial: str = ""
    wwid: str = ""
    """Empty: not known (yet)."""
    wwid_source: str = ""
    """udev, sysfs, ...: for the log."""
    read_only: bool = False
    host_wwnn: str = ""
    host_wwpn: str = ""
    target_wwnn: str = ""
    """Node name; of iSCSI the target's name."""
    target_wwpn: str = ""
    host_adapter: str = ""
    """PCI slot."""
    scsi_host: str = ""
    """host3"""
    kernel_timeout_s: int | None = None
    """The SCSI device's own command timeout."""
    tpgs: int = 0
    """Bits 5..4 of byte 5 of the standard INQUIRY: 0 none, 1 implicit, 2 explicit, 3 both."""
    target_port_group: int | None = None
    max_sectors_kb: int | None = None
    vpd_data: str = ""
    """What vpd_vendor names, decoded (`%g`)."""
    is_usb: bool = False
    is_hidden: bool = False
    sysfs_path: str = ""
    """/sys/devices/.../block/sda"""
    properties: Mapping[str, str] = field(default_factory=dict)
    """udev's, as far as they are used: uid attribute, blacklist by property, DM_*."""
    udev_is_initialized: bool = True
    """udev has processed its add event; otherwise properties may be missing."""
