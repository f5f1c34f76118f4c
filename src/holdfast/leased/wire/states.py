"""States with strings: what STATUS, HOST_STATUS and RENEWAL replies are made of (spec lease-wire 3.2, 13)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from holdfast.leased.wire.constants import (
    LOCKSPACE_SIZE,
    MAX_STATUS_STRING,
    STATE_LOCKSPACE,
    STATE_RESOURCE,
    STATE_SIZE,
)
from holdfast.leased.wire.structures import (
    FormatError,
    Lockspace,
    ReadableBytes,
    Resource,
    decode_lockspace,
    decode_text,
    pack_name,
    take_resource,
)

_STATE = struct.Struct("<IIIIQ48sII")


class State(NamedTuple):
    """`sanlk_state` with its string: one line of STATUS, HOST_STATUS and RENEWAL replies.

    A STATE_LOCKSPACE is followed by a `Lockspace`, a STATE_RESOURCE by a `Resource` with its disks.
    """

    type: int
    data32: int
    data64: int
    name: str
    text: str

    def encode(self) -> bytes:
        raw = self.text.encode("utf-8", "surrogateescape") + b"\0"
        return _STATE.pack(self.type, 0, self.data32, 0, self.data64, pack_name(self.name), len(raw), 0) + raw


def decode_state(raw: ReadableBytes, offset: int = 0) -> tuple[State, int]:
    """A state and the number of bytes it takes; FormatError when the bytes end before it does."""
    if len(raw) - offset < STATE_SIZE:
        raise FormatError("state cut short")
    kind, _, data32, _, data64, name, str_len, _ = _STATE.unpack_from(raw, offset)
    size = STATE_SIZE + str_len
    if str_len > 16 * MAX_STATUS_STRING or len(raw) - offset < size:
        raise FormatError(f"state string of {str_len} bytes cut short")
    text = decode_text(bytes(raw[offset + STATE_SIZE : offset + size]))
    return State(kind, data32, data64, decode_text(name), text), size


class StatusItem(NamedTuple):
    """A state and the structure behind it."""

    state: State
    lockspace: Lockspace | None = None
    resource: Resource | None = None

    def encode(self) -> bytes:
        if self.lockspace is not None:
            return self.state.encode() + self.lockspace.encode()
        if self.resource is not None:
            return self.state.encode() + self.resource.encode_with_disks()
        return self.state.encode()


def decode_status_items(raw: ReadableBytes) -> list[StatusItem]:
    """Everything behind the header of a STATUS, HOST_STATUS or RENEWAL reply."""
    items = []
    at = 0
    while at < len(raw):
        state, size = decode_state(raw, at)
        at += size
        if state.type == STATE_LOCKSPACE:
            if len(raw) - at < LOCKSPACE_SIZE:
                raise FormatError("lockspace cut short")
            items.append(StatusItem(state, lockspace=decode_lockspace(raw, at)))
            at += LOCKSPACE_SIZE
        elif state.type == STATE_RESOURCE:
            taken = take_resource(raw, at)
            if taken is None:
                raise FormatError("resource cut short")
            items.append(StatusItem(state, resource=taken[0]))
            at = taken[1]
        else:
            items.append(StatusItem(state))
    return items
