"""The two kinds of lockspace members behind one interface: our rules, and the original's."""

from __future__ import annotations

import random
from typing import Any, Protocol

from holdfast.lease.errors import Code, LeaseError, storage_code
from holdfast.lease.geometry import MIB
from holdfast.lease.hosts import Notice
from holdfast.lease.lockspace import Health, Lockspace
from holdfast.lease.records import REQ_GRACEFUL
from holdfast.lease.request import demands, read_request, write_request
from holdfast.lease.resource import AcquireOptions, Lease, Target, Unclear, acquire, convert, release, retract
from holdfast.lease.resume import end_leftover, find_held, finish_conversion
from holdfast.storage.errors import StorageError
from tests.sim.layout import SPACE
from tests.sim.machine import Machine
from tests.sim.original import OriginalLease, OriginalResource, OriginalSpace


class Member(Protocol):
    """One joined host id. All errors are LeaseErrors."""

    @property
    def generation(self) -> int: ...
    async def join(self) -> int:
        """Returns the expiry it registered."""
        ...

    async def keep_renewing(self) -> None: ...
    def is_failed(self) -> bool: ...
    def close(self) -> None:
        """No lease may be written any more."""
        ...

    async def settle(self) -> bool:
        """Whether no write is outstanding that forbids to let go; waits a while for it."""
        ...

    async def leave(self) -> None: ...
    async def acquire(self, area: int, name: str, shared: bool, nowait: bool) -> Any: ...
    async def release(self, area: int, name: str, lease: Any) -> None: ...
    async def convert(self, area: int, name: str, lease: Any, shared: bool) -> Any: ...
    def lver(self, lease: Any) -> int: ...
    def is_shared(self, lease: Any) -> bool: ...
    async def retract(self, error: LeaseError) -> None:
        """After a failed acquire. LeaseError: again, later."""
        ...

    async def request(self, area: int, name: str) -> None:
        """Ask the owner to give the lease up (spec 10.1)."""
        ...

    async def is_asked(self, area: int, lease: Any) -> bool:
        """Whether, since the last question, somebody asked the holder of this lease to give it up."""
        ...


class OurMember:
    """The real `holdfast.lease`."""

    def __init__(
        self, machine: Machine, host_id: int, host_name: str, io: int, num_hosts: int, rng: random.Random
    ) -> None:
        self.space = Lockspace(
            machine.disk,
            machine.clock,
            name=SPACE,
            host_id=host_id,
            host_name=host_name,
            io_timeout=io,
            fire_timeout=machine.fire,
            watch_limit=num_hosts,
            rng=rng,
            link=machine,
        )
        self._notices = 0
        self.space.on_notice = self._notice

    def _notice(self, notice: Notice) -> None:
        self._notices += 1

    @property
    def generation(self) -> int:
        return self.space.generation

    async def join(self) -> int:
        await self.space.join()
        return int(self.space.fail_at)

    async def resume(self, generation: int) -> None:
        """Go on with the host id that an earlier daemon of this boot has joined."""
        await self.space.resume(generation)

    async def find(self, area: int, name: str) -> Lease | None:
        """The lease as storage shows it after `resume`."""
        lease = await find_held(self.space, Target(self.space.disk, area * MIB, name))
        if lease is not None:
            await finish_conversion(lease)
        return lease

    async def end_leftover(self, area: int, name: str) -> None:
        """What an earlier daemon has left of a resource that nobody uses."""
        await end_leftover(self.space, Target(self.space.disk, area * MIB, name))

    async def keep_renewing(self) -> None:
        await self.space.keep_renewing()

    def is_failed(self) -> bool:
        return self.space.check() is Health.FAILED

    def close(self) -> None:
        self.space.close_leases()

    async def settle(self) -> bool:
        return await self.space.settle_contested(float(self.space.io_timeout))

    async def leave(self) -> None:
        await self.space.leave()

    async def acquire(self, area: int, name: str, shared: bool, nowait: bool) -> Lease:
        target = Target(self.space.disk, area * MIB, name)
        return await acquire(self.space, target, AcquireOptions(shared=shared, owner_nowait=nowait))

    async def release(self, area: int, name: str, lease: Lease) -> None:
        await release(lease)

    async def convert(self, area: int, name: str, lease: Lease, shared: bool) -> Lease:
        await convert(lease, shared=shared, owner_nowait=True)
        return lease

    def lver(self, lease: Lease) -> int:
        return lease.lver

    def is_shared(self, lease: Lease) -> bool:
        return lease.shared

    async def retract(self, error: LeaseError) -> None:
        if isinstance(error, Unclear):
            await retract(error)

    async def request(self, area: int, name: str) -> None:
        space = self.space
        owner = await write_request(
            space.disk,
            area * MIB,
            SPACE,
            name,
            0,
            REQ_GRACEFUL,
            next_lver=True,
            geometry=space.geometry,
            timeout_s=space.io_timeout,
            permit=space.permit_lease_write,
        )
        if owner:
            space.set_host_bit(owner)

    async def is_asked(self, area: int, lease: Lease) -> bool:
        if not self._notices:
            return False
        self._notices = 0
        space = self.space
        return demands(await read_request(space.disk, area * MIB, space.geometry, space.io_timeout), lease.lver)


