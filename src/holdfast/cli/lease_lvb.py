"""`holdfast lease lvb get|set`: the value that travels with a lease, as bytes."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from holdfast.cli.output import Parser, add_json, add_lease, add_run_dir, bounded, print_json
from holdfast.cli.refusal import Refusal
from holdfast.client.daemon import Daemon
from holdfast.client.errors import ClientError
from holdfast.leased import wire

NEEDS = """\
A process of this host must hold the lease, and must have acquired it with its value (holdfast lease acquire
--lvb). A value has the size of a sector, 512 or 4096 bytes; a shorter one leaves the rest as it was.
"""
GET_EPILOG = f"""\
{NEEDS}
exit codes: 0 shown, 1 failed, 2 wrong usage

examples:
  holdfast lease lvb get web:data --hex
  holdfast lease lvb get web:data --size 16 | od -c
"""
SET_EPILOG = f"""\
{NEEDS}
The value goes to storage when the lease is released or converted to shared; until then it lives in the daemon.

exit codes: 0 set, 1 failed, 2 wrong usage

examples:
  printf 'epoch 7' | holdfast lease lvb set web:data
  echo 00ff | holdfast lease lvb set web:data --hex
  holdfast lease lvb set web:data --file value.bin
"""


def get_parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease lvb get", "Write the value of a held lease to stdout.", GET_EPILOG)
    add_lease(made)
    made.add_argument("--hex", action="store_true", help="as hexadecimal digits")
    made.add_argument("--file", metavar="PATH", help="into this file")
    made.add_argument(
        "--size", type=bounded(1, wire.MAX_LVB), default=0, metavar="BYTES", help="so much of it (default: all)"
    )
    add_json(made)
    add_run_dir(made)
    return made


def get_run(arguments: argparse.Namespace) -> int:
    """0 when the value was written out."""
    daemon = Daemon(arguments.run_dir)
    try:
        value = asyncio.run(daemon.get_lvb(arguments.lease, arguments.size))
    except ClientError as error:
        raise _explained(error) from None
    if arguments.json:
        lease = arguments.lease
        print_json({"lockspace": lease.space, "resource": lease.resource, "size": len(value), "hex": value.hex()})
        return 0
    out = value.hex().encode() + b"\n" if arguments.hex else value
    if arguments.file:
        Path(arguments.file).write_bytes(out)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(out)
        sys.stdout.buffer.flush()
    return 0


def set_parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease lvb set", "Change the value of a held lease, from stdin.", SET_EPILOG)
    add_lease(made)
    made.add_argument("--hex", action="store_true", help="the input is hexadecimal digits, blanks are skipped")
    made.add_argument("--file", metavar="PATH", help="from this file")
    add_json(made)
    add_run_dir(made)
    return made


def set_run(arguments: argparse.Namespace) -> int:
    """0 when the daemon has the new value."""
    value = _input(arguments.file, arguments.hex)
    try:
        asyncio.run(Daemon(arguments.run_dir).set_lvb(arguments.lease, value))
    except ClientError as error:
        raise _explained(error) from None
    if arguments.json:
        lease = arguments.lease
        print_json({"lockspace": lease.space, "resource": lease.resource, "size": len(value)})
    else:
        print(f"{arguments.lease}: {len(value)} bytes set; written when it is released or made shared")
    return 0


def _input(path: str | None, is_hex: bool) -> bytes:
    """At most one byte more than fits is read, in hex four characters per byte."""
    limit = (wire.MAX_LVB + 1) * (4 if is_hex else 1)
    if path is None:
        raw = sys.stdin.buffer.read(limit)
    else:
        with Path(path).open("rb") as file:
            raw = file.read(limit)
    if is_hex:
        try:
            raw = bytes.fromhex(raw.decode("ascii"))
        except ValueError:
            raise Refusal(-22, "the input is not hexadecimal", "give pairs of the digits 0-9, a-f", 1) from None
    if not 1 <= len(raw) <= wire.MAX_LVB:
        size = "no bytes" if not raw else f"more than {wire.MAX_LVB} bytes"
        raise Refusal(-7, f"the input has {size}", "give 1 byte to as many as a sector has", 1)
    return raw


def _explained(error: ClientError) -> ClientError:
    steps = {
        -2: "take it first: holdfast lease acquire SPACE:RESOURCE --pid PID --lvb",
        -22: "its holder took it without its value; acquire it with --lvb",
        -7: "a value has at most the size of a sector: 512 or 4096 bytes",
    }
    return ClientError(error.code, error.detail, steps.get(error.code, error.next_step))
