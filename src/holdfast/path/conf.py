"""A whole configuration: defaults, rules, devices, overrides, multipaths, each value with its source.

What `conf_merge.py` makes of the files. Immutable by agreement: a reconfigure makes another one.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from holdfast.path.conf_diagnostics import Diagnostic
from holdfast.path.conf_parser import Sourced
from holdfast.path.keywords import NEW, UINT_MAX, Release, Section, Value, keywords_of
from holdfast.path.posix_regex import PatternError, compile_plain

DEFAULT_POLLING_INTERVAL: Final = 5
MAX_INTERVAL_FACTOR: Final = 4
"""max_polling_interval, when only polling_interval is set."""


class Origin(enum.Enum):
    """Where a rule comes from; the value is what `show blacklist` calls it."""

    CONFIG = "config file rule"
    DEFAULT = "default rule"


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern of a blacklist, or of its exceptions."""

    pattern: str
    origin: Origin = Origin.CONFIG
    place: str = ""


@dataclass(frozen=True, slots=True)
class DeviceRule:
    """Vendor and product; None matches any."""

    vendor: str | None
    product: str | None
    origin: Origin = Origin.CONFIG
    place: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """One blacklist section, all files together."""

    devnode: tuple[Rule, ...] = ()
    wwid: tuple[Rule, ...] = ()
    property: tuple[Rule, ...] = ()
    protocol: tuple[Rule, ...] = ()
    device: tuple[DeviceRule, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceEntry:
    """An entry of the hardware table, built in or of the file."""

    values: Mapping[str, Sourced]

    def text(self, name: str) -> str | None:
        """A value that is text; None if it is not set."""
        found = self.values.get(name)
        return found.value if found is not None and isinstance(found.value, str) else None

    @property
    def key(self) -> tuple[str | None, str | None, str | None]:
        """Entries with the same one are merged."""
        return self.text("vendor"), self.text("product"), self.text("revision")

    @property
    def built_in(self) -> bool:
        """Whether nothing of it was written by the administrator."""
        return not any(sourced.path for sourced in self.values.values())

    def matches(self, vendor: str, product: str, revision: str = "") -> bool:
        """Whether all its expressions occur in the device's strings; one that is invalid never does."""
        try:
            return all(
                expression is None or compile_plain(expression).matches(text)
                for expression, text in zip(self.key, (vendor, product, revision), strict=True)
            )
        except PatternError:
            return False


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that multipath.conf and its drop-ins say, and what was wrong with them."""

    release: Release = NEW
    defaults: Mapping[str, Sourced] = field(default_factory=dict)
    """Written ones only."""
    blacklist: Rules = field(default_factory=Rules)
    exceptions: Rules = field(default_factory=Rules)
    devices: tuple[DeviceEntry, ...] = ()
    overrides: Mapping[str, Sourced] = field(default_factory=dict)
    protocols: Mapping[str, Mapping[str, Sourced]] = field(default_factory=dict)
    multipaths: Mapping[str, Mapping[str, Sourced]] = field(default_factory=dict)
    """By WWID, sorted."""
    diagnostics: tuple[Diagnostic, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def fatal(self) -> bool:
        """Whether the original would refuse to work with it."""
        return any(one.fatal for one in self.diagnostics)

    @property
    def rules_lost(self) -> bool:
        """Whether a blacklist rule is missing because it was wrong. Then, or if `fatal`, a daemon that has another
        configuration keeps it, and one that starts makes no map that is not there.
        """
        return any(one.rule_lost for one in self.diagnostics)

    def default(self, name: str) -> Sourced:
        """The value that holds where nothing more specific is said. KeyError for what is no default."""
        if name in ("polling_interval", "max_polling_interval"):
            return self._interval(name)
        written = self.defaults.get(name)
        if written is not None and written.value is not None:
            return written
        return Sourced(keywords_of(Section.DEFAULTS, self.release)[name].default)

    def _interval(self, name: str) -> Sourced:
        interval, most = self.intervals
        value = interval if name == "polling_interval" else most
        written = self.defaults.get(name)
        if written is not None and written.value == value:
            return written
        # Computed from the other one: that is where it comes from.
        other = self.defaults.get("max_polling_interval" if name == "polling_interval" else "polling_interval")
        return Sourced(value, other.path, other.line) if other is not None and other.value else Sourced(value)

    @property
    def intervals(self) -> tuple[int, int]:
        """polling_interval and max_polling_interval in seconds (4.2)."""
        written = self.defaults.get("polling_interval")
        most = self.defaults.get("max_polling_interval")
        return derive_intervals(
            written.value if written is not None else None, most.value if most is not None else None
        )

    def matching_devices(self, vendor: str, product: str, revision: str = "") -> tuple[DeviceEntry, ...]:
        """All entries for a device, the one that counts most first (9)."""
        return tuple(entry for entry in reversed(self.devices) if entry.matches(vendor, product, revision))


def derive_intervals(interval: Value | None, most: Value | None) -> tuple[int, int]:
    """polling_interval and max_polling_interval from what is set (4.2); both are at least 1 s."""
    low = int(interval) if isinstance(interval, int) else 0
    high = int(most) if isinstance(most, int) else 0
    if not low and not high:
        low = DEFAULT_POLLING_INTERVAL
    if not high:
        high = min(low * MAX_INTERVAL_FACTOR, UINT_MAX)
    if not low:
        low = max(high // MAX_INTERVAL_FACTOR, 1)
    return min(low, high), high
