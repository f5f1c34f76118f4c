"""SCSI commands through SG_IO as bytes: request header, answer, sense data (spec path 3.3).

Pure. A checker or prioritizer is a generator (`Exchange`): it yields `SgCommand`s, is sent an `SgAnswer` for each
and returns its verdict. So the same decision runs against a device, in a thread, and against recorded answers.
Layout of `struct sg_io_hdr` on 64-bit machines.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final, TypeVar

SG_IO: Final = 0x2285
HEADER_BYTES: Final = 88
SENSE_BYTES: Final = 32
MAX_TRANSFER_BYTES: Final = 1024 * 1024

_HEADER: Final = struct.Struct("=IiBBHIQQQIIi4xQBBBBHHiII4x")
_INTERFACE: Final = 0x53


class Direction(enum.IntEnum):
    """Of the data."""

    NONE = -1
    TO_DEVICE = -2
    FROM_DEVICE = -3


class Host(enum.IntEnum):
    """DID_* of the host adapter's driver, as far as somebody decides by it."""

    OK = 0x00
    NO_CONNECT = 0x01
    BUS_BUSY = 0x02
    TIME_OUT = 0x03
    BAD_TARGET = 0x04
    ABORT = 0x05
    ERROR = 0x07
    SOFT_ERROR = 0x0B
    TRANSPORT_DISRUPTED = 0x0E
    TRANSPORT_FAILFAST = 0x0F


class Key(enum.IntEnum):
    """Sense keys, as far as somebody decides by them."""

    NONE = 0
    RECOVERED = 1
    NOT_READY = 2
    ILLEGAL_REQUEST = 5
    UNIT_ATTENTION = 6


@dataclass(frozen=True, slots=True)
class SgCommand:
    """One command. `length`: bytes wanted from the device; `data`: bytes for it; never both."""

    cdb: bytes
    timeout_ms: int
    length: int = 0
    data: bytes = b""

    @property
    def direction(self) -> Direction:
        """Follows from what is to be moved."""
        if self.data:
            return Direction.TO_DEVICE
        return Direction.FROM_DEVICE if self.length else Direction.NONE

    @property
    def transfer_length(self) -> int:
        """Bytes of the data buffer."""
        return len(self.data) or self.length


@dataclass(frozen=True, slots=True)
class Sense:
    """Key, additional code, qualifier; all 0 when there is no sense data."""

    key: int = 0
    asc: int = 0
    ascq: int = 0


@dataclass(frozen=True, slots=True)
class SgAnswer:
    """What came back. `errno` not 0: ioctl(2) itself failed and the rest means nothing."""

    errno: int = 0
    status: int = 0
    host_status: int = 0
    driver_status: int = 0
    sense: bytes = b""
    data: bytes = b""
    info: int = 0
    """Bit 0: something was not OK."""

    @property
    def decoded_sense(self) -> Sense:
        """See `decode_sense`."""
        return decode_sense(self.sense)

    @property
    def is_clean(self) -> bool:
        """Executed, and nothing to remark."""
        return not (self.errno or self.status or self.host_status or self.driver_status)


Result = TypeVar("Result")
Exchange = Generator[SgCommand, SgAnswer, Result]
"""Yields commands, gets answers, returns a verdict."""

Execute = Callable[[SgCommand], SgAnswer]
"""Carries out one command; may block for its timeout and longer."""


def run_exchange(exchange: Exchange[Result], execute: Execute) -> Result:
    """Carry out an exchange here and now: for a worker thread, and for tests."""
    try:
        command = next(exchange)
        while True:
            command = exchange.send(execute(command))
    except StopIteration as done:
        result: Result = done.value
        return result


def encode_header(command: SgCommand, data_address: int, cdb_address: int, sense_address: int) -> bytearray:
    """`struct sg_io_hdr`. The addresses must stay valid until ioctl(2) has returned."""
    return bytearray(
        _HEADER.pack(
            _INTERFACE,
            command.direction,
            len(command.cdb),
            SENSE_BYTES,
            0,
            command.transfer_length,
            data_address if command.transfer_length else 0,
            cdb_address,
            sense_address,
            command.timeout_ms,
            *(0,) * 12,
        )
    )


def decode_header(header: bytes | bytearray, sense: bytes | bytearray, data: bytes | bytearray) -> SgAnswer:
    """The answer out of the header that the kernel filled; `sense` and `data` are the whole buffers."""
    fields = _HEADER.unpack(header)
    transfer_length, status, written = fields[5], fields[13], fields[16]
    host_status, driver_status, resid, info = fields[17], fields[18], fields[19], fields[21]
    received = transfer_length - resid if 0 <= resid <= transfer_length else 0
    return SgAnswer(
        status=status,
        host_status=host_status,
        driver_status=driver_status,
        sense=bytes(sense[:written]),
        data=bytes(data[:received]) if fields[1] == Direction.FROM_DEVICE else b"",
        info=info,
    )


def decode_sense(sense: bytes) -> Sense:
    """Fixed (70, 71) and descriptor (72, 73) format; what is too short or of another format has key 0.

    The lengths are those of the original, one byte more than needed for the key of the fixed format: more than 3
    bytes, and more than 13 for the fixed format.
    """
    if len(sense) <= 3:
        return Sense()
    code = sense[0]
    if code in (0x72, 0x73):
        return Sense(sense[1] & 0x0F, sense[2], sense[3])
    if code & 0x7F in (0x70, 0x71) and len(sense) > 13:
        return Sense(sense[2] & 0x0F, sense[12], sense[13])
    return Sense()


def tur_command(timeout_ms: int) -> SgCommand:
    """TEST UNIT READY: is the logical unit there?"""
    return SgCommand(bytes(6), timeout_ms)


def inquiry(page: int | None, length: int, timeout_ms: int) -> SgCommand:
    """Standard INQUIRY (None), or a page of vital product data."""
    cdb = struct.pack(">BBBHB", 0x12, 0 if page is None else 1, page or 0, length, 0)
    return SgCommand(cdb, timeout_ms, length)


def read10(lba: int, blocks: int, length: int, timeout_ms: int) -> SgCommand:
    """Read `blocks` logical blocks; `length` bytes are asked for."""
    return SgCommand(struct.pack(">BBIBHB", 0x28, 0, lba, 0, blocks, 0), timeout_ms, length)
