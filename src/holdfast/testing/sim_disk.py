"""A simulated shared disk: one image, one `Disk` per host, and every fault the lease rules must survive.

Written fault model. What this disk does to its users:

- *Delay*: each I/O takes effect at one instant between submission and completion, and completes later; latency
  is mostly milliseconds, sometimes seconds. I/O to different sectors is reordered freely.
- *Late submission*: the host may be held up between the caller's decision and the submission (scheduling,
  SIGSTOP), for longer than any timeout; only then does the I/O's own timeout start to count.
- *Torn reads*: a read of several sectors is delivered in pieces, each at its own instant, in any order.
- *Stall*: for a while none of a host's I/O takes effect (a path or an array that hangs); it goes on afterwards.
- *Timeout with late completion*: an I/O that misses its deadline lives on; a write reaches the disk at any later
  time, or never (then rule 12 blocks its sector for good, as a lost request in the kernel would).
- *Error*: EIO; a failed write may have reached the disk, but will not reach it after the error was reported.
- *Host crash*: writes in flight are lost or land later, but not after `land_by`, see `SimDisk.crash`: nothing of
  a host reaches the disk after others may have declared it dead, nor after it has booted again (spec lease-disk
  13, remaining assumptions).
- *Host pause*: completions and missed deadlines are noticed when the pause ends; if both happened meanwhile,
  either may be seen.

What it does not do, because nobody could live with it: tear a sector, lose or change a completed write, return
stale data, answer one host from another image.

Two ways to direct it: `Weather` draws delays and faults from a seeded generator, `hold` stops chosen I/O until
the test lets it go.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from holdfast.storage.buffers import Buffer
from holdfast.storage.disk import Permit
from holdfast.storage.errors import DeadlineError, StorageError
from holdfast.testing.sim_clock import SimHost

NEVER = float("inf")
_CHUNK = 1 << 16


@dataclass(slots=True)
class Weather:
    """How I/O of one host behaves at the moment. Chances are 0..1 per I/O, spans in seconds; change it at any
    time.
    """

    fast_s: tuple[float, float] = (0.0005, 0.004)
    """Usual latency."""
    slow_chance: float = 0.0
    slow_s: tuple[float, float] = (0.1, 3.0)
    late_chance: float = 0.0
    late_s: tuple[float, float] = (10.0, 200.0)
    """Latency beyond the usual timeouts: the caller gets DeadlineError, the I/O completes some time."""
    lost_chance: float = 0.0
    """Given that an I/O is late: it never completes, and a write never lands, as long as its host lives."""
    submit_delay_chance: float = 0.0
    submit_delay_s: tuple[float, float] = (0.1, 10.0)
    error_chance: float = 0.0
    torn_pieces: int = 4
    """Most pieces that a read of several sectors is delivered in."""
    stalled_until: float = 0.0
    """Virtual time before which no I/O takes effect; NEVER for a frozen disk."""
    failing_until: float = 0.0
    """Virtual time before which every I/O fails with EIO."""


@dataclass(eq=False, slots=True)
class Op:
    """One I/O from submission to completion."""

    number: int
    disk: SimDisk
    kind: str
    """`R` or `W`."""
    offset: int
    length: int
    data: bytes
    submitted_at: float
    target: Buffer | bytearray | None = None
    landed: bool = False
    lost: bool = False
    done: bool = False
    error: int = 0
    started: bool = False
    waiter: asyncio.Future[None] | None = None
    freed: asyncio.Future[None] | None = None

    @property
    def end(self) -> int:
        return self.offset + self.length


class DiskWatcher(Protocol):
    """Sees everything, changes nothing. Called synchronously, in the order of virtual time."""

    def submitted(self, op: Op) -> None: ...

    def landed(self, op: Op, before: bytes) -> None:
        """A write took effect; `before` are the bytes that it replaced."""
        ...

    def completed(self, op: Op, outcome: str) -> None:
        """The caller was told: `ok`, `EIO` or `timeout`."""
        ...


class Hold:
    """Stops the first `count` I/Os that match before they take effect, until `release`."""

    def __init__(self, matches: Callable[[Op], bool], count: int) -> None:
        self.matches = matches
        self.count = count
        self.held: list[Op] = []
        self._reached = asyncio.Event()
        self._released = False

    async def reached(self) -> Op:
        """Return the first held I/O as soon as there is one."""
        await self._reached.wait()
        return self.held[0]

    def catch(self, op: Op) -> bool:
        if self._released or len(self.held) >= self.count or not self.matches(op):
            return False
        self.held.append(op)
        self._reached.set()
        return True

    def release(self) -> None:
        """Let the held I/O take effect now, and further ones pass."""
        self._released = True
        for op in self.held:
            op.disk.storage.proceed(op)


class SimStorage:
    """The shared image. `base`: contents at the start (not copied, not changed); zeros behind it up to `size`
    bytes.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        size: int,
        *,
        base: bytes = b"",
        rng: random.Random | None = None,
        block_size: int = 512,
        path: str = "/sim/disk",
    ) -> None:
        self.loop = loop
        self.size = size
        self.block_size = block_size
        self.path = path
        self.rng = rng or random.Random(0)
        self.watcher: DiskWatcher | None = None
        self.faults: dict[str, int] = {}
        """How often each kind of fault was injected."""
        self._base = base
        # What was written since the start: chunk number -> block offset -> block. Sparse, because a
        # campaign reads megabytes that nobody ever wrote, thousands of times.
        self._written: dict[int, dict[int, bytes]] = {}
        self._holds: list[Hold] = []
        self._views = 0
        self.ops = 0
        """I/Os submitted so far."""

    def attach(self, host: SimHost, weather: Weather | None = None, *, keeps_rule_12: bool = True) -> SimDisk:
        """A host's view, as if it had opened the device. One per host and boot (rule 12 is kept per view).

        `keeps_rule_12=False` is for hosts that model programs which overtake their own timed-out writes.
        """
        self._views += 1
        return SimDisk(self, host, weather or Weather(), keeps_rule_12, self._views)

    def hold(self, matches: Callable[[Op], bool], count: int = 1) -> Hold:
        """From now on stop the first `count` I/Os that match. Their timeouts run on."""
        hold = Hold(matches, count)
        self._holds.append(hold)
        return hold

    def peek(self, offset: int, length: int) -> bytes:
        """What is on the disk now, without any I/O."""
        step = self.block_size
        first = offset // step * step
        out = bytearray((offset + length + step - 1) // step * step - first)
        self._copy(memoryview(out), first, 0, len(out))
        return bytes(out[offset - first : offset - first + length])

    def poke(self, offset: int, data: bytes) -> None:
        """Change the disk at once, behind everybody's back. Whole blocks."""
        step = self.block_size
        for position in range(0, len(data), step):
            at = offset + position
            self._written.setdefault(at // _CHUNK, {})[at] = bytes(data[position : position + step])

    def count_fault(self, kind: str) -> None:
        self.faults[kind] = self.faults.get(kind, 0) + 1

    def _copy(self, view: memoryview, offset: int, start: int, end: int) -> None:
        """Bytes [offset+start, offset+end) of the disk to view[start:end). Whole blocks."""
        low, high = offset + start, offset + end
        from_base = self._base[low:high]
        view[start : start + len(from_base)] = from_base
        if len(from_base) < end - start:
            view[start + len(from_base) : end] = bytes(end - start - len(from_base))
        step = self.block_size
        for chunk in range(low // _CHUNK, (high - 1) // _CHUNK + 1):
            for at, block in self._written.get(chunk, {}).items():
                if low <= at < high:
                    view[at - offset : at - offset + step] = block

    # --- the life of an I/O

    def submit(self, op: Op) -> None:
        op.started = True
        if self.watcher is not None:
            self.watcher.submitted(op)
        for hold in self._holds:
            if hold.catch(op):
                return
        self.proceed(op)

    def proceed(self, op: Op) -> None:
        """Draw the op's fate: when it takes effect and when it completes."""
        rng, weather, now = self.rng, op.disk.weather, self.loop.time()
        if weather.failing_until > now or (weather.error_chance and rng.random() < weather.error_chance):
            self.count_fault("error")
            op.error = errno.EIO
            if op.kind == "W" and rng.random() < 0.5:
                op.lost = True
        latency = rng.uniform(*weather.fast_s)
        if weather.slow_chance and rng.random() < weather.slow_chance:
            self.count_fault("slow")
            latency = rng.uniform(*weather.slow_s)
        if weather.late_chance and rng.random() < weather.late_chance:
            self.count_fault("late")
            latency = rng.uniform(*weather.late_s)
            if rng.random() < weather.lost_chance:
                self.count_fault("lost")
                return
        if weather.stalled_until > now and not op.error:
            self.count_fault("stall")
            if weather.stalled_until == NEVER:
                op.disk.stuck.append(op)
                return
            now = weather.stalled_until
        done_at = now + latency
        if op.kind == "W":
            # The effect comes before the completion, by any part of the latency.
            self.loop.call_at(now + latency * rng.random(), self._land, op)
        elif op.length == self.block_size:
            self.loop.call_at(now + latency * rng.random(), self._sample, op, 0, op.length)
        else:
            for start, end in self._pieces(op, weather.torn_pieces):
                self.loop.call_at(now + latency * rng.random(), self._sample, op, start, end)
        self.loop.call_at(done_at, self._finish, op)

    def _pieces(self, op: Op, most: int) -> list[tuple[int, int]]:
        blocks = op.length // self.block_size
        cuts = {0, blocks}
        for _ in range(self.rng.randrange(most) if most > 1 else 0):
            # Most cuts among the first blocks: that is where leader, request and the hosts of a small cluster are.
            cuts.add(1 + int(self.rng.expovariate(0.15)) % (blocks - 1))
        edges = sorted(cuts)
        return [(a * self.block_size, b * self.block_size) for a, b in itertools.pairwise(edges)]

    def _land(self, op: Op) -> None:
        if op.lost or op.landed:
            return
        before = self.peek(op.offset, op.length) if self.watcher is not None else b""
        self.poke(op.offset, op.data)
        op.landed = True
        if self.watcher is not None:
            self.watcher.landed(op, before)

    def _sample(self, op: Op, start: int, end: int) -> None:
        target = op.target
        if isinstance(target, Buffer):
            self._copy(target.view, op.offset, start, end)
        elif target is not None:
            self._copy(memoryview(target), op.offset, start, end)

    def _finish(self, op: Op) -> None:
        """The kernel is done with it, whether or not the host notices now."""
        op.done = True
        op.disk.forget(op)
        if op.waiter is not None:
            op.disk.host.wake_at(self.loop.time(), _wake, op.waiter)

    def settle(self, op: Op, land_at: float | None) -> None:
        """The host is gone: the write lands at virtual time `land_at`, or never."""
        if land_at is None:
            op.lost = True
        else:
            op.lost = False
            self.loop.call_at(land_at, self._land, op)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class _PendingRead:
    """The rest of a single read that missed its deadline."""

    def __init__(self, op: Op) -> None:
        self._op = op

    async def wait(self, timeout_s: float) -> bytes:
        op = self._op
        await op.disk.wait(op, timeout_s)
        target = op.target
        assert target is not None
        return bytes(target.view[: op.length]) if isinstance(target, Buffer) else bytes(target)


class SimDisk:
    """One host's view of a `SimStorage`; a `holdfast.storage.disk.Disk`."""

    def __init__(
        self, storage: SimStorage, host: SimHost, weather: Weather, keeps_rule_12: bool, number: int
    ) -> None:
        self.number = number
        """Distinguishes the views of a storage, in the order of attaching."""
        self._keeps_rule_12 = keeps_rule_12
        self.storage = storage
        self.host = host
        self.weather = weather
        self.stuck: list[Op] = []
        """I/O that a disk stalled for ever swallowed; `thaw` lets it go on."""
        self._writes: list[Op] = []

    @property
    def path(self) -> str:
        return self.storage.path

    @property
    def block_size(self) -> int:
        return self.storage.block_size

    @property
    def is_block_device(self) -> bool:
        return False

    @property
    def outstanding_writes(self) -> int:
        """Writes the kernel still has: in flight, or given up by their caller and not completed."""
        return len(self._writes)

    def writes_outstanding(self) -> list[Op]:
        return list(self._writes)

    async def read(self, offset: int, length: int, timeout_s: float) -> bytes:
        target = bytearray(length)
        await self._run("R", offset, length, b"", target, timeout_s)
        return bytes(target)

    async def read_into(self, buffer: Buffer, offset: int, length: int, timeout_s: float) -> None:
        await self._run("R", offset, length, b"", buffer, timeout_s)

    async def write(
        self, offset: int, data: bytes | bytearray | memoryview, timeout_s: float, permit: Permit | None = None
    ) -> None:
        await self._run("W", offset, len(data), bytes(data), None, timeout_s, permit)

    async def settle(self, offset: int, length: int, timeout_s: float) -> None:
        await self._wait_for_older(offset, length, timeout_s)

    def crash(self, land_by: float) -> None:
        """The host is gone: each write in flight is lost, or lands at a random instant before `land_by`
        (virtual time).
        """
        storage = self.storage
        for op in self._writes:
            if op.landed or op.lost:
                continue
            storage.count_fault("in flight at crash")
            now = storage.loop.time()
            lands = storage.rng.random() < 0.6 and land_by > now
            storage.settle(op, storage.rng.uniform(now, land_by) if lands else None)
        self._writes.clear()

    def thaw(self) -> None:
        """End of a stall without end."""
        self.weather.stalled_until = 0.0
        stuck, self.stuck = self.stuck, []
        for op in stuck:
            self.storage.proceed(op)

    def forget(self, op: Op) -> None:
        """The kernel completed it."""
        if op.kind == "W":
            if op in self._writes:
                self._writes.remove(op)
            if op.freed is not None and not op.freed.done():
                self.host.wake_at(self.storage.loop.time(), _wake, op.freed)
        elif isinstance(op.target, Buffer):
            op.target.unpin()

    async def _run(
        self,
        kind: str,
        offset: int,
        length: int,
        data: bytes,
        target: Buffer | bytearray | None,
        timeout_s: float,
        permit: Permit | None = None,
    ) -> None:
        storage, host = self.storage, self.host
        if host.gone:
            raise asyncio.CancelledError
        operation = "read" if kind == "R" else "write"
        step = storage.block_size
        if offset % step or length % step or length <= 0 or offset < 0 or timeout_s <= 0:
            raise StorageError(errno.EINVAL, operation, self.path, offset, length)
        if offset + length > storage.size:
            raise StorageError(errno.EMSGSIZE, operation, self.path, offset, length)
        weather = self.weather
        if weather.submit_delay_chance and storage.rng.random() < weather.submit_delay_chance:
            storage.count_fault("late submission")
            await host.wait_until(storage.loop.time() + storage.rng.uniform(*weather.submit_delay_s))
        if storage.loop.time() < host.paused_until:
            await host.wait_until(host.paused_until)
        if kind == "W":
            if self._writes and self._keeps_rule_12:
                deadline = storage.loop.time() + timeout_s
                await self._wait_for_older(offset, length, timeout_s)
                timeout_s = max(deadline - storage.loop.time(), 0.0)
            if permit is not None:
                permit()
        storage.ops += 1
        op = Op(storage.ops, self, kind, offset, length, data, storage.loop.time(), target)
        if kind == "W":
            self._writes.append(op)
        elif isinstance(target, Buffer):
            target.pin()
        storage.submit(op)
        await self.wait(op, timeout_s)

    async def _wait_for_older(self, offset: int, length: int, timeout_s: float) -> None:
        """Rule 12: no second write to a sector while an older one has an unknown outcome."""
        loop = self.storage.loop
        deadline = loop.time() + timeout_s
        end = offset + length
        while older := next((w for w in self._writes if w.offset < end and offset < w.end), None):
            if older.freed is None or older.freed.done():
                older.freed = loop.create_future()
            freed: asyncio.Future[None] = loop.create_future()
            older.freed.add_done_callback(lambda _, freed=freed: _wake(freed))  # type: ignore[misc]
            timer = self.host.wake_at(deadline, _wake, freed)
            await freed
            timer.cancel()
            if self.host.gone:
                raise asyncio.CancelledError
            if loop.time() >= deadline and older in self._writes:
                self.storage.count_fault("blocked write")
                raise DeadlineError("write", self.path, offset, length, timeout_s, submitted=False)

    async def wait(self, op: Op, timeout_s: float) -> None:
        """Until `op` completes or misses its deadline."""
        loop, host = self.storage.loop, self.host
        if not op.done:
            op.waiter = loop.create_future()
            timer = host.wake_at(loop.time() + timeout_s, _wake, op.waiter)
            try:
                await op.waiter
            finally:
                timer.cancel()
                op.waiter = None
        if host.gone:
            raise asyncio.CancelledError
        operation = "read" if op.kind == "R" else "write"
        if not op.done:
            self.storage.count_fault("timeout")
            self._tell(op, "timeout")
            pending = _PendingRead(op) if op.kind == "R" else None
            raise DeadlineError(operation, self.path, op.offset, op.length, timeout_s, pending=pending)
        if op.error:
            self._tell(op, "EIO")
            raise StorageError(op.error, operation, self.path, op.offset, op.length)
        self._tell(op, "ok")

    def _tell(self, op: Op, outcome: str) -> None:
        if self.storage.watcher is not None:
            self.storage.watcher.completed(op, outcome)
