"""A SCSI disk in sysfs: its device, what it says of itself, the transport that leads to it (spec path 11.1)."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from typing import Final

from holdfast.path.discovery.info import PathInfo
from holdfast.path.discovery.sysfs import (
    Tree,
    pci_slot,
    read_binary,
    read_number,
    subsystem_of,
    text_or_empty,
)
from holdfast.path.priorities.alua import STANDARD_BYTES, group_of, tpgs_of
from holdfast.path.wwid import MAX_VPD, WwidError, serial_of_page_80, wwid_of_page_83

ALTERNATING: Final = frozenset({"scsi:fcp", "scsi:sas", "scsi:iscsi", "scsi:srp"})
"""Protocols whose paths round-robin groups alternate (13.2). Only for these the original tells the adapter."""
_HCIL: Final = re.compile(r"([0-9]{1,10}):([0-9]{1,10}):([0-9]{1,10}):([0-9]{1,20})", re.ASCII)
_HOST: Final = re.compile(r"host[0-9]+", re.ASCII)
_RPORT: Final = re.compile(r"rport-[0-9]+:[0-9]+-[0-9]+", re.ASCII)
_SESSION: Final = re.compile(r"session[0-9]+", re.ASCII)
_END_DEVICE: Final = re.compile(r"end_device-[0-9:]+", re.ASCII)
_SRP_PORT: Final = re.compile(r"port-[0-9]+:[0-9]+", re.ASCII)
_ATA: Final = re.compile(r"ata[0-9]+", re.ASCII)
_NO_HANDLER: Final = ("", "detached")


@dataclass(frozen=True, slots=True)
class Transport:
    """What leads to a SCSI target."""

    protocol: str = "scsi:unspec"
    remote_port: str = ""
    target_wwnn: str = ""
    target_wwpn: str = ""
    is_usb: bool = False


def complete(info: PathInfo, tree: Tree) -> PathInfo:
    """`info` with all that the SCSI device has. Without one (it is going away) hardly anything is added."""
    device, numbers = _device(info.sysfs_path, tree)
    if device is None or numbers is None:
        return dataclasses.replace(info, protocol="scsi:unspec")
    host = next((name for one in tree.ancestors(device) if _HOST.fullmatch(name := os.path.basename(one))), "")
    fc_host = tree.in_class("fc_host", host) if host else None
    transport = find_transport(device, tree)
    page_83 = read_binary(device, "vpd_pg83", MAX_VPD)
    handler = text_or_empty(device, "dh_state")
    return dataclasses.replace(
        info,
        protocol=transport.protocol,
        hcil=numbers,
        vendor=text_or_empty(device, "vendor"),
        product=text_or_empty(device, "model"),
        revision=text_or_empty(device, "rev"),
        serial=serial_in(read_binary(device, "vpd_pg80", MAX_VPD)),
        device_wwid=wwid_in(page_83),
        host_wwnn=text_or_empty(fc_host, "node_name"),
        host_wwpn=text_or_empty(fc_host, "port_name"),
        target_wwnn=transport.target_wwnn,
        target_wwpn=transport.target_wwpn,
        host_adapter=pci_slot(device, tree) if transport.protocol in ALTERNATING else "",
        scsi_host=host,
        remote_port=transport.remote_port,
        kernel_timeout_s=read_number(device, "timeout"),
        tpgs=int(tpgs_of(read_binary(device, "inquiry", STANDARD_BYTES))),
        target_port_group=group_of(page_83),
        attached_handler="" if handler in _NO_HANDLER else handler,
        access_state=text_or_empty(device, "access_state"),
        is_usb=transport.is_usb,
        device_path=device,
    )


def _device(path: str, tree: Tree) -> tuple[str | None, tuple[int, int, int, int] | None]:
    for directory in tree.ancestors(path):
        match = _HCIL.fullmatch(os.path.basename(directory))
        if match is not None and subsystem_of(directory) == "scsi":
            host, channel, target, lun = (int(part) for part in match.groups())
            return directory, (host, channel, target, lun)
    return None, None


def serial_in(page_80: bytes) -> str:
    """The unit serial number; empty: none."""
    try:
        return serial_of_page_80(page_80)
    except WwidError:
        return ""


def wwid_in(page_83: bytes) -> str:
    """The WWID; empty: none."""
    try:
        return wwid_of_page_83(page_83).wwid
    except WwidError:
        return ""


def find_transport(device: str, tree: Tree) -> Transport:
    """The first of FC, SAS, iSCSI, SRP, ATA, USB that is there: a SATA disk behind a SAS adapter is SAS."""
    above = list(tree.ancestors(device))
    for look in (_fc, _sas, _iscsi, _srp, _ata, _usb):
        found = look(above, tree)
        if found is not None:
            return found
    return Transport()


def _named(above: list[str], pattern: re.Pattern[str]) -> str | None:
    return next((name for one in above if pattern.fullmatch(name := os.path.basename(one))), None)


def _fc(above: list[str], tree: Tree) -> Transport | None:
    name = _named(above, _RPORT)
    rport = tree.in_class("fc_remote_ports", name) if name else None
    if name is None or rport is None:
        return None
    return Transport("scsi:fcp", name, text_or_empty(rport, "node_name"), text_or_empty(rport, "port_name"))


def _sas(above: list[str], tree: Tree) -> Transport | None:
    name = _named(above, _END_DEVICE)
    if name is None:
        return None
    return Transport("scsi:sas", name, text_or_empty(tree.in_class("sas_device", name), "sas_address"))


def _iscsi(above: list[str], tree: Tree) -> Transport | None:
    name = _named(above, _SESSION)
    session = tree.in_class("iscsi_session", name) if name else None
    if name is None or session is None:
        return None
    return Transport("scsi:iscsi", name, text_or_empty(session, "targetname"))


def _srp(above: list[str], tree: Tree) -> Transport | None:
    name = _named(above, _SRP_PORT)
    port = tree.in_class("srp_remote_ports", name) if name else None
    if name is None or port is None:
        return None
    return Transport("scsi:srp", name, text_or_empty(port, "port_id"))


def _ata(above: list[str], tree: Tree) -> Transport | None:
    name = _named(above, _ATA)
    # As the original calls it: port, and the device at it.
    return Transport("scsi:ata", "", f"ata-{name.removeprefix('ata')}.00") if name else None


def _usb(above: list[str], tree: Tree) -> Transport | None:
    name = next((os.path.basename(one) for one in above if subsystem_of(one) == "usb"), None)
    return Transport("scsi:usb", "", name, is_usb=True) if name else None


def lists_page(info: PathInfo, page: int) -> bool:
    """Whether the device lists a page of vital product data, as far as the kernel has the list."""
    data = read_binary(info.device_path, "vpd_pg0", MAX_VPD) if info.device_path else b""
    if len(data) < 4:
        return False
    return page in data[4 : 4 + int.from_bytes(data[2:4], "big")]
