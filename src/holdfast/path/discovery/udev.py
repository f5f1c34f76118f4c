"""udev's database and events, through libudev's public functions (spec path 4.11, 11.2).

The library is loaded once; where it is missing, or no udev runs, there are the kernel's events and no properties.
Never reads udev's files itself. `Udev.read` blocks: for worker threads, each call with a context of its own, since
libudev's objects must not be shared between threads. A monitor never blocks.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from holdfast.path.discovery.netlink import RECEIVE_BUFFER_BYTES, EventsLost, KernelMonitor
from holdfast.path.discovery.uevents import MAX_PROPERTIES, MAX_VALUE_BYTES, Uevent

LIBRARY: Final = "libudev.so.1"


@dataclass(frozen=True, slots=True)
class UdevRecord:
    """What udev knows of a device."""

    properties: Mapping[str, str] = field(default_factory=dict)
    """In udev's order."""
    is_initialized: bool = True
    """It has processed the device's add event."""


class Monitor(Protocol):
    """Hears of block devices."""

    def fileno(self) -> int: ...

    def receive(self, is_wanted: Callable[[str], bool] = lambda dev: True) -> Uevent | None:
        """None: one that does not concern us. BlockingIOError: nothing waits. EventsLost: some are missing.

        `is_wanted` is asked for the disk's name; without it the properties may be left out: reading them takes
        most of the time.
        """
        ...

    def close(self) -> None: ...


class Udev(Protocol):
    """udev, or nothing in its place."""

    def is_active(self) -> bool:
        """Whether a udev runs here that could have properties."""
        ...

    def read(self, dev: str) -> UdevRecord | None:
        """Of block device `dev`; None: udev does not know it. Blocks."""
        ...

    def monitor(self) -> Monitor:
        """Hear of events from now on. OSError."""
        ...


class NoUdev:
    """A host without udev."""

    def is_active(self) -> bool:
        return False

    def read(self, dev: str) -> UdevRecord | None:
        return None

    def monitor(self) -> Monitor:
        return KernelMonitor()


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, result, arguments in (
        ("udev_new", pointer, []),
        ("udev_unref", pointer, [pointer]),
        ("udev_device_new_from_subsystem_sysname", pointer, [pointer, text, text]),
        ("udev_device_unref", pointer, [pointer]),
        ("udev_device_get_is_initialized", number, [pointer]),
        ("udev_device_get_properties_list_entry", pointer, [pointer]),
        ("udev_device_get_action", text, [pointer]),
        ("udev_device_get_sysname", text, [pointer]),
        ("udev_list_entry_get_next", pointer, [pointer]),
        ("udev_list_entry_get_name", text, [pointer]),
        ("udev_list_entry_get_value", text, [pointer]),
        ("udev_monitor_new_from_netlink", pointer, [pointer, text]),
        ("udev_monitor_unref", pointer, [pointer]),
        ("udev_monitor_filter_add_match_subsystem_devtype", number, [pointer, text, text]),
        ("udev_monitor_set_receive_buffer_size", number, [pointer, number]),
        ("udev_monitor_enable_receiving", number, [pointer]),
        ("udev_monitor_get_fd", number, [pointer]),
        ("udev_monitor_receive_device", pointer, [pointer]),
        ("udev_queue_new", pointer, [pointer]),
        ("udev_queue_unref", pointer, [pointer]),
        ("udev_queue_get_udev_is_active", number, [pointer]),
    ):
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


class LibUdev:
    """The real one. OSError: the library is missing or lacks a function."""

    def __init__(self, name: str = LIBRARY) -> None:
        try:
            self._lib = _declare(ctypes.CDLL(name, use_errno=True))
        except AttributeError as error:
            raise OSError(errno.ENOSYS, f"{name}: {error}") from None

    def is_active(self) -> bool:
        context = self._context()
        try:
            queue = self._lib.udev_queue_new(context)
            if not queue:
                return False
            try:
                return bool(self._lib.udev_queue_get_udev_is_active(queue))
            finally:
                self._lib.udev_queue_unref(queue)
        finally:
            self._lib.udev_unref(context)

    def _context(self) -> int:
        context: int | None = self._lib.udev_new()
        if not context:
            raise MemoryError("udev_new")
        return context

    def read(self, dev: str) -> UdevRecord | None:
        context = self._context()
        try:
            device = self._lib.udev_device_new_from_subsystem_sysname(context, b"block", os.fsencode(dev))
            if not device:
                return None
            try:
                initialized = self._lib.udev_device_get_is_initialized(device) > 0
                return UdevRecord(_properties(self._lib, device), initialized)
            finally:
                self._lib.udev_device_unref(device)
        finally:
            self._lib.udev_unref(context)

    def monitor(self) -> Monitor:
        """Of udev if one runs, else the kernel's."""
        return LibUdevMonitor(self._lib) if self.is_active() else KernelMonitor()


