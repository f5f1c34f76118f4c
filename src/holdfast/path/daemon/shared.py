"""What the parts of the daemon share: its tables, what is in force, and the world it works in."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from holdfast.path.daemon.choices import Choices
from holdfast.path.daemon.files import StateFiles
from holdfast.path.daemon.options import PathOptions
from holdfast.path.daemon.registry import Registry
from holdfast.path.daemon.world import Blocking, Discovery, DmCalls


def name_of_number(dev_t: str) -> str:
    """What sysfs calls a block device; it never waits for the device."""
    try:
        return os.path.basename(os.readlink(f"/sys/dev/block/{dev_t}"))
    except OSError:
        return ""


class DmNames:
    """Names and UUIDs of dm devices, both ways. The dicts may be read in threads."""

    def __init__(self) -> None:
        self.uuids: dict[str, str] = {}
        """By name."""
        self._names: dict[str, str] = {}

    def replace(self, uuids: dict[str, str]) -> None:
        """Another list."""
        self.uuids = uuids
        self._names = {uuid: name for name, uuid in uuids.items() if uuid}

    def add(self, name: str, uuid: str) -> None:
        """One device more."""
        self.uuids[name] = uuid
        self._names[uuid] = name

    def remove(self, name: str) -> None:
        """One less."""
        uuid = self.uuids.pop(name, "")
        if self._names.get(uuid) == name:
            del self._names[uuid]

    def name_of(self, uuid: str) -> str | None:
        """None: there is no such device."""
        return self._names.get(uuid)


@dataclass(eq=False)
class Shared:
    """One per daemon. All of it belongs to the event loop."""

    options: PathOptions
    discovery: Discovery
    blocking: Blocking
    files: StateFiles
    choices: Choices
    name_of: Callable[[str], str] = name_of_number
    """The kernel name of a device number; "": there is no such device."""
    calls: DmCalls | None = None
    """None: there is no device-mapper (now)."""
    registry: Registry = field(default_factory=Registry)
    names: DmNames = field(default_factory=DmNames)
    """All dm devices as listed last, whoever made them."""
    claims_removed: set[str] = field(default_factory=set)
    """WWIDs whose map was removed by command: only a command, a new path or a reconfigure makes it again."""
    progress: int = 0
    """Steps of a configuration done so far: that it grows shows that nothing hangs."""
    forced_queueing: bool = False
    """`forcequeueing daemon`"""

    def now(self) -> float:
        """Of the loop's clock, seconds."""
        return asyncio.get_running_loop().time()

    def is_excluded(self, dev_t: str) -> bool:
        """Whether the configuration leaves that device alone."""
        name = self.name_of(dev_t)
        return bool(name) and name in self.discovery.excluded

    def step(self) -> None:
        """Something of a configuration was done."""
        self.progress += 1
