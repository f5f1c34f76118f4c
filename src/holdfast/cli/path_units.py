"""`holdfast path units`: unit files of the path daemon for this or another systemd."""

from __future__ import annotations

import argparse
import os

from holdfast.cli.output import Parser, add_json, bounded, print_json

EPILOG = """\
Below systemd 207, whose watchdog is broken, the service has no watchdog; from 207 on it has WatchdogSec=5s,
Restart=on-failure and RestartPreventExitStatus=1; from 245 on the limits and the confinement of today.

exit codes: 0 printed or written, 1 a file cannot be written, 2 wrong usage

examples:
  holdfast path units --systemd-version 206
  holdfast path units --kind socket
  holdfast path units --directory /etc/systemd/system && systemctl daemon-reload
"""
MAX_VERSION = 9999


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("path units", "Print the path daemon's unit files.", EPILOG)
    made.add_argument("--systemd-version", metavar="N", type=bounded(1, MAX_VERSION), help="(252)")
    made.add_argument("--kind", choices=("service", "socket", "queueing"), help="only this one (service)")
    made.add_argument("--program", metavar="PATH", help="what the service starts (/usr/bin/holdfast-multipathd)")
    made.add_argument("--directory", metavar="DIR", help="write all three there instead")
    add_json(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0; OSError when a file cannot be written."""
    from holdfast.path.daemon.units import DEFAULT_VERSION, KINDS, NAMES, PROGRAM, unit

    version = arguments.systemd_version or DEFAULT_VERSION
    program = arguments.program or PROGRAM
    kinds = (arguments.kind,) if arguments.kind else KINDS if arguments.directory else KINDS[:1]
    texts = {NAMES[kind]: unit(kind, version, program) for kind in kinds}
    if arguments.directory:
        for name, text in texts.items():
            path = os.path.join(arguments.directory, name)
            with open(path, "w", encoding="ascii") as file:
                file.write(text)
            if not arguments.json:
                print(path)
    if arguments.json:
        print_json({"units": [{"name": name, "text": text} for name, text in texts.items()]})
    elif not arguments.directory:
        print("".join(texts.values()), end="")
    return 0
