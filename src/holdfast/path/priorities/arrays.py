"""Prioritizers of particular arrays, by vendor pages and commands (spec path 13.1).

Pure exchanges of SCSI commands; the result is negative for an error. What an answer lacks counts as zeros.
"""

from __future__ import annotations

from typing import Final

from holdfast.path.checkers.arrays import EMC_BYTES, EMC_PAGE, RDAC_BYTES, RDAC_PAGE
from holdfast.path.sg import Exchange, Key, Sense, inquiry, tur_command

FAILED: Final = -1
MAX_RETRIES: Final = 3
STANDBY: Final = Sense(Key.NOT_READY, 0x04, 0x02)
POWER_ON: Final = 0x29
_HDS_BYTES: Final = 255
_DATACORE_BYTES: Final = 254


def emc_priority(timeout_ms: int) -> Exchange[int]:
    """0 unbound, 1 bound, 2 owned; 2 more if this SP is the default owner."""
    answer = yield inquiry(EMC_PAGE, EMC_BYTES, timeout_ms)
    page = answer.data[:EMC_BYTES].ljust(EMC_BYTES, b"\0")
    is_sane = page[1] == EMC_PAGE and page[9] == 0
    is_configured = page[27] == 3 and page[28] & 7 in (4, 6) and page[30] & 0x04
    if not answer.is_clean or not is_sane or not is_configured or page[48] or page[4] > 2:
        return FAILED
    return page[4] + (2 if page[5] == page[8] else 0)


def rdac_priority(timeout_ms: int) -> Exchange[int]:
    """Owner 2; preferred 4, secondary 1; I/O shipping 8."""
    answer = yield inquiry(RDAC_PAGE, RDAC_BYTES, timeout_ms)
    if not answer.is_clean:
        return FAILED
    page = answer.data[:RDAC_BYTES].ljust(RDAC_BYTES, b"\0")
    value = 2 if page[8] & 0x01 else 0
    value += {1: 4, 2: 1}.get(page[9] & 0x0F, 0)
    return value + (8 if page[8] & 0x20 else 0)


def hp_sw_priority(timeout_ms: int) -> Exchange[int]:
    """Ready 4, standby 2, else 0."""
    for _ in range(1 + MAX_RETRIES):
        answer = yield tur_command(timeout_ms)
        sense = answer.decoded_sense
        if answer.errno:
            return 0
        if answer.is_clean or sense.key == Key.RECOVERED:
            return 4
        if sense == STANDBY:
            return 2
        if (sense.key, sense.asc) != (Key.UNIT_ATTENTION, POWER_ON):
            return 0
    return 0


def hds_priority(timeout_ms: int) -> Exchange[int]:
    """1 if the controller's digit and the LDEV's last hexadecimal digit are both even or both odd."""
    answer = yield inquiry(None, _HDS_BYTES, timeout_ms)
    if not answer.is_clean or len(answer.data) < 50:
        return FAILED
    try:
        controller, ldev = int(answer.data[49:50], 16), int(answer.data[47:48], 16)
    except ValueError:
        return FAILED
    return 1 if controller % 2 == ldev % 2 else 0


def datacore_priority(timeout_ms: int, args: str) -> Exchange[int]:
    """1 if the server named in `preferredsds=` answers."""
    wanted = _argument(args, "preferredsds")
    if not wanted:
        return FAILED
    answer = yield inquiry(None, _DATACORE_BYTES, timeout_ms)
    if not answer.is_clean:
        return FAILED
    return 1 if wanted.encode() in answer.data[112:] else 0


def _argument(args: str, name: str) -> str:
    for word in args.split():
        key, equals, value = word.partition("=")
        if equals and key == name:
            return value
    return ""


def iet_priority(args: str, address: str) -> int:
    """20 if the path leads to `preferredip=`, else 10."""
    wanted = _argument(args, "preferredip")
    if not wanted:
        return FAILED
    return 20 if address == wanted else 10
