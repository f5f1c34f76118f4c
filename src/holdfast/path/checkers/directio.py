"""One block read at offset 0, past all caches (spec path 3.2).

UP only on the whole block within the timeout. A read that missed it lives on in the kernel; no other is started
beside it, and what it brings counts at the next check: DOWN until then. The device is opened read-only: closing
one that was open for writing makes udev look at it anew.

Opening may hang as well, so it is part of the check and has the same deadline.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from typing import Final, Protocol

from holdfast.path.checkers.base import (
    DOWN,
    NO_DESCRIPTOR,
    NOT_AVAILABLE,
    UP,
    CheckerContext,
    CheckResult,
)
from holdfast.path.states import PathState
from holdfast.storage import DeadlineError, Device, PendingRead, StorageError, close_disk, open_disk

WAITING: Final = " is waiting on aio"
NO_BLOCK_SIZE: Final = " cannot get blocksize, set default"

MAX_PROBE_BYTES: Final = 4096
LATE_S: Final = 0.000_001
"""How long a check waits for a read of an earlier one: not at all, but the call wants a positive number."""

_NOT_SUBMITTED: Final = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EBADF})
"""This host's shortage, not the path's fault."""


class Probe(Protocol):
    """The part of `storage.Device` that is needed."""

    @property
    def block_size(self) -> int: ...

    @property
    def size(self) -> int: ...

    async def read(self, offset: int, length: int, timeout_s: float) -> bytes: ...


OpenProbe = Callable[[str, float], Coroutine[object, object, Probe]]


async def open_read_only(node: str, timeout_s: float) -> Device:
    """The device of the running loop's registry. StorageError, DeadlineError."""
    return await open_disk(node, timeout_s=timeout_s, read_only=True)


def close_probe(probe: Probe) -> None:
    """Give back what `open_read_only` returned."""
    if isinstance(probe, Device):
        close_disk(probe)


def probe_length(size: int, logical_block_size: int) -> int:
    """Bytes to read: the kernel's block size (BLKBSZGET) of a device that nobody has mounted, at most 4096.

    It is the largest power of two up to a page that divides the device's size, not less than a logical block.
    """
    length = logical_block_size
    while length < MAX_PROBE_BYTES and size % (2 * length) == 0:
        length *= 2
    return length


class DirectioChecker:
    """One read at a time; the state between checks is a read that was late."""

    def __init__(
        self,
        context: CheckerContext,
        open_probe: OpenProbe = open_read_only,
        close: Callable[[Probe], None] = close_probe,
    ) -> None:
        self._node = context.node
        self._open_probe = open_probe
        self._close_probe = close
        self._probe: Probe | None = None
        self._late: PendingRead | None = None

    @property
    def is_waiting(self) -> bool:
        """A read of an earlier check is still with the kernel."""
        return self._late is not None

    async def check(self, timeout_s: float) -> CheckResult:
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            if self._late is not None:
                return await self._look_at_late(self._late)
            if self._probe is None:
                self._probe = await self._open_probe(self._node, timeout_s)
            left_s = max(deadline - asyncio.get_running_loop().time(), LATE_S)
            await self._probe.read(0, probe_length(self._probe.size, self._probe.block_size), left_s)
            return UP
        except DeadlineError as error:
            self._late = error.pending
            return DOWN
        except StorageError as error:
            if error.errno in _NOT_SUBMITTED:
                return CheckResult(PathState.UNCHECKED, NOT_AVAILABLE)
            if error.operation == "open":
                # ENXIO and the like: the path has no device behind it now; the next check opens again.
                return DOWN if error.errno in (errno.ENXIO, errno.EIO, errno.ENODEV) else _unopened()
            return DOWN

    async def _look_at_late(self, late: PendingRead) -> CheckResult:
        """Its outcome is this check's; nothing new is started, complete or not (spec 3.2)."""
        try:
            await late.wait(LATE_S)
        except DeadlineError:
            return DOWN
        except StorageError:
            self._late = None
            return DOWN
        self._late = None
        return UP

    def close(self) -> None:
        """A read that is under way lives on and keeps its descriptor."""
        self._late = None
        if self._probe is not None:
            probe, self._probe = self._probe, None
            self._close_probe(probe)


def _unopened() -> CheckResult:
    return CheckResult(PathState.WILD, NO_DESCRIPTOR)