class OriginalMember:
    """`tests.sim.original`."""

    def __init__(
        self, machine: Machine, host_id: int, host_name: str, io: int, num_hosts: int, rng: random.Random
    ) -> None:
        self.space = OriginalSpace(
            machine.disk, machine.clock, SPACE, host_id, host_name, io, machine.fire, num_hosts, machine, rng
        )
        self._resources: dict[str, OriginalResource] = {}

    @property
    def generation(self) -> int:
        return self.space.generation

    def _resource(self, area: int, name: str) -> OriginalResource:
        if name not in self._resources:
            self._resources[name] = OriginalResource(self.space, area * MIB, name)
        return self._resources[name]

    async def join(self) -> int:
        try:
            await self.space.join()
        except StorageError as error:
            raise LeaseError(storage_code(error)) from error
        return self.space.last_success + 8 * self.space.io

    async def keep_renewing(self) -> None:
        await self.space.keep_renewing()

    def is_failed(self) -> bool:
        return self.space.check_failed()

    def close(self) -> None:
        pass

    async def settle(self) -> bool:
        # The original waits for all its I/O when a lockspace's thread ends (spec 4, shutdown of a context).
        disk = self.space.disk
        try:
            await disk.settle(0, disk.storage.size, float(self.space.io))
        except StorageError:
            return False
        return True

    async def leave(self) -> None:
        try:
            await self.space.leave()
        except StorageError as error:
            raise LeaseError(storage_code(error)) from error

    async def acquire(self, area: int, name: str, shared: bool, nowait: bool) -> OriginalLease:
        try:
            return await self._resource(area, name).acquire(shared, nowait)
        except StorageError as error:
            raise LeaseError(storage_code(error)) from error

    async def release(self, area: int, name: str, lease: OriginalLease) -> None:
        try:
            await self._resource(area, name).release(lease)
        except StorageError as error:
            raise LeaseError(storage_code(error)) from error

    async def convert(self, area: int, name: str, lease: OriginalLease, shared: bool) -> OriginalLease:
        try:
            return await self._resource(area, name).convert(lease, shared)
        except StorageError as error:
            raise LeaseError(storage_code(error)) from error

    def lver(self, lease: OriginalLease) -> int:
        return lease.leader.lver

    def is_shared(self, lease: OriginalLease) -> bool:
        return lease.shared

    async def retract(self, error: LeaseError) -> None:
        pass

    async def request(self, area: int, name: str) -> None:
        pass

    async def is_asked(self, area: int, lease: OriginalLease) -> bool:
        return False


TIMEOUT = Code.AIO_TIMEOUT
