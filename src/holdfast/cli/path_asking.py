"""Asking the path daemon, Holdfast's or multipathd, from a command: one request, one reply (spec path 6.1).

Errors are `Refusal`s: one line that says what to do next. Everything that a command prints comes from here.
"""

from __future__ import annotations

import argparse
import errno
from typing import Final

from holdfast.cli.output import completes
from holdfast.cli.refusal import Refusal

PATIENCE_S: Final = 10.0
"""For the whole of a question: the daemon answers from memory, its own limit is 4 s."""
EXIT_FAILED: Final = 1


def add_socket(parser: argparse.ArgumentParser) -> None:
    """--socket, the same for all commands that talk to the daemon."""
    parser.add_argument(
        "--socket",
        metavar="ADDRESS",
        help="of the daemon, @NAME for an abstract one ($MULTIPATH_SOCKET_NAME, else the usual ones)",
    )


def add_path(parser: argparse.ArgumentParser) -> None:
    """PATH...: names of paths."""
    completes(parser.add_argument("path", metavar="PATH", nargs="+", help="sda, /dev/sda or 8:0"), "paths")


def add_map(parser: argparse.ArgumentParser) -> None:
    """[MAP]: the name of a map."""
    completes(parser.add_argument("map", metavar="MAP", nargs="?", help="alias, dm-N or WWID"), "maps")


def ask(request: str, address: str | None = None, patience_s: float = PATIENCE_S) -> str:
    """The reply. Refusal: nobody answers, or the answer is `fail`."""
    reply = exchange(request, address, patience_s)
    if reply.split("\n", 1)[0] in ("fail", "timeout") or reply.startswith("permission deny"):
        raise refused(request, reply)
    return reply


def exchange(request: str, address: str | None = None, patience_s: float = PATIENCE_S) -> str:
    """The reply as it is, `fail` included. Refusal: nobody answers."""
    from holdfast.path.control.client import Connection, PathCommandError, socket_names
    from holdfast.path.control.wire import FramingError

    names = (address,) if address else socket_names()
    try:
        with Connection(names, patience_s) as connection:
            return connection.ask(request)
    except PathCommandError as error:
        raise Refusal(-errno.E2BIG, str(error), "", EXIT_FAILED) from None
    except TimeoutError:
        raise Refusal(
            -errno.ETIMEDOUT,
            f"the path daemon does not answer within {patience_s:g} s",
            "see its log: journalctl -u holdfast-path -u multipathd",
            EXIT_FAILED,
        ) from None
    except (OSError, FramingError) as error:
        said = error.strerror if isinstance(error, OSError) else None
        raise Refusal(
            -errno.ECONNREFUSED,
            f"no path daemon answers at {' or '.join(names)}: {said or error}",
            "start one with: systemctl start holdfast-path",
            EXIT_FAILED,
        ) from None


def refused(request: str, reply: str) -> Refusal:
    """What a reply that begins with `fail` means, and what to do."""
    lines = reply.strip().split("\n")
    reason = " ".join(line.strip() for line in lines if line.strip() not in ("", "fail"))
    steps = (
        ("permission deny", "only root may change anything: use sudo"),
        ("device not found", "holdfast path show paths and holdfast path show maps list what is known"),
        ("map or partition in use", "unmount it, or stop what uses it (lsblk shows what is on top)"),
        ("timeout", "storage or another command holds it up; the log names it"),
        ("not found", "the daemon does not know this command; is it older?"),
    )
    for text, step in steps:
        if text in reason:
            reason = "is for root only" if text == "permission deny" else reason.split(" multipath-tools v")[0]
            return Refusal(-errno.EIO, f"{request}: {reason}", step, EXIT_FAILED)
    what = f"refused: {reason}" if reason else "refused"
    step = "a map or path of that name may be missing, or the kernel refused it; see the daemon's log"
    return Refusal(-errno.EIO, f"{request}: {what}", step, EXIT_FAILED)
