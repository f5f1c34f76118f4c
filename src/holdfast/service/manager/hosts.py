"""What the manager needs of those who do things for it: processes, and what sockets, timers and paths look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from holdfast.service.events import Action, Event
from holdfast.service.process.cgroups import Group
from holdfast.service.run import Members
from holdfast.service.settings import UnitFile
from holdfast.service.triggers.messages import TriggerAction


class Host(Protocol):
    """Who starts, signals and watches processes (`service/process/host.py`, or a test's)."""

    def perform(self, unit: str, file: UnitFile, action: Action) -> None:
        """One process action. A `Spawn` is answered with Spawned or SpawnFailed, at once or soon: until then the
        unit gets no other action, and none of its events reach the rules.
        """
        ...

    def members(self, unit: str) -> Members:
        """The unit's view of its processes."""
        ...

    def control_group(self, unit: str) -> tuple[str, Group] | None:
        """The unit's group while it has one, with its name as the kernel tells it."""
        ...

    def directories(self, file: UnitFile, kind: str) -> list[str]:
        """What `RuntimeDirectory=` and its like make; `kind`: `runtime`, `state`, `cache` ..."""
        ...

    def hear(self) -> None:
        """Tell all messages that were sent before now."""
        ...

    def invocation_id(self, unit: str) -> str:
        """Of the current or last run; empty: none yet."""
        ...

    def stored_fds(self, unit: str) -> int:
        """How many descriptors are kept for the unit."""
        ...

    async def close(self) -> None:
        """No process of a unit is left to look after."""
        ...


class Triggers(Protocol):
    """Who listens, and watches paths and the wall clock (`service/triggers/host.py`)."""

    def perform(self, unit: str, file: UnitFile, action: TriggerAction) -> None:
        """One action of a socket, timer or path."""
        ...

    def watch_clock(self, timer: str, on: bool) -> None:
        """Tell this timer when the wall clock is set."""
        ...

    def handed_over(self, service: str) -> None:
        """A connection's instance has its process: the connection is its own now."""
        ...

    def instance_gone(self, service: str) -> None:
        """An instance that served a connection is down."""
        ...

    async def close(self) -> None:
        """Nothing listens any more."""
        ...


HostFactory = Callable[[Callable[[str, Event], None]], Host]
