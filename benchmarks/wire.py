"""A minimal blocking client of the lease socket, the same for both daemons, so that its own cost cancels out.

Messages are encoded once, sent in one piece and answered by one 32-byte header; nothing else happens between the
two clock readings. It is independent of `holdfast.leased.wire` on purpose: the program under test must not lend
its codec to its judge. Layouts: spec lease-wire, section 3.
"""

import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

MAGIC = 0x04282010
VERSION = 1
HEADER = struct.Struct("<8I")

REGISTER = 1
ADD_LOCKSPACE = 2
REM_LOCKSPACE = 3
STATUS = 5
ACQUIRE = 7
RELEASE = 8
INQUIRE = 9
WRITE_LOCKSPACE = 18
WRITE_RESOURCE = 19
GET_HOSTS = 23
VERSION = 28

OWN_CONNECTION = 0xFFFFFFFF
OWNER_NOWAIT = 0x8

IDLIVE = -243


@dataclass(frozen=True)
class Area:
    """Where a lockspace or a resource lies: a file and a byte offset in it."""

    path: Path
    offset: int = 0

    def encode(self) -> bytes:
        """The 1040 bytes of `sanlk_disk`."""
        return struct.pack("<1024sQII", str(self.path).encode(), self.offset, 0, 0)


def header(command: int, length: int, *, flags: int = 0, data: int = 0, data2: int = 0) -> bytes:
    """The 32 bytes of a request header; `length` counts the payload alone."""
    return HEADER.pack(MAGIC, VERSION, command, flags, 32 + length, 0, data, data2)


def lockspace_body(name: str, host_id: int, area: Area) -> bytes:
    """The 1104 bytes of `sanlk_lockspace`."""
    return struct.pack("<48sQII", name.encode(), host_id, 0, 0) + area.encode()


def resource_body(space: str, name: str, disks: int = 1) -> bytes:
    """The 128 bytes of `sanlk_resource`, without its disks."""
    return struct.pack("<48s48sQQIIII", space.encode(), name.encode(), 0, 0, 0, 0, 0, disks)


def register() -> bytes:
    """REGISTER; the daemon does not answer it."""
    return header(REGISTER, 0)


def acquire(space: str, name: str, area: Area, *, flags: int = 0) -> bytes:
    """ACQUIRE of one exclusive resource for the sending connection."""
    body = resource_body(space, name) + area.encode() + struct.pack("<48sII", b"bench", 0, 0)
    return header(ACQUIRE, len(body), flags=flags, data=1, data2=OWN_CONNECTION) + body


def release(space: str, name: str) -> bytes:
    """RELEASE of one resource held by the sending connection."""
    body = resource_body(space, name)
    return header(RELEASE, len(body), data=1, data2=OWN_CONNECTION) + body


def add_lockspace(name: str, host_id: int, area: Area, io_timeout_s: int) -> bytes:
    """ADD_LOCKSPACE, answered when the lockspace has been joined."""
    body = lockspace_body(name, host_id, area)
    return header(ADD_LOCKSPACE, len(body), data=io_timeout_s) + body


def rem_lockspace(name: str, host_id: int, area: Area) -> bytes:
    """REM_LOCKSPACE, answered when the lockspace is gone."""
    body = lockspace_body(name, host_id, area)
    return header(REM_LOCKSPACE, len(body)) + body


def write_lockspace(name: str, area: Area, io_timeout_s: int) -> bytes:
    """WRITE_LOCKSPACE with the default sizes (512-byte sectors, 1 MiB)."""
    body = lockspace_body(name, 0, area)
    return header(WRITE_LOCKSPACE, len(body), data2=io_timeout_s) + body


def write_resource(space: str, name: str, area: Area, num_hosts: int) -> bytes:
    """WRITE_RESOURCE; the header's `data` is num_hosts (section 8), 0 means the most that fit (2000)."""
    body = resource_body(space, name) + area.encode()
    return header(WRITE_RESOURCE, len(body), data=num_hosts) + body


def get_hosts(space: str, host_id: int) -> bytes:
    """GET_HOSTS for one host id."""
    body = lockspace_body(space, host_id, Area(Path("")))
    return header(GET_HOSTS, len(body)) + body


class Connection:
    """One blocking connection to a daemon; a context manager."""

    def __init__(self, path: Path, *, timeout_s: float = 120) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # SO_RCVTIMEO keeps the descriptor blocking: settimeout() would add a poll() to every receive.
        limit = struct.pack("ll", int(timeout_s), 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        # Of connect(2) too, while the daemon accepts nobody.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    def send(self, message: bytes) -> None:
        """Send one message that has no answer (REGISTER)."""
        self._socket.sendall(message)

    def receive(self, length: int) -> bytes:
        """Exactly `length` bytes, or ConnectionError, or BlockingIOError after the time limit."""
        data = self._socket.recv(length, socket.MSG_WAITALL)
        if len(data) != length:
            raise ConnectionError(f"the daemon closed the connection after {len(data)} of {length} bytes")
        return data

    def call(self, message: bytes) -> tuple[int, int]:
        """One request and the header of its answer: (result, data2)."""
        self._socket.sendall(message)
        fields = HEADER.unpack(self.receive(HEADER.size))
        result = fields[6]
        return (result - 0x100000000 if result & 0x80000000 else result), fields[7]

    def timed_call(self, message: bytes) -> tuple[int, int]:
        """One request: (result, nanoseconds from before the send until the whole header has arrived)."""
        start = time.perf_counter_ns()
        self._socket.sendall(message)
        answer = self._socket.recv(32, socket.MSG_WAITALL)
        elapsed = time.perf_counter_ns() - start
        if len(answer) != 32:
            raise ConnectionError(f"the daemon closed the connection after {len(answer)} of 32 bytes")
        result: int = struct.unpack_from("<i", answer, 24)[0]
        return result, elapsed


class BenchmarkError(Exception):
    """A daemon answered a set-up or measured request with an error, or could not be started."""


def expect(what: str, result: int, wanted: int = 0) -> None:
    """Raise BenchmarkError unless `result` is the wanted one."""
    if result != wanted:
        raise BenchmarkError(f"{what}: result {result}, expected {wanted}")
