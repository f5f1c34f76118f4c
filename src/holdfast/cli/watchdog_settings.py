"""`holdfast watchdog settings`: systemd's watchdog settings, each with the place it comes from."""

from __future__ import annotations

import argparse
import sys

from holdfast.cli.output import Parser, add_json, print_json, print_table, printable

EPILOG = """\
Main file, drop-ins, then the kernel command line: each overrides what came before it, as systemd does it.

exit codes: 0 shown (--check: and nothing to complain about), 2 wrong usage, 3 --check: something was not
understood

examples:
  holdfast watchdog settings
  holdfast watchdog settings --check
  holdfast watchdog settings --root /mnt --json
"""
EXIT_OK = 0
EXIT_COMPLAINTS = 3


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("watchdog settings", "Show systemd's watchdog settings and their sources.", EPILOG)
    made.add_argument(
        "--root", metavar="DIR", default="/", help="of another system; its kernel command line is not read"
    )
    made.add_argument("--check", action="store_true", help="fail when something was not understood")
    add_json(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """See the exit codes in the help."""
    from holdfast.watchdog.settings import load

    settings = load(arguments.root, None if arguments.root == "/" else "")
    if arguments.json:
        print_json(
            {
                "settings": [
                    {"name": name, "value": value.value, "shown": value.shown, "source": value.source}
                    for name, value in settings.values.items()
                ],
                "complaints": [
                    {"path": one.path, "line": one.line, "text": one.text} for one in settings.complaints
                ],
            }
        )
    else:
        rows = [(name, value.shown or "-", value.source) for name, value in settings.values.items()]
        print_table(rows, ("setting", "value", "source"))
        for complaint in settings.complaints:
            print(f"holdfast watchdog settings: {printable(str(complaint))}", file=sys.stderr)
    return EXIT_COMPLAINTS if arguments.check and settings.complaints else EXIT_OK
