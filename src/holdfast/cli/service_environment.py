"""`holdfast service show-environment`, `set-environment` and their like: the variables of all services (11.2)."""

from __future__ import annotations

import argparse
import os
from typing import Any

from holdfast.cli.output import print_json
from holdfast.cli.service_asking import EXIT_OK, complain, connect, refused, service_parser

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:,@%+=~")
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\", "'": "\\'"}


def show_environment_parser() -> argparse.ArgumentParser:
    """Options and help of `show-environment`."""
    made = service_parser("show-environment", "Print the variables that all services get, for a shell to read.")
    made.add_argument("--json", action="store_true", help="machine-readable output")
    return made


def show_environment_run(arguments: argparse.Namespace) -> int:
    """0."""
    with connect(arguments) as client:
        found: dict[str, str] = client.ask("show-environment")["environment"]
    if arguments.json:
        print_json(found)
        return EXIT_OK
    for name, value in sorted(found.items()):
        print(f"{name}={quoted(value)}")
    return EXIT_OK


def quoted(value: str) -> str:
    """As a shell reads it back: `$'...'` where that is needed."""
    if set(value) <= _PLAIN:
        return value
    text = "".join(_ESCAPES.get(one) or (one if one.isprintable() else _octal(one)) for one in value)
    return f"$'{text}'"


def _octal(character: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))


def set_environment_parser() -> argparse.ArgumentParser:
    """Options and help of `set-environment`."""
    return _parser("set-environment", "Give a variable to all services that start from now on.", "NAME=VALUE",
                   "  holdfast service set-environment HTTP_PROXY=http://proxy:3128\n")  # fmt: skip


def set_environment_run(arguments: argparse.Namespace) -> int:
    """0, or that of a refusal."""
    return _ask(arguments, "set-environment", arguments.assignments)


def unset_environment_parser() -> argparse.ArgumentParser:
    """Options and help of `unset-environment`."""
    return _parser("unset-environment", "Undo set-environment; NAME=VALUE only where the value is this one.",
                   "NAME[=VALUE]", "  holdfast service unset-environment HTTP_PROXY\n")  # fmt: skip


def unset_environment_run(arguments: argparse.Namespace) -> int:
    """0, or that of a refusal."""
    return _ask(arguments, "unset-environment", arguments.assignments)


def import_environment_parser() -> argparse.ArgumentParser:
    """Options and help of `import-environment`."""
    return _parser("import-environment", "set-environment with values of this shell; without names all of them.",
                   "NAME", "  holdfast service import-environment TZ LANG\n", "*")  # fmt: skip


def import_environment_run(arguments: argparse.Namespace) -> int:
    """0, or that of a refusal."""
    if not arguments.assignments:
        complain("Calling import-environment without a list of variable names is deprecated.")
    found = []
    for name in arguments.assignments or sorted(os.environ):
        if name in os.environ:
            found.append(f"{name}={os.environ[name]}")
        else:
            complain(f"Environment variable ${name} not set, ignoring.")
    return _ask(arguments, "set-environment", found) if found else EXIT_OK


def _parser(verb: str, description: str, metavar: str, examples: str, many: str = "+") -> argparse.ArgumentParser:
    made = service_parser(verb, description, examples)
    made.add_argument("assignments", nargs=many, metavar=metavar)
    return made


def _ask(arguments: argparse.Namespace, verb: str, assignments: list[str]) -> int:
    from holdfast.service.control.wire import ControlError

    fields: dict[str, Any] = {"assignments": assignments}
    with connect(arguments) as client:
        try:
            client.ask(verb, **fields)
        except ControlError as error:
            return refused(error)
    return EXIT_OK
