"""`holdfast service list-units`, `list-unit-files`, `list-jobs`, `list-dependencies` (spec 13.3)."""

from __future__ import annotations

import argparse
import fnmatch
from typing import Any

from holdfast.cli.output import colour, print_json, printable
from holdfast.cli.service_asking import (
    EXIT_OK,
    add_units,
    connect,
    program,
    refused,
    service_parser,
    unit_name,
)

_BAD = ("not-found", "masked", "error", "bad-setting")
_LEGEND = """
LOAD   = Reflects whether the unit definition was properly loaded.
ACTIVE = The high-level unit activation state, i.e. generalization of SUB.
SUB    = The low-level unit activation state, values depend on unit type."""
_DOTS = {"active": "green", "reloading": "green", "failed": "red"}


def _add_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-t", "--type", action="append", default=[], metavar="TYPE", help="only units of this type"
    )
    parser.add_argument("--state", action="append", default=[], metavar="STATE", help="only in this state")
    parser.add_argument("--no-legend", action="store_true", help="rows only")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    add_units(parser, "*", "PATTERN")


def list_units_parser() -> argparse.ArgumentParser:
    """Options and help of `list-units`."""
    made = service_parser("list-units", "List units that are up, have failed, or have a job.",
                          "  holdfast service list-units --failed\n")  # fmt: skip
    made.add_argument("-a", "--all", action="store_true", help="inactive ones too")
    made.add_argument("--failed", action="store_true", help="only failed ones")
    made.add_argument("--plain", action="store_true", help="without dots")
    _add_list(made)
    return made


def list_units_run(arguments: argparse.Namespace) -> int:
    """0."""
    with connect(arguments) as client:
        rows = [row for row in client.ask("units")["units"] if _matches(row, arguments)]
    states = _split(arguments.state) + ["failed"] * arguments.failed
    if states:
        rows = [row for row in rows if {row["load"], row["active"], row["sub"]} & set(states)]
    elif not arguments.all:
        rows = [row for row in rows if row["active"] != "inactive" or "job" in row]
    if arguments.json:
        print_json(rows)
        return EXIT_OK
    _print_units(rows, arguments, bool(states))
    return EXIT_OK


def _split(lists: list[str]) -> list[str]:
    return [word for one in lists for word in one.split(",") if word]


def _matches(row: dict[str, Any], arguments: argparse.Namespace) -> bool:
    types = _split(arguments.type)
    if types and row["unit"].rpartition(".")[2] not in types:
        return False
    patterns = arguments.units
    return not patterns or any(fnmatch.fnmatchcase(row["unit"], _pattern(one)) for one in patterns)


def _pattern(text: str) -> str:
    return text if any(character in text for character in "*?[") else unit_name(text)


def _print_units(rows: list[dict[str, Any]], arguments: argparse.Namespace, filtered: bool) -> None:
    heads = ["UNIT", "LOAD", "ACTIVE", "SUB"]
    jobs = any("job" in row for row in rows)
    if jobs:
        heads.append("JOB")
    heads.append("DESCRIPTION")
    table = [[str(row.get(head.lower(), "")) for head in heads] for row in rows]
    legend = not arguments.no_legend
    widths = [
        max([len(head) * legend, *(len(line[at]) for line in table)], default=0) for at, head in enumerate(heads)
    ]
    if not table and legend:
        print("0 loaded units listed." + ("" if filtered or arguments.all else _HINT))
        if not filtered:
            print(f"To show all installed unit files use '{program(arguments)} list-unit-files'.")
        return
    margin = "" if arguments.plain else "  "
    if legend:
        print(colour(margin + _line(heads, widths), "bold"))
    for row, line in zip(rows, table, strict=True):
        bad = row["active"] == "failed" or row["load"] in _BAD
        dot = colour("● ", "red") if bad else "  "
        print(("" if arguments.plain else dot) + _line([printable(cell) for cell in line], widths))
    if legend:
        print(_LEGEND)
        if jobs:
            print("JOB    = Pending job for the unit.")
        print(f"{len(rows)} loaded units listed." + ("" if filtered or arguments.all else _HINT))
        if not filtered:
            command = program(arguments)
            print(f"To show all installed unit files use '{command} list-unit-files'.")


