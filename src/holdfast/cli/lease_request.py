"""`holdfast lease request`: asks the host that holds a lease to give it up, and can wait for that."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import replace

from holdfast.cli.output import Parser, Progress, add_json, add_lease, add_run_dir, bounded, print_json, printable
from holdfast.cli.refusal import EXIT_REFUSED, Refusal
from holdfast.client.addresses import LeaseAddress
from holdfast.client.asking import asked_of, expected_s, wait_until_given_up
from holdfast.client.daemon import Daemon
from holdfast.client.holders import Holders
from holdfast.client.space import find_place
from holdfast.leased import wire

EPILOG = """\
The request is written beside the lease; the owner's daemon reads it with one of its next renewals, which takes
about 4 x io_timeout, and acts on the process that holds the lease:
  --graceful  its killpath if it has one, else SIGTERM (the default)
  --force     SIGKILL (SIGTERM if the process is restricted to that)
Only exclusive leases can be asked for: holders of a shared one are not told. A request ends by itself when the
lease gets the version that was asked for.

exit codes: 0 asked (or free already; with --wait: it became free), 73 with --wait: not free in time,
            1 failed, 2 wrong usage

examples:
  holdfast lease request web:primary
  holdfast lease request web:primary --force --wait=60
  holdfast lease request web:primary --withdraw
"""
DEFAULT_WAIT_S = 120
MODES = {wire.REQUEST_FORCE: "force", wire.REQUEST_GRACEFUL: "graceful", 0: "withdraw"}
EFFECTS = {
    wire.REQUEST_FORCE: "the process that holds it gets SIGKILL",
    wire.REQUEST_GRACEFUL: "the process that holds it gets its killpath, or SIGTERM",
}


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease request", "Ask the host that holds a lease to give it up.", EPILOG)
    add_lease(made)
    how = made.add_mutually_exclusive_group()
    for name, mode, text in (
        ("--graceful", wire.REQUEST_GRACEFUL, "killpath or SIGTERM to the holder (default)"),
        ("--force", wire.REQUEST_FORCE, "SIGKILL to the holder"),
        ("--withdraw", 0, "ask no more"),
    ):
        how.add_argument(name, dest="mode", action="store_const", const=mode, help=text)
    made.set_defaults(mode=wire.REQUEST_GRACEFUL)
    made.add_argument(
        "--version",
        type=bounded(1, (1 << 64) - 1),
        metavar="N",
        help="the version to ask for (default: the one after the present)",
    )
    made.add_argument(
        "--wait",
        nargs="?",
        const=DEFAULT_WAIT_S,
        type=bounded(1, 86400),
        metavar="SECONDS",
        help=f"until the lease is free, at most so long (--wait alone: {DEFAULT_WAIT_S})",
    )
    add_json(made)
    add_run_dir(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when it was asked for; with --wait, when it is free."""
    made = parser()
    if arguments.mode == 0 and (arguments.version is not None or arguments.wait is not None):
        made.error("--withdraw goes alone")
    progress = Progress("holdfast lease request")
    try:
        return asyncio.run(_run(arguments, progress))
    finally:
        progress.clear()


async def _run(arguments: argparse.Namespace, progress: Progress) -> int:
    daemon = Daemon(arguments.run_dir)
    lease: LeaseAddress = await find_place(daemon, arguments.lease)
    mode: int = arguments.mode
    if mode == 0:
        await daemon.request(lease, next_lver=False)
        _tell(arguments, f"nothing is asked for {lease} any more", {"asked": [], "mode": MODES[mode]})
        return 0
    before = await asked_of(daemon, lease)
    if not before.holders:
        _tell(arguments, f"{lease} is free, nothing to ask for", {"asked": [], "mode": MODES[mode], "free": True})
        return 0
    if before.shared:
        raise Refusal(
            -22,
            f"{lease} is held shared by {_people(before)}, who would not be told",
            "ask them another way, or use an event: holdfast lease set-event --help",
            exit_code=1,
        )
    version = arguments.version or before.lver + 1
    await daemon.request(replace(lease, lver=version), force_mode=mode, next_lver=False)
    expected = expected_s(before)
    document: dict[str, object] = {
        "mode": MODES[mode],
        "lver": version,
        "asked": [
            {"host_id": holder.host.host_id, "name": holder.host.name, "state": holder.host.life}
            for holder in before.holders
        ],
        "expected_s": expected,
    }
    text = (
        f"asked {_people(before)} for version {version} of {lease}: {EFFECTS[mode]}, within about {expected:.0f} s"
    )
    if arguments.wait is None:
        _tell(arguments, text, document)
        return 0
    if not arguments.json:
        print(text, flush=True)
    after = await wait_until_given_up(daemon, lease, before, float(arguments.wait), progress)
    progress.clear()
    document["free"] = after is not None and not after.holders
    document["taken_over"] = after is not None and bool(after.holders)
    if after is None:
        _tell(
            arguments,
            f"{lease} is still held by {_people(before)} after {arguments.wait} s; "
            f"holdfast lease who {lease} shows its state, --force kills its holder",
            document,
        )
        return EXIT_REFUSED
    if after.holders:
        _tell(arguments, f"{lease} was given up, and {_people(after)} has it, version {after.lver}", document)
    else:
        _tell(arguments, f"{lease} is free", document)
    return 0


def _people(holders: Holders) -> str:
    return ", ".join(
        f"host {holder.host.host_id}" + (f" ({printable(holder.host.name)})" if holder.host.name else "")
        for holder in holders.holders
    )


def _tell(arguments: argparse.Namespace, text: str, document: dict[str, object]) -> None:
    if arguments.json:
        lease = arguments.lease
        print_json({"lockspace": lease.space, "resource": lease.resource, **document})
    else:
        print(text)
