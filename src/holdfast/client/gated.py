"""A command that is registered with the lease daemon before it begins (issue scope 7, `holdfast run`).

The child is forked first, while this process has no threads and no event loop. It connects and registers by
itself, so that the daemon sees the pid that the command will have (SO_PEERCRED keeps the pid over exec), then
waits at a gate for the lease. The registered socket stays open in the command and in this process: the lease
ends only when all copies are closed.

Must never let the command begin before `begin`, and never leave a child waiting when this process is gone.
"""

from __future__ import annotations

import array
import asyncio
import ctypes
import errno
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Self

from holdfast.client.errors import ClientError, DaemonUnreachable
from holdfast.leased import wire

EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127
GATE_BYTES = 4 * 1024 * 1024
"""Bound of one message over the gate: the environment fits."""
REGISTER_TIMEOUT_S = 10.0
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
RESTORED_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT)
"""What Python changed at its start and the command must find as usual."""

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """One prctl(2) with one argument; OSError when the kernel refuses."""
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")


def become_subreaper() -> None:
    """From now on orphaned descendants become children of this process: none can slip away by forking twice."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


class GatedChild:
    """A forked child that waits at the gate. Make one with `fork`, before anything else of the program starts."""

    def __init__(self, pid: int, gate: socket.socket, own_group: bool) -> None:
        self.pid = pid
        self.own_group = own_group
        self.lease_socket: socket.socket | None = None
        """Our copy of the registered socket."""
        self._gate = gate

    @classmethod
    def fork(cls, command: Sequence[str], *, own_group: bool) -> Self:
        """Fork. `own_group` puts the command into a process group of its own."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            try:
                ours.close()
                _be_the_child(theirs, parent, list(command), own_group)
            finally:
                os._exit(1)
        theirs.close()
        if own_group:
            try:
                os.setpgid(pid, pid)
            except OSError:
                # The child has done it itself, or is gone already.
                pass
        ours.setblocking(False)
        return cls(pid, ours, own_group)

    async def register(self, socket_path: str, *, restrict: int, killpath: str = "") -> None:
        """Let the child connect to the daemon and register; `restrict` are RESTRICT_* flags.

        `killpath` is what the daemon runs instead of sending SIGTERM.
        """
        await self._tell({"do": "register", "path": socket_path, "restrict": restrict, "killpath": killpath})
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(2 * REGISTER_TIMEOUT_S):
            await _readable(loop, self._gate)
        fds = array.array("i")
        data, ancillary, _, _ = self._gate.recvmsg(4096, socket.CMSG_SPACE(fds.itemsize))
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
        if not data:
            raise DaemonUnreachable(-errno.ECHILD, "the waiting child process has ended", "")
        answer = json.loads(data)
        if not fds or answer.get("errno"):
            number = int(answer.get("errno") or errno.EPROTO)
            raise DaemonUnreachable(-number, f"register with {socket_path}: {answer.get('text')}", "")
        os.set_inheritable(fds[0], False)
        self.lease_socket = socket.socket(fileno=fds[0])

    async def begin(self, environ: Mapping[str, str]) -> OSError | None:
        """Open the gate. None once the command has begun; else why it could not be executed."""
        await self._tell({"do": "exec", "environ": dict(environ)})
        loop = asyncio.get_running_loop()
        data = await loop.sock_recv(self._gate, 4096)
        self._gate.close()
        if not data:
            return None
        answer = json.loads(data)
        return OSError(int(answer["errno"]), str(answer["text"]))

    def lease_is_cut(self) -> bool:
        """Whether the daemon's end of the registered socket is gone: then descendants keep the lease no longer."""
        if self.lease_socket is None:
            return False
        try:
            return not self.lease_socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close_lease(self) -> None:
        """Close our copy of the registered socket."""
        if self.lease_socket is not None:
            self.lease_socket.close()
            self.lease_socket = None

    def abandon(self) -> None:
        """End a child that still waits at the gate; harmless when it has begun or is gone."""
        self._gate.close()
        self.close_lease()

    async def _tell(self, message: Mapping[str, object]) -> None:
        raw = json.dumps(message).encode("utf-8", "surrogateescape")
        if len(raw) > GATE_BYTES:
            raise ClientError(-errno.E2BIG, "the environment of the command is too large")
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(self._gate, struct.pack("<I", len(raw)) + raw)
        except OSError as error:
            raise DaemonUnreachable(-errno.ECHILD, "the waiting child process has ended", "") from error


async def _readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


# In the child. Plain blocking calls; ends in exec or _exit.


def _be_the_child(gate: socket.socket, parent: int, command: list[str], own_group: bool) -> NoReturn:
    for number in RESTORED_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    # A killed runner must not leave its command behind: nobody would end it at the deadline.
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    if own_group:
        os.setpgid(0, 0)
    lease: socket.socket | None = None
    while True:
        message = _next_message(gate)
        if message is None:
            os._exit(1)
        if message["do"] == "register":
            try:
                lease = _register(str(message["path"]), int(message["restrict"]), str(message["killpath"]))
            except OSError as error:
                gate.sendall(_failure(error))
            else:
                gate.sendmsg([b"{}"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [lease.fileno()]))])
        elif message["do"] == "exec":
            environ = {str(key): str(value) for key, value in message["environ"].items()}
            if lease is not None:
                os.set_inheritable(lease.fileno(), True)
                environ["HOLDFAST_LEASE_FD"] = str(lease.fileno())
            try:
                os.execvpe(command[0], command, environ)
            except OSError as error:
                gate.sendall(_failure(error))
                os._exit(exec_exit_code(error))


def exec_exit_code(error: OSError) -> int:
    """127: no such command; 126: it cannot be executed. As shells do."""
    return EXIT_NOT_FOUND if error.errno in (errno.ENOENT, errno.ENOTDIR) else EXIT_NOT_EXECUTABLE


def _failure(error: OSError) -> bytes:
    return json.dumps({"errno": error.errno or errno.EIO, "text": error.strerror or str(error)}).encode()


def _exactly(sock: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = sock.recv(size - len(parts))
        if not part:
            return b""
        parts += part
    return parts


def _next_message(gate: socket.socket) -> dict[str, Any] | None:
    head = _exactly(gate, 4)
    if not head:
        return None
    raw = _exactly(gate, struct.unpack("<I", head)[0])
    if not raw:
        return None
    message: dict[str, Any] = json.loads(raw.decode("utf-8", "surrogateescape"))
    return message


def _register(path: str, restrict: int, killpath: str) -> socket.socket:
    lease = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        lease.settimeout(REGISTER_TIMEOUT_S)
        lease.connect(path)
        lease.sendall(wire.encode_request(wire.Command.REGISTER))
        if killpath:
            payload = wire.Payload(killpath=killpath).encode()
            _ask(lease, wire.encode_request(wire.Command.KILLPATH, payload, data2=wire.SELF_PID), "killpath")
        if restrict:
            _ask(lease, wire.encode_request(wire.Command.RESTRICT, flags=restrict), "restrict")
        lease.setblocking(True)
    except BaseException:
        lease.close()
        raise
    return lease


def _ask(lease: socket.socket, request: bytes, what: str) -> None:
    lease.sendall(request)
    raw = _exactly(lease, wire.HEADER_SIZE)
    if not raw:
        raise OSError(errno.ECONNRESET, f"{what}: the lease daemon closed the connection")
    result = wire.decode_header(raw).data
    if result != 0:
        raise OSError(errno.EPROTO, f"{what}: result {result}")
