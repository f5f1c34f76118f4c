"""The service manager's watchdog: who vouches for the daemon, and when it is not vouched for (spec path 5.2).

Whoever drives checks promises when it will be back at the latest. Pings are sent by the loop that the checks run
on, and only while no promise is broken: a blocked loop sends none, nor does one whose driver has stopped. A path
that hangs breaks no promise, because its driver does not wait for it. A reconfigure promises the next step.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import os
from collections.abc import Callable
from typing import Final

from holdfast import notify
from holdfast.path.conf import Config
from holdfast.path.conf_parser import Sourced

log = logging.getLogger(__name__)

GRACE_S: Final = 5.0
"""How late a driver may be: a loaded machine must not look like a stopped driver."""
SECOND_LOOK_S: Final = 0.25
"""After a driver was found late, before pings are withheld."""
CONFIGURE: Final = "configure"
"""Who promises during a reconfigure."""
STEP_S: Final = 60.0
"""How long one step of a reconfigure may take: the kernel is asked with a limit of 30 s each time."""
LOW_INTERVAL_S: Final = 2.0
"""WatchdogSec= below this is warned of: half of it is what a busy host takes away now and then."""
SENSIBLE_S: Final = 10
PINGS_PER_INTERVAL: Final = 2


class Promises:
    """By when each driver will be back, seconds of the loop's clock."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def back_by(self, who: str, until: float) -> None:
        """`who` is at work and will promise anew before `until`."""
        self._until[who] = until

    def done(self, who: str) -> None:
        """It drives nothing any more, or waits for work only."""
        self._until.pop(who, None)

    def broken(self, now: float) -> str | None:
        """Who should be back, in one line for the log; None: all is well."""
        late = {who: now - until for who, until in self._until.items() if now > until + GRACE_S}
        if not late:
            return None
        worst = max(late, key=lambda who: late[who])
        others = f" and {len(late) - 1} more" if len(late) > 1 else ""
        return f"{worst} is {late[worst]:.0f} s late{others}"


class Liveness:
    """Pings for as long as nothing is broken; `run` until cancelled."""

    def __init__(
        self,
        interval_s: float | None,
        broken: Callable[[float], str | None],
        ping: Callable[[], bool] = notify.watchdog_ping,
    ) -> None:
        """`interval_s` of WATCHDOG_USEC, None: nobody wants pings. `broken`: as `Promises.broken`."""
        self._interval_s = interval_s
        self._broken = broken
        self._ping = ping
        self._withheld = False

    async def run(self) -> None:
        """At half the interval, beginning now. Returns when nobody wants pings."""
        if self._interval_s is None:
            return
        loop = asyncio.get_running_loop()
        period = ping_period(self._interval_s)
        while True:
            broken = self._broken(loop.time())
            if broken is not None:
                # The whole loop may have been late, and this is only the first to find out: let the others run.
                await asyncio.sleep(min(SECOND_LOOK_S, period / PINGS_PER_INTERVAL))
                broken = self._broken(loop.time())
            self._judge(broken)
            await asyncio.sleep(period)

    def _judge(self, broken: str | None) -> None:
        if broken is None:
            if self._withheld:
                log.warning("watchdog: all drivers of checks are back, pings go on")
            self._withheld = False
            self._ping()
            return
        if not self._withheld:
            log.error("watchdog: %s: no pings, the service manager will restart this daemon", broken)
        self._withheld = True


def ping_period(interval_s: float) -> float:
    """Seconds between pings: half the interval, whole seconds as in the original where that is one or more."""
    half = interval_s / PINGS_PER_INTERVAL
    return half if half < 1 else math.floor(half)


def interval(take_over: str = "no") -> float | None:
    """Seconds of WATCHDOG_USEC, when it is meant for this process; says what is wrong with it. `take_over`: see
    `take_over_intervals`; the old releases refuse what is less than a second.
    """
    found = notify.watchdog_interval()
    if found is None:
        return None
    if take_over != "no" and found < 1:
        log.warning('invalid value for WatchdogSec: "%s"', os.environ.get("WATCHDOG_USEC", ""))
        return None
    if found < LOW_INTERVAL_S:
        log.warning(
            "WatchdogSec=%g is too low: systemd will kill this daemon whenever the host is busy for as long; "
            "set %d s or more",
            found,
            SENSIBLE_S,
        )
    log.info("enabling watchdog, interval %gs", ping_period(found))
    return found


def take_over_intervals(config: Config, rule: str, watchdog_s: float | None) -> Config:
    """The configuration with the polling intervals that an old release made of the watchdog's (5.2).

    `2013`: polling_interval is the watchdog's, whatever the file says, max_polling_interval at least that.
    `0.9.4`: max_polling_interval is at most the watchdog's. `no`, or no watchdog: as the file says.
    """
    if rule == "no" or watchdog_s is None or watchdog_s < 1:
        return config
    whole = int(watchdog_s)
    defaults = dict(config.defaults)
    if rule == "2013":
        _, longest = config.intervals
        defaults["polling_interval"] = Sourced(whole)
        defaults["max_polling_interval"] = Sourced(max(longest, whole))
    else:
        written = config.defaults.get("max_polling_interval")
        longest = written.value if written is not None and isinstance(written.value, int) else 0
        if not longest or longest > whole:
            defaults["max_polling_interval"] = Sourced(whole)
    return dataclasses.replace(config, defaults=defaults)
