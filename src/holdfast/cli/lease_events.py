"""`holdfast lease events`: what other hosts tell this one, until interrupted or the lockspace ends."""

from __future__ import annotations

import argparse
import asyncio
import time

from holdfast.cli.output import (
    Parser,
    Progress,
    add_json,
    add_run_dir,
    add_space,
    bounded,
    moment,
    moment_json,
    print_json_line,
)
from holdfast.client.daemon import Daemon
from holdfast.client.errors import ClientError
from holdfast.leased import wire

EPILOG = """\
One line per event: when, from which host (and its generation), event and data. A sender repeats an event with
several renewals, so the same line may come two or three times. --json prints one document per line.

exit codes: 0 ended by --count, by SIGINT (Ctrl-C), or because the lockspace was left,
            1 failed, the daemon ended among others, 2 wrong usage

examples:
  holdfast lease events web
  holdfast lease events web --json --count 1 | jq .event
"""


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease events", "Show the events of a lockspace as they arrive.", EPILOG)
    add_space(made)
    made.add_argument("--count", type=bounded(1, 1 << 30), metavar="N", help="end after so many")
    add_json(made)
    add_run_dir(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when the end was a clean one."""
    return asyncio.run(_run(Daemon(arguments.run_dir), arguments.space, arguments.count, arguments.json))


async def _run(daemon: Daemon, space: str, count: int | None, as_json: bool) -> int:
    stream = await daemon.events(space)
    progress = Progress("holdfast lease events")
    seen = 0
    try:
        if not as_json:
            progress.say(f"listening in lockspace {space}; Ctrl-C ends it")
        async for message in stream:
            _show(space, message, as_json)
            seen += 1
            if count is not None and seen >= count:
                return 0
    except asyncio.CancelledError:
        # SIGINT is how one ends this: asyncio turns it into a cancellation of this very task.
        return 0
    finally:
        await stream.close()
    await _explain_end(daemon, space)
    if not as_json:
        progress.say(f"lockspace {space} was left")
    return 0


async def _explain_end(daemon: Daemon, space: str) -> None:
    """The stream ends with the lockspace, or with the daemon: the latter is an error."""
    status = await daemon.status()
    found = status.space(space)
    if found is not None and found.state == "spaces" and not found.failing:
        raise ClientError(-16, f"the daemon closed the events of lockspace {space}", "listen again")


def _show(space: str, message: wire.EventMessage, as_json: bool) -> None:
    now = time.time()
    event = message.event
    if as_json:
        print_json_line(
            {
                "time": moment_json(now),
                "lockspace": space,
                "from_host_id": message.from_host_id,
                "from_generation": message.from_generation,
                "host_id": event.host_id,
                "generation": event.generation,
                "event": event.event,
                "data": event.data,
            }
        )
    else:
        source = f"host {message.from_host_id} generation {message.from_generation}"
        print(f"{moment(now)}  {source}  event {event.event:#x}  data {event.data:#x}", flush=True)
