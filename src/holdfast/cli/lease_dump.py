"""`holdfast lease dump`: what is on storage, read directly; in the format of `sanlock direct dump`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator

from holdfast.cli.output import Parser, add_json, bounded, print_json
from holdfast.client.addresses import parse_offset, split_escaped

EPILOG = """\
Shows lockspace records, leases and indexes whether they can be believed or not; nothing is written.

exit codes: 0 shown, 1 failed, 2 wrong usage

examples:
  holdfast lease dump /dev/vg/leases
  holdfast lease dump /srv/web.lease:3M:4M --detail 2
"""
TIMEOUT_S = 10.0


def _place(text: str) -> tuple[str, int, int]:
    parts = split_escaped(text)
    if not parts[0] or len(parts) > 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not PATH[:OFFSET[:SIZE]]")
    try:
        numbers = [parse_offset(part) for part in parts[1:]]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    numbers += [0] * (2 - len(numbers))
    return parts[0], numbers[0], numbers[1]


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease dump", "Show what is on storage, without a daemon.", EPILOG)
    made.add_argument("place", metavar="PATH[:OFFSET[:SIZE]]", type=_place, help="bytes, or MiB with suffix M")
    made.add_argument(
        "--detail", default=0, type=bounded(0, 2), metavar="N", help="1: requests and index entries, 2: ballots"
    )
    add_json(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when everything was shown."""
    path, offset, size = arguments.place
    return asyncio.run(_run(path, offset, size, arguments.detail, arguments.json))


async def _run(path: str, offset: int, size: int, detail: int, as_json: bool) -> int:
    from holdfast.lease.dump_text import Detail, dump_lines
    from holdfast.storage import close_disk, close_storage, open_disk

    disk = await open_disk(path, timeout_s=TIMEOUT_S)
    try:
        if as_json:
            from holdfast.lease.dump import dump

            print_json([as_document(area) async for area in _areas(dump(disk, offset, size, timeout_s=TIMEOUT_S))])
        else:
            async for line in dump_lines(disk, offset, size, detail=Detail(detail), timeout_s=TIMEOUT_S):
                sys.stdout.write(line + "\n")
    finally:
        close_disk(disk)
        close_storage()
    return 0


async def _areas(areas: AsyncIterator[object]) -> AsyncIterator[object]:
    async for area in areas:
        yield area


def as_document(area: object) -> dict[str, object]:
    """One area as JSON: the records field by field, under the names of the disk format."""
    from holdfast.lease.dump import DumpedIndex, DumpedLockspace, DumpedResource

    if isinstance(area, DumpedLockspace):
        hosts = [
            {"offset": host.offset, **host.record._asdict(), "notified": list(host.notified)}
            for host in area.hosts
        ]
        return {"type": "lockspace", "offset": area.offset, "hosts": hosts}
    if isinstance(area, DumpedResource):
        blocks = [
            {"host_id": block.host_id, "intact": block.intact, **block.block._asdict()} for block in area.blocks
        ]
        leader = {"leader": area.leader._asdict(), "request": area.request._asdict()}
        return {"type": "resource", "offset": area.offset, **leader, "blocks": blocks}
    assert isinstance(area, DumpedIndex)
    entries = [{"at": entry.offset, **entry.entry._asdict()} for entry in area.entries]
    return {"type": "index", "offset": area.offset, "header": area.header._asdict(), "entries": entries}
