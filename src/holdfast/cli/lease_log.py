"""`holdfast lease log`: the last MiB of the daemon's log, and what is added to it."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

from holdfast.cli.output import (
    Parser,
    Progress,
    add_json,
    add_run_dir,
    bounded,
    completes,
    print_json_line,
    printable,
)
from holdfast.client.daemon import Daemon
from holdfast.client.log_lines import LogLine, new_part, parse_line, space_numbers
from holdfast.client.status import number

EPILOG = """\
The daemon keeps its last MiB of lines of every level; --follow asks it again each second. --lockspace shows lines
about one lockspace only, also of one that was left since.

exit codes: 0 shown (--follow: ended by SIGINT), 1 failed, the daemon ended among others, 2 wrong usage

examples:
  holdfast lease log --last 20
  holdfast lease log --follow --lockspace web
  holdfast lease log --json | jq -r 'select(.lockspace == "web") | .text'
"""
POLL_S = 1.0


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease log", "Show the daemon's recent log.", EPILOG)
    made.add_argument("--last", type=bounded(0, 1 << 20), default=0, metavar="N", help="so many lines (0: all)")
    made.add_argument("--follow", action="store_true", help="go on with what is added")
    completes(made.add_argument("--lockspace", metavar="SPACE", help="lines about this one only"), "spaces")
    add_json(made)
    add_run_dir(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when it was shown."""
    return asyncio.run(_run(Daemon(arguments.run_dir), arguments))


async def _run(daemon: Daemon, arguments: argparse.Namespace) -> int:
    names: dict[int, str] = {}
    before = ""
    last = arguments.last
    try:
        while True:
            dump = await daemon.log()
            added, lost = new_part(before, dump)
            before = dump
            if lost:
                Progress("holdfast lease log").say(
                    "lines were lost: more than a MiB was logged since the last look"
                )
            lines = [parse_line(line) for line in added.split("\n") if line]
            names = space_numbers(lines, {**names, **await _known(daemon)} if lines else names)
            chosen = [line for line in lines if _wanted(line, names, arguments.lockspace)]
            _show(chosen[-last:] if last else chosen, names, arguments.json)
            if not arguments.follow:
                return 0
            last = 0
            await asyncio.sleep(POLL_S)
    except asyncio.CancelledError:
        # SIGINT is how one ends this: asyncio turns it into a cancellation of this very task.
        if not arguments.follow:
            raise
        return 0


async def _known(daemon: Daemon) -> dict[int, str]:
    found = {}
    for space in (await daemon.status()).spaces:
        at = number(space.pairs, "space_id")
        if at is not None:
            found[at] = space.name
    return found


def _wanted(line: LogLine, names: dict[int, str], space: str | None) -> bool:
    return space is None or (line.space_number is not None and names.get(line.space_number) == space)


def _show(lines: Sequence[LogLine], names: dict[int, str], as_json: bool) -> None:
    for line in lines:
        if as_json:
            print_json_line(
                {
                    "time": line.time or None,
                    "monotime": line.monotime,
                    "lockspace": names.get(line.space_number) if line.space_number is not None else None,
                    "text": line.text,
                }
            )
        else:
            print(printable(line.raw), flush=True)
