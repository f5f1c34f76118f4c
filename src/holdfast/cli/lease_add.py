"""`holdfast lease add`: join a lockspace."""

from __future__ import annotations

import argparse
import asyncio
import os

from holdfast.cli.output import Parser, Progress, add_json, add_run_dir, address, bounded, print_json
from holdfast.client.addresses import SpaceAddress
from holdfast.client.daemon import Daemon
from holdfast.client.space import SpaceRequest, ensure_joined

EPILOG = """\
HOST_ID empty or 0 takes a free id. Joining a free id takes 2 x io_timeout; an id of a host that died takes until
that host is certain to be dead (8 x io_timeout + watchdog fire timeout).

exit codes: 0 joined (or was joined already), 1 failed, 2 wrong usage

examples:
  holdfast lease add web:3:/dev/vg/leases:0
  holdfast lease add web::/srv/web.lease
"""


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease add", "Join a lockspace, so that its leases can be used on this host.", EPILOG)
    made.add_argument("space", metavar="SPACE:HOST_ID:PATH[:OFFSET]", type=address(SpaceAddress))
    made.add_argument(
        "--io-timeout", default=0, metavar="SECONDS", type=bounded(1, 255), help="default: as it was made"
    )
    add_json(made)
    add_run_dir(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when the lockspace is joined."""
    space: SpaceAddress = arguments.space
    progress = Progress()
    request = SpaceRequest(
        space.space, os.path.abspath(space.path), space.offset, space.host_id, arguments.io_timeout
    )
    try:
        joined = asyncio.run(ensure_joined(Daemon(arguments.run_dir), request, progress))
    finally:
        progress.clear()
    if arguments.json:
        print_json({"lockspace": joined.name, "host_id": joined.host_id, "generation": joined.generation})
    else:
        print(f"joined lockspace {joined.name} as host {joined.host_id}, generation {joined.generation}")
    return 0
