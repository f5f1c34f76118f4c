"""Finding out who holds a lease: from a daemon that has watched the hosts, or from storage alone.

Reads only. Without a daemon nobody has watched: `from_storage` can be given time to do so itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from holdfast.client.addresses import IndexAddress, LeaseAddress
from holdfast.client.daemon import Daemon
from holdfast.client.direct import READ_TIMEOUT_S, opened
from holdfast.client.errors import ClientError, DaemonUnreachable
from holdfast.client.holders import Holder, Holders, HostView, Life, Process, life_after_silence
from holdfast.client.space import find_place
from holdfast.client.status import HostDetail, SpaceStatus, Status
from holdfast.lease import timing
from holdfast.lease.errors import LeaseError
from holdfast.leased import wire

if TYPE_CHECKING:
    from holdfast.storage.disk import Disk

LOOK_EVERY_S = 0.5
"""How often a watched record is read: one sector of each holder."""


async def from_daemon(daemon: Daemon, lease: LeaseAddress) -> Holders:
    """Holders as storage names them, hosts as the daemon has watched them, processes as it serves them.

    A lockspace that is not joined here leaves the hosts unknown; the lease must then be given with its place.
    """
    place = await find_place(daemon, lease)
    resource, owners = await daemon.owners(place)
    lives, details = await _sightings(daemon, lease.space)
    # Asked last: what was seen before counts as a little older, and the takeover as a little earlier, than it is.
    status = await daemon.status()
    space = status.space(lease.space)
    views = _views(lives, details, status, space)
    local = [held for held in status.leases if (held.space, held.name) == (lease.space, lease.resource)]
    names = {client.pid: client.name for client in status.clients}
    holders = []
    for owner in owners:
        own = space is not None and owner.host_id == space.host_id and owner.generation == space.generation
        processes = tuple(Process(held.pid, names.get(held.pid, "")) for held in local if own and held.pid > 0)
        host = views.get(owner.host_id, HostView(owner.host_id))
        holders.append(Holder(host, owner.generation, owner.timestamp == 0, owner.timestamp, own, processes))
    disk = place.disks[0]
    fire = status.fire_timeout or timing.DEFAULT_FIRE_TIMEOUT_S
    shared = any(holder.shared for holder in holders)
    return Holders(
        lease.space, lease.resource, disk.path, disk.offset, resource.lver, shared, tuple(holders), fire
    )


async def _sightings(daemon: Daemon, name: str) -> tuple[dict[int, str], list[HostDetail]]:
    """Status words by host id, and details; nothing when the daemon has not joined or not looked yet."""
    try:
        return {host.host_id: host.status for host in await daemon.hosts(name)}, await daemon.host_details(name)
    except DaemonUnreachable:
        raise
    except ClientError:
        return {}, []


def _views(
    lives: dict[int, str], details: list[HostDetail], status: Status, space: SpaceStatus | None
) -> dict[int, HostView]:
    """Every host that the daemon has seen."""
    now = status.monotime
    if space is None or now is None:
        return {}
    interval = float(timing.renewal_interval(space.io_timeout or timing.DEFAULT_IO_TIMEOUT_S) + 1)
    views = {}
    for detail in details:
        life = lives.get(detail.host_id, "" if detail.timestamp else Life.FREE)
        own = detail.host_id == space.host_id
        # Our own renewals need no watching: the daemon knows when it began the last one.
        seen = space.last_success if own else detail.last_live or detail.last_check
        stamp = space.last_success if own and space.last_success else detail.timestamp
        known = Life(life) if life in Life.__members__ else Life.UNKNOWN
        if own and space.failing:
            # To itself a host is always LIVE; its lockspace tells better.
            known = Life.FAIL
        views[detail.host_id] = HostView(
            detail.host_id,
            status.host_name if own else detail.name,
            (space.generation or 0) if own else detail.generation,
            stamp,
            (space.io_timeout or 0) if own else detail.io_timeout,
            known,
            float(max(0, now - seen)) if seen else None,
            1.0 if own else interval,
            watched_only=not own and known is Life.UNKNOWN,
            clock_now=now if own else None,
        )
    return views


async def from_storage(
    lease: LeaseAddress,
    path: str,
    offset: int = 0,
    *,
    watch_s: float = 0.0,
    fire_timeout: int = timing.DEFAULT_FIRE_TIMEOUT_S,
    on_look: Callable[[float], None] | None = None,
) -> Holders:
    """Without a daemon; the lockspace lies at `path`, `offset`, the resource in its index or where `lease` says.

    For `watch_s` seconds the holders' records are watched: it ends sooner when all of them have renewed.
    `on_look` gets the seconds that are left. LeaseError as from `lease.inspect` and `lease.rindex`.
    """
    # What reads storage is loaded by who does so.
    from holdfast.lease.inspect import Kind, Owners, detect_geometry, read_owners
    from holdfast.lease.rindex import lookup

    async with opened(path) as disk:
        geometry = await detect_geometry(disk, offset, READ_TIMEOUT_S, Kind.LOCKSPACE)
        if lease.disks:
            where = lease.disks[0]
        else:
            index = IndexAddress(lease.space, path, offset + geometry.align_size)
            try:
                found = await lookup(disk, index.offset, lease.space, lease.resource, 0, geometry, READ_TIMEOUT_S)
            except LeaseError as error:
                if error.code != -2:
                    raise
                raise ClientError(
                    -2, f"resource {lease.resource} in index {index}", f"holdfast lease index list {index}"
                ) from None
            where = wire.Disk(path, found.offset)

        async def owners() -> Owners:
            if where.path == path:
                return await read_owners(disk, where.offset, lease.space, lease.resource)
            async with opened(where.path) as other:
                return await read_owners(other, where.offset, lease.space, lease.resource)

        async def look(host_id: int) -> HostView:
            return await _record(disk, offset, lease.space, host_id)

        read = await owners()
        found_holders = [
            Holder(await look(owner.host_id), owner.generation, owner.timestamp == 0, owner.timestamp)
            for owner in read.holders
        ]
        holders = tuple(found_holders)
        if watch_s > 0 and holders:
            hosts = await _watch([holder.host for holder in holders], look, watch_s, fire_timeout, on_look)
            holders = tuple(replace(holder, host=hosts[holder.host.host_id]) for holder in holders)
    return Holders(
        lease.space,
        lease.resource,
        where.path,
        where.offset,
        read.info.lver,
        read.shared,
        holders,
        fire_timeout,
    )


async def _record(disk: Disk, offset: int, space: str, host_id: int) -> HostView:
    """A host's record as it is now. Damaged or foreign records are an unknown host, which proves nothing."""
    from holdfast.lease.inspect import read_lockspace

    try:
        info = await read_lockspace(disk, offset, space, host_id, timeout_s=READ_TIMEOUT_S)
    except LeaseError:
        return HostView(host_id)
    record = info.record
    life = Life.UNKNOWN if record.timestamp else Life.FREE
    return HostView(
        host_id, record.resource_name, record.owner_generation, record.timestamp, info.io_timeout, life
    )


