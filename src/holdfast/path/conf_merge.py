"""Files of multipath.conf to one configuration: order, merging, default rules (spec path 7.2, 7.6).

Built-in hardware table, then the main file, then the drop-ins; later ones win.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from holdfast.path.conf import Config, DeviceEntry, DeviceRule, Origin, Rule, Rules
from holdfast.path.conf_diagnostics import ERROR, INFO, NOTICE, WARNING, Diagnostic, Diagnostics, Place, about_file
from holdfast.path.conf_parser import Block, Parser, Sourced
from holdfast.path.hwtable import HARDWARE, listed_devices
from holdfast.path.keyword_values import Surroundings
from holdfast.path.keywords import Release, Section
from holdfast.path.posix_regex import PatternError, compile_pattern, compile_plain

DEFAULT_DEVNODE: Final = "!^(sd[a-z]|dasd[a-z]|nvme[0-9])"
DEFAULT_DEVNODE_NATIVE_NVME: Final = "!^(sd[a-z]|dasd[a-z])"
"""Where the kernel itself does NVMe multipathing."""
DEFAULT_PROPERTY: Final = "(SCSI_IDENT_|ID_WWN)"

Settings = Mapping[str, Sourced]


def merge(
    sources: Sequence[tuple[str, bytes]],
    around: Surroundings | None = None,
    *,
    main: str = "",
    native_nvme: bool = False,
    remarks: Diagnostics | None = None,
) -> Config:
    """The configuration of these files, in this order. `main` is the path of the main file (default: the first
    one's); only there can a value be fatal to the original. Never raises.
    """
    settled = around or Surroundings()
    merger = _Merger(settled, remarks or Diagnostics())
    for path, data in sources:
        merger.file(path, data, main=path == (main or sources[0][0]))
    return merger.config(tuple(path for path, _ in sources), native_nvme)


def filled(later: Settings, earlier: Settings) -> dict[str, Sourced]:
    """The later one's values; what it does not set from the earlier one."""
    return {**earlier, **{name: sourced for name, sourced in later.items() if sourced.value is not None}}


def _left_out(text: str, block: Block, brief: str) -> Diagnostic:
    return about_file(text, block.path, level=ERROR, line=block.line, brief=brief, hint="it is left out")


class _Merger:
    def __init__(self, around: Surroundings, remarks: Diagnostics) -> None:
        self._release: Release = around.release
        self._remarks = remarks
        self._parser = Parser(around, remarks)
        self._defaults: dict[str, Sourced] = {}
        self._overrides: dict[str, Sourced] = {}
        self._protocols: dict[str, dict[str, Sourced]] = {}
        self._multipaths: list[Block] = []
        self._lists = {Section.BLACKLIST: _RuleList(remarks), Section.EXCEPTIONS: _RuleList(remarks)}
        self._devices: dict[tuple[str | None, ...], DeviceEntry] = {}
        for row in HARDWARE:
            entry = DeviceEntry({name: Sourced(value) for name, value in row.values(self._release).items()})
            self._devices[entry.key] = entry

    def file(self, path: str, data: bytes, *, main: bool) -> None:
        """Read one more file."""
        devices: list[Block] = []
        protocols: list[Block] = []
        for block in self._parser.parse(data, path, main=main):
            if block.section is Section.DEFAULTS:
                self._defaults.update(block.settings)
            elif block.section is Section.OVERRIDES:
                self._overrides.update(block.settings)
                protocols += block.children
            elif block.section is Section.DEVICES:
                devices += block.children
            elif block.section is Section.MULTIPATHS:
                self._multipaths += block.children
            else:
                self._lists[block.section].add(block)
        self._add_devices(path, devices)
        self._add_protocols(path, protocols)

    def _add_devices(self, path: str, blocks: list[Block]) -> None:
        entries = [DeviceEntry(block.settings) for block in blocks]
        last = {entry.key: at for at, entry in enumerate(entries)}
        for key in last:
            if key in self._devices:
                self._duplicate(key, path, INFO)
        for at, (entry, block) in enumerate(zip(entries, blocks, strict=True)):
            if None in entry.key[:2]:
                text = f"device config in {path} missing vendor or product parameter"
                brief = "device without vendor or product"
                self._remarks.add(_left_out(text, block, brief))
                continue
            if last[entry.key] != at:
                self._duplicate(entry.key, path, WARNING)
            earlier = self._devices.pop(entry.key, None)
            merged = filled(entry.values, earlier.values) if earlier is not None else dict(entry.values)
            self._devices[entry.key] = DeviceEntry(merged)
            self._check_patterns(entry)

    def _duplicate(self, key: tuple[str | None, ...], path: str, level: int) -> None:
        shown = ":".join("(null)" if part is None else part for part in key)
        text = f"factorize_hwtable: duplicate device section for {shown} in {path}"
        brief = f"more than one device section for {shown}"
        hint = "they are merged; the later one's values win"
        self._remarks.add(about_file(text, path, level=level, hint=hint, brief=brief))

    def _check_patterns(self, entry: DeviceEntry) -> None:
        """The original finds out when it looks for a device, or ends without a word (product_blacklist)."""
        for name in ("vendor", "product", "revision", "product_blacklist"):
            sourced = entry.values.get(name)
            if sourced is None or not isinstance(sourced.value, str):
                continue
            try:
                compile_plain(sourced.value)
            except PatternError as error:
                text = f'invalid regular expression for {name}: "{sourced.value}": {error}'
                lost = name == "product_blacklist"
                self._remarks.add(Place(sourced.path, sourced.line).at(text, "it matches nothing", rule_lost=lost))

    def _add_protocols(self, path: str, blocks: list[Block]) -> None:
        for block in blocks:
            kind = block.settings.get("type")
            if kind is None:
                text = f"protocol section in {path} missing type"
                self._remarks.add(_left_out(text, block, "protocol section without type"))
                continue
            earlier = self._protocols.pop(str(kind.value), {})
            self._protocols[str(kind.value)] = filled(block.settings, earlier)

    def _merged_multipaths(self) -> dict[str, dict[str, Sourced]]:
        for block in self._multipaths:
            if "wwid" not in block.settings:
                text = "multipaths config section missing wwid"
                self._remarks.add(_left_out(text, block, "multipath without wwid"))
        named = [
            (str(block.settings["wwid"].value), block) for block in self._multipaths if "wwid" in block.settings
        ]
        # Sorted first, then merged: that is the order of the remarks.
        named.sort(key=lambda item: item[0].encode("utf-8", "surrogateescape"))
        found: dict[str, dict[str, Sourced]] = {}
        for name, block in named:
            if name in found:
                text = f"merge_mptable: duplicate multipath config section for {name}"
                remark = about_file(
                    text,
                    block.path,
                    level=WARNING,
                    hint="they are merged; the later one's values win",
                    line=block.line,
                    brief=f"another multipath section for {name}",
                )
                self._remarks.add(remark)
            found[name] = filled(block.settings, found.get(name, {}))
        return found

    def config(self, files: tuple[str, ...], native_nvme: bool) -> Config:
        """Everything that was read, with the default rules."""
        multipaths = self._merged_multipaths()
        devices = tuple(self._devices.values())
        self._lists[Section.BLACKLIST].defaults(
            DEFAULT_DEVNODE_NATIVE_NVME if native_nvme else DEFAULT_DEVNODE,
            "",
            [*listed_devices(self._release), *_listed_by(devices)],
        )
        self._lists[Section.EXCEPTIONS].defaults("", DEFAULT_PROPERTY, [])
        return Config(
            self._release,
            self._defaults,
            self._lists[Section.BLACKLIST].rules(),
            self._lists[Section.EXCEPTIONS].rules(),
            devices,
            self._overrides,
            self._protocols,
            multipaths,
            self._remarks.all(),
            files,
        )


def _listed_by(devices: Iterable[DeviceEntry]) -> list[tuple[str, str]]:
    """Vendor and product_blacklist of the entries that have one, as far as they are valid."""
    found: list[tuple[str, str]] = []
    for entry in devices:
        vendor, product = entry.text("vendor"), entry.text("product_blacklist")
        if vendor is None or product is None:
            continue
        try:
            compile_pattern(vendor)
            compile_pattern(product)
        except PatternError:
            continue  # Said when the entry was read.
        found.append((vendor, product))
    return found


class _RuleList:
    """The rules of one blacklist section, each once, in the order in which they came."""

    def __init__(self, remarks: Diagnostics) -> None:
        self._remarks = remarks
        self._patterns: dict[str, dict[str, Rule]] = {
            name: {} for name in ("devnode", "wwid", "property", "protocol")
        }
        self._devices: dict[tuple[str | None, str | None], DeviceRule] = {}

    def add(self, block: Block) -> None:
        """The rules of one more section."""
        for name, sourced in block.patterns:
            rule = Rule(str(sourced.value), Origin.CONFIG, sourced.place)
            self._patterns[name].setdefault(rule.pattern, rule)
        for child in block.children:
            self._device(child, block)

    def _device(self, child: Block, block: Block) -> None:
        found = [child.settings.get(name) for name in ("vendor", "product")]
        vendor, product = (None if one is None else str(one.value) for one in found)
        if vendor is None and product is None:
            text = f"device without vendor and product in the {block.section.word} section"
            self._remarks.add(Place(child.path, child.line).at(text, "it is left out", level=NOTICE))
            return
        rule = DeviceRule(vendor, product, Origin.CONFIG, f"{child.path}:{child.line}")
        self._devices.setdefault((vendor, product), rule)

    def defaults(self, devnode: str, property_name: str, devices: Iterable[tuple[str, str]]) -> None:
        """Add what holds without being written."""
        for name, pattern in (("devnode", devnode), ("property", property_name)):
            if pattern:
                self._patterns[name].setdefault(pattern, Rule(pattern, Origin.DEFAULT))
        for vendor, product in devices:
            self._devices.setdefault((vendor, product), DeviceRule(vendor, product, Origin.DEFAULT))

    def rules(self) -> Rules:
        """As they are now."""
        lists = {name: tuple(rules.values()) for name, rules in self._patterns.items()}
        return Rules(**lists, device=tuple(self._devices.values()))
