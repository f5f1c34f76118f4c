"""The resource index on the daemon's socket (spec lease-wire section 8): names and places of resources."""

from __future__ import annotations

from holdfast.client.addresses import IndexAddress
from holdfast.client.connection import Reply
from holdfast.client.registration import LEASE_TIMEOUT_S, STORAGE_TIMEOUT_S, raise_unless_done
from holdfast.leased import wire
from holdfast.leased.wire import Command


class IndexCommands:
    """Part of `Daemon`. What takes the index's internal lease needs the lockspace joined (-2 otherwise)."""

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
        raise NotImplementedError

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
        without_lockspace: bool = False,
        timeout_s: float = STORAGE_TIMEOUT_S,
    ) -> None:
        """Set or clear one entry; no lease is touched."""
        flags = wire.RINDEX_REM if remove else wire.RINDEX_ADD
        if without_lockspace:
            flags |= wire.RINDEX_NO_LOCKSPACE
        what = f"update index {index} at {offset}"
        await self._rentry(
            Command.UPDATE_RINDEX, index, wire.Rentry(name, offset), what, flags=flags, timeout_s=timeout_s
        )

    async def rebuild_index(
        self, index: IndexAddress, *, without_lockspace: bool = False, timeout_s: float = LEASE_TIMEOUT_S
    ) -> None:
        """Write the index anew from the leases that are there.

        `without_lockspace` does so without the internal lease: only while nobody else uses the index.
        """
        flags = wire.RINDEX_NO_LOCKSPACE if without_lockspace else 0
        payload = index.to_wire().encode()
        reply = await self._call(Command.REBUILD_RINDEX, payload, flags=flags, timeout_s=timeout_s)
        raise_unless_done(reply, f"rebuild index {index}")
