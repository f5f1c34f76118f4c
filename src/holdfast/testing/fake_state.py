"""What a fake daemon knows of its connections and lockspaces; shared by the parts of `FakeDaemon`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from holdfast.leased import wire


@dataclass(slots=True)
class JoinedSpace:
    """A lockspace of this daemon. `last_success` None: it renews all the time."""

    name: str
    host_id: int
    path: str
    offset: int
    io_timeout: int
    generation: int
    last_success: int | None = None
    failing: bool = False


@dataclass(slots=True, eq=False)
class FakeClient:
    """A connection of a fake daemon."""

    writer: asyncio.StreamWriter
    peer_pid: int
    pid: int = -1
    name: str = ""
    restricted: int = 0
    leases: dict[tuple[str, str], wire.Resource] = field(default_factory=dict)
    values: dict[tuple[str, str], bytearray] = field(default_factory=dict)
    """Values of the leases that were acquired with them."""
    listens_to: str = ""
    """The lockspace whose events go out here."""


def now() -> int:
    """The daemon's clock, whole seconds."""
    return int(time.clock_gettime(time.CLOCK_MONOTONIC))
