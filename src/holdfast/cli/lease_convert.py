"""`holdfast lease convert`: changes the mode of a lease that a registered process holds."""

from __future__ import annotations

import argparse
import asyncio

from holdfast.cli.lease_acquire import QUIET_S, REFUSALS, Refused
from holdfast.cli.output import Parser, Progress, add_json, add_lease, add_pid, add_run_dir, print_json
from holdfast.client.addresses import LeaseAddress
from holdfast.client.daemon import Daemon
from holdfast.client.errors import ClientError, NotAcquired
from holdfast.client.report import ticking
from holdfast.leased import wire

EPILOG = """\
To exclusive only works while nobody else holds the lease shared; it stays shared otherwise. To shared writes a
changed value (holdfast lease lvb) first. The version grows with each exclusive phase.

exit codes: 0 converted (or in that mode already), 73 refused: others hold it too, 1 failed, 2 wrong usage

examples:
  holdfast lease convert web:data --to shared --pid 4711
  holdfast lease convert web:data --to exclusive --pid 4711 --nowait
"""


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease convert", "Make a held lease shared or exclusive.", EPILOG)
    add_lease(made)
    made.add_argument("--to", choices=("shared", "exclusive"), required=True)
    add_pid(made)
    made.add_argument("--nowait", action="store_true", help="do not wait for a host that stopped renewing")
    add_json(made)
    add_run_dir(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when the lease has the wanted mode."""
    progress = Progress("holdfast lease convert")
    try:
        return asyncio.run(_run(arguments, progress))
    finally:
        progress.clear()


async def _run(arguments: argparse.Namespace, progress: Progress) -> int:
    daemon = Daemon(arguments.run_dir)
    lease: LeaseAddress = arguments.lease
    changed = True
    call = daemon.convert_for(arguments.pid, lease, shared=arguments.to == "shared", nowait=arguments.nowait)
    try:
        await ticking(progress, f"converting {lease} to {arguments.to}", None, call, quiet_s=QUIET_S)
    except NotAcquired as error:
        if error.code == -2:
            raise ClientError(
                -2,
                f"{lease} of process {arguments.pid}",
                f"holdfast lease inquire --pid {arguments.pid} shows what it holds",
            ) from None
        if error.code in REFUSALS:
            raise Refused(error.code, error.detail, f"holdfast lease who {lease} shows who holds it too") from None
        if error.code != -114:
            raise
        changed = False
    progress.clear()
    held = await daemon.inquire_for(arguments.pid)
    found = [one for one in held if (one.lockspace_name, one.name) == (lease.space, lease.resource)]
    lver = found[0].lver if found and not found[0].flags & wire.RES_SHARED else None
    if arguments.json:
        document = {"lockspace": lease.space, "resource": lease.resource, "pid": arguments.pid}
        print_json({**document, "mode": arguments.to, "lver": lver, "changed": changed})
    else:
        version = f", version {lver}" if lver is not None else ""
        print(f"{lease} is {'' if changed else 'already '}{arguments.to}{version}")
    return 0
