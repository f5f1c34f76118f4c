"""`holdfast lease align`: how many bytes a lease area has on a file or device."""

from __future__ import annotations

import argparse
import asyncio
import os

from holdfast.cli.output import Parser, add_json, add_run_dir, print_json
from holdfast.client.daemon import Daemon

EPILOG = """\
1 MiB for files and devices with 512-byte sectors, 8 MiB for those with 4096: by so much, at least, the offsets of
lockspaces, indexes and resources lie apart.

exit codes: 0 shown, 1 failed, 2 wrong usage

examples:
  holdfast lease align /dev/vg/leases
"""


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease align", "Show how much room a lease needs on storage.", EPILOG)
    made.add_argument("path", metavar="PATH")
    add_json(made)
    add_run_dir(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when the daemon could open the path."""
    path = os.path.abspath(arguments.path)
    size = asyncio.run(Daemon(arguments.run_dir).align(path))
    if arguments.json:
        print_json({"path": path, "align_size": size})
    else:
        print(f"{size}")
    return 0
