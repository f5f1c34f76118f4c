"""Which paths are left alone: blacklists, their exceptions, and the reason (spec path 7.6).

Pure: the caller says what is known of the device.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from holdfast.path.conf import Config, DeviceRule, Rule
from holdfast.path.posix_regex import PatternError, compile_pattern


class Why(enum.Enum):
    """What decided; the value is how logs call it."""

    NOTHING = "not matched"
    PROPERTY = "udev property"
    PROPERTY_MISSING = "udev property missing"
    DEVNODE = "device node name"
    DEVICE = "vendor/product"
    PROTOCOL = "protocol"
    WWID = "wwid"


@dataclass(frozen=True, slots=True)
class PathFacts:
    """What is known of a path. Empty: unknown, and then not tested."""

    devnode: str = ""
    """`sda`"""
    vendor: str = ""
    product: str = ""
    protocol: str = ""
    """`scsi:fcp`"""
    wwid: str = ""
    properties: tuple[str, ...] | None = None
    """Names of the udev properties, in their order; None: there is no udev device."""
    uid_attribute: str = ""
    """The property that has the WWID."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one test, or of all."""

    excluded: bool
    why: Why = Why.NOTHING
    exception: bool = False
    """An exception whitelisted it."""
    rule: Rule | DeviceRule | None = None
    subject: str = ""
    """What the rule matched."""
    steps: tuple[Verdict, ...] = field(default=())
    """The tests that were made, in order (of the whole verdict)."""

    @property
    def text(self) -> str:
        """For people and logs."""
        if not self.excluded and not self.exception:
            return "not blacklisted"
        word = "blacklisted" if self.excluded else "whitelisted"
        if self.why is Why.PROPERTY_MISSING:
            return "blacklisted, udev property missing"
        return f"({self.why.value} {self.subject}) {word}"


def check_path(config: Config, facts: PathFacts) -> Verdict:
    """All tests in order; the first that excludes the path decides."""
    steps: list[Verdict] = []
    for step in _tests(config, facts):
        steps.append(step)
        if step.excluded:
            return Verdict(True, step.why, False, step.rule, step.subject, tuple(steps))
    return Verdict(False, steps=tuple(steps))


def _tests(config: Config, facts: PathFacts) -> Iterable[Verdict]:
    yield check_properties(config, facts.properties, facts.uid_attribute)
    if facts.devnode:
        yield check_text(config, "devnode", Why.DEVNODE, facts.devnode)
    if facts.vendor and facts.product:
        yield check_device(config, facts.vendor, facts.product)
    if facts.protocol:
        yield check_text(config, "protocol", Why.PROTOCOL, facts.protocol)
    if facts.wwid:
        yield check_text(config, "wwid", Why.WWID, facts.wwid)


def check_text(config: Config, name: str, why: Why, text: str) -> Verdict:
    """One list: an exception first, else the blacklist. `name`: devnode, wwid or protocol."""
    for exception, rules in ((True, config.exceptions), (False, config.blacklist)):
        found = _first(getattr(rules, name), text)
        if found is not None:
            return Verdict(not exception, why, exception, found, text)
    return Verdict(False, why)


def check_device(config: Config, vendor: str, product: str) -> Verdict:
    """Vendor and product: both expressions of a rule must match."""
    subject = f"{vendor}:{product}"
    for exception, rules in ((True, config.exceptions), (False, config.blacklist)):
        for rule in rules.device:
            pairs = ((rule.vendor, vendor), (rule.product, product))
            if all(pattern is None or _matches(pattern, text) for pattern, text in pairs):
                return Verdict(not exception, Why.DEVICE, exception, rule, subject)
    return Verdict(False, Why.DEVICE)


def check_properties(config: Config, names: tuple[str, ...] | None, uid_attribute: str) -> Verdict:
    """The properties in the device's order: the first that is listed decides. If none is, a device that has its
    uid_attribute is excluded: disks have one of the usual properties, and what has none is something else.
    """
    if names is None:
        return Verdict(False, Why.PROPERTY)
    for name in names:
        for exception, rules in ((True, config.exceptions), (False, config.blacklist)):
            found = _first(rules.property, name)
            if found is not None:
                return Verdict(not exception, Why.PROPERTY, exception, found, name)
    if uid_attribute and uid_attribute in names:
        return Verdict(True, Why.PROPERTY_MISSING)
    return Verdict(False, Why.PROPERTY)


def _first(rules: Iterable[Rule], text: str) -> Rule | None:
    return next((rule for rule in rules if _matches(rule.pattern, text)), None)


def _matches(pattern: str, text: str) -> bool:
    try:
        return compile_pattern(pattern).matches(text)
    except PatternError:
        return False  # Said when the file was read.
