"""One socket to the lease daemon, one call at a time, every call with a deadline (spec lease-wire 3 to 5).

A call that missed its deadline, or was cancelled, leaves the socket out of step: the late reply would be taken for
the next call's. Such a connection is closed at once. On a registered socket that means: the daemon releases its
leases. That is the safe side.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from holdfast.client import locations
from holdfast.client.errors import CallTimeout, DaemonUnreachable
from holdfast.leased import wire

CONNECT_TIMEOUT_S = 10.0
MAX_REPLY_BYTES = 64 * 1024 * 1024
"""More than any daemon sends: a STATUS of 1024 clients with 60 leases each."""
CHUNK = 256 * 1024


class Reply(NamedTuple):
    """The header of a reply; `result` is its signed data field."""

    result: int
    data2: int
    length: int
    body: bytes = b""


class Connection:
    """A connected, unregistered or registered, socket. Make one with `connect`."""

    def __init__(self, sock: socket.socket, path: str) -> None:
        self._socket = sock
        self._path = path
        self._busy = asyncio.Lock()
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def socket(self) -> socket.socket:
        """The socket itself, for handing it to a child process. Nothing else may read or write it."""
        return self._socket

    def close(self) -> None:
        """Close the socket. For a registered one the daemon then releases every lease of it."""
        self._closed = True
        self._socket.close()

    async def send(
        self, cmd: int, payload: bytes = b"", *, flags: int = 0, data: int = 0, timeout_s: float
    ) -> None:
        """A request that has no reply (REGISTER, SHUTDOWN)."""
        async with self._one_call(f"command {_name(cmd)}", timeout_s):
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(self._socket, wire.encode_request(cmd, payload, flags=flags, data=data))

    async def until_broken(self) -> None:
        """Return when the other end has closed it. No call may be made meanwhile."""
        loop = asyncio.get_running_loop()
        while not self._closed:
            readable = asyncio.Event()
            loop.add_reader(self._socket, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(self._socket)
            try:
                if self._socket.recv(CHUNK):
                    continue  # Nobody has asked anything: nobody misses it.
            except BlockingIOError:
                continue
            except OSError:
                return
            return

    async def call(
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
        """One request and its reply.

        What follows the reply's header: `body_size` bytes if the result is 0, plus `body_per_data2` for each unit
        of data2; everything until EOF; or as many bytes as the header's length declares (`by_length`).
        Raises DaemonUnreachable when the connection breaks, CallTimeout after `timeout_s` seconds.
        """
        request = wire.encode_request(cmd, payload, flags=flags, data=data, data2=data2)
        return await self._exchange(cmd, request, body_size, body_per_data2, until_eof, by_length, timeout_s)

    async def call_raw(self, cmd: int, request: bytes, *, timeout_s: float) -> Reply:
        """A request made elsewhere, answered by a header alone."""
        return await self._exchange(cmd, request, 0, 0, False, False, timeout_s)

    async def _exchange(
        self,
        cmd: int,
        request: bytes,
        body_size: int,
        body_per_data2: int,
        until_eof: bool,
        by_length: bool,
        timeout_s: float,
    ) -> Reply:
        async with self._one_call(f"command {_name(cmd)}", timeout_s):
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(self._socket, request)
            header = wire.decode_header(await self._receive(wire.HEADER_SIZE))
            if header.magic != wire.MAGIC:
                raise OSError(errno.EPROTO, f"reply with magic {header.magic:#x}")
            body = b""
            if until_eof:
                body = await self._receive_all()
            elif by_length:
                body = await self._receive(max(0, header.length - wire.HEADER_SIZE))
            elif header.data == 0:
                body = await self._receive(body_size + body_per_data2 * header.data2)
            return Reply(header.data, header.data2, header.length, body)

    @asynccontextmanager
    async def _one_call(self, what: str, timeout_s: float) -> AsyncIterator[None]:
        async with self._busy:
            if self._closed:
                raise DaemonUnreachable(-errno.EBADF, f"{what}: the connection to {self._path} is closed", "")
            in_step = False
            try:
                async with asyncio.timeout(timeout_s):
                    yield
                in_step = True
            except TimeoutError:
                raise CallTimeout(
                    -errno.ETIMEDOUT,
                    f"{what}: the lease daemon at {self._path} did not answer within {timeout_s:g} s",
                    "look at its log: holdfast lease status",
                ) from None
            except OSError as error:
                raise DaemonUnreachable(
                    -(error.errno or errno.EIO),
                    f"{what}: the lease daemon at {self._path} broke the connection ({error.strerror or error})",
                    "look at its log",
                ) from error
            finally:
                if not in_step:
                    self.close()

    async def _receive(self, size: int) -> bytes:
        if size > MAX_REPLY_BYTES:
            raise OSError(errno.EPROTO, f"reply of {size} bytes declared")
        loop = asyncio.get_running_loop()
        parts = bytearray()
        while len(parts) < size:
            part = await loop.sock_recv(self._socket, min(CHUNK, size - len(parts)))
            if not part:
                raise OSError(errno.ECONNRESET, "end of file in the middle of a reply")
            parts += part
        return bytes(parts)

    async def _receive_all(self) -> bytes:
        loop = asyncio.get_running_loop()
        parts = bytearray()
        while part := await loop.sock_recv(self._socket, CHUNK):
            parts += part
            if len(parts) > MAX_REPLY_BYTES:
                raise OSError(errno.EPROTO, "reply without an end")
        return bytes(parts)


def _name(cmd: int) -> str:
    try:
        return wire.Command(cmd).name
    except ValueError:
        return str(cmd)


def socket_path(run_dir: Path | str | None = None) -> str:
    """The daemon's socket in `run_dir`, in the default run directory without it."""
    return os.fspath(Path(run_dir if run_dir is not None else locations.run_dir()) / locations.SOCKET_NAME)


