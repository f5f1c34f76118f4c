"""`holdfast lease who`: who holds a lease, since when, and when another host may take it at the earliest."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import time

from holdfast.cli.output import (
    Parser,
    Progress,
    add_json,
    add_lease,
    add_run_dir,
    bounded,
    colour,
    duration,
    moment,
    moment_json,
    print_json,
    printable,
)
from holdfast.client.addresses import LeaseAddress, parse_offset, split_escaped
from holdfast.client.daemon import Daemon
from holdfast.client.holders import Holder, Holders, Life
from holdfast.lease import timing

EPILOG = """\
A daemon knows who is alive, because it has watched the records of all hosts. With --path nothing but storage is
looked at: it tells who holds the lease, not whether that host lives. --watch looks at its record for a while: a
renewal proves that it lives, silence proves that it is dead only after 8 x io_timeout + watchdog fire timeout.

The earliest takeover is the last renewal plus 8 x io_timeout of the owner (then it begins to end its processes)
plus the watchdog fire timeout (then it has been reset, if it still ran at all). While the owner renews, that
instant moves on.

exit codes: 0 held, 3 free, 1 failed, 2 wrong usage

examples:
  holdfast lease who web:primary
  holdfast lease who web:primary --json | jq '.holders[].takeover.in_s'
  holdfast lease who web:primary --path /dev/vg/leases --watch 30
"""
EXIT_FREE = 3
COLOURS = {Life.LIVE: "green", Life.FAIL: "yellow", Life.DEAD: "red"}
LIVES = {
    Life.LIVE: "renews",
    Life.FAIL: "has stopped renewing; its processes are being ended",
    Life.DEAD: "is certain to be dead",
    Life.FREE: "has left the lockspace in order",
}
QUIET_S = 2.0


def _path(text: str) -> tuple[str, int]:
    parts = split_escaped(text)
    if not parts[0] or len(parts) > 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not PATH[:OFFSET]")
    try:
        return os.path.abspath(parts[0]), parse_offset(parts[1]) if len(parts) > 1 else 0
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease who", "Show who holds a lease, since when, and until when at least.", EPILOG)
    add_lease(made)
    made.add_argument(
        "--path", metavar="PATH[:OFFSET]", type=_path, help="the lockspace on storage: ask no daemon, look there"
    )
    made.add_argument(
        "--watch",
        type=bounded(1, 86400),
        metavar="SECONDS",
        help="with --path: watch for renewals, at most so long",
    )
    made.add_argument(
        "--watchdog-fire-timeout",
        type=bounded(1, 3600),
        metavar="SECONDS",
        help=f"with --path: that of all hosts ({timing.DEFAULT_FIRE_TIMEOUT_S}); it is not on storage",
    )
    add_json(made)
    add_run_dir(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when somebody holds it."""
    if arguments.path is None and (arguments.watch is not None or arguments.watchdog_fire_timeout is not None):
        parser().error("--watch and --watchdog-fire-timeout go with --path")
    progress = Progress("holdfast lease who")
    try:
        holders = asyncio.run(_look(arguments, progress))
    finally:
        progress.clear()
    now = time.time()
    if arguments.json:
        print_json(as_json(holders, now, from_storage=arguments.path is not None))
    else:
        _print(holders, now, from_storage=arguments.path is not None)
    return 0 if holders.holders else EXIT_FREE


async def _look(arguments: argparse.Namespace, progress: Progress) -> Holders:
    from holdfast.client.who import from_daemon, from_storage

    lease: LeaseAddress = arguments.lease
    if arguments.path is None:
        return await from_daemon(Daemon(arguments.run_dir), lease)
    watch = float(arguments.watch or 0)

    def on_look(left_s: float) -> None:
        if watch - left_s >= QUIET_S:
            progress.waiting("watching for a renewal", left_s)

    return await from_storage(
        lease,
        *arguments.path,
        watch_s=watch,
        fire_timeout=arguments.watchdog_fire_timeout or timing.DEFAULT_FIRE_TIMEOUT_S,
        on_look=on_look,
    )


def as_json(holders: Holders, now: float, *, from_storage: bool) -> dict[str, object]:
    """Everything; instants are estimates, computed from seconds at the wall-clock time `now`."""
    return {
        "lockspace": holders.space,
        "resource": holders.resource,
        "path": holders.path,
        "offset": holders.offset,
        "mode": holders.mode,
        "lver": holders.lver,
        "source": "storage" if from_storage else "daemon",
        "watchdog_fire_timeout": holders.fire_timeout,
        "takeover_in_s": holders.takeover_in_s,
        "holders": [_holder_json(holder, holders.fire_timeout, now) for holder in holders.holders],
    }


