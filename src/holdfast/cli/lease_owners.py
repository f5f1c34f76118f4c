"""`holdfast lease owners`: who has a lease on storage."""

from __future__ import annotations

import argparse
import asyncio

from holdfast.cli.output import Parser, add_json, add_lease, add_run_dir, print_json, print_table
from holdfast.client.addresses import LeaseAddress
from holdfast.client.daemon import Daemon
from holdfast.client.errors import ClientError
from holdfast.client.space import find_place

EPILOG = """\
A lease whose owner is dead still names that owner: holdfast lease who tells whether it is alive, and more.

exit codes: 0 shown, 1 failed, 2 wrong usage

examples:
  holdfast lease owners web:primary
  holdfast lease owners web:primary:/dev/vg/leases:3M --json
"""


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease owners", "Show who has a lease, as it is on storage.", EPILOG)
    add_lease(made)
    add_json(made)
    add_run_dir(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when the owners were read."""
    return asyncio.run(_run(Daemon(arguments.run_dir), arguments.lease, arguments.json))


async def _run(daemon: Daemon, lease: LeaseAddress, as_json: bool) -> int:
    place = await find_place(daemon, lease)
    resource, owners = await daemon.owners(place)
    names: dict[int, str] = {}
    states: dict[int, str] = {}
    try:
        names = {host.host_id: host.name for host in await daemon.host_details(lease.space)}
        states = {host.host_id: host.status for host in await daemon.hosts(lease.space)}
    except ClientError:
        # Not joined, or not watched for long enough: the owners are known all the same, only not by name.
        pass
    if as_json:
        print_json(
            {
                "lockspace": resource.lockspace_name,
                "resource": resource.name,
                "lver": resource.lver,
                "shared": any(owner.timestamp == 0 for owner in owners),
                "owners": [
                    {
                        "host_id": owner.host_id,
                        "generation": owner.generation,
                        "timestamp": owner.timestamp,
                        "name": names.get(owner.host_id, ""),
                        "state": states.get(owner.host_id, ""),
                    }
                    for owner in owners
                ],
            }
        )
        return 0
    if not owners:
        print(f"{lease} version {resource.lver}: free")
        return 0
    print(f"{lease} version {resource.lver}")
    rows = [
        (
            owner.host_id,
            owner.generation,
            "exclusive" if owner.timestamp else "shared",
            states.get(owner.host_id, "-"),
            names.get(owner.host_id, "-"),
        )
        for owner in owners
    ]
    print_table(rows, ("host", "generation", "mode", "state", "name"))
    return 0
