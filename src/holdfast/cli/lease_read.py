"""`holdfast lease read`: a lockspace or resource on storage, through the daemon."""

from __future__ import annotations

import argparse
import asyncio

from holdfast.cli.output import Parser, add_json, add_run_dir, address, print_json, printable
from holdfast.client.addresses import LeaseAddress, SpaceAddress
from holdfast.client.daemon import Daemon
from holdfast.client.space import find_place
from holdfast.lease.geometry import from_api_flags

EPILOG = """\
exit codes: 0 shown, 1 failed, 2 wrong usage

examples:
  holdfast lease read --space web:0:/dev/vg/leases:0
  holdfast lease read --resource web:primary
"""


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease read", "Read a lockspace or a resource on storage through the lease daemon.", EPILOG)
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument("--space", metavar="SPACE:HOST_ID:PATH:OFFSET", type=address(SpaceAddress))
    what.add_argument("--resource", metavar="SPACE:RESOURCE[:PATH:OFFSET]", type=address(LeaseAddress))
    add_json(made)
    add_run_dir(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when it was read."""
    daemon = Daemon(arguments.run_dir)
    document = asyncio.run(
        _resource(daemon, arguments.resource) if arguments.resource else _space(daemon, arguments.space)
    )
    if arguments.json:
        print_json(document)
    else:
        for key, value in document.items():
            print(f"{key} {printable(str(value))}")
    return 0


def _sizes(flags: int) -> dict[str, object]:
    geometry = from_api_flags(flags)
    if geometry is None:
        return {}
    return {
        "sector_size": geometry.sector_size,
        "align_size": geometry.align_size,
        "max_hosts": geometry.max_hosts,
    }


async def _space(daemon: Daemon, space: SpaceAddress) -> dict[str, object]:
    found, io_timeout = await daemon.read_lockspace(space)
    return {
        "lockspace": found.name,
        "path": space.path,
        "offset": space.offset,
        "io_timeout": io_timeout,
        **_sizes(found.flags),
    }


async def _resource(daemon: Daemon, lease: LeaseAddress) -> dict[str, object]:
    place = await find_place(daemon, lease)
    found = await daemon.read_resource(place)
    disk = place.disks[0]
    return {
        "lockspace": found.lockspace_name,
        "resource": found.name,
        "path": disk.path,
        "offset": disk.offset,
        "lver": found.lver,
        **_sizes(found.flags),
    }
