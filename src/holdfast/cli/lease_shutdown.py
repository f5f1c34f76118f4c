"""`holdfast lease shutdown`: ends the lease daemon."""

from __future__ import annotations

import argparse
import asyncio

from holdfast.cli.output import Parser, Progress, add_json, add_run_dir, bounded, print_json, printable
from holdfast.cli.refusal import Refusal
from holdfast.client.daemon import Daemon
from holdfast.client.report import ticking

EPILOG = """\
A daemon that has joined lockspaces stays, unless --force is given: then every process that uses a lease gets
SIGKILL, the lockspaces are left, and the daemon ends.

exit codes: 0 asked (with --wait: it has ended), 73 it has lockspaces and --force was not given, 1 failed,
            2 wrong usage

examples:
  holdfast lease shutdown --wait
  holdfast lease shutdown --force --wait=60
"""
DEFAULT_WAIT_S = 90
QUIET_S = 2.0


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease shutdown", "End the lease daemon.", EPILOG)
    made.add_argument(
        "--force", action="store_true", help="kill (SIGKILL) whoever uses a lease, leave all lockspaces"
    )
    made.add_argument(
        "--wait",
        nargs="?",
        const=DEFAULT_WAIT_S,
        type=bounded(1, 86400),
        metavar="SECONDS",
        help=f"until it has ended, at most so long (--wait alone: {DEFAULT_WAIT_S})",
    )
    add_json(made)
    add_run_dir(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when it was asked, or has ended."""
    progress = Progress("holdfast lease shutdown")
    try:
        return asyncio.run(_run(arguments, progress))
    finally:
        progress.clear()


async def _run(arguments: argparse.Namespace, progress: Progress) -> int:
    daemon = Daemon(arguments.run_dir)
    status = await daemon.status()
    spaces = [space.name for space in status.spaces]
    pids = sorted({lease.pid for lease in status.leases if lease.pid > 0 and lease.state == "held"})
    if spaces and not arguments.force:
        raise Refusal(
            -16,
            f"the daemon has joined {', '.join(map(printable, spaces))}",
            "leave them (holdfast lease remove), or --force",
        )
    document: dict[str, object] = {"lockspaces": spaces, "pids": pids, "force": arguments.force, "ended": False}
    if arguments.wait is None:
        await daemon.shutdown(force=arguments.force, wait=False)
        text = "the daemon was asked to end"
    else:
        waiting = (
            f"waiting for the daemon to leave {len(spaces)} lockspaces" if spaces else "waiting for the daemon"
        )
        call = daemon.shutdown(force=arguments.force, timeout_s=float(arguments.wait))
        await ticking(progress, waiting, None, call, quiet_s=QUIET_S)
        progress.clear()
        document["ended"] = True
        text = "the daemon has ended"
    if arguments.json:
        print_json(document)
    else:
        killed = f"; killed: {', '.join(map(str, pids))}" if pids else ""
        left = f"; left: {', '.join(map(printable, spaces))}" if spaces else ""
        print(text + left + killed)
    return 0
