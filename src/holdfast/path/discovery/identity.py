"""Which logical unit a path leads to, and whether it may be a path at all (spec path 11.2, 11.3, 7.6).

Pure: decisions over what sysfs and udev said.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Final

from holdfast.path.blacklist import PathFacts, Verdict, Why, check_path, check_text
from holdfast.path.conf import Config, DeviceEntry
from holdfast.path.conf_resolve import Subject, resolve
from holdfast.path.discovery.info import Bus, PathInfo
from holdfast.path.discovery.udev import UdevRecord
from holdfast.path.valid_path import should_build_map
from holdfast.path.wwid import attribute_of_uid_attrs, fallback_allowed, wwid_of_property

KEPT_PREFIXES: Final = ("ID_SERIAL", "ID_WWN", "ID_UID", "DM_", "MPATH_", "DISK_", "ID_FS_TYPE")
"""Properties that a `PathInfo` keeps beside that of uid_attribute: thousands of paths must not keep all."""


def hardware_entries(config: Config, info: PathInfo) -> tuple[DeviceEntry, ...]:
    """The entries of the hardware table for a path, the one that counts most first. NVMe has no revision there."""
    revision = "" if info.bus is Bus.NVME else info.revision
    return config.matching_devices(info.vendor, info.product, revision)


def uid_attribute(config: Config, info: PathInfo, devices: tuple[DeviceEntry, ...] | None = None) -> str:
    """The udev property that has the path's WWID; empty: udev is not to be asked. uid_attrs goes before
    uid_attribute.
    """
    uid_attrs = config.default("uid_attrs").value
    if isinstance(uid_attrs, str):
        attribute = attribute_of_uid_attrs(uid_attrs, info.dev)
        if attribute is not None:
            return attribute
    entries = hardware_entries(config, info) if devices is None else devices
    value = resolve(config, "uid_attribute", Subject(devices=entries, protocol=info.protocol)).value
    return str(value or "")


def with_wwid(info: PathInfo, attribute: str, properties: Mapping[str, str], *, fallback: bool) -> PathInfo:
    """`info` with its WWID, if it has one. `fallback`: udev has been asked often enough (11.3); where
    uid_attribute is empty, or there is no udev, the device's own word counts at once.
    """
    wwid = wwid_of_property(properties.get(attribute, "")) if attribute else ""
    if wwid:
        return dataclasses.replace(info, wwid=wwid, wwid_source="udev")
    may_fall_back = fallback or not attribute or not info.has_udev
    if may_fall_back and info.device_wwid and fallback_allowed(attribute, info.bus.value):
        return dataclasses.replace(info, wwid=info.device_wwid, wwid_source="sysfs")
    return info


def with_udev(info: PathInfo, record: UdevRecord | None, attribute: str, has_udev: bool) -> PathInfo:
    """`info` with those properties that are used later."""
    if record is None:
        return dataclasses.replace(info, udev_is_initialized=not has_udev, has_udev=has_udev)
    kept = {
        name: value
        for name, value in record.properties.items()
        if name == attribute or name.startswith(KEPT_PREFIXES)
    }
    return dataclasses.replace(
        info, properties=kept, udev_is_initialized=record.is_initialized or not has_udev, has_udev=has_udev
    )


def excluded_by_name(config: Config, dev: str) -> Verdict:
    """The test that needs nothing but the name: most disks that are no paths fail it."""
    return check_text(config, "devnode", Why.DEVNODE, dev)


def excluded(config: Config, info: PathInfo, record: UdevRecord | None, attribute: str) -> Verdict:
    """All tests of 7.6, in their order. Without a record of udev the properties are not tested."""
    facts = PathFacts(
        devnode=info.dev,
        vendor=info.vendor,
        product=info.product,
        protocol=info.protocol,
        wwid=info.wwid,
        properties=tuple(record.properties) if record is not None else None,
        uid_attribute=attribute,
    )
    return check_path(config, facts)


def may_have_map(config: Config, wwid: str, *, map_exists: bool, paths: int, known_wwids: Collection[str]) -> bool:
    """Whether the daemon makes a map for a WWID (12). `paths` of it are known; `known_wwids`: the wwids file."""
    if not wwid:
        return False
    mode = str(config.default("find_multipaths").value)
    return should_build_map(mode, map_exists=map_exists, other_path=paths > 1, known_wwid=wwid in known_wwids)