async def _watch(
    hosts: list[HostView],
    look: Callable[[int], Awaitable[HostView]],
    watch_s: float,
    fire_timeout: int,
    on_look: Callable[[float], None] | None,
) -> dict[int, HostView]:
    """The hosts after having been watched: LIVE with the age of the renewal seen, or silent for so long."""
    loop = asyncio.get_running_loop()
    began = last = loop.time()
    first = {host.host_id: host for host in hosts}
    seen: dict[int, HostView] = {}
    changed_at: dict[int, float] = {}
    while (left := began + watch_s - loop.time()) > 0 and len(changed_at) < len(first):
        if on_look is not None:
            on_look(left)
        await asyncio.sleep(min(LOOK_EVERY_S, left))
        last = loop.time()
        for host_id, before in first.items():
            if host_id in changed_at:
                continue
            now = seen[host_id] = await look(host_id)
            if (now.timestamp, now.generation) != (before.timestamp, before.generation):
                changed_at[host_id] = loop.time()
    result = {}
    for host_id, before in first.items():
        host = seen.get(host_id, before)
        if host_id in changed_at:
            life = Life.LIVE if host.timestamp else Life.FREE
            result[host_id] = replace(
                host, life=life, silent_s=loop.time() - changed_at[host_id], look_interval_s=LOOK_EVERY_S
            )
        elif host.life is Life.FREE or not host.io_timeout:
            result[host_id] = host
        else:
            # Nothing has changed since the first look: it is silent for at least that long.
            silent = last - began
            life = life_after_silence(host.io_timeout, silent, fire_timeout)
            result[host_id] = replace(host, life=life, silent_s=silent, watched_only=True)
    return result
