"""The watchdog device as the daemon uses it: find one, arm it exactly, ping, disarm (spec watchdog 3.6, 8).

Arming is a promise to other hosts, so it is verified by reading back; a device that cannot keep it is refused
with the reason. Pings look at the clock before and after themselves (see `timing`).
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from holdfast.watchdog import sysfs, timing
from holdfast.watchdog.nearest import effective_timeout
from holdfast.watchdog.node import DISABLECARD, PING, RELEASE, Flag, KernelNode, Node, Support
from holdfast.watchdog.quirks import Quirk, quirk_of

log = logging.getLogger(__name__)

_NOT_SUPPORTED: Final = frozenset({errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})

MAX_SHORTENINGS: Final = 5
"""Tries to make a late ping harmless, each found too late itself: then the host is restarted."""


class DeviceError(Exception):
    """No usable device, or one that does not do what it must; the text says which, why, and what to do."""

    def __init__(self, text: str, gone: bool = False) -> None:
        super().__init__(text)
        self.gone = gone
        """The device does not exist any more: nothing resets this host."""


@dataclass(frozen=True, slots=True)
class PingOutcome:
    """What a ping did."""

    pinged_at: float | None
    """CLOCK_MONOTONIC just before it; None: it was withheld, too late for `limit`."""
    shortened_to: int = 0
    """The ping was late; the device has this timeout now, so that the reset still comes in time."""
    must_restart: bool = False
    """The ping was late and no timeout is short enough: restart the host now, by other means."""


class Device:
    """An armed device. Not for the event loop: a driver may take its time."""

    def __init__(
        self,
        node: Node,
        fire_timeout: int,
        now: Callable[[], float] = time.monotonic,
        sysfs_class: str = sysfs.CLASS,
    ) -> None:
        """Takes the node as it is; use `armed` or `adopt`."""
        self.node = node
        self.support = _support_of(node)
        self.quirk: Quirk = quirk_of(self.support.identity)
        self.fire_timeout = fire_timeout
        self.last_ping = 0.0
        self._shortened = False
        self.boot_status = _boot_status_of(node)
        self.remark = ""
        """When the timeout is not what was wanted."""
        self._now = now
        self._sysfs = sysfs.directory(node.path, sysfs_class)

    @classmethod
    def armed(
        cls,
        node: Node,
        fire_timeout: int,
        now: Callable[[], float] = time.monotonic,
        sysfs_class: str = sysfs.CLASS,
    ) -> Device:
        """Programs and verifies the timeout, and pings. DeviceError when that fails: the device is disarmed."""
        device = cls(node, fire_timeout, now, sysfs_class)
        try:
            device._program(fire_timeout)
            device._first_ping()
        except OSError as error:
            disarm(node, device.quirk)
            raise DeviceError(f"{device}: cannot be armed with {fire_timeout} s: {error.strerror}") from error
        except DeviceError:
            disarm(node, device.quirk)
            raise
        return device

    @classmethod
    def armed_nearest(
        cls,
        node: Node,
        wanted: int,
        now: Callable[[], float] = time.monotonic,
        sysfs_class: str = sysfs.CLASS,
    ) -> Device:
        """As `armed`, with the nearest possible timeout when `wanted` cannot be had; 0: the one that it has.

        For guarding the host only (RuntimeWatchdogSec): what is promised to clients is exact.
        """
        device = cls(node, wanted, now, sysfs_class)
        try:
            device.remark = device._program_nearest(wanted)
            device._first_ping()
        except OSError as error:
            disarm(node, device.quirk)
            raise DeviceError(f"{device}: cannot be armed: {error.strerror}") from error
        except DeviceError:
            disarm(node, device.quirk)
            raise
        return device

    @classmethod
    def adopt(cls, node: Node, fire_timeout: int, now: Callable[[], float] = time.monotonic) -> Device:
        """A device that an earlier process armed: neither programmed (that pings) nor pinged. DeviceError."""
        device = cls(node, fire_timeout, now)
        try:
            actual = node.get_timeout() * device.quirk.timeout_factor
        except OSError as error:
            raise DeviceError(f"{device}: {error.strerror}") from error
        if actual > fire_timeout:
            raise DeviceError(f"{device}: has {actual} s, promised were {fire_timeout} s")
        # A guard that died had shortened it after a late ping: the first ping that is allowed restores it.
        device._shortened = actual < fire_timeout
        return device

    def __str__(self) -> str:
        return f"{self.node.path} ({self.support.identity or 'unknown driver'})"

    @property
    def lateness(self) -> float:
        """How late it may fire, seconds."""
        return self.quirk.lateness(self.fire_timeout)

    @property
    def nowayout(self) -> bool:
        """Whether it cannot be disarmed any more."""
        return sysfs.number(self._sysfs, "nowayout") == 1

    def _program(self, fire_timeout: int) -> None:
        if not timing.MIN_FIRE_TIMEOUT_S <= fire_timeout <= timing.MAX_FIRE_TIMEOUT_S:
            raise DeviceError(
                f"fire timeout {fire_timeout} s: possible are {timing.MIN_FIRE_TIMEOUT_S} to "
                f"{timing.MAX_FIRE_TIMEOUT_S}"
            )
        wanted = self.quirk.programmed(fire_timeout)
        if wanted is None:
            raise DeviceError(f"{self}: cannot fire after {fire_timeout} s; {self.quirk.note}")
        try:
            answered = self.node.set_timeout(wanted)
        except OSError as error:
            if error.errno == errno.EINVAL:
                limits = [sysfs.number(self._sysfs, name) for name in ("min_timeout", "max_timeout")]
                known = f"; it can do {limits[0]} to {limits[1]} s" if limits[1] else ""
                raise DeviceError(f"{self}: {wanted} s is out of its range{known}") from error
            if error.errno not in _NOT_SUPPORTED:
                raise
            answered = wanted  # It has one fixed timeout: the read-back tells which.
        # A driver may answer one thing and do another.
        actual = self.node.get_timeout()
        if actual != wanted or answered != wanted:
            raise DeviceError(f"{self}: wanted {wanted} s, it answered {answered} s and has {actual} s")

    def _program_nearest(self, wanted: int) -> str:
        """Returns a remark when it is not `wanted`. DeviceError: no timeout that was tried is possible."""
        factor = self.quirk.timeout_factor
        if not wanted:
            wanted = self.node.get_timeout() * factor
        low, high = (sysfs.number(self._sysfs, name) * factor for name in ("min_timeout", "max_timeout"))
        lowest = max(timing.MIN_FIRE_TIMEOUT_S, low, self.quirk.min_timeout_s * factor)
        highest = min(
            timing.MAX_FIRE_TIMEOUT_S, high or timing.MAX_FIRE_TIMEOUT_S, self.quirk.max_timeout_s * factor
        )

        def attempt(value: int) -> int | None:
            try:
                self._program(value)
            except DeviceError:
                return None
            return value

        done = effective_timeout(wanted, attempt, lowest, highest)
        if not done.timeout_s:
            raise DeviceError(f"{self}: {done.remark}")
        self.fire_timeout = done.timeout_s
        return f"{self}: {done.remark}" if done.remark else ""

    def reprogram(self, timeout: int, earliest_expire: int | None, nearest: bool) -> PingOutcome:
        """Another timeout while it is armed. SETTIMEOUT pings: it is judged like a ping. OSError, DeviceError.

        When the device refuses, the timeout that it had is in force.
        """
        if not timing.may_ping(self._now(), earliest_expire, self.lateness):
            return PingOutcome(None)
        before = self.fire_timeout
        at = self._now()
        try:
            if nearest:
                self.remark = self._program_nearest(timeout)
            else:
                self._program(timeout)
                self.fire_timeout, self.remark = timeout, ""
        except DeviceError:
            self._program(before)
            raise
        self._shortened = False
        # IPMI takes a new timeout into account at the next ping only.
        self.node.keepalive()
        self.last_ping = at
        if not timing.was_late(self._now(), earliest_expire, self.lateness):
            return PingOutcome(at)
        assert earliest_expire is not None
        return self._make_harmless(at, earliest_expire)

    def hand_over(self, timeout: int) -> str:
        """Program the nearest to `timeout` and close without a release: it goes on counting, for a last phase that
        must end in time. The close pings. Returns a remark. OSError, DeviceError: it is still armed as before.
        """
        self.set_pretimeout(0)
        remark = self._program_nearest(timeout)
        self.node.write(PING)
        self.node.close()
        return remark

    def _first_ping(self) -> None:
        """By a write: that takes back a release which an earlier owner left behind.

        A device that was stopped before its last close (DISABLECARD, `V`, close) keeps the release in the kernel's
        watchdog core, and opening does not clear it. Nobody but a write does; without one our death would stop it.
        """
        at = self._now()
        self.node.write(PING)
        self.node.keepalive()
        self.last_ping = at

    def _ping(self) -> float:
        at = self._now()
        if self._shortened:
            # Every client is well again. SETTIMEOUT pings: it takes the place of the ping, checked like one.
            self._program(self.fire_timeout)
            self._shortened = False
        else:
            self.node.keepalive()
        self.last_ping = at
        return at

    def ping(self, earliest_expire: int | None) -> PingOutcome:
        """Ping unless it is too late for the client that expires first. OSError, DeviceError: the driver fails.

        The look at the clock and the ping are next to each other; a pause between them is found afterwards.
        """
        if not timing.may_ping(self._now(), earliest_expire, self.lateness):
            return PingOutcome(None)
        at = self._ping()
        if not timing.was_late(self._now(), earliest_expire, self.lateness):
            return PingOutcome(at)
        assert earliest_expire is not None
        return self._make_harmless(at, earliest_expire)

    def _make_harmless(self, at: float, earliest_expire: int) -> PingOutcome:
        """A ping was late. SETTIMEOUT pings as well, so it must be shortened until it is seen to be in time."""
        limit = timing.reset_limit(earliest_expire, self.fire_timeout)
        for _ in range(MAX_SHORTENINGS):
            timeout = timing.shortened_timeout(self._now(), earliest_expire, self.fire_timeout, self.quirk)
            programmed = timeout // self.quirk.timeout_factor
            if not timeout or programmed < self.quirk.min_timeout_s:
                return PingOutcome(at, must_restart=True)
            try:
                actual = self.node.set_timeout(programmed) * self.quirk.timeout_factor
            except OSError as error:
                log.error("%s: late ping, and the timeout cannot be shortened: %s", self, error.strerror)
                return PingOutcome(at, must_restart=True)
            self._shortened = True
            if self._now() + actual + self.quirk.lateness(actual) <= limit:
                return PingOutcome(at, shortened_to=actual)
        return PingOutcome(at, must_restart=True)

    def time_left(self) -> int | None:
        """Until it fires, if the driver can tell."""
        try:
            return self.node.time_left() * self.quirk.timeout_factor
        except OSError:
            return None

    def set_pretimeout(self, pretimeout: int, governor: str = "") -> str:
        """Ask for an event before the reset, 0 for none; returns what could not be done, or nothing.

        It takes effect at the next ping. The governor first: between the two it would be the kernel's default.
        """
        if pretimeout >= self.fire_timeout:
            return f"pretimeout {pretimeout} s is not shorter than the timeout of {self.fire_timeout} s, not used"
        if governor and self._sysfs:
            try:
                with open(os.path.join(self._sysfs, "pretimeout_governor"), "w", encoding="ascii") as file:
                    file.write(governor)
            except OSError as error:
                return f"pretimeout governor {governor}: {error.strerror}; is the kernel module loaded?"
        if pretimeout and sysfs.attribute(self._sysfs, "pretimeout_governor") == "":
            return "no pretimeout governor: is a kernel module loaded? pretimeout not used"
        try:
            self.node.set_pretimeout(pretimeout)
            actual = self.node.get_pretimeout()
        except OSError as error:
            return "" if not pretimeout else f"pretimeout {pretimeout} s: {error.strerror}"
        return "" if actual == pretimeout else f"pretimeout {pretimeout} s: the device has {actual} s"

    def disarm(self) -> bool:
        """Stop it and close it. False: it cannot be stopped (nowayout) and goes on counting."""
        return disarm(self.node, self.quirk)


def _support_of(node: Node) -> Support:
    try:
        return node.support()
    except OSError:
        return Support(Flag(0), 0, "")


def _boot_status_of(node: Node) -> Flag | None:
    try:
        return node.boot_status()
    except OSError:
        return None


def disarm(node: Node, quirk: Quirk) -> bool:
    """DISABLECARD, then `V`, then close: whichever the driver knows. Every close without it would ping."""
    stopped = True
    try:
        node.set_options(DISABLECARD)
    except OSError as error:
        stopped = error.errno in (errno.ENOTTY, errno.EOPNOTSUPP)
    try:
        node.write(RELEASE)
    except OSError as error:
        log.error("%s: release refused: %s", node.path, error.strerror)
        stopped = False
    try:
        node.close()
    except OSError as error:
        log.error("%s: close: %s", node.path, error.strerror)
    return stopped


def candidates(preferred: str | None = None) -> list[str]:
    """Nodes to try, in the original's order; a configured one first."""
    found = [preferred] if preferred else []
    return found + [path for path in sysfs.CANDIDATES if path != preferred]


def arm_first(
    fire_timeout: int,
    paths: Sequence[str],
    open_node: Callable[[str], Node] = KernelNode,
    now: Callable[[], float] = time.monotonic,
    sysfs_class: str = sysfs.CLASS,
    nearest: bool = False,
) -> Device:
    """The first of `paths` that can be armed with exactly `fire_timeout`; DeviceError says why none could.

    `nearest`: another timeout will do, see `Device.armed_nearest`.
    """
    arm = Device.armed_nearest if nearest else Device.armed
    reasons = []
    for path in paths:
        try:
            node = open_node(path)
        except OSError as error:
            if error.errno == errno.EBUSY:
                reasons.append(sysfs.explain_busy(path))
            elif error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
                reasons.append(f"{path}: {error.strerror}")
            continue
        try:
            return arm(node, fire_timeout, now, sysfs_class)
        except DeviceError as error:
            reasons.append(str(error))
    if not reasons:
        raise DeviceError(
            f"no watchdog device ({', '.join(paths)}): load a driver of the hardware, or `modprobe softdog`"
        )
    raise DeviceError("; ".join(reasons))
