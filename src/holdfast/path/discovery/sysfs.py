"""One block device out of sysfs (spec path 11.1, 2.1).

Blocking, for worker threads: an attribute of a dying device may take as long as the kernel's error handling.
`sysfs_state`, `access_state` only read what the kernel has in memory, and may be called from the event loop.

What is read is not trusted: sizes are bounded, what does not parse counts as not there. Another root than /sys can
be given: `holdfast.testing.fake_sysfs` makes trees.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from holdfast.path import states
from holdfast.path.discovery.info import Bus, PathInfo
from holdfast.path.states import PathState

SYSFS: Final = "/sys"
MAX_ATTRIBUTE_BYTES: Final = 4096
"""The kernel's text attributes fit in a page."""
MAX_HOLDERS: Final = 256
MAX_NUMBER_DIGITS: Final = 20
MAX_DEPTH: Final = 64
"""Directories between a device and the root of sysfs."""

_BUSES: Final = (
    (re.compile(r"sd[a-z]"), Bus.SCSI),
    (re.compile(r"nvme[0-9]"), Bus.NVME),
    (re.compile(r"dasd[a-z]"), Bus.CCW),
    (re.compile(r"cciss"), Bus.CCISS),
)
_DEV_T: Final = re.compile(r"[0-9]{1,10}:[0-9]{1,10}", re.ASCII)
_OUR_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors that say something about this process, not about the device."""


def bus_of(dev: str) -> Bus:
    """By the kernel's name."""
    return next((bus for pattern, bus in _BUSES if pattern.match(dev)), Bus.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Tree:
    """sysfs, or something that looks like it."""

    root: str = SYSFS

    def disks(self) -> list[str]:
        """Names of all whole block devices, in the order of their devices' paths as udev enumerates them."""
        directory = os.path.join(self.root, "block")
        try:
            names = os.listdir(directory)
        except FileNotFoundError:
            return []
        places = {}
        for name in names:
            with contextlib.suppress(OSError):  # Gone meanwhile.
                places[name] = os.readlink(os.path.join(directory, name))
        return sorted(places, key=lambda name: os.fsencode(places[name]))

    def disk(self, dev: str) -> str | None:
        """Its directory below devices; None: there is no such whole disk."""
        if not dev or "/" in dev or dev in (".", ".."):
            return None
        link = os.path.join(self.root, "block", dev)
        try:
            target = os.readlink(link)
        except OSError:
            return None
        return os.path.normpath(os.path.join(self.root, "block", target))

    def in_class(self, name: str, entry: str) -> str | None:
        """Directory of a device in a class: fc_host, host3. None: it is not in there."""
        path = os.path.join(self.root, "class", name, entry)
        return path if os.path.isdir(path) else None

    def ancestors(self, path: str) -> Iterator[str]:
        """Directories above a device, the nearest first, up to `devices`."""
        top = os.path.join(self.root, "devices")
        for _ in range(MAX_DEPTH):
            path = os.path.dirname(path)
            if not path.startswith(top + "/"):
                return
            yield path

    def ancestor_in(self, path: str, subsystem: str) -> str | None:
        """The nearest one of a subsystem."""
        return next((one for one in self.ancestors(path) if subsystem_of(one) == subsystem), None)


def subsystem_of(directory: str) -> str:
    """scsi, pci, ...; empty: it has none."""
    try:
        return os.path.basename(os.readlink(os.path.join(directory, "subsystem")))
    except OSError:
        return ""


def read_bytes(directory: str, name: str, limit: int = MAX_ATTRIBUTE_BYTES) -> bytes:
    """An attribute, at most `limit` bytes of it. OSError."""
    fd = os.open(os.path.join(directory, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        data = b""
        while len(data) < limit and (piece := os.read(fd, limit - len(data))):
            data += piece
        return data
    finally:
        os.close(fd)


def read_binary(directory: str, name: str, limit: int) -> bytes:
    """As `read_bytes`; empty if it cannot be read."""
    try:
        return read_bytes(directory, name, limit)
    except OSError:
        return b""


def read_text(directory: str | None, name: str) -> str | None:
    """A text attribute without its line end; what cannot be printed became blanks. None: it cannot be read."""
    if directory is None:
        return None
    try:
        data = read_bytes(directory, name)
    except OSError:
        return None
    text = data.split(b"\0", 1)[0].decode("utf-8", "replace").rstrip("\n")
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def text_or_empty(directory: str | None, name: str) -> str:
    """As `read_text`, without blanks at its end."""
    return (read_text(directory, name) or "").rstrip()


def read_number(directory: str | None, name: str) -> int | None:
    """A decimal attribute, not negative. None: it cannot be read, or is no such number."""
    text = (read_text(directory, name) or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_NUMBER_DIGITS else None


def read_brief(dev: str, tree: Tree | None = None) -> PathInfo | None:
    """What every block device has; nothing that could make the kernel ask the hardware."""
    tree = tree or Tree()
    directory = tree.disk(dev)
    dev_t = (read_text(directory, "dev") or "").strip()
    if directory is None or not _DEV_T.fullmatch(dev_t):
        return None
    bus = bus_of(dev)
    return PathInfo(
        dev=dev,
        dev_t=dev_t,
        size=read_number(directory, "size") or 0,
        bus=bus,
        protocol=bus.value if bus in (Bus.CCW, Bus.CCISS) else "undef",
        read_only=read_number(directory, "ro") == 1,
        is_hidden=read_number(directory, "hidden") == 1,
        max_sectors_kb=read_number(directory, "queue/max_sectors_kb"),
        holders=holders_of(directory),
        sysfs_path=directory,
    )


def holders_of(directory: str) -> tuple[str, ...]:
    """Names of the devices that sit on a disk."""
    try:
        return tuple(sorted(os.listdir(os.path.join(directory, "holders"))[:MAX_HOLDERS]))
    except OSError:
        return ()


def is_held_by_map(info: PathInfo, tree: Tree | None = None) -> bool:
    """Whether a multipath map has the path (12, test 1)."""
    tree = tree or Tree()
    return any(
        text_or_empty(os.path.join(tree.root, "block", holder), "dm/uuid").startswith("mpath-")
        for holder in info.holders
    )


def pci_slot(path: str, tree: Tree) -> str:
    """Of the adapter that a device is behind; empty: none."""
    found = tree.ancestor_in(path, "pci")
    return os.path.basename(found) if found is not None else ""


def sysfs_state(info: PathInfo) -> PathState:
    """Whether the kernel has given the device up, before any checker is asked (2.1). Does not block."""
    if info.bus not in (Bus.SCSI, Bus.NVME):
        return PathState.UP
    if not info.device_path:
        return states.unreadable_sysfs_state(has_ancestor=False, is_enxio=False)
    try:
        value = read_bytes(info.device_path, "state", 64)
    except OSError as error:
        if error.errno in _OUR_RESOURCES:
            return PathState.UP  # No reason to fail a path: the checker knows.
        # ENOENT: the directory is gone with the device; ENODEV: it went while it was read.
        is_gone = error.errno in (errno.ENOENT, errno.ENODEV) and not os.path.isdir(info.device_path)
        return states.unreadable_sysfs_state(not is_gone, error.errno == errno.ENXIO)
    return states.sysfs_state(states.Bus(info.bus.value), value.decode("ascii", "replace"))


def access_state(info: PathInfo) -> tuple[str | None, str | None]:
    """For prioritizer `sysfs`: access_state and preferred_path now; None: unreadable. Does not block."""
    if not info.device_path:
        return None, None
    return read_text(info.device_path, "access_state"), read_text(info.device_path, "preferred_path")


def ana_state(info: PathInfo) -> str | None:
    """For prioritizer `ana`: the state now; None: unreadable. Does not block."""
    return read_text(info.sysfs_path, "ana_state") if info.sysfs_path else None
