"""The daemon ends: who would end queueing then? (queue_without_daemon, spec path 4.8)"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Iterable
from typing import Final

from holdfast.path.daemon.registry import KnownMap
from holdfast.path.daemon.shared import Shared
from holdfast.path.dm import DeviceMapper, Uuid
from holdfast.path.dm_text import FAIL_IF_NO_PATH

END_S: Final = 5.0
"""For all maps together: the host may be shutting down."""

_log: Final = logging.getLogger(__name__)


def _end(dm: DeviceMapper, uuid: Uuid) -> None:
    if dm.read_map(uuid).table.queues:
        dm.message(uuid, FAIL_IF_NO_PATH)


async def end_queueing(shared: Shared, maps: Iterable[KnownMap]) -> None:
    """Every map gets `fail_if_no_path`, unless that is unwanted. Maps stay."""
    calls = shared.calls
    if calls is None or shared.options.monitor_only or shared.forced_queueing:
        return
    if shared.choices.common.queue_without_daemon:
        return

    async def one(known: KnownMap) -> None:
        uuid = known.kernel.uuid
        try:
            await calls.call(uuid, functools.partial(_end, uuid=uuid), END_S)
        except OSError as error:
            _log.error("%s: queueing could not be switched off: %s", known.record.name, error)

    await asyncio.gather(*(one(known) for known in maps))
