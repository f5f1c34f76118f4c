"""Hostile clients of the lease socket: seeded, structure-aware request streams (lease-wire 3 to 5, 21).

Most requests are nearly right: a valid one with a field, a length, a name, a path or a bit changed, because those
get furthest. `Conversation` is what one connection does: bytes in pieces, reading or not, and how it ends.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from holdfast.leased import wire
from holdfast.leased.wire import (
    Command,
    Disk,
    Header,
    HostEvent,
    Lockspace,
    Options,
    Payload,
    Rentry,
    Resource,
    Rindex,
)

MIB: Final = 1 << 20
NUMBERS: Final = (0, 1, 2, 4, 8, 9, 60, 255, 256, 4096, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
LONG_NUMBERS: Final = (0, 1, 2, 2000, 2001, 1 << 32, (1 << 63) - 512, 1 << 63, (1 << 64) - MIB, (1 << 64) - 1)
FLAGS: Final = (0, 0, 0, 0, 1, 2, 3, 4, 8, 0x10, 0x110, 0x210, 0x280, 0x300, 0x10000, 0x20000, 0x20001, 0xFFFFFFFF)
OFTEN: Final = (Command.ACQUIRE, Command.RELEASE, Command.CONVERT, Command.SET_LVB, Command.GET_LVB)
SELDOM: Final = (Command.REM_LOCKSPACE, Command.WRITE_LOCKSPACE, Command.WRITE_RESOURCE, Command.FORMAT_RINDEX)
WEIGHTS: Final = {command: 5 if command in OFTEN else 0.3 if command in SELDOM else 1 for command in Command}
"""Clearing everything all the time would leave nothing to hit."""
ENDINGS: Final = (Command.SHUTDOWN, Command.SHUTDOWN_WAIT)


@dataclass(frozen=True)
class World:
    """What the requests are about. `paths[0]` is real storage: a lockspace, two resources, an index at 4 MiB."""

    paths: Sequence[str]
    pids: Sequence[int] = ()
    """Of registered clients that may be acted on."""
    may_end: bool = True
    """Whether requests that end the daemon, or set programs that it runs, may be made."""
    names: Sequence[str] = (
        "LS",
        "LS",
        "LS",
        "LT",
        "R",
        "R",
        "R2",
        "",
        "x" * 48,
        "two\nlines \x1b[31m",
        b"\xff\xfe not text".decode("utf-8", "surrogateescape"),
    )


@dataclass(frozen=True)
class Conversation:
    """One connection: pieces to send; whether it takes replies; whether it is closed after the last piece."""

    pieces: tuple[bytes, ...]
    reads: bool
    closes: bool


class Generator:
    """Makes conversations; the same seed and world make the same ones."""

    def __init__(self, rng: random.Random, world: World) -> None:
        self.rng = rng
        self.world = world

    def conversation(self) -> Conversation:
        rng = self.rng
        parts = [wire.encode_request(Command.REGISTER)] if rng.random() < 0.6 else []
        parts += [self.message() for _ in range(rng.randrange(1, 7))]
        if rng.random() < 0.05:
            parts += [wire.encode_request(rng.choice((Command.VERSION, Command.STATUS)))] * rng.randrange(300)
        if rng.random() < 0.1:
            parts.insert(rng.randrange(len(parts)), wire.encode_request(Command.RESTRICT, flags=rng.randrange(8)))
        stream = b"".join(parts)
        if rng.random() < 0.2:
            stream = stream[: rng.randrange(len(stream) + 1)]
        return Conversation(self._split(stream), rng.random() < 0.7, rng.random() < 0.5)

    def _split(self, stream: bytes) -> tuple[bytes, ...]:
        """At a few random bytes, or nowhere."""
        cuts = sorted(self.rng.randrange(len(stream) + 1) for _ in range(self.rng.choice((0, 0, 1, 3, 12))))
        return tuple(stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True))

    def message(self) -> bytes:
        """One request, valid or not."""
        rng = self.rng
        if rng.random() < 0.05:
            return rng.randbytes(rng.randrange(200))
        header, payload = self.valid()
        raw = bytearray(header.encode() + payload)
        if rng.random() < 0.45:
            return bytes(raw)
        if not self.world.may_end and header.cmd == Command.KILLPATH:
            return bytes(raw)
        for _ in range(rng.randrange(1, 3)):
            self._damage(raw)
        return b"" if not self.world.may_end and _command(raw) in ENDINGS else bytes(raw)

    def _damage(self, raw: bytearray) -> None:
        rng = self.rng
        how = rng.choice(("header", "header", "flip", "number", "cut", "more", "junk"))
        if how == "header":
            # Not the command where it could become one that ends the daemon by accident of the damage.
            at = 4 * rng.choice((0, 1, 3, 4, 5, 6, 7))
            raw[at : at + 4] = rng.choice(NUMBERS).to_bytes(4, "little")
        elif how == "flip" and raw:
            at = rng.randrange(len(raw))
            if not 8 <= at < 12:
                raw[at] ^= 1 << rng.randrange(8)
        elif how == "number" and len(raw) > 40:
            at = rng.randrange(32, len(raw) - 7, 4)
            raw[at : at + 8] = rng.choice(LONG_NUMBERS).to_bytes(8, "little")
        elif how == "cut":
            del raw[rng.randrange(len(raw) + 1) :]
        elif how == "more":
            raw += rng.randbytes(rng.randrange(64))
        elif len(raw) > 32:
            at = rng.randrange(32, len(raw))
            raw[at : at + 16] = rng.randbytes(min(16, len(raw) - at))

    def valid(self) -> tuple[Header, bytes]:
        """A header and a payload that fit."""
        rng = self.rng
        while True:
            cmd = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            if self.world.may_end or cmd not in ENDINGS:
                break
        flags, data = rng.choice(FLAGS), 0
        data2 = rng.choice((*[wire.SELF_PID] * 5, 0, self._pid()))
        payload = Payload()
        if cmd == Command.ACQUIRE:
            leases = tuple(self.lease() for _ in range(rng.choice((0, 1, 1, 1, 2, 8))))
            payload, data = Payload(leases, Options(self.name())), len(leases)
        elif cmd == Command.RELEASE:
            leases = tuple(self.lease() for _ in range(rng.choice((1, 1, 2, 30))))
            payload, data = Payload(leases), len(leases)
        elif cmd in wire.COMMANDS_WITH_DISKS:
            payload = Payload((self.lease(),))
        elif cmd in (Command.EXAMINE_RESOURCE, Command.GET_LVB, Command.CONVERT, Command.SET_LVB):
            value = rng.randbytes(rng.choice((0, 1, 512, 513, 4096))) if cmd == Command.SET_LVB else b""
            payload = Payload((self.lease(),), value=value)
        elif cmd == Command.ALIGN:
            payload = Payload(disk=self.disk())
        elif cmd == Command.KILLPATH:
            payload = Payload(killpath="/bin/true", killargs=rng.choice(("", "a b", "\\ \\\\ x", "x" * 127)))
        elif cmd in (Command.FORMAT_RINDEX, Command.REBUILD_RINDEX):
            payload = Payload(rindex=self.rindex())
        elif cmd in (
            Command.UPDATE_RINDEX,
            Command.LOOKUP_RINDEX,
            Command.CREATE_RESOURCE,
            Command.DELETE_RESOURCE,
        ):
            entry = Rentry(self.name(), rng.choice((0, 5 * MIB, 6 * MIB, 7 * MIB, *LONG_NUMBERS)))
            payload = Payload(rindex=self.rindex(), rentry=entry)
        elif cmd in (Command.REG_EVENT, Command.SET_EVENT):
            event = HostEvent(*[rng.choice(LONG_NUMBERS) for _ in range(4)])
            payload = Payload(lockspace=self.lockspace(), event=event)
        elif cmd not in (
            *(Command.REGISTER, Command.STATUS, Command.LOG_DUMP, Command.VERSION, Command.INQUIRE),
            *(Command.RESTRICT, Command.GET_LOCKSPACES, *ENDINGS),
        ):
            payload = Payload(lockspace=self.lockspace())
        if cmd == Command.ADD_LOCKSPACE:
            data = rng.choice((0, 1, 1, 1, 255, 256, -1))
        elif cmd not in (Command.ACQUIRE, Command.RELEASE):
            data = rng.choice((0, 0, 1, 2, 3, -1, 0x7FFFFFFF))
        if cmd in (Command.WRITE_LOCKSPACE, Command.GET_LVB, Command.WRITE_RESOURCE, Command.CREATE_RESOURCE):
            data2 = rng.choice(NUMBERS)
        with_disks = cmd in wire.COMMANDS_WITH_DISKS
        body = payload.encode(with_disks)
        length = wire.HEADER_SIZE + len(body)
        return Header(
            wire.MAGIC, wire.PROTOCOL_VERSION, cmd, flags, length, rng.getrandbits(16), data, data2
        ), body

    def _pid(self) -> int:
        return self.rng.choice((0, 1, *self.world.pids))

    def name(self) -> str:
        return self.rng.choice(self.world.names)

    def disk(self) -> Disk:
        rng = self.rng
        path = self.world.paths[0] if rng.random() < 0.7 else rng.choice(self.world.paths)
        places = (0, 0, 0, MIB, MIB, 2 * MIB, 4 * MIB, 4 * MIB, 512, 1, *LONG_NUMBERS)
        return Disk(path, rng.choice(places), rng.choice(NUMBERS), rng.choice(NUMBERS))

    def lease(self) -> Resource:
        rng = self.rng
        space = "LS" if rng.random() < 0.8 else self.name()
        name, place = rng.choice((("R", MIB), ("R2", 2 * MIB), (self.name(), rng.choice((MIB, 3 * MIB)))))
        disks = [Disk(self.world.paths[0], place)]
        if rng.random() < 0.2:
            disks = [self.disk() for _ in range(rng.choice((1, 1, 2, 4)))]
        lease = wire.resource(space, name, disks, lver=rng.choice((0, 0, 1, 1 << 63)), flags=rng.choice(FLAGS))
        return lease._replace(data32=rng.choice((0, *NUMBERS)))

    def lockspace(self) -> Lockspace:
        rng = self.rng
        if rng.random() < 0.5:
            return Lockspace("LS", rng.choice((0, 1, 1, 1, 2)), 0, Disk(self.world.paths[0]))
        return Lockspace(self.name(), rng.choice((0, 1, 2, *LONG_NUMBERS)), rng.choice(FLAGS), self.disk())

    def rindex(self) -> Rindex:
        rng = self.rng
        if rng.random() < 0.5:
            return Rindex(0, rng.choice((0, 2)), 0, "LS", Disk(self.world.paths[0], 4 * MIB))
        return Rindex(rng.choice(FLAGS), rng.choice(NUMBERS), 0, self.name(), self.disk())


def _command(raw: bytearray) -> int:
    return int.from_bytes(raw[8:12], "little")
