"""Moves sectors between memory and storage that may hang; decides nothing.

    disk = await open_disk("/dev/vg/leases", timeout_s=10)
    sector = await disk.read(0, disk.block_size, timeout_s=10)
    close_disk(disk)

Devices of one event loop are shared and stay open for a while after `close_disk`; rule 12 (no second write
beside one of unknown outcome) holds across closing and opening again. `close_storage()` ends it all.

Names are loaded on first use: the supervisor needs this folder's threads and nothing else of it.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from holdfast.storage.buffers import POOL, Buffer, BufferPool
    from holdfast.storage.current import close_disk, close_storage, open_disk
    from holdfast.storage.device import Device
    from holdfast.storage.disk import Disk
    from holdfast.storage.errors import DeadlineError, PendingRead, StorageError
    from holdfast.storage.faults import Faults
    from holdfast.storage.registry import DeviceRegistry

_HOMES = {
    "buffers": ("POOL", "Buffer", "BufferPool"),
    "current": ("close_disk", "close_storage", "open_disk"),
    "device": ("Device",),
    "disk": ("Disk",),
    "errors": ("DeadlineError", "PendingRead", "StorageError"),
    "faults": ("Faults",),
    "registry": ("DeviceRegistry",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "POOL",
    "Buffer",
    "BufferPool",
    "DeadlineError",
    "Device",
    "DeviceRegistry",
    "Disk",
    "Faults",
    "PendingRead",
    "StorageError",
    "close_disk",
    "close_storage",
    "open_disk",
]


if not TYPE_CHECKING:
    # Hidden from type checkers: they know the names above, and must report others.
    def __getattr__(name: str) -> object:
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"holdfast.storage.{home}"), name)
        globals()[name] = value
        return value
