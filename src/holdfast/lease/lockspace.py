"""This host's membership in one lockspace: joining, renewing, watching the others, leaving.

Implements spec lease-disk sections 6 and 7. The chain of safety that lives here: a timestamp is taken
before its write is submitted (rule 1); deadlines count from it; the watchdog is extended only after the
write succeeded (rule 2); each renewal verifies the own record first (rule 3); once failed or sealed, no
lease write of this lockspace is submitted any more (rule 15). It must never decide anything about a
process: the daemon asks `check()` and acts.
"""

from __future__ import annotations

import enum
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from holdfast.clock import Clock
from holdfast.lease import timing
from holdfast.lease.errors import Code, LeaseError, storage_code
from holdfast.lease.geometry import Geometry, from_record
from holdfast.lease.hosts import HostTable, Notice
from holdfast.lease.inspect import Kind, detect_geometry
from holdfast.lease.known import KnownAreas
from holdfast.lease.notify import Outbox
from holdfast.lease.records import (
    BITMAP_OFFSET,
    LEADER_SIZE,
    Leader,
    decode_bitmap,
    encode_bitmap,
    encode_name,
    whole_sector,
)
from holdfast.lease.signal import Signal
from holdfast.lease.verify import verify_delta
from holdfast.storage.buffers import POOL
from holdfast.storage.disk import Disk, Permit
from holdfast.storage.errors import DeadlineError, PendingRead, StorageError

EINVAL = -22
ENOSPC = -28

_LAST_GENERATION = (1 << 64) - 1

HOST_NAME_MAX_BYTES = 47
"""It is written zero-terminated into 48 bytes (spec 1)."""

RENEWAL_HISTORY = 180
"""Renewals remembered for `renewal` queries (spec lease-wire 13.4)."""

CORRUPT = frozenset(
    (
        Code.RENEW_OWNER,
        Code.RENEW_DIFF,
        Code.LEADER_MAGIC,
        Code.LEADER_VERSION,
        Code.LEADER_SECTORSIZE,
        Code.LEADER_LOCKSPACE,
        Code.LEADER_CHECKSUM,
    )
)
"""Renewal results after which the lockspace fails at once, whatever its age (spec 7.5)."""


class Health(enum.Enum):
    """Verdict on our own lease of the host id."""

    OK = "ok"
    WARN = "warn"
    FAILED = "failed"


class WatchdogLink(Protocol):
    """What a lockspace needs of the watchdog daemon. Errors are LeaseErrors (WD_ERROR)."""

    @property
    def armed_until(self) -> float:
        """The last expiry that the watchdog daemon has been told, by our clock; infinity where there is none.

        The lockspace does not outlive it: beyond it nothing would end processes that nobody can kill.
        """
        ...

    async def open(self) -> None:
        """Before joining: the daemon must be there and hold the device."""
        ...

    async def register(self, timestamp: int, expiry: int) -> None:
        """After joining: the host is reset unless extended before `expiry` plus the fire timeout."""
        ...

    async def extend(self, timestamp: int, expiry: int) -> None:
        """After each successful renewal. Must not raise: a watchdog that is not extended fires by itself."""
        ...

    async def clear(self) -> None:
        """No process needs the lockspace any more."""
        ...


class NoWatchdog:
    """The null object: nothing resets this host. The daemon says loudly what that leaves unprotected."""

    armed_until = math.inf

    async def open(self) -> None:
        pass

    async def register(self, timestamp: int, expiry: int) -> None:
        pass

    async def extend(self, timestamp: int, expiry: int) -> None:
        pass

    async def clear(self) -> None:
        pass


@dataclass(slots=True)
class Renewal:
    """One successful renewal, and the failures that followed it (spec lease-wire 13.4)."""

    timestamp: int
    read_ms: int
    write_ms: int
    next_timeouts: int = 0
    next_errors: int = 0


