"""Persistent reservations: a map's key on a path that comes back (spec path 4.4). Exchanges of commands, pure.

The key is registered on the path only if it is registered with the logical unit at all: otherwise somebody has
taken it away (fenced this host), and registering it again would undo that.
"""

from __future__ import annotations

import struct
from typing import Final

from holdfast.path.prkeys import ReservationKey
from holdfast.path.sg import Exchange, Key, SgAnswer, SgCommand

READ_KEYS: Final = 0x00
REGISTER_AND_IGNORE: Final = 0x06
MAX_KEYS_BYTES: Final = 8192
MAX_TRIES: Final = 5
"""For a unit attention, which each change of reservations causes."""
APTPL: Final = 0x01
ALL_TG_PT: Final = 0x04
_HEAD: Final = struct.Struct(">II")
_PARAMETERS: Final = struct.Struct(">QQ4xB3x")


def read_keys_command(timeout_ms: int) -> SgCommand:
    """PERSISTENT RESERVE IN, READ KEYS."""
    cdb = struct.pack(">BB5xHx", 0x5E, READ_KEYS, MAX_KEYS_BYTES)
    return SgCommand(cdb, timeout_ms, length=MAX_KEYS_BYTES)


def register_command(timeout_ms: int, key: ReservationKey, all_ports: bool) -> SgCommand:
    """PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY."""
    flags = (APTPL if key.aptpl else 0) | (ALL_TG_PT if all_ports else 0)
    data = _PARAMETERS.pack(0, key.key, flags)
    return SgCommand(struct.pack(">BBBxxIx", 0x5F, REGISTER_AND_IGNORE, 0, len(data)), timeout_ms, data=data)


def parse_keys(data: bytes) -> set[int]:
    """The keys of READ KEYS; those that did not fit are not in it."""
    if len(data) < _HEAD.size:
        return set()
    _, length = _HEAD.unpack_from(data)
    end = min(_HEAD.size + length, len(data))
    return {struct.unpack_from(">Q", data, at)[0] for at in range(_HEAD.size, end - 7, 8)}


def register(timeout_ms: int, key: ReservationKey, all_ports: bool = False) -> Exchange[bool]:
    """Register it if the logical unit knows it. True: done, or nothing to do; False: it could not be done."""
    answer = yield from _asked(read_keys_command(timeout_ms))
    if not answer.is_clean:
        return False
    if key.key not in parse_keys(answer.data):
        return True
    return (yield from _asked(register_command(timeout_ms, key, all_ports))).is_clean


def _asked(command: SgCommand) -> Exchange[SgAnswer]:
    answer = yield command
    for _ in range(MAX_TRIES - 1):
        if answer.is_clean or answer.errno or answer.decoded_sense.key != Key.UNIT_ATTENTION:
            break
        answer = yield command
    return answer
