"""Open devices of one event loop: shared by path, checked against what the path names now, bounded.

Opening, looking at a path and closing may hang like any other I/O and happen in threads with a deadline.
Spec lease-disk section 14 (descriptors stay open) and section 4. Must never open one storage for two users
in a way that rule 12 loses sight of an outstanding write: the writes are kept by identity, not by path.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from holdfast.storage.aio import AioEngine
from holdfast.storage.device import Device, Writes
from holdfast.storage.engine import Engine, Request, set_result
from holdfast.storage.errors import DeadlineError, StorageError
from holdfast.storage.faults import Faults, FaultyEngine
from holdfast.storage.inline import InlineEngine
from holdfast.storage.opening import Opened, identify, identify_from_cache, open_storage
from holdfast.storage.threads import Job, Lane, ThreadPool
from holdfast.storage.uring import UringEngine

MAX_OPEN_DEVICES: Final = 1024
"""Devices that a registry holds, lingering ones included; beyond it EMFILE."""
DESCRIPTORS_SHARE: Final = 4
"""Not more of them than this part of the files that the process may open: sockets need descriptors too."""

MAX_OPENING_THREADS: Final = 32
"""Threads for opening and closing: apart from those that read and write, so that a hung mount blocks no I/O."""

T = TypeVar("T")

_log = logging.getLogger(__name__)

Key = tuple[str, Faults | None, bool]
"""A path, what stands between this host and its storage in tests and demonstrations, and whether only to read."""

LINGER_S: Final = 5.0
"""An unused device stays open this long: the next command on the same lease finds it open."""


LONG_READ_BYTES: Final = 128 * 1024
"""From here on setting up a read costs so much that a kernel worker does it, where there is io_uring."""


class AioWithThreads:
    """AIO, with another engine for what could block the loop inside `io_submit` (see device choice in `aio`)."""

    name = "aio"

    def __init__(
        self, aio: AioEngine, lane: Lane, writes_in_threads: bool, uring: UringEngine | None = None
    ) -> None:
        """`writes_in_threads`: writes go to `uring` if there is one, else to threads."""
        self._aio = aio
        self._lane = lane
        self._writes_in_threads = writes_in_threads
        self._uring = uring

    def submit(self, request: Request) -> None:
        by_workers = self._writes_in_threads if request.is_write else request.length >= LONG_READ_BYTES
        if not by_workers or (self._uring is None and not request.is_write):
            self._aio.submit(request, self._lane)
            return
        if self._uring is not None:
            try:
                self._uring.submit(request)
                return
            except OSError:
                pass  # Full, or the kernel is short of memory: a thread can do it as well.
        self._lane.submit(request)

    def poll(self) -> None:
        self._aio.poll()
        if self._uring is not None:
            self._uring.poll()

    def overdue(self, request: Request) -> bool:
        return self._lane.overdue(request)


class _Entry:
    """A device in the registry: its users and its end."""

    __slots__ = ("device", "faulty_engine", "identity", "key", "linger", "users")

    def __init__(self, device: Device, key: Key, identity: tuple[int, ...]) -> None:
        self.device = device
        self.key = key
        self.identity = identity
        self.faulty_engine: FaultyEngine | None = None
        self.users = 1
        self.linger: asyncio.TimerHandle | None = None


class DeviceRegistry:
    """All storage that one event loop has open, and the engines that serve it."""

    def __init__(self, linger_s: float = LINGER_S, max_open: int = MAX_OPEN_DEVICES) -> None:
        """To be made on the running loop; nothing is started before it is needed."""
        self._loop = asyncio.get_running_loop()
        self._linger_s = linger_s
        self._max_open = min(max_open, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // DESCRIPTORS_SHARE)
        self._threads = ThreadPool(self._loop)
        self._opening_threads = ThreadPool(self._loop, MAX_OPENING_THREADS)
        self._opening: dict[str, Lane] = {}
        self._closed = False
        self._aio: AioEngine | None = None
        self._aio_is_missing = False
        self._uring: UringEngine | None = None
        self._uring_is_missing = False
        self._inline = InlineEngine(any_alignment=True)
        self._by_key: dict[Key, _Entry] = {}
        self._entries: dict[Device, _Entry] = {}
        self._writes: dict[tuple[tuple[int, ...], Faults | None], Writes] = {}

    def use_threads_only(self) -> None:
        """No kernel interface for asynchronous I/O is used for what is opened from now on."""
        self._aio_is_missing = self._uring_is_missing = True

    @property
    def threads(self) -> int:
        """Threads that exist now."""
        return self._threads.threads + self._opening_threads.threads

    def __len__(self) -> int:
        return len(self._entries)

    async def open(
        self, path: str, timeout_s: float, faults: Faults | None = None, *, read_only: bool = False
    ) -> Device:
        """The device at `path`, shared with others who opened it; give it back with `release`.

        `read_only`: writes to it fail. StorageError with the errno of open(2), ENOTBLK or EISDIR for what is no
        storage, EROFS for read-only block devices unless `read_only`, EMFILE beyond `MAX_OPEN_DEVICES`;
        DeadlineError when the storage did not answer.
        """
        if not timeout_s > 0:
            raise StorageError(errno.EINVAL, "open", path, 0, 0, f"a timeout of {timeout_s} s is not possible")
        deadline = self._loop.time() + timeout_s
        if faults is not None:
            await faults.before_open(path, timeout_s)
        key = (path, faults, read_only)
        entry = self._by_key.get(key)
        if entry is not None and await self._is_current(entry, path, deadline, timeout_s):
            return self._use(entry)
        if len(self._entries) >= self._max_open and not self._end_a_lingering():
            detail = f"{self._max_open} devices are open"
            raise StorageError(errno.EMFILE, "open", path, 0, 0, detail)
        opened = await self._call(
            path, lambda: open_storage(path, read_only), deadline, timeout_s, _discard_opened
        )
        if isinstance(opened, StorageError):
            raise opened
        assert isinstance(opened, Opened)
        entry = self._by_key.get(key)
        if entry is not None:
            if entry.identity == opened.identity:  # somebody else was faster
                self._run_closing(path, lambda: _close_descriptor(opened.fd))
                return self._use(entry)
            self._forget(entry)
        return self._add(key, opened)

    def release(self, device: Device) -> None:
        """One user less. After the last one it stays open for `linger_s`, in case the next comes soon."""
        entry = self._entries.get(device)
        if entry is None:
            return  # everything was closed meanwhile
        entry.users -= 1
        if entry.users:
            return
        if self._linger_s > 0 and self._by_key.get(entry.key) is entry:
            entry.linger = self._loop.call_later(self._linger_s, self._remove, entry)
        else:
            self._remove(entry)

    async def _is_current(self, entry: _Entry, path: str, deadline: float, timeout_s: float) -> bool:
        """Whether `path` still names the storage that is open."""
        if identify_from_cache(path) == entry.identity:
            return True
        found = await self._call(path, lambda: _identify(path), deadline, timeout_s, _ignore)
        # The entry may have ended its lingering while we waited.
        return found == entry.identity and self._by_key.get(entry.key) is entry

    def _end_a_lingering(self) -> bool:
        """Close the unused device that has been in the registry for the longest time."""
        for entry in self._entries.values():
            if not entry.users:
                self._remove(entry)
                return True
        return False

    def _use(self, entry: _Entry) -> Device:
        entry.users += 1
        if entry.linger is not None:
            entry.linger.cancel()
            entry.linger = None
        return entry.device

    def _add(self, key: Key, opened: Opened) -> Device:
        path, faults, _ = key
        self._forget_finished_writes()
        engine = self._engine_for(opened)
        faulty_engine = None
        if faults is not None:
            engine = faulty_engine = FaultyEngine(engine, faults)
        device = Device(
            engine,
            opened.fd,
            path,
            block_size=opened.block_size,
            size=opened.size,
            is_block_device=opened.is_block_device,
            direct=opened.direct,
            writes=self._writes.setdefault((opened.identity, faults), Writes()),
            close_fd=_close_descriptor if opened.engine == "inline" else self._close_fd_of(path),
        )
        entry = _Entry(device, key, opened.identity)
        entry.faulty_engine = faulty_engine
        self._by_key[key] = self._entries[device] = entry
        return device

    def _close_fd_of(self, path: str) -> Callable[[int], None]:
        return lambda fd: self._run_closing(path, lambda: _close_descriptor(fd))

    def _forget_finished_writes(self) -> None:
        in_use = {(entry.identity, entry.key[1]) for entry in self._entries.values()}
        for kept in [kept for kept, writes in self._writes.items() if not len(writes) and kept not in in_use]:
            del self._writes[kept]

    def _engine_for(self, opened: Opened) -> Engine:
        if opened.engine == "inline":
            return self._inline
        lane = Lane(self._threads)
        if opened.engine == "aio":
            aio = self._aio_engine()
            if aio is not None:
                if opened.is_block_device:
                    return AioWithThreads(aio, lane, writes_in_threads=False)
                return AioWithThreads(aio, lane, writes_in_threads=True, uring=self._uring_engine())
        return lane

    def _uring_engine(self) -> UringEngine | None:
        if self._uring is None and not self._uring_is_missing:
            try:
                self._uring = UringEngine(self._loop)
            except OSError as error:
                self._uring_is_missing = True
                _log.info("no io_uring, threads write to files instead: %s", error)
        return self._uring

    def _aio_engine(self) -> AioEngine | None:
        if self._aio is None and not self._aio_is_missing:
            try:
                self._aio = AioEngine(self._loop)
            except OSError as error:
                self._aio_is_missing = True
                _log.warning("no Linux AIO, threads do it all, which is slower: %s", error)
        return self._aio

    def _forget(self, entry: _Entry) -> None:
        """Its path names other storage now; who has the old one open keeps it."""
        del self._by_key[entry.key]
        if not entry.users:
            self._remove(entry)

    def _remove(self, entry: _Entry) -> None:
        device = entry.device
        if entry.linger is not None:
            entry.linger.cancel()
        if self._by_key.get(entry.key) is entry:
            del self._by_key[entry.key]
        del self._entries[device]
        device.close()

    def _run_closing(self, path: str, call: Callable[[], None]) -> None:
        """close(2) asks FUSE and NFS servers too: in a thread, and nobody waits for it."""

        def done(result: object) -> None:
            self._forget_idle_lane(path)

        if self._closed or self._loop.is_closed():
            threading.Thread(target=call, name="storage-close", daemon=True).start()
            return
        lane = self._opening.setdefault(path, Lane(self._opening_threads))
        try:
            lane.run(Job(call, done, _ignore))
        except BlockingIOError:
            # Hundreds of calls for that path hang; its descriptor stays open until the process ends.
            _log.error("closing %s: too many calls for this path hang, a descriptor is left open", path)

    async def _call(
        self, path: str, call: Callable[[], T], deadline: float, timeout_s: float, discard: Callable[[T], None]
    ) -> T:
        """What `call` returned in a thread. Without an answer by `deadline` it goes to `discard` some day."""
        answer: list[T] = []
        waiter: asyncio.Future[None] = self._loop.create_future()
        abandoned = False

        def done(result: T) -> None:
            if abandoned:
                self._run_closing(path, lambda: discard(result))
                return
            answer.append(result)
            set_result(waiter)

        lane = self._opening.setdefault(path, Lane(self._opening_threads))
        job = Job(call, done, discard)
        try:
            lane.run(job)
        except BlockingIOError as error:
            raise StorageError(errno.EAGAIN, "open", path, 0, 0, "too many calls for this path hang") from error
        timer = self._loop.call_at(deadline, set_result, waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if answer:
                self._run_closing(path, lambda: discard(answer[0]))
            raise
        finally:
            timer.cancel()
            if not answer:
                abandoned = True
                lane.abandon(job)
            self._forget_idle_lane(path)
        if not answer:
            raise DeadlineError("open", path, 0, 0, timeout_s)
        return answer[0]

    def _forget_idle_lane(self, path: str) -> None:
        lane = self._opening.get(path)
        if lane is not None and lane.is_idle:
            del self._opening[path]

    def close(self) -> None:
        """Close everything. Does not wait for anything that hangs; its memory stays until the process ends."""
        self._closed = True
        for entry in list(self._entries.values()):
            if entry.faulty_engine is not None:
                entry.faulty_engine.close()
            self._remove(entry)
        self._threads.close()
        self._opening_threads.close()
        if self._aio is not None:
            self._aio.close()
            self._aio = None
        if self._uring is not None:
            self._uring.close()
            self._uring = None


def _identify(path: str) -> tuple[int, ...] | None:
    try:
        return identify(path)
    except (OSError, ValueError):
        return None  # opening it again will tell what is wrong


def _ignore(result: object) -> None:
    """There is nothing to give back."""


def _discard_opened(opened: object) -> None:
    if isinstance(opened, Opened):
        _close_descriptor(opened.fd)


def _close_descriptor(fd: int) -> None:
    try:
        os.close(fd)
    except OSError as error:
        # The descriptor is gone all the same; nothing of ours was delayed (O_DSYNC), so nothing is lost.
        _log.warning("closing descriptor %d of a device: %s", fd, error)
