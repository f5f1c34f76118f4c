"""multipath.conf values that agree with the timing of leases on the same storage. Pure.

A lease is kept by writing to the storage every 2 x io_timeout; after 8 x io_timeout without success its users are
killed, and when they cannot be killed because their I/O hangs, the watchdog resets the host. So whatever happens
to paths must be over before that: a bad path found and no longer used, or, when no path is left, errors returned.
Every number here follows from that one budget.

    0        2 io                    6 io         8 io                     8 io + W
    ├─ path ─┼─ renewal starts ──────┤ budget ────┤ users are killed ──────┤ watchdog resets the host
             found, failed over, or errors        └ 2 io for one read and one write on a good path
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from holdfast.path.checkers.base import DEFAULT_TIMEOUT_S
from holdfast.path.conf import Config
from holdfast.path.conf_parser import Sourced
from holdfast.path.conf_resolve import QUEUE
from holdfast.path.keywords import Value

MAX_POLLING_S: Final = 5
"""More often is no use, less often finds failures later: the default of multipath-tools."""
MAX_FAST_IO_FAIL_S: Final = 5
MIN_DEV_LOSS_S: Final = 600
"""What keeps devices through a reboot of a switch or an array's controller."""
DECISION_S: Final = 1
"""From the end of a check's timeout until the kernel knows."""
SCSI_TIMEOUT_S: Final = 30
"""The kernel's default for disks (/sys/block/*/device/timeout)."""

Device = tuple[str, str, str]
"""Vendor, product, revision."""


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """Of the lease daemon, seconds."""

    io_timeout: int
    fire_timeout: int
    renewal_interval: int
    """From a success to the next attempt."""
    warn_after: int
    """Without a renewal: warnings. What is done about paths by then leaves time for a renewal."""
    fail_after: int
    """Without a renewal: users are killed."""
    reset_after: int
    """Without a renewal: the watchdog fires."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of multipath.conf, and why."""

    name: str
    value: int
    section: str
    why: str


@dataclass(frozen=True, slots=True)
class Advice:
    """Values that go together, seconds (no_path_retry: checks)."""

    timing: LeaseTiming
    polling_interval: int
    max_polling_interval: int
    checker_timeout: int
    no_path_retry: int
    fast_io_fail_tmo: int
    dev_loss_tmo: int
    eh_deadline: int
    scsi_timeout: int
    """Of the device, in sysfs: no setting of multipath.conf."""

    @property
    def detection_s(self) -> int:
        """A path that stops answering is failed after this, at the latest."""
        return self.max_polling_interval + self.checker_timeout + DECISION_S

    @property
    def queueing_s(self) -> int:
        """Without a path I/O waits this long, then fails."""
        return self.no_path_retry * self.polling_interval

    @property
    def settings(self) -> list[Setting]:
        """In the order in which they act. Those in overrides would lose against the hardware table elsewhere."""
        timing = self.timing
        return [
            Setting(
                "polling_interval", self.polling_interval, "defaults", "a path that is down is looked at so often"
            ),
            Setting(
                "max_polling_interval",
                self.max_polling_interval,
                "defaults",
                f"a good path is checked so often; with the next one a hang is found in {self.detection_s} s",
            ),
            Setting(
                "checker_timeout",
                self.checker_timeout,
                "defaults",
                f"a block that takes longer than io_timeout ({timing.io_timeout} s) is no use to a renewal",
            ),
            Setting(
                "fast_io_fail_tmo",
                self.fast_io_fail_tmo,
                "overrides",
                "I/O on a lost port fails after this and goes on by another path",
            ),
            Setting(
                "eh_deadline",
                self.eh_deadline,
                "overrides",
                f"SCSI error recovery ends; I/O that hangs is free after {self.scsi_timeout + self.eh_deadline} s",
            ),
            Setting(
                "no_path_retry",
                self.no_path_retry,
                "overrides",
                f"without a path I/O waits {self.queueing_s} s, then fails: {self.detection_s + self.queueing_s} s"
                f" in all, of {timing.warn_after} s",
            ),
            Setting(
                "dev_loss_tmo",
                self.dev_loss_tmo,
                "overrides",
                f"devices of a lost port stay known, beyond a reset after {timing.reset_after} s too",
            ),
        ]


