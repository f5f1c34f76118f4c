"""Where things lie on the simulated disk: one lockspace area, then the resources, 512/1M."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from holdfast.lease.geometry import LFL_ALIGN_1M, MIB
from holdfast.lease.records import (
    DELTA_DISK_MAGIC,
    DELTA_VERSION,
    PAXOS_DISK_MAGIC,
    PAXOS_VERSION,
    Leader,
    Request,
    whole_sector,
)

SECTOR = 512
MIB_OF = MIB
"""Size of one area."""
SPACE = "SPACE"


@dataclass(frozen=True)
class Place:
    """What a sector is: `delta`, `leader`, `request`, `block` or `other`."""

    kind: str
    resource: str = ""
    host_id: int = 0


def resource_name(number: int) -> str:
    return f"res{number}"


def offset_of(resource: str) -> int:
    """Where the resource's area begins."""
    return int(resource.removeprefix("res")) * MIB


@functools.cache
def place_of(offset: int) -> Place:
    area, sector = offset // MIB, offset % MIB // SECTOR
    if area == 0:
        return Place("delta", host_id=sector + 1)
    name = resource_name(area)
    if sector == 0:
        return Place("leader", name)
    if sector == 1:
        return Place("request", name)
    return Place("block", name, sector - 1)


def _record(**fields: object) -> bytes:
    values = dict.fromkeys(Leader._fields, 0) | {"space_name": SPACE, "resource_name": ""} | fields
    return whole_sector(Leader(**values).encode(), SECTOR)  # type: ignore[arg-type]


@functools.cache
def fresh_image(resources: int, num_hosts: int, io_timeout: int) -> bytes:
    """A formatted lockspace and `resources` resources with room for `num_hosts` hosts each (spec 6.1, 8.2)."""
    delta = _record(
        magic=DELTA_DISK_MAGIC,
        version=DELTA_VERSION,
        flags=LFL_ALIGN_1M,
        sector_size=SECTOR,
        max_hosts=1,
        io_timeout=io_timeout,
    )
    image = bytearray((1 + resources) * MIB)
    image[: 2000 * SECTOR] = delta * 2000
    for number in range(1, resources + 1):
        leader = _record(
            magic=PAXOS_DISK_MAGIC,
            version=PAXOS_VERSION,
            flags=LFL_ALIGN_1M,
            sector_size=SECTOR,
            num_hosts=num_hosts,
            max_hosts=2000,
            resource_name=resource_name(number),
        )
        at = number * MIB
        image[at : at + SECTOR] = leader
        image[at + SECTOR : at + 2 * SECTOR] = whole_sector(Request().encode(), SECTOR)
    return bytes(image)
