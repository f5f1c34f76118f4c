"""The real devices behind checkers, prioritizers, wishes: opened in threads, asked by SG_IO (spec path 3, 13.1).

A device whose open or command hangs keeps one thread; the next question to it is refused until that one is back.
Never on the loop: everything that may sleep is in `ThreadPool`'s threads, which are abandoned.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import logging
import os
import random
import stat
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from holdfast.path import checkers, priorities
from holdfast.path.checkers.base import Checker, CheckerContext, CheckResult
from holdfast.path.checkers.directio import DirectioChecker
from holdfast.path.conf import Config
from holdfast.path.discovery.device import current_wwid
from holdfast.path.discovery.info import PathInfo
from holdfast.path.discovery.sysfs import access_state, ana_state
from holdfast.path.path_settings import path_settings
from holdfast.path.priorities import plain
from holdfast.path.prkeys import ReservationKey
from holdfast.path.records import Path
from holdfast.path.reservations import register
from holdfast.path.sg import Exchange
from holdfast.path.sg_io import MAX_SG_THREADS, SgPath, SgStalled, SgTimeout
from holdfast.path.states import PathState
from holdfast.storage.threads import Job, Lane, ThreadPool

log = logging.getLogger(__name__)

OPEN_S: Final = 30.0
"""How long an open is waited for; it goes on by itself, and no second one is begun."""
WITHOUT_DESCRIPTOR: Final = frozenset({"directio", "none"})
"""Checkers that open the device themselves, or not at all."""
SAMPLE_PAUSE_S: Final = 0.1 / 32
"""Between two reads of a path that is judged: as many per second as the original's 32 every 100 ms."""
SAMPLE_TIMEOUT_S: Final = 60.0
FAILED: Final = -1
T = TypeVar("T")


class Devices:
    """All of them. To be made on the running loop; `use` a configuration before anything else."""

    def __init__(self) -> None:
        self._pool = ThreadPool(asyncio.get_running_loop(), MAX_SG_THREADS)
        self._config = Config()
        self._opening: dict[str, asyncio.Future[int]] = {}
        self._open: dict[Path, SgPath] = {}
        self._of_maps: dict[str, dict[str, Any]] = {}
        self._random = random.Random()
        self._complained: set[str] = set()

    def use(self, config: Config) -> None:
        """This configuration counts from now on."""
        self._config = config
        self._complained.clear()

    # -- checkers ----------------------------------------------------------------------------------------------

    async def checker(self, record: Path, info: PathInfo) -> Checker:
        """The checker that the record names. OSError: the device cannot be opened (in time). KeyError: no such."""
        factory = checkers.find(record.checker_name)
        node = node_of(info.dev)
        if record.checker_name in WITHOUT_DESCRIPTOR:
            return factory(CheckerContext(info.dev, node))
        fd = await self._opened(info)
        sg = SgPath.on_descriptor(self._pool, fd)
        try:
            context = CheckerContext(
                info.dev, node, sg, self._of_maps.setdefault(info.wwid, {}), os.fstat(fd).st_blksize
            )
            made = factory(context)
        except BaseException:
            sg.close()
            raise
        self._open[record] = sg
        return _Owning(made, functools.partial(self._close, record, sg))

    def _close(self, record: Path, sg: SgPath) -> None:
        if self._open.get(record) is sg:
            del self._open[record]
        sg.close()

    async def _opened(self, info: PathInfo) -> int:
        """A descriptor that belongs to the caller."""
        if info.dev in self._opening:
            raise BlockingIOError(11, "an earlier open hangs", node_of(info.dev))
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._opening[info.dev] = answer
        waits = True

        def done(result: object) -> None:
            self._opening.pop(info.dev, None)
            if isinstance(result, int):
                if waits:
                    answer.set_result(result)
                else:  # Too late for whoever wanted it.
                    Lane(self._pool).run(Job(functools.partial(os.close, result), lambda _: None))
            elif waits and isinstance(result, Exception):
                answer.set_exception(result)

        Lane(self._pool).run(Job(lambda: _result_of(functools.partial(open_device, info)), done))
        try:
            async with asyncio.timeout(OPEN_S):
                return await asyncio.shield(answer)
        finally:
            waits = answer.done()

    # -- priorities --------------------------------------------------------------------------------------------

    async def priority(self, record: Path, info: PathInfo, timeout_s: float) -> int:
        """What the path is worth now; negative: an error. Answers in `timeout_s`."""
        settings = path_settings(self._config, info)
        name, args = settings.prio, settings.prio_args
        try:
            match name:
                case "const":
                    return plain.const_priority()
                case "random":
                    return plain.random_priority(self._random)
                case "sysfs":
                    return plain.sysfs_priority(*access_state(info), args)
                case "ana":
                    state = plain.ANA_WORDS.get((ana_state(info) or "").strip())
                    return FAILED if state is None else plain.ana_priority(state)
                case "weightedpath":
                    return _weighted(args, info)
                case "path_latency":
                    return await self._latency(args, info, timeout_s)
                case _ if name in priorities.SCSI:
                    milliseconds = max(int(timeout_s * 1000), 1)
                    exchange = functools.partial(priorities.scsi_exchange, name, milliseconds, args)
                    return await self._ask(record, info, exchange, timeout_s)
        except ValueError as error:
            self._complain(f"{info.dev}: {error}")
        except (OSError, SgTimeout, SgStalled) as error:
            log.debug("%s: prioritizer %s: %s", info.dev, name, error or type(error).__name__)
        else:
            self._complain(f"prioritizer {name} is not implemented: its paths have no priority")
        return FAILED

    def _complain(self, text: str) -> None:
        if text not in self._complained:
            self._complained.add(text)
            log.warning("%s", text)

    async def _latency(self, args: str, info: PathInfo, timeout_s: float) -> int:
        wanted = plain.parse_latency_args(args)
        checker = DirectioChecker(CheckerContext(info.dev, node_of(info.dev)))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        took: list[float] = []
        try:
            while len(took) < wanted.reads and (left := deadline - loop.time()) > 0:
                began = loop.time()
                if (await checker.check(left)).state is not PathState.UP:
                    return FAILED
                took.append((loop.time() - began) * 1e6)
        finally:
            checker.close()
        return plain.latency_priority(took, wanted.base)

    # -- wishes ------------------------------------------------------------------------------------------------

    async def wwid_now(self, record: Path, info: PathInfo) -> str | None:
        """What the device itself says; None: no answer."""
        try:
            return await self._ask(record, info, current_wwid, record.timeout_s) or None
        except (OSError, SgTimeout, SgStalled):
            return None

    async def register_key(self, record: Path, info: PathInfo, key: ReservationKey) -> bool:
        """The map's key on this path, if it is registered with the logical unit at all. False: that failed."""
        settings = path_settings(self._config, info)
        milliseconds = max(int(record.timeout_s * 1000), 1)
        exchange = functools.partial(register, milliseconds, key, settings.all_tg_pt)
        try:
            return await self._ask(record, info, exchange, record.timeout_s)
        except (OSError, SgTimeout, SgStalled) as error:
            log.error("%s: reservation key not registered: %s", info.dev, error or type(error).__name__)
            return False

    async def sample(self, record: Path, info: PathInfo, seconds: float) -> tuple[int, int]:
        """Reads of the path that failed, and those that ended, in so many seconds (spec path 4.9)."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        checker = DirectioChecker(CheckerContext(info.dev, node_of(info.dev)))
        errors = reads = 0
        try:
            while loop.time() < deadline:
                result = await checker.check(SAMPLE_TIMEOUT_S)
                reads += 1
                errors += result.state is not PathState.UP
                await asyncio.sleep(SAMPLE_PAUSE_S)
        finally:
            checker.close()
        return errors, max(reads, 1)

    async def _ask(self, record: Path, info: PathInfo, exchange: Callable[[], Exchange[T]], timeout_s: float) -> T:
        """An exchange on the descriptor of the path's checker, or on one for this question only."""
        sg = self._open.get(record)
        if sg is not None:
            return await sg.run(exchange, timeout_s)
        sg = SgPath.on_descriptor(self._pool, await self._opened(info))
        try:
            return await sg.run(exchange, timeout_s)
        finally:
            sg.close()

    def close(self) -> None:
        """End the threads that are idle; those that hang are left behind."""
        self._pool.close()


