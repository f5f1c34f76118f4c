"""The running loop's devices: one registry per event loop, made on first use."""

from __future__ import annotations

import asyncio

from holdfast.storage.device import Device
from holdfast.storage.faults import Faults
from holdfast.storage.registry import DeviceRegistry

_registries: dict[asyncio.AbstractEventLoop, DeviceRegistry] = {}


def registry() -> DeviceRegistry:
    """The running loop's registry, made on first use. Those of closed loops are given back."""
    loop = asyncio.get_running_loop()
    found = _registries.get(loop)
    if found is None:
        for closed in [other for other in _registries if other.is_closed()]:
            _registries.pop(closed).close()
        found = _registries[loop] = DeviceRegistry()
    return found


async def open_disk(
    path: str, *, timeout_s: float, faults: Faults | None = None, read_only: bool = False
) -> Device:
    """Open `path` for synchronous direct I/O; give it back with `close_disk`.

    With `faults` its I/O obeys their control file, and rule 12 counts it as another host's. Raises
    StorageError (ENOENT, EACCES, EROFS, ENOTBLK, EISDIR, ...) or DeadlineError: it answers in `timeout_s`,
    even when the storage hangs. `read_only`: for probes; nothing can be written then.
    """
    return await registry().open(path, timeout_s, faults, read_only=read_only)


def close_disk(disk: Device) -> None:
    """Give back what `open_disk` returned. I/O that is still outstanding lives on."""
    registry().release(disk)


def close_storage() -> None:
    """Close all devices of the running loop and end its engines. Does not wait for what hangs."""
    found = _registries.pop(asyncio.get_running_loop(), None)
    if found is not None:
        found.close()
