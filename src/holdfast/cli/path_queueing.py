"""`holdfast path queueing`: what becomes of I/O to maps without any path."""

from __future__ import annotations

import argparse

from holdfast.cli.output import Parser, add_json, print_json
from holdfast.cli.path_asking import add_map, add_socket, ask
from holdfast.cli.path_show import MAP_FIELDS, ask_rows, table
from holdfast.cli.refusal import Refusal

EXIT_USAGE = 2
FIELDS = tuple((name, wildcard, name.replace("_", " ")) for name, wildcard, _ in MAP_FIELDS if name in (
    "map", "queueing", "active_paths", "features", "failures"))  # fmt: skip

STATUS_EPILOG = """\
queueing: on, off, `-` as the kernel has it, `N chk` for N more checks once the last path is gone, `N sec` while
that time runs out.

exit codes: 0 shown, 1 no daemon answers, 2 wrong usage

example:
  holdfast path queueing status
"""
DISABLE_EPILOG = """\
I/O that waits for a path fails at once, and later I/O without a path too: to get hung processes free, or before a
shutdown. It stays so until `holdfast path queueing restore`, or until the map has paths again. Only root may.

exit codes: 0 done, 1 refused or no daemon answers, 2 wrong usage

examples:
  holdfast path queueing disable mpatha
  holdfast path queueing disable --all
"""
RESTORE_EPILOG = """\
Queueing as multipath.conf says (no_path_retry). Only root may.

exit codes: 0 done, 1 refused or no daemon answers, 2 wrong usage

example:
  holdfast path queueing restore mpatha
"""
DAEMON_EPILOG = """\
Whether maps go on queueing when the daemon ends, instead of queue_without_daemon: `keep` before an update of the
daemon while paths are away, `as-configured` afterwards. Only root may.

exit codes: 0 done, 1 refused or no daemon answers, 2 wrong usage

example:
  holdfast path queueing at-exit keep
"""


def status_parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("path queueing status", "Show which maps queue I/O without a path.", STATUS_EPILOG)
    add_json(made)
    add_socket(made)
    return made


def disable_parser() -> argparse.ArgumentParser:
    """Options and help."""
    return _map_parser("path queueing disable", "Let I/O without a path fail.", DISABLE_EPILOG)


def restore_parser() -> argparse.ArgumentParser:
    """Options and help."""
    return _map_parser("path queueing restore", "Queue as multipath.conf says.", RESTORE_EPILOG)


def at_exit_parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("path queueing at-exit", "Whether maps queue when the daemon has ended.", DAEMON_EPILOG)
    made.add_argument("what", choices=("keep", "as-configured"), help="of the maps' queueing")
    add_json(made)
    add_socket(made)
    return made


def _map_parser(command: str, description: str, epilog: str) -> argparse.ArgumentParser:
    made = Parser(command, description, epilog)
    add_map(made)
    made.add_argument("--all", action="store_true", help="of all maps")
    add_json(made)
    add_socket(made)
    return made


def status_run(arguments: argparse.Namespace) -> int:
    """0; errors are raised."""
    rows = ask_rows("maps", FIELDS, arguments.socket)
    if arguments.json:
        print_json({"maps": rows})
    else:
        print(table(rows, FIELDS), end="")
    return 0


def disable_run(arguments: argparse.Namespace) -> int:
    """0; errors are raised."""
    return _change("disablequeueing", arguments)


def restore_run(arguments: argparse.Namespace) -> int:
    """0; errors are raised."""
    return _change("restorequeueing", arguments)


def at_exit_run(arguments: argparse.Namespace) -> int:
    """0; errors are raised."""
    return _ask(f"{'forcequeueing' if arguments.what == 'keep' else 'restorequeueing'} daemon", arguments)


def _change(verb: str, arguments: argparse.Namespace) -> int:
    if bool(arguments.map) == arguments.all:
        raise Refusal(-22, "name a map, or say --all", "holdfast path show maps lists them", EXIT_USAGE)
    return _ask(f"{verb} maps" if arguments.all else f"{verb} map {arguments.map}", arguments)


def _ask(request: str, arguments: argparse.Namespace) -> int:
    reply = ask(request, arguments.socket).strip()
    if arguments.json:
        print_json({"done": True, "reply": reply})
    elif reply != "ok":
        print(reply)
    return 0
