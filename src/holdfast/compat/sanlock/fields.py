"""What the module's arguments become on the wire: names, places, sizes, versions (spec lease-wire 3.2, 3.3)."""

from __future__ import annotations

import errno
import os
from typing import Any, Final

from holdfast.compat.sanlock.blocking import Reply, exchange
from holdfast.compat.sanlock.c_arguments import UINT64_MASK, Disks, to_path, to_uint64
from holdfast.compat.sanlock.constants import ALIGN_SIZE, RES_LVER, SECTOR_SIZE
from holdfast.compat.sanlock.errors import SanlockException
from holdfast.compat.sanlock.strerror import UNKNOWN_ERROR
from holdfast.leased import wire

_ALIGN_FLAGS: Final = dict(zip(ALIGN_SIZE, (wire.ALIGN1M, wire.ALIGN2M, wire.ALIGN4M, wire.ALIGN8M), strict=True))
_SECTOR_FLAGS: Final = dict(zip(SECTOR_SIZE, (wire.SECTOR512, wire.SECTOR4K), strict=True))
_LAST_PATH_BYTE: Final = wire.PATH_SIZE - 1


def to_text(raw: bytes) -> str:
    """As the codec has strings: any bytes survive."""
    return raw.decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def cut_name(raw: bytes) -> str:
    """A name ends at a zero byte, and is cut to the 48 bytes of its field."""
    return to_text(raw.split(b"\0", 1)[0][: wire.NAME_SIZE])


def disk_at(path: Any, offset: int = 0) -> wire.Disk:
    return wire.Disk(to_text(os.fsencode(path)[:_LAST_PATH_BYTE]), offset)


def disks_of(disks: Disks) -> tuple[wire.Disk, ...]:
    """ValueError for anything that is no list of (path, offset)."""
    converted = []
    for disk in disks:
        try:
            if not isinstance(disk, tuple):
                raise TypeError("a disk is a tuple")
            path, offset = disk
            raw, position = to_path(path), to_uint64(offset, 2)
        except (TypeError, ValueError):
            raise ValueError(f"Invalid disk {disk!r}") from None
        if len(raw) >= wire.PATH_SIZE:
            raise ValueError(f"Path is too long: {raw!r}")
        converted.append(disk_at(raw, position))
    return tuple(converted)


def resource_at(lockspace: bytes, resource: bytes, disks: Disks, flags: int = 0, lver: int = 0) -> wire.Resource:
    return wire.resource(cut_name(lockspace), cut_name(resource), disks_of(disks), flags=flags, lver=lver)


def size_flags(align: int, sector: int) -> int:
    if align not in _ALIGN_FLAGS:
        raise ValueError(f"Invalid align value: {align}")
    if sector not in _SECTOR_FLAGS:
        raise ValueError(f"Invalid sector value: {sector}")
    return _ALIGN_FLAGS[align] | _SECTOR_FLAGS[sector]


def version_flags(version: Any, flags: int) -> tuple[int, int]:
    """Resource flags and lease version for the argument `version`."""
    if version is None:
        return flags, 0
    # 2**64 - 1 is the original's sign of a failed conversion.
    if not hasattr(version, "__index__") or (number := _index(version)) == UINT64_MASK:
        raise SanlockException(errno.EINVAL, "Unable to convert the version value", UNKNOWN_ERROR)
    return flags | RES_LVER, number


def _index(number: Any) -> int:
    try:
        return int(number.__index__()) & UINT64_MASK
    except Exception:
        return UINT64_MASK


def signed(number: int) -> int:
    """32 bits as the header's signed field has them."""
    return number - (1 << 32) if number > 0x7FFFFFFF else number


def hosts(body: bytes) -> list[dict[str, int]]:
    return [wire.decode_host(body, at)._asdict() for at in range(0, len(body), wire.HOST_SIZE)]


def lockspace_call(cmd: int, space: wire.Lockspace, flags: int = 0, data: int = 0, data2: int = 0) -> Reply:
    return exchange(wire.encode_request(cmd, space.encode(), flags=flags, data=data, data2=data2))
