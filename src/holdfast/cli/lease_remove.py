"""`holdfast lease remove`: leave a lockspace."""

from __future__ import annotations

import argparse
import asyncio

from holdfast.cli.output import Parser, Progress, add_json, add_run_dir, add_space, print_json
from holdfast.cli.refusal import Refusal
from holdfast.client.addresses import SpaceAddress
from holdfast.client.daemon import Daemon
from holdfast.client.errors import ClientError
from holdfast.client.report import ticking

EPILOG = """\
Without --force a lockspace in use is left alone.

exit codes: 0 left, 1 failed or in use, 2 wrong usage

example:
  holdfast lease remove web
"""
QUIET_S = 2.0
"""Progress is shown from here on."""


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease remove", "Leave a lockspace.", EPILOG)
    add_space(made, help="its name")
    made.add_argument("--force", action="store_true", help="kill the processes that use its leases (SIGKILL)")
    add_json(made)
    add_run_dir(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when the lockspace is left."""
    progress = Progress("holdfast lease remove")
    work = _run(Daemon(arguments.run_dir), arguments.space, arguments.force, arguments.json, progress)
    try:
        return asyncio.run(work)
    finally:
        progress.clear()


async def _run(daemon: Daemon, name: str, force: bool, as_json: bool, progress: Progress) -> int:
    space = (await daemon.status()).space(name)
    if space is None:
        raise ClientError(-2, f"lockspace {name}", "holdfast lease status shows what is joined")
    address = SpaceAddress(space.name, space.host_id, space.path, space.offset)
    try:
        leaving = daemon.remove_lockspace(address, unused_only=not force)
        await ticking(progress, f"leaving lockspace {name}", None, leaving, quiet_s=QUIET_S)
    except ClientError as error:
        if error.code != -16 or force:
            raise
        raise Refusal(
            -16, f"leases of lockspace {name} are in use", "end their users, or --force", exit_code=1
        ) from None
    progress.clear()
    if as_json:
        print_json({"lockspace": name, "left": True})
    else:
        print(f"left lockspace {name}")
    return 0
