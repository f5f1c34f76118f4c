"""The running kernel's device-mapper: one open control descriptor (spec path 10).

The shell of `dm_wire` and `dm_text`. It decides nothing and is opened only when asked. **Every call may block**
while another table operation on the device waits for I/O: call it in a worker thread, one operation per map at a
time, never on the event loop (only `arm`, `list_devices` and `fileno` are for the loop's poll).
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from holdfast.path import dm_text, dm_wire
from holdfast.path.dm_wire import Answer, Command, Flag, Header, Listed, Target
from holdfast.path.ioctl import ioctl

CONTROL: Final = "/dev/mapper/control"
SECTOR_BYTES: Final = 512
UUID_PREFIX: Final = "mpath-"

T = TypeVar("T")


class DmError(OSError):
    """An ioctl that was refused: errno, and which command for which device."""


class Uuid(str):
    """Names a device by its UUID wherever a name is taken (except as a new name, and by `rename`).

    A name may have been given to somebody else's device since it was read; a UUID cannot.
    """

    __slots__ = ()


def _header(device: str, flags: Flag = dm_wire.NO_FLAGS, event_nr: int = 0, target_count: int = 0) -> Header:
    if isinstance(device, Uuid):
        return Header(uuid=device, flags=flags, event_nr=event_nr, target_count=target_count)
    return Header(name=device, flags=flags, event_nr=event_nr, target_count=target_count)


@dataclass(frozen=True, slots=True)
class Info:
    """What DEV_STATUS and every other command tell of a device."""

    name: str
    uuid: str
    dev: int
    open_count: int
    event_nr: int
    is_suspended: bool
    is_readonly: bool
    has_table: bool

    @classmethod
    def of(cls, header: Header) -> Info:
        """Out of an answer's header."""
        return cls(
            header.name,
            header.uuid,
            header.dev,
            header.open_count,
            header.event_nr,
            bool(header.flags & Flag.SUSPEND),
            bool(header.flags & Flag.READONLY),
            bool(header.flags & Flag.ACTIVE_PRESENT),
        )


@dataclass(frozen=True, slots=True)
class MapState:
    """Table and status of a multipath map, and the event number from before they were read."""

    info: Info
    length: int
    """Sectors of 512 bytes."""
    table: dm_text.Table
    status: dm_text.Status


class DeviceMapper(Protocol):
    """What rules and daemon need of the kernel: `Control`, or `holdfast.testing.fake_dm.FakeDm`.

    Every call may raise DmError; ENXIO: there is no such map. `name` may be a `Uuid`. `udev`: `dm_wire.cookie`.
    """

    def list_devices(self) -> list[Listed]: ...

    def info(self, name: str) -> Info:
        """Without looking at its table."""
        ...

    def read_map(self, name: str) -> MapState:
        """Table and status; DmError EINVAL when it is no map with one multipath target."""
        ...

    def message(self, name: str, message: str) -> None:
        """EBUSY while the device is suspended, EINVAL for a group number that is not there."""
        ...

    def create(self, name: str, uuid: str) -> Info: ...

    def load(self, name: str, length: int, table: dm_text.Table, readonly: bool = False) -> None:
        """Into the inactive slot; `resume` makes it the table in use."""
        ...

    def resume(self, name: str, flags: Flag = Flag.NOFLUSH, udev: int = 0) -> None: ...

    def suspend(self, name: str, flags: Flag = Flag.NOFLUSH) -> None: ...

    def remove(self, name: str, deferred: bool = False, udev: int = 0) -> None:
        """EBUSY while it is open."""
        ...

    def rename(self, name: str, new_name: str, udev: int = 0) -> None:
        """By name only: the kernel does not rename by UUID."""
        ...

    def arm(self) -> None:
        """The control descriptor becomes readable with the next event after this."""
        ...

    def notify(self, callback: Callable[[], None] | None) -> None:
        """Call it, on the running loop, while an event since `arm` is unread; None: no more. Does not block."""
        ...


