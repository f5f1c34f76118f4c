"""The kernel tells that maps changed, came or went: poll on the control device (spec path 10.6).

The calls are made in a thread: the kernel's lock may hold them up, and the loop must not notice.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from typing import Final

from holdfast.path.daemon import dm_steps
from holdfast.path.daemon.making import LIST_LANE
from holdfast.path.daemon.occasion import Occasion
from holdfast.path.daemon.settle import Settler
from holdfast.path.daemon.shared import Shared
from holdfast.path.dm import UUID_PREFIX, DeviceMapper, is_our_uuid
from holdfast.path.dm_wire import Listed
from holdfast.path.events import MIN_INTERVAL_S, EventNumbers

RETRY_S: Final = 10.0
"""After the list could not be read."""

_log: Final = logging.getLogger(__name__)


def _read(dm: DeviceMapper) -> list[Listed]:
    # In this order no event is lost: what happens after `arm` makes the descriptor readable again.
    dm.arm()
    return [dataclasses.replace(entry, uuid=uuid) for entry, uuid in dm_steps.listed_with_uuids(dm)]


class KernelEvents:
    """`run` until cancelled."""

    def __init__(self, shared: Shared, settler: Settler, dm: DeviceMapper) -> None:
        self._shared = shared
        self._settler = settler
        self._dm = dm
        self._numbers = EventNumbers()
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Looks at most once per second."""
        try:
            while True:
                self._wake.clear()
                pause = MIN_INTERVAL_S
                try:
                    await self._look()
                except OSError as error:
                    _log.error("device-mapper events: %s", error)
                    pause = RETRY_S
                    for known in self._shared.registry.maps.values():
                        known.watch.kernel_event()  # Nobody tells them now.
                await asyncio.sleep(pause)
                self._dm.notify(self._readable)
                await self._wake.wait()
        finally:
            self._dm.notify(None)

    def _readable(self) -> None:
        # Readable until it is armed again: once is enough.
        self._dm.notify(None)
        self._wake.set()

    async def _look(self) -> None:
        shared = self._shared
        if shared.calls is None:
            return
        listed = await shared.calls.call(LIST_LANE, _read)
        shared.names.replace({entry.name: entry.uuid or "" for entry in listed})
        changes = self._numbers.compare(listed)
        uuids = {name: uuid for name, uuid in shared.names.uuids.items() if is_our_uuid(uuid)}
        for name in changes.changed:
            known = shared.registry.maps.get(uuids.get(name, "").removeprefix(UUID_PREFIX))
            if known is not None:
                known.watch.kernel_event()
        for name in changes.appeared:
            wwid = uuids.get(name, "").removeprefix(UUID_PREFIX)
            known = shared.registry.maps.get(wwid)
            if known is not None:
                known.watch.kernel_event()
            elif wwid:
                self._settler.soon(wwid, Occasion("a map appeared", may_create=False))
        there = set(uuids.values())
        for known in list(shared.registry.maps.values()):
            if known.kernel.uuid not in there:
                known.watch.kernel_event()  # It asks itself, and ends if the map is gone.
