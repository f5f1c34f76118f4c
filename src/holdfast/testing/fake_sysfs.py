"""Trees that look like sysfs, in a directory of a test.

    sysfs = FakeSysfs(tmp_path)
    sysfs.scsi("sda", host=3, target=0, lun=1, transport=FcPort(rport="rport-3:0-1"))
    sysfs.nvme("nvme0n1"); sysfs.dasd("dasda"); sysfs.plain("loop0")
    sysfs.set_state("sda", "offline"); sysfs.set("sda", "device/timeout", "60"); sysfs.remove("sda")
    read_disk("sda", sysfs.tree)

Directories, links and attributes lie where a kernel has them, as far as somebody reads them.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from holdfast.path.discovery.sysfs import Tree


def page_83(naa: bytes, group: int | None = None) -> bytes:
    """VPD page 0x83 with an NAA designator of the logical unit, and perhaps a target port group."""
    body = b"\x01\x03\x00" + bytes([len(naa)]) + naa
    if group is not None:
        body += b"\x51\x95\x00\x04\x00\x00" + group.to_bytes(2, "big")
    return b"\x00\x83" + len(body).to_bytes(2, "big") + body


def page_80(serial: str) -> bytes:
    """VPD page 0x80."""
    return b"\x00\x80" + len(serial).to_bytes(2, "big") + serial.encode()


def standard_inquiry(tpgs: int = 0) -> bytes:
    """A standard INQUIRY with these TPGS bits, otherwise empty."""
    return bytes(5) + bytes([tpgs << 4]) + bytes(90)


@dataclass(frozen=True, slots=True)
class FcPort:
    """Behind a Fibre Channel remote port."""

    rport: str = "rport-3:0-1"
    node_name: str = "0x500a098000000001"
    port_name: str = "0x500a098100000001"
    fast_io_fail_tmo: str = "off"
    dev_loss_tmo: str = "60"


@dataclass(frozen=True, slots=True)
class SasEnd:
    """Behind a SAS end device."""

    name: str = "end_device-0:0"
    address: str = "0x5000c50015ea71ac"


@dataclass(frozen=True, slots=True)
class IscsiSession:
    """Behind an iSCSI session."""

    name: str = "session1"
    target: str = "iqn.2003-01.org.example:target"
    recovery_tmo: str = "120"


@dataclass(frozen=True, slots=True)
class SrpPort:
    """Behind an SRP remote port."""

    name: str = "port-2:1"
    port_id: str = "0002c90300a0b0c0"


@dataclass(frozen=True, slots=True)
class Ata:
    """At libata's port."""

    name: str = "ata1"


@dataclass(frozen=True, slots=True)
class Usb:
    """A USB interface."""

    name: str = "1-1:1.0"


Transport = FcPort | SasEnd | IscsiSession | SrpPort | Ata | Usb | None


