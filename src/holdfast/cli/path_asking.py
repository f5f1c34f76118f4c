"""Asking the path daemon, Holdfast's or multipathd, from a command: one request, one reply (spec path 6.1).

Errors are `Refusal`s: one line that says what to do next. Everything that a command prints comes from here.
"""

from __future__ import annotations

import argparse
import errno
import os
import socket
import struct
import time
from typing import Final

from holdfast.cli.output import completes
from holdfast.cli.refusal import Refusal

ABSTRACT: Final = "@/org/kernel/linux/storage/multipathd"
PATH: Final = "/run/multipathd.socket"
VARIABLE: Final = "MULTIPATH_SOCKET_NAME"
PATIENCE_S: Final = 10.0
"""For the whole of a question: the daemon answers from memory, its own limit is 4 s."""
MAX_REPLY: Final = (32 << 20) - 1
MAX_REQUEST: Final = 512
_LENGTH: Final = struct.Struct("=Q")
EXIT_FAILED: Final = 1


def add_socket(parser: argparse.ArgumentParser) -> None:
    """--socket, the same for all commands that talk to the daemon."""
    parser.add_argument(
        "--socket",
        metavar="ADDRESS",
        help=f"of the daemon, @NAME for an abstract one (${VARIABLE}, else {PATH}, else the abstract one)",
    )


def add_path(parser: argparse.ArgumentParser) -> None:
    """PATH...: names of paths."""
    completes(parser.add_argument("path", metavar="PATH", nargs="+", help="sda, /dev/sda or 8:0"), "paths")


def add_map(parser: argparse.ArgumentParser) -> None:
    """[MAP]: the name of a map."""
    completes(parser.add_argument("map", metavar="MAP", nargs="?", help="alias, dm-N or WWID"), "maps")


def addresses(wanted: str | None) -> tuple[str, ...]:
    """Where the daemon may be, in the order of trying."""
    named = wanted or os.environ.get(VARIABLE)
    return (named,) if named else (PATH, ABSTRACT)


def quoted(words: list[str]) -> str:
    """Words as a request, as the original's client puts them together."""
    return " ".join(f'"{word}"' if " " in word else word for word in words)


def ask(request: str, address: str | None = None, patience_s: float = PATIENCE_S) -> str:
    """The reply. Refusal: nobody answers, or the answer is `fail`."""
    reply = exchange(request, address, patience_s)
    if reply.split("\n", 1)[0] in ("fail", "timeout") or reply.startswith("permission deny"):
        raise refused(request, reply)
    return reply


def exchange(request: str, address: str | None = None, patience_s: float = PATIENCE_S) -> str:
    """The reply as it is, `fail` included. Refusal: nobody answers."""
    body = request.encode("utf-8", "surrogateescape") + b"\n\0"
    if len(body) > MAX_REQUEST:
        raise Refusal(-errno.E2BIG, f"{request[:40]!r}... is too long", "", EXIT_FAILED)
    deadline = time.monotonic() + patience_s
    where = addresses(address)
    try:
        with _connected(where, deadline) as sock:
            sock.sendall(_LENGTH.pack(len(body)) + body)
            (length,) = _LENGTH.unpack(_receive(sock, _LENGTH.size, deadline))
            if not 0 < length <= MAX_REPLY:
                raise OSError(errno.EPROTO, f"a reply of {length} bytes")
            text = _receive(sock, length, deadline)
    except TimeoutError:
        raise Refusal(
            -errno.ETIMEDOUT,
            f"the path daemon does not answer within {patience_s:g} s",
            "see its log: journalctl -u holdfast-path -u multipathd",
            EXIT_FAILED,
        ) from None
    except OSError as error:
        raise Refusal(
            -(error.errno or errno.EIO),
            f"no path daemon answers at {' or '.join(where)}: {error.strerror or error}",
            "start one with: systemctl start holdfast-path",
            EXIT_FAILED,
        ) from None
    return text.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _connected(where: tuple[str, ...], deadline: float) -> socket.socket:
    problem = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for address in where:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(max(deadline - time.monotonic(), 0.01))
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            return sock
        except OSError as error:
            sock.close()
            problem = error
    raise problem


def _receive(sock: socket.socket, size: int, deadline: float) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        part = sock.recv(min(size - len(parts), 1 << 20))
        if not part:
            raise OSError(errno.ECONNRESET, "closed by the daemon")
        parts += part
    return bytes(parts)


def refused(request: str, reply: str) -> Refusal:
    """What a reply that begins with `fail` means, and what to do."""
    lines = reply.strip().split("\n")
    reason = " ".join(line.strip() for line in lines if line.strip() not in ("", "fail"))
    steps = (
        ("permission deny", "become root", "only root may change anything: use sudo"),
        ("device not found", "", "holdfast path show paths and holdfast path show maps list what is known"),
        ("map or partition in use", "", "unmount it, or stop what uses it (lsblk shows what is on top)"),
        ("timeout", "", "storage or another command holds it up; the log names it"),
        ("not found", "", "the daemon does not know this command; is it older?"),
    )
    for text, _, step in steps:
        if text in reason:
            reason = "is for root only" if text == "permission deny" else reason.split(" multipath-tools v")[0]
            return Refusal(-errno.EIO, f"{request}: {reason}", step, EXIT_FAILED)
    what = f"refused: {reason}" if reason else "refused"
    step = "a map or path of that name may be missing, or the kernel refused it; see the daemon's log"
    return Refusal(-errno.EIO, f"{request}: {what}", step, EXIT_FAILED)
