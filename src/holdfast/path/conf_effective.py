"""Every value that holds, with its source: for `config check --effective` (spec path 7.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from holdfast.path.conf import Config, DeviceRule, Rule, Rules
from holdfast.path.conf_parser import Sourced
from holdfast.path.conf_resolve import Subject, resolve
from holdfast.path.keyword_values import print_value
from holdfast.path.keywords import PRINT_ORDER, Keyword, Section, Value, keywords_of

UNSET = "unset"


@dataclass(frozen=True, slots=True)
class Effective:
    """One line."""

    section: str
    name: str
    value: Value | None
    printed: str
    """As `show config` has it; `unset` for none."""
    source: str
    """`built-in`, or `FILE:LINE`."""


def whole(config: Config) -> Iterator[Effective]:
    """All sections; of the hardware table only what was written or changed."""
    yield from _defaults(config)
    for word, rules in (("blacklist", config.blacklist), ("blacklist_exceptions", config.exceptions)):
        yield from _rules(word, rules)
    for entry in config.devices:
        if not entry.built_in:
            shown = ":".join(part for part in entry.key if part)
            yield from _written(f"device {shown}", Section.DEVICE, entry.values, config)
    yield from _written("overrides", Section.OVERRIDES, config.overrides, config)
    for kind, values in config.protocols.items():
        yield from _written(f"protocol {kind}", Section.PROTOCOL, values, config)
    for wwid, values in config.multipaths.items():
        yield from _written(f"multipath {wwid}", Section.MULTIPATH, values, config)


def of_subject(config: Config, subject: Subject) -> Iterator[Effective]:
    """Every setting of one path or map."""
    known: dict[str, Keyword] = {}
    for section in (Section.DEFAULTS, Section.DEVICE, Section.MULTIPATH):
        known |= keywords_of(section, config.release)
    left_out = {"vendor", "product", "revision", "product_blacklist", "wwid"}
    order = [
        name for section in (Section.DEFAULTS, Section.DEVICE, Section.MULTIPATH) for name in PRINT_ORDER[section]
    ]
    for name in dict.fromkeys(order):
        if name not in known or name in left_out or _is_ignored(known[name]):
            continue
        found = resolve(config, name, subject)
        source = found.place or "built-in"
        yield Effective(found.source.name.lower(), name, found.value, _printed(known[name], found.value), source)


def _is_ignored(keyword: Keyword) -> bool:
    return keyword.kind.name in ("DEPRECATED", "SILENT")


def _printed(keyword: Keyword, value: Value | None) -> str:
    return UNSET if value is None else print_value(keyword, value)


def _defaults(config: Config) -> Iterator[Effective]:
    known = keywords_of(Section.DEFAULTS, config.release)
    for name in PRINT_ORDER[Section.DEFAULTS]:
        if name in known and not _is_ignored(known[name]):
            found = config.default(name)
            yield Effective("defaults", name, found.value, _printed(known[name], found.value), found.place)


def _written(title: str, section: Section, values: Mapping[str, Sourced], config: Config) -> Iterator[Effective]:
    known = keywords_of(section, config.release)
    for name in PRINT_ORDER[section]:
        found = values.get(name)
        if found is not None and found.value is not None and name in known:
            yield Effective(title, name, found.value, _printed(known[name], found.value), found.place)


def _rules(word: str, rules: Rules) -> Iterator[Effective]:
    for name in ("devnode", "wwid", "property", "protocol", "device"):
        found: tuple[Rule | DeviceRule, ...] = getattr(rules, name)
        for rule in found:
            text = rule.pattern if isinstance(rule, Rule) else f"{rule.vendor or '*'}:{rule.product or '*'}"
            yield Effective(word, name, text, f'"{text}"', rule.place or "built-in")
