"""The lease daemon's commands as typed coroutines (spec lease-wire sections 4, 7, 8, 9, 13, 14).

`Daemon` opens a fresh connection for each call, as libsanlock does. Each call has a deadline. The defaults are
generous: a daemon whose storage hangs answers late, not never.
"""

from __future__ import annotations

from pathlib import Path

from holdfast.client.addresses import IndexAddress, LeaseAddress, SpaceAddress
from holdfast.client.connection import Reply, connect
from holdfast.client.errors import ClientError
from holdfast.client.registration import (
    LEASE_TIMEOUT_S,
    QUERY_TIMEOUT_S,
    STORAGE_TIMEOUT_S,
    LeaseCommands,
    raise_unless_done,
)
from holdfast.client.status import (
    HostDetail,
    HostInfo,
    Status,
    host_info,
    hosts_from_items,
    status_from_items,
)
from holdfast.lease import timing
from holdfast.leased import wire
from holdfast.leased.wire import Command


def join_timeout(io_timeout: int, fire_timeout: int = timing.DEFAULT_FIRE_TIMEOUT_S) -> float:
    """Seconds that a synchronous ADD_LOCKSPACE may take: a held id, its dead time, and some for slow I/O."""
    io = io_timeout or timing.DEFAULT_IO_TIMEOUT_S
    return timing.host_dead_after(io, fire_timeout) + 8.0 * io + 10


