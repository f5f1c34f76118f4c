"""What a running watchdog daemon says, ours or the original: DUMP_DEBUG and STATUS (spec watchdog 3.3, 3.5)."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import Final

from holdfast.watchdog import wire
from holdfast.watchdog.wire import MESSAGE_SIZE, Command, Message

REPLY_S: Final = 5.0
MAX_DUMP_BYTES: Final = 1 << 20


def dump(path: str) -> str:
    """The daemon's state as text. OSError: no daemon, or it does not answer."""
    with _connected(path) as sock:
        sock.sendall(wire.encode(Message(Command.DUMP_DEBUG)))
        # The reply has no length; with our end closed the daemon closes its own after it.
        sock.shutdown(socket.SHUT_WR)
        text = b""
        while len(text) < MAX_DUMP_BYTES and (data := sock.recv(65536)):
            text += data
    return text.decode("utf-8", "replace")


def status(path: str) -> Message:
    """test_interval, fire_timeout and last_keepalive. OSError."""
    with _connected(path) as sock:
        sock.sendall(wire.encode(Message(Command.STATUS)))
        reply = b""
        while len(reply) < MESSAGE_SIZE:
            data = sock.recv(MESSAGE_SIZE - len(reply))
            if not data:
                raise ConnectionResetError(104, "the watchdog daemon closed the connection", path)
            reply += data
    return wire.decode(reply)


def _connected(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(REPLY_S)
        sock.connect(path)
    except OSError as error:
        sock.close()
        error.filename = path
        raise
    return sock


@dataclass(frozen=True, slots=True)
class DumpedClient:
    """One `client` line of a dump."""

    number: int
    name: str
    pid: int
    dead: bool
    refcount: bool
    renewal: int
    expire: int


_CLIENT: Final = re.compile(
    r"client (\d+) name (.*?) ?pid (\d+) fd -?\d+ dead (\d) ref (\d+) now \d+ renewal (\d+) expire (\d+)"
)


def clients_in(text: str) -> list[DumpedClient]:
    """The clients of a dump, without the daemon's own slots and who asked for the dump."""
    found = []
    for line in text.splitlines():
        match = _CLIENT.fullmatch(line.strip())
        if match is None or int(match[1]) < 2 or match[2] == "dump":
            continue
        number, pid, renewal, expire = (int(match[at]) for at in (1, 3, 6, 7))
        found.append(DumpedClient(number, match[2], pid, match[4] != "0", match[5] != "0", renewal, expire))
    return found
