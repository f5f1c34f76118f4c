"""A device-mapper in memory with the semantics of dm-multipath that a path daemon relies on (spec path 10.4-10.6).

    dm = FakeDm()
    dm.create("mpatha", "mpath-3600"); dm.load("mpatha", 131072, table); dm.resume("mpatha")
    dm.message("mpatha", "fail_path 8:0")       the status shows F, its fail count and the event counter moved
    dm.io("mpatha")                             what I/O would meet: "ok", "queued" or "error"
    dm.io_error("mpatha", "8:32")               the kernel fails a path by itself, as after an I/O error
    dm.refuse("message", errno.EBUSY, times=2)  the next two messages fail
    dm.claimed.add("8:0")                       no table may use this device: it is mounted, or another map has it

Recorded behaviour of kernel 6.1 (vectors dm-events): effects and event counters of every message; reload keeps
the counter and clears fail counts; messages to a suspended device are EBUSY; poll becomes readable by creation,
removal and a swapped table too. `broken` is the set of paths on which I/O fails: reinstating one does not mend it.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from holdfast.path import dm_text
from holdfast.path.dm import DeviceMapper, DmError, Info, MapState, Uuid, is_partition_of
from holdfast.path.dm_wire import Flag, Listed
from holdfast.path.kernel import CALL_TIMEOUT_S, reload_map
from holdfast.path.states import DmState, GroupState

T = TypeVar("T")


@dataclass(slots=True)
class _Path:
    line: dm_text.PathLine
    is_failed: bool = False
    fail_count: int = 0


@dataclass(slots=True)
class _Group:
    line: dm_text.GroupLine
    paths: list[_Path]
    is_bypassed: bool = False


@dataclass(slots=True)
class _Live:
    """A table in use."""

    table: dm_text.Table
    length: int
    groups: list[_Group]
    queues: bool
    current: int = 0
    """Group that I/O uses, from 1; 0: none was used yet."""
    next_group: int = 0
    initialised: bool = False
    readonly: bool = False


@dataclass(slots=True)
class FakeMap:
    """One device."""

    name: str
    uuid: str
    minor: int
    event_nr: int = 0
    open_count: int = 0
    suspended: bool = False
    live: _Live | None = None
    loaded: _Live | None = None
    queued: int = 0
    """I/Os that wait for a path; they go on, or fail, when the map changes."""
    failed: int = 0
    """I/Os that ended with an error."""
    done: int = 0
    messages: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Refusal:
    operation: str
    errno: int
    times: int
    name: str | None


class FakeDm:
    """Implements `holdfast.path.dm.DeviceMapper`. `on_event` is called as poll() would become readable."""

    MAJOR = 253

    def __init__(self) -> None:
        self.maps: dict[str, FakeMap] = {}
        self.broken: set[str] = set()
        self.claimed: set[str] = set()
        self.udev: list[tuple[str, int]] = []
        """Name and cookie flags of each resume, remove and rename, in order."""
        self.log: list[str] = []
        """Every accepted change, in order: "mpatha: fail_path 8:0"."""
        self.on_event: Callable[[], None] | None = None
        self.readable = False
        self._refusals: list[_Refusal] = []
        self._minor = 0

    def refuse(self, operation: str, error: int, times: int = 1, name: str | None = None) -> None:
        """The next `times` calls of that method (of that map) raise DmError with this errno."""
        self._refusals.append(_Refusal(operation, error, times, name))

    def _enter(self, operation: str, name: str | None = None) -> None:
        for refusal in self._refusals:
            if refusal.operation == operation and refusal.times and refusal.name in (None, name):
                refusal.times -= 1
                raise DmError(refusal.errno, f"{operation} {name}: {os.strerror(refusal.errno)}")

    def _map(self, operation: str, name: str) -> FakeMap:
        if isinstance(name, Uuid):
            name = next((known.name for known in self.maps.values() if known.uuid == name), name)
        self._enter(operation, name)
        found = self.maps.get(name)
        if found is None:
            raise DmError(errno.ENXIO, f"{operation} {name}: no such device")
        return found

    def _wake(self) -> None:
        self.readable = True
        if self.on_event is not None:
            self.on_event()

    def notify(self, callback: Callable[[], None] | None) -> None:
        self.on_event = callback
        if callback is not None and self.readable:
            callback()

    def _event(self, found: FakeMap) -> None:
        found.event_nr += 1
        self._wake()

    def list_devices(self) -> list[Listed]:
        self._enter("list_devices")
        return [Listed(self._dev(m), m.name, m.event_nr, m.uuid) for m in self.maps.values()]

    def _dev(self, found: FakeMap) -> int:
        return os.makedev(self.MAJOR, found.minor)

    def _info(self, m: FakeMap) -> Info:
        readonly = m.live is not None and m.live.readonly
        return Info(
            m.name, m.uuid, self._dev(m), self._openers(m), m.event_nr, m.suspended, readonly, m.live is not None
        )

    def info(self, name: str) -> Info:
        return self._info(self._map("info", name))

    def create(self, name: str, uuid: str) -> Info:
        self._enter("create", name)
        if not name or "/" in name or len(name) > 127 or len(uuid) > 128:
            raise DmError(errno.EINVAL, f"create {name}: no name or uuid")
        if name in self.maps or any(m.uuid == uuid for m in self.maps.values()):
            raise DmError(errno.EBUSY, f"create {name}: name or uuid exists")
        found = self.maps[name] = FakeMap(name, uuid, self._minor)
        self._minor += 1
        self.log.append(f"{name}: create {uuid}")
        self._wake()
        return self._info(found)

    def load(self, name: str, length: int, table: dm_text.Table, readonly: bool = False) -> None:
        found = self._map("load", name)
        # What the kernel does not understand it refuses: so must a table of ours survive its own grammar.
        table = dm_text.parse_table(dm_text.format_table(table))
        used = {path.dev_t for line in table.groups for path in line.paths}
        others = {
            path.line.dev_t
            for other in self.maps.values()
            if other is not found and other.live is not None
            for group in other.live.groups
            for path in group.paths
        }
        if used & (self.claimed | others):
            raise DmError(errno.EBUSY, f"load {name}: a device is in use")
        groups = [_Group(line, [_Path(path) for path in line.paths]) for line in table.groups]
        found.loaded = _Live(table, length, groups, table.queues, readonly=readonly)
        found.loaded.next_group = table.initial_group
        self.log.append(f"{found.name}: load {dm_text.format_table(table)}")

    def resume(self, name: str, flags: Flag = Flag.NOFLUSH, udev: int = 0) -> None:
        found = self._map("resume", name)
        self.udev.append((found.name, udev >> 16))
        found.suspended = False
        if found.loaded is not None:
            found.live, found.loaded = found.loaded, None
            self.log.append(f"{found.name}: resume")
            self._wake()
        self._settle(found)

    def suspend(self, name: str, flags: Flag = Flag.NOFLUSH) -> None:
        found = self._map("suspend", name)
        found.suspended = True
        self.log.append(f"{found.name}: suspend")

    def remove(self, name: str, deferred: bool = False, udev: int = 0) -> None:
        found = self._map("remove", name)
        self.udev.append((found.name, udev >> 16))
        if self._openers(found) and not deferred:
            raise DmError(errno.EBUSY, f"remove {found.name}: in use")
        self.log.append(f"{found.name}: remove" + " deferred" * bool(self._openers(found)))
        if not self._openers(found):
            del self.maps[found.name]
        self._wake()

    def _openers(self, found: FakeMap) -> int:
        """Partition maps hold their map open."""
        parts = (other.uuid for other in self.maps.values() if other.uuid[0:4] == "part")
        return found.open_count + sum(is_partition_of(uuid, found.uuid) for uuid in parts)

    def rename(self, name: str, new_name: str, udev: int = 0) -> None:
        if isinstance(name, Uuid):
            raise DmError(errno.ENXIO, f"rename {name}: by name only")
        found = self._map("rename", name)
        self.udev.append((name, udev >> 16))
        if new_name in self.maps:
            raise DmError(errno.EBUSY, f"rename {name}: {new_name} exists")
        self.maps[new_name] = self.maps.pop(name)
        found.name = new_name
        self.log.append(f"{name}: rename {new_name}")
        self._event(found)

    def arm(self) -> None:
        self._enter("arm")
        self.readable = False

    def message(self, name: str, message: str) -> None:
        found = self._map("message", name)
        if found.suspended or found.live is None:
            raise DmError(errno.EBUSY, f"message {name} {message!r}: suspended")
        verb, _, argument = message.partition(" ")
        live = found.live
        changed = False
        if verb in ("fail_path", "reinstate_path"):
            path = self._path(live, argument)
            if path is None:
                raise DmError(errno.ENXIO, f"message {name} {message!r}: no such path")
            changed = self._set_failed(path, verb == "fail_path")
        elif verb in ("queue_if_no_path", "fail_if_no_path") and not argument:
            live.queues = verb == "queue_if_no_path"
        elif verb in ("switch_group", "enable_group", "disable_group"):
            number = int(argument) if argument.isascii() and argument.isdigit() else 0
            if not 1 <= number <= len(live.groups):
                raise DmError(errno.EINVAL, f"message {name} {message!r}: no such group")
            if verb == "switch_group":
                live.next_group = number
                for group in live.groups:
                    group.is_bypassed = False
            else:
                live.groups[number - 1].is_bypassed = verb == "disable_group"
            changed = True
        else:
            raise DmError(errno.EINVAL, f"message {name} {message!r}: unknown")
        found.messages.append(message)
        self.log.append(f"{found.name}: {message}")
        if changed:
            self._event(found)
        self._settle(found)

    @staticmethod
    def _set_failed(path: _Path, failed: bool) -> bool:
        if path.is_failed == failed:
            return False
        path.is_failed = failed
        path.fail_count += failed
        return True

    @staticmethod
    def _path(live: _Live, dev_t: str) -> _Path | None:
        return next((path for g in live.groups for path in g.paths if path.line.dev_t == dev_t), None)

    def read_map(self, name: str) -> MapState:
        found = self._map("read_map", name)
        live = found.live
        if live is None:
            raise DmError(errno.EINVAL, f"{name}: is no map with one multipath target")
        return MapState(self._info(found), live.length, self._table(live), self._status(live))

    def read_map_quietly(self, name: str) -> tuple[dm_text.GroupStatus, ...]:
        """The groups as they are, whatever is to be refused: for those who judge."""
        live = self.maps[name].live
        return self._status(live).groups if live is not None else ()

    @staticmethod
    def _table(live: _Live) -> dm_text.Table:
        others = tuple(word for word in live.table.features if word != dm_text.QUEUE_IF_NO_PATH)
        features = (dm_text.QUEUE_IF_NO_PATH, *others) if live.queues else others
        initial = live.next_group or live.current or (1 if live.groups else 0)
        return dm_text.Table(live.table.groups, features, live.table.hw_handler, initial)

    @staticmethod
    def _status(live: _Live) -> dm_text.Status:
        groups = []
        for number, group in enumerate(live.groups, 1):
            state = GroupState.ACTIVE if number == live.current else GroupState.ENABLED
            if group.is_bypassed:
                state = GroupState.DISABLED
            paths = tuple(
                dm_text.PathStatus(
                    path.line.dev_t, DmState.FAILED if path.is_failed else DmState.ACTIVE, path.fail_count
                )
                for path in group.paths
            )
            groups.append(dm_text.GroupStatus(state, paths))
        queue_io = 0 if live.initialised else 1
        return dm_text.Status(
            tuple(groups), queue_io, 0, (), live.next_group or live.current or (1 if groups else 0)
        )

    def io(self, name: str) -> str:
        """One I/O to the map: "ok", "queued" (for a path, or a suspended device) or "error"."""
        found = self._map("io", name)
        found.queued += 1
        before = (found.done, found.failed)
        self._settle(found)
        if (found.done, found.failed) == before:
            return "queued"
        return "ok" if found.done > before[0] else "error"

    def io_error(self, name: str, dev_t: str) -> None:
        """The kernel fails a path because an I/O on it failed."""
        found = self._map("io_error", name)
        path = self._path(found.live, dev_t) if found.live is not None else None
        if path is None:
            raise ValueError(f"{name} has no path {dev_t}")
        if self._set_failed(path, True):
            self._event(found)

    def _settle(self, found: FakeMap) -> None:
        """Let queued I/O go on, or fail, as far as paths and queueing allow."""
        live = found.live
        while found.queued and live is not None and not found.suspended:
            path = self._choose(live)
            if path is None:
                if live.queues:
                    return
                found.failed += found.queued
                found.queued = 0
            elif path.line.dev_t in self.broken:
                if self._set_failed(path, True):
                    self._event(found)
            else:
                found.queued -= 1
                found.done += 1

    @staticmethod
    def _choose(live: _Live) -> _Path | None:
        """The kernel's order: the group asked for, the current one, groups in use, at last bypassed ones."""
        numbers = [number for number in (live.next_group, live.current) if number]
        numbers += range(1, len(live.groups) + 1)
        for bypassed in (False, True):
            for number in numbers:
                group = live.groups[number - 1]
                usable = [path for path in group.paths if not path.is_failed]
                if usable and group.is_bypassed == bypassed:
                    live.current, live.next_group, live.initialised = number, 0, True
                    return usable[0]
        return None