class Daemon(LeaseCommands):
    """A lease daemon, by its run directory. Costs nothing until a call is made."""

    def __init__(self, run_dir: Path | str | None = None) -> None:
        self.run_dir = run_dir

    async def _call(
        self,
        cmd: int,
        payload: bytes = b"",
        *,
        flags: int = 0,
        data: int = 0,
        data2: int = 0,
        body_size: int = 0,
        body_per_data2: int = 0,
        until_eof: bool = False,
        by_length: bool = False,
        timeout_s: float,
    ) -> Reply:
        connection = await connect(self.run_dir, timeout_s=timeout_s)
        try:
            return await connection.call(
                cmd,
                payload,
                flags=flags,
                data=data,
                data2=data2,
                body_size=body_size,
                body_per_data2=body_per_data2,
                until_eof=until_eof,
                by_length=by_length,
                timeout_s=timeout_s,
            )
        finally:
            connection.close()

    async def _lease_call(
        self,
        cmd: int,
        payload: bytes,
        *,
        pid: int,
        flags: int = 0,
        data: int = 0,
        by_length: bool = False,
        timeout_s: float = LEASE_TIMEOUT_S,
    ) -> Reply:
        return await self._call(
            cmd, payload, flags=flags, data=data, data2=pid, by_length=by_length, timeout_s=timeout_s
        )

    # The daemon itself

    async def version(self, *, timeout_s: float = QUERY_TIMEOUT_S) -> tuple[int, int, int]:
        """Major, minor, patch."""
        reply = await self._call(Command.VERSION, timeout_s=timeout_s)
        return reply.data2 >> 24, reply.data2 >> 16 & 0xFF, reply.data2 >> 8 & 0xFF

    async def status(self, *, timeout_s: float = QUERY_TIMEOUT_S) -> Status:
        """Clients, lockspaces, leases."""
        reply = await self._call(Command.STATUS, data=4, until_eof=True, timeout_s=timeout_s)
        return status_from_items(_items(reply.body, "status"))

    async def log(self, *, timeout_s: float = QUERY_TIMEOUT_S) -> str:
        """The daemon's log ring."""
        reply = await self._call(Command.LOG_DUMP, until_eof=True, timeout_s=timeout_s)
        return reply.body.decode("utf-8", "replace")

    async def shutdown(self, *, force: bool = False, timeout_s: float = STORAGE_TIMEOUT_S) -> None:
        """Ask the daemon to leave and wait until it does. -16 when lockspaces are joined and `force` is not set.

        With `force` every process that uses a lease is killed first.
        """
        reply = await self._call(Command.SHUTDOWN_WAIT, data=int(force), timeout_s=timeout_s)
        raise_unless_done(reply, "shutdown")

    # Lockspaces

    async def lockspaces(self, *, timeout_s: float = QUERY_TIMEOUT_S) -> list[wire.Lockspace]:
        """What is joined, being joined (flag LSF_ADD) or being left (LSF_REM)."""
        reply = await self._call(Command.GET_LOCKSPACES, body_per_data2=wire.LOCKSPACE_SIZE, timeout_s=timeout_s)
        raise_unless_done(reply, "lockspaces")
        return [wire.decode_lockspace(reply.body, at) for at in range(0, len(reply.body), wire.LOCKSPACE_SIZE)]

    async def add_lockspace(
        self,
        space: SpaceAddress,
        *,
        io_timeout: int = 0,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> None:
        """Join. `io_timeout` 0 is the daemon's default. Without `wait` only the beginning is answered."""
        reply = await self._call(
            Command.ADD_LOCKSPACE,
            space.to_wire().encode(),
            flags=0 if wait else wire.ADD_ASYNC,
            data=io_timeout,
            timeout_s=join_timeout(io_timeout) if timeout_s is None else timeout_s,
        )
        raise_unless_done(reply, f"join lockspace {space}")

    async def lockspace_joined(
        self, space: SpaceAddress, *, wait: bool = False, timeout_s: float = QUERY_TIMEOUT_S
    ) -> bool | None:
        """True: joined. False: not. None: being joined or left; `wait` waits for that to end."""
        flags = wire.INQ_WAIT if wait else 0
        reply = await self._call(Command.INQ_LOCKSPACE, space.to_wire().encode(), flags=flags, timeout_s=timeout_s)
        if reply.result == -115:
            return None
        if reply.result == -2:
            return False
        raise_unless_done(reply, f"inquire lockspace {space}")
        return True

    async def remove_lockspace(
        self,
        space: SpaceAddress,
        *,
        unused_only: bool = False,
        wait: bool = True,
        timeout_s: float = LEASE_TIMEOUT_S,
    ) -> None:
        """Leave. Processes that hold leases in it get SIGKILL, unless `unused_only` (-16 then)."""
        flags = (wire.REM_UNUSED if unused_only else 0) | (0 if wait else wire.REM_ASYNC)
        reply = await self._call(Command.REM_LOCKSPACE, space.to_wire().encode(), flags=flags, timeout_s=timeout_s)
        raise_unless_done(reply, f"leave lockspace {space}")

    async def hosts(self, space: str, host_id: int = 0, *, timeout_s: float = QUERY_TIMEOUT_S) -> list[HostInfo]:
        """The hosts of a joined lockspace with their status; -11 until the first renewal was evaluated."""
        payload = wire.Lockspace(space, host_id).encode()
        reply = await self._call(Command.GET_HOSTS, payload, body_per_data2=wire.HOST_SIZE, timeout_s=timeout_s)
        raise_unless_done(reply, f"hosts of lockspace {space}")
        raw = reply.body
        return [host_info(wire.decode_host(raw, at)) for at in range(0, len(raw), wire.HOST_SIZE)]

    async def host_details(self, space: str, *, timeout_s: float = QUERY_TIMEOUT_S) -> list[HostDetail]:
        """What this daemon has seen of each host, with the host names."""
        payload = wire.Lockspace(space).encode()
        reply = await self._call(Command.HOST_STATUS, payload, until_eof=True, timeout_s=timeout_s)
        raise_unless_done(reply, f"host status of lockspace {space}")
        return hosts_from_items(_items(reply.body, "host status"))

    async def renewals(self, space: str, *, timeout_s: float = QUERY_TIMEOUT_S) -> list[dict[str, str]]:
        """The history of renewals, oldest first: timestamp, read_ms, write_ms, next_timeouts, next_errors."""
        payload = wire.Lockspace(space).encode()
        reply = await self._call(Command.RENEWAL, payload, until_eof=True, timeout_s=timeout_s)
        raise_unless_done(reply, f"renewals of lockspace {space}")
        return [wire.parse_pairs(item.state.text) for item in _items(reply.body, "renewals")]

    async def set_config(self, space: str, command: int, *, timeout_s: float = QUERY_TIMEOUT_S) -> None:
        """CONFIG_* of the wire module: hold up the removal of a lockspace, or no longer."""
        payload = wire.Lockspace(space).encode()
        reply = await self._call(Command.SET_CONFIG, payload, data=command, timeout_s=timeout_s)
        raise_unless_done(reply, f"configure lockspace {space}")

    # Storage

    async def align(self, path: str, *, timeout_s: float = STORAGE_TIMEOUT_S) -> int:
        """Bytes of one lease area on this storage."""
        reply = await self._call(Command.ALIGN, wire.Disk(path).encode(), timeout_s=timeout_s)
        return raise_unless_done(reply, f"align of {path}").result

    async def write_lockspace(
        self,
        space: SpaceAddress,
        *,
        io_timeout: int = 0,
        flags: int = 0,
        timeout_s: float = STORAGE_TIMEOUT_S,
    ) -> None:
        """Initialise. Whatever is there is gone, whoever uses it."""
        reply = await self._call(
            Command.WRITE_LOCKSPACE, space.to_wire(flags).encode(), data2=io_timeout, timeout_s=timeout_s
        )
        raise_unless_done(reply, f"initialise lockspace {space}")

    async def read_lockspace(
        self, space: SpaceAddress, *, timeout_s: float = STORAGE_TIMEOUT_S
    ) -> tuple[wire.Lockspace, int]:
        """The lockspace on storage and its io_timeout. An empty name accepts any."""
        payload = space.to_wire().encode()
        reply = await self._call(
            Command.READ_LOCKSPACE, payload, body_size=wire.LOCKSPACE_SIZE, timeout_s=timeout_s
        )
        raise_unless_done(reply, f"read lockspace {space}")
        return wire.decode_lockspace(reply.body), reply.data2

    async def write_resource(
        self,
        lease: LeaseAddress,
        *,
        num_hosts: int = 0,
        clear: bool = False,
        flags: int = 0,
        timeout_s: float = STORAGE_TIMEOUT_S,
    ) -> None:
        """Initialise a resource, or clear it. `num_hosts` 0: as many as fit."""
        payload = lease.to_wire(flags=flags).encode_with_disks()
        reply = await self._call(
            Command.WRITE_RESOURCE,
            payload,
            flags=wire.WRITE_CLEAR if clear else 0,
            data=num_hosts,
            timeout_s=timeout_s,
        )
        raise_unless_done(reply, f"initialise resource {lease}")

    async def read_resource(self, lease: LeaseAddress, *, timeout_s: float = STORAGE_TIMEOUT_S) -> wire.Resource:
        """Names, version and size flags as they are on storage; disks are not sent back."""
        payload = lease.to_wire().encode_with_disks()
        reply = await self._call(Command.READ_RESOURCE, payload, body_size=wire.RESOURCE_SIZE, timeout_s=timeout_s)
        raise_unless_done(reply, f"read resource {lease}")
        return wire.decode_resource(reply.body)

    async def owners(
        self, lease: LeaseAddress, *, timeout_s: float = STORAGE_TIMEOUT_S
    ) -> tuple[wire.Resource, list[HostInfo]]:
        """Who has the lease on storage: an exclusive owner first, then shared ones (timestamp 0)."""
        payload = lease.to_wire().encode_with_disks()
        reply = await self._call(
            Command.READ_RESOURCE_OWNERS,
            payload,
            body_size=wire.RESOURCE_SIZE,
            body_per_data2=wire.HOST_SIZE,
            timeout_s=timeout_s,
        )
        raise_unless_done(reply, f"owners of {lease}")
        raw = reply.body
        places = range(wire.RESOURCE_SIZE, len(raw), wire.HOST_SIZE)
        return wire.decode_resource(raw), [host_info(wire.decode_host(raw, at)) for at in places]

    async def request(
        self,
        lease: LeaseAddress,
        *,
        force_mode: int = 0,
        next_lver: bool = True,
        timeout_s: float = STORAGE_TIMEOUT_S,
    ) -> None:
        """Ask the owner for the lease: REQUEST_FORCE kills its holder, REQUEST_GRACEFUL asks first."""
        payload = lease.to_wire().encode_with_disks()
        flags = wire.REQUEST_NEXT_LVER if next_lver else 0
        reply = await self._call(Command.REQUEST, payload, flags=flags, data=force_mode, timeout_s=timeout_s)
        raise_unless_done(reply, f"request {lease}")

    # Lock value block

    async def set_lvb(self, lease: LeaseAddress, value: bytes, *, timeout_s: float = QUERY_TIMEOUT_S) -> None:
        """Change the value of a lease that was acquired with ACQUIRE_LVB; written at release."""
        payload = wire.resource(lease.space, lease.resource).encode() + value
        reply = await self._call(Command.SET_LVB, payload, timeout_s=timeout_s)
        raise_unless_done(reply, f"set value of {lease}")

    async def get_lvb(self, lease: LeaseAddress, size: int = 0, *, timeout_s: float = QUERY_TIMEOUT_S) -> bytes:
        """The value of a held lease; `size` 0: a whole sector."""
        payload = wire.resource(lease.space, lease.resource).encode()
        reply = await self._call(Command.GET_LVB, payload, data2=size, by_length=True, timeout_s=timeout_s)
        raise_unless_done(reply, f"get value of {lease}")
        return reply.body

    # Resource index

    async def _rentry(
        self,
        cmd: int,
        index: IndexAddress,
        entry: wire.Rentry,
        what: str,
        *,
        flags: int = 0,
        data2: int = 0,
        timeout_s: float,
    ) -> wire.Rentry:
        payload = index.to_wire().encode() + entry.encode()
        reply = await self._call(
            cmd, payload, flags=flags, data2=data2, body_size=wire.RENTRY_SIZE, timeout_s=timeout_s
        )
        raise_unless_done(reply, what)
        return wire.decode_rentry(reply.body)

    async def format_index(
        self,
        index: IndexAddress,
        *,
        flags: int = 0,
        max_resources: int = 0,
        timeout_s: float = STORAGE_TIMEOUT_S,
    ) -> None:
        """Write an empty index and its internal lease. `max_resources` 0: 4096; `flags`: size flags."""
        payload = index.to_wire(flags=flags, max_resources=max_resources).encode()
        reply = await self._call(Command.FORMAT_RINDEX, payload, timeout_s=timeout_s)
        raise_unless_done(reply, f"initialise index {index}")

    async def lookup(
        self,
        index: IndexAddress,
        name: str = "",
        offset: int = 0,
        *,
        without_lockspace: bool = False,
        timeout_s: float = STORAGE_TIMEOUT_S,
    ) -> wire.Rentry:
        """Name to offset or offset to name; the first free place when nothing is given; -2 for an unknown name."""
        entry = wire.Rentry(name, offset)
        flags = wire.RINDEX_NO_LOCKSPACE if without_lockspace else 0
        what = f"look up {name or offset} in index {index}"
        return await self._rentry(Command.LOOKUP_RINDEX, index, entry, what, flags=flags, timeout_s=timeout_s)

    async def create_resource(
        self, index: IndexAddress, name: str, *, num_hosts: int = 0, timeout_s: float = STORAGE_TIMEOUT_S
    ) -> int:
        """Initialise a resource at the first free place and note its name; its offset. Names may be doubled."""
        what = f"create {name} in index {index}"
        entry = await self._rentry(
            Command.CREATE_RESOURCE, index, wire.Rentry(name), what, data2=num_hosts, timeout_s=timeout_s
        )
        return entry.offset

    async def delete_resource(
        self, index: IndexAddress, name: str, *, timeout_s: float = STORAGE_TIMEOUT_S
    ) -> None:
        """Take the name out of the index and clear the lease."""
        what = f"delete {name} from index {index}"
        await self._rentry(Command.DELETE_RESOURCE, index, wire.Rentry(name), what, timeout_s=timeout_s)

    async def update_index(
        self,
        index: IndexAddress,
        offset: int,
        name: str = "",
        *,
        remove: bool = False,
        timeout_s: float = STORAGE_TIMEOUT_S,
    ) -> None:
        """Set or clear one entry; no lease is touched."""
        flags = wire.RINDEX_REM if remove else wire.RINDEX_ADD
        what = f"update index {index} at {offset}"
        await self._rentry(
            Command.UPDATE_RINDEX, index, wire.Rentry(name, offset), what, flags=flags, timeout_s=timeout_s
        )

    async def rebuild_index(self, index: IndexAddress, *, timeout_s: float = LEASE_TIMEOUT_S) -> None:
        """Write the index anew from the leases that are there."""
        reply = await self._call(Command.REBUILD_RINDEX, index.to_wire().encode(), timeout_s=timeout_s)
        raise_unless_done(reply, f"rebuild index {index}")

    # For another registered process

    async def acquire_for(
        self,
        pid: int,
        *leases: LeaseAddress,
        shared: bool = False,
        persistent: bool = False,
        flags: int = 0,
        owner_name: str = "",
        timeout_s: float = LEASE_TIMEOUT_S,
    ) -> None:
        """As `Registration.acquire`, for a registered process. -3: no such process, -16: it is busy."""
        await self._acquire(leases, pid, shared, persistent, flags, owner_name, timeout_s)

    async def release_for(self, pid: int, *leases: LeaseAddress, timeout_s: float = STORAGE_TIMEOUT_S) -> None:
        """As `Registration.release`, for a registered process."""
        await self._release(leases, pid, timeout_s)

    async def inquire_for(self, pid: int, *, timeout_s: float = QUERY_TIMEOUT_S) -> list[wire.Resource]:
        """As `Registration.inquire`, for a registered process."""
        return await self._inquire(pid, timeout_s)


def _items(body: bytes, what: str) -> list[wire.StatusItem]:
    try:
        return wire.decode_status_items(body)
    except wire.FormatError as error:
        raise ClientError(-71, f"{what}: {error}", "the daemon speaks another protocol version") from error
