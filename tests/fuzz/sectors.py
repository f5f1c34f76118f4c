"""Hostile storage: damaged, forged and random sectors under every operation that reads them (lease-disk 12, 15).

    python -m tests.fuzz.sectors [--seed N] [--cases N]

One case is one seed: an image with a lockspace, a resource and an index, some sectors of it changed (with
checksums that fit, or not), then a few operations of host 1 on virtual time. Each must end in success or
LeaseError within a bound, and write to nothing but its own sectors. No file, no process, no real clock.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import random
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from holdfast.lease import inspect
from holdfast.lease.checksum import checksum
from holdfast.lease.dump_text import Detail, dump_lines
from holdfast.lease.errors import MEANING, Code, LeaseError
from holdfast.lease.format import init_lockspace, init_resource
from holdfast.lease.geometry import MIB, SMALL
from holdfast.lease.lockspace import Lockspace
from holdfast.lease.records import (
    DELTA_DISK_MAGIC,
    PAXOS_DISK_CLEAR,
    PAXOS_DISK_MAGIC,
    REQ_DISK_MAGIC,
    RINDEX_DISK_MAGIC,
    HostBlock,
    Request,
    decode_host_block,
    decode_leader,
)
from holdfast.lease.request import clear_request, read_request, write_request
from holdfast.lease.resource import AcquireOptions, Lease, Target, Unclear, acquire, convert, release, retract
from holdfast.lease.rindex import (
    create,
    delete,
    format_index,
    list_entries,
    lookup,
    rebuild,
    rebuild_unlocked,
    set_entry,
)
from holdfast.testing.memory_disk import MemoryDisk, Transfer
from holdfast.testing.sim_clock import SimClock, SimHost
from holdfast.testing.virtual_loop import run_virtual

SPACE: Final = "space"
RESOURCE: Final = "r"
RES: Final = MIB
INDEX: Final = 2 * MIB
INDEX_LEASE: Final = 3 * MIB
SLOTS: Final = 4 * MIB
SECTOR: Final = 512
OWN_ID: Final = 1
OTHER_ID: Final = 2
SHARER_ID: Final = 3
FIRST_BLOCK: Final = 2
LVB: Final = 2002
MAX_STEPS: Final = 4
VIRTUAL_LIMIT_S: Final = 3 * (8 * 65535 + 60.0)
"""The longest waits by the rules, for a silent owner: 8 times the io timeout of a forged record, and 60 s."""
MAX_TRANSFERS: Final = 20_000

REFUSED_BEFORE_A_BALLOT: Final = frozenset(
    {
        Code.LEADER_MAGIC,
        Code.LEADER_VERSION,
        Code.LEADER_SECTORSIZE,
        Code.LEADER_LOCKSPACE,
        Code.LEADER_RESOURCE,
        Code.LEADER_NUMHOSTS,
        Code.LEADER_CHECKSUM,
        Code.DBLOCK_CHECKSUM,
        Code.ADDLS_SIZES,
    }
)
INTERESTING: Final = (
    *(0, 1, 2, 3, 7, 0x10, 0x20, 0x40, 0x80, 0xF0, 512, 1024, 2000, 2001, 4096, 0x7FFFFFFF, 0x80000000),
    *(0xFFFFFFFF, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 2000, (1 << 64) - 2, (1 << 64) - 1),
    *(PAXOS_DISK_MAGIC, PAXOS_DISK_CLEAR, DELTA_DISK_MAGIC, REQ_DISK_MAGIC, RINDEX_DISK_MAGIC),
    *(0x00060004, 0x00060003, 0x00070001, 0x00030004, 0x00010001, 0x00010002),
)


class Broken(AssertionError):
    """An operation did what none may do."""


# -- what is changed ---------------------------------------------------------------------------------------


@cache
def base_image() -> bytes:
    """Host 2 lives and owns nothing, an index with two names; 6 MiB."""

    async def main() -> bytes:
        disk = MemoryDisk(max_size=8 * MIB)
        await init_lockspace(disk, 0, SPACE, SMALL, 1)
        await init_resource(disk, RES, SPACE, RESOURCE, SMALL)
        await format_index(disk, INDEX, SPACE, SMALL, 4)
        space = make_space(disk, OTHER_ID)
        await space.join()
        await create(space, disk, INDEX, "one")
        await create(space, disk, INDEX, "two")
        await space.renew()
        return bytes(disk.data)

    return run_virtual(main())


def make_space(disk: MemoryDisk, host_id: int) -> Lockspace:
    host = SimHost(asyncio.get_running_loop(), f"host-{host_id}")
    return Lockspace(
        disk,
        SimClock(host),
        name=SPACE,
        host_id=host_id,
        host_name=f"host-{host_id}",
        io_timeout=1,
        rng=random.Random(host_id),
    )


def block_offset(host_id: int, area: int = RES) -> int:
    return area + (FIRST_BLOCK + host_id - 1) * SECTOR


def delta_offset(host_id: int) -> int:
    return (host_id - 1) * SECTOR


PLACES: Final = (
    *(("leader", RES), ("leader", RES), ("leader", RES), ("leader", INDEX_LEASE), ("leader", SLOTS)),
    *(("delta", delta_offset(host_id)) for host_id in (OWN_ID, OTHER_ID, SHARER_ID, 9, 2000)),
    *(("block", block_offset(host_id)) for host_id in (OWN_ID, OWN_ID, OTHER_ID, OTHER_ID, SHARER_ID, 2000)),
    ("request", RES + SECTOR),
    *(("block", block_offset(host_id, INDEX_LEASE)) for host_id in (OWN_ID, OTHER_ID)),
    *(("header", INDEX), ("entries", INDEX + SECTOR)),
)
COVERED: Final = {"leader": 168, "delta": 168, "block": 48}
"""Bytes that the checksum behind them covers."""
RECORD: Final = {"leader": 200, "delta": 512, "block": 144, "request": 24, "header": 80, "entries": 256}


def mutate(rng: random.Random, image: bytearray) -> str:
    """Change one sector; says what was done."""
    kind, offset = rng.choice(PLACES)
    sector = bytearray(image[offset : offset + SECTOR])
    how = rng.choice((*["number", "forge"] * 3, "bytes", "flip", "random", "zeros", "ones", "copy"))
    size = RECORD[kind]
    if how == "number":
        width = rng.choice((4, 8))
        at = rng.randrange(0, size - width + 1, 4)
        value = rng.choice(INTERESTING) & ((1 << 8 * width) - 1)
        sector[at : at + width] = value.to_bytes(width, "little")
        how = f"number {value:#x} at {at}"
    elif how == "bytes":
        at = rng.randrange(size)
        junk = rng.randbytes(rng.randrange(1, 49))[: size - at]
        sector[at : at + len(junk)] = junk
    elif how == "flip":
        sector[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif how == "random":
        sector[:] = rng.randbytes(SECTOR)
    elif how in ("zeros", "ones"):
        sector[:] = (b"\0" if how == "zeros" else b"\xff") * SECTOR
    elif how == "copy":
        source = rng.choice(PLACES)[1]
        sector[:] = image[source : source + SECTOR]
        how = f"copy of {source}"
    else:
        how = forge(rng, kind, sector)
    seal = kind in COVERED and rng.random() < 0.85
    if seal:
        covered = COVERED[kind]
        sector[covered : covered + 4] = checksum(bytes(sector[:covered])).to_bytes(4, "little")
    image[offset : offset + SECTOR] = sector
    return f"{kind} at {offset}: {how}{' sealed' if seal else ''}"


def forge(rng: random.Random, kind: str, sector: bytearray) -> str:
    """A record that could be: another host owns, shares, is silent, runs a ballot, asks."""

    def number() -> int:
        return rng.choice((0, 1, 2, 3, 5, 2000, 1 << 40, (1 << 64) - 1))

    if kind in ("leader", "delta"):
        record = decode_leader(bytes(sector))
        changed: dict[str, Any] = {
            "owner_id": rng.choice((0, 1, 2, 3, 2000, 2001, (1 << 64) - 1)),
            "owner_generation": number(),
            "lver": number(),
            "timestamp": number(),
            "write_id": rng.choice((0, 1, 2, 2001)),
            "write_generation": number(),
            "num_hosts": rng.choice((record.num_hosts, 0, 1, 2000, 2001)),
            "io_timeout": rng.choice((0, 1, 10, 255)),
        }
        chosen = {name: changed[name] for name in rng.sample(sorted(changed), rng.randrange(1, 5))}
        forged: bytes = record._replace(**chosen).encode()
    elif kind == "block":
        values = [number() for _ in range(6)]
        flags, mode = rng.choice((0, 1, 2)), rng.choice((0, 1, 2))
        forged = HostBlock._make((*values, flags, mode, number())).encode()
        chosen = {"block": values}
    elif kind == "request":
        forged = Request(lver=number(), force_mode=rng.choice((0, 1, 2, 3))).encode()
        chosen = {"request": 0}
    else:
        forged, chosen = bytes(sector), {}
    sector[: len(forged)] = forged
    return f"forged {chosen}"


# -- what is done ------------------------------------------------------------------------------------------


@dataclass
class Scene:
    """One case while it runs."""

    rng: random.Random
    disk: MemoryDisk
    space: Lockspace
    steps: list[str] = field(default_factory=list)
    leases: list[Lease] = field(default_factory=list)
    unclear: list[Unclear] = field(default_factory=list)
    written: list[Transfer] = field(default_factory=list)

    def watch(self, transfer: Transfer) -> None:
        if transfer.operation == "write":
            self.written.append(transfer)
        if len(self.disk.trace) > MAX_TRANSFERS:
            raise Broken(f"more than {MAX_TRANSFERS} transfers")


Operation = Callable[[Scene], Awaitable[None]]


async def renew(scene: Scene) -> None:
    await scene.space.renew()


async def acquire_it(scene: Scene) -> None:
    rng = scene.rng
    options = AcquireOptions(
        shared=rng.random() < 0.4,
        owner_nowait=rng.random() < 0.5,
        lver=rng.choice((*[None] * 9, 0, 1)),
        num_hosts=rng.choice((*[None] * 12, 0, 1, 2000, 2001, 1 << 31)),
        lvb=rng.random() < 0.3,
    )
    before = bytes(scene.disk.data[RES : RES + SECTOR])
    try:
        scene.leases.append(await acquire(scene.space, Target(scene.disk, RES, RESOURCE), options))
    except Unclear as unclear:
        scene.unclear.append(unclear)
        raise
    except LeaseError as error:
        if error.code in REFUSED_BEFORE_A_BALLOT and scene.disk.data[RES : RES + SECTOR] != before:
            raise Broken(f"refused with {error.code}, but the leader was written") from error
        raise


async def release_it(scene: Scene) -> None:
    if scene.leases:
        await release(scene.leases.pop(), scene.rng.choice((None, None, "other name", "x" * 48)))


async def convert_it(scene: Scene) -> None:
    if scene.leases:
        await convert(scene.leases[-1], shared=scene.rng.random() < 0.5, owner_nowait=scene.rng.random() < 0.5)


async def retract_it(scene: Scene) -> None:
    if scene.unclear:
        await retract(scene.unclear.pop())


async def request_it(scene: Scene) -> None:
    rng = scene.rng
    lver = rng.choice((0, 1, 2, (1 << 64) - 1))
    permit = scene.space.permit_lease_write
    next_lver = rng.random() < 0.5
    await write_request(
        scene.disk, RES, SPACE, RESOURCE, lver, rng.choice((0, 1, 2)), next_lver=next_lver, permit=permit
    )


async def clear_it(scene: Scene) -> None:
    await clear_request(scene.disk, RES, SPACE, RESOURCE, permit=scene.space.permit_lease_write)


async def look(scene: Scene) -> None:
    """Everything that only reads."""
    disk = scene.disk
    name, offset = scene.rng.choice(("one", "", "none")), scene.rng.choice((0, SLOTS, SLOTS + 1, SLOTS + 9 * MIB))
    attempts: list[Awaitable[Any]] = [
        inspect.detect_geometry(disk, 0, 1),
        inspect.detect_geometry(disk, RES, 1, inspect.Kind.RESOURCE),
        inspect.read_lockspace(disk, 0),
        inspect.read_lockspace(disk, 0, SPACE, OTHER_ID, SMALL),
        inspect.read_resource(disk, RES),
        inspect.read_owners(disk, RES),
        inspect.read_owners(disk, RES, SPACE, RESOURCE, SMALL),
        read_request(disk, RES, SMALL, 1),
        lookup(disk, INDEX, SPACE, name, offset),
        list_entries(disk, INDEX, SPACE, SMALL),
        _dump(disk),
    ]
    for attempt in attempts:
        try:
            await attempt
        except LeaseError as error:
            known(error)
    for host_id in (OWN_ID, OTHER_ID, SHARER_ID, 2000):
        scene.space.hosts.status(host_id, scene.space.clock.now())


async def _dump(disk: MemoryDisk) -> None:
    async for line in dump_lines(disk, detail=Detail.BLOCKS):
        if not line.isprintable():
            raise Broken(f"dump line {line!r}")


async def create_it(scene: Scene) -> None:
    await create(scene.space, scene.disk, INDEX, scene.rng.choice(("three", "one", "x" * 48)))


async def delete_it(scene: Scene) -> None:
    await delete(
        scene.space, scene.disk, INDEX, scene.rng.choice(("one", "none")), scene.rng.choice((0, SLOTS, 5))
    )


async def rebuild_it(scene: Scene) -> None:
    await rebuild(scene.space, scene.disk, INDEX)


async def rebuild_alone(scene: Scene) -> None:
    await rebuild_unlocked(scene.disk, INDEX, SPACE, SMALL)


async def set_it(scene: Scene) -> None:
    place = scene.rng.choice((SLOTS, SLOTS + 3 * MIB, SLOTS + 4 * MIB, 1, (1 << 64) - MIB))
    await set_entry(scene.disk, INDEX, SPACE, scene.rng.choice(("", "four")), place)


IN_RESOURCE: Final = (RES, block_offset(OWN_ID), RES + LVB * SECTOR)
"""Sectors that a lease operation of host 1 may write; those of others: see `only_unmarked`."""
IN_INDEX: Final = range(INDEX, 16 * MIB, SECTOR)
OPERATIONS: Final[dict[Operation, tuple[int, ...] | range]] = {
    renew: (delta_offset(OWN_ID),),
    acquire_it: IN_RESOURCE,
    release_it: IN_RESOURCE,
    convert_it: IN_RESOURCE,
    retract_it: IN_RESOURCE,
    request_it: (RES + SECTOR,),
    clear_it: (RES + SECTOR,),
    look: (),
    create_it: IN_INDEX,
    delete_it: IN_INDEX,
    rebuild_it: IN_INDEX,
    rebuild_alone: range(INDEX, INDEX + MIB, SECTOR),
    set_it: range(INDEX + SECTOR, INDEX + MIB, SECTOR),
}


# -- what must hold ----------------------------------------------------------------------------------------


def known(error: LeaseError) -> None:
    """A code of the field, or an errno."""
    if error.code not in MEANING and -error.code not in errno.errorcode:
        raise Broken(f"unknown code {error.code}") from error


def only_unmarked(before: bytes, after: bytes) -> bool:
    """Another host's block may only lose its SHARED mark, when that host is proven dead; its promises stay."""
    old, new = decode_host_block(before)[0], decode_host_block(after)[0]
    return old.shared and not new.shared and old[:6] == new[:6]


