"""Everything the path daemon asks about block devices, as coroutines (spec path 11, 4.11).

Nothing here blocks the loop. Each device is read in a thread, with a deadline: one that hangs costs a thread and
leaves in force what was known of it; the others are read meanwhile.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from holdfast.path.conf import Config
from holdfast.path.conf_resolve import Subject, resolve
from holdfast.path.discovery import identity, kernel_timeouts
from holdfast.path.discovery.device import ask_if_running
from holdfast.path.discovery.info import PathInfo
from holdfast.path.discovery.kernel_timeouts import Wish
from holdfast.path.discovery.netlink import EventsLost
from holdfast.path.discovery.reading import complete
from holdfast.path.discovery.sysfs import Tree, read_brief, sysfs_state
from holdfast.path.discovery.udev import Monitor, Udev, open_udev
from holdfast.path.discovery.uevents import ADD, CHANGE, REMOVE, RESCAN, Uevent, UeventQueue, is_map_name
from holdfast.path.records import Log
from holdfast.path.states import PathState
from holdfast.storage.threads import Job, Lane, ThreadPool

READ_TIMEOUT_S: Final = 10.0
"""For all that is read of one device. SCSI error handling may take longer; it goes on without us."""
MAX_THREADS: Final = 256
MAX_PARALLEL: Final = 16
"""Devices that a scan reads at a time, without those that are slow."""
SLOW_S: Final = 0.25
"""A device that takes longer gives its place to another one: many that hang must not add up."""
RECEIVE_BATCH: Final = 64
"""Events that one turn of the loop takes from the kernel."""
HANDED_OUT: Final = 128
"""Events after which `events` lets others run."""

_log: Final = logging.getLogger(__name__)
T = TypeVar("T")


class ReadTimeout(OSError):
    """A device did not answer in time: nothing is known, not that it is gone."""


class Finder(Protocol):
    """What the daemon needs; `Discovery`, and `holdfast.testing.FakeDiscovery`."""

    @property
    def excluded(self) -> Mapping[str, str]:
        """Disks that are left alone, and why: as of the last scan and what was read since."""
        ...

    @property
    def queued_events(self) -> int:
        """Events that wait to be handed out (`busy` of show status)."""
        ...

    def use(self, config: Config) -> None:
        """This configuration counts from now on."""
        ...

    def start(self) -> None:
        """Hear of events from now on: before the first scan, so that nothing is missed. OSError."""
        ...

    def close(self) -> None:
        """No further events or reads. Does not wait for threads that hang."""
        ...

    def sysfs_state(self, info: PathInfo) -> PathState:
        """What the kernel says of the device, before any checker is asked (2.1). Does not block."""
        ...

    async def scan(self) -> list[PathInfo]:
        """All disks that may be paths, in udev's order. One that does not answer is as it was."""
        ...

    async def read(self, dev: str, *, fallback: bool = False) -> PathInfo | None:
        """One disk. None: gone, or excluded (see `excluded`). `fallback`: do not wait for udev's WWID any more.
        ReadTimeout.
        """
        ...

    def events(self) -> AsyncIterator[Uevent]:
        """Without end; what came since `start`. To be iterated by one task."""
        ...

    async def retrigger(self, dev: str, action: str = CHANGE) -> bool:
        """Have the kernel send an event of the disk. False: it cannot be done."""
        ...

    async def set_kernel_timeouts(self, wishes: Sequence[Wish]) -> list[Log]:
        """For the paths of a map that is set up. What was done and refused, to be logged."""
        ...


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
        self._pool = pool or ThreadPool(self._loop, MAX_THREADS)
        self._lanes: dict[str, Lane] = {}
        self._overdue: dict[str, Job] = {}
        """Calls that missed their deadline and have not come back: what they are for is not asked again before."""
        self._timeout_s = read_timeout_s
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
        names = await self._in_thread("", self._tree.disks)
        limit = asyncio.Semaphore(MAX_PARALLEL)

        async def one(dev: str) -> PathInfo | None:
            place = _Place(limit)
            timer = self._loop.call_later(SLOW_S, place.give_up)
            try:
                return await self.read(dev)
            except ReadTimeout:
                known = self._known.get(dev)
                _log.warning("%s: no answer from sysfs, %s", dev, "kept as it was" if known else "left out")
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
        config, tree, udev, nodes = self._config, self._tree, self._udev, self._nodes
        info, reason = await self._in_thread(dev, lambda: _read(dev, config, tree, udev, nodes, fallback))
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
            return await self._in_thread(dev, call)
        except OSError as error:
            _log.warning("%s: no uevent triggered: %s", dev, error.strerror or error)
            return False

    async def set_kernel_timeouts(self, wishes: Sequence[Wish]) -> list[Log]:
        return [line for some in await asyncio.gather(*map(self._set_timeouts, wishes)) for line in some]

    async def _set_timeouts(self, wish: Wish) -> list[Log]:
        tree = self._tree
        try:
            return await self._in_thread(kernel_timeouts.lane_of(wish), lambda: kernel_timeouts.apply(wish, tree))
        except OSError as error:
            return [Log(1, f"{wish.info.dev}: timeouts cannot be set: {error.strerror or error}")]

    async def _in_thread(self, name: str, work: Callable[[], T]) -> T:
        """`work` in a thread of the lane of `name`. ReadTimeout; OSError of the work."""
        answer: asyncio.Future[T] = self._loop.create_future()

        def call() -> object:
            try:
                return work()
            except Exception as error:  # handed to whoever waits, whatever it is
                return error

        def done(result: object) -> None:
            if self._overdue.get(name) is job:
                del self._overdue[name]
            if lane.is_idle:
                self._lanes.pop(name, None)
            if answer.done():
                return
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        if name in self._overdue:
            raise ReadTimeout(errno.ETIMEDOUT, "an earlier call still hangs", name)
        lane = self._lanes.setdefault(name, Lane(self._pool))
        job = Job(call, done)
        try:
            lane.run(job)
        except BlockingIOError as error:
            raise ReadTimeout(error.errno, "too many calls hang", name) from error
        is_overdue = False
        try:
            return await asyncio.wait_for(asyncio.shield(answer), self._timeout_s)
        except TimeoutError:
            is_overdue = True
            raise ReadTimeout(errno.ETIMEDOUT, f"no answer in {self._timeout_s:g} s", name) from None
        finally:
            if not answer.done():
                answer.cancel()
                had_thread = not lane.abandon(job)
                if had_thread and is_overdue:
                    self._overdue[name] = job
                elif lane.is_idle:
                    self._lanes.pop(name, None)

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
        if self._is_wanted(event.dev):
            self._queue.put(event)
        elif event.action == ADD:
            self._excluded[event.dev] = identity.excluded_by_name(self._config, event.dev).text

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
        self._pool.close()


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


