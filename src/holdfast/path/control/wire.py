"""Frames of multipathd's socket: a length and a text with its NUL, both ways (spec path 6.1). Sans-IO.

The length is 8 bytes in the byte order of the machine. Requests hold 1 to `MAX_REQUEST` bytes, replies at most
`MAX_REPLY`. Texts are bytes here: names of devices may hold any.
"""

from __future__ import annotations

import struct
from typing import Final

LENGTH: Final = struct.Struct("=Q")
MAX_REQUEST: Final = 512
"""Bytes of a request, its NUL among them; a longer one ends the connection."""
MAX_REPLY: Final = (32 << 20) - 1
"""Bytes of a reply, its NUL among them; what the original's client takes."""


PIECE_SIZE: Final = 1 << 16
"""What is sent at once."""


class FramingError(ValueError):
    """What cannot be a frame: the connection has to be closed, nothing behind it can be found."""


class ReplyTooLongError(ValueError):
    """A text that no client would take."""


def encode(text: bytes) -> bytes:
    """The frame of a text, without any NUL in it, which would end it for the reader. ReplyTooLongError."""
    outgoing = Outgoing()
    outgoing.add(text)
    return b"".join(outgoing.finish())


class Outgoing:
    """Puts a frame together from pieces of its text, without ever copying all of it at once."""

    __slots__ = ("_buffer", "_done", "_length")

    def __init__(self) -> None:
        self._done: list[bytearray] = []
        self._buffer = bytearray(LENGTH.size)
        self._length = 1

    def add(self, text: bytes) -> None:
        """ReplyTooLongError."""
        if b"\0" in text:
            text = text.replace(b"\0", b"")
        self._length += len(text)
        if self._length > MAX_REPLY:
            raise ReplyTooLongError(f"a text of more than {MAX_REPLY} bytes")
        self._buffer += text
        if len(self._buffer) >= PIECE_SIZE:
            self._done.append(self._buffer)
            self._buffer = bytearray()

    @property
    def is_empty(self) -> bool:
        """No text yet."""
        return self._length == 1

    def finish(self, behind: bytes = b"") -> list[bytearray]:
        """The frame in pieces, each about `PIECE_SIZE` long if the pieces that were added are shorter. `behind`
        follows the text's NUL, with one of its own: only who looks there sees it (`Incoming.behind`).
        """
        self._buffer.append(0)
        if behind:
            self._buffer += behind.replace(b"\0", b"") + b"\0"
            self._length += len(behind.replace(b"\0", b"")) + 1
        self._done.append(self._buffer)
        LENGTH.pack_into(self._done[0], 0, self._length)
        return self._done


class Incoming:
    """Puts frames together. Receive at most `wanted` bytes, `feed` them.

    The server reads requests with `whole_length`: what is received of the length at first has to be all of it,
    else the connection is closed, as the original does. A client takes the length of a reply in any pieces.
    """

    __slots__ = ("_buffer", "_length", "_limit", "_whole_length", "behind")

    def __init__(self, limit: int = MAX_REQUEST, *, whole_length: bool = True) -> None:
        self.behind = b""
        """What the last frame had behind its text, without a NUL: why a command failed (`ControlServer`)."""
        self._limit = limit
        self._whole_length = whole_length
        self._buffer = bytearray()
        self._length: int | None = None

    @property
    def wanted(self) -> int:
        """How many bytes belong to this frame yet, as far as is known."""
        return (LENGTH.size if self._length is None else self._length) - len(self._buffer)

    @property
    def has_length(self) -> bool:
        """A frame was begun: its length is there, its text is not complete."""
        return self._length is not None

    def feed(self, data: bytes) -> bytes | None:
        """The text before its NUL when the frame is complete, else None. FramingError."""
        self._buffer += data
        if self._length is None:
            if len(self._buffer) < LENGTH.size:
                if self._whole_length:
                    raise FramingError(f"{len(self._buffer)} bytes of a length")
                return None
            (self._length,) = LENGTH.unpack_from(self._buffer)
            self._buffer.clear()
            if not 0 < self._length <= self._limit:
                raise FramingError(f"length {self._length}, not 1 to {self._limit}")
            return None
        if len(self._buffer) < self._length:
            return None
        text, _, rest = bytes(self._buffer).partition(b"\0")
        self.behind = rest.partition(b"\0")[0]
        self.reset()
        return text

    def reset(self) -> None:
        """What was read of a frame is forgotten; the next byte begins another one."""
        self._buffer.clear()
        self._length = None
