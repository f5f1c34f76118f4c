"""`holdfast service show`, `is-active`, `is-failed`, `is-system-running`: properties and words for programs."""

from __future__ import annotations

import argparse
from typing import Any

from holdfast.cli.output import print_json
from holdfast.cli.service_asking import (
    EXIT_FAILED,
    EXIT_NOT_RUNNING,
    EXIT_OK,
    add_units,
    connect,
    refused,
    service_parser,
    unit_names,
)

LISTS = ("Listen", "TimersMonotonic", "TimersCalendar", "Paths")
"""With a line for each item, as lists of commands are."""
UP = ("active", "reloading")


def show_parser() -> argparse.ArgumentParser:
    """Options and help of `show`."""
    made = service_parser("show", "Print properties of units, without one those of the manager.",
                          "  holdfast service show -p MainPID --value nginx\n")  # fmt: skip
    made.add_argument("-p", "--property", action="append", default=[], metavar="NAME[,NAME]", help="only these")
    made.add_argument("--value", action="store_true", help="values without names")
    made.add_argument("-a", "--all", action="store_true", help="empty ones too")
    made.add_argument("--json", action="store_true", help="machine-readable output")
    add_units(made, "*")
    return made


def show_run(arguments: argparse.Namespace) -> int:
    """0, of unknown units too."""
    from holdfast.service.control.wire import ControlError

    names = [name for one in arguments.property for name in one.split(",") if name]
    with connect(arguments) as client:
        try:
            if arguments.units:
                units = unit_names(client, arguments.units)
                found = client.ask("show", *units, properties=names)["units"] if units else []
            else:
                found = [client.ask("show-manager", properties=names)["properties"]]
        except ControlError as error:
            return refused(error)
    if arguments.json:
        print_json(found)
        return EXIT_OK
    for number, properties in enumerate(found):
        if number:
            print()
        _print(properties, arguments)
    return EXIT_OK


def _print(properties: dict[str, str], arguments: argparse.Namespace) -> None:
    for key, text in properties.items():
        for value in text.split("\n") if key in LISTS or key.startswith("Exec") else [text]:
            if value or arguments.all or arguments.property:
                print(value if arguments.value else f"{key}={value}")


def _words_parser(verb: str, description: str) -> argparse.ArgumentParser:
    made = service_parser(verb, description)
    made.add_argument("-q", "--quiet", action="store_true", help="only the exit code")
    made.add_argument("--json", action="store_true", help="machine-readable output")
    add_units(made)
    return made


def is_active_parser() -> argparse.ArgumentParser:
    """Options and help of `is-active`."""
    return _words_parser("is-active", "Print the state of units; 0 when one of them is active, else 3.")


def is_active_run(arguments: argparse.Namespace) -> int:
    """0: one is up; 3: none."""
    states = _states(arguments)
    return EXIT_OK if any(state in UP for state in states) else EXIT_NOT_RUNNING


def is_failed_parser() -> argparse.ArgumentParser:
    """Options and help of `is-failed`."""
    return _words_parser("is-failed", "Print the state of units; 0 when one of them has failed, else 1.")


def is_failed_run(arguments: argparse.Namespace) -> int:
    """0: one has failed; 1: none."""
    return EXIT_OK if "failed" in _states(arguments) else EXIT_FAILED


def _states(arguments: argparse.Namespace) -> list[str]:
    with connect(arguments) as client:
        units = unit_names(client, arguments.units)
        rows: list[dict[str, Any]] = (
            client.ask("show", *units, properties=["Id", "ActiveState"])["units"] if units else []
        )
    states = [str(row["ActiveState"]) for row in rows]
    if arguments.json:
        print_json({row["Id"]: row["ActiveState"] for row in rows})
    elif not arguments.quiet:
        print(*states, sep="\n")
    return states


def is_system_running_parser() -> argparse.ArgumentParser:
    """Options and help of `is-system-running`."""
    return service_parser(
        "is-system-running", "Print starting, running, degraded or stopping; 0 only for running."
    )


def is_system_running_run(arguments: argparse.Namespace) -> int:
    """1: anything but running."""
    try:
        with connect(arguments) as client:
            word = client.ask("show-manager", properties=["SystemState"])["properties"]["SystemState"]
    except OSError:
        word = "offline"
    print(word)
    return EXIT_OK if word == "running" else EXIT_FAILED