class _Owning:
    """A checker whose descriptor is closed with it."""

    def __init__(self, inner: Checker, close: Callable[[], None]) -> None:
        self._inner = inner
        self._close = close

    async def check(self, timeout_s: float) -> CheckResult:
        return await self._inner.check(timeout_s)

    def close(self) -> None:
        self._inner.close()
        self._close()


def node_of(dev: str) -> str:
    """Its file; the kernel writes `!` for a slash in a name."""
    return f"/dev/{dev.replace('!', '/')}"


def open_device(info: PathInfo) -> int:
    """Read-only: closing one that was open for writing makes udev look at it anew. OSError; blocks."""
    node = node_of(info.dev)
    fd = os.open(node, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    found = os.fstat(fd)
    number = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    if not stat.S_ISBLK(found.st_mode) or number != info.dev_t:
        os.close(fd)
        raise FileNotFoundError(2, "no such block device", node)
    return fd


def _result_of(work: Callable[[], T]) -> T | Exception:
    try:
        return work()
    except Exception as error:  # handed to whoever waits, whatever it is
        return error


def _weighted(args: str, info: PathInfo) -> int:
    weights = plain.parse_weights(args)
    wwn = (info.host_wwnn, info.host_wwpn, info.target_wwnn, info.target_wwpn)
    value = {
        "hbtl": ":".join(map(str, info.hcil)) if info.hcil is not None else "",
        "devname": info.dev,
        "serial": info.serial,
        "wwn": ":".join(wwn),
    }[weights.subject]
    return plain.weighted_priority(weights, value)


@contextlib.contextmanager
def locked(devices: list[str]) -> Iterator[None]:
    """Hold udev off these devices. Blocks. BlockingIOError: somebody has one; OSError: it cannot be opened."""
    with contextlib.ExitStack() as stack:
        for dev in devices:
            fd = os.open(node_of(dev), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
            stack.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
