"""Keeps the host alive as long as every client and check is well: the loop around `rules` (spec watchdog 3.8).

Looks at clients and checks, turns that into one event of `rules`, performs the actions through a `Pinger` (the
guard). No sockets here; time is injected. What it must never do: ping after looking away, or wait for anybody but
the guard, and for that only within `Pinger`'s bound.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from holdfast.watchdog import timing, wire
from holdfast.watchdog.clients import Client, Clients
from holdfast.watchdog.device import DeviceError
from holdfast.watchdog.quirks import ORDINARY as LATEST_DRIVER
from holdfast.watchdog.rules import Action, Event, Phase, react
from holdfast.watchdog.wire import Command, Message

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 1.0
"""How long the guard may take our word for a ping: from the look at the clients to the ping itself."""
REARM_PAUSE_S: Final = 5.0
"""Between two tries to arm a device that could not be armed, or that was lost, while clients rely on it."""


@dataclass(frozen=True, slots=True)
class Armed:
    """What the guard has armed."""

    path: str
    identity: str
    lateness: float
    """Seconds that it may fire late."""
    pinged_at: float
    """CLOCK_MONOTONIC; 0 for a device that was armed by an earlier daemon and has not been pinged by us."""
    boot_status: int = -1
    """The driver's word on the last reset, -1 when it has none."""


@dataclass(frozen=True, slots=True)
class Pinged:
    """What became of a ping."""

    at: float | None
    """CLOCK_MONOTONIC; None: withheld, it was too late."""
    shortened_to: int = 0
    """It was late, and the device has this timeout now."""


class Pinger(Protocol):
    """The device behind the guard's socket. Every call ends within a bound; DeviceError otherwise."""

    async def arm(self, timeout: int) -> Armed:
        """Armed with exactly `timeout` seconds, and pinged."""
        ...

    async def ping(self, earliest_expire: int | None, heartbeat_until: float) -> Pinged: ...

    async def disarm(self) -> bool:
        """False: it cannot be stopped (nowayout)."""
        ...


Checks = Callable[[], Awaitable[Sequence[str]]]
"""Runs what else must be well; a sentence for each that is not. Bounded in time by itself."""


async def no_checks() -> Sequence[str]:
    """Nothing else."""
    return ()


class Observer(Protocol):
    """Is told what happens: the flight recorder."""

    def pinged(self, at: float) -> None: ...

    def withheld(self, reasons: Sequence[str], last_ping: float, fires_at: float) -> None: ...

    def resumed(self) -> None: ...

    def armed(self, armed: Armed, timeout: int) -> None: ...

    def disarmed(self) -> None: ...

    def lost(self, reason: str) -> None: ...


