"""This process as a client that holds leases (spec lease-wire sections 6 and 7).

One connection that stays open; when its last copy closes, the daemon releases what it held. The same commands can
be given for another registered process by its pid: `Daemon` has those.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from holdfast.client.addresses import LeaseAddress
from holdfast.client.connection import Connection, Reply, connect
from holdfast.client.errors import ClientError, NotAcquired
from holdfast.leased import wire
from holdfast.leased.wire import Command

QUERY_TIMEOUT_S = 10.0
"""For what the daemon answers from memory."""
STORAGE_TIMEOUT_S = 90.0
"""For what reads or writes storage: more than write_init_io_timeout (60)."""
LEASE_TIMEOUT_S = 300.0
"""For ACQUIRE: more than 8·io + W + 7·io with the defaults (210 s, spec lease-disk 5)."""


def raise_unless_done(reply: Reply, what: str) -> Reply:
    """The reply, or its negative result as ClientError."""
    if reply.result < 0:
        raise ClientError(reply.result, what)
    return reply


class LeaseCommands:
    """ACQUIRE, RELEASE, INQUIRE, CONVERT: on the own registered socket, or for another pid."""

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
        raise NotImplementedError

    async def _acquire(
        self,
        leases: Sequence[LeaseAddress],
        pid: int,
        shared: bool,
        persistent: bool,
        flags: int,
        owner_name: str,
        timeout_s: float,
    ) -> None:
        if not 1 <= len(leases) <= wire.MAX_RESOURCES:
            raise ClientError(-7, f"{len(leases)} leases in one acquire", f"give 1 to {wire.MAX_RESOURCES}")
        for lease in leases:
            if not lease.disks:
                raise ClientError(-22, f"acquire {lease}", "the daemon needs path and offset; look it up first")
        resource_flags = wire.RES_PERSISTENT if persistent else 0
        resources = [lease.to_wire(shared=shared, flags=resource_flags).encode_with_disks() for lease in leases]
        payload = b"".join(resources) + wire.Options(owner_name).encode()
        reply = await self._lease_call(
            Command.ACQUIRE, payload, pid=pid, flags=flags, data=len(leases), timeout_s=timeout_s
        )
        if reply.result != 0:
            raise NotAcquired(reply.result, "acquire " + ", ".join(map(str, leases)))

    async def _release(
        self, leases: Sequence[LeaseAddress], pid: int, timeout_s: float, new_name: str = ""
    ) -> None:
        resources = [wire.resource(lease.space, lease.resource) for lease in leases]
        flags = 0 if leases else wire.RELEASE_ALL
        if new_name:
            if len(leases) != 1:
                raise ClientError(-22, f"release {len(leases)} leases under a new name", "give exactly one")
            resources.append(wire.resource(leases[0].space, new_name))
            flags = wire.RELEASE_RENAME
        payload = b"".join(resource.encode() for resource in resources)
        reply = await self._lease_call(
            Command.RELEASE, payload, pid=pid, flags=flags, data=len(resources), timeout_s=timeout_s
        )
        what = ", ".join(map(str, leases)) or "all leases"
        raise_unless_done(reply, f"release {what}")

    async def _inquire(self, pid: int, timeout_s: float) -> list[wire.Resource]:
        reply = await self._lease_call(Command.INQUIRE, b"", pid=pid, by_length=True, timeout_s=timeout_s)
        raise_unless_done(reply, "inquire")
        text = reply.body.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        return wire.state_to_args(text)

    async def _convert(self, lease: LeaseAddress, pid: int, shared: bool, nowait: bool, timeout_s: float) -> None:
        flags = wire.RES_SHARED if shared else 0
        payload = wire.resource(lease.space, lease.resource, flags=flags).encode()
        call_flags = wire.CONVERT_OWNER_NOWAIT if nowait else 0
        reply = await self._lease_call(Command.CONVERT, payload, pid=pid, flags=call_flags, timeout_s=timeout_s)
        if reply.result != 0:
            raise NotAcquired(reply.result, f"convert {lease} to {'shared' if shared else 'exclusive'}")


class Registration(LeaseCommands):
    """A registered connection: leases are held by it, for as long as any copy of its socket is open."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @classmethod
    async def open(
        cls, run_dir: Path | str | None = None, *, holding: int = 0, timeout_s: float = QUERY_TIMEOUT_S
    ) -> Self:
        """Register this process. The daemon does not answer REGISTER; it reads the pid from the socket.

        `holding`: the token number, in STATUS, of a lease that this process holds and whose connection broke with
        the daemon: a daemon that has adopted it takes this for its connection.
        """
        connection = await connect(run_dir, timeout_s=timeout_s)
        try:
            flags = wire.REGISTER_AGAIN if holding else 0
            await connection.send(Command.REGISTER, flags=flags, data=holding, timeout_s=timeout_s)
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    def close(self) -> None:
        """Give everything back: the daemon releases the leases on storage by itself."""
        self.connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

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
        return await self.connection.call(
            cmd, payload, flags=flags, data=data, data2=pid, by_length=by_length, timeout_s=timeout_s
        )

    async def acquire(
        self,
        *leases: LeaseAddress,
        shared: bool = False,
        persistent: bool = False,
        flags: int = 0,
        owner_name: str = "",
        timeout_s: float = LEASE_TIMEOUT_S,
    ) -> None:
        """Take 1 to 8 leases, all or none. NotAcquired carries the daemon's result (spec 7.1).

        `flags` are ACQUIRE_* of the wire module; with ACQUIRE_OWNER_NOWAIT nobody waits for a dying owner.
        """
        await self._acquire(leases, wire.SELF_PID, shared, persistent, flags, owner_name, timeout_s)

    async def release(
        self, *leases: LeaseAddress, new_name: str = "", timeout_s: float = STORAGE_TIMEOUT_S
    ) -> None:
        """Give back these leases; all of this connection when none is named.

        With `new_name` exactly one, whose resource has another name on storage from then on (spec 7.3).
        """
        await self._release(leases, wire.SELF_PID, timeout_s, new_name)

    async def inquire(self, *, timeout_s: float = QUERY_TIMEOUT_S) -> list[wire.Resource]:
        """What this connection holds, with the lease versions."""
        return await self._inquire(wire.SELF_PID, timeout_s)

    async def convert(
        self, lease: LeaseAddress, *, shared: bool, nowait: bool = False, timeout_s: float = LEASE_TIMEOUT_S
    ) -> None:
        """Change a held lease to shared or to exclusive mode."""
        await self._convert(lease, wire.SELF_PID, shared, nowait, timeout_s)

    async def restrict(self, flags: int, *, timeout_s: float = QUERY_TIMEOUT_S) -> None:
        """RESTRICT_* flags of the wire module; RESTRICT_SIGTERM means: SIGKILL from the first round on."""
        reply = await self.connection.call(Command.RESTRICT, flags=flags, timeout_s=timeout_s)
        raise_unless_done(reply, "restrict")

    async def killpath(
        self, path: str, args: str, *, with_pid: bool = False, timeout_s: float = QUERY_TIMEOUT_S
    ) -> None:
        """What the daemon runs, instead of SIGTERM, when the lockspace fails. 127 bytes each."""
        payload = wire.Payload(killpath=path, killargs=args).encode()
        flags = wire.KILLPATH_PID if with_pid else 0
        reply = await self.connection.call(
            Command.KILLPATH, payload, flags=flags, data2=wire.SELF_PID, timeout_s=timeout_s
        )
        raise_unless_done(reply, "killpath")