def is_our_uuid(uuid: str) -> bool:
    """A multipath map, not a partition of one and nobody else's device."""
    return uuid.startswith(UUID_PREFIX)


def is_partition_of(uuid: str, map_uuid: str) -> bool:
    """A partition map that kpartx made: `part<N>-<uuid of the map>`."""
    number, dash, rest = uuid.removeprefix("part").partition("-")
    return uuid.startswith("part") and number.isascii() and number.isdigit() and bool(dash) and rest == map_uuid


def map_state(info: Info, table: list[Target], status: list[Target]) -> MapState:
    """Both answers taken apart. DmError EINVAL: not exactly one multipath target, or an unknown grammar."""
    if len(table) != 1 or len(status) != 1 or table[0].kind != dm_text.TARGET:
        raise DmError(errno.EINVAL, f"{info.name}: is no map with one multipath target")
    try:
        return MapState(
            info, table[0].length, dm_text.parse_table(table[0].params), dm_text.parse_status(status[0].params)
        )
    except dm_text.DmTextError as error:
        raise DmError(errno.EINVAL, f"{info.name}: {error}") from error


def _decoded(decode: Callable[[Answer], T], answer: Answer) -> T:
    """DmError EPROTO for an answer that cannot be one: callers have one kind of refusal to deal with."""
    try:
        return decode(answer)
    except dm_wire.DmWireError as error:
        raise DmError(errno.EPROTO, f"{answer.header.name or 'device-mapper'}: {error}") from error


