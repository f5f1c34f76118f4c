"""`holdfast lease acquire`: takes leases on behalf of a process that is registered with the daemon."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from holdfast.cli.output import (
    Parser,
    Progress,
    add_json,
    add_lease,
    add_pid,
    add_run_dir,
    bounded,
    print_json,
)
from holdfast.cli.refusal import EXIT_REFUSED
from holdfast.client.acquiring import BLOCKING_TIMEOUT_S, PASSING, Obstacle, find_obstacle
from holdfast.client.addresses import LeaseAddress
from holdfast.client.daemon import Daemon
from holdfast.client.errors import NotAcquired
from holdfast.client.report import ticking
from holdfast.client.space import find_place
from holdfast.lease.errors import Code
from holdfast.leased import wire

EPILOG = """\
The process must have registered itself (holdfast run, libsanlock's sanlock_register, libvirt): the leases are
its own from then on, and it is killed when they are lost. All leases are taken, or none.
A lease of a host that has stopped renewing is waited for, until that host is certain to be dead; a live owner
refuses at once. --nowait waits for nobody. Ending this command does not end the daemon's waiting.

exit codes: 0 acquired, 73 refused: somebody else has it, 1 failed, 2 wrong usage

examples:
  holdfast lease acquire web:primary --pid 4711
  holdfast lease acquire web:data:/dev/vg/leases:9M --pid 4711 --shared
  holdfast lease acquire web:vm7 --pid 4711 --persistent --lvb --orphan
"""
QUIET_S = 2.0
"""Progress is shown from here on."""
REFUSALS = PASSING - {Code.AIO_TIMEOUT} | {-17, -117, Code.ACQUIRE_LVER}
"""Results that mean: somebody else has it, or has it in another way than was asked for (spec lease-wire 7.1)."""


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease acquire", "Take leases for a registered process.", EPILOG)
    add_lease(made, nargs="+", help=f"1 to {wire.MAX_RESOURCES} leases")
    add_pid(made)
    made.add_argument("--shared", action="store_true", help="together with other shared holders")
    made.add_argument(
        "--version",
        type=bounded(0, (1 << 64) - 1),
        metavar="N",
        help="only if the lease still has this version on storage",
    )
    orphans = made.add_mutually_exclusive_group()
    orphans.add_argument("--orphan", action="store_true", help="adopt the orphan if there is one")
    orphans.add_argument("--orphan-only", action="store_true", help="adopt the orphan, or fail")
    made.add_argument("--lvb", action="store_true", help="with its value: see holdfast lease lvb")
    made.add_argument("--persistent", action="store_true", help="becomes an orphan when the process ends")
    made.add_argument("--nowait", action="store_true", help="do not wait for an owner that stopped renewing")
    add_json(made)
    add_run_dir(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when all leases are held."""
    progress = Progress("holdfast lease acquire")
    try:
        return asyncio.run(_run(arguments, progress))
    finally:
        progress.clear()


def _flags(arguments: argparse.Namespace) -> int:
    chosen = {
        wire.ACQUIRE_LVB: arguments.lvb,
        wire.ACQUIRE_ORPHAN: arguments.orphan,
        wire.ACQUIRE_ORPHAN_ONLY: arguments.orphan_only,
        wire.ACQUIRE_OWNER_NOWAIT: arguments.nowait,
    }
    return sum(flag for flag, wanted in chosen.items() if wanted)


async def _run(arguments: argparse.Namespace, progress: Progress) -> int:
    daemon = Daemon(arguments.run_dir)
    wanted: list[LeaseAddress] = []
    for one in arguments.lease:
        place = await find_place(daemon, one)
        wanted.append(place if arguments.version is None else replace(place, lver=arguments.version))
    acquire = daemon.acquire_for(
        arguments.pid,
        *wanted,
        shared=arguments.shared,
        persistent=arguments.persistent,
        flags=_flags(arguments),
        timeout_s=BLOCKING_TIMEOUT_S,
    )
    text = f"acquiring {', '.join(map(str, wanted))} for process {arguments.pid}"
    try:
        await _with_progress(daemon, wanted, progress, text, acquire)
    except NotAcquired as error:
        if error.code not in REFUSALS:
            raise
        progress.clear()
        raise _explained(error, [await find_obstacle(daemon, one, error.code) for one in wanted]) from None
    progress.clear()
    held = {(lease.lockspace_name, lease.name): lease for lease in await daemon.inquire_for(arguments.pid)}
    documents = []
    for one in wanted:
        lease = held.get((one.space, one.resource))
        shared = bool(lease and lease.flags & wire.RES_SHARED)
        documents.append(
            {
                "lockspace": one.space,
                "resource": one.resource,
                "pid": arguments.pid,
                "mode": "shared" if shared else "exclusive",
                "lver": lease.lver if lease is not None and not shared else None,
            }
        )
        if not arguments.json:
            version = "shared" if shared or lease is None else f"version {lease.lver}"
            print(f"process {arguments.pid} holds {one}, {version}")
    if arguments.json:
        print_json(documents)
    return 0


async def _with_progress(
    daemon: Daemon, wanted: list[LeaseAddress], progress: Progress, text: str, work: Coroutine[Any, Any, None]
) -> None:
    """The call; when it takes longer, with who is waited for and how long that can take."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=QUIET_S)
        if not task.done():
            obstacles = [found for one in wanted if (found := await find_obstacle(daemon, one, -247)).host_id]
            waits = [found.free_in_s for found in obstacles if found.free_in_s is not None]
            why = "; ".join(map(str, obstacles[:1]))

            async def rest() -> None:
                await task

            await ticking(progress, f"{text}{': ' + why if why else ''}", max(waits, default=None), rest())
        await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Refused(NotAcquired):
    """A refusal with the name of who is in the way."""

    exit_code = EXIT_REFUSED


def _explained(error: NotAcquired, obstacles: list[Obstacle]) -> Refused:
    known = [str(obstacle) for obstacle in obstacles if obstacle.host_id or obstacle.pid]
    detail = f"{error.detail} ({'; '.join(known)})" if known else error.detail
    return Refused(error.code, detail, _NEXT_STEPS.get(error.code, error.next_step))


_NEXT_STEPS: dict[int, str] = {
    Code.ACQUIRE_IDLIVE: "ask its owner for it: holdfast lease request SPACE:RESOURCE",
    Code.ACQUIRE_OWNED_RETRY: "leave --nowait out to wait until its owner is certain to be dead",
    -16: "another command for this process is still running; try again when it is over",
    -17: "holdfast lease who SPACE:RESOURCE shows which process has it",
}
