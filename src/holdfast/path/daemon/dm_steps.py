"""What is done to a map in several ioctls: create, reload, rename, remove (spec path 10.2, 10.5). Blocks.

For `DmCalls`: each function is one call in the map's lane. Maps are named by UUID, so that a name that meanwhile
belongs to somebody else's device is never touched. DmError says what was refused.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass

from holdfast.path.dm import DeviceMapper, DmError, Info, Uuid, is_our_uuid, is_partition_of
from holdfast.path.dm_text import CANCEL_DEFERRED_REMOVE, FAIL_IF_NO_PATH, QUEUE_IF_NO_PATH, Table
from holdfast.path.dm_wire import NO_FLAGS, Flag, Listed, UdevFlag, cookie


@dataclass(frozen=True, slots=True)
class Udev:
    """What udev's rules are told with a new table."""

    no_kpartx: bool = False
    no_paths: bool = False
    """Nothing can be read from it now."""
    is_reload: bool = False
    """What lies on it need not look at it again."""

    @property
    def cookie(self) -> int:
        """event_nr of the resume."""
        flags = UdevFlag.DISABLE_LIBRARY_FALLBACK
        if self.no_kpartx:
            flags |= UdevFlag.NO_KPARTX
        if self.no_paths:
            flags |= UdevFlag.NO_PATHS
        if self.is_reload:
            flags |= UdevFlag.RELOAD
        return cookie(flags)


def _load(dm: DeviceMapper, uuid: Uuid, length: int, table: Table, readonly: bool) -> bool:
    """Read-only if a path is; whether it is now."""
    if not readonly:
        try:
            dm.load(uuid, length, table)
            return False
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
    dm.load(uuid, length, table, readonly=True)
    return True


def create(dm: DeviceMapper, name: str, uuid: Uuid, length: int, table: Table, udev: Udev) -> Info:
    """A new map in use. After a failure there is none: an empty device would keep its name for ever."""
    dm.create(name, uuid)
    try:
        _load(dm, uuid, length, table, False)
        dm.resume(uuid, Flag.SKIP_LOCKFS | Flag.NOFLUSH, udev.cookie)
    except OSError:
        with contextlib.suppress(OSError):
            dm.remove(uuid)
        raise
    return dm.info(uuid)


def reload(
    dm: DeviceMapper,
    uuid: Uuid,
    length: int,
    table: Table,
    udev: Udev,
    readonly: bool = False,
    flush: bool = False,
) -> None:
    """A new table in use; `flush`: what is under way is written first (resize). After a failure: the old one."""
    _load(dm, uuid, length, table, readonly)
    flags = NO_FLAGS if flush else Flag.NOFLUSH
    try:
        dm.resume(uuid, flags, udev.cookie)
    except OSError:
        dm.resume(uuid, Flag.NOFLUSH, udev.cookie)
        raise


def listed_with_uuids(dm: DeviceMapper) -> Iterator[tuple[Listed, str]]:
    """All devices; kernels before 4.45 are asked one by one."""
    for entry in dm.list_devices():
        if entry.uuid is not None:
            yield entry, entry.uuid
            continue
        try:
            yield entry, dm.info(entry.name).uuid
        except DmError as error:
            if error.errno != errno.ENXIO:
                raise


def partitions(dm: DeviceMapper, uuid: Uuid) -> list[tuple[str, Uuid]]:
    """Name and UUID of the map's partition maps."""
    return [(entry.name, Uuid(found)) for entry, found in listed_with_uuids(dm) if is_partition_of(found, uuid)]


def is_open(dm: DeviceMapper, uuid: Uuid) -> bool:
    """Whether anybody uses the map or one of its partitions; a partition map that nobody uses does not count."""
    parts = partitions(dm, uuid)
    if any(dm.info(part).open_count for _, part in parts):
        return True
    return dm.info(uuid).open_count > len(parts)


def rename(dm: DeviceMapper, uuid: Uuid, new_name: str) -> None:
    """The map and its partition maps. EEXIST: another device has that name."""
    old = dm.info(uuid).name
    if old == new_name:
        return
    if any(entry.name == new_name for entry in dm.list_devices()):
        raise DmError(errno.EEXIST, f"rename {old}: another device is called {new_name}")
    # The kernel renames by name only: look again whose it is, as late as possible.
    if dm.info(old).uuid != uuid:
        raise DmError(errno.ENXIO, f"rename {old}: is another device now")
    event_nr = cookie(UdevFlag.DISABLE_LIBRARY_FALLBACK)
    dm.rename(old, new_name, event_nr)
    for name, part in partitions(dm, uuid):
        if name.startswith(old) and dm.info(name).uuid == part:
            with contextlib.suppress(OSError):  # the map has its name; a partition may keep the old one
                dm.rename(name, new_name + name[len(old) :], event_nr)


class InUseError(DmError):
    """The map, or a partition of it, is open."""

    def __init__(self, what: str) -> None:
        super().__init__(errno.EBUSY, f"{what}: map or partition in use")


def remove(dm: DeviceMapper, uuid: Uuid, *, deferred: bool = False, retries: int = 0) -> None:
    """Partition maps first, then the map. InUseError if somebody has it open and it may not be `deferred`; then,
    and after any other failure, the map is as it was.
    """
    if not is_our_uuid(uuid):
        raise DmError(errno.EPERM, f"{uuid}: is no multipath map")
    if is_open(dm, uuid) and not deferred:
        raise InUseError(uuid)
    event_nr = cookie(UdevFlag.DISABLE_LIBRARY_FALLBACK)
    for name, part in partitions(dm, uuid):
        try:
            dm.remove(part, deferred, event_nr)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise InUseError(name) from error
            raise
    if deferred:
        dm.remove(uuid, True, event_nr)
        return
    queued = dm.read_map(uuid).table.queues if _has_table(dm, uuid) else False
    try:
        if queued:
            # The flush below would wait for ever for I/O that is queued without a path.
            dm.message(uuid, FAIL_IF_NO_PATH)
        for attempt in range(retries + 1):
            try:
                dm.suspend(uuid, NO_FLAGS)
                dm.remove(uuid, False, event_nr)
                return
            except OSError:
                dm.resume(uuid, Flag.NOFLUSH)
                if attempt == retries:
                    raise
    except OSError as error:
        if queued:
            with contextlib.suppress(OSError):
                dm.message(uuid, QUEUE_IF_NO_PATH)
        if error.errno == errno.EBUSY:
            raise InUseError(uuid) from error
        raise


def remove_without_table(dm: DeviceMapper, uuid: Uuid) -> None:
    """A device of ours that never had a table."""
    if is_our_uuid(uuid) and not dm.info(uuid).has_table:
        dm.remove(uuid)


def _has_table(dm: DeviceMapper, uuid: Uuid) -> bool:
    info = dm.info(uuid)
    return info.has_table and not info.is_suspended


def cancel_deferred_remove(dm: DeviceMapper, uuid: Uuid) -> None:
    """A map whose removal was deferred is wanted again."""
    dm.message(uuid, CANCEL_DEFERRED_REMOVE)
