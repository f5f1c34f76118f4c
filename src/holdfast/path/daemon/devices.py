"""The devices behind the paths: their checkers, priorities, and what wishes ask of them, on the real host.

Opening, like every command, happens in a thread that may be abandoned: nothing here blocks, a device that hangs
costs its own path only. A device is open from the first command to the day the path is forgotten.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import random
import stat
from collections.abc import Awaitable, Callable
from typing import Any, Final
from weakref import WeakValueDictionary

from holdfast.path import checkers
from holdfast.path.checkers.base import Begin, Checker, CheckerContext, CheckResult, begin_of
from holdfast.path.daemon.blocking import Threads
from holdfast.path.daemon.sampling import sample
from holdfast.path.daemon.wishes import Deeds
from holdfast.path.discovery.device import current_wwid
from holdfast.path.discovery.info import Bus, PathInfo
from holdfast.path.discovery.sysfs import read_text
from holdfast.path.path_settings import PathSettings
from holdfast.path.priorities import SCSI, scsi_exchange
from holdfast.path.priorities.plain import (
    ANA_WORDS,
    FAILED,
    Weights,
    ana_priority,
    const_priority,
    latency_priority,
    parse_latency_args,
    parse_weights,
    random_priority,
    sysfs_priority,
    weighted_priority,
)
from holdfast.path.prkeys import ReservationKey
from holdfast.path.records import Path
from holdfast.path.reservations import register
from holdfast.path.sg import Exchange, SgAnswer, SgCommand
from holdfast.path.sg_io import MAX_SG_THREADS, SgPath, SgStalled, SgTimeout, execute_on
from holdfast.storage.threads import ThreadPool

NODES: Final = "/dev"
SYSFS_TIMEOUT_S: Final = 5.0
MAX_MICROSECONDS: Final = 1e9
NODE_BLOCK_SIZE: Final = 4096
"""st_blksize of a node below /dev: a page, of which 4096 bytes count (3.4)."""


class Node:
    """A block device that is opened when the first command is for it. Its methods run in threads."""

    def __init__(self, node: str, dev_t: str) -> None:
        self._node = node
        self._dev_t = dev_t
        self._fd = -1

    def execute(self, command: SgCommand) -> SgAnswer:
        """ENODEV for a node that is another device."""
        if self._fd < 0:
            try:
                self._fd = self._open()
            except OSError as error:
                return SgAnswer(errno=error.errno or errno.EIO)
        return execute_on(self._fd)(command)

    def _open(self) -> int:
        fd = os.open(self._node, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        found = os.fstat(fd)
        if (
            not stat.S_ISBLK(found.st_mode)
            or f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}" != self._dev_t
        ):
            os.close(fd)
            raise OSError(errno.ENODEV, "another device has this name", self._node)
        return fd

    def close(self) -> None:
        """Nothing is under way any more."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class _Memory(dict[str, Any]):
    """A dict that can be referred to weakly."""

    __slots__ = ("__weakref__",)


class _Owned:
    """A checker whose end is that of its path's device."""

    __slots__ = ("_inner", "_release")

    def __init__(self, inner: Checker, release: Callable[[], None]) -> None:
        self._inner = inner
        self._release = release

    async def check(self, timeout_s: float) -> CheckResult:
        return await self._inner.check(timeout_s)

    def close(self) -> None:
        self._inner.close()
        self._release()


class _OwnedBeginning(_Owned):
    """One that needs no task."""

    __slots__ = ("_begin",)

    def __init__(self, inner: Checker, begin: Begin, release: Callable[[], None]) -> None:
        super().__init__(inner, release)
        self._begin = begin

    def begin(self, timeout_s: float, done: Callable[[CheckResult], None]) -> None:
        self._begin(timeout_s, done)