class Lockspace:
    """One host id of one lockspace, held by this host.

    `watch_limit` bounds how many host sectors are read to watch the others (default: all).
    `trust_own_name` False forbids the shortcut of spec 6.3: a record that carries our own host name is then
    waited out like anybody else's, because a process of our previous incarnation may still run.
    """

    def __init__(
        self,
        disk: Disk,
        clock: Clock,
        *,
        name: str,
        host_id: int,
        host_name: str,
        offset: int = 0,
        io_timeout: int = timing.DEFAULT_IO_TIMEOUT_S,
        fire_timeout: int = timing.DEFAULT_FIRE_TIMEOUT_S,
        set_bitmap_s: int | None = None,
        read_extend_s: float | None = None,
        watch_limit: int | None = None,
        history_size: int = RENEWAL_HISTORY,
        trust_own_name: bool = True,
        rng: random.Random | None = None,
        link: WatchdogLink | None = None,
    ) -> None:
        if not name or host_id < 1 or not timing.MIN_IO_TIMEOUT_S <= io_timeout <= timing.MAX_IO_TIMEOUT_S:
            raise LeaseError(EINVAL, f"lockspace {name!r} host id {host_id} io timeout {io_timeout}")
        try:
            encode_name(name)
        except ValueError as error:
            raise LeaseError(EINVAL, str(error)) from None
        self.disk = disk
        self.clock = clock
        self.name = name
        self.host_id = host_id
        self.host_name = host_name.encode("utf-8", "surrogateescape")[:HOST_NAME_MAX_BYTES].decode(
            "utf-8", "surrogateescape"
        )
        self.offset = offset
        self.io_timeout = io_timeout
        self.fire_timeout = fire_timeout
        self.rng = rng or random.Random()
        self.link: WatchdogLink = link or NoWatchdog()
        self.geometry = Geometry(512, 1024 * 1024)
        self.generation = 0
        self.last_success = 0
        self.last_attempt = 0.0
        """When the latest renewal began."""
        self.corrupt = 0
        self.last_result = 0
        self.joined = False
        self.hosts = HostTable(host_id, io_timeout, fire_timeout, name)
        self.outbox = Outbox(clock, host_id, set_bitmap_s or timing.set_bitmap_for(io_timeout))
        self.changed = Signal()
        self.history: deque[Renewal] = deque(maxlen=history_size)
        self.joined_at = 0
        """Timestamp of the record with which we joined; 0 before."""
        self.renewals = 0
        """Successful ones."""
        self.on_notice: Callable[[Notice], None] | None = None
        self.on_renewal_error: Callable[[LeaseError], None] | None = None
        """Told of each failed renewal, so that somebody can log it."""
        self.on_renewal: Callable[[Renewal], None] | None = None
        """Told of each successful one."""
        self._watch_limit = watch_limit
        self._trust_own_name = trust_own_name
        self._read_extend_s = 0.5 if read_extend_s == 0 else read_extend_s or float(io_timeout)
        self.known = KnownAreas()
        self._fail_after = timing.fail_after(io_timeout)
        self._failed = False
        self._sealed = False
        self._aborted = Signal()
        self._stopped = Signal()
        self._written = b""
        self._write_outcome_known = False
        self._pending_read: PendingRead | None = None
        self.contested_writes: dict[tuple[Disk, int], int] = {}
        """Sectors (disk, offset) that other hosts write too, with a write of ours that may not have ended, and
        their length: leaders, and blocks of dead shared holders.
        """

    # -- facts ---------------------------------------------------------------------------------------------

    @property
    def fail_at(self) -> float:
        """Local instant from which on this host must not use its leases: last success + 8·io.

        Earlier if the watchdog daemon could not be told of that success: then its deadline is ours.
        """
        return min(self.last_success + self._fail_after, self.link.armed_until)

    @property
    def failed(self) -> bool:
        """Sticky; see `check`."""
        return self._failed

    @property
    def sealed(self) -> bool:
        """No lease of this lockspace may be written any more."""
        return self._sealed

    def check(self) -> Health:
        """Our standing now (spec 7.5). FAILED is sticky and seals the lockspace, even if renewals come back."""
        now = self.clock.now()
        if self._failed or self.corrupt or now >= self.fail_at:
            self.fail()
            return Health.FAILED
        if now >= self.last_success + timing.warn_after(self.io_timeout):
            return Health.WARN
        return Health.OK

    def fail(self) -> None:
        """Declare the lockspace lost: rule 15."""
        self._failed = True
        self.seal()

    def seal(self) -> None:
        """From now on no lease write is submitted: the lockspace failed, or is being removed."""
        if not self._sealed:
            self._sealed = True
            self.changed.pulse()

    def close_leases(self) -> None:
        """Removal began; its users are being killed and their leases end with the host id (rule 16)."""
        self.seal()

    def permit_lease_write(self) -> None:
        """Rule 15, asked right before each leader, host block, request or LVB write is submitted."""
        # Asked five times per acquire: only the facts that forbid it, no verdict.
        overdue = self.clock.now() >= self.fail_at
        if overdue or self._sealed or self.corrupt or not self.joined:
            raise LeaseError(ENOSPC, f"lockspace {self.name}: lost or being removed, nothing is written for it")

    def require_usable(self) -> None:
        """Raise -28 unless leases may be acquired."""
        self.permit_lease_write()

    # -- joining -------------------------------------------------------------------------------------------

    async def join(self) -> None:
        """Own the host id (spec 6.2). LeaseError: HOSTID_BUSY, ERROR after `abort`, storage codes."""
        # The first record is another host's: damage to it must not keep us out, so only its sizes are used.
        self.geometry = await detect_geometry(self.disk, self.offset, float(self.io_timeout), Kind.LOCKSPACE)
        if self.host_id > self.geometry.max_hosts:
            raise LeaseError(
                Code.ADDLS_INVALID_HOSTID,
                f"lockspace {self.name}: host id {self.host_id}, at most {self.geometry.max_hosts} fit on disk",
            )
        await self.link.open()
        raw, record = await self._read_own()
        if from_record(record.sector_size, record.flags) != self.geometry:
            # The sizes came from an unverified record: with wrong ones "our" sector is somebody else's.
            raise LeaseError(
                Code.ADDLS_SIZES, f"lockspace {self.name}: the first and our record disagree about sizes"
            )
        other_io = record.io_timeout or self.io_timeout
        if record.timestamp and not (self._trust_own_name and record.resource_name == self.host_name):
            # Rule 4: no shortcut but these two. Counting starts after the read completed.
            await self._pause(timing.host_dead_after(other_io, self.fire_timeout) + timing.OBSERVER_MARGIN_S)
            again, record = await self._read_own()
            if again != raw and record.timestamp:
                raise LeaseError(
                    Code.HOSTID_BUSY,
                    f"lockspace {self.name}: host id {self.host_id} is used by {record.resource_name!r}",
                )
        if record.owner_generation == _LAST_GENERATION:
            raise LeaseError(
                Code.LEADER_CHECKSUM,
                f"lockspace {self.name}: generation of host id {self.host_id} has no successor",
            )
        # Rule 1: the clock before the write, never 0 (0 means free).
        timestamp = self._timestamp()
        written = record._replace(
            timestamp=timestamp,
            io_timeout=self.io_timeout,
            owner_id=self.host_id,
            owner_generation=record.owner_generation + 1,
            resource_name=self.host_name,
        ).encode()
        await self._write_own(written, bytes(0), float(self.io_timeout))
        await self._pause(timing.join_check_delay(other_io))
        raw, record = await self._read_own()
        if raw != written:
            raise LeaseError(
                Code.HOSTID_BUSY,
                f"lockspace {self.name}: host id {self.host_id} was taken by {record.resource_name!r} meanwhile",
            )
        if self.clock.now() - timestamp >= timing.warn_after(self.io_timeout):
            # The delay was that of the previous owner's io_timeout and may be longer than our own lease lasts.
            # What was just read is ours: this is a renewal (rule 3), before anybody relies on the old timestamp.
            timestamp = self._timestamp()
            written = record._replace(timestamp=timestamp).encode()
            await self._write_own(written, bytes(0), float(self.io_timeout))
        self._written = written
        self._write_outcome_known = True
        self.generation = record.owner_generation
        self.last_success = timestamp
        self.joined = True
        self.joined_at = timestamp
        try:
            await self.link.register(timestamp, timestamp + self._fail_after)
        except LeaseError:
            await self.leave()
            raise
        self.history.append(Renewal(timestamp, 0, 0))

    async def resume(self, generation: int) -> None:
        """Go on with a host id that an earlier daemon of this boot joined, instead of `join` (spec 6.3).

        `host_name` must be the name it joined under. The record must still be ours in every respect, and the
        renewal that this does must be proven before the old timestamp's 8·io are over, less a margin: until then
        that daemon would have gone on as well, and nobody else can have seen any difference. No I/O of that daemon
        may be outstanding. LeaseError RENEW_OWNER: the host id, or its time, is over. Others: it cannot be told
        yet; a new `Lockspace` may try again.
        """
        self.geometry = await detect_geometry(self.disk, self.offset, float(self.io_timeout), Kind.LOCKSPACE)
        if self.host_id > self.geometry.max_hosts:
            raise LeaseError(Code.RENEW_OWNER, f"lockspace {self.name}: host id {self.host_id} is not on disk")
        await self.link.open()
        sector = await self._read(self._own_offset, self.geometry.sector_size)
        record = self._located(verify_delta, sector, self.name)
        self.generation = generation
        self._verify_still_ours(bytes(sector[:LEADER_SIZE]), record)
        if record.io_timeout != self.io_timeout or not record.timestamp or record.timestamp > self.clock.now():
            raise LeaseError(
                Code.RENEW_OWNER,
                f"lockspace {self.name}: timestamp {record.timestamp}, io_timeout {record.io_timeout} on disk",
            )
        deadline = record.timestamp + self._fail_after - timing.RESUME_MARGIN_S
        self._require_in_time(record.timestamp, deadline)
        self.outbox.restore(
            decode_bitmap(sector), record.write_id, record.write_generation, record.write_timestamp
        )
        mail = self.outbox.next_renewal()
        timestamp = self._timestamp()
        written = record._replace(timestamp=timestamp).encode()
        left_s = max(0.01, min(float(self.io_timeout), deadline - self.clock.now()))
        await self._write_own(
            written,
            encode_bitmap(mail.host_ids),
            left_s,
            lambda: self._require_in_time(record.timestamp, deadline),
        )
        # Rule 2, and the margin: a write that arrived late proves nothing.
        self._require_in_time(record.timestamp, deadline)
        await self.link.register(timestamp, timestamp + self._fail_after)
        self._written = written
        self._write_outcome_known = True
        self.last_success = timestamp
        self.joined = True
        self.last_result = 1
        self.history.append(Renewal(timestamp, 0, 0))

    def _require_in_time(self, timestamp: int, deadline: float) -> None:
        now = self.clock.now()
        if now >= deadline:
            raise LeaseError(
                Code.RENEW_OWNER,
                f"lockspace {self.name}: renewed at {timestamp}, {now - timestamp:.1f} s ago: too long to go on",
            )

    def abort(self) -> None:
        """A join in progress ends with ERROR. What it wrote stays: it was not yet proven to be ours."""
        self._aborted.set()

    async def _pause(self, seconds: float) -> None:
        until = self.clock.now() + seconds
        while (left := until - self.clock.now()) > 0:
            if await self._aborted.wait(self.clock, left):
                raise LeaseError(Code.ERROR, f"lockspace {self.name}: joining was aborted")

    # -- renewing ------------------------------------------------------------------------------------------

    async def keep_renewing(self) -> None:
        """Renew until `stop_renewing`. Failures are recorded and retried, never raised (spec 6.4)."""
        retry = False
        while not self._stopped.is_set:
            if retry:
                pause = timing.RENEWAL_RETRY_S
            elif not self.renewals:
                pause = 0.0  # The first one follows the join at once, so that other hosts become known.
            else:
                pause = self.last_success + timing.renewal_interval(self.io_timeout) - self.clock.now()
            if await self._stopped.wait(self.clock, pause):
                return
            if not retry and self.renewals and self.clock.now() < self.next_renewal:
                continue  # The timer was a hair early.
            try:
                await self.renew()
                retry = False
            except LeaseError as error:
                retry = True
                if self.on_renewal_error is not None:
                    self.on_renewal_error(error)

    @property
    def next_renewal(self) -> float:
        return self.last_success + timing.renewal_interval(self.io_timeout)

    def stop_renewing(self) -> None:
        self._stopped.set()

    async def renew(self) -> None:
        """One renewal: verify the own record, write it, then look at the others. LeaseError when not renewed."""
        started = self.last_attempt = self.clock.now()
        try:
            raw, record = await self._read_own_for_renewal()
            self._verify_still_ours(raw, record)
            read_at = self.clock.now()
            if read_at - self.last_success >= timing.host_dead_after(self.io_timeout, self.fire_timeout):
                # Others may own the id by now; without a watchdog nothing has stopped us until here.
                raise LeaseError(
                    Code.RENEW_OWNER, f"lockspace {self.name}: not renewed for so long that the id may be taken"
                )
            timestamp = self._timestamp()
            mail = self.outbox.next_renewal()
            written = record._replace(
                timestamp=timestamp,
                io_timeout=self.io_timeout,
                write_id=mail.event_generation,
                write_generation=mail.event,
                write_timestamp=mail.event_data,
            ).encode()
            timeout = timing.renewal_write_timeout(self.io_timeout, self.fire_timeout)
            self._write_outcome_known = False
            await self._write_own(written, encode_bitmap(mail.host_ids), float(timeout))
        except LeaseError as error:
            self._record_failure(error.code)
            raise
        self._written = written
        self._write_outcome_known = True
        self.last_result = 1
        if self.joined and not self.corrupt:
            # Rule 2: only a completed write extends anything; the deadline counts from before it (rule 1).
            # After a failure by age this gives the processes being killed their full grace time again.
            self.last_success = timestamp
            await self.link.extend(timestamp, timestamp + self._fail_after)
        now = self.clock.now()
        renewal = Renewal(timestamp, int((read_at - started) * 1000), int((now - read_at) * 1000))
        self.renewals += 1
        self.history.append(renewal)
        if self.on_renewal is not None:
            self.on_renewal(renewal)
        await self._watch_others()

    async def _read_own_for_renewal(self) -> tuple[bytes, Leader]:
        """Goes on waiting for a read that missed its deadline before submitting another one (spec 4)."""
        pending, self._pending_read = self._pending_read, None
        try:
            if pending is not None:
                try:
                    sector = await pending.wait(self._read_extend_s)
                except DeadlineError:
                    sector = await self._raw_read(self._own_offset, self.geometry.sector_size)
            else:
                sector = await self._raw_read(self._own_offset, self.geometry.sector_size)
        except DeadlineError as error:
            self._pending_read = error.pending
            raise LeaseError(storage_code(error), f"lockspace {self.name}: {error}") from error
        except StorageError as error:
            raise LeaseError(storage_code(error), f"lockspace {self.name}: {error}") from error
        return bytes(sector[:LEADER_SIZE]), self._located(verify_delta, sector, self.name)

    def _verify_still_ours(self, raw: bytes, record: Leader) -> None:
        """Rule 3."""
        if (
            record.owner_id != self.host_id
            or record.owner_generation != self.generation
            or record.resource_name != self.host_name
        ):
            raise LeaseError(
                Code.RENEW_OWNER,
                f"lockspace {self.name}: host id {self.host_id} belongs to {record.resource_name!r} "
                f"generation {record.owner_generation}",
            )
        if self._write_outcome_known and raw != self._written:
            raise LeaseError(Code.RENEW_DIFF, f"lockspace {self.name}: our record is not what we wrote")

    def _record_failure(self, code: int) -> None:
        self.last_result = code
        if self.history:
            if code == Code.AIO_TIMEOUT:
                self.history[-1].next_timeouts += 1
            else:
                self.history[-1].next_errors += 1
        if code in CORRUPT and not self.corrupt:
            self.corrupt = code
            self.fail()

    async def _watch_others(self) -> None:
        """Read everybody's record, outside of the path that our deadline depends on (spec 14)."""
        size = self.geometry.sector_size
        count = min(self._watch_limit or self.geometry.max_hosts, self.geometry.max_hosts)
        block = self.disk.block_size
        length = (count * size + block - 1) // block * block
        with POOL.borrow(length) as buffer:
            try:
                await self.disk.read_into(buffer, self.offset, length, float(self.io_timeout))
            except StorageError:
                return  # Nothing learned; the next renewal tells whether the storage is really in trouble.
            notices = self.hosts.evaluate(buffer, self.geometry, count, self.clock.now())
        if self.on_notice is not None:
            for notice in notices:
                self.on_notice(notice)
        self.changed.pulse()

    # -- writes that may still arrive --------------------------------------------------------------------------

    async def settle_contested(self, timeout_s: float) -> bool:
        """Whether every write of ours to a sector that others write too has ended; waits for one that has not.

        While one is under way the watchdog must not be cleared and the host id not be freed: arriving after others
        have taken the lease over, it would put the leader back, or erase what another host wrote since. A reset
        ends it in time (spec 13, remaining assumptions).
        """
        for (disk, offset), length in list(self.contested_writes.items()):
            try:
                await disk.settle(offset, length, timeout_s)
            except StorageError:
                return False
            self.contested_writes.pop((disk, offset), None)
        return True

    # -- leaving -------------------------------------------------------------------------------------------

    async def leave(self) -> bool:
        """Free the host id (spec 6.5). False when it may not be freed: others then have to wait us out.

        The caller has made sure that no process uses the lockspace any more (rule 16) and that renewing ended.
        """
        self.seal()
        if not await self.settle_contested(float(self.io_timeout)):
            return False
        renewed = self.joined and self._write_outcome_known and self.last_result >= 0
        if not renewed or self.corrupt:
            return False
        written = verify_delta(self._written)
        if self.clock.now() - written.timestamp >= timing.fail_after(self.io_timeout):
            return False  # A blind write could free the record of a host that has taken the id over.
        self.joined = False
        await self._write_own(written._replace(timestamp=0).encode(), bytes(0), float(self.io_timeout))
        return True

    # -- events to others (spec 7.4) -----------------------------------------------------------------------

    def set_host_bit(self, host_id: int) -> None:
        """Ask that host to look at request records; goes out with the next renewals."""
        self.outbox.set_host_bit(host_id)

    # -- sectors -------------------------------------------------------------------------------------------

    @property
    def _own_offset(self) -> int:
        return self.delta_offset(self.host_id)

    def delta_offset(self, host_id: int) -> int:
        """Where on the disk that host's record lies."""
        return self.offset + self.geometry.delta_offset(host_id)

    async def read_delta(self, host_id: int) -> tuple[bytes, Leader]:
        """Verified read of a host's record: its 200 bytes, and decoded."""
        sector = await self._read(self.delta_offset(host_id), self.geometry.sector_size)
        return sector[:LEADER_SIZE], self._located(verify_delta, sector, self.name)

    async def _read_own(self) -> tuple[bytes, Leader]:
        return await self.read_delta(self.host_id)

    def _located(self, verify: Callable[[bytes, str | None], Leader], sector: bytes, name: str | None) -> Leader:
        try:
            return verify(sector, name)
        except LeaseError as error:
            raise LeaseError(error.code, f"lockspace {self.name} on {self.disk.path}: {error.detail}") from None

    async def _raw_read(self, offset: int, length: int) -> bytes:
        return await self.disk.read(offset, length, float(self.io_timeout))

    async def _read(self, offset: int, length: int) -> bytes:
        try:
            return await self._raw_read(offset, length)
        except StorageError as error:
            raise LeaseError(storage_code(error), f"lockspace {self.name}: {error}") from error

    async def _write_own(
        self, record: bytes, bitmap: bytes, timeout_s: float, permit: Permit | None = None
    ) -> None:
        sector = whole_sector(record.ljust(BITMAP_OFFSET, b"\0") + bitmap, self.geometry.sector_size)
        try:
            await self.disk.write(self._own_offset, sector, timeout_s, permit)
        except StorageError as error:
            raise LeaseError(storage_code(error), f"lockspace {self.name}: {error}") from error

    def _timestamp(self) -> int:
        return max(1, int(self.clock.now()))
