"""`holdfast lease inquire`: which leases a registered process holds."""

from __future__ import annotations

import argparse
import asyncio

from holdfast.cli.output import Parser, add_json, add_pid, add_run_dir, print_json, print_table
from holdfast.client.daemon import Daemon
from holdfast.leased import wire

EPILOG = """\
The version of an exclusive lease is its fencing token. --state prints the text that libvirt hands over in a
migration (sanlock_state_to_args reads it).

exit codes: 0 shown (also: nothing held), 1 failed, the process is not registered among others, 2 wrong usage

examples:
  holdfast lease inquire --pid 4711
  holdfast lease inquire --pid 4711 --json | jq '.leases[].lver'
"""


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease inquire", "Show the leases of a registered process.", EPILOG)
    add_pid(made)
    made.add_argument("--state", action="store_true", help="as one line in sanlock's format")
    add_json(made)
    add_run_dir(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when the daemon answered."""
    held = asyncio.run(Daemon(arguments.run_dir).inquire_for(arguments.pid))
    if arguments.json:
        print_json({"pid": arguments.pid, "leases": [as_json(lease) for lease in held]})
    elif arguments.state:
        print(wire.args_to_state(held))
    elif not held:
        print(f"process {arguments.pid} holds no leases")
    else:
        rows = [
            (
                lease.lockspace_name,
                lease.name,
                "shared" if lease.flags & wire.RES_SHARED else lease.lver,
                " ".join(f"{disk.path}:{disk.offset}" for disk in lease.disks),
            )
            for lease in held
        ]
        print_table(rows, ("lockspace", "resource", "lver", "place"))
    return 0


def as_json(lease: wire.Resource) -> dict[str, object]:
    """One lease; `lver` is null for a shared one."""
    shared = bool(lease.flags & wire.RES_SHARED)
    return {
        "lockspace": lease.lockspace_name,
        "resource": lease.name,
        "mode": "shared" if shared else "exclusive",
        "lver": None if shared else lease.lver,
        "disks": [{"path": disk.path, "offset": disk.offset} for disk in lease.disks],
    }
