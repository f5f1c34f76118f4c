"""`holdfast lease release`: gives leases of a registered process back, or orphans that nobody holds any more."""

from __future__ import annotations

import argparse
import asyncio

from holdfast.cli.output import Parser, Progress, add_json, add_pid, add_run_dir, completes, print_json
from holdfast.client.addresses import LeaseAddress, check_name, split_escaped
from holdfast.client.daemon import Daemon
from holdfast.client.errors import ClientError
from holdfast.client.report import ticking
from holdfast.leased import wire

EPILOG = """\
The process is not told: it must not go on with what the lease protects. A process that is being killed because its
lockspace fails is spared when everything it held is released.
--orphan releases leases that were acquired with --persistent and whose process has ended: SPACE:RESOURCE one,
SPACE all of a lockspace. It needs no process.
--rename gives the resource another name on storage in the same write (its entry in an index stays as it is).

exit codes: 0 released (an orphan: its release was begun), 1 failed, 2 wrong usage

examples:
  holdfast lease release web:primary --pid 4711
  holdfast lease release --all --pid 4711
  holdfast lease release --orphan web
  holdfast lease release web:old --pid 4711 --rename invalid_removed
"""
QUIET_S = 2.0


def named(text: str) -> tuple[str, str]:
    """SPACE or SPACE:RESOURCE; places are accepted, and not needed."""
    parts = split_escaped(text)
    try:
        return check_name(parts[0]), check_name(parts[1]) if len(parts) > 1 else ""
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}; write SPACE:RESOURCE") from None


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease release", "Give leases back.", EPILOG)
    made.usage = "holdfast lease release (SPACE:RESOURCE... | --all) --pid PID [options]\n" + (
        "       holdfast lease release --orphan SPACE[:RESOURCE]..."
    )
    completes(
        made.add_argument("lease", nargs="*", metavar="SPACE:RESOURCE", type=named, help="what to release"),
        "leases",
    )
    made.add_argument("--all", action="store_true", help="everything that the process holds")
    made.add_argument("--orphan", action="store_true", help="leases without a process; SPACE alone is enough")
    made.add_argument("--rename", metavar="NAME", help="new name of the resource on storage")
    add_pid(made, required=False)
    add_json(made)
    add_run_dir(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when everything named was released."""
    made = parser()
    if bool(arguments.lease) == arguments.all:
        made.error("name leases, or give --all")
    if arguments.orphan and (arguments.all or arguments.rename):
        made.error("--orphan goes with names only; SPACE alone means all its orphans")
    if arguments.rename and len(arguments.lease) != 1:
        made.error("--rename goes with exactly one lease")
    if not arguments.orphan and arguments.pid is None:
        made.error("--pid is needed, except with --orphan")
    if not arguments.orphan and any(not resource for _, resource in arguments.lease):
        made.error("write SPACE:RESOURCE; SPACE alone goes with --orphan")
    progress = Progress("holdfast lease release")
    daemon = Daemon(arguments.run_dir)
    try:
        work = _orphans(daemon, arguments) if arguments.orphan else _held(daemon, arguments)
        document = asyncio.run(ticking(progress, "waiting for storage", None, work, quiet_s=QUIET_S))
    finally:
        progress.clear()
    if arguments.json:
        print_json(document)
    elif arguments.orphan:
        print(f"{document['orphans']} orphan leases are being released")
    else:
        print(f"process {arguments.pid} has released {document['what']}")
    return 0


async def _held(daemon: Daemon, arguments: argparse.Namespace) -> dict[str, object]:
    leases = [LeaseAddress(space, resource) for space, resource in arguments.lease]
    try:
        await daemon.release_for(arguments.pid, *leases, new_name=arguments.rename or "")
    except ClientError as error:
        if error.code != -1:
            raise
        raise ClientError(
            -1, error.detail, f"holdfast lease inquire --pid {arguments.pid} shows what it holds"
        ) from None
    names = ", ".join(map(str, leases)) or "everything"
    what = f"{names}, renamed to {arguments.rename}" if arguments.rename else names
    return {"pid": arguments.pid, "released": [str(lease) for lease in leases], "all": arguments.all, "what": what}


async def _orphans(daemon: Daemon, arguments: argparse.Namespace) -> dict[str, object]:
    pid = wire.SELF_PID if arguments.pid is None else arguments.pid
    count = 0
    for space, resource in arguments.lease:
        try:
            count += await daemon.release_orphans(space, resource, pid=pid)
        except ClientError as error:
            if error.code != -16 or arguments.pid is not None:
                raise
            raise ClientError(
                -16, error.detail, "sanlock's own daemon wants the --pid of any registered process for this"
            ) from None
    return {"orphans": count}