async def do(scene: Scene, operation: Operation) -> None:
    """One operation, its bound, its writes."""
    name = operation.__name__
    before = bytes(scene.disk.data)
    scene.written.clear()
    scene.disk.trace.clear()
    try:
        async with asyncio.timeout(VIRTUAL_LIMIT_S):
            await operation(scene)
        scene.steps.append(f"{name}: done")
    except LeaseError as error:
        known(error)
        scene.steps.append(f"{name}: {error.code}")
    for transfer in scene.written:
        for offset in range(transfer.offset, transfer.offset + transfer.length, SECTOR):
            if offset in OPERATIONS[operation]:
                continue
            old, new = before[offset : offset + SECTOR], bytes(scene.disk.data[offset : offset + SECTOR])
            if operation in (acquire_it, convert_it) and RES < offset < RES + MIB and only_unmarked(old, new):
                continue
            raise Broken(f"{name} wrote the sector at {offset}")


async def play(rng: random.Random, story: list[str]) -> None:
    """One case. `story` gets what happens, for the report of a failure."""
    image = bytearray(base_image())
    early = rng.random() < 0.4
    if early:
        story += [mutate(rng, image) for _ in range(rng.randrange(1, 4))]
    disk = MemoryDisk(image, max_size=16 * MIB)
    scene = Scene(rng, disk, make_space(disk, OWN_ID), story)
    disk.after = scene.watch
    own_before = bytes(disk.data[: 2000 * SECTOR])
    try:
        async with asyncio.timeout(VIRTUAL_LIMIT_S):
            await scene.space.join()
        story.append("joined")
    except LeaseError as error:
        known(error)
        story.append(f"join: {error.code}")
        await do(scene, look)
        return
    finally:
        for transfer in scene.written:
            if transfer.offset != delta_offset(OWN_ID) or transfer.length != SECTOR:
                raise Broken(f"join wrote {transfer}")
        if disk.data[SECTOR : 2000 * SECTOR] != own_before[SECTOR:]:
            raise Broken("join changed the record of another host")
    operations: list[Operation] = [
        *OPERATIONS,
        acquire_it,
        acquire_it,
        acquire_it,
        convert_it,
        release_it,
        retract_it,
    ]
    if not early:
        # A lease that is held while its sectors change under it.
        first: list[Operation] = [acquire_it, renew, convert_it]
        for operation in rng.choices(first, k=rng.randrange(3)):
            await do(scene, operation)
        changed = bytearray(disk.data)
        story += [mutate(rng, changed) for _ in range(rng.randrange(1, 4))]
        disk.data[:] = changed
    for operation in rng.choices(operations, k=rng.randrange(1, MAX_STEPS + 1)):
        own = bytes(disk.data[:SECTOR])
        await do(scene, operation)
        if operation is renew and own == scene.space._written.ljust(SECTOR, b"\0") and "-" in story[-1][-5:]:
            raise Broken("the own record is intact, but a renewal failed")


def run_case(seed: int) -> None:
    """AssertionError with the story and the command that replays it when something did not hold."""
    story: list[str] = []
    base_image()  # It has a loop of its own.
    try:
        run_virtual(play(random.Random(seed), story))
    except Exception as error:
        lines = "\n  ".join(story)
        raise AssertionError(
            f"{error!r}\n  {lines}\nreplay: python -m tests.fuzz.sectors --seed {seed}"
        ) from error


def run_cases(seeds: Iterable[int]) -> None:
    """Up to the first that fails."""
    for seed in seeds:
        run_case(seed)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.sectors")
    parser.add_argument("--seed", type=int, help="this case only")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cases", type=int, default=2000)
    options = parser.parse_args(arguments)
    seeds = [options.seed] if options.seed is not None else range(options.first, options.first + options.cases)
    failed = 0
    for seed in seeds:
        try:
            run_case(seed)
        except AssertionError as error:
            failed += 1
            print(f"seed {seed}: {error}\n", flush=True)
            if options.seed is not None:
                raise
    print(f"{len(seeds)} cases, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
