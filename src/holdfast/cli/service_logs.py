"""`holdfast service logs`: what units have printed and what was said about them; the end of it, or what comes."""

from __future__ import annotations

import argparse
import time
from typing import Any

from holdfast.cli.output import bounded, print_json_line, printable
from holdfast.cli.service_asking import (
    EXIT_FAILED,
    EXIT_OK,
    add_units,
    complain,
    connect,
    control_path,
    service_parser,
    unit_name,
    unit_names,
)

MAX_LINES = 10_000
EXAMPLES = """\
  holdfast service logs -f nginx
  holdfast service logs --since 10min
  holdfast service logs --since 2026-11-20T08:00:00 -n 1000 nginx redis-server

Without a unit: of all. Each unit keeps its latest 256 to 512 KiB, and a supervisor that starts again finds them.
Without a supervisor the files are read. Only root and the supervisor's user may read them.
"""


def logs_parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = service_parser("logs", "Print what units have said.", EXAMPLES)
    made.add_argument("-n", "--lines", type=bounded(0, MAX_LINES), help="how many (10; with --since 10000)")
    made.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    made.add_argument("--since", type=_moment, default=0, metavar="WHEN", help="a duration before now, or a time")
    made.add_argument("--json", action="store_true", help="one object per line")
    add_units(made, "*")
    return made


def _moment(text: str) -> int:
    """Microseconds of wall time: `10min` before now, `@SECONDS`, or an ISO time."""
    import datetime

    from holdfast.timespan import parse_timespan

    try:
        if text.startswith("@"):
            return round(float(text[1:]) * 1e6)
        return time.time_ns() // 1000 - parse_timespan(text)
    except ValueError:
        pass
    try:
        return round(datetime.datetime.fromisoformat(text).timestamp() * 1e6)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a duration (10min) nor a time") from None


def logs_run(arguments: argparse.Namespace) -> int:
    """1: the manager ended the stream, or there is none to follow."""
    count = arguments.lines if arguments.lines is not None else MAX_LINES if arguments.since else 10
    try:
        following = connect(arguments)
    except OSError:
        if arguments.follow:
            raise
        return _from_files(arguments, count)
    with following, connect(arguments) as client:
        # Events first, then the past: nothing is between the two.
        events = following.events() if arguments.follow else iter(())
        units = unit_names(client, arguments.units)
        reply = client.ask("logs", *units, lines=count, since=arguments.since)
        units = reply["units"]
        newest = 0
        for line in reply["lines"]:
            newest = line["at"]
            _print(line, arguments)
        if not reply["whole"]:
            complain("The storage of the log does not answer: the latest lines are missing.")
        if not arguments.follow:
            return EXIT_OK
        for item in events:
            if item.get("event") == "log" and item["at"] > newest and (not units or item["unit"] in units):
                _print(item, arguments)
    complain("The manager has ended the stream.")
    return EXIT_FAILED


def _from_files(arguments: argparse.Namespace, count: int) -> int:
    import os

    from holdfast.service import log_files

    directory = os.path.join(os.path.dirname(control_path(arguments.run_dir)), log_files.DIRECTORY)
    os.listdir(directory)  # An error that says more than no line at all.
    units = [unit_name(unit) for unit in arguments.units]
    for line in log_files.read(directory, units, count, arguments.since):
        _print(line, arguments)
    return EXIT_OK


def _print(line: dict[str, Any], arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json_line({key: line[key] for key in ("at", "unit", "level", "text")})
    else:
        moment = time.strftime("%b %d %H:%M:%S", time.localtime(line["at"] / 1e6))
        print(f"{moment} {printable(line['text'])}", flush=True)