def advise(timing: LeaseTiming) -> Advice:
    """The longest waiting for storage to come back that still ends in time."""
    io = timing.io_timeout
    polling = max(1, min(MAX_POLLING_S, io // 2))
    longest = max(polling, min(2 * polling, io))
    checker = max(1, io)
    error_handling = max(1, io)
    left = timing.warn_after - (longest + checker + DECISION_S)
    return Advice(
        timing,
        polling,
        longest,
        checker,
        max(left // polling, 1),
        min(MAX_FAST_IO_FAIL_S, io),
        max(MIN_DEV_LOSS_S, timing.reset_after),
        error_handling,
        # A renewal that began on a path that hangs is free again in time.
        max(1, min(SCSI_TIMEOUT_S, timing.warn_after - timing.renewal_interval - error_handling)),
    )


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A value of the present configuration that does not go with the leases."""

    name: str
    value: str
    place: str
    what: str


def contradictions(config: Config, timing: LeaseTiming, devices: Collection[Device] = ()) -> list[Contradiction]:
    """Of what holds now. Entries of the built-in hardware table count for `devices`, those that are here."""
    return [*_of_detection(config, timing), *_of_layers(config, timing, devices), *_of_daemon(config, timing)]


def _of_detection(config: Config, timing: LeaseTiming) -> Iterator[Contradiction]:
    timeout = config.default("checker_timeout")
    longest = config.default("max_polling_interval")
    assumed = timeout.value if isinstance(timeout.value, int) and timeout.value else DEFAULT_TIMEOUT_S
    taken = _number(longest.value) + assumed + DECISION_S
    if taken > timing.warn_after:
        if _number(longest.value) + timing.io_timeout > timing.warn_after:
            guilty = ("max_polling_interval", longest)
        else:
            guilty = ("checker_timeout", timeout)
        yield _found(
            *guilty, f"a path that hangs is used for up to {taken} s, renewals have {timing.warn_after} s"
        )


def _layers(config: Config, devices: Collection[Device]) -> Iterator[tuple[str, Mapping[str, Sourced]]]:
    defaults = {name: config.default(name) for name in ("no_path_retry", "features", *_PORTS)}
    yield "", defaults
    for entry in config.devices:
        if entry.built_in and not any(entry.matches(*device) for device in devices):
            continue
        shown = ":".join(part for part in entry.key if part)
        yield f"device {shown}", entry.values
    yield "", config.overrides
    for kind, values in config.protocols.items():
        yield f"protocol {kind}", values
    for wwid, values in config.multipaths.items():
        yield f"multipath {wwid}", values


_PORTS: Final = ("fast_io_fail_tmo", "dev_loss_tmo", "eh_deadline")


def _of_layers(config: Config, timing: LeaseTiming, devices: Collection[Device]) -> Iterator[Contradiction]:
    polling = _number(config.default("polling_interval").value)
    shown: set[tuple[str, str]] = set()
    decided = _value(config.overrides, "no_path_retry") is not None
    for title, values in _layers(config, devices):
        is_covered = decided and values is not config.overrides and not title.startswith("multipath")
        found = [] if is_covered else [*_of_retry(values, polling, timing)]
        for one in (*found, *_of_ports(values, timing)):
            place = " ".join(part for part in (title, f"({one.place})" if title else one.place) if part)
            if (one.name, place) not in shown:
                shown.add((one.name, place))
                yield Contradiction(one.name, one.value, place, one.what)


def _of_retry(values: Mapping[str, Sourced], polling: int, timing: LeaseTiming) -> Iterator[Contradiction]:
    retry = values.get("no_path_retry")
    value = retry.value if retry is not None else None
    hangs = (
        f"without a path a renewal hangs, users with I/O cannot be killed after {timing.fail_after} s, "
        f"and the watchdog resets the host after {timing.reset_after} s"
    )
    if retry is not None and value == "queue":
        yield _found("no_path_retry", retry, hangs)
    elif retry is not None and isinstance(value, int) and value * polling >= timing.warn_after:
        is_fatal = value * polling >= timing.fail_after
        late = "users are killed meanwhile" if is_fatal else "hardly time for a renewal"
        yield _found(
            "no_path_retry",
            retry,
            f"I/O waits {value * polling} s without a path, renewals have {timing.warn_after} s: {late}",
        )
    features = values.get("features")
    words = features.value.split() if features is not None and isinstance(features.value, str) else []
    if value is None and features is not None and QUEUE in words:
        yield _found("features", features, hangs)


def _of_ports(values: Mapping[str, Sourced], timing: LeaseTiming) -> Iterator[Contradiction]:
    fail, loss = values.get("fast_io_fail_tmo"), values.get("dev_loss_tmo")
    if fail is not None and fail.value is not None:
        if fail.value == "off":
            yield _found("fast_io_fail_tmo", fail, "I/O on a lost port waits until the port is given up")
        elif _number(fail.value) > timing.warn_after:
            yield _found("fast_io_fail_tmo", fail, f"renewals have {timing.warn_after} s")
    if loss is not None and isinstance(loss.value, int) and fail is not None and _number(fail.value) >= loss.value:
        yield _found("dev_loss_tmo", loss, "not longer than fast_io_fail_tmo: devices vanish instead of failing")


def _of_daemon(config: Config, timing: LeaseTiming) -> Iterator[Contradiction]:
    queues = config.default("queue_without_daemon")
    if queues.value is True:
        yield _found(
            "queue_without_daemon",
            queues,
            "while no path daemon runs nobody ends queueing: a renewal hangs until the watchdog resets the host",
        )


def _found(name: str, sourced: Sourced, what: str) -> Contradiction:
    shown = "unset" if sourced.value is None else str(sourced.value)
    if sourced.value is True:
        shown = "yes"
    return Contradiction(name, shown, sourced.place, what)


def _value(values: Mapping[str, Sourced], name: str) -> Value | None:
    found = values.get(name)
    return found.value if found is not None else None


def _number(value: Value | None) -> int:
    return value if isinstance(value, int) else 0
