"""Uevents of block devices: what they say, and the queue between kernel and daemon (spec path 4.11).

Pure. The queue is bounded and forgets what is out of date: a `remove` deletes what waited for that device, an
`add` earlier `change`s, a `change` of a path replaces an earlier one. When it overflows, or the kernel's buffer
did, one event `RESCAN` says that everything has to be looked at again.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from holdfast.path.wwid import attribute_of_uid_attrs, wwid_of_property

ADD: Final = "add"
CHANGE: Final = "change"
REMOVE: Final = "remove"
RESCAN: Final = "rescan"
"""Of no device: events were lost."""

MAX_QUEUED: Final = 16_384
"""Events that wait; beyond it all are replaced by one RESCAN."""
MAX_MERGED: Final = 256
"""Events that are merged into one."""
MERGE_WINDOW: Final = 128
"""How many waiting events are searched for some to merge."""
MAX_PROPERTIES: Final = 512
MAX_VALUE_BYTES: Final = 8192
"""Of a property; longer ones (lists of links) are not used and left out."""

_DM: Final = "dm-"


def is_map_name(dev: str) -> bool:
    """Whether it is a device-mapper device."""
    return dev.startswith(_DM)


@dataclass(frozen=True, slots=True)
class Uevent:
    """Something happened to a whole block device."""

    action: str
    """add, change, remove, ...; RESCAN."""
    dev: str
    """sda, dm-0; empty with RESCAN."""
    dev_t: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)
    """udev's with its events, the kernel's alone without udev."""
    merged: tuple[Uevent, ...] = ()
    """Further ones with the same action and WWID (uid_attrs): their map has to be loaded once for all."""

    @property
    def is_rescan(self) -> bool:
        """Events were lost: look at everything."""
        return self.action == RESCAN

    @property
    def is_map(self) -> bool:
        """Of a device-mapper device."""
        return is_map_name(self.dev)

    @property
    def map_wwid(self) -> str:
        """The WWID in DM_UUID of a multipath map; empty: it is none."""
        uuid = self.properties.get("DM_UUID", "")
        return uuid.removeprefix("mpath-") if uuid.startswith("mpath-") else ""

    @property
    def failed_path(self) -> str:
        """`8:0`, if the kernel says that it has failed this path of the map; empty otherwise."""
        return self.properties.get("DM_PATH", "") if self.properties.get("DM_ACTION") == "PATH_FAILED" else ""


class UeventQueue:
    """In order of arrival. `uid_attrs` as in the configuration; empty: nothing is merged."""

    def __init__(self, uid_attrs: str = "", max_queued: int = MAX_QUEUED) -> None:
        self.uid_attrs = uid_attrs
        self.dropped = 0
        """Events that were superseded or lost by overflow, for the metrics."""
        self._max = max_queued
        self._events: OrderedDict[int, Uevent] = OrderedDict()
        self._of: dict[str, list[int]] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: Uevent) -> None:
        """Queue it, and drop what it makes superfluous."""
        if event.is_rescan:
            self.lost()
            return
        waiting = self._of.get(event.dev, [])
        if event.action == REMOVE:
            self._drop(event.dev, waiting)
        elif event.action == ADD:
            self._drop(event.dev, [key for key in waiting if self._events[key].action == CHANGE])
        elif event.action == CHANGE and not event.is_map and waiting:
            # What is looked at when it is handled is the same for both. Events of maps each tell of another path.
            last = self._events[waiting[-1]]
            if last.action == CHANGE:
                event = dataclasses.replace(event, properties={**last.properties, **event.properties})
                self._drop(event.dev, waiting[-1:])
        if len(self._events) >= self._max:
            self.lost()
            return
        self._append(event)

    def lost(self) -> None:
        """Events are missing: what waits is of no use any more, all has to be looked at."""
        self.dropped += len(self._events)
        self._events.clear()
        self._of.clear()
        self._append(Uevent(RESCAN, ""))

    def _append(self, event: Uevent) -> None:
        self._count += 1
        self._events[self._count] = event
        self._of.setdefault(event.dev, []).append(self._count)

    def _drop(self, dev: str, keys: list[int]) -> None:
        for key in list(keys):
            del self._events[key]
            self._of[dev].remove(key)
            self.dropped += 1
        if dev in self._of and not self._of[dev]:
            del self._of[dev]

    def _pop(self, key: int) -> Uevent:
        event = self._events.pop(key)
        keys = self._of[event.dev]
        keys.remove(key)
        if not keys:
            del self._of[event.dev]
        return event

    def take(self) -> Uevent | None:
        """The first one, with those that belong to it; None: nothing waits."""
        if not self._events:
            return None
        event = self._pop(next(iter(self._events)))
        others = self._mergeable(event) if self.uid_attrs and event.action in (ADD, REMOVE) else []
        if not others:
            return event
        return dataclasses.replace(event, merged=tuple(self._pop(key) for key in others))

    def take_batch(self, limit: int) -> list[Uevent]:
        """At most `limit` of them."""
        batch: list[Uevent] = []
        while len(batch) < limit and (event := self.take()) is not None:
            batch.append(event)
        return batch

    def _mergeable(self, first: Uevent) -> list[int]:
        """Waiting events of other paths with the same action and WWID, up to anything else about that WWID."""
        wwid = self._wwid(first)
        found: list[int] = []
        if not wwid:
            return found
        passed = {first.dev}
        for key, event in islice(self._events.items(), MERGE_WINDOW):
            is_same = self._wwid(event) == wwid
            if event.is_rescan or event.map_wwid == wwid or (is_same and event.action != first.action):
                break
            if is_same and event.dev not in passed:
                found.append(key)
                if len(found) >= MAX_MERGED:
                    break
            passed.add(event.dev)
        return found

    def _wwid(self, event: Uevent) -> str:
        attribute = attribute_of_uid_attrs(self.uid_attrs, event.dev)
        return wwid_of_property(event.properties.get(attribute, "")) if attribute else ""
