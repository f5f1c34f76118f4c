"""The text of `sanlock direct dump` and `sanlock direct read_leader` (spec lease-disk section 17).

Scripts read these lines: columns, widths and padding are the original's, counted in bytes. One difference: a
name comes from storage that others write, so what a terminal would act on is shown as an escape (\\x1b).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from enum import IntEnum

from holdfast.lease.dump import DumpedArea, DumpedIndex, DumpedLockspace, DumpedResource, dump, find_geometry
from holdfast.lease.geometry import MIB, Geometry
from holdfast.lease.inspect import Kind
from holdfast.lease.records import Leader
from holdfast.lease.timing import DEFAULT_IO_TIMEOUT_S
from holdfast.printable import printable
from holdfast.storage.disk import Disk

SIZES_NOT_FOUND = "Cannot find sector_size and align_size, set with -A and -Z."
"""What the original prints, and exits with 1, where `dump_lines` raises LEADER_MAGIC."""

_SPACE_WIDTH = 36
_NAME_WIDTH = 48
_SHARED_INDENT = " " * 106


class Detail(IntEnum):
    """What `-f` asks for; each level includes the one before."""

    PLAIN = 0
    REQUESTS = 1
    BLOCKS = 2


async def dump_lines(
    disk: Disk,
    offset: int = 0,
    size: int = 0,
    geometry: Geometry | None = None,
    detail: Detail = Detail.PLAIN,
    timeout_s: float = DEFAULT_IO_TIMEOUT_S,
) -> AsyncIterator[str]:
    """The complete output of `sanlock direct dump path:offset:size -f detail`, line by line.

    LeaseError as from `dump`; LEADER_MAGIC stands for SIZES_NOT_FOUND.
    """
    if offset % MIB:
        yield f"WARNING: dump offset should be a multiple of {MIB} bytes."
    sizes = geometry or await find_geometry(disk, offset, size, timeout_s)
    yield header(detail)
    async for area in dump(disk, offset, size, sizes, timeout_s):
        for line in lines(area, detail):
            yield line


def header(detail: Detail = Detail.PLAIN) -> str:
    """The first line of a dump."""
    columns = f"{'offset':>8} {'lockspace':>36} {'resource':>48} {'timestamp':>10} {'own':>4} {'gen':>4} lver"
    return columns + ("/req/mode" if detail else "")


def lines(area: DumpedArea, detail: Detail = Detail.PLAIN) -> Iterator[str]:
    """The lines of one area."""
    match area:
        case DumpedLockspace():
            yield from _lockspace_lines(area, detail)
        case DumpedResource():
            yield from _resource_lines(area, detail)
        case DumpedIndex():
            yield from _index_lines(area, detail)


def leader_lines(leader: Leader, kind: Kind) -> Iterator[str]:
    """One `field value` line per field of a record, as `read_leader` prints them."""
    for name, value in leader_fields(leader, kind):
        yield f"{name} {value}"


def leader_fields(leader: Leader, kind: Kind) -> list[tuple[str, str]]:
    """Names, order and formats of `read_leader`; the last three are called differently in lockspaces."""
    last = ("write_id", "write_generation", "write_timestamp")
    return [
        ("magic", f"{leader.magic:#x}"),
        ("version", f"{leader.version:#x}"),
        ("flags", f"{leader.flags:#x}"),
        ("sector_size", str(leader.sector_size)),
        ("num_hosts", str(leader.num_hosts)),
        ("max_hosts", str(leader.max_hosts)),
        ("owner_id", str(leader.owner_id)),
        ("owner_generation", str(leader.owner_generation)),
        ("lver", str(leader.lver)),
        ("space_name", printable(leader.space_name)),
        ("resource_name", printable(leader.resource_name)),
        ("timestamp", str(leader.timestamp)),
        ("checksum", f"{leader.checksum:#x}"),
        ("io_timeout", str(leader.io_timeout)),
        *zip(
            last if kind is Kind.RESOURCE else ("extra1", "extra2", "extra3"),
            map(str, (leader.write_id, leader.write_generation, leader.write_timestamp)),
            strict=True,
        ),
    ]


def _right(name: str, width: int) -> str:
    """Right-aligned to `width` bytes, as C's %*s does it."""
    text = printable(name)
    return " " * (width - len(text.encode())) + text


def _record_line(offset: int, record: Leader) -> str:
    return (
        f"{offset:08d} {_right(record.space_name, _SPACE_WIDTH)} {_right(record.resource_name, _NAME_WIDTH)} "
        f"{record.timestamp:010d} {record.owner_id:04d} {record.owner_generation:04d}"
    )


def _lockspace_lines(area: DumpedLockspace, detail: Detail) -> Iterator[str]:
    for host in area.hosts:
        line = _record_line(host.offset, host.record)
        if detail:
            line += "".join(f" {host_id}" for host_id in host.notified)
        yield line


def _resource_lines(area: DumpedResource, detail: Detail) -> Iterator[str]:
    line = f"{_record_line(area.offset, area.leader)} {area.leader.lver}"
    if detail:
        line += f"/{area.request.lver}/{area.request.force_mode}"
    yield line
    for host_id, block, stored, _ in area.blocks:
        if detail >= Detail.BLOCKS and (block.mbal or block.inp or block.lver):
            yield (
                f"dblock[{host_id - 1:04d}] mbal {block.mbal} bal {block.bal} inp {block.inp} inp2 {block.inp2} "
                f"inp3 {block.inp3} lver {block.lver} sum {stored:x}"
            )
        if block.shared:
            yield f"{_SHARED_INDENT}{host_id:04d} {block.mode_generation:04d} SH"


def _index_lines(area: DumpedIndex, detail: Detail) -> Iterator[str]:
    head = area.header
    space = _right(head.lockspace_name, _SPACE_WIDTH)
    yield (
        f"{area.offset:08d} {space} rindex_header {head.flags:#x} {head.sector_size} {head.max_resources} "
        f"{head.rx_offset}"
    )
    if detail:
        for offset, entry in area.entries:
            yield f"{offset:08d} {space} rentry {printable(entry.name)} {entry.res_offset}"