def unreachable(path: str, error: OSError) -> DaemonUnreachable:
    """The error of a connect that failed, with what to do about it."""
    code = -(error.errno or errno.EIO)
    if error.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
        return DaemonUnreachable(
            code, f"no lease daemon answers at {path}", "start one: holdfast lease daemon (or give --run-dir)"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return DaemonUnreachable(
            code, f"no permission to use the lease daemon's socket {path}", "join the group that owns the socket"
        )
    return DaemonUnreachable(code, f"cannot connect to {path}: {error.strerror or error}", "check --run-dir")


async def connect(run_dir: Path | str | None = None, *, timeout_s: float = CONNECT_TIMEOUT_S) -> Connection:
    """A fresh connection. DaemonUnreachable when nobody answers, CallTimeout when the daemon's queue is full."""
    path = socket_path(run_dir)
    if locations.is_somebody_elses(os.path.dirname(path)):
        raise DaemonUnreachable(
            -errno.EACCES,
            f"{os.path.dirname(path)} belongs to another user: no daemon there is trusted",
            "set XDG_RUNTIME_DIR, or give --run-dir",
        )
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.setblocking(False)
    deadline = asyncio.get_running_loop().time() + timeout_s
    try:
        while True:
            try:
                sock.connect(path)
                break
            except BlockingIOError:
                # A full backlog answers EAGAIN at once on Unix sockets; nothing signals that it got room.
                if asyncio.get_running_loop().time() > deadline:
                    raise CallTimeout(
                        -errno.ETIMEDOUT, f"the lease daemon at {path} accepts no connection", "look at its log"
                    ) from None
                await asyncio.sleep(0.01)
            except OSError as error:
                raise unreachable(path, error) from error
            except ValueError as error:
                raise DaemonUnreachable(-errno.ENAMETOOLONG, f"cannot connect to {path}: {error}", "") from error
    except BaseException:
        sock.close()
        raise
    return Connection(sock, path)