class Keeper:
    """One device, many clients."""

    def __init__(
        self,
        pinger: Pinger,
        now: Callable[[], float],
        *,
        checks: Checks = no_checks,
        runtime_timeout: int = 0,
        observer: Observer | None = None,
    ) -> None:
        """`runtime_timeout`: seconds; the host is guarded also when nobody asks for it. 0: only on demand."""
        self.clients = Clients()
        self.phase = Phase.DISARMED
        self.armed: Armed | None = None
        self.fire_timeout = timing.DEFAULT_FIRE_TIMEOUT_S
        """What clients are told and may rely on: at the latest this long after an expiry the host is reset."""
        self.last_ping = 0.0
        self.last_test = 0.0
        self.changed = asyncio.Event()
        """Set when there may be something to do before the next test."""
        self._pinger = pinger
        self._now = now
        self._checks = checks
        self._runtime_timeout = runtime_timeout
        self._observer = observer
        self._stepping = asyncio.Lock()
        self._next_arm = 0.0

    # -- what clients see ------------------------------------------------------------------------------------

    @property
    def withholding(self) -> bool:
        """Whether the host will be reset unless something changes."""
        return self.phase is Phase.WITHHOLDING

    @property
    def device_timeout(self) -> int:
        """What the device is programmed with: never longer than what clients were told."""
        return min(self.fire_timeout, self._runtime_timeout or self.fire_timeout)

    @property
    def test_interval(self) -> int:
        """Seconds between two tests now, as STATUS tells it."""
        if self.withholding:
            return timing.RECOVERY_INTERVAL_S
        return max(1, min(timing.interval_of(self.fire_timeout), self.device_timeout // 4))

    @property
    def in_use(self) -> bool:
        """Whether SIGTERM has to be ignored."""
        return self.clients.refcounted or self.clients.earliest_expire is not None

    async def message(self, client: Client, raw: bytes, peer_pid: int, peer_start: int = 0) -> bytes | None:
        """One message of a client; returns the reply, if there is one. DUMP_DEBUG is not for here."""
        message = wire.decode(raw)
        if self.clients.apply(client, message, peer_pid, peer_start):
            self.changed.set()
            return None
        if message.cmd == Command.STATUS:
            return wire.status_reply(
                raw,
                test_interval=self.test_interval,
                fire_timeout=await self._promised_to(client),
                last_keepalive=int(self.last_ping),
            )
        if message.cmd == Command.OPEN_WATCHDOG:
            return wire.open_reply(raw, await self._open_for(client, message))
        return None

    async def _promised_to(self, client: Client) -> int:
        """For STATUS. An old client asks behind REFCOUNT_SET and then believes itself guarded: arm before that.

        0 for a client that relies on a device that cannot be armed: it refuses to go on, as any other number
        than its own makes it.
        """
        unarmed = (Phase.DISARMED, Phase.LOST)
        if client.arms and self.phase in unarmed:
            await self.test_if_due()
            if self.phase in unarmed:
                return 0
        return self.fire_timeout

    async def _open_for(self, client: Client, message: Message) -> int:
        """The timeout in force, 0 when there is none. The first one who asks decides, the others compare."""
        async with self._stepping:
            if self.phase is Phase.DISARMED:
                if not self._may_arm():
                    return 0
                before = self.fire_timeout
                if not timing.MIN_FIRE_TIMEOUT_S <= message.fire_timeout <= timing.MAX_FIRE_TIMEOUT_S:
                    return 0
                self.fire_timeout = message.fire_timeout
                if not await self._step(Event.NEEDED):
                    self.fire_timeout = before
                    return 0
            if self.phase in (Phase.DISARMED, Phase.LOST):
                return 0
            client.asked_for = message.fire_timeout
            return self.fire_timeout

    def closed(self, client: Client) -> None:
        """A connection ended."""
        if self.clients.closed(client):
            log.error(
                "client dead ci %d pid %d renewal %d expire %d %s: nobody can extend it any more",
                *(client.ci, client.pid, client.renewal, client.expire, client.name),
            )
        self.changed.set()

    # -- the tests -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Tests until cancelled."""
        while True:
            self.changed.clear()
            await self.test_if_due()
            try:
                async with asyncio.timeout(max(0.0, self.next_test - self._now())):
                    await self.changed.wait()
            except TimeoutError:
                pass

    @property
    def next_test(self) -> float:
        """When there is something to do without being told."""
        if self.phase is Phase.DISARMED and not self._is_needed:
            return self._now() + timing.MAX_FIRE_TIMEOUT_S
        if self.phase in (Phase.DISARMED, Phase.LOST):
            return self._next_arm
        return self.last_test + self.test_interval

    @property
    def _is_needed(self) -> bool:
        return bool(self._runtime_timeout) or self.clients.arming

    async def test_if_due(self) -> None:
        """One test, if it is time; else only what does not wait for the next test: arming and disarming."""
        async with self._stepping:
            now = self._now()
            if self.phase in (Phase.DISARMED, Phase.LOST):
                if self._is_needed and now >= self._next_arm and self._may_arm():
                    await self._step(Event.NEEDED if self.phase is Phase.DISARMED else Event.OPENED)
            elif not self._is_needed and not len(self.clients):
                await self._step(Event.PASS if self.withholding else Event.UNUSED)
            elif now >= self.last_test + self.test_interval or self.withholding:
                self.last_test = now
                failures = [*await self._checks(), *self.expired()]
                await self._step(Event.FAIL if failures else Event.PASS, failures)

    def _may_arm(self) -> bool:
        """Arming pings. A client of an earlier daemon that has expired must not be given another fire timeout.

        The device, left running by that daemon, ends the host in time; nothing is to be done here.
        """
        now = self._now()
        if timing.may_ping(now, self.clients.earliest_expire, LATEST_DRIVER.lateness(self.device_timeout)):
            return True
        self._next_arm = now + REARM_PAUSE_S
        log.error("watchdog not armed: a client that an earlier daemon left has expired; the host is to be reset")
        return False

    def expired(self) -> list[str]:
        """A line for each client that forbids a ping now, in the original's words."""
        assert self.armed is not None
        now = self._now()
        blocking = self.clients.expiring_before(now + self.armed.lateness + timing.PING_SLOP_S)
        return [
            f"test failed rem {self.fires_at - now:.0f} now {now:.0f} ping {self.last_ping:.0f} "
            f"renewal {one.renewal} expire {one.expire} client {one.pid} {one.name}"
            for one in blocking
        ]

    @property
    def fires_at(self) -> float:
        """When the device fires if it is not pinged again."""
        return self.last_ping + self.device_timeout

    # -- actions ---------------------------------------------------------------------------------------------

    async def _step(self, event: Event, failures: Sequence[str] = ()) -> bool:
        """React to an event; False when the device did not do what it should."""
        phase, actions = react(self.phase, event)
        try:
            for action in actions:
                if not await self._perform(action, failures):
                    return False
        except DeviceError as error:
            self._next_arm = self._now() + REARM_PAUSE_S
            if self.phase in (Phase.DISARMED, Phase.LOST):
                log.error("watchdog not armed: %s; next try in %g s", error, REARM_PAUSE_S)
                return False
            if not error.gone:
                self.last_test += timing.RECOVERY_INTERVAL_S - self.test_interval
                log.error(
                    "ping failed: %s; it fires in %.1f s, next try in 1 s", error, self.fires_at - self._now()
                )
                return False
            phase, actions = react(self.phase, Event.DEVICE_FAILED)
            for action in actions:
                await self._perform(action, [str(error)])
            self.phase = phase
            return False
        self.phase = phase
        return True

    async def _perform(self, action: Action, failures: Sequence[str]) -> bool:
        match action:
            case Action.ARM:
                await self._arm()
            case Action.PING:
                return await self._ping()
            case Action.DISARM:
                await self._disarm()
            case Action.LOG_WITHHELD:
                self._log_withheld(failures)
            case Action.LOG_RESUMED:
                log.warning("every client and check is well again: pinging")
                if self._observer:
                    self._observer.resumed()
            case Action.LOG_LOST:
                log.error("the watchdog device is lost, nothing resets this host: %s", "; ".join(failures))
                self.armed = None
                if self._observer:
                    self._observer.lost("; ".join(failures))
            case Action.LOG_FOUND:
                await self._arm()
        return True

    async def _arm(self) -> None:
        self.armed = armed = await self._pinger.arm(self.device_timeout)
        self.last_ping = self.last_test = armed.pinged_at
        log.warning(
            "%s (%s) armed: fires %d s after the last ping", armed.path, armed.identity, self.device_timeout
        )
        if self._observer:
            self._observer.armed(armed, self.device_timeout)

    async def _ping(self) -> bool:
        now = self._now()
        pinged = await self._pinger.ping(self.clients.earliest_expire, now + HEARTBEAT_S)
        if pinged.at is None:
            # Between our look and the guard's it became too late: that is a failed test.
            self._log_withheld([*self.expired(), "too late when the guard looked"])
            self.phase = Phase.WITHHOLDING
            return False
        self.last_ping = pinged.at
        if pinged.shortened_to:
            log.error(
                "a ping came late: the device has %d s now, so that it still fires in time", pinged.shortened_to
            )
        if self._observer:
            self._observer.pinged(pinged.at)
        return True

    async def _disarm(self) -> None:
        stopped = await self._pinger.disarm()
        self.armed = None
        if stopped:
            log.warning("nobody needs the watchdog: disarmed")
        else:
            log.error("the watchdog cannot be disarmed (nowayout): it resets this host unless it is opened again")
        if self._observer:
            self._observer.disarmed()

    def _log_withheld(self, failures: Sequence[str]) -> None:
        for failure in failures:
            log.error("%s", failure)
        log.error("not pinging: the host is reset at %.1f unless all is well before", self.fires_at)
        if self._observer:
            self._observer.withheld(failures, self.last_ping, self.fires_at)
