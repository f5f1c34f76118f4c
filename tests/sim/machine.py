"""A physical host of the simulated cluster: power, clock, disk view, watchdog device, and what resets it.

The watchdog model (spec lease-disk 13 no. 1, lease-wire 1): after the last expiry it was given passes, the
watchdog daemon stops feeding the device, which fires at the latest W seconds later; how much earlier is drawn
per boot, often not at all, because the last possible instant is the dangerous one. A reset takes everything on
the host with it.
"""

from __future__ import annotations

import asyncio
import random

from holdfast.storage.errors import StorageError
from holdfast.testing.sim_clock import SimClock, SimHost
from holdfast.testing.sim_disk import SimDisk, SimStorage, Weather
from tests.sim.ledger import Incarnation, Ledger

FEED_INTERVAL_S = 10.0
"""The watchdog daemon feeds the device this often: so much earlier than W it may fire."""


class Machine:
    """Boots, runs, is reset, boots again. `fire`: W in seconds; `rate`: of its clock."""

    def __init__(
        self,
        name: str,
        storage: SimStorage,
        ledger: Ledger,
        rng: random.Random,
        *,
        host_id: int,
        ours: bool,
        fire: int,
        dead_s: float,
        rate: float,
        weather: Weather,
    ) -> None:
        self.name = name
        self.storage = storage
        self.loop = storage.loop
        self.ledger = ledger
        self.rng = rng
        self.host_id = host_id
        self.ours = ours
        self.fire = fire
        self.dead_s = dead_s
        self.weather = weather
        self.boots = 0
        self.back_at = 0.0
        self.incarnation: Incarnation | None = None
        self._rate = rate
        self._expiry: int | None = None
        self._early_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.power: SimHost
        self.clock: SimClock
        self.disk: SimDisk
        self.down: asyncio.Future[str]
        self.boot()

    def boot(self) -> None:
        """Power on: a new clock origin, a newly opened disk, nothing registered."""
        self.boots += 1
        self.power = SimHost(self.loop, self.name)
        # The clock starts somewhere, as CLOCK_BOOTTIME of machines with different uptimes does.
        self.clock = SimClock(
            self.power, self.rng.uniform(1.0, 5000.0) - self.loop.time() * (self._rate - 1), self._rate
        )
        self.disk = self.storage.attach(self.power, self.weather, keeps_rule_12=self.ours)
        self.down = self.loop.create_future()
        self._expiry = None
        self.incarnation = None
        self._early_s = self.rng.choice((0.0, self.rng.uniform(0.0, min(FEED_INTERVAL_S, self.fire))))

    @property
    def is_up(self) -> bool:
        return not self.power.gone

    def crash(self, why: str) -> None:
        """Power off, now. Writes in flight may land until the promise ends or the machine is back (fault
        model).
        """
        if self.power.gone:
            return
        now = self.loop.time()
        self.back_at = now + self.rng.choice((self.rng.uniform(1.0, 20.0), self.rng.uniform(1.0, 2 * self.dead_s)))
        promise = self.promise if self._expiry is not None else now + self.dead_s
        self.ledger.trace(self.name, f"RESET: {why}")
        self.ledger.counts.add(f"resets: {why}")
        self.power.crash()
        self.disk.crash(min(promise, self.back_at))
        if self.incarnation is not None:
            self.incarnation.gone = True
            self.ledger.end_all(self.incarnation, "host reset")
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.down.set_result(why)

    @property
    def promise(self) -> float:
        """Virtual time at which the watchdog has fired unless it is extended."""
        assert self._expiry is not None
        return self.clock.virtual(self._expiry + self.fire)

    # --- the watchdog daemon's client side (lease.lockspace.WatchdogLink)

    @property
    def armed_until(self) -> float:
        return float("inf") if self._expiry is None else self._expiry

    async def open(self) -> None:
        pass

    async def register(self, timestamp: int, expiry: int) -> None:
        self._set(expiry)

    async def extend(self, timestamp: int, expiry: int) -> None:
        self._set(expiry)

    async def io_ended(self) -> None:
        """Return when no I/O of a killed daemon is under way: no earlier does the kernel free its lock file."""
        while True:
            try:
                await self.disk.settle(0, self.storage.size, 60.0)
            except StorageError:
                continue
            return

    async def clear(self) -> None:
        self._expiry = None
        if self.incarnation is not None:
            self.incarnation.gone = True
        self.incarnation = None
        self.ledger.trace(self.name, "watchdog cleared")

    def _set(self, expiry: int) -> None:
        self._expiry = expiry
        if self.incarnation is not None:
            self.incarnation.promise = self.promise
            self.incarnation.fail_at = self.clock.virtual(expiry)
        if self._timer is None:
            self._timer = self.loop.call_at(self.promise - self._early_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._expiry is None or self.power.gone:
            return
        if self.loop.time() < self.promise - self._early_s - 1e-6:
            self._timer = self.loop.call_at(self.promise - self._early_s, self._look)
            return
        self.crash("watchdog")
