"""One block device out of sysfs: buses, transports, what is missing or broken (spec path 11.1, 2.1)."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from holdfast.path.discovery import sysfs as module
from holdfast.path.discovery.info import Bus, PathInfo
from holdfast.path.discovery.reading import read_disk
from holdfast.path.discovery.scsi import lists_page
from holdfast.path.discovery.sysfs import Tree, access_state, ana_state, bus_of, is_held_by_map, sysfs_state
from holdfast.path.states import PathState
from holdfast.testing.fake_sysfs import (
    Ata,
    FakeSysfs,
    FcPort,
    IscsiSession,
    SasEnd,
    SrpPort,
    Transport,
    Usb,
)


@pytest.fixture
def sysfs(tmp_path: Path) -> FakeSysfs:
    return FakeSysfs(tmp_path / "sys")


def read(sysfs: FakeSysfs, dev: str) -> PathInfo:
    info = read_disk(dev, sysfs.tree)
    assert info is not None
    return info


@pytest.mark.parametrize(
    ("dev", "bus"),
    [
        ("sda", Bus.SCSI),
        ("sdaaa", Bus.SCSI),
        ("nvme0n1", Bus.NVME),
        ("nvme2c1n1", Bus.NVME),
        ("dasda", Bus.CCW),
        ("cciss!c0d0", Bus.CCISS),
        ("sd", Bus.UNKNOWN),
        ("loop0", Bus.UNKNOWN),
        ("xsda", Bus.UNKNOWN),
    ],
)
def test_the_name_tells_the_bus(dev: str, bus: Bus) -> None:
    assert bus_of(dev) is bus


def test_a_disk_behind_fibre_channel(sysfs: FakeSysfs) -> None:
    sysfs.scsi(
        "sda",
        host=3,
        target=2,
        lun=5,
        transport=FcPort("rport-3:0-1"),
        tpgs=3,
        group=0x102,
        access_state="standby",
    )
    info = read(sysfs, "sda")
    assert (info.dev_t, info.size, info.bus, info.protocol) == ("8:0", 131072, Bus.SCSI, "scsi:fcp")
    assert info.hcil == (3, 0, 2, 5)
    assert (info.vendor, info.product, info.revision, info.serial) == ("HOLDFAST", "TESTDISK", "0001", "SER0001")
    assert info.device_wwid == "35000c50015ea71aa"
    assert info.wwid == ""
    assert (info.host_wwnn, info.host_wwpn) == ("0x20000000c9000003", "0x10000000c9000003")
    assert (info.target_wwnn, info.target_wwpn) == ("0x500a098000000001", "0x500a098100000001")
    assert (info.host_adapter, info.scsi_host, info.remote_port) == ("0000:00:05.0", "host3", "rport-3:0-1")
    assert (info.kernel_timeout_s, info.tpgs, info.target_port_group) == (30, 3, 0x102)
    assert (info.attached_handler, info.access_state, info.max_sectors_kb) == ("", "standby", 1280)
    assert access_state(info) == ("standby", "0")
    assert not info.is_usb
    assert not info.read_only


@pytest.mark.parametrize(
    ("transport", "protocol", "node_name", "port"),
    [
        (SasEnd(), "scsi:sas", "0x5000c50015ea71ac", "end_device-0:0"),
        (IscsiSession(), "scsi:iscsi", "iqn.2003-01.org.example:target", "session1"),
        (SrpPort(), "scsi:srp", "0002c90300a0b0c0", "port-2:1"),
        (Ata(), "scsi:ata", "ata-1.00", ""),
        (Usb(), "scsi:usb", "1-1:1.0", ""),
        (None, "scsi:unspec", "", ""),
    ],
)
def test_other_transports(
    sysfs: FakeSysfs, transport: Transport, protocol: str, node_name: str, port: str
) -> None:
    sysfs.scsi("sdb", transport=transport)
    info = read(sysfs, "sdb")
    assert (info.protocol, info.target_wwnn, info.remote_port) == (protocol, node_name, port)
    assert info.is_usb == (protocol == "scsi:usb")
    assert info.host_wwnn == ""
    assert (info.host_adapter == "0000:00:05.0") == (protocol in ("scsi:sas", "scsi:iscsi", "scsi:srp"))


def test_a_handler_that_the_kernel_attached(sysfs: FakeSysfs) -> None:
    sysfs.scsi("sda", handler="alua")
    assert read(sysfs, "sda").attached_handler == "alua"
    sysfs.set("sda", "device/dh_state", "detached")
    assert read(sysfs, "sda").attached_handler == ""


def test_nvme(sysfs: FakeSysfs) -> None:
    sysfs.nvme("nvme3n2", transport="tcp", cntlid=7, nsid=2, model="FlashArray", ana_state="optimized")
    info = read(sysfs, "nvme3n2")
    assert (info.bus, info.protocol, info.hcil) == (Bus.NVME, "nvme:tcp", (3, 7, 2, 2))
    assert (info.vendor, info.product, info.revision) == ("NVME", "FlashArray", "6.1.0")
    assert (info.serial, info.device_wwid) == ("a1b2c3d4", "uuid.6b1f0000-0000-4000-8000-000000000001")
    assert ana_state(info) == "optimized"
    assert sysfs_state(info) is PathState.UP
    sysfs.set_state("nvme3n2", "dead")
    assert sysfs_state(info) is PathState.DOWN
    sysfs.set_state("nvme3n2", "deleting")
    assert sysfs_state(info) is PathState.PENDING


def test_an_unknown_nvme_transport_is_not_taken_over(sysfs: FakeSysfs) -> None:
    sysfs.nvme("nvme0n1", transport="carrier-pigeon")
    assert read(sysfs, "nvme0n1").protocol == "nvme:unspec"


@pytest.mark.parametrize(("devtype", "product"), [("3390/0c", "ECKD"), ("3370/00", "FBA"), ("9336/10", "FBA")])
def test_dasd(sysfs: FakeSysfs, devtype: str, product: str) -> None:
    sysfs.dasd("dasda", bus_id="0.0.2a1a", devtype=devtype)
    info = read(sysfs, "dasda")
    assert (info.bus, info.protocol, info.hcil) == (Bus.CCW, "ccw", (0, 0, 0x2A1A, 0))
    assert (info.vendor, info.product) == ("IBM", f"S/390 DASD {product}")
    assert info.device_wwid == "IBM.75000000092461.2a00.1a"
    assert sysfs_state(info) is PathState.UP


@pytest.mark.parametrize(
    ("value", "state"),
    [
        ("running", PathState.UP),
        ("offline", PathState.DOWN),
        ("blocked", PathState.PENDING),
        ("quiesce", PathState.PENDING),
        ("transport-offline", PathState.DOWN),
        ("cancel", PathState.DOWN),
        ("", PathState.DOWN),
    ],
)
def test_scsi_state(sysfs: FakeSysfs, value: str, state: PathState) -> None:
    sysfs.scsi("sda")
    info = read(sysfs, "sda")
    sysfs.set_state("sda", value)
    assert sysfs_state(info) is state


def test_the_state_of_what_is_gone(sysfs: FakeSysfs, monkeypatch: pytest.MonkeyPatch) -> None:
    sysfs.scsi("sda")
    info = read(sysfs, "sda")
    (sysfs.device("sda") / "state").unlink()
    assert sysfs_state(info) is PathState.DOWN  # Unreadable, but the device is there.

    def fails(code: int) -> None:
        def refuse(directory: str, name: str, limit: int = 0) -> bytes:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(module, "read_bytes", refuse)

    fails(errno.ENXIO)
    assert sysfs_state(info) is PathState.REMOVED
    fails(errno.EIO)
    assert sysfs_state(info) is PathState.DOWN
    fails(errno.EMFILE)  # Our own trouble fails no path.
    assert sysfs_state(info) is PathState.UP
    monkeypatch.undo()
    sysfs.remove("sda")
    assert sysfs_state(info) is PathState.REMOVED
    assert access_state(info) == (None, None)
    assert read_disk("sda", sysfs.tree) is None


def test_a_disk_without_its_scsi_device(sysfs: FakeSysfs) -> None:
    sysfs.plain("sdx")
    info = read(sysfs, "sdx")
    assert (info.protocol, info.hcil, info.device_path) == ("scsi:unspec", None, "")
    assert sysfs_state(info) is PathState.REMOVED


def test_disks_come_in_the_order_of_their_places(sysfs: FakeSysfs) -> None:
    sysfs.plain("loop0")
    sysfs.scsi("sdb", host=0)
    sysfs.scsi("sda", host=1)
    assert sysfs.tree.disks() == ["sdb", "sda", "loop0"]


def test_holders(sysfs: FakeSysfs) -> None:
    sysfs.scsi("sda")
    sysfs.hold("sda", "dm-0", "mpath-35000c50015ea71aa")
    sysfs.scsi("sdb", lun=1)
    sysfs.hold("sdb", "dm-1", "LVM-abc")
    sda, sdb = read(sysfs, "sda"), read(sysfs, "sdb")
    assert (sda.holders, sdb.holders) == (("dm-0",), ("dm-1",))
    assert is_held_by_map(sda, sysfs.tree)
    assert not is_held_by_map(sdb, sysfs.tree)


HOSTILE = [
    ("dev", "nonsense"),
    ("size", "-5"),
    ("size", "9" * 5000),
    ("ro", "maybe"),
    ("queue/max_sectors_kb", ""),
    ("device/timeout", "soon"),
    ("device/vendor", b"\xff\xfe\x00\n\x1b[31m"),
    ("device/inquiry", b"\x00"),
    ("device/vpd_pg80", b"\x00\x80\xff\xff"),
    ("device/vpd_pg83", b"\x00\x83\x00\xff\x01\x03\x00\xff"),
    ("device/vpd_pg83", os.urandom(70_000)),
    ("device/vpd_pg0", b""),
]


@pytest.mark.parametrize(("name", "value"), HOSTILE)
def test_what_does_not_parse_counts_as_not_there(sysfs: FakeSysfs, name: str, value: str | bytes) -> None:
    sysfs.scsi("sda", transport=FcPort())
    sysfs.set("sda", name, value)
    info = read_disk("sda", sysfs.tree)
    if name == "dev":
        assert info is None
        return
    assert info is not None
    assert info.vendor.isprintable()
    assert info.size >= 0


@pytest.mark.parametrize("name", ["", ".", "..", "../sda", "a/b", "none"])
def test_names_that_are_no_disks(sysfs: FakeSysfs, name: str) -> None:
    sysfs.scsi("sda")
    assert read_disk(name, sysfs.tree) is None


def test_any_attribute_may_be_missing(sysfs: FakeSysfs) -> None:
    for missing in ("state", "timeout", "vendor", "model", "inquiry", "vpd_pg83", "vpd_pg80", "dh_state", "block"):
        sysfs.scsi("sda", transport=IscsiSession())
        victim = sysfs.device("sda") / missing
        shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
        info = read_disk("sda", sysfs.tree)
        assert (info is None) == (missing == "block")
        (sysfs.root / "block/sda").unlink()
        shutil.rmtree(sysfs.root / "devices/pci0000:00")


def test_pages_that_the_device_lists(sysfs: FakeSysfs) -> None:
    sysfs.scsi("sda")
    info = read(sysfs, "sda")
    assert lists_page(info, 0x83)
    assert not lists_page(info, 0xC9)
    sysfs.set("sda", "device/vpd_pg0", b"\x00\x00\x00\x02\x00\xc9")
    assert lists_page(info, 0xC9)


def test_this_machine() -> None:
    tree = Tree()
    for dev in tree.disks():
        info = read_disk(dev, tree)
        assert info is None or info.dev == dev
        if info is not None:
            assert isinstance(sysfs_state(info), PathState)


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    assert Tree(str(tmp_path / "nothing")).disks() == []
