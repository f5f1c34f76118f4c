"""What happened, one line per step, for people: time, host, and what an I/O meant."""

from __future__ import annotations

import asyncio

from holdfast.lease.records import decode_host_block, decode_leader, decode_request
from holdfast.testing.sim_disk import DiskWatcher, Op
from tests.sim.layout import MIB_OF, SECTOR, place_of


class Transcript:
    """Collects lines if `keep`; the disk's watcher is put in between."""

    def __init__(self, loop: asyncio.AbstractEventLoop, keep: bool) -> None:
        self.loop = loop
        self.keep = keep
        self.lines: list[str] = []

    def line(self, host: str, text: str) -> None:
        if self.keep:
            self.lines.append(f"{self.loop.time():11.4f}  {host:<5} {text}")

    def watching(self, inner: DiskWatcher) -> DiskWatcher:
        """`inner` itself when no transcript is kept."""
        return _Telling(self, inner) if self.keep else inner


class _Telling:
    def __init__(self, transcript: Transcript, inner: DiskWatcher) -> None:
        self._transcript = transcript
        self._inner = inner

    def submitted(self, op: Op) -> None:
        if op.kind == "W":
            self._line(op, f"W {describe(op)}")
        else:
            self._line(op, f"R {describe(op)}")
        self._inner.submitted(op)

    def landed(self, op: Op, before: bytes) -> None:
        late = self._transcript.loop.time() - op.submitted_at
        if late > 0.1 or op.disk.host.gone:
            self._line(op, f"  on disk after {late:.2f} s: {describe(op)}")
        self._inner.landed(op, before)

    def completed(self, op: Op, outcome: str) -> None:
        took = self._transcript.loop.time() - op.submitted_at
        if outcome != "ok" or took > 0.1:
            self._line(op, f"  {outcome} after {took:.2f} s: {op.kind} {describe(op)}")
        self._inner.completed(op, outcome)

    def _line(self, op: Op, text: str) -> None:
        self._transcript.line(op.disk.host.name, f"#{op.number} {text}")


def describe(op: Op) -> str:
    """`res1 block of 2: lver 1 mbal 2 bal 2 value 2/1 RELEASED`, or which sectors are read."""
    place = place_of(op.offset)
    if op.kind == "R":
        if op.length > SECTOR:
            first = op.offset % MIB_OF // SECTOR
            where = place.resource or "lockspace"
            return f"{where} sectors {first}..{first + op.length // SECTOR - 1}"
        if place.kind == "block":
            return f"{place.resource} block of {place.host_id}"
        return f"host record {place.host_id}" if place.kind == "delta" else f"{place.resource} {place.kind}"
    if place.kind == "block":
        block = decode_host_block(op.data)[0]
        text = f"{place.resource} block of {place.host_id}: lver {block.lver} mbal {block.mbal} bal {block.bal}"
        text += f" value {block.inp}/{block.inp2}" if block.inp else ""
        text += " RELEASED" if block.released else ""
        return text + (f" SHARED by generation {block.mode_generation}" if block.shared else "")
    if place.kind == "request":
        return f"{place.resource} request: lver {decode_request(op.data).lver}"
    record = decode_leader(op.data)
    if place.kind == "delta":
        return f"host record {place.host_id}: generation {record.owner_generation} timestamp {record.timestamp}"
    owner = f"owner {record.owner_id}/{record.owner_generation}" if record.timestamp else "FREE"
    short = " SHORT_HOLD" if record.flags & 1 else ""
    return f"{place.resource} leader: lver {record.lver} {owner} written by {record.write_id}{short}"
