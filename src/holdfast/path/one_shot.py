"""One check of each of some devices, without a daemon: what `holdfast path check` does.

The same checkers as in the daemon; whatever a device does, each answer comes within its timeout and a moment.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from holdfast.path import checkers
from holdfast.path.checkers.base import NO_DESCRIPTOR, Checker, CheckerContext, CheckResult
from holdfast.path.probe_io import wait_for_end
from holdfast.path.sg_io import SgPath
from holdfast.path.states import PathState
from holdfast.storage.errors import StorageError
from holdfast.storage.opening import open_storage
from holdfast.storage.threads import Job, Lane, ThreadPool

GUARD_S: Final = 1.0
"""A checker that has not returned so long after its timeout is TIMEOUT."""
END_S: Final = 0.5
"""How long the closing of devices is waited for."""
MIN_TIMEOUT_S: Final = 0.001
ASKS_SCSI: Final = frozenset({"tur", "readsector0", "rdac", "emc_clariion", "hp_sw", "cciss_tur"})
"""Built-in checkers that want a descriptor for commands. Those of others get one if the device can be opened."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Checked:
    """What one check found."""

    dev: str
    node: str
    checker: str
    result: CheckResult
    latency_s: float

    @property
    def is_good(self) -> bool:
        """UP or GHOST."""
        return self.result.state.is_good


def node_of(name: str) -> str:
    """`sda` is /dev/sda; what has a slash is a path already."""
    return name if "/" in name else f"/dev/{name}"


async def check_devices(names: Sequence[str], checker_name: str, timeout_s: float) -> list[Checked]:
    """All at the same time, in the order of `names`. KeyError: no such checker."""
    make = checkers.find(checker_name)
    pool = ThreadPool(asyncio.get_running_loop())
    try:
        return list(await asyncio.gather(*(_check(name, checker_name, make, timeout_s, pool) for name in names)))
    finally:
        await wait_for_end(END_S)
        pool.close()


async def _check(
    name: str, checker_name: str, make: checkers.Factory, timeout_s: float, pool: ThreadPool
) -> Checked:
    loop = asyncio.get_running_loop()
    node = node_of(name)
    asked = loop.time()
    deadline = asked + timeout_s
    checker: Checker | None = None
    context = CheckerContext(os.path.basename(node), node)
    try:
        async with asyncio.timeout_at(deadline + GUARD_S):
            if checker_name in ASKS_SCSI or checker_name not in checkers.BUILT_IN:
                try:
                    fd, context.block_size = await _in_thread(pool, lambda: _open_block_device(node), _close_first)
                    context.sg = SgPath.on_descriptor(pool, fd)
                except OSError:
                    if checker_name in ASKS_SCSI:
                        raise
            checker = make(context)
            result = CheckResult(PathState.UNCHECKED)
            # Some open the device in their first check: what the device itself takes is seen in the second.
            for _ in range(2):
                asked = loop.time()
                result = await checker.check(max(deadline - asked, MIN_TIMEOUT_S))
                if not result.state.is_good:
                    break
            took = loop.time() - asked
            if result.state is PathState.WILD and context.sg is None:
                await _in_thread(pool, lambda: _why_not(node), lambda _: None)
    except TimeoutError:
        result, took = CheckResult(PathState.TIMEOUT, " timed out"), loop.time() - asked
    except OSError as error:
        result = CheckResult(PathState.WILD, f"{NO_DESCRIPTOR}: {error.strerror or error}")
        took = loop.time() - asked
    finally:
        if checker is not None:
            checker.close()
        if context.sg is not None:
            context.sg.close()
    return Checked(context.dev, node, checker_name, result, took)


async def _in_thread(pool: ThreadPool, work: Callable[[], Result], discard: Callable[[Result], None]) -> Result:
    """What `work` returns or raises (OSError); if nobody waits any more, it is given to `discard`."""
    answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def call() -> tuple[Result] | OSError:
        try:
            return (work(),)
        except OSError as error:
            return error

    def done(result: tuple[Result] | OSError) -> None:
        if answer.done():
            if isinstance(result, tuple):
                discard(result[0])
        elif isinstance(result, tuple):
            answer.set_result(result[0])
        else:
            answer.set_exception(result)

    Lane(pool).run(Job(call, done))
    return await answer


def _close_first(opened: tuple[int, int]) -> None:
    os.close(opened[0])


def _why_not(node: str) -> None:
    """Raises what opening it raises."""
    found = open_storage(node, read_only=True)
    if isinstance(found, StorageError):
        raise OSError(found.errno, found.detail or os.strerror(found.errno), node)
    os.close(found.fd)


def _open_block_device(node: str) -> tuple[int, int]:
    """Descriptor and st_blksize."""
    found = os.stat(node)
    if not stat.S_ISBLK(found.st_mode):
        raise OSError(errno.ENOTBLK, os.strerror(errno.ENOTBLK), node)
    return os.open(node, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY), found.st_blksize
