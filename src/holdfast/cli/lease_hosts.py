"""`holdfast lease hosts`: who is in a lockspace, and whether alive."""

from __future__ import annotations

import argparse
import asyncio

from holdfast.cli.output import Parser, add_json, add_run_dir, add_space, colour, print_json, print_table
from holdfast.client.daemon import Daemon
from holdfast.client.errors import ClientError
from holdfast.client.status import HostDetail, HostInfo

EPILOG = """\
states: LIVE renews; FAIL no renewal for 8 x io_timeout; DEAD its watchdog has fired, its leases may be taken;
        FREE left in order; UNKNOWN not watched for long enough yet

exit codes: 0 shown, 1 failed, 2 wrong usage

example:
  holdfast lease hosts web
"""
COLOURS = {"LIVE": "green", "FAIL": "yellow", "DEAD": "red"}


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease hosts", "Show the hosts of joined lockspaces.", EPILOG)
    add_space(made, nargs="*", help="lockspace names (default: all joined ones)")
    add_json(made)
    add_run_dir(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when all were shown."""
    return asyncio.run(_run(Daemon(arguments.run_dir), arguments.space, arguments.json))


async def _hosts(daemon: Daemon, space: str) -> tuple[list[HostInfo], dict[int, HostDetail]]:
    details = {host.host_id: host for host in await daemon.host_details(space)}
    try:
        return await daemon.hosts(space), details
    except ClientError as error:
        if error.code != -11:
            raise
        raise ClientError(
            -11, f"hosts of lockspace {space}", "the first look at them is not over; try again"
        ) from None


async def _run(daemon: Daemon, spaces: list[str], as_json: bool) -> int:
    names = spaces or [space.name for space in await daemon.lockspaces() if not space.flags]
    documents = []
    for name in names:
        hosts, details = await _hosts(daemon, name)
        monotime = (await daemon.status()).monotime or 0
        rows = []
        for host in hosts:
            detail = details.get(host.host_id)
            seen = detail.last_live if detail is not None else 0
            host_name = detail.name if detail is not None else ""
            ago = max(0, monotime - seen) if seen else None
            rows.append((host, host_name, ago))
        documents.append(
            {
                "lockspace": name,
                "hosts": [
                    {
                        "host_id": host.host_id,
                        "name": host_name,
                        "generation": host.generation,
                        "timestamp": host.timestamp,
                        "io_timeout": host.io_timeout,
                        "state": host.status,
                        "last_seen_s": ago,
                    }
                    for host, host_name, ago in rows
                ],
            }
        )
        if not as_json:
            print(colour(f"lockspace {name}", "bold"))
            print_table(
                [
                    (host.host_id, host.status, host_name, host.generation, "-" if ago is None else f"{ago} s ago")
                    for host, host_name, ago in rows
                ],
                ("host", "state", "name", "generation", "seen alive"),
            )
    if as_json:
        print_json(documents)
    elif not names:
        print("no lockspaces")
    return 0
