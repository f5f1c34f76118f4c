"""What a device says of itself decides checker, prioritizer and hardware handler (spec path 3.1, 13.1).

Pure: exchanges of SCSI commands, and choices out of what is known. Autodetection beats the configuration, except
where that switches it off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from holdfast.path.checkers.arrays import RDAC_BYTES, RDAC_PAGE
from holdfast.path.checkers.base import DEFAULT_TIMEOUT_S
from holdfast.path.priorities.alua import Tpgs, find_group, find_tpgs
from holdfast.path.sg import Exchange, inquiry

_SUPPORTED_PAGES: Final = 0x00
_MAX_PAGES: Final = 255
_VOLUME_ACCESS: Final = b"vac1"


@dataclass(frozen=True, slots=True)
class Abilities:
    """Of a SCSI device."""

    tpgs: Tpgs = Tpgs.NONE
    target_port_group: int | None = None
    is_rdac: bool = False

    @property
    def has_alua(self) -> bool:
        """TPGS is set and the path's port group is known."""
        return self.tpgs is not Tpgs.NONE and self.target_port_group is not None

    @property
    def implicit_alua_only(self) -> bool:
        """Only the array itself changes access states."""
        return self.tpgs is Tpgs.IMPLICIT


def detect(timeout_ms: int, rdac_by_configuration: bool = False) -> Exchange[Abilities]:
    """Ask the device. What fails counts as missing."""
    tpgs = (yield from find_tpgs(timeout_ms)) or Tpgs.NONE
    group = (yield from find_group(timeout_ms)) if tpgs is not Tpgs.NONE else None
    return Abilities(tpgs, group, (yield from _is_rdac(timeout_ms, rdac_by_configuration)))


def _is_rdac(timeout_ms: int, by_configuration: bool) -> Exchange[bool]:
    if not by_configuration:
        pages = yield inquiry(_SUPPORTED_PAGES, _MAX_PAGES, timeout_ms)
        count = int.from_bytes(pages.data[2:4], "big")
        if not pages.is_clean or RDAC_PAGE not in pages.data[4 : 4 + count]:
            return False
    answer = yield inquiry(RDAC_PAGE, RDAC_BYTES, timeout_ms)
    return answer.is_clean and answer.data[4:8] == _VOLUME_ACCESS


def detected_checker(abilities: Abilities) -> str | None:
    """None: the configuration decides."""
    if abilities.is_rdac:
        return "rdac"
    return "tur" if abilities.has_alua else None


def detected_prioritizer(abilities: Abilities, has_access_state: bool) -> str | None:
    """`sysfs` where the kernel knows the access state; not for an rdac that changes states only by itself."""
    if abilities.tpgs is Tpgs.NONE:
        return None
    if has_access_state and not (abilities.is_rdac and abilities.implicit_alua_only):
        return "sysfs"
    return "alua" if abilities.has_alua else "const"


def hardware_handler(abilities: Abilities, configured: tuple[str, ...]) -> tuple[str, ...]:
    """Words of the table after the count: the configured one, else alua where the device has it."""
    if configured:
        return configured
    return ("alua",) if abilities.has_alua else ()


def checker_timeout(configured: int | None, sysfs_timeout: int | None) -> tuple[int, str]:
    """Seconds, and whose they are (for the log): checker_timeout, the device's own in sysfs, or 30."""
    if configured:
        return configured, "multipath.conf defaults/devices section"
    if sysfs_timeout:
        return sysfs_timeout, "kernel sysfs"
    return DEFAULT_TIMEOUT_S, "multipath internal"
