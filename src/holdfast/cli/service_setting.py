"""`holdfast service set-property`, `clean`, `log-level`."""

from __future__ import annotations

import argparse

from holdfast.cli.output import completes
from holdfast.cli.service_asking import (
    EXIT_FAILED,
    EXIT_OK,
    add_units,
    complain,
    connect,
    refused,
    service_parser,
    unit_name,
    unit_names,
)

KINDS = ("configuration", "state", "cache", "logs", "runtime", "all")
LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")


def set_property_parser() -> argparse.ArgumentParser:
    """Options and help of `set-property`."""
    made = service_parser("set-property", "Set keys of a unit, in a drop-in; all unit files are read again.",
                          "  holdfast service set-property --runtime nginx MemoryMax=512M TasksMax=100\n"
                          "  holdfast service set-property nginx Restart=on-failure\n")  # fmt: skip
    made.add_argument("--runtime", action="store_true", help="until the next boot only, in the run directory")
    completes(made.add_argument("unit", metavar="UNIT"), "units")
    made.add_argument("assignments", nargs="+", metavar="KEY=VALUE")
    return made


def set_property_run(arguments: argparse.Namespace) -> int:
    """0; that of a refusal. Limits that this host cannot enforce are named."""
    from holdfast.service.control.wire import ControlError

    with connect(arguments) as client:
        try:
            reply = client.ask("set-property", unit_name(arguments.unit), assignments=arguments.assignments,
                               runtime=arguments.runtime)  # fmt: skip
        except ControlError as error:
            return refused(error)
    if reply["refused"]:
        complain(f"Set, but not enforced by this host's control groups: {', '.join(reply['refused'])}")
    return EXIT_OK


def clean_parser() -> argparse.ArgumentParser:
    """Options and help of `clean`."""
    made = service_parser("clean", "Remove the directories of units that are down.",
                          "  holdfast service clean --what state --what cache postgresql\n")  # fmt: skip
    made.add_argument("--what", action="append", default=[], metavar="KIND[,KIND]",
                      help=f"{', '.join(KINDS)} (cache and runtime)")  # fmt: skip
    add_units(made)
    return made


def clean_run(arguments: argparse.Namespace) -> int:
    """1: one is up, or has none."""
    from holdfast.service.control.wire import ControlError

    code = EXIT_OK
    kinds = [kind for one in arguments.what for kind in one.split(",") if kind]
    with connect(arguments) as client:
        for name in unit_names(client, arguments.units):
            try:
                client.ask("clean", name, what=kinds)
            except ControlError as error:
                complain(str(error))
                code = 4 if error.kind == "denied" else EXIT_FAILED
    return code


def log_level_parser() -> argparse.ArgumentParser:
    """Options and help of `log-level`."""
    made = service_parser("log-level", "Show or set how much the manager says.")
    made.add_argument("level", nargs="?", choices=LEVELS, metavar="LEVEL", help=", ".join(LEVELS))
    return made


def log_level_run(arguments: argparse.Namespace) -> int:
    """0, or that of a refusal."""
    from holdfast.service.control.wire import ControlError

    with connect(arguments) as client:
        try:
            reply = client.ask("log-level", level=arguments.level)
        except ControlError as error:
            return refused(error)
    if arguments.level is None:
        print(reply["level"])
    return EXIT_OK
