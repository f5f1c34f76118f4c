"""wdmd's message: one fixed 176-byte header in both directions, host byte order (spec watchdog 3.3).

Pure functions, no I/O. What arrives is hostile: any 176 bytes decode, nothing in them is believed.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple

MESSAGE_SIZE: Final = 176
NAME_SIZE: Final = 128
_MESSAGE: Final = struct.Struct("=6I3Q128s")
assert _MESSAGE.size == MESSAGE_SIZE


class Command(enum.IntEnum):
    """What a client may ask. Everything else is ignored without a reply."""

    REGISTER = 1
    REFCOUNT_SET = 2
    REFCOUNT_CLEAR = 3
    TEST_LIVE = 4
    STATUS = 5
    DUMP_DEBUG = 6
    OPEN_WATCHDOG = 7
    SUPERSEDE = 0x48465001
    """Ours only: this client answers from now on for what a dead one of its name left behind. Replied like
    OPEN_WATCHDOG, with 1 when there was one; the original ignores it."""


class Message(NamedTuple):
    """One header. Times are whole CLOCK_MONOTONIC seconds."""

    cmd: int
    name: str = ""
    """At most 128 bytes; no terminator needed."""
    renewal: int = 0
    expire: int = 0
    """0: no expiry."""
    fire_timeout: int = 0
    test_interval: int = 0
    last_keepalive: int = 0
    magic: int = 0
    length: int = 0
    flags: int = 0


def encode(message: Message) -> bytes:
    """176 bytes."""
    return _MESSAGE.pack(
        message.magic,
        message.cmd,
        message.length,
        message.flags,
        message.test_interval,
        message.fire_timeout,
        message.last_keepalive,
        message.renewal,
        message.expire,
        message.name.encode("utf-8", "surrogateescape")[:NAME_SIZE],
    )


def decode(raw: bytes | bytearray | memoryview) -> Message:
    """The message in exactly 176 bytes; the name ends at the first NUL."""
    magic, cmd, length, flags, interval, fire, keepalive, renewal, expire, name = _MESSAGE.unpack(raw)
    return Message(
        cmd=cmd,
        name=name.split(b"\0", 1)[0].decode("utf-8", "surrogateescape"),
        renewal=renewal,
        expire=expire,
        fire_timeout=fire,
        test_interval=interval,
        last_keepalive=keepalive,
        magic=magic,
        length=length,
        flags=flags,
    )


def status_reply(request: bytes, *, test_interval: int, fire_timeout: int, last_keepalive: int) -> bytes:
    """The request copied back, three fields filled in: clients may rely on every other byte."""
    reply = bytearray(request)
    struct.pack_into("=IIQ", reply, 16, test_interval, fire_timeout, last_keepalive)
    return bytes(reply)


def open_reply(request: bytes, fire_timeout: int) -> bytes:
    """The request copied back with the timeout in force; 0 means that it could not be done."""
    reply = bytearray(request)
    struct.pack_into("=I", reply, 20, fire_timeout)
    return bytes(reply)
