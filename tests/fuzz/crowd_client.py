"""A process that holds many leases, or many connections, for the tests of scale. It may be killed at any time.

python -m tests.fuzz.crowd_client SOCKET hold PATH FIRST COUNT     leases RFIRST... of LS, at 1 MiB each
python -m tests.fuzz.crowd_client SOCKET connections REGISTERED UNREGISTERED PATH
"""

from __future__ import annotations

import contextlib
import resource
import socket
import sys

from holdfast.leased import wire
from holdfast.leased.wire import Command, Disk, Options, Payload

MIB = 1 << 20


class Caller:
    """One registered connection."""

    def __init__(self, path: str) -> None:
        self.sock = connect(path)
        self.sock.sendall(wire.encode_request(Command.REGISTER))

    def call(self, cmd: int, body: bytes, **fields: int) -> int:
        self.sock.sendall(wire.encode_request(cmd, body, data2=wire.SELF_PID, **fields))
        header = wire.decode_header(self.sock.recv(wire.HEADER_SIZE, socket.MSG_WAITALL))
        self.sock.recv(header.length - wire.HEADER_SIZE, socket.MSG_WAITALL)
        return header.data


def connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock


def lease(path: str, number: int) -> wire.Resource:
    return wire.resource("LS", f"R{number}", [Disk(path, number * MIB)])


def acquiring(path: str, numbers: range) -> bytes:
    return Payload(tuple(lease(path, number) for number in numbers), Options("crowd")).encode(with_disks=True)


def hold(socket_path: str, path: str, first: int, count: int) -> None:
    """Acquire, say so, and release as the next line of input says: `all` or `list`; or wait for the end."""
    caller = Caller(socket_path)
    for start in range(first, first + count, wire.MAX_RESOURCES):
        numbers = range(start, min(start + wire.MAX_RESOURCES, first + count))
        result = caller.call(Command.ACQUIRE, acquiring(path, numbers), data=len(numbers))
        if result:
            print(f"acquire {result}", flush=True)
            return
    print("holding", flush=True)
    for line in sys.stdin:
        if line.strip() == "all":
            result = caller.call(Command.RELEASE, b"", flags=wire.RELEASE_ALL)
        else:
            body = b"".join(lease(path, number).encode() for number in range(first, first + count))
            result = caller.call(Command.RELEASE, body, data=count)
        print(f"released {result}", flush=True)


def connections(socket_path: str, registered: int, unregistered: int, path: str) -> None:
    """Open them, with requests under way on many, and wait for the end."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    open_ones = []
    for number in range(registered + unregistered):
        sock = connect(socket_path)
        open_ones.append(sock)
        if number < registered:
            sock.sendall(wire.encode_request(Command.REGISTER))
            body = acquiring(path, range(number % 500, number % 500 + 1))
            request = wire.encode_request(Command.ACQUIRE, body, data=1, data2=wire.SELF_PID)
            sock.sendall(request[: len(request) if number % 2 else number % len(request)])
        else:
            sock.sendall(wire.encode_request(Command.VERSION) + b"\x10" * (number % 40))
    print("open", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        sys.stdin.read()


if __name__ == "__main__":
    if sys.argv[2] == "hold":
        hold(sys.argv[1], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        connections(sys.argv[1], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
