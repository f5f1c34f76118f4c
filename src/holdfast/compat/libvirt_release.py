"""Give back the leases that a paused domain still has (spec lease-wire 19, 7.3).

libvirtd does that itself when it pauses a domain. Where it failed to, the lease daemon would kill the domain at
the end of the grace time although it does not run any more.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from holdfast.compat.sanlock.blocking import connect, exchange, send
from holdfast.leased import wire

OWNER_NAME_BYTES: Final = 47
"""What libvirt passes on of a domain's name when it acquires."""
MAX_STATUS_BYTES: Final = 64 * 1024 * 1024
CLIENTS: Final = 2
"""`data` of a STATUS request: daemon and clients only."""


def release_leases(name: str, uuid: str) -> list[str]:
    """Release every lease of the processes of domain `name`; what went wrong, one sentence each."""
    try:
        pids = [pid for pid in _pids(name) if _is_domain(pid, uuid)]
    except (OSError, wire.FormatError) as error:
        return [f"leases of domain {name} not looked at: {error}"]
    problems = []
    for pid in pids:
        request = wire.encode_request(wire.Command.RELEASE, flags=wire.RELEASE_ALL, data2=pid)
        result = exchange(request).result
        if result != 0:
            problems.append(f"leases of domain {name}, pid {pid}, not released: result {result}")
    return problems


def _pids(name: str) -> list[int]:
    """Registered processes that acquired under this domain's name."""
    owner = os.fsencode(name)[:OWNER_NAME_BYTES].decode("utf-8", "surrogateescape")
    with connect() as sock:
        send(sock, wire.encode_request(wire.Command.STATUS, data=CLIENTS))
        raw = bytearray()
        while part := sock.recv(1 << 16):
            raw += part
            if len(raw) > MAX_STATUS_BYTES:
                raise wire.FormatError("status without an end")
    states = [item.state for item in wire.decode_status_items(bytes(raw[wire.HEADER_SIZE :]))]
    return [
        state.data32
        for state in states
        if state.type == wire.STATE_CLIENT and state.name == owner and 0 < state.data32 < 1 << 31
    ]


def _is_domain(pid: int, uuid: str) -> bool:
    """Whether the process is the emulator of that domain: names may be cut, and chosen by others."""
    try:
        return uuid.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
