"""`holdfast service list-timers`, `list-sockets`, `list-paths`: what starts units, and when (spec 13.2)."""

from __future__ import annotations

import argparse
import fnmatch
import time
from functools import partial
from typing import Any

from holdfast.cli.output import colour, print_json, printable
from holdfast.cli.service_asking import EXIT_OK, add_units, connect, is_pattern, service_parser, unit_name
from holdfast.cli.service_times import moment, span_ago, span_left

KINDS = {
    "timers": "List timers: when each comes next, when it came last, what it starts.",
    "sockets": "List addresses that are listened at, and what they start.",
    "paths": "List paths that are watched, and what they start.",
}


def _parser(kind: str) -> argparse.ArgumentParser:
    made = service_parser(f"list-{kind}", KINDS[kind], f"  holdfast service list-{kind} --all\n")
    made.add_argument("-a", "--all", action="store_true", help="inactive ones too")
    if kind == "sockets":
        made.add_argument("--show-types", action="store_true", help="how each address listens")
    made.add_argument("--no-legend", action="store_true", help="rows only")
    made.add_argument("--json", action="store_true", help="machine-readable output")
    add_units(made, "*", "PATTERN")
    made.set_defaults(kind=kind)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0."""
    kind = arguments.kind
    patterns = [one if is_pattern(one) else unit_name(one, kind[:-1]) for one in arguments.units]
    with connect(arguments) as client:
        rows = client.ask(f"list-{kind}")[kind]
    rows = [row for row in rows if arguments.all or row["active"] not in ("inactive", "failed")]
    if patterns:
        rows = [row for row in rows if any(fnmatch.fnmatchcase(row["unit"], one) for one in patterns)]
    if arguments.json:
        print_json(rows)
        return EXIT_OK
    heads, lines = _table(kind, rows, getattr(arguments, "show_types", False))
    _print(heads, lines, legend=not arguments.no_legend)
    if not arguments.no_legend:
        print(f"\n{len(rows)} {kind} listed." if rows else f"0 {kind} listed.")
        if not arguments.all:
            print(f"Pass --all to see loaded but inactive {kind}, too.")
    return EXIT_OK


def _table(kind: str, rows: list[dict[str, Any]], types: bool) -> tuple[list[str], list[list[str]]]:
    """Heads and cells."""
    if kind == "timers":
        now = time.time()
        return ["NEXT", "LEFT", "LAST", "PASSED", "UNIT", "ACTIVATES"], [
            [_at(row["next"]), span_left(row["next"], now), _at(row["last"]), span_ago(row["last"], now),
             *_ends(row)] for row in rows
        ]  # fmt: skip
    if kind == "paths":
        return ["PATH", "CONDITION", "UNIT", "ACTIVATES"], [
            [printable(row["path"]), row["condition"], *_ends(row)] for row in rows
        ]
    return ["LISTEN", *["TYPE"] * types, "UNIT", "ACTIVATES"], [
        [printable(row["listen"]), *[row["type"]] * types, *_ends(row)] for row in rows
    ]


def _ends(row: dict[str, Any]) -> list[str]:
    return [row["unit"], ", ".join(row["activates"]) or "-"]


def _at(usec: int | None) -> str:
    return "-" if usec is None else moment(usec)


def _print(heads: list[str], lines: list[list[str]], legend: bool) -> None:
    if not lines:
        return
    widths = [max(len(line[at]) for line in [*lines, *[heads] * legend]) for at in range(len(heads))]
    for number, line in enumerate([*[heads] * legend, *lines]):
        text = " ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        print(colour(text, "bold") if legend and not number else text)


for _kind in KINDS:
    globals()[f"list_{_kind}_parser"] = partial(_parser, _kind)
    globals()[f"list_{_kind}_run"] = run
