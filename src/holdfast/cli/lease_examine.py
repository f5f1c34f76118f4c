"""`holdfast lease examine`: has the daemon look now whether other hosts ask for what is held here."""

from __future__ import annotations

import argparse
import asyncio

from holdfast.cli.lease_release import named
from holdfast.cli.output import Parser, add_json, add_run_dir, completes, print_json
from holdfast.cli.refusal import Refusal
from holdfast.client.daemon import Daemon

EPILOG = """\
The daemon looks by itself when a host that asks says so in its renewal; this makes it look at once. A request
that it finds is acted on: see holdfast lease request --help.

exit codes: 0 it looks, 1 failed or nothing is held, 2 wrong usage

examples:
  holdfast lease examine web
  holdfast lease examine web:primary
"""


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease examine", "Look now whether other hosts ask for what is held here.", EPILOG)
    completes(made.add_argument("lease", metavar="SPACE[:RESOURCE]", type=named), "leases")
    add_json(made)
    add_run_dir(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when the daemon looks at something."""
    space, resource = arguments.lease
    return asyncio.run(_run(Daemon(arguments.run_dir), space, resource, arguments.json))


async def _run(daemon: Daemon, space: str, resource: str, as_json: bool) -> int:
    # The daemon answers 0 for unknown names as well: what it holds tells more.
    held = [
        f"{lease.space}:{lease.name}"
        for lease in (await daemon.status()).leases
        if lease.state == "held" and lease.space == space and resource in ("", lease.name)
    ]
    await daemon.examine(space, resource)
    if not held:
        what = f"lease {space}:{resource} is" if resource else f"leases of lockspace {space} are"
        raise Refusal(-2, f"no {what} held here", "holdfast lease status shows what is held", exit_code=1)
    if as_json:
        print_json({"examined": held})
    else:
        print(f"looks for requests for {', '.join(held)}")
    return 0
