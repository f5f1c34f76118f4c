"""`holdfast path fail, reinstate, reconfigure`: what changes a path, or all of them."""

from __future__ import annotations

import argparse
import sys

from holdfast.cli.output import Parser, add_json, print_json
from holdfast.cli.path_asking import add_path, add_socket, ask
from holdfast.cli.refusal import Refusal

FAIL_EPILOG = """\
The kernel uses the path no more, and its checks say nothing, until it is reinstated: for maintenance of a
cable, a port or a controller. The decision stays over a reconfigure; it ends with the daemon, or when the
device goes away. Only root may do this.

exit codes: 0 done, 1 refused or no daemon answers, 2 wrong usage

examples:
  holdfast path fail sda
  holdfast path fail sda sdc && ... && holdfast path reinstate sda sdc
"""
REINSTATE_EPILOG = """\
The kernel may use the path again, and it is checked at once: if it is bad, it fails again. Only root may do
this.

exit codes: 0 done, 1 refused or no daemon answers, 2 wrong usage

example:
  holdfast path reinstate sda
"""
RECONFIGURE_EPILOG = """\
Reads multipath.conf anew, looks for devices, and changes only those maps that differ; with --all every map is
loaded again. Checks go on meanwhile; counters and paths that were failed by hand stay. The command returns when
the daemon has begun. A file that cannot be used changes nothing: see holdfast path config check. Only root may
do this.

exit codes: 0 begun, 1 refused or no daemon answers, 2 wrong usage

examples:
  holdfast path config check && holdfast path reconfigure
"""


def fail_parser() -> argparse.ArgumentParser:
    """Options and help."""
    return _paths_parser("path fail", "Take paths out of use.", FAIL_EPILOG)


def reinstate_parser() -> argparse.ArgumentParser:
    """Options and help."""
    return _paths_parser("path reinstate", "Take paths into use again.", REINSTATE_EPILOG)


def _paths_parser(command: str, description: str, epilog: str) -> argparse.ArgumentParser:
    made = Parser(command, description, epilog)
    add_path(made)
    add_json(made)
    add_socket(made)
    return made


def reconfigure_parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("path reconfigure", "Read multipath.conf anew and look for devices.", RECONFIGURE_EPILOG)
    made.add_argument("--all", action="store_true", help="load every map again, changed or not")
    add_json(made)
    add_socket(made)
    return made


def fail_run(arguments: argparse.Namespace) -> int:
    """0, or 1 when one of them was refused."""
    return _each(arguments, "fail", "failed")


def reinstate_run(arguments: argparse.Namespace) -> int:
    """0, or 1 when one of them was refused."""
    return _each(arguments, "reinstate", "reinstated")


def _each(arguments: argparse.Namespace, verb: str, done: str) -> int:
    """All of them, whatever becomes of one: the others are wanted as well."""
    results = []
    for path in arguments.path:
        try:
            reply = ask(f"{verb} path {path}", arguments.socket).strip()
            results.append({"path": path, "done": True, "reply": reply})
            if not arguments.json:
                print(f"{path} {done}" + (f": {reply}" if reply != "ok" else ""))
        except Refusal as refusal:
            results.append({"path": path, "done": False, "reply": str(refusal)})
            if not arguments.json:
                print(f"holdfast: {refusal}", file=sys.stderr)
    if arguments.json:
        print_json({"paths": results})
    return 0 if all(result["done"] for result in results) else 1


def reconfigure_run(arguments: argparse.Namespace) -> int:
    """0; errors are raised."""
    reply = ask("reconfigure all" if arguments.all else "reconfigure", arguments.socket).strip()
    if arguments.json:
        print_json({"done": True, "reply": reply})
    elif reply != "ok":
        print(reply)
    return 0
