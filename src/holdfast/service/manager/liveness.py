"""Proof for the watchdog daemon that this loop turns: the hardware watchdog at the root of all others (12.5).

At half of the time that was agreed. A daemon that is not there yet is asked again: it may be one of our own units.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from holdfast.service.manager.options import ManagerOptions

log = logging.getLogger(__name__)

NAME: Final = "holdfast-service"
RETRY_S: Final = 10.0


async def keep(options: ManagerOptions) -> None:
    """Until cancelled; returns at once when no watchdog is wanted."""
    if not options.watchdog_s:
        return
    from holdfast.client.watchdog import SOCKET_PATH, Watchdog, WatchdogError

    told = ""
    while True:
        try:
            dog = Watchdog(NAME, timeout=options.watchdog_s, socket_path=options.watchdog_socket or SOCKET_PATH)
            async with dog:
                log.info("guarded by the watchdog daemon: this loop has %d s for each turn", options.watchdog_s)
                told = ""
                while True:
                    await dog.alive()
                    await asyncio.sleep(options.watchdog_s / 2)
        except (WatchdogError, OSError, ValueError) as error:
            if str(error) != told:
                log.warning("not guarded by the watchdog daemon: %s", error)
                told = str(error)
            await asyncio.sleep(RETRY_S)
