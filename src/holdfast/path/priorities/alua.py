"""ALUA: what a path's target port group can do, out of INQUIRY and REPORT TARGET PORT GROUPS (spec path 13.1).

Pure. Answers are hostile: lengths are checked, what is cut off counts as not there.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from holdfast.path.sg import Exchange, Key, SgAnswer, SgCommand, inquiry

STANDARD_BYTES: Final = 96
DEVICE_ID_BYTES: Final = 254
MAX_VPD_BYTES: Final = 65535
FIRST_RTPG_BYTES: Final = 4096
MAX_RTPG_BYTES: Final = 256 * 1024
MAX_RETRIES: Final = 3
PREFERRED_BONUS: Final = 80

NOT_SUPPORTED: Final = -1
NO_GROUP: Final = -2
RTPG_FAILED: Final = -3
NO_TPGS: Final = -4
NO_DESCRIPTOR: Final = -5


class Tpgs(enum.IntFlag):
    """How the array changes the state of its port groups: by itself, on command."""

    NONE = 0
    IMPLICIT = 1
    EXPLICIT = 2


class Access(enum.IntEnum):
    """Asymmetric access state."""

    OPTIMIZED = 0
    NON_OPTIMIZED = 1
    STANDBY = 2
    UNAVAILABLE = 3
    LBA_DEPENDENT = 4
    OFFLINE = 0xE
    TRANSITIONING = 0xF


VALUES: Final[Mapping[int, int]] = {
    Access.OPTIMIZED: 50,
    Access.NON_OPTIMIZED: 10,
    Access.LBA_DEPENDENT: 5,
    Access.STANDBY: 1,
}
"""Other states are worth nothing."""


@dataclass(frozen=True, slots=True)
class PortGroup:
    """One descriptor of REPORT TARGET PORT GROUPS. `access` may be a number that no standard knows."""

    group: int
    access: int
    preferred: bool
    supported: int
    status: int
    ports: tuple[int, ...]


def tpgs_of(standard_inquiry: bytes) -> Tpgs:
    """Bits 5..4 of byte 5."""
    return Tpgs(standard_inquiry[5] >> 4 & 3) if len(standard_inquiry) > 5 else Tpgs.NONE


def group_of(device_id_page: bytes) -> int | None:
    """The target port group in VPD page 0x83: designator type 5 of association 1."""
    if len(device_id_page) < 4 or device_id_page[1] != 0x83:
        return None
    end = min(4 + int.from_bytes(device_id_page[2:4], "big"), len(device_id_page))
    at = 4
    while at + 4 <= end:
        kind, length = device_id_page[at + 1], device_id_page[at + 3]
        if at + 4 + length > end:
            return None
        if kind & 0x0F == 5 and kind >> 4 & 3 == 1 and length >= 4:
            return int.from_bytes(device_id_page[at + 6 : at + 8], "big")
        at += 4 + length
    return None


def parse_rtpg(data: bytes) -> list[PortGroup]:
    """Descriptors that are complete. The length that the device gives is not believed beyond the data."""
    if len(data) < 4:
        return []
    end = min(4 + int.from_bytes(data[:4], "big"), len(data))
    groups = []
    at = 4
    while at + 8 <= end:
        first, supported, group, _, status, _, count = struct.unpack_from(">BBHBBBB", data, at)
        at += 8
        if at + 4 * count > end:
            break
        ports = tuple(struct.unpack_from(">2xH", data, at + 4 * number)[0] for number in range(count))
        groups.append(PortGroup(group, first & 0x0F, bool(first & 0x80), supported, status, ports))
        at += 4 * count
    return groups


def encode_rtpg(groups: list[PortGroup]) -> bytes:
    """What a device answers: for tests and fakes."""
    body = b""
    for group in groups:
        first = group.access | (0x80 if group.preferred else 0)
        body += struct.pack(">BBHBBBB", first, group.supported, group.group, 0, group.status, 0, len(group.ports))
        body += b"".join(struct.pack(">HH", 0, port) for port in group.ports)
    return struct.pack(">I", len(body)) + body


def rtpg_command(length: int, timeout_ms: int) -> SgCommand:
    """REPORT TARGET PORT GROUPS."""
    return SgCommand(struct.pack(">BB4xI2x", 0xA3, 0x0A, length), timeout_ms, length)


def value_of(access: int, preferred: bool, exclusive_pref_bit: bool = False) -> int:
    """The bonus for the preferred bit is not given to active/optimized, unless `exclusive_pref_bit`."""
    value = VALUES.get(access, 0)
    if preferred and (access != Access.OPTIMIZED or exclusive_pref_bit):
        value += PREFERRED_BONUS
    return value


def _ask(command: SgCommand) -> Exchange[SgAnswer]:
    """Repeated for UNIT ATTENTION and NOT READY; a recovered error is good."""
    answer = SgAnswer()
    for _ in range(1 + MAX_RETRIES):
        answer = yield command
        if answer.errno or answer.decoded_sense.key not in (Key.UNIT_ATTENTION, Key.NOT_READY):
            break
    return answer


def _is_good(answer: SgAnswer) -> bool:
    return answer.is_clean or (not answer.errno and answer.decoded_sense.key == Key.RECOVERED)


def find_tpgs(timeout_ms: int) -> Exchange[Tpgs | None]:
    """None: INQUIRY failed."""
    answer = yield from _ask(inquiry(None, STANDARD_BYTES, timeout_ms))
    return tpgs_of(answer.data) if _is_good(answer) else None


def find_group(timeout_ms: int) -> Exchange[int | None]:
    """The path's target port group; None: it has none, or INQUIRY failed."""
    answer = yield from _ask(inquiry(0x83, DEVICE_ID_BYTES, timeout_ms))
    if not _is_good(answer):
        return None
    length = 4 + int.from_bytes(answer.data[2:4], "big")
    if DEVICE_ID_BYTES < length <= MAX_VPD_BYTES:
        answer = yield from _ask(inquiry(0x83, length, timeout_ms))
        if not _is_good(answer):
            return None
    return group_of(answer.data)


def find_groups(timeout_ms: int) -> Exchange[list[PortGroup] | None]:
    """All groups of the logical unit; None: the command failed."""
    answer = yield from _ask(rtpg_command(FIRST_RTPG_BYTES, timeout_ms))
    if not _is_good(answer):
        return None
    length = 4 + int.from_bytes(answer.data[:4], "big")
    if FIRST_RTPG_BYTES < length <= MAX_RTPG_BYTES:
        answer = yield from _ask(rtpg_command(length, timeout_ms))
        if not _is_good(answer):
            return None
    return parse_rtpg(answer.data)


def alua_priority(timeout_ms: int, args: str = "") -> Exchange[int]:
    """The path's priority, or one of the negative errors."""
    tpgs = yield from find_tpgs(timeout_ms)
    if tpgs is None:
        return NOT_SUPPORTED
    if tpgs is Tpgs.NONE:
        return NO_TPGS
    group = yield from find_group(timeout_ms)
    if group is None:
        return NO_GROUP
    groups = yield from find_groups(timeout_ms)
    if groups is None:
        return RTPG_FAILED
    for found in groups:
        if found.group == group:
            return value_of(found.access, found.preferred, "exclusive_pref_bit" in args.split())
    return RTPG_FAILED
