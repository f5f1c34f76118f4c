"""SCSI persistent reservations, as far as the path daemon registers its key on returning paths (spec path 4.4).

Pure exchanges of commands (`sg.Exchange`).
"""

from __future__ import annotations

import struct
from typing import Final

from holdfast.path.prkeys import ReservationKey
from holdfast.path.sg import Exchange, Key, SgAnswer, SgCommand

_IN: Final = 0x5E
_OUT: Final = 0x5F
_READ_KEYS: Final = 0x00
_REGISTER_AND_IGNORE: Final = 0x06
_FIRST_BYTES: Final = 8192
MAX_KEYS: Final = 1000
"""More registrations than that are not looked through."""
_PARAMETERS: Final = struct.Struct(">QQIBBH")
_APTPL: Final = 0x01
_ALL_TG_PT: Final = 0x04
MAX_TRIES: Final = 5
"""For UNIT ATTENTION: a device that came back has something to say first."""


def read_keys_command(timeout_ms: int) -> SgCommand:
    """PERSISTENT RESERVE IN, READ KEYS."""
    return SgCommand(struct.pack(">BB5xHx", _IN, _READ_KEYS, _FIRST_BYTES), timeout_ms, _FIRST_BYTES)


def keys_in(data: bytes) -> tuple[int, ...]:
    """The registered keys, out of the answer; what is cut off is left out."""
    if len(data) < 8:
        return ()
    count = min(int.from_bytes(data[4:8], "big") // 8, (len(data) - 8) // 8, MAX_KEYS)
    return struct.unpack_from(f">{count}Q", data, 8)


def register_command(key: ReservationKey, timeout_ms: int, all_ports: bool = False) -> SgCommand:
    """PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY."""
    flags = (_APTPL if key.aptpl else 0) | (_ALL_TG_PT if all_ports else 0)
    parameters = _PARAMETERS.pack(0, key.key, 0, flags, 0, 0)
    cdb = struct.pack(">BBBxxIx", _OUT, _REGISTER_AND_IGNORE, 0, len(parameters))
    return SgCommand(cdb, timeout_ms, data=parameters)


def _asked(command: SgCommand) -> Exchange[SgAnswer]:
    answer = yield command
    for _ in range(MAX_TRIES - 1):
        if answer.errno or answer.decoded_sense.key != Key.UNIT_ATTENTION:
            break
        answer = yield command
    return answer


def register(key: ReservationKey, timeout_ms: int, all_ports: bool = False) -> Exchange[bool]:
    """Register the key on this path, when it is among those that are registered on the logical unit. True: done,
    or not needed; False: the device refused, and I/O on this path could end in a conflict.
    """
    answer = yield from _asked(read_keys_command(timeout_ms))
    if not answer.is_clean:
        return False
    if key.key not in keys_in(answer.data):
        return True
    done = yield from _asked(register_command(key, timeout_ms, all_ports))
    return done.is_clean
