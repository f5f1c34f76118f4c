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
    """SCSI host, channel, id, LUN; NVMe: host, cntlid, namespace instance, nsid; DASD: 0, 0, device number, 0."""
    vendor: str = ""
    product: str = ""
    revision: str = ""
    serial: str = ""
    wwid: str = ""
    """Empty: not known (yet)."""
    wwid_source: str = ""
    """udev, sysfs, ...: for the log."""
    device_wwid: str = ""
    """What the device itself says, without udev: VPD page 0x83, NVMe's wwid, DASD's uid. The fallback of 11.3."""
    read_only: bool = False
    host_wwnn: str = ""
    host_wwpn: str = ""
    target_wwnn: str = ""
    """Node name; of iSCSI the target's name."""
    target_wwpn: str = ""
    host_adapter: str = ""
    """PCI slot; only of transports whose paths are alternated."""
    scsi_host: str = ""
    """host3"""
    remote_port: str = ""
    """What the kernel's transport timeouts belong to: rport-3:0-1, session1, end_device-0:0, port-2:1."""
    kernel_timeout_s: int | None = None
    """The SCSI device's own command timeout."""
    tpgs: int = 0
    """Bits 5..4 of byte 5 of the standard INQUIRY: 0 none, 1 implicit, 2 explicit, 3 both."""
    target_port_group: int | None = None
    is_rdac: bool = False
    """VPD page 0xC9 has the mark of an RDAC array."""
    attached_handler: str = ""
    """The hardware handler that the kernel has attached: alua, rdac, ... (dh_state)."""
    access_state: str = ""
    """SCSI: the kernel's access_state; NVMe: ana_state, when it was read. Empty: it has none."""
    max_sectors_kb: int | None = None
    vpd_data: str = ""
    """What vpd_vendor names, decoded (`%g`)."""
    is_usb: bool = False
    is_hidden: bool = False
    holders: tuple[str, ...] = ()
    """Kernel names of the devices that sit on it: dm-0."""
    sysfs_path: str = ""
    """/sys/devices/.../block/sda"""
    device_path: str = ""
    """sysfs directory of the SCSI device, NVMe controller or CCW device that it belongs to; empty: none."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """udev's, as far as they are used: uid attribute, blacklist by property, DM_*."""
    udev_is_initialized: bool = True
    """udev has processed its add event; otherwise properties may be missing."""
    has_udev: bool = True
    """There is a udev that could have properties for it. Without one nothing has to be waited for."""