def _holder_json(holder: Holder, fire_timeout: int, now: float) -> dict[str, object]:
    host, since, takeover = holder.host, holder.since, holder.takeover(fire_timeout)
    return {
        "host_id": host.host_id,
        "name": host.name or None,
        "generation": holder.generation,
        "present_generation": host.generation or None,
        "mode": "shared" if holder.shared else "exclusive",
        "this_host": holder.own_host,
        "processes": [{"pid": process.pid, "name": process.name} for process in holder.processes],
        "state": host.life,
        "io_timeout": host.io_timeout or None,
        "last_renewal_s": None if host.watched_only else host.silent_s,
        "watched_in_vain_s": host.silent_s if host.watched_only else None,
        "since": None
        if since is None
        else {
            "s": since.seconds,
            "give_or_take_s": since.give_or_take_s,
            "time": moment_json(now - since.seconds),
        },
        "takeover": {
            "in_s": takeover.in_s,
            "time": None if takeover.in_s is None else moment_json(now + takeover.in_s),
            "only_if_silent": takeover.conditional,
            "newcomer": takeover.newcomer,
            "stale": takeover.stale,
        },
    }


def _print(holders: Holders, now: float, *, from_storage: bool) -> None:
    name = printable(f"{holders.space}:{holders.resource}")
    place = printable(f"{holders.path}:{holders.offset}")
    print(f"{colour(name, 'bold')}  {holders.mode}, version {holders.lver}, at {place}")
    for holder in holders.holders:
        print()
        for line in describe(holder, holders.fire_timeout, now):
            print(line)
    if len(holders.holders) > 1 and holders.takeover_in_s is not None:
        print()
        at = moment(now + holders.takeover_in_s)
        print(f"exclusive for another host: not before all of them are gone, earliest {at}")
    if from_storage and holders.holders:
        print()
        print(f"seen on storage alone; assumed watchdog fire timeout: {holders.fire_timeout} s")
        if all(holder.host.silent_s is None and not holder.stale for holder in holders.holders):
            print("whether a host lives shows only in its renewals: give --watch SECONDS, or ask a daemon")


def describe(holder: Holder, fire_timeout: int, now: float) -> list[str]:
    """A holder in words."""
    host = holder.host
    who = f"host {host.host_id}" + (f" ({printable(host.name)})" if host.name else "")
    lines = [
        colour(f"{'shared holder' if holder.shared else 'owner'}: {who}", "bold")
        + f", generation {holder.generation}"
        + (", this host" if holder.own_host else "")
    ]
    since = holder.since
    if since is not None:
        sure = math.ceil(since.give_or_take_s)
        lines.append(
            f"  since     {moment(now - since.seconds)}, {duration(since.seconds)} ago, give or take {sure} s"
        )
    elif holder.shared:
        lines.append("  since     not known: shared holders leave no time on storage")
    else:
        lines.append("  since     not known from here")
    for process in holder.processes:
        label = f" ({printable(process.name)})" if process.name and process.name != str(process.pid) else ""
        lines.append(f"  process   {process.pid}{label}")
    lines.append(f"  state     {_state(holder)}")
    lines.append(f"  takeover  {_takeover(holder, fire_timeout, now)}")
    return lines


def _state(holder: Holder) -> str:
    host = holder.host
    if host.generation > holder.generation:
        return f"a past life: this host is generation {host.generation} now"
    word = colour(host.life.value, COLOURS.get(host.life, "yellow"))
    if host.watched_only and host.silent_s is not None:
        meaning = LIVES.get(host.life, "nothing is proven yet")
        return f"{word}: no renewal in {duration(host.silent_s)} of watching; {meaning}"
    if host.life is Life.UNKNOWN:
        return f"{word}: nobody has watched it here"
    text = f"{word}: {LIVES[host.life]}"
    if host.silent_s is not None and host.life is not Life.FREE:
        text += f"; last renewal seen {duration(host.silent_s)} ago"
    return text


def _takeover(holder: Holder, fire_timeout: int, now: float) -> str:
    takeover = holder.takeover(fire_timeout)
    host = holder.host
    if takeover.stale:
        return "now: nothing has to be waited for"
    if takeover.in_s is None:
        return "not known from here"
    rule = f"8 x {host.io_timeout} s + {fire_timeout} s"
    if takeover.in_s <= 0:
        return f"now: silent for more than {rule}"
    at = f"in {duration(takeover.in_s)}, at {moment(now + takeover.in_s)}"
    if takeover.newcomer:
        return f"if it stays silent: {at}, by a host that has watched no longer; others may be sooner ({rule})"
    if host.life is Life.FAIL:
        return f"at the earliest {at}, unless it renews ({rule} after its last renewal)"
    return f"not while it renews; if it stopped now: at the earliest {at} ({rule} after its last renewal)"
