"""`holdfast lease set-config`: says that a lockspace is used by something that the daemon does not know."""

from __future__ import annotations

import argparse
import asyncio

from holdfast.cli.output import Parser, add_json, add_run_dir, add_space, print_json
from holdfast.client.daemon import Daemon
from holdfast.leased import wire

EPILOG = """\
used               removal waits, and in a failure the watchdog resets the host, until `unused` is set
unused             removal does not wait any more
used-by-orphans    removal waits while orphans of the lockspace exist
unused-by-orphans  it does not

It is not kept on storage, and forgotten when the lockspace is left.

exit codes: 0 set, 1 failed, 2 wrong usage

examples:
  holdfast lease set-config web used
  holdfast lease set-config web unused-by-orphans
"""
COMMANDS = {
    "used": wire.CONFIG_USED,
    "unused": wire.CONFIG_UNUSED,
    "used-by-orphans": wire.CONFIG_USED_BY_ORPHANS,
    "unused-by-orphans": wire.CONFIG_UNUSED_BY_ORPHANS,
}


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease set-config", "Hold up the removal of a lockspace, or no longer.", EPILOG)
    add_space(made)
    made.add_argument("setting", choices=COMMANDS)
    add_json(made)
    add_run_dir(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when it was set."""
    asyncio.run(Daemon(arguments.run_dir).set_config(arguments.space, COMMANDS[arguments.setting]))
    if arguments.json:
        print_json({"lockspace": arguments.space, "setting": arguments.setting})
    else:
        print(f"lockspace {arguments.space} is {arguments.setting.replace('-', ' ')}")
    return 0
