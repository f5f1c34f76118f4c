"""The resource index on the socket: thin over `lease.rindex` (spec lease-wire section 8).

The entry is sent behind the header even when the result is an error: that is what clients expect.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from holdfast.lease import rindex
from holdfast.lease.errors import Code, LeaseError
from holdfast.lease.geometry import from_api_flags, from_api_flags_for_reading
from holdfast.lease.resource import Lease, Unclear
from holdfast.leased import wire
from holdfast.leased.journal import FLAG_INTERNAL, RecordedLease
from holdfast.leased.lease_commands import give_back_later
from holdfast.leased.spaces import Space
from holdfast.leased.storage_commands import opened
from holdfast.leased.wire import NAME_SIZE, Rentry, Rindex
from holdfast.storage import Device

if TYPE_CHECKING:
    from holdfast.leased.core import LeaseDaemon
    from holdfast.leased.requests import Call

ENOENT: Final = -2
EBUSY: Final = -16
EINVAL: Final = -22
ENOSPC: Final = -28


class _Different(LeaseError):
    """Another name than the one asked for lies at an offset; the reply says which."""

    def __init__(self, found: Rentry, name: str) -> None:
        super().__init__(Code.RINDEX_DIFF, f"{found.name or 'nothing'!r} lies at {found.offset}, not {name!r}")
        self.found = found


def _rindex(call: Call) -> Rindex:
    assert call.payload.rindex is not None
    return call.payload.rindex


def _rentry(call: Call) -> Rentry:
    assert call.payload.rentry is not None
    return call.payload.rentry


@asynccontextmanager
async def _in_space(daemon: LeaseDaemon, wanted: Rindex) -> AsyncIterator[tuple[Space, Device]]:
    """The lockspace and the index's storage, for operations that take the internal lease; one at a time.

    As in the original, storage that cannot be opened is reported before a lockspace that is not there.
    """
    async with opened(daemon, wanted.disk) as device:
        space = daemon.spaces.active(wanted.lockspace_name)
        if space is None:
            raise LeaseError(ENOENT, f"lockspace {wanted.lockspace_name} is not there")
        if not space.usable:
            raise LeaseError(ENOSPC, f"lockspace {wanted.lockspace_name} is failing")
        if space.rindex_busy:
            raise LeaseError(EBUSY, f"lockspace {wanted.lockspace_name}: another index operation is running")
        space.rindex_busy = True
        try:
            with space.operation():
                yield space, device
        finally:
            space.rindex_busy = False


@asynccontextmanager
async def _in_locked_space(daemon: LeaseDaemon, wanted: Rindex) -> AsyncIterator[tuple[Space, Device]]:
    """The same for operations that take the internal lease, which is recorded while it may be ours.

    If this daemon is killed meanwhile, its successor has to give it back: nobody else could.
    """
    async with _in_space(daemon, wanted) as (space, device):
        key = (space.name, f"{rindex.INTERNAL_LEASE}/{wanted.disk.offset}"[:NAME_SIZE])
        recorded = RecordedLease(*key, wanted.disk.path, wanted.disk.offset, FLAG_INTERNAL, leaving=True)
        daemon.record.internal(recorded)
        daemon.internal_leases[key] = recorded

        def freed() -> None:
            if key not in space.internal_leftovers:
                daemon.internal_leases.pop(key, None)
                daemon.record.internal_freed(recorded)

        try:
            yield space, device
        except asyncio.CancelledError:
            raise  # The daemon ends, perhaps with the lease: a successor gives it back.
        except BaseException:
            freed()
            raise
        freed()


def _leftover(daemon: LeaseDaemon, space: Space) -> Callable[[Lease | Unclear], Awaitable[None]]:
    async def take(what: Lease | Unclear) -> None:
        # It stays on record for as long as the lockspace lives: giving back what is free already does no harm.
        space.internal_leftovers.update(key for key in daemon.internal_leases if key[0] == space.name)
        give_back_later(daemon, space, what)

    return take


async def _answer_with_entry(call: Call, work: Awaitable[Rentry]) -> bytes:
    """The reply of the commands whose entry always follows."""
    try:
        entry, result = await work, 0
    except _Different as error:
        entry, result = error.found, error.code
    except LeaseError as error:
        entry, result = Rentry(), error.code
    return wire.encode_reply(call.header, result, 0, entry.encode())


async def format_rindex(daemon: LeaseDaemon, call: Call) -> bytes:
    """Write an empty index with its internal lease; no lockspace is needed (spec 8)."""
    wanted = _rindex(call)
    async with daemon.whole_areas, opened(daemon, wanted.disk) as device:
        await rindex.format_index(
            device,
            wanted.disk.offset,
            wanted.lockspace_name,
            from_api_flags(wanted.flags),
            wanted.max_resources,
            float(daemon.options.write_init_io_timeout_s),
        )
    return wire.encode_reply(call.header)


async def rebuild_rindex(daemon: LeaseDaemon, call: Call) -> bytes:
    """Write the index anew from the resources in its slots, under the internal lease (spec 8)."""
    wanted = _rindex(call)
    if call.header.cmd_flags & wire.RINDEX_NO_LOCKSPACE:
        async with opened(daemon, wanted.disk) as device:
            await rindex.rebuild_unlocked(
                device, wanted.disk.offset, wanted.lockspace_name, from_api_flags(wanted.flags)
            )
    else:
        async with _in_locked_space(daemon, wanted) as (space, device):
            await rindex.rebuild(space.membership, device, wanted.disk.offset, leftover=_leftover(daemon, space))
    return wire.encode_reply(call.header)


async def lookup_rindex(daemon: LeaseDaemon, call: Call) -> bytes:
    """Name to offset, offset to name, or the first free offset; -278 comes with what lies at the offset."""

    async def work() -> Rentry:
        wanted, entry = _rindex(call), _rentry(call)
        async with _with_or_without_space(daemon, call) as device:
            place = await rindex.lookup(
                device,
                wanted.disk.offset,
                wanted.lockspace_name,
                "" if entry.offset else entry.name,
                entry.offset,
                from_api_flags_for_reading(wanted.flags),
            )
        found = Rentry(place.name, place.offset)
        if entry.offset and entry.name not in ("", found.name):
            raise _Different(found, entry.name)
        return found

    return await _answer_with_entry(call, work())


@asynccontextmanager
async def _with_or_without_space(daemon: LeaseDaemon, call: Call) -> AsyncIterator[Device]:
    """For operations without the internal lease: NO_LOCKSPACE skips the requirement."""
    wanted = _rindex(call)
    if call.header.cmd_flags & wire.RINDEX_NO_LOCKSPACE:
        async with opened(daemon, wanted.disk) as device:
            yield device
    else:
        async with _in_space(daemon, wanted) as (_, device):
            yield device


async def update_rindex(daemon: LeaseDaemon, call: Call) -> bytes:
    """ADD or REM one entry; no lease is touched (spec 8). -22 when a part of it is missing."""

    async def work() -> Rentry:
        wanted, entry, flags = _rindex(call), _rentry(call), call.header.cmd_flags
        removes = bool(flags & wire.RINDEX_REM)
        adds = bool(flags & wire.RINDEX_ADD) and not removes
        async with _with_or_without_space(daemon, call) as device:
            if not entry.offset or (adds and not entry.name) or not (adds or removes):
                raise LeaseError(EINVAL, "update needs ADD with name and offset, or REM with an offset")
            await rindex.set_entry(
                device,
                wanted.disk.offset,
                wanted.lockspace_name,
                entry.name if adds else "",
                entry.offset,
                from_api_flags(wanted.flags),
            )
        return Rentry(entry.name, entry.offset) if adds else Rentry()

    return await _answer_with_entry(call, work())


async def create_resource(daemon: LeaseDaemon, call: Call) -> bytes:
    """A name that exists is refused with -17, unlike the original does: two hosts could each own "it"."""

    async def work() -> Rentry:
        wanted, entry = _rindex(call), _rentry(call)
        async with _in_locked_space(daemon, wanted) as (space, device):
            offset = await rindex.create(
                space.membership,
                device,
                wanted.disk.offset,
                entry.name,
                num_hosts=call.header.data2,
                leftover=_leftover(daemon, space),
            )
        return Rentry("", offset)

    return await _answer_with_entry(call, work())


async def delete_resource(daemon: LeaseDaemon, call: Call) -> bytes:
    """Clear the entry of a name, then its lease, under the internal lease (spec 8). -2 for unknown names."""

    async def work() -> Rentry:
        wanted, entry = _rindex(call), _rentry(call)
        async with _in_locked_space(daemon, wanted) as (space, device):
            if not entry.name:
                raise LeaseError(ENOENT, "no name given")
            await rindex.delete(
                space.membership,
                device,
                wanted.disk.offset,
                entry.name,
                entry.offset,
                leftover=_leftover(daemon, space),
            )
        return Rentry()

    return await _answer_with_entry(call, work())
