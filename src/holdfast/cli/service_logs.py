"""`holdfast service logs`: the manager's latest lines about units, and those to come."""

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
    service_parser,
    unit_names,
)

MAX_LINES = 1000


def logs_parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = service_parser("logs", "Print the latest lines about units.", "  holdfast service logs -f nginx\n")
    made.add_argument("-n", "--lines", type=bounded(0, MAX_LINES), default=10, help="how many (10)")
    made.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    made.add_argument("--json", action="store_true", help="one object per line")
    add_units(made, "*")
    return made


def logs_run(arguments: argparse.Namespace) -> int:
    """1: the manager ended the stream."""
    with connect(arguments) as client:
        units = unit_names(client, arguments.units)
        found = client.ask("status", *units, lines=arguments.lines)["units"] if units else []
        lines = [line | {"unit": one["unit"]} for one in found for line in one["lines"]]
        for line in sorted(lines, key=lambda line: line["at"]):
            _print(line, arguments)
        if not arguments.follow:
            return EXIT_OK
        for item in client.events():
            if item.get("event") == "log" and (not units or item["unit"] in units):
                _print(item, arguments)
    complain("The manager has ended the stream.")
    return EXIT_FAILED


def _print(line: dict[str, Any], arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json_line({key: line[key] for key in ("at", "unit", "level", "text")})
    else:
        moment = time.strftime("%b %d %H:%M:%S", time.localtime(line["at"] / 1e6))
        print(f"{moment} {printable(line['text'])}", flush=True)
