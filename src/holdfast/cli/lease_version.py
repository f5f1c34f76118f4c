"""`holdfast lease version`: versions of this program, of the daemon, and of the protocol between them."""

from __future__ import annotations

import argparse
import asyncio

from holdfast.cli.output import Parser, add_json, add_run_dir, print_json, printable
from holdfast.client.daemon import Daemon
from holdfast.client.errors import DaemonUnreachable
from holdfast.leased import wire
from holdfast.version import __version__

EPILOG = """\
The daemon names the release of sanlock whose protocol it speaks; Holdfast's own daemon says 3.8.5 there.

exit codes: 0 the daemon answered, 1 it did not (this program's version is shown all the same), 2 wrong usage

examples:
  holdfast lease version
  holdfast lease version --json | jq -r .daemon
"""


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease version", "Show the versions of this program and of the lease daemon.", EPILOG)
    add_json(made)
    add_run_dir(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0 when the daemon answered."""
    return asyncio.run(_run(Daemon(arguments.run_dir), arguments.json))


async def _run(daemon: Daemon, as_json: bool) -> int:
    protocol = f"{wire.PROTOCOL_VERSION >> 16}.{wire.PROTOCOL_VERSION & 0xFFFF}"
    document: dict[str, object] = {
        "holdfast": __version__,
        "protocol": protocol,
        "daemon": None,
        "host_name": None,
    }
    missing: DaemonUnreachable | None = None
    try:
        document["daemon"] = ".".join(map(str, await daemon.version()))
        document["host_name"] = (await daemon.status()).host_name
    except DaemonUnreachable as error:
        missing = error
    if as_json:
        print_json(document)
    else:
        print(f"holdfast {__version__}, socket protocol {protocol}")
        if missing is None:
            print(f"daemon {printable(str(document['host_name']))}: sanlock protocol {document['daemon']}")
    if missing is not None:
        raise missing
    return 0
