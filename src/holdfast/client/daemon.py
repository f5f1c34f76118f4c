"""The lease daemon's commands as typed coroutines (spec lease-wire sections 4, 7, 8, 9, 13, 14).

`Daemon` opens a fresh connection for each call, as libsanlock does. Each call has a deadline. The defaults are
generous: a daemon whose storage hangs answers late, not never.
"""

from __future__ import annotations

from pathlib import Path

from holdfast.client.addresses import LeaseAddress, SpaceAddress
from holdfast.client.connection import Reply, connect
from holdfast.client.errors import ClientError
from holdfast.client.events import EventStream
from holdfast.client.index import IndexCommands
from holdfast.client.registration import (
    LEASE_TIMEOUT_S,
    QUERY_TIMEOUT_S,
    STORAGE_TIMEOUT_S,
    LeaseCommands,
    raise_unless_done,
)
from holdfast.client.renewal_history import RenewalHistory, history_from_items
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


class Daemon(LeaseCommands, IndexCommands):
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

    async def shutdown(
        self, *, force: bool = False, wait: bool = True, timeout_s: float = STORAGE_TIMEOUT_S
    ) -> None:
        """Ask the daemon to leave and wait until it does. -16 when lockspaces are joined and `force` is not set.

        With `force` every process that uses a lease is killed first. Without `wait` nothing is answered: a daemon
        with lockspaces simply stays.
        """
        if not wait:
            connection = await connect(self.run_dir, timeout_s=timeout_s)
            try:
                await connection.send(Command.SHUTDOWN, data=int(force), timeout_s=timeout_s)
            finally:
                connection.close()
            return
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

    async def renewals(self, space: str, *, timeout_s: float = QUERY_TIMEOUT_S) -> RenewalHistory:
        """The history of renewals, oldest first, with the io_timeout."""
        payload = wire.Lockspace(space).encode()
        reply = await self._call(Command.RENEWAL, payload, until_eof=True, timeout_s=timeout_s)
        raise_unless_done(reply, f"renewals of lockspace {space}")
        return history_from_items(reply.data2, _items(reply.body, "renewals"))

    async def set_config(self, space: str, command: int, *, timeout_s: float = QUERY_TIMEOUT_S) -> None:
        """CONFIG_* of the wire module: hold up the removal of a lockspace, or no longer."""
        payload = wire.Lockspace(space).encode()
        reply = await self._call(Command.SET_CONFIG, payload, data=command, timeout_s=timeout_s)
        raise_unless_done(reply, f"configure lockspace {space}")

    # Events and requests (spec 14)

    async def set_event(
        self, space: str, event: wire.HostEvent, *, flags: int = 0, timeout_s: float = QUERY_TIMEOUT_S
    ) -> None:
        """Tell other hosts an event with our next renewals; `flags` are EVENT_* of the wire module.

        It arrives up to several renewals later, more than once. -16: another event was set moments ago.
        """
        payload = wire.Lockspace(space).encode() + event.encode()
        reply = await self._call(Command.SET_EVENT, payload, flags=flags, timeout_s=timeout_s)
        raise_unless_done(reply, f"set event in lockspace {space}")

    async def events(self, space: str, *, timeout_s: float = QUERY_TIMEOUT_S) -> EventStream:
        """What other hosts tell this one from now on. The stream must be closed."""
        return await EventStream.open(self.run_dir, space, timeout_s=timeout_s)

    async def examine(self, space: str, resource: str = "", *, timeout_s: float = QUERY_TIMEOUT_S) -> None:
        """Have the requests for held leases of a lockspace, or for one lease, looked at now."""
        if resource:
            reply = await self._call(
                Command.EXAMINE_RESOURCE, wire.resource(space, resource).encode(), timeout_s=timeout_s
            )
        else:
            reply = await self._call(
                Command.EXAMINE_LOCKSPACE, wire.Lockspace(space).encode(), timeout_s=timeout_s
            )
        raise_unless_done(reply, f"examine {space}")

    async def request(
        self,
        lease: LeaseAddress,
        *,
        force_mode: int = 0,
        next_lver: bool = True,
        timeout_s: float = STORAGE_TIMEOUT_S,
    ) -> None:
        """Ask the owner for the lease: REQUEST_FORCE kills its holder, REQUEST_GRACEFUL asks first.

        The version asked for is `lease.lver`, else with `next_lver` the one after the present. Neither a version
        nor a mode withdraws what is asked for.
        """
        payload = lease.to_wire().encode_with_disks()
        flags = wire.REQUEST_NEXT_LVER if next_lver else 0
        reply = await self._call(Command.REQUEST, payload, flags=flags, data=force_mode, timeout_s=timeout_s)
        raise_unless_done(reply, f"request {lease}")

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

    async def release_for(
        self, pid: int, *leases: LeaseAddress, new_name: str = "", timeout_s: float = STORAGE_TIMEOUT_S
    ) -> None:
        """As `Registration.release`, for a registered process."""
        await self._release(leases, pid, timeout_s, new_name)

    async def convert_for(
        self,
        pid: int,
        lease: LeaseAddress,
        *,
        shared: bool,
        nowait: bool = False,
        timeout_s: float = LEASE_TIMEOUT_S,
    ) -> None:
        """As `Registration.convert`, for a registered process."""
        await self._convert(lease, pid, shared, nowait, timeout_s)

    async def release_orphans(
        self,
        space: str,
        resource: str = "",
        *,
        pid: int = wire.SELF_PID,
        timeout_s: float = STORAGE_TIMEOUT_S,
    ) -> int:
        """Have orphans of a lockspace released, all or one; how many (spec 6.5). It goes on after the reply.

        sanlock 3.8.5 wants the `pid` of any registered process and refuses with -16 without it.
        """
        payload = wire.resource(space, resource).encode()
        reply = await self._lease_call(
            Command.RELEASE, payload, pid=pid, flags=wire.RELEASE_ORPHAN, data=1, timeout_s=timeout_s
        )
        return raise_unless_done(reply, f"release orphans of {space}{':' if resource else ''}{resource}").result

    async def inquire_for(self, pid: int, *, timeout_s: float = QUERY_TIMEOUT_S) -> list[wire.Resource]:
        """As `Registration.inquire`, for a registered process."""
        return await self._inquire(pid, timeout_s)


def _items(body: bytes, what: str) -> list[wire.StatusItem]:
    try:
        return wire.decode_status_items(body)
    except wire.FormatError as error:
        raise ClientError(-71, f"{what}: {error}", "the daemon speaks another protocol version") from error
