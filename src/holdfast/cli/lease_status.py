"""`holdfast lease status`: what a daemon holds."""

from __future__ import annotations

import argparse
import asyncio

from holdfast.cli.output import (
    Parser,
    add_json,
    add_run_dir,
    colour,
    pairs_json,
    print_json,
    print_table,
    printable,
)
from holdfast.client.daemon import Daemon
from holdfast.client.status import SpaceStatus, Status
from holdfast.lease import timing

EPILOG = """\
exit codes: 0 shown, 1 no daemon answers, 2 wrong usage

examples:
  holdfast lease status
  holdfast lease status --json | jq '.leases[].lver'
"""


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease status", "Show lockspaces, leases and processes of the lease daemon.", EPILOG)
    made.add_argument("--verbose", action="store_true", help="with every value that the daemon reports")
    add_json(made)
    add_run_dir(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when the daemon answered."""
    status = asyncio.run(Daemon(arguments.run_dir).status())
    if arguments.json:
        print_json(as_json(status))
    else:
        _print(status, arguments.verbose)
    return 0


def as_json(status: Status) -> dict[str, object]:
    """The whole status; keys of the daemon's own strings are passed on under `values`."""
    return {
        "host_name": status.host_name,
        "version": status.daemon.get("version_str", ""),
        "values": pairs_json(status.daemon),
        "processes": [
            {"pid": client.pid, "name": client.name, "values": pairs_json(client.pairs)}
            for client in status.clients
            if client.pid > 0
        ],
        "lockspaces": [
            {
                "name": space.name,
                "host_id": space.host_id,
                "path": space.path,
                "offset": space.offset,
                "state": space.state,
                "failing": space.failing,
                "values": pairs_json(space.pairs),
            }
            for space in status.spaces
        ],
        "leases": [
            {
                "lockspace": lease.space,
                "resource": lease.name,
                "pid": lease.pid,
                "lver": lease.lver,
                "shared": lease.shared,
                "state": lease.state,
                "disks": [{"path": disk.path, "offset": disk.offset} for disk in lease.disks],
                "values": pairs_json(lease.pairs),
            }
            for lease in status.leases
        ],
    }


def _health(space: SpaceStatus, status: Status) -> str:
    if space.state != "spaces":
        return {"add": "joining", "rem": "leaving"}.get(space.state, space.state)
    if space.failing:
        return colour(f"FAILING {space.failing}", "red")
    if space.last_success is None or status.monotime is None or not space.io_timeout:
        return "joined"
    age = status.monotime - space.last_success
    text = f"renewed {age} s ago"
    return colour(text, "yellow" if age >= timing.warn_after(space.io_timeout) else "green")


def _print(status: Status, verbose: bool) -> None:
    version = status.daemon.get("version_str", "?")
    watchdog = "watchdog" if status.daemon.get("use_watchdog") != "0" else colour("no watchdog", "yellow")
    print(f"daemon {printable(status.host_name)}, sanlock protocol {version}, {watchdog}")
    if verbose:
        _print_pairs(status.daemon)
    for space in status.spaces:
        print()
        where = f"{printable(space.path)}:{space.offset}"
        head = colour(f"lockspace {printable(space.name)}", "bold")
        print(f"{head}  host id {space.host_id}, generation {space.generation}, io_timeout {space.io_timeout}")
        print(f"  {where}")
        print(f"  {_health(space, status)}")
        if verbose:
            _print_pairs(space.pairs)
        rows = [
            (
                lease.name,
                "shared" if lease.shared else lease.lver,
                lease.pid if lease.pid > 0 else "-",
                lease.state,
                " ".join(f"{disk.path}:{disk.offset}" for disk in lease.disks),
            )
            for lease in status.leases
            if lease.space == space.name
        ]
        if rows:
            print_table(rows, ("resource", "lver", "pid", "state", "place"))
        else:
            print("  no leases")
    if not status.spaces:
        print("no lockspaces; join one: holdfast lease add SPACE:HOST_ID:PATH:OFFSET")


def _print_pairs(pairs: object) -> None:
    if isinstance(pairs, dict):
        for key, value in pairs.items():
            print(colour(f"    {key}={printable(value)}", "dim"))
