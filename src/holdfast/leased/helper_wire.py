"""What daemon and helper write into the two pipes between them (spec lease-wire 11). A codec, nothing else.

Requests have 512 bytes and statuses 4, so that a pipe takes each of them whole or not at all. The original's
fields lie where it has them. What it has not lies in its padding: a number under which the helper answers, the
start time of the process meant (a recycled pid is never hit, spec 21 no. 21), and the instant after which the
request means nothing any more (spec 21 no. 28).

The helper process imports this file: nothing large may be imported here.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple

REQUEST_SIZE: Final = 512
STATUS_SIZE: Final = 4
PATH_BYTES: Final = 127
"""Of path and args each; the 128th is a NUL."""
NUMBERS: Final = 1 << 16

_REQUEST: Final = struct.Struct("<B3xIii128s128s")
_EXTENSION: Final = struct.Struct("<IHxxQQ")
_STATUS: Final = struct.Struct("<BBH")
_MAGIC: Final = 0x31504C48
_HEARTBEAT: Final = 1
_ANSWER: Final = 2


class WireError(ValueError):
    """These bytes were not written by the other side as it should be."""


class Kind(enum.IntEnum):
    """Request types; the first three are the original's."""

    RUNPATH = 1
    KILLPID = 2
    WRITE_SYSFS = 3
    PING = 4
    """Only to be answered."""


class Result(enum.IntEnum):
    """What became of a request."""

    DONE = 0
    EXPIRED = 1
    """Read too late: nothing was done."""
    GONE = 2
    """The process is not there any more, or another one has its number."""
    REFUSED = 3
    """The kernel does not allow it, or the request is one that the helper never executes."""
    FAILED = 4
    """Something else failed; logged by nobody, because the helper has no log."""


class Request(NamedTuple):
    """One request. `pid`: whom to signal, or the last argument of a program (0: none)."""

    kind: Kind
    number: int
    expires_ms: int
    """CLOCK_BOOTTIME milliseconds; later it is dropped."""
    path: str = ""
    args: str = ""
    pid: int = 0
    signal: int = 0
    start_ticks: int = 0
    """Start of process `pid` in clock ticks since boot."""

    def encode(self) -> bytes:
        """512 bytes; path and args are cut to 127."""
        fields = _REQUEST.pack(self.kind, 0, self.pid, self.signal, _text(self.path), _text(self.args))
        extension = _EXTENSION.pack(_MAGIC, self.number, self.start_ticks, self.expires_ms)
        return (fields + extension).ljust(REQUEST_SIZE, b"\0")


class Status(NamedTuple):
    """One status: a heartbeat (`number` is None), or the answer to a request."""

    number: int | None = None
    result: Result = Result.DONE

    def encode(self) -> bytes:
        if self.number is None:
            return _STATUS.pack(_HEARTBEAT, 0, 0)
        return _STATUS.pack(_ANSWER, self.result, self.number)


def decode_request(data: bytes) -> Request:
    """WireError when it is none of ours."""
    if len(data) != REQUEST_SIZE:
        raise WireError(f"a request of {len(data)} bytes")
    kind, _flags, pid, number_of_signal, path, args = _REQUEST.unpack_from(data)
    magic, number, start_ticks, expires_ms = _EXTENSION.unpack_from(data, _REQUEST.size)
    if magic != _MAGIC:
        raise WireError(f"a request with magic {magic:#x}")
    try:
        known = Kind(kind)
    except ValueError:
        raise WireError(f"a request of type {kind}") from None
    return Request(known, number, expires_ms, _string(path), _string(args), pid, number_of_signal, start_ticks)


def decode_statuses(data: bytes) -> list[Status]:
    """WireError when anything in it is none."""
    if len(data) % STATUS_SIZE:
        raise WireError(f"{len(data)} bytes of statuses")
    found = []
    for kind, result, number in _STATUS.iter_unpack(data):
        if kind == _HEARTBEAT:
            found.append(Status())
        elif kind == _ANSWER and result in Result.__members__.values():
            found.append(Status(number, Result(result)))
        else:
            raise WireError(f"a status of type {kind} with result {result}")
    return found


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")[:PATH_BYTES]


def _string(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
