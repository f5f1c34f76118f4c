"""Which value holds for a path or map, and where it comes from (spec path 7.3).

First found wins: command line, autodetection, `multipaths`, `overrides` (its protocol first), hardware entries
from the most specific one, `defaults`, built in.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from holdfast.path.conf import Config, DeviceEntry
from holdfast.path.conf_parser import Sourced
from holdfast.path.keywords import Section, Value, keywords_of


class Source(enum.Enum):
    """Where a value comes from."""

    COMMAND_LINE = enum.auto()
    DETECTED = enum.auto()
    MULTIPATHS = enum.auto()
    PROTOCOL = enum.auto()
    OVERRIDES = enum.auto()
    DEVICES = enum.auto()
    """A `device` section of the files."""
    HARDWARE = enum.auto()
    """The built-in hardware table."""
    DEFAULTS = enum.auto()
    BUILT_IN = enum.auto()

    @property
    def log(self) -> str:
        """As logs have it; `defaults` and `devices` share their words."""
        return f"(setting: {_LOG[self]})"


_LOG: Final = {
    Source.COMMAND_LINE: "command line",
    Source.DETECTED: "storage device autodetected",
    Source.MULTIPATHS: "multipath.conf multipaths section",
    Source.PROTOCOL: "multipath.conf overrides section",
    Source.OVERRIDES: "multipath.conf overrides section",
    Source.DEVICES: "multipath.conf defaults/devices section",
    Source.HARDWARE: "storage device configuration",
    Source.DEFAULTS: "multipath.conf defaults/devices section",
    Source.BUILT_IN: "multipath internal",
}


@dataclass(frozen=True, slots=True)
class Resolved:
    """A value that holds. None: not set anywhere."""

    value: Value | None
    source: Source
    place: str = ""
    """`FILE:LINE` where it was written."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The path or map that is asked about."""

    wwid: str = ""
    devices: tuple[DeviceEntry, ...] = ()
    """Matching hardware entries, the one that counts most first (`Config.matching_devices`)."""
    protocol: str = ""
    detected: Mapping[str, Value] = field(default_factory=dict)
    """prio, path_checker, path_grouping_policy, hardware_handler as the device itself tells them."""
    command_line: Mapping[str, Value] = field(default_factory=dict)


DETECTION: Final = {
    "prio": "detect_prio",
    "prio_args": "detect_prio",
    "path_checker": "detect_checker",
    "path_grouping_policy": "detect_pgpolicy",
}
"""What may be detected, and the switch for it."""

LAST_RESORT: Final[Mapping[str, Value]] = {"hardware_handler": "0"}
"""Of settings that have no place in defaults."""


def resolve(config: Config, name: str, subject: Subject) -> Resolved:
    """The value of one setting. KeyError for an unknown name."""
    if name in subject.command_line:
        return Resolved(subject.command_line[name], Source.COMMAND_LINE)
    switch = DETECTION.get(name, "")
    if name in subject.detected and _detects(config, switch, subject):
        return Resolved(subject.detected[name], Source.DETECTED)
    for values, source in _layers(config, name, subject):
        found = values.get(name)
        if found is not None and found.value is not None:
            return Resolved(found.value, source, found.place if found.path else "")
    if name in keywords_of(Section.DEFAULTS, config.release):
        default = config.default(name)
        return Resolved(
            default.value, Source.DEFAULTS if default.path else Source.BUILT_IN, default.path and default.place
        )
    if not any(name in keywords_of(section, config.release) for section in (Section.DEVICE, Section.MULTIPATH)):
        raise KeyError(name)
    return Resolved(LAST_RESORT.get(name), Source.BUILT_IN)


def _detects(config: Config, switch: str, subject: Subject) -> bool:
    """hardware_handler has no switch; a release without a switch does not detect."""
    if not switch:
        return True
    if switch not in keywords_of(Section.DEFAULTS, config.release):
        return False
    return bool(resolve(config, switch, subject).value)


def _layers(config: Config, name: str, subject: Subject) -> list[tuple[Mapping[str, Sourced], Source]]:
    layers: list[tuple[Mapping[str, Sourced], Source]] = []
    if subject.wwid in config.multipaths:
        layers.append((config.multipaths[subject.wwid], Source.MULTIPATHS))
    if subject.protocol in config.protocols and name != "type":
        layers.append((config.protocols[subject.protocol], Source.PROTOCOL))
    layers.append((config.overrides, Source.OVERRIDES))
    for entry in subject.devices:
        found = entry.values.get(name)
        layers.append((entry.values, Source.DEVICES if found is not None and found.path else Source.HARDWARE))
    return layers


@dataclass(frozen=True, slots=True)
class MapFeatures:
    """Features as they go to the kernel, and what follows from them."""

    features: str
    no_path_retry: Value | None
    remarks: tuple[str, ...] = ()


QUEUE: Final = "queue_if_no_path"
RETAIN: Final = "retain_attached_hw_handler"


def normalise_features(features: str, no_path_retry: Value | None, alias: str = "") -> MapFeatures:
    """`queue_if_no_path` in features is the old way to write `no_path_retry queue`: it is taken out, and counts
    only where no_path_retry is not set. What the daemon manages itself (queueing) never goes into the table.
    """
    words = features.split()[1:]
    if QUEUE not in words:
        return MapFeatures(features, no_path_retry)
    kept = [word for word in words if word != QUEUE]
    text = " ".join([str(len(kept)), *kept])
    prefix = f"{alias}: " if alias else ""
    if no_path_retry is None:
        return MapFeatures(text, "queue", (f"{prefix}feature {QUEUE} is taken as no_path_retry queue",))
    return MapFeatures(text, no_path_retry, (f"{prefix}ignoring feature {QUEUE}: no_path_retry is set",))
