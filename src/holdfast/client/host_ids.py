"""Which host ids of a lockspace are in use, and which one to take (spec lease-disk 6.2).

Before a host has joined, no daemon can tell: the records are read from storage, and believed by the rules of
`lease.verify` only. A choice made here is a suggestion: whether the id is really ours is decided by the join.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from holdfast.lease.errors import LeaseError, storage_code
from holdfast.lease.geometry import from_record
from holdfast.lease.records import Leader
from holdfast.storage.errors import StorageError

READ_TIMEOUT_S = 10.0
HEAD_BYTES = 4096


class HostRecord(NamedTuple):
    """A host id that is or was in use. `timestamp` 0: it left cleanly, the id is free."""

    host_id: int
    name: str
    generation: int
    timestamp: int
    io_timeout: int


class Membership(NamedTuple):
    """What is on storage: the lockspace's shape and every id that was ever used."""

    space: str
    max_hosts: int
    align_size: int
    io_timeout: int
    """That of the first record that was never used; of the first record otherwise."""
    records: tuple[HostRecord, ...]
    damaged: frozenset[int]
    """Ids whose record cannot be believed: never free."""

    def record(self, host_id: int) -> HostRecord | None:
        """Of an id that was ever used."""
        return next((record for record in self.records if record.host_id == host_id), None)


async def read_membership(path: str, offset: int, space: str | None = None) -> Membership:
    """Read the lockspace area at `path`, `offset`. LeaseError as the first record says, -202 or -errno for I/O."""
    # Storage engines are loaded by who reads storage, not by every user of the client.
    from holdfast.lease.verify import verify_delta
    from holdfast.storage import DeviceRegistry

    where = f"lockspace at {path}:{offset}"
    # Not the shared registry: a descriptor that lingers would be closed when the storage hangs, perhaps, and the
    # kernel would hold this process at its end, which then is the runner of a command that lost its lease.
    registry = DeviceRegistry(linger_s=0)
    try:
        disk = await registry.open(path, READ_TIMEOUT_S)
        try:
            head = await disk.read(offset, HEAD_BYTES, READ_TIMEOUT_S)
            first = verify_delta(head, space)
            geometry = from_record(first.sector_size, first.flags)
            area = memoryview(await disk.read(offset, geometry.align_size, READ_TIMEOUT_S))
        finally:
            registry.release(disk)
    except StorageError as error:
        raise LeaseError(storage_code(error), where) from error
    except LeaseError as error:
        raise LeaseError(error.code, f"{where}: {error.detail}") from error
    finally:
        registry.close()
    size = geometry.sector_size
    leaders: list[tuple[int, Leader]] = []
    damaged = set()
    for host_id in range(1, geometry.max_hosts + 1):
        at = geometry.delta_offset(host_id)
        try:
            leaders.append((host_id, verify_delta(area[at : at + size], first.space_name)))
        except LeaseError:
            damaged.add(host_id)
    return Membership(
        first.space_name,
        geometry.max_hosts,
        geometry.align_size,
        next((leader.io_timeout for _, leader in leaders if not leader.owner_generation), first.io_timeout),
        tuple(_records(leaders)),
        frozenset(damaged),
    )


def _records(leaders: Iterable[tuple[int, Leader]]) -> Iterable[HostRecord]:
    for host_id, leader in leaders:
        if leader.owner_generation or leader.timestamp:
            yield HostRecord(
                host_id, leader.resource_name, leader.owner_generation, leader.timestamp, leader.io_timeout
            )


def choose_host_id(membership: Membership, host_name: str, refused: Collection[int] = ()) -> int | None:
    """The id that carried our name, else the lowest free one; None when all are taken.

    `refused` are ids that a join has found to be busy. An id that carried our name and has not left cleanly is
    taken at once by the join (spec 6.3): the daemon proves first that nothing of its past life still runs.
    """
    taken = {record.host_id for record in membership.records if record.timestamp} | membership.damaged
    for record in membership.records:
        if record.name == host_name and record.host_id not in refused and record.host_id not in membership.damaged:
            return record.host_id
    for host_id in range(1, membership.max_hosts + 1):
        if host_id not in taken and host_id not in refused:
            return host_id
    return None
