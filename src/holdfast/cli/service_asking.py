"""What the commands of `holdfast service` have in common: options, the connection, names of units, exit codes."""

from __future__ import annotations

import argparse
import fnmatch
import sys
from typing import TYPE_CHECKING, Any

from holdfast.cli.output import Parser, completes

if TYPE_CHECKING:
    from holdfast.service.control.client import Client

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_NOT_RUNNING = 3
EXIT_REFUSED = 4
EXIT_UNKNOWN = 4
EXIT_NOT_FOUND = 5
EXIT_CODES = {
    "not-found": EXIT_NOT_FOUND,
    "refused": EXIT_REFUSED,
    "destructive": EXIT_REFUSED,
    "denied": EXIT_REFUSED,
    "not-applicable": EXIT_NOT_RUNNING,
}
"""By the kind of a refusal; others are 1. They are systemctl's."""
WITHOUT_UNITS = frozenset(
    (
        "list-units", "list-timers", "list-sockets", "list-paths", "list-jobs",
        "list-unit-files", "is-system-running", "cancel", "daemon-reload",
        "get-default", "service-watchdogs", "show-environment", "log-level",
        "exit", "reboot", "poweroff", "halt",
    )
)  # fmt: skip
CODES_TEXT = """\
exit codes: 0 done, 1 failed, 2 wrong usage, 3 not running, 4 refused or unknown, 5 no such unit (systemctl's)
"""


def service_parser(verb: str, description: str, examples: str = "", codes: str = CODES_TEXT) -> Parser:
    """A parser with what all commands have."""
    examples = examples or f"  holdfast service {verb}{'' if verb in WITHOUT_UNITS else ' nginx'}\n"
    epilog = f"{codes}\nexamples:\n{examples}"
    made = Parser(f"service {verb}", description, epilog)
    made.add_argument(
        "--run-dir",
        metavar="DIR",
        help="directory of the manager's socket (default: $HOLDFAST_SERVICE_RUN_DIR, /run/holdfast for root, else "
        "$XDG_RUNTIME_DIR/holdfast)",
    )
    made.set_defaults(systemctl=False)
    return made


def add_units(parser: argparse.ArgumentParser, many: str = "+", metavar: str = "UNIT") -> None:
    """UNIT...: names or patterns; without a type they are services."""
    completes(parser.add_argument("units", nargs=many, metavar=metavar), "units")


def control_path(run_dir: str | None) -> str:
    """The manager's socket."""
    import os

    from holdfast.service.manager.options import CONTROL_NAME, default_run_dir

    return os.path.join(run_dir or default_run_dir(), CONTROL_NAME)


def connect(arguments: argparse.Namespace) -> Client:
    """OSError: nobody answers."""
    from holdfast.service.control.client import Client

    return Client(control_path(arguments.run_dir))


def complain(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr)


def warn_changed(unit: str, command: str) -> None:
    """Of a unit whose files are newer than what is loaded (spec 12.6)."""
    complain(
        f"Warning: The unit file, source configuration file or drop-ins of {unit} changed on disk. "
        f"Run '{command} daemon-reload' to reload units."
    )


def refused(error: Any) -> int:
    """A ControlError of a whole request: said, and its exit code."""
    complain(str(error))
    return EXIT_CODES.get(error.kind, EXIT_FAILED)


def is_pattern(name: str) -> bool:
    """A glob."""
    return any(character in name for character in "*?[")


def unit_names(client: Client, given: list[str], suffix: str = "service") -> list[str]:
    """Names as units have them; patterns stand for the loaded units that they match."""
    names: list[str] = []
    for one in given:
        if is_pattern(one):
            names += [row["unit"] for row in client.ask("units")["units"] if fnmatch.fnmatchcase(row["unit"], one)]
        else:
            names.append(unit_name(one, suffix))
    return list(dict.fromkeys(names))


def unit_name(given: str, suffix: str = "service") -> str:
    """One name; characters that no unit may have are escaped, with a note."""
    from holdfast.service.names import UnitNameError, mangle

    try:
        name = mangle(given, suffix)
    except UnitNameError:
        return given
    stem = name.removesuffix(f".{suffix}")
    if not given.startswith("/") and stem != given.removesuffix(f".{suffix}"):
        complain(f'Invalid unit name "{given}" escaped as "{stem}" (maybe you should use systemd-escape?).')
    return name


def program(arguments: argparse.Namespace) -> str:
    """What hints name."""
    return "systemctl" if arguments.systemctl else "holdfast service"
