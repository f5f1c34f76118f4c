"""Which maps have changed since the last look: device-mapper's event numbers compared (spec path 10.6). Pure.

Poll on the control descriptor; when it is readable: `arm` first, then LIST_DEVICES, then `compare`. In this order
no event is lost. Readiness also means that some device was created, removed or got a new table, without any number
moving: so names are compared as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from holdfast.path.dm import is_our_uuid
from holdfast.path.dm_wire import Listed

MIN_INTERVAL_S: Final = 1.0
"""Between two looks: a storm of events must not keep the daemon busy."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Names of multipath maps, in the kernel's order."""

    changed: tuple[str, ...] = ()
    appeared: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


@dataclass(slots=True)
class EventNumbers:
    """What was seen last, by name. A map that was removed and made again counts as gone and appeared."""

    _known: dict[str, Listed] = field(default_factory=dict)

    def compare(self, listed: Iterable[Listed]) -> Changes:
        """Take over the list; say what is different. Without numbers every map may have changed."""
        ours = {entry.name: entry for entry in listed if entry.uuid is None or is_our_uuid(entry.uuid)}
        changed, appeared, gone = [], [], []
        for name, entry in ours.items():
            known = self._known.get(name)
            if known is None:
                appeared.append(name)
            elif (known.dev, known.uuid) != (entry.dev, entry.uuid):
                gone.append(name)
                appeared.append(name)
            elif entry.event_nr is None or entry.event_nr != known.event_nr:
                changed.append(name)
        gone += [name for name in self._known if name not in ours]
        self._known = ours
        return Changes(tuple(changed), tuple(appeared), tuple(gone))
