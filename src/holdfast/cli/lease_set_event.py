"""`holdfast lease set-event`: tells other hosts of a lockspace an event with the next renewals."""

from __future__ import annotations

import argparse
import asyncio

from holdfast.cli.output import Parser, add_json, add_run_dir, add_space, bounded, print_json
from holdfast.cli.refusal import Refusal
from holdfast.client.daemon import Daemon
from holdfast.client.errors import ClientError
from holdfast.leased import wire

EPILOG = """\
EVENT and DATA are numbers (0x.. is possible) whose meaning the programs agree on. A lockspace has one event at
a time; it travels with this host's renewals for 6 x io_timeout and arrives more than once: see holdfast lease
events.
--clear takes back: `event` the event itself, `host` the mark that it is meant for that host.

exit codes: 0 set, 73 another event was set moments ago (--replace overrides), 1 failed, 2 wrong usage

examples:
  holdfast lease set-event web --host-id 2 --event 0x10 --data 7
  holdfast lease set-event web --all-hosts --event 3 --replace
  holdfast lease set-event web --clear event
"""
MAX_HOST_ID = 2000


def number(text: str) -> int:
    """An argparse type: 64 bits, decimal or with 0x."""
    try:
        value = int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= value < 1 << 64:
        raise argparse.ArgumentTypeError(f"{text} does not fit into 64 bits")
    return value


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease set-event", "Tell other hosts of a lockspace an event.", EPILOG)
    add_space(made)
    target = made.add_mutually_exclusive_group()
    target.add_argument("--host-id", type=bounded(1, MAX_HOST_ID), metavar="N", help="for this host")
    target.add_argument("--all-hosts", action="store_true", help="for every host")
    made.add_argument("--event", type=number, metavar="EVENT", help="what; not 0")
    made.add_argument("--data", type=number, default=0, metavar="DATA", help="more about it")
    made.add_argument(
        "--generation",
        type=number,
        default=0,
        metavar="G",
        help="which life of the host (default: its present one)",
    )
    made.add_argument("--replace", action="store_true", help="even if another event was set moments ago")
    made.add_argument("--clear", choices=("event", "host"), help="take back")
    add_json(made)
    add_run_dir(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when the daemon will tell it."""
    made = parser()
    host_id = arguments.host_id
    if arguments.clear:
        if (
            arguments.event is not None
            or arguments.all_hosts
            or (arguments.clear == "host") != (host_id is not None)
        ):
            made.error("--clear event goes alone, --clear host with --host-id")
    elif not arguments.event or not (host_id or arguments.all_hosts):
        made.error("--event with a number other than 0, and --host-id or --all-hosts are needed")
    flags = {
        None: wire.EVENT_CUR_GENERATION,
        "event": wire.EVENT_CLEAR_EVENT,
        "host": wire.EVENT_CLEAR_HOSTID,
    }[arguments.clear]
    if arguments.replace:
        flags |= wire.EVENT_REPLACE_EVENT
    if arguments.all_hosts:
        flags |= wire.EVENT_ALL_HOSTS
    # The daemon wants a possible host id in any case.
    event = wire.HostEvent(host_id or 1, arguments.generation, arguments.event or 0, arguments.data)
    try:
        asyncio.run(Daemon(arguments.run_dir).set_event(arguments.space, event, flags=flags))
    except ClientError as error:
        if error.code != -16:
            raise
        raise Refusal(
            -16, f"another event of lockspace {arguments.space} is on its way", "try again later, or --replace"
        ) from None
    whom = "all hosts" if arguments.all_hosts else f"host {host_id}"
    if arguments.json:
        print_json(
            {
                "lockspace": arguments.space,
                "host_id": None if arguments.all_hosts else host_id,
                "all_hosts": arguments.all_hosts,
                "event": arguments.event,
                "data": arguments.data,
                "cleared": arguments.clear,
            }
        )
    elif arguments.clear == "event":
        print(f"no event is told in lockspace {arguments.space} any more")
    elif arguments.clear:
        print(f"{whom} is not told any more")
    else:
        print(f"{whom} will be told event {arguments.event:#x}, data {arguments.data:#x}, with the next renewals")
    return 0
