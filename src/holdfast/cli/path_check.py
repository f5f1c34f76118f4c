"""`holdfast path check`: is this path good, and how fast does it answer?"""

from __future__ import annotations

import argparse
import asyncio

from holdfast.cli.output import Parser, add_json, bounded, print_json, print_table
from holdfast.path import checkers
from holdfast.path.checkers.base import DEFAULT_TIMEOUT_S
from holdfast.path.one_shot import Checked, check_devices

DEFAULT_CHECKER = "directio"
MAX_TIMEOUT_S = 3600
EXIT_BAD = 1

EPILOG = f"""\
Checks each device, all at the same time, without a daemon and without changing anything, and tells how long the
device took to answer; opening it is not counted. DEV is sda, /dev/sda, or a file. {DEFAULT_CHECKER} reads the
first block past all caches; tur and the others ask by SCSI commands and need root. The answer comes within
--timeout seconds even when the device hangs.

A good path is `up`, or `ghost`: reachable, but on standby.

exit codes: 0 all are good, 1 one is not, 2 wrong usage

examples:
  holdfast path check sda sdb
  holdfast path check /dev/sd? --checker tur --timeout 5
  holdfast path check sda --json | jq .paths[0].latency_ms
"""


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("path check", "Check devices once, and tell how long it took.", EPILOG)
    made.add_argument("devices", metavar="DEV", nargs="+", help="what to check")
    names = ", ".join(checkers.BUILT_IN)
    made.add_argument("--checker", metavar="NAME", default=DEFAULT_CHECKER, help=f"{names}, or a plug-in's")
    made.add_argument(
        "--timeout",
        type=bounded(1, MAX_TIMEOUT_S),
        default=DEFAULT_TIMEOUT_S,
        metavar="SECONDS",
        help=f"for each device ({DEFAULT_TIMEOUT_S})",
    )
    add_json(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 or 1: see the epilog."""
    if arguments.checker not in checkers.known():
        parser().error(f"no checker {arguments.checker!r}: there are {', '.join(checkers.known())}")
    found = asyncio.run(check_devices(arguments.devices, arguments.checker, arguments.timeout))
    if arguments.json:
        print_json({"paths": [_json(one) for one in found]})
    else:
        rows = [(one.dev, _word(one), _shown(one.latency_s), _message(one)) for one in found]
        print_table(rows, ("path", "state", "took", "checker"))
    return 0 if all(one.is_good for one in found) else EXIT_BAD


def _word(one: Checked) -> str:
    return one.result.state.word


def _message(one: Checked) -> str:
    return f"{one.checker} checker{one.result.message}" if one.result.message else one.checker


def _shown(latency_s: float) -> str:
    return f"{latency_s * 1000:.3f} ms" if latency_s < 1 else f"{latency_s:.1f} s"


def _json(one: Checked) -> dict[str, object]:
    return {
        "path": one.dev,
        "node": one.node,
        "checker": one.checker,
        "state": one.result.state.word,
        "good": one.is_good,
        "latency_ms": round(one.latency_s * 1000, 3),
        "message": one.result.message.strip(),
    }