class Devices:
    """To be made on the running loop."""

    def __init__(self, nodes: str = NODES) -> None:
        self._nodes = nodes
        self._pool = ThreadPool(asyncio.get_running_loop(), MAX_SG_THREADS)
        self._sysfs = Threads()
        self._open: dict[Path, SgPath] = {}
        self._shared: WeakValueDictionary[str, _Memory] = WeakValueDictionary()
        """By WWID: what the checkers of its paths tell each other, for as long as one of them remembers it."""
        self._weights: dict[str, Weights | None] = {}
        self._random = random.Random()

    def node(self, info: PathInfo) -> str:
        """/dev/sda; the kernel writes / in names as !."""
        return os.path.join(self._nodes, info.dev.replace("!", "/"))

    def _sg(self, record: Path, info: PathInfo) -> SgPath:
        found = self._open.get(record)
        if found is None:
            node = Node(self.node(info), info.dev_t)
            found = self._open[record] = SgPath(self._pool, node.execute, node.close)
        return found

    def _release(self, record: Path) -> None:
        sg = self._open.pop(record, None)
        if sg is not None:
            sg.close()

    def make_checker(self, record: Path, info: PathInfo) -> Checker:
        """A `world.MakeChecker`. Touches neither the device nor its node nor sysfs: called on the loop."""
        factory = checkers.find(record.checker_name)
        sg, shared = self._sg(record, info), self._shared.setdefault(info.wwid, _Memory())
        context = CheckerContext(info.dev, self.node(info), sg, shared, NODE_BLOCK_SIZE)
        inner = factory(context)
        release = functools.partial(self._release, record)
        begin = begin_of(inner)
        return _OwnedBeginning(inner, begin, release) if begin is not None else _Owned(inner, release)

    def priority(self, record: Path, info: PathInfo, plan: PathSettings, timeout_s: float) -> Awaitable[int] | int:
        """A `world.AskPriority`. What cannot be computed here is an error, as a device that refuses is."""
        name, args = plan.prio, plan.prio_args
        if name == "const":
            return const_priority()
        if name in SCSI:
            milliseconds = max(int(timeout_s * 1000), 1)
            return self._asked(record, info, lambda: scsi_exchange(name, milliseconds, args), timeout_s, FAILED)
        if name in ("sysfs", "ana"):
            return self._by_sysfs(info, name, args)
        if name == "weightedpath":
            return self._weighted(info, args)
        if name == "path_latency":
            latency = record.statistics.last_latency_s
            if latency is None:
                return FAILED
            try:
                return latency_priority([min(latency * 1e6, MAX_MICROSECONDS)], parse_latency_args(args).base)
            except ValueError:
                return FAILED
        if name == "random":
            return random_priority(self._random)
        return FAILED

    async def _asked(
        self, record: Path, info: PathInfo, exchange: Callable[[], Exchange[Any]], timeout_s: float, failed: Any
    ) -> Any:
        try:
            return await self._sg(record, info).run(exchange, timeout_s)
        except (SgTimeout, SgStalled, OSError):
            return failed

    async def _by_sysfs(self, info: PathInfo, name: str, args: str) -> int:
        def read() -> int:
            if name == "ana":
                word = (read_text(info.sysfs_path, "ana_state") or "").strip()
                return ana_priority(ANA_WORDS[word]) if word in ANA_WORDS else FAILED
            device = info.device_path
            return sysfs_priority(read_text(device, "access_state"), read_text(device, "preferred_path"), args)

        try:
            return await self._sysfs.run(info.dev, read, SYSFS_TIMEOUT_S)
        except OSError:
            return FAILED

    def _weighted(self, info: PathInfo, args: str) -> int:
        if args not in self._weights:
            try:
                self._weights[args] = parse_weights(args)
            except ValueError:
                self._weights[args] = None
        weights = self._weights[args]
        if weights is None:
            return FAILED
        subjects = {
            "hbtl": ":".join(map(str, info.hcil or ())),
            "devname": info.dev,
            "serial": info.serial,
            "wwn": f"{info.host_wwnn}:{info.host_wwpn}:{info.target_wwnn}:{info.target_wwpn}",
        }
        return weighted_priority(weights, subjects[weights.subject])

    def deeds(self, timeout_s: float = 30.0) -> Deeds:
        """What the daemon's wishes need."""
        milliseconds = int(timeout_s * 1000)

        async def wwid_now(record: Path, info: PathInfo) -> str | None:
            if info.bus is not Bus.SCSI:
                return info.wwid
            found = await self._asked(record, info, lambda: current_wwid(milliseconds), timeout_s, "")
            return str(found) or None

        async def register_key(record: Path, info: PathInfo, key: ReservationKey, all_ports: bool) -> bool:
            work = functools.partial(register, key, milliseconds, all_ports)
            return bool(await self._asked(record, info, work, timeout_s, False))

        async def sample_errors(record: Path, info: PathInfo, seconds: float) -> tuple[int, int]:
            return await sample(self.node(info), seconds)

        return Deeds(wwid_now, register_key, sample_errors)

    def close(self) -> None:
        """Threads that are idle end; nothing is waited for."""
        for record in list(self._open):
            self._release(record)
        self._sysfs.close()
        self._pool.close()