class FakeCalls:
    """`holdfast.path.daemon.world.DmCalls` without threads, in virtual time. `delay_s`: by lane, what each call
    takes; more than the deadline: the call is never made.
    """

    def __init__(self, dm: DeviceMapper) -> None:
        self.dm = dm
        self.delay_s: dict[str, float] = {}
        self.calls = 0

    async def call(self, name: str, work: Callable[[DeviceMapper], T], timeout_s: float = CALL_TIMEOUT_S) -> T:
        self.calls += 1
        delay_s = self.delay_s.get(name, 0.0)
        await asyncio.sleep(min(delay_s, timeout_s))
        if delay_s > timeout_s:
            raise DmError(errno.ETIMEDOUT, f"{name}: the kernel did not answer in {timeout_s:g} s")
        return work(self.dm)

    def close(self) -> None:
        """Nothing to give back."""


class FakeKernel:
    """A `holdfast.path.kernel.Kernel` over a `FakeDm`. `delay_s`: per map, what each call takes."""

    def __init__(self, dm: FakeDm) -> None:
        self.dm = dm
        self.delay_s: dict[str, float] = {}

    async def _pause(self, name: str) -> None:
        await asyncio.sleep(self.delay_s.get(name, 0.0))

    async def read_map(self, name: str) -> MapState:
        await self._pause(name)
        return self.dm.read_map(name)

    async def message(self, name: str, message: str) -> None:
        await self._pause(name)
        self.dm.message(name, message)

    async def reload(self, name: str, length: int, table: dm_text.Table) -> None:
        await self._pause(name)
        reload_map(self.dm, name, length, table)
