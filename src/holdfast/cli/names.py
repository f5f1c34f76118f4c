"""Names for shell completion: asks the daemon once, with little patience and without an event loop.

A TAB must not hang and must not print errors: whatever goes wrong means that no names are known.
"""

from __future__ import annotations

import socket
import time

from holdfast.client.locations import SOCKET_NAME, run_dir
from holdfast.leased import wire

PATIENCE_S = 0.5
MAX_BYTES = 4 << 20
UP_TO_LOCKSPACES = 3
_PATH_LISTS = {"paths": "show paths raw format %d", "maps": "show maps raw format %n"}


def known_names(kind: str) -> list[str]:
    """`spaces`: lockspaces that are joined; `leases`: SPACE: of each, and SPACE:RESOURCE of what is held here;
    `paths` and `maps` of the path daemon; `units`: those that the supervisor has loaded.
    """
    if kind in _PATH_LISTS:
        return _printable(_from_path_daemon(kind))
    if kind == "units":
        return _printable(_units())
    try:
        items = wire.decode_status_items(_status(UP_TO_LOCKSPACES if kind == "spaces" else 4))
    except (OSError, ValueError):
        return []
    spaces = sorted({item.lockspace.name for item in items if item.lockspace is not None})
    if kind == "spaces":
        names = spaces
    else:
        held = {
            f"{item.resource.lockspace_name}:{item.resource.name}" for item in items if item.resource is not None
        }
        names = [f"{space}:" for space in spaces] + sorted(held)
    return _printable(names)


def _printable(names: list[str]) -> list[str]:
    """Shells split what they get at blanks, and control characters would reach the terminal."""
    return [name for name in names if name.isprintable() and " " not in name]


def _from_path_daemon(kind: str) -> list[str]:
    from holdfast.cli.path_asking import ask
    from holdfast.cli.refusal import Refusal

    try:
        reply = ask(_PATH_LISTS[kind], patience_s=PATIENCE_S)
    except Refusal:
        return []
    return [] if reply == "ok\n" else [line.strip() for line in reply.splitlines()]


def _status(sections: int) -> bytes:
    deadline = time.monotonic() + PATIENCE_S
    parts = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(str(run_dir() / SOCKET_NAME))
        sock.sendall(wire.encode_request(wire.Command.STATUS, data=sections))
        while part := sock.recv(65536):
            parts += part
            left = deadline - time.monotonic()
            if left <= 0 or len(parts) > MAX_BYTES:
                raise TimeoutError
            sock.settimeout(left)
    return bytes(parts[wire.HEADER_SIZE :])


def _units() -> list[str]:
    import json

    from holdfast.cli.service_asking import control_path

    deadline = time.monotonic() + PATIENCE_S
    parts = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(PATIENCE_S)
            sock.connect(control_path(None))
            sock.sendall(b'{"verb":"units"}\n')
            while not parts.endswith(b"\n"):
                part = sock.recv(65536)
                left = deadline - time.monotonic()
                if not part or left <= 0 or len(parts) > MAX_BYTES:
                    return []
                sock.settimeout(left)
                parts += part
        return [str(row["unit"]) for row in json.loads(parts)["units"]]
    except (OSError, ValueError, KeyError):
        return []
