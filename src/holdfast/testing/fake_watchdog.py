"""A watchdog device that behaves as the kernel and its drivers do, on a clock of the test's own, or misbehaves.

`FakeWatchdog` is the hardware with its driver; `open` gives the node that programs use (`watchdog.node.Node`).
What the models do was measured (spec watchdog 1.2 to 1.9, 7.1). `fires_at` tells when the host would be reset;
`faults` makes calls fail or lie.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from holdfast.watchdog.node import DISABLECARD, ENABLECARD, Flag, Support

FAKE_FD: Final = 10_000


@dataclass(frozen=True, slots=True)
class DriverModel:
    """How one driver behaves."""

    identity: str
    options: Flag = Flag.SETTIMEOUT | Flag.MAGICCLOSE | Flag.KEEPALIVEPING
    default_timeout: int = 60
    min_timeout: int = 1
    max_timeout: int = 65535
    late_per_s: float = 0.0
    second_expiry: bool = False
    """Resets at the second expiry only."""
    starts_at_ping: bool = False
    """Open and SETTIMEOUT do not start it."""
    any_timeout: bool = False
    """Accepts every integer."""
    legacy: bool = False
    """ENOTTY for boot status and time left."""


SOFTDOG: Final = DriverModel("Software Watchdog")
I6300ESB: Final = DriverModel("i6300ESB timer", default_timeout=30, max_timeout=2046, late_per_s=0.017)
IB700: Final = DriverModel("IB700 WDT", default_timeout=30, max_timeout=30, legacy=True)
ITCO: Final = DriverModel("iTCO_wdt", default_timeout=30, max_timeout=613, second_expiry=True)
IPMI: Final = DriverModel(
    "IPMI", options=Flag(0), default_timeout=10, starts_at_ping=True, any_timeout=True, legacy=True
)


@dataclass
class FakeWatchdog:
    """The device. `now` is the test's CLOCK_MONOTONIC."""

    now: Callable[[], float]
    model: DriverModel = SOFTDOG
    path: str = "/dev/watchdog0"
    nowayout: bool = False
    boot_status: Flag = field(default_factory=lambda: Flag(0))
    timeout: int = 0
    running_since: float | None = None
    """The last ping, or what counts as one; None: stopped."""
    is_open: bool = False
    release: bool = False
    """The next close may stop it. Outlives a close of a stopped device, as in the kernel's watchdog core."""
    pings: list[float] = field(default_factory=list)
    """By KEEPALIVE, SETTIMEOUT and unclean closes; not those by writes."""
    faults: dict[str, int] = field(default_factory=dict)
    """Method name to errno: every call fails with it until it is removed."""
    answers: dict[str, int] = field(default_factory=dict)
    """Method name (set_timeout, get_timeout) to what the driver says instead of the truth."""
    on_keepalive: Callable[[], None] = lambda: None
    """Called just before a ping takes effect: where a pause of the process strikes."""
    gone: bool = False
    """The driver was unbound: every call gives ENODEV."""

    def __post_init__(self) -> None:
        self.timeout = self.timeout or self.model.default_timeout

    def open(self, path: str) -> FakeNode:
        """As open(2)."""
        if self.gone or path != self.path:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        if self.is_open:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        self.is_open = True
        if self.running_since is None and not self.model.starts_at_ping:
            self.running_since = self.now()
        return FakeNode(self)

    @property
    def fires_at(self) -> float | None:
        """When the host is reset if nobody pings again; None: it is not counting."""
        if self.running_since is None:
            return None
        timeout = self.timeout * (2 if self.model.second_expiry else 1)
        return self.running_since + timeout * (1 + self.model.late_per_s)

    @property
    def has_fired(self) -> bool:
        """The host is gone."""
        return self.fires_at is not None and self.now() >= self.fires_at

    def ping(self, is_counted: bool = True) -> None:
        """The count starts again, unless the host is gone. The watchdog core starts no stopped device by that."""
        is_stopped = self.running_since is None and not (self.model.starts_at_ping or self.model.legacy)
        if not self.has_fired and not is_stopped:
            self.running_since = self.now()
            if is_counted:
                self.pings.append(self.now())


class FakeNode:
    """An open node of a `FakeWatchdog`."""

    def __init__(self, device: FakeWatchdog) -> None:
        self.device = device
        self.path = device.path
        self._closed = False

    def _enter(self, method: str) -> None:
        if self._closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        code = errno.ENODEV if self.device.gone else self.device.faults.get(method, 0)
        if code:
            raise OSError(code, os.strerror(code))

    def fileno(self) -> int:
        return FAKE_FD

    def support(self) -> Support:
        self._enter("support")
        return Support(self.device.model.options, 0, self.device.model.identity)

    def status(self) -> Flag:
        self._enter("status")
        return self.device.boot_status

    def boot_status(self) -> Flag:
        self._enter("boot_status")
        self._modern()
        return self.device.boot_status

    def set_options(self, options: int) -> None:
        self._enter("set_options")
        if options & DISABLECARD:
            if self.device.nowayout:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            self.device.running_since = None
        elif options & ENABLECARD:
            if self.device.running_since is None:
                self.device.running_since = self.device.now()
        else:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    def keepalive(self) -> None:
        self._enter("keepalive")
        self.device.on_keepalive()
        self.device.ping()

    def set_timeout(self, timeout: int) -> int:
        self._enter("set_timeout")
        device = self.device
        if not device.model.any_timeout and not device.model.min_timeout <= timeout <= device.model.max_timeout:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if not device.has_fired:
            device.timeout = timeout
        if not device.model.starts_at_ping or device.running_since is not None:
            device.ping()
        return device.answers.get("set_timeout", device.timeout)

    def get_timeout(self) -> int:
        self._enter("get_timeout")
        return self.device.answers.get("get_timeout", self.device.timeout)

    def set_pretimeout(self, pretimeout: int) -> None:
        self._enter("set_pretimeout")
        self._modern()
        if not 0 <= pretimeout < self.device.timeout:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.device.answers["pretimeout"] = pretimeout

    def get_pretimeout(self) -> int:
        self._enter("get_pretimeout")
        return self.device.answers.get("pretimeout", 0)

    def time_left(self) -> int:
        self._enter("time_left")
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    def write(self, data: bytes) -> None:
        self._enter("write")
        self.device.release = b"V" in data
        self.device.ping(is_counted=False)

    def close(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._closed = True
        self.device.is_open = False
        if self.device.running_since is None:
            return
        may_stop, self.device.release = self.device.release, False
        if may_stop and not self.device.nowayout:
            self.device.running_since = None
        else:
            self.device.ping()

    def _modern(self) -> None:
        if self.device.model.legacy:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