_HINT = " Pass --all to see loaded but inactive units, too."


def _line(cells: list[str], widths: list[int]) -> str:
    return " ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def list_jobs_parser() -> argparse.ArgumentParser:
    """Options and help of `list-jobs`."""
    made = service_parser("list-jobs", "List jobs that run or wait.")
    made.add_argument("--no-legend", action="store_true", help="rows only")
    made.add_argument("--json", action="store_true", help="machine-readable output")
    return made


def list_jobs_run(arguments: argparse.Namespace) -> int:
    """0."""
    with connect(arguments) as client:
        jobs = client.ask("list-jobs")["jobs"]
    if arguments.json:
        print_json(jobs)
        return EXIT_OK
    if not jobs:
        print("No jobs running.")
        return EXIT_OK
    heads = ["JOB", "UNIT", "TYPE", "STATE"]
    table = [[str(job["id"]), job["unit"], job["type"], job["state"]] for job in jobs]
    widths = [max(len(head), *(len(line[at]) for line in table)) for at, head in enumerate(heads)]
    if not arguments.no_legend:
        print(_line(heads, widths))
    for line in table:
        print(_line(line, widths))
    if not arguments.no_legend:
        print(f"\n{len(jobs)} jobs listed.")
    return EXIT_OK


def list_dependencies_parser() -> argparse.ArgumentParser:
    """Options and help of `list-dependencies`."""
    made = service_parser("list-dependencies", "Show what units pull in, as a tree.")
    made.add_argument("--reverse", action="store_true", help="what pulls them in")
    made.add_argument("--after", action="store_true", help="what they are ordered after")
    made.add_argument("--before", action="store_true", help="what they are ordered before")
    made.add_argument("-a", "--all", action="store_true", help="not only targets are followed")
    made.add_argument("--plain", action="store_true", help="a list instead of a tree")
    made.add_argument("--json", action="store_true", help="machine-readable output")
    add_units(made, "*")
    return made


_REVERSE = ["RequiredBy", "RequisiteOf", "WantedBy", "BoundBy", "UpheldBy", "PartOf"]


def list_dependencies_run(arguments: argparse.Namespace) -> int:
    """0, or that of a refusal."""
    from holdfast.service.control.wire import ControlError

    kinds = (
        _REVERSE if arguments.reverse else ["After"] if arguments.after else ["Before"] if arguments.before else []
    )
    names = [unit_name(one) for one in arguments.units] or ["default.target"]
    with connect(arguments) as client:
        try:
            tree = client.ask("dependencies", *names, properties=kinds)["tree"]
        except ControlError as error:
            return refused(error)
    if arguments.json:
        print_json(tree)
        return EXIT_OK
    for number, name in enumerate(names):
        print("\n" * bool(number) + name)
        _print_tree(tree, name, "", {name}, arguments)
    return EXIT_OK


def _print_tree(
    tree: dict[str, list[dict[str, str]]], name: str, indent: str, above: set[str], arguments: argparse.Namespace
) -> None:
    others = tree.get(name, [])
    for number, other in enumerate(others):
        last = number == len(others) - 1
        dot = colour("●" if other["active"] != "inactive" else "○", _DOTS.get(other["active"], "dim"))
        branch = "" if arguments.plain else indent + ("└─" if last else "├─")
        print(f"{dot} {branch}{other['unit']}")
        follows = arguments.all or other["unit"].endswith(".target")
        if follows and other["unit"] not in above:
            deeper = indent + ("  " if last else "│ ")
            _print_tree(tree, other["unit"], deeper, above | {other["unit"]}, arguments)