def _read(
    dev: str, config: Config, tree: Tree, udev: Udev, nodes: str, fallback: bool
) -> tuple[PathInfo | None, str]:
    """In a thread: the disk, or why it is none of ours (empty: it is gone)."""
    info = read_brief(dev, tree)
    if info is None:
        return None, ""
    if info.is_hidden:
        return None, "hidden"
    by_name = identity.excluded_by_name(config, dev)
    if by_name.excluded:
        return None, by_name.text
    info = complete(info, tree)
    if info.is_usb and not config.default("allow_usb_devices").value:
        return None, "USB device (allow_usb_devices is off)"
    devices = identity.hardware_entries(config, info)
    attribute = identity.uid_attribute(config, info, devices)
    has_udev = udev.is_active()
    record = udev.read(dev) if has_udev else None
    info = identity.with_udev(info, record, attribute, has_udev)
    subject = Subject(devices=devices, protocol=info.protocol)
    rdac = resolve(config, "path_checker", subject).value == "rdac"
    info = ask_if_running(info, os.path.join(nodes, dev.replace("!", "/")), rdac)
    properties = record.properties if record is not None else {}
    info = identity.with_wwid(info, attribute, properties, fallback=fallback)
    verdict = identity.excluded(config, info, record, attribute)
    return (None, verdict.text) if verdict.excluded else (info, "")