class Control:
    """/dev/mapper/control, open. Close it, or use it as a context manager."""

    def __init__(self, path: str = CONTROL) -> None:
        """DmError: ENOENT or ENODEV (no device-mapper in the kernel), EACCES (not root)."""
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            reason = {
                errno.ENOENT: "no device-mapper here: load it with `modprobe dm-multipath`",
                errno.ENODEV: "no device-mapper in this kernel",
                errno.EACCES: "only root may use the device-mapper",
                errno.EPERM: "this container may not use the device-mapper",
            }.get(error.errno or 0, error.strerror)
            raise DmError(error.errno, f"{path}: {reason}") from error

    def fileno(self) -> int:
        """Readable since an event after `arm`, until the next `arm`."""
        return self._fd

    def notify(self, callback: Callable[[], None] | None) -> None:
        loop = asyncio.get_running_loop()
        if callback is None:
            loop.remove_reader(self._fd)
        else:
            loop.add_reader(self._fd, callback)

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def version(self) -> tuple[int, int, int]:
        """Of the kernel's interface: (4, 47, 0) on Linux 6.1."""
        return self._call(Command.VERSION, Header()).header.version

    def target_versions(self) -> dict[str, tuple[int, int, int]]:
        """Targets that are loaded now, by name."""
        return _decoded(
            dm_wire.decode_versions, self._call(Command.LIST_VERSIONS, Header(), room=dm_wire.FIRST_BUFFER)
        )

    def list_devices(self) -> list[Listed]:
        """All devices, whoever made them."""
        header = Header(version=dm_wire.VERSION_POLL, flags=Flag.UUID)  # Without it the kernel tells no uuids.
        return _decoded(dm_wire.decode_list, self._call(Command.LIST_DEVICES, header, room=dm_wire.FIRST_BUFFER))

    def info(self, name: str) -> Info:
        return Info.of(self._call(Command.DEV_STATUS, _header(name)).header)

    def targets(self, name: str, flags: Flag) -> tuple[Info, list[Target]]:
        """Table lines with Flag.STATUS_TABLE, status lines without."""
        answer = self._call(Command.TABLE_STATUS, _header(name, flags), room=dm_wire.FIRST_BUFFER)
        return Info.of(answer.header), _decoded(dm_wire.decode_targets, answer)

    def read_map(self, name: str) -> MapState:
        # The event number of the first answer: an event after it is seen again, none is lost.
        info, table = self.targets(name, Flag.STATUS_TABLE | Flag.NOFLUSH)
        return map_state(info, table, self.targets(name, Flag.NOFLUSH)[1])

    def dependencies(self, name: str) -> list[int]:
        """Device numbers that its table uses."""
        return _decoded(
            dm_wire.decode_deps, self._call(Command.TABLE_DEPS, _header(name), room=dm_wire.FIRST_BUFFER)
        )

    def message(self, name: str, message: str) -> None:
        self._call(Command.TARGET_MSG, _header(name), dm_wire.encode_message(message))

    def create(self, name: str, uuid: str) -> Info:
        return Info.of(self._call(Command.DEV_CREATE, Header(name=name, uuid=uuid)).header)

    def load(self, name: str, length: int, table: dm_text.Table, readonly: bool = False) -> None:
        target = Target(0, length, dm_text.TARGET, dm_text.format_table(table))
        flags = Flag.READONLY if readonly else Flag(0)
        header = _header(name, flags, target_count=1)
        self._call(Command.TABLE_LOAD, header, dm_wire.encode_targets([target]))

    def resume(self, name: str, flags: Flag = Flag.NOFLUSH, udev: int = 0) -> None:
        self._call(Command.DEV_SUSPEND, _header(name, flags & ~Flag.SUSPEND, udev))

    def suspend(self, name: str, flags: Flag = Flag.NOFLUSH) -> None:
        self._call(Command.DEV_SUSPEND, _header(name, flags | Flag.SUSPEND))

    def remove(self, name: str, deferred: bool = False, udev: int = 0) -> None:
        flags = Flag.DEFERRED_REMOVE if deferred else Flag(0)
        self._call(Command.DEV_REMOVE, _header(name, flags, udev))

    def rename(self, name: str, new_name: str, udev: int = 0) -> None:
        if len(os.fsencode(new_name)) >= dm_wire.NAME_BYTES:
            raise DmError(errno.ENAMETOOLONG, f"DEV_RENAME {name}: {new_name[:60]!r} is too long")
        self._call(Command.DEV_RENAME, _header(name, event_nr=udev), os.fsencode(new_name) + b"\0")

    def wait(self, name: str, event_nr: int) -> int:
        """Block until the device's event number is another one; the new number. For kernels before 4.14."""
        header = _header(name, event_nr=event_nr)
        return self._call(Command.DEV_WAIT, header, room=dm_wire.FIRST_BUFFER).header.event_nr

    def arm(self) -> None:
        try:
            ioctl(self._fd, Command.DEV_ARM_POLL.request, dm_wire.encode_arm_poll())
        except OSError as error:
            raise DmError(error.errno, f"DEV_ARM_POLL: {error.strerror}") from error

    def _call(self, command: Command, header: Header, data: bytes = b"", room: int = 0) -> Answer:
        """One ioctl; again with a larger buffer while the answer does not fit. DmError."""
        room = max(room, dm_wire.HEADER_BYTES)
        device = header.name or header.uuid
        while True:
            try:
                buffer = dm_wire.encode(header, data, room)
            except dm_wire.DmWireError as error:  # a name or WWID that no device can have
                raise DmError(errno.EINVAL, f"{command.name} {device[:60]}: {error}") from error
            try:
                ioctl(self._fd, command.request, buffer)
                answer = dm_wire.decode(buffer)
            except dm_wire.DmWireError as error:
                raise DmError(errno.EPROTO, f"{command.name} {device}: {error}") from error
            except OSError as error:
                raise DmError(error.errno, f"{command.name} {device}: {error.strerror}") from error
            if not answer.header.flags & Flag.BUFFER_FULL:
                return answer
            room = 4 * len(buffer)
            if room > dm_wire.MAX_BUFFER:
                raise DmError(errno.EMSGSIZE, f"{command.name} {device}: the answer has no end")
