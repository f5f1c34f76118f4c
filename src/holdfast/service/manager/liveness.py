"""Proof for the watchdog daemon that this loop turns: the hardware watchdog at the root of all others (12.5).

At half of the time that was agreed. A daemon that is not there yet is asked again: it may be one of our own units.
Before such a unit is stopped the manager lets go of it, since the daemon does not end while anybody relies on it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from holdfast.service.jobs import JobType
from holdfast.service.manager.emergency import Place
from holdfast.service.manager.manager import Manager
from holdfast.service.manager.options import ManagerOptions
from holdfast.service.transaction import TransactionError
from holdfast.watchdog.settings import DEFAULT, RUNTIME, Settings, whole_seconds

log = logging.getLogger(__name__)

NAME: Final = "holdfast-service"
RETRY_S: Final = 10.0
OWN_UNIT: Final = "holdfast-watchdog.service"
"""Started where `RuntimeWatchdogSec=` asks for the hardware watchdog and no daemon answers."""
UNITS: Final = (OWN_UNIT, "wdmd.service")
"""Of watchdog daemons."""
DEFAULT_TIMEOUT_S: Final = 60
"""For `RuntimeWatchdogSec=default`: the device's own timeout is the daemon's matter."""
_ENDING: Final = (JobType.STOP, JobType.RESTART)


def timeout_of(options: ManagerOptions, place: Place, settings: Settings) -> int:
    """Seconds for each turn of the loop: `--watchdog`, or `RuntimeWatchdogSec=` where it counts (PID 1 of a
    machine, `--runtime-watchdog`). 0: nobody is asked to watch.
    """
    if options.watchdog_s or not (place is Place.MACHINE or options.runtime_watchdog):
        return options.watchdog_s
    usec = settings[RUNTIME].usec
    if not usec:
        return 0
    if usec == DEFAULT:
        return DEFAULT_TIMEOUT_S
    from holdfast.client.watchdog import MAX_TIMEOUT_S, MIN_TIMEOUT_S

    wanted = whole_seconds(usec)
    possible = min(max(wanted, MIN_TIMEOUT_S), MAX_TIMEOUT_S)
    if possible != wanted:
        log.warning("%s=%d s: the watchdog daemon can do %d to %d s, %d s are taken", RUNTIME, wanted,
                    MIN_TIMEOUT_S, MAX_TIMEOUT_S, possible)  # fmt: skip
    return possible


class Liveness:
    """Of one manager, for as long as it lives."""

    def __init__(self, manager: Manager, timeout_s: int, socket_path: str = "", summons: bool = False) -> None:
        """`summons`: the daemon's own unit is started, once, when nobody answers."""
        self._manager = manager
        self._timeout_s = timeout_s
        self._socket_path = socket_path
        self._summons = summons
        self._wake = asyncio.Event()
        """Set while a daemon that is our unit shall end."""
        if timeout_s:
            manager.watch(self._look)

    def _look(self) -> None:
        jobs = map(self._manager.core.jobs.get, UNITS)
        if any(job is not None and job.type in _ENDING for job in jobs):
            self._wake.set()
        else:
            self._wake.clear()

    async def keep(self) -> None:
        """Until cancelled; returns at once when no watchdog is wanted."""
        if not self._timeout_s:
            return
        from holdfast.client.watchdog import SOCKET_PATH, Watchdog, WatchdogError

        path = self._socket_path or SOCKET_PATH
        told = ""
        while True:
            while self._wake.is_set():
                await asyncio.sleep(RETRY_S)
            try:
                async with Watchdog(NAME, timeout=self._timeout_s, socket_path=path) as dog:
                    log.info("guarded by the watchdog daemon: this loop has %d s for each turn", self._timeout_s)
                    told = ""
                    while not self._wake.is_set():
                        await dog.alive()
                        await self._pause(self._timeout_s / 2)
                log.warning("not guarded any more: the watchdog daemon is stopped")
            except (WatchdogError, OSError, ValueError) as error:
                if str(error) != told:
                    log.warning("not guarded by the watchdog daemon: %s", error)
                    told = str(error)
                await self._summon()
            await asyncio.sleep(RETRY_S)

    async def _pause(self, seconds: float) -> None:
        """Shorter when a daemon shall end."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _summon(self) -> None:
        """Only once: somebody may stop it on purpose later."""
        if not self._summons:
            return
        self._summons = False
        try:
            await self._manager.ensure([OWN_UNIT])
            self._manager.request(OWN_UNIT, JobType.START)
        except TransactionError as error:
            log.error("%s is set, but no watchdog daemon runs and %s cannot be started: %s",
                      RUNTIME, OWN_UNIT, error)  # fmt: skip
        else:
            log.info("%s is set: starting %s", RUNTIME, OWN_UNIT)