class FakeSysfs:
    """See the module's text. All methods overwrite what was there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tree = Tree(str(root))
        self._minor = 0
        for name in ("block", "class", "devices"):
            (root / name).mkdir(parents=True, exist_ok=True)

    # Attributes.

    def write(self, path: Path, value: str | bytes) -> None:
        """An attribute; text gets the line end that the kernel adds."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value if isinstance(value, bytes) else value.encode() + b"\n")

    def disk(self, dev: str) -> Path:
        """Its directory below devices."""
        return (self.root / "block" / dev).resolve()

    def device(self, dev: str) -> Path:
        """Directory of its SCSI device, NVMe controller or CCW device."""
        return (self.disk(dev) / "device").resolve()

    def set(self, dev: str, name: str, value: str | bytes) -> None:
        """An attribute of the disk; `device/state` and the like of what it belongs to."""
        self.write(self.disk(dev) / name, value)

    def get(self, dev: str, name: str) -> str:
        """What was written to it."""
        return (self.disk(dev) / name).read_text().rstrip("\n")

    def set_state(self, dev: str, state: str) -> None:
        """Attribute `state` of the SCSI device or NVMe controller."""
        self.set(dev, "device/state", state)

    def remove(self, dev: str) -> None:
        """The disk and what it belongs to are gone, the controller of an NVMe namespace stays."""
        disk, device = self.disk(dev), self.device(dev)
        (self.root / "block" / dev).unlink()
        shutil.rmtree(disk if dev.startswith("nvme") or not device.is_dir() else device)

    def _subsystem(self, directory: Path, name: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        bus = self.root / "bus" / name
        bus.mkdir(parents=True, exist_ok=True)
        link = directory / "subsystem"
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(bus, directory))

    def class_entry(self, name: str, entry: str, **attributes: str) -> Path:
        """A device of a class, with attributes."""
        directory = self.root / "class" / name / entry
        directory.mkdir(parents=True, exist_ok=True)
        for key, value in attributes.items():
            self.write(directory / key, value)
        return directory

    def hold(self, dev: str, holder: str, uuid: str) -> None:
        """A device-mapper device sits on the disk."""
        self.plain(holder)
        self.write(self.disk(holder) / "dm" / "uuid", uuid)
        (self.disk(dev) / "holders" / holder).mkdir(parents=True, exist_ok=True)

    # Disks.

    def _block(self, parent: Path, dev: str, major: int, size: int, device: Path | None) -> Path:
        directory = parent / dev
        directory.mkdir(parents=True, exist_ok=True)
        self.write(directory / "dev", f"{major}:{self._minor}")
        self._minor += 16
        self.write(directory / "size", str(size))
        self.write(directory / "ro", "0")
        self.write(directory / "hidden", "0")
        self.write(directory / "uevent", "")
        self.write(directory / "queue" / "max_sectors_kb", "1280")
        (directory / "holders").mkdir(exist_ok=True)
        self._subsystem(directory, "block")
        if device is not None:
            (directory / "device").symlink_to(os.path.relpath(device, directory))
        (self.root / "block" / dev).symlink_to(os.path.relpath(directory, self.root / "block"))
        return directory

    def plain(self, dev: str, size: int = 0) -> None:
        """A virtual disk: loop, dm, zram."""
        self._block(self.root / "devices/virtual/block", dev, 7, size, None)

    def scsi(
        self,
        dev: str,
        *,
        host: int = 0,
        channel: int = 0,
        target: int = 0,
        lun: int = 0,
        transport: Transport = None,
        size: int = 131072,
        vendor: str = "HOLDFAST",
        model: str = "TESTDISK",
        rev: str = "0001",
        naa: bytes = bytes.fromhex("5000c50015ea71aa"),
        serial: str = "SER0001",
        tpgs: int = 0,
        group: int | None = None,
        access_state: str = "",
        handler: str = "detached",
    ) -> None:
        """A SCSI disk behind an adapter in slot 0000:00:05.0, with VPD pages 0x00, 0x80 and 0x83 in sysfs."""
        pci = self.root / "devices/pci0000:00/0000:00:05.0"
        self._subsystem(pci, "pci")
        above = pci
        match transport:
            case Ata(name):
                above = pci / name
            case Usb(name):
                above = pci / "usb1" / name
                self._subsystem(above, "usb")
        scsi_host = above / f"host{host}"
        self._subsystem(scsi_host, "scsi")
        self.class_entry("scsi_host", f"host{host}", eh_deadline="off")
        above = scsi_host
        match transport:
            case FcPort():
                above = scsi_host / transport.rport
                self.class_entry(
                    "fc_remote_ports",
                    transport.rport,
                    node_name=transport.node_name,
                    port_name=transport.port_name,
                    fast_io_fail_tmo=transport.fast_io_fail_tmo,
                    dev_loss_tmo=transport.dev_loss_tmo,
                )
                self.class_entry(
                    "fc_host",
                    f"host{host}",
                    node_name=f"0x20000000c9{host:06x}",
                    port_name=f"0x10000000c9{host:06x}",
                )
            case SasEnd():
                above = scsi_host / "port-0:0" / transport.name
                self.class_entry("sas_device", transport.name, sas_address=transport.address)
                self.class_entry("sas_end_device", transport.name, I_T_nexus_loss_timeout="2000")
            case IscsiSession():
                above = scsi_host / transport.name
                self.class_entry(
                    "iscsi_session",
                    transport.name,
                    targetname=transport.target,
                    recovery_tmo=transport.recovery_tmo,
                )
            case SrpPort():
                above = scsi_host / transport.name
                self.class_entry("srp_remote_ports", transport.name, port_id=transport.port_id)
        scsi_target = above / f"target{host}:{channel}:{target}"
        self._subsystem(scsi_target, "scsi")
        address = f"{host}:{channel}:{target}:{lun}"
        device = scsi_target / address
        self._subsystem(device, "scsi")
        self.class_entry("scsi_disk", address, max_retries="5")
        for name, value in (
            ("state", "running"),
            ("timeout", "30"),
            ("vendor", vendor.ljust(8)),
            ("model", model.ljust(16)),
            ("rev", rev.ljust(4)),
            ("dh_state", handler),
        ):
            self.write(device / name, value)
        self.write(device / "inquiry", standard_inquiry(tpgs))
        self.write(device / "vpd_pg0", b"\x00\x00\x00\x03\x00\x80\x83")
        if serial:
            self.write(device / "vpd_pg80", page_80(serial))
        if naa:
            self.write(device / "vpd_pg83", page_83(naa, group))
        if access_state:
            self.write(device / "access_state", access_state)
            self.write(device / "preferred_path", "0")
        self._block(device / "block", dev, 8, size, device)

    def nvme(
        self,
        dev: str = "nvme0n1",
        *,
        transport: str = "tcp",
        model: str = "Linux",
        serial: str = "a1b2c3d4",
        firmware: str = "6.1.0",
        cntlid: int = 1,
        nsid: int = 1,
        wwid: str = "uuid.6b1f0000-0000-4000-8000-000000000001",
        ana_state: str = "",
        size: int = 131072,
    ) -> None:
        """An NVMe namespace with its controller."""
        name = dev[: dev.rindex("n")].split("c")[0]
        controller = self.root / "devices/virtual/nvme-fabrics/ctl" / name
        self._subsystem(controller, "nvme")
        for key, value in (
            ("state", "live"),
            ("transport", transport),
            ("model", model.ljust(40)),
            ("serial", serial.ljust(20)),
            ("firmware_rev", firmware.ljust(8)),
            ("cntlid", str(cntlid)),
            ("subsysnqn", "nqn.2014-08.org.example:subsystem"),
        ):
            self.write(controller / key, value)
        directory = self._block(controller, dev, 259, size, controller)
        self.write(directory / "nsid", str(nsid))
        self.write(directory / "wwid", wwid)
        if ana_state:
            self.write(directory / "ana_state", ana_state)

    def dasd(self, dev: str = "dasda", *, bus_id: str = "0.0.2a1a", devtype: str = "3390/0c") -> None:
        """A DASD."""
        device = self.root / "devices/css0/0.0.0010" / bus_id
        self._subsystem(device, "ccw")
        self.write(device / "devtype", devtype)
        self.write(device / "uid", "IBM.75000000092461.2a00.1a.0000000000002e1f0000000000000000")
        self._block(device / "block", dev, 94, 131072, device)
