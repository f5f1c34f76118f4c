"""Keeps the host alive as long as every client and check is well: the loop around `rules` (spec watchdog 3.8).

Looks at clients and checks, turns that into one event of `rules`, performs the actions through a `Pinger` (the
guard). No sockets here; time is injected. What it must never do: ping after looking away, or wait for anybody but
the guard, and for that only within `Pinger`'s bound.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
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
OWN_TIMEOUT: Final = -1
"""As `runtime_timeout`: the device's own, `RuntimeWatchdogSec=default`."""
MIN_BEFORE_PRETIMEOUT_S: Final = 4
"""Between a ping and the event before the reset: four times the shortest interval of pings."""
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
    timeout: int = 0
    """In force, seconds."""
    remark: str = ""
    """When that is not what was wanted."""


@dataclass(frozen=True, slots=True)
class Pinged:
    """What became of a ping."""

    at: float | None
    """CLOCK_MONOTONIC; None: withheld, it was too late."""
    shortened_to: int = 0
    """It was late, and the device has this timeout now."""
    timeout: int = 0
    """In force, seconds."""
    lateness: float = 0.0
    remark: str = ""


class Pinger(Protocol):
    """The device behind the guard's socket. Every call ends within a bound; DeviceError otherwise."""

    async def arm(self, timeout: int, nearest: bool = False) -> Armed:
        """Armed with exactly `timeout` seconds, and pinged. `nearest`: or the nearest possible; 0: what it has."""
        ...

    async def program(
        self, timeout: int, nearest: bool, earliest_expire: int | None, heartbeat_until: float
    ) -> Pinged:
        """Another timeout; pings, and is withheld like a ping."""
        ...

    async def set_pretimeout(self, pretimeout: int, governor: str = "") -> str:
        """From the next ping on; returns what could not be done, or nothing."""
        ...

    async def hand_over(self, timeout: int) -> tuple[int, str]:
        """Left running for a shutdown: what it has now, and a remark."""
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

    def late_ping(self, shortened_to: int) -> None: ...

    def armed(self, armed: Armed, interval: int) -> None: ...

    def disarmed(self, stopped: bool) -> None: ...

    def client_dead(self, client: Client) -> None: ...

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
        pretimeout: int = 0,
        pretimeout_governor: str = "",
        observer: Observer | None = None,
    ) -> None:
        """`runtime_timeout`: seconds; the host is guarded also when nobody asks for it. 0: only on demand;
        `OWN_TIMEOUT`: with what the device has. `pretimeout`: seconds before the reset, 0 for none.
        """
        self.clients = Clients()
        self.phase = Phase.DISARMED
        self.armed: Armed | None = None
        self.fire_timeout = timing.DEFAULT_FIRE_TIMEOUT_S
        """What clients are told and may rely on: at the latest this long after an expiry the host is reset."""
        self.failures: Sequence[str] = ()
        """What forbade the last ping."""
        self.last_ping = 0.0
        self.last_test = 0.0
        self.changed = asyncio.Event()
        """Set when there may be something to do before the next test."""
        self._pinger = pinger
        self._now = now
        self._checks = checks
        self._runtime_timeout = runtime_timeout
        self._runtime_actual = 0
        """What the device took for it."""
        self._pretimeout_wanted = (pretimeout, pretimeout_governor)
        self.pretimeout = 0
        """In force, seconds."""
        self.handed_over = False
        """The device runs for the end of a shutdown: it is not ours any more."""
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
        """What the device is programmed with, or would be: never longer than what clients were told."""
        if self.armed is not None and self.armed.timeout:
            return self.armed.timeout
        return self._wanted[0] or self.fire_timeout

    @property
    def told_timeout(self) -> int:
        """What clients are told: the promise; more when the device could not be made to keep it."""
        if self.armed is not None and self.clients.arming:
            return max(self.fire_timeout, self.armed.timeout)
        return self.fire_timeout

    @property
    def _wanted(self) -> tuple[int, bool]:
        """The timeout to arm with, and whether the nearest possible one will do. 0: what the device has."""
        runtime = self._runtime_timeout
        if runtime == OWN_TIMEOUT:
            return 0, True
        if not runtime or (self.clients.arming and runtime > self.fire_timeout):
            return self.fire_timeout, False
        return runtime, True

    @property
    def test_interval(self) -> int:
        """Seconds between two tests now, as STATUS tells it."""
        if self.withholding:
            return timing.RECOVERY_INTERVAL_S
        return self.normal_interval

    @property
    def normal_interval(self) -> int:
        """Seconds between two tests while all is well."""
        return timing.ping_interval(self.fire_timeout, self.device_timeout, self.pretimeout)

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
            if self._is_too_long:
                # The client has just begun to rely on it, and is told what holds from now on.
                await self.test_if_due()
            return wire.status_reply(
                raw,
                test_interval=self.test_interval,
                fire_timeout=await self._promised_to(client),
                last_keepalive=int(self.last_ping),
            )
        if message.cmd == Command.SUPERSEDE:
            done = self.clients.supersede(client)
            if done:
                log.warning("client %d pid %d answers for the dead %s", client.ci, client.pid, client.name)
                self.changed.set()
            return wire.open_reply(raw, int(done))
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
        return self.told_timeout

    async def _open_for(self, client: Client, message: Message) -> int:
        """The timeout in force, 0 when there is none. The first one who asks decides, the others compare."""
        async with self._stepping:
            if self.handed_over:
                return 0
            alone = not any(one.arms for one in self.clients if one is not client)
            if self.phase is Phase.DISARMED or (alone and self.phase is Phase.PINGING):
                before = self.fire_timeout, client.asked_for
                if not timing.MIN_FIRE_TIMEOUT_S <= message.fire_timeout <= timing.MAX_FIRE_TIMEOUT_S:
                    log.error(
                        "fire timeout %d s refused: possible are %d to %d",
                        *(message.fire_timeout, timing.MIN_FIRE_TIMEOUT_S, timing.MAX_FIRE_TIMEOUT_S),
                    )
                    return 0
                self.fire_timeout = client.asked_for = message.fire_timeout
                if not await self._keeps_promise():
                    self.fire_timeout, client.asked_for = before
                    log.error("fire timeout %d s refused: the device cannot do it", message.fire_timeout)
                    return 0
            if self.phase in (Phase.DISARMED, Phase.LOST):
                return 0
            client.asked_for = message.fire_timeout
            return self.told_timeout

    async def _keeps_promise(self) -> bool:
        """Arm or reprogram the device for the present promise; False: it cannot be done."""
        if self.phase is Phase.DISARMED and not (self._may_arm() and await self._step(Event.NEEDED)):
            return False
        await self._adjust()
        return not self._is_too_long

    def closed(self, client: Client) -> None:
        """A connection ended."""
        if self.clients.closed(client):
            log.error(
                "client dead ci %d pid %d renewal %d expire %d %s: nobody can extend it any more",
                *(client.ci, client.pid, client.renewal, client.expire, client.name),
            )
            if self._observer:
                self._observer.client_dead(client)
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
        return not self.handed_over and (bool(self._runtime_timeout) or self.clients.arming)

    @property
    def _is_too_long(self) -> bool:
        """The device was armed for longer than somebody now relies on."""
        return self.armed is not None and self.clients.arming and self.armed.timeout > self.fire_timeout

    @property
    def _is_lowered(self) -> bool:
        """The device has a client's timeout, and nobody relies on that any more."""
        return (
            self.armed is not None and not self.clients.arming and 0 < self._runtime_actual != self.armed.timeout
        )

    async def _adjust(self) -> None:
        """Another timeout for the armed device, when those who rely on it have changed."""
        if self.phase is not Phase.PINGING or self.armed is None:
            return
        if not self.clients.arming:
            self.fire_timeout = timing.DEFAULT_FIRE_TIMEOUT_S
        if not self._is_too_long and not self._is_lowered:
            return
        wanted = self._runtime_actual if self._is_lowered else self.fire_timeout
        try:
            done = await self._pinger.program(
                wanted, self._is_lowered, self.clients.earliest_expire, self._now() + HEARTBEAT_S
            )
        except DeviceError as error:
            # It may have been changed all the same: from now on the longer one counts as in force.
            self.armed = replace(self.armed, timeout=max(self.armed.timeout, wanted))
            log.error("watchdog timeout not changed to %d s: %s", wanted, error)
            return
        if done.at is None:
            return  # Too late for somebody: the next test says so.
        self.last_ping = done.at
        self.armed = replace(self.armed, timeout=done.timeout, lateness=done.lateness)
        log.warning("%s: fires %d s after the last ping from now on", self.armed.path, done.timeout)
        await self._set_pretimeout()
        if self._observer:
            self._observer.armed(self.armed, self.test_interval)

    async def _set_pretimeout(self) -> None:
        """An event before the reset. It takes effect with the next ping."""
        assert self.armed is not None
        wanted, governor = self._pretimeout_wanted
        if not wanted and not self.pretimeout:
            return
        if self.armed.timeout - wanted < MIN_BEFORE_PRETIMEOUT_S:
            log.error(
                "pretimeout %d s not used: it leaves less than %d s of the timeout of %d s",
                *(wanted, MIN_BEFORE_PRETIMEOUT_S, self.armed.timeout),
            )
            wanted = 0
        try:
            refused = await self._pinger.set_pretimeout(wanted, governor if wanted else "")
        except DeviceError as error:
            refused = str(error)
        self.pretimeout = 0 if refused else wanted
        if refused:
            log.error("%s: %s", self.armed.path, refused)
        elif wanted:
            log.warning("%s: pretimeout %d s from the next ping on", self.armed.path, wanted)

    async def hand_over(self, timeout: int) -> int:
        """Leave the device running with the nearest to `timeout` for a shutdown that may hang; what it has then.

        DeviceError: somebody relies on it, something is not well, or the device fails.
        """
        async with self._stepping:
            if self.clients.arming:
                raise DeviceError(f"the watchdog is in use by {self.users()}: stop them first")
            if self.withholding or not self._may_arm():
                raise DeviceError("a check fails: the ping that the hand-over is would be withheld")
            if self.armed is None:
                self.armed = await self._pinger.arm(timeout, True)
            actual, remark = await self._pinger.hand_over(timeout)
            if remark:
                log.error("%s", remark)
            self.armed, self.phase, self.handed_over = None, Phase.DISARMED, True
            self.last_ping = self._now()
            log.warning("watchdog left running for the shutdown: it fires in %d s", actual)
            return actual

    def users(self) -> str:
        """Who relies on the device, for people."""
        return ", ".join(f"{one.name or '?'} (pid {one.pid})" for one in self.clients if one.arms)

    async def test_if_due(self) -> None:
        """One test, if it is time; else only what does not wait for the next test: arming and disarming."""
        async with self._stepping:
            await self._adjust()
            now = self._now()
            if self.phase in (Phase.DISARMED, Phase.LOST):
                if self._is_needed and now >= self._next_arm and self._may_arm():
                    await self._step(Event.NEEDED if self.phase is Phase.DISARMED else Event.OPENED)
            elif not self._is_needed and not len(self.clients):
                await self._step(Event.PASS if self.withholding else Event.UNUSED)
            elif now >= self.last_test + self.test_interval or self.withholding:
                self.last_test = now
                self.failures = failures = [*await self._checks(), *self.expired()]
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
        wanted, nearest = self._wanted
        self.armed = armed = await self._pinger.arm(wanted, nearest)
        if not armed.timeout:
            self.armed = armed = replace(armed, timeout=wanted)
        if self._runtime_timeout and nearest:
            self._runtime_actual = armed.timeout
        self.last_ping = self.last_test = armed.pinged_at
        log.warning("%s (%s) armed: fires %d s after the last ping", armed.path, armed.identity, armed.timeout)
        if armed.remark:
            log.error("%s", armed.remark)
        self.pretimeout = 0
        await self._set_pretimeout()
        if self._observer:
            self._observer.armed(armed, self.test_interval)

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
                self._observer.late_ping(pinged.shortened_to)
        if self._observer:
            self._observer.pinged(pinged.at)
        return True

    async def _disarm(self) -> None:
        stopped = await self._pinger.disarm()
        self.armed = None
        self.fire_timeout = timing.DEFAULT_FIRE_TIMEOUT_S
        if stopped:
            log.warning("nobody needs the watchdog: disarmed")
        else:
            log.error("the watchdog cannot be disarmed (nowayout): it resets this host unless it is opened again")
        if self._observer:
            self._observer.disarmed(stopped)

    def _log_withheld(self, failures: Sequence[str]) -> None:
        for failure in failures:
            log.error("%s", failure)
        log.error("not pinging: the host is reset at %.1f unless all is well before", self.fires_at)
        if self._observer:
            self._observer.withheld(failures, self.last_ping, self.fires_at)
