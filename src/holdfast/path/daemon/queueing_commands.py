"""Commands about queueing (spec path 4.8)."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.path import queueing
from holdfast.path.control.operations import Refused
from holdfast.path.daemon.parts import Commands
from holdfast.path.daemon.registry import KnownMap
from holdfast.path.records import Action, Map


class QueueingCommands(Commands):
    """What the operator decides survives until it is taken back, whatever happens to the map's table."""

    async def disable_queueing(self, map_name: str | None) -> str:
        """I/O of a map without paths fails at once."""
        await self._each(map_name, queueing.disable_queueing)
        return ""

    async def restore_queueing(self, map_name: str | None) -> str:
        """As the configuration says."""
        await self._each(map_name, queueing.restore_queueing)
        return ""

    async def force_queueing_daemon(self, forced: bool) -> str:
        """Whether maps go on queueing when the daemon ends, whatever queue_without_daemon says."""
        self._shared.forced_queueing = forced
        return ""

    async def _each(self, map_name: str | None, rule: Callable[[Map, float], list[Action]]) -> None:
        self._may_change()
        maps = [self._map(map_name)] if map_name is not None else list(self._shared.registry.maps.values())
        done = [await self._one(known, rule) for known in maps]
        if not all(done):
            raise Refused()

    async def _one(self, known: KnownMap, rule: Callable[[Map, float], list[Action]]) -> bool:
        return await known.watch.submit(lambda: rule(known.record, self._shared.now()))
