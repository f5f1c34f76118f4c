"""Everything the path daemon asks about block devices, as coroutines (spec path 11, 4.11).

Nothing here blocks the loop. Each device is read in a thread, with a deadline: one that hangs costs a thread and
leaves in force what was known of it; the others are read meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from holdfast.path.conf import Config
from holdfast.path.conf_resolve import Subject, resolve
from holdfast.path.discovery import identity, kernel_timeouts
from holdfast.path.discovery.calls import READ_TIMEOUT_S, Calls, ReadTimeout
from holdfast.path.discovery.device import ask_node, needs_asking
from holdfast.path.discovery.info import PathInfo
from holdfast.path.discovery.kernel_timeouts import Wish
from holdfast.path.discovery.netlink import EventsLost
from holdfast.path.discovery.reading import complete
from holdfast.path.discovery.sysfs import Tree, read_brief, sysfs_state
from holdfast.path.discovery.udev import Monitor, Udev, UdevRecord, open_udev
from holdfast.path.discovery.uevents import ADD, CHANGE, REMOVE, RESCAN, Uevent, UeventQueue, is_map_name
from holdfast.path.records import Log
from holdfast.path.states import PathState
from holdfast.storage.threads import ThreadPool

MAX_PARALLEL: Final = 16
"""Devices that a scan reads at a time, without those that are slow."""
SLOW_S: Final = 0.25
"""A device that takes longer gives its place to another one: many that hang must not add up."""
RECEIVE_BATCH: Final = 64
"""Events that one turn of the loop takes from the kernel."""
HANDED_OUT: Final = 128
"""Events after which `events` lets others run."""

_log: Final = logging.getLogger(__name__)


class Discovery:
    """The real one. To be made on the running loop; `start` before `events`, `close` at the end."""

    def __init__(
        self,
        config: Config,
        *,
        tree: Tree | None = None,
        udev: Udev | None = None,
        nodes: str = "/dev",
        pool: ThreadPool | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._config = config
        self._tree = tree or Tree()
        self._udev = udev or open_udev()
        self._nodes = nodes
        self._calls = Calls(read_timeout_s, pool)
        self._excluded: dict[str, str] = {}
        self._known: dict[str, PathInfo] = {}
        self._monitor: Monitor | None = None
        self._queue = UeventQueue(_uid_attrs(config))
        self._arrived = asyncio.Event()

    @property
    def excluded(self) -> Mapping[str, str]:
        return self._excluded

    @property
    def queued_events(self) -> int:
        return len(self._queue)

    def sysfs_state(self, info: PathInfo) -> PathState:
        return sysfs_state(info)

    def use(self, config: Config) -> None:
        self._config = config
        self._queue.uid_attrs = _uid_attrs(config)

    # Reading.

    async def scan(self) -> list[PathInfo]:
        names = await self._calls.run("", self._tree.disks)
        limit = asyncio.Semaphore(MAX_PARALLEL)

        async def one(dev: str) -> PathInfo | None:
            place = _Place(limit)
            timer = self._loop.call_later(SLOW_S, place.give_up)
            try:
                return await self.read(dev)
            except Exception as error:  # one disk must not cost the others
                known = self._known.get(dev)
                became = "kept as it was" if known else "left out"
                if isinstance(error, ReadTimeout):
                    _log.warning("%s: no answer from sysfs, %s", dev, became)
                else:
                    _log.exception("%s: cannot be read, %s", dev, became)
                return known
            finally:
                timer.cancel()
                place.give_up()

        async with asyncio.TaskGroup() as group:
            tasks = []
            for dev in names:
                await limit.acquire()  # Given up by `one`. Thousands of tasks at once would hold up the loop.
                tasks.append(group.create_task(one(dev)))
        there = frozenset(names)
        for gone in [dev for dev in self._known if dev not in there]:
            del self._known[gone]
        for gone in [dev for dev in self._excluded if dev not in there]:
            del self._excluded[gone]
        return [info for task in tasks if (info := task.result()) is not None]

    async def read(self, dev: str, *, fallback: bool = False) -> PathInfo | None:
        config, tree, udev = self._config, self._tree, self._udev
        found = await self._calls.run(dev, lambda: _look(dev, config, tree, udev))
        info, reason = found.info, found.reason
        if info is not None:
            if found.needs_asking:
                info = await self._ask(info, found.is_rdac_configured)
            info, reason = _decide(found, info, config, fallback)
        if reason:
            self._excluded[dev] = reason
        else:
            self._excluded.pop(dev, None)
        before = self._known.pop(dev, None)
        if info is not None:
            self._known[dev] = info
            if info.wwid_source == "sysfs" and (before is None or before.wwid != info.wwid):
                _log.warning("%s: uid = %s (sysfs)", dev, info.wwid)
        return info

    async def _ask(self, info: PathInfo, rdac: bool) -> PathInfo:
        """With what only the device knows; one that does not answer has what sysfs has."""
        node = os.path.join(self._nodes, info.dev.replace("!", "/"))
        try:
            return await self._calls.run(f"{info.dev} asked", lambda: ask_node(info, node, rdac))
        except ReadTimeout:
            _log.warning("%s: no answer to INQUIRY", info.dev)
            return info

    async def retrigger(self, dev: str, action: str = CHANGE) -> bool:
        if action not in (ADD, CHANGE):
            raise ValueError(action)
        tree = self._tree

        def call() -> bool:
            directory = tree.disk(dev)
            if directory is None:
                return False
            kernel_timeouts.write_attribute(os.path.join(directory, "uevent"), action)
            return True

        try:
            return await self._calls.run(dev, call)
        except OSError as error:
            _log.warning("%s: no uevent triggered: %s", dev, error.strerror or error)
            return False

    async def set_kernel_timeouts(self, wishes: Sequence[Wish]) -> list[Log]:
        return [line for some in await asyncio.gather(*map(self._set_timeouts, wishes)) for line in some]

    async def _set_timeouts(self, wish: Wish) -> list[Log]:
        tree = self._tree
        try:
            return await self._calls.run(kernel_timeouts.lane_of(wish), lambda: kernel_timeouts.apply(wish, tree))
        except OSError as error:
            return [Log(1, f"{wish.info.dev}: timeouts cannot be set: {error.strerror or error}")]

    # Events.

    def start(self) -> None:
        if self._monitor is None:
            self._monitor = self._udev.monitor()
            self._loop.add_reader(self._monitor.fileno(), self._receive)

    def _receive(self) -> None:
        monitor = self._monitor
        if monitor is None:
            return
        for _ in range(RECEIVE_BATCH):
            try:
                event = monitor.receive(self._is_wanted)
            except BlockingIOError:
                break
            except EventsLost:
                _log.warning("uevents were lost, looking at all devices again")
                self._queue.lost()
                continue
            except OSError as error:
                _log.error("uevents cannot be received any more: %s", error)
                self._loop.remove_reader(monitor.fileno())
                self._queue.lost()
                break
            if event is not None:
                self._take(event)
        if len(self._queue):
            self._arrived.set()

    def _is_wanted(self, dev: str) -> bool:
        return is_map_name(dev) or not identity.excluded_by_name(self._config, dev).excluded

    def _take(self, event: Uevent) -> None:
        if event.action == REMOVE:
            # Another device may come by this name.
            self._excluded.pop(event.dev, None)
            self._known.pop(event.dev, None)
        if event.action == ADD:
            # Those of device-mapper too: events tell of maps, and the listing has them as excluded devices.
            by_name = identity.excluded_by_name(self._config, event.dev)
            if by_name.excluded:
                self._excluded[event.dev] = by_name.text
        if self._is_wanted(event.dev):
            self._queue.put(event)

    async def events(self) -> AsyncIterator[Uevent]:
        handed_out = 0
        while True:
            self._arrived.clear()
            while (event := self._queue.take()) is not None:
                yield event
                handed_out += 1
                if handed_out % HANDED_OUT == 0:
                    await asyncio.sleep(0)
            await self._arrived.wait()

    def ask_for_rescan(self) -> None:
        """As if events had been lost."""
        self._queue.put(Uevent(RESCAN, ""))
        self._arrived.set()

    def close(self) -> None:
        if self._monitor is not None:
            self._loop.remove_reader(self._monitor.fileno())
            self._monitor.close()
            self._monitor = None
        self._calls.close()


class _Place:
    """Among those that are read at a time; given up once."""

    def __init__(self, limit: asyncio.Semaphore) -> None:
        self._limit: asyncio.Semaphore | None = limit

    def give_up(self) -> None:
        if self._limit is not None:
            self._limit.release()
            self._limit = None


def _uid_attrs(config: Config) -> str:
    value = config.default("uid_attrs").value
    return value if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class _Found:
    """What sysfs and udev know of a disk."""

    info: PathInfo | None = None
    reason: str = ""
    """Why it is none of ours; empty without `info`: it is gone."""
    record: UdevRecord | None = None
    attribute: str = ""
    is_rdac_configured: bool = False
    needs_asking: bool = False


def _look(dev: str, config: Config, tree: Tree, udev: Udev) -> _Found:
    """In a thread. The device itself is not asked."""
    info = read_brief(dev, tree)
    if info is None:
        return _Found()
    if info.is_hidden:
        return _Found(reason="hidden")
    by_name = identity.excluded_by_name(config, dev)
    if by_name.excluded:
        return _Found(reason=by_name.text)
    info = complete(info, tree)
    if info.is_usb and not config.default("allow_usb_devices").value:
        return _Found(reason="USB device (allow_usb_devices is off)")
    devices = identity.hardware_entries(config, info)
    attribute = identity.uid_attribute(config, info, devices)
    has_udev = udev.is_active()
    record = udev.read(dev) if has_udev else None
    info = identity.with_udev(info, record, attribute, has_udev)
    checker = resolve(config, "path_checker", Subject(devices=devices, protocol=info.protocol)).value
    rdac = checker == "rdac"
    return _Found(info, "", record, attribute, rdac, needs_asking(info, rdac))


def _decide(found: _Found, info: PathInfo, config: Config, fallback: bool) -> tuple[PathInfo | None, str]:
    """The disk with its WWID, or why it is none of ours."""
    properties = found.record.properties if found.record is not None else {}
    info = identity.with_wwid(info, found.attribute, properties, fallback=fallback)
    verdict = identity.excluded(config, info, found.record, found.attribute)
    return (None, verdict.text) if verdict.excluded else (info, "")
