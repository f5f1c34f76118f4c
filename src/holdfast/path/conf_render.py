"""A configuration as text, as `show config` and `show blacklist` print it (spec path 6.10).

With a configuration that was read for 0.9.4 the text is that release's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from holdfast.path.conf import Config, DeviceEntry, DeviceRule, Rule, Rules
from holdfast.path.conf_parser import Sourced
from holdfast.path.keyword_values import print_value, quoted
from holdfast.path.keywords import PRINT_ORDER, Release, Section, keywords_of

_PATTERNS = ("devnode", "wwid", "property", "protocol")


def render(
    config: Config, *, devices: Iterable[DeviceEntry] | None = None, maps: Mapping[str, str] | None = None
) -> str:
    """`show config`; with `maps` (WWID to alias of the maps that exist) and the `devices` that some path matches
    it is `show config local`.
    """
    sections = [
        ("defaults", _defaults(config)),
        ("blacklist", _rules(config.blacklist)),
        ("blacklist_exceptions", _rules(config.exceptions)),
        ("devices", _devices(config.devices if devices is None else devices, config.release)),
        ("overrides", _overrides(config)),
    ]
    multipaths = list(_multipaths(config, maps or {}))
    if multipaths:
        sections.append(("multipaths", iter(multipaths)))
    text: list[str] = []
    for word, body in sections:
        text += [f"{word} {{", *(f"\t{line}" for line in body), "}"]
    return "\n".join(text) + "\n"


def _defaults(config: Config) -> Iterator[str]:
    known = keywords_of(Section.DEFAULTS, config.release)
    for name in PRINT_ORDER[Section.DEFAULTS]:
        keyword = known.get(name)
        if keyword is not None:
            value = config.default(name).value
            if value is not None:
                yield f"{name} {print_value(keyword, value)}"


def settings_lines(section: Section, values: Mapping[str, Sourced], release: Release) -> Iterator[str]:
    """`keyword value` of what is set, in the section's order."""
    known = keywords_of(section, release)
    for name in PRINT_ORDER[section]:
        sourced = values.get(name)
        if name in known and sourced is not None and sourced.value is not None:
            yield f"{name} {print_value(known[name], sourced.value)}"


def _block(word: str, lines: Iterable[str]) -> Iterator[str]:
    yield f"{word} {{"
    for line in lines:
        yield f"\t{line}"
    yield "}"


def _rules(rules: Rules) -> Iterator[str]:
    for name in _PATTERNS:
        patterns: tuple[Rule, ...] = getattr(rules, name)
        for rule in patterns:
            yield f"{name} {quoted(rule.pattern)}"
    for device in rules.device:
        parts = (("vendor", device.vendor), ("product", device.product))
        yield from _block("device", (f"{name} {quoted(text)}" for name, text in parts if text is not None))


def _devices(entries: Iterable[DeviceEntry], release: Release) -> Iterator[str]:
    for entry in entries:
        yield from _block("device", settings_lines(Section.DEVICE, entry.values, release))


def _overrides(config: Config) -> Iterator[str]:
    yield from settings_lines(Section.OVERRIDES, config.overrides, config.release)
    for values in config.protocols.values():
        yield from _block("protocol", settings_lines(Section.PROTOCOL, values, config.release))


def _multipaths(config: Config, maps: Mapping[str, str]) -> Iterator[str]:
    for wwid in sorted({*config.multipaths, *maps}, key=lambda name: name.encode("utf-8", "surrogateescape")):
        values = config.multipaths.get(wwid, {"wwid": Sourced(wwid)})
        lines = list(settings_lines(Section.MULTIPATH, values, config.release))
        if wwid in maps and "alias" not in values:
            lines.insert(1, f"# alias {quoted(maps[wwid])}")
        yield from _block("multipath", lines)


_TITLES = {
    "devnode": "device node rules:",
    "property": "udev property rules:",
    "protocol": "protocol rules:",
    "wwid": "wwid rules:",
    "device": "device rules:",
}


def render_rules(config: Config) -> str:
    """`show blacklist`."""
    text: list[str] = []
    for name, title in _TITLES.items():
        text.append(title)
        for heading, rules in (("- blacklist:", config.blacklist), ("- exceptions:", config.exceptions)):
            text.append(heading)
            found: tuple[Rule | DeviceRule, ...] = getattr(rules, name)
            text += [f"        {f'({rule.origin.value})':<18} {_shown(rule)}" for rule in found] or [
                "        <empty>"
            ]
    return "\n".join(text) + "\n"


def _shown(rule: Rule | DeviceRule) -> str:
    return rule.pattern if isinstance(rule, Rule) else f"{rule.vendor}:{rule.product}"
