"""The WWID of a path: from udev's property, from VPD pages, from sysfs (spec path 11.2, 11.3).

Pages come from devices and may hold anything. What is chosen is what the original chooses, else the same disk
would get another name.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final

MAX_WWID: Final = 127
"""Characters of a WWID."""
MAX_VPD: Final = 4 + 0xFFFF
"""Bytes of a VPD page."""
VPD_SERIAL: Final = 0x80
VPD_IDENTIFICATION: Final = 0x83

DEFAULT_UID_ATTRIBUTES: Final = {"scsi": "ID_SERIAL", "nvme": "ID_WWN", "ccw": "ID_UID"}
"""The property for each bus, where the fallback is allowed."""

_NAA: Final = {6: (8, 16), 5: (7, 8), 2: (6, 8), 3: (1, 8)}
"""NAA format to priority and length in bytes."""
_NAMES: Final = {b"eui.": "2", b"naa.": "3", b"iqn.": "8"}
_UNUSED_TYPES: Final = frozenset((0, 6, 7))
"""Vendor specific, logical unit group, MD5: valid, but never chosen."""
_UUID_TYPE: Final = 0xA


class WwidError(ValueError):
    """No WWID. `code`: ENODATA, or EOVERFLOW if a descriptor reaches beyond the page and nothing was found, or
    EINVAL if all designators were invalid.
    """

    def __init__(self, code: int, remarks: tuple[str, ...] = ()) -> None:
        super().__init__(errno.errorcode[code])
        self.code = code
        self.remarks = remarks


@dataclass(frozen=True, slots=True)
class Chosen:
    """A WWID, and log lines (level 2) about descriptors that were skipped."""

    wwid: str
    remarks: tuple[str, ...] = ()


def wwid_of_page_83(page: bytes) -> Chosen:
    """The WWID of a device identification page, header included. WwidError."""
    if len(page) < 4 or page[1] != VPD_IDENTIFICATION:
        raise WwidError(errno.ENODATA)
    end = min(4 + int.from_bytes(page[2:4], "big"), len(page))
    remarks: list[str] = []
    best: tuple[int, bytes] = (0, b"")
    failure = errno.ENODATA
    at = 4
    while at + 4 <= end:
        length = page[at + 3]
        if at + 4 + length > end:
            remarks.append(f"parse_vpd_pg83: device descriptor length overflow: {at + 4 + length} > {end}")
            failure = errno.EOVERFLOW
            break
        descriptor = page[at : at + 4 + length]
        priority = _priority(descriptor)
        if priority is None:
            remarks.append(f"parse_vpd_pg83: invalid device designator at offset {at}: {descriptor[:4].hex()}")
            failure = errno.EINVAL
        elif descriptor[1] & 0xF == _UUID_TYPE and not descriptor[1] & 0x30:
            remarks.append("parse_vpd_pg83: UUID identifiers not yet supported")
        elif priority > best[0]:
            best = (priority, descriptor)
        at += 4 + length
    if not best[0]:
        raise WwidError(failure, tuple(remarks))
    return Chosen(_text(best[1], remarks), tuple(remarks))


def _priority(descriptor: bytes) -> int | None:
    """How good a designator is; 0: not used; None: invalid."""
    association, kind, data = descriptor[1] >> 4 & 3, descriptor[1] & 0xF, descriptor[4:]
    if association == 3:
        return None
    if association != 0 or kind in _UNUSED_TYPES or kind == _UUID_TYPE:
        return 0
    if kind == 3:
        priority, length = _NAA.get(data[0] >> 4 if data else 0, (0, -1))
        return priority if len(data) == length else None
    if kind == 2:
        return 4 if len(data) in (8, 12, 16) else None
    if kind == 8:
        return 3 if data[:4] in _NAMES else None
    if kind == 1:
        return 2 if len(data) >= 8 else None
    return None


def _text(descriptor: bytes, remarks: list[str]) -> str:
    kind, data = descriptor[1] & 0xF, descriptor[4:]
    if kind in (2, 3):
        return f"{kind}{data.hex()}"
    if len(data) > MAX_WWID + 1:
        remarks.append(f"parse_vpd_pg83: suspicious designator length {len(data)} truncated to {MAX_WWID + 1}")
        data = data[: MAX_WWID + 1]
    text = _name_text(data) if kind == 8 else _vendor_text(data)
    if len(text) > MAX_WWID:
        remarks.append(f"parse_vpd_pg83: WWID overflow, type {kind}, {len(text)}/{MAX_WWID + 1} bytes required")
    # The hexadecimal kinds have whole bytes behind the digit: 127 is an odd length.
    return text[:MAX_WWID]


def _name_text(data: bytes) -> str:
    prefix, rest = _NAMES[data[:4]], data[4:].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    return prefix + (rest if prefix == "8" else rest.lower())


def _vendor_text(data: bytes) -> str:
    words = data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape").rstrip(" ")
    leading = "_" if words.startswith(" ") else ""
    return f"1{leading}{'_'.join(part for part in words.split(' ') if part)}"


def serial_of_page_80(page: bytes) -> str:
    """The unit serial number, without blanks around it. WwidError for another page."""
    if len(page) < 4 or page[1] != VPD_SERIAL:
        raise WwidError(errno.ENODATA)
    data = page[4 : 4 + int.from_bytes(page[2:4], "big")].split(b"\0", 1)[0]
    return data.decode("utf-8", "surrogateescape").strip(" ")


def wwid_of_property(value: str) -> str:
    """The WWID of a udev property: trailing blanks cut, at most 127 characters. Empty if it has none."""
    text = value.rstrip(" \t\n")
    if len(text) > MAX_WWID and text.startswith("nvme."):
        text = _shorter_nvme(text)
    return text[:MAX_WWID]


def _shorter_nvme(text: str) -> str:
    """`nvme.VENDOR-SERIAL-MODEL-NSID` without the padding of serial and model, as far as needed."""
    parts = text.split("-")
    if len(parts) != 4:
        return text
    for at in (1, 2):
        while len("-".join(parts)) > MAX_WWID and len(parts[at]) > 2 and parts[at].endswith("00"):
            parts[at] = parts[at][:-2]
    return "-".join(parts)


def wwid_of_dasd(uid: str) -> str:
    """The WWID of a DASD's sysfs attribute `uid`: up to the fourth dot."""
    return ".".join(uid.strip().split(".")[:4])[:MAX_WWID]


def fallback_allowed(attribute: str, bus: str) -> bool:
    """Whether a WWID may come from the device when udev's property is empty: only where nobody chose another
    property.
    """
    return attribute == "" or attribute == DEFAULT_UID_ATTRIBUTES.get(bus)


def attribute_of_uid_attrs(uid_attrs: str, devname: str) -> str | None:
    """The property that `uid_attrs` names for a device: the first record whose prefix fits. None for none."""
    for record in uid_attrs.split():
        prefix, colon, attribute = record.partition(":")
        if colon and prefix and devname.startswith(prefix):
            return attribute
    return None