def _decoded(text: bytes | None) -> str:
    return (text or b"").decode("utf-8", "surrogateescape")


def _properties(library: ctypes.CDLL, device: int) -> dict[str, str]:
    found: dict[str, str] = {}
    entry = library.udev_device_get_properties_list_entry(device)
    while entry and len(found) < MAX_PROPERTIES:
        value = library.udev_list_entry_get_value(entry) or b""
        if len(value) <= MAX_VALUE_BYTES:
            found[_decoded(library.udev_list_entry_get_name(entry))] = _decoded(value)
        entry = library.udev_list_entry_get_next(entry)
    return found


class LibUdevMonitor:
    """udev's events of whole block devices. To be used on one thread, closed once."""

    def __init__(
        self,
        library: ctypes.CDLL,
        group: str = "udev",
        subsystem: str = "block",
        devtype: str | None = "disk",
        buffer_bytes: int = RECEIVE_BUFFER_BYTES,
    ) -> None:
        """OSError if it cannot be opened. `group`: udev, or kernel."""
        self._lib = library
        self._context: int | None = library.udev_new()
        self._monitor: int | None = None
        try:
            if not self._context:
                raise OSError(errno.ENOMEM, "udev_new")
            ctypes.set_errno(0)
            self._monitor = library.udev_monitor_new_from_netlink(self._context, group.encode())
            if not self._monitor:
                raise OSError(ctypes.get_errno() or errno.EIO, "no monitor of udev's events")
            kind = devtype.encode() if devtype is not None else None
            result = library.udev_monitor_filter_add_match_subsystem_devtype(
                self._monitor, subsystem.encode(), kind
            )
            if result >= 0:
                # Not to be had without the right to it: then the system's size has to do.
                library.udev_monitor_set_receive_buffer_size(self._monitor, buffer_bytes)
                result = library.udev_monitor_enable_receiving(self._monitor)
            if result < 0:
                raise OSError(-result, "udev's events cannot be received")
        except OSError:
            self.close()
            raise

    def fileno(self) -> int:
        fd: int = self._lib.udev_monitor_get_fd(self._monitor)
        return fd

    def receive(self, is_wanted: Callable[[str], bool] = lambda dev: True) -> Uevent | None:
        ctypes.set_errno(0)
        device = self._lib.udev_monitor_receive_device(self._monitor)
        if not device:
            error = ctypes.get_errno()
            if error == errno.ENOBUFS:
                raise EventsLost
            # What the library refuses (a sender who is not udev) is thrown away by it.
            raise BlockingIOError(error or errno.EAGAIN, "no event")
        try:
            action = _decoded(self._lib.udev_device_get_action(device))
            # Where the kernel's name has a `!`, the library has a `/`.
            dev = _decoded(self._lib.udev_device_get_sysname(device)).replace("/", "!")
            properties = _properties(self._lib, device) if is_wanted(dev) else {}
        finally:
            self._lib.udev_device_unref(device)
        if not action or not dev:
            return None
        major, minor = properties.get("MAJOR", ""), properties.get("MINOR", "")
        return Uevent(action, dev, f"{major}:{minor}" if major and minor else "", properties)

    def close(self) -> None:
        if self._monitor:
            self._lib.udev_monitor_unref(self._monitor)
            self._monitor = None
        if self._context:
            self._lib.udev_unref(self._context)
            self._context = None


@functools.cache
def open_udev() -> Udev:
    """libudev, or `NoUdev` where the library is missing."""
    try:
        return LibUdev()
    except OSError:
        return NoUdev()
