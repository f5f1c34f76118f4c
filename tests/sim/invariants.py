"""Watches every I/O of the cluster and checks the rules of spec lease-disk 13 where they can be seen on the disk.

The ledger knows who may act; here are the promises about writes:

- a host id or a lease is taken over only when its incarnation is over or past its reset deadline (6.6, 8.4);
- rule 1: a delta timestamp is not later than the clock when its write is submitted;
- rule 3: a renewal has read its own record since its last write;
- rule 6: a leader is committed only after a complete reading of all host blocks, submitted after the own phase-2
  write completed;
- rule 7: the own block is never erased; within an instance the own ballot number only grows, and it is ≡ host id
  (mod max_hosts);
- rule 8a: no leader write after a reading that showed the instance decided;
- rules 9, 11: a leader is freed by its owner only with RELEASED or SHARED in the owner's block on disk;
- rule 13: another host's block is changed only when its shared hold is over and while the writer owns the lease;
- rule 15: no lease write is submitted by an incarnation past its fail deadline;
- rule 16: a host id is freed only when nothing of it can act and none of its leader writes is outstanding;
- a committed leader is never replaced by another owner of the same version.

Hosts that model the original are only watched, not judged, by the rules about the writer. Six things an original
does break promises to others, and nothing that our hosts could do prevents it, because the host that suffers is
not asked. Exactly from such an act by an *original* on, the resource is marked as spoiled: double owners of it
are counted, not reported.

1. It replaces a committed leader by another owner of the same version (13.1 in the role of X, after another
   original wiped its block in the role of Q; or its own late leader write after it retracted): it looks at the
   leader in neither phase read.
2. A timed-out write of its own lands after a younger one of the same sector (15 no. 5) and takes back a promise,
   an accepted value or a shared mark.
3. It clears the mark of a shared holder that is alive, because its last look at the lockspace is older than that
   holder's joining (7.3), or because the mark has generation 0.
4. It takes a lease from an owner it has not seen yet after that host's silence for a dead time computed from its
   *own* io_timeout (8.4, "own io when unknown"), which may be shorter than the owner's.
5. It commits a value of its own earlier generation and takes the lease for its own (15 no. 7), while everybody
   else sees the lease of a generation that is over.
6. It overlooks a shared mark that is on the disk: it collects marks block by block, and stops in the middle when
   a block shows a larger ballot (9.2); then another host commits its value.

A seventh harms only the version number: an original commits a live host's value (8.5 step 7, as the spec
allows), slowly; that host releases, the next version is decided, then the commit lands, or it lands between the
host's reading and freeing of the leader: the leader goes back by a version. The holder's block keeps others
away, so nobody gets a second grant, but versions may repeat: from then on only the order of versions is not
checked for that resource. The same can come of one of our hosts in a single case, which the format leaves open:
the chosen value's owner is gone, two hosts commit it for that owner, and the later write is so late that the
next version is decided before it lands. It is counted. All of these by one of *our* hosts are violations.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast.lease.records import (
    HostBlock,
    Leader,
    decode_host_block,
    decode_leader,
)
from holdfast.testing.sim_disk import Op, SimStorage
from tests.sim.layout import MIB_OF, SECTOR, Place, offset_of, place_of
from tests.sim.ledger import Incarnation, Ledger
from tests.sim.machine import Machine

MAX_HOSTS = 2000
ANY_VERSION = 1 << 64


@dataclass
class OwnView:
    """What one boot of one host did to one resource."""

    last_block: HostBlock | None = None
    block_written_at: float = -1.0
    """When its last block write completed; -1 while it is outstanding."""
    covered: set[int] = field(default_factory=set)
    """Host ids whose blocks were read by readings submitted since then."""
    seen_lver: int = 0
    """Largest leader version any reading showed since its ballot began."""


class Invariants:
    """A `DiskWatcher`. `num_hosts`: host blocks in use in every resource."""

    def __init__(self, storage: SimStorage, ledger: Ledger, machines: dict[str, Machine], num_hosts: int) -> None:
        self.storage = storage
        self.ledger = ledger
        self.machines = machines
        self.num_hosts = num_hosts
        ledger.has_mark = self._has_mark
        self._views: dict[tuple[str, int, str], OwnView] = {}
        self._own_read: dict[tuple[str, int], bool] = {}
        self._released: dict[tuple[str, int], int] = {}
        """(resource, host id) -> largest version for which its block ever said RELEASED."""
        self._landed: dict[tuple[str, int, int], int] = {}
        """(host, boot, offset) -> number of its youngest write that reached that sector."""
        self._helped: set[tuple[str, int]] = set()
        """(resource, version) that an original committed for another host."""

    def _has_mark(self, incarnation: Incarnation, resource: str) -> bool:
        at = offset_of(resource) + (incarnation.host_id + 1) * SECTOR
        block = decode_host_block(self.storage.peek(at, SECTOR))[0]
        return block.shared and block.mode_generation == incarnation.generation

    # --- DiskWatcher

    def submitted(self, op: Op) -> None:
        if op.kind == "R":
            return
        place = place_of(op.offset)
        machine = self.machines[op.disk.host.name]
        if place.kind == "delta":
            self._delta_submitted(op, machine, place)
        elif place.kind in ("leader", "block", "request") and machine.ours:
            self._lease_submitted(op, machine, place)

    def completed(self, op: Op, outcome: str) -> None:
        name = op.disk.host.name
        machine = self.machines[name]
        if not machine.ours or outcome != "ok":
            return
        place = place_of(op.offset)
        key = (name, machine.boots, place.resource)
        if op.kind == "W":
            if place.kind == "block" and (view := self._views.get(key)) is not None:
                view.covered.clear()
                view.block_written_at = self.ledger.now()
            return
        if place.kind == "delta":
            self._own_read[name, machine.boots] = True
            return
        view = self._views.setdefault(key, OwnView())
        first = op.offset % MIB_OF // SECTOR
        if first == 0 and op.target is not None:
            raw = memoryview(op.target) if isinstance(op.target, bytearray) else op.target.view
            view.seen_lver = max(view.seen_lver, decode_leader(raw).lver)
        if view.block_written_at >= 0 and op.submitted_at >= view.block_written_at:
            view.covered.update(range(max(1, first - 1), first - 1 + op.length // SECTOR))

    def landed(self, op: Op, before: bytes) -> None:
        place = place_of(op.offset)
        self._check_order(op, place)
        if place.kind == "delta":
            self._delta_landed(op, decode_leader(before), decode_leader(op.data), place)
        elif place.kind == "leader":
            self._leader_landed(op, decode_leader(before), decode_leader(op.data), place)
        elif place.kind == "block":
            block = decode_host_block(op.data)[0]
            self._clearing(op, decode_host_block(before)[0], block, place)
            self._foreign_landed(op, place)
            key = (place.resource, place.host_id)
            if not self.machines[op.disk.host.name].ours:
                # The original releases with the values in its memory, which may be of an older version, or zeros.
                self._released[key] = ANY_VERSION if block.released else block.lver - 1
            elif block.released:
                self._released[key] = max(block.lver, self._released.get(key, 0))

    def _check_order(self, op: Op, place: Place) -> None:
        """Rule 12: a write must not land after a younger one of the same host to the same sector."""
        machine = self.machines[op.disk.host.name]
        key = (machine.name, op.disk.number, op.offset)
        youngest = self._landed.get(key, 0)
        if op.number > youngest:
            self._landed[key] = op.number
        elif machine.ours:
            raise self.ledger.violation(f"rule 12: {machine.name} has two writes under way to {place.kind}")
        elif place.resource and self.ledger.attributes_to_originals:
            self.ledger.spoil(machine.name, place.resource, f"its older {place.kind} write landed last")

    def _clearing(self, op: Op, old: HostBlock, new: HostBlock, place: Place) -> None:
        machine = self.machines[op.disk.host.name]
        if machine.ours or not self.ledger.attributes_to_originals or not old.shared or new.shared:
            return
        incarnation = self.ledger.incarnations.get((place.host_id, old.mode_generation))
        if incarnation is None or incarnation.host == machine.name:
            return
        if not self.ledger.is_over(place.host_id, old.mode_generation):
            self.ledger.spoil(machine.name, place.resource, f"cleared the live mark of host {place.host_id}")

    def _foreign_landed(self, op: Op, place: Place) -> None:
        """Rule 13: another host's block is changed only while the writer owns the lease, landing included."""
        machine = self.machines[op.disk.host.name]
        if not machine.ours or place.host_id == machine.host_id:
            return
        leader = decode_leader(self.storage.peek(op.offset // MIB_OF * MIB_OF, SECTOR))
        if leader.timestamp == 0 or leader.owner_id != machine.host_id:
            raise self.ledger.violation(
                f"rule 13: {machine.name} changed the block of host {place.host_id} on {place.resource}, "
                f"which host {leader.owner_id} {'owns' if leader.timestamp else 'released'}"
            )

    # --- delta records

    def _delta_submitted(self, op: Op, machine: Machine, place: Place) -> None:
        record = decode_leader(op.data)
        if record.timestamp > machine.clock.now():
            raise self.ledger.violation(
                f"rule 1: {machine.name} wrote a timestamp of the future: {record.timestamp}"
            )
        incarnation = self.ledger.incarnations.get((place.host_id, record.owner_generation))
        if not machine.ours:
            return
        if record.timestamp and incarnation is not None:
            has_read = self._own_read.pop((machine.name, machine.boots), False)
            if not has_read:
                raise self.ledger.violation(f"rule 3: {machine.name} renewed without reading its record")
        if record.timestamp == 0 and incarnation is not None:
            if self.ledger.is_acting(incarnation):
                raise self.ledger.violation(f"rule 16: {machine.name} frees its host id while a process can act")
            if any(place_of(w.offset).kind == "leader" for w in op.disk.writes_outstanding()):
                raise self.ledger.violation(
                    f"rule 16: {machine.name} frees its host id with a leader write outstanding"
                )

    def _delta_landed(self, op: Op, old: Leader, new: Leader, place: Place) -> None:
        name = op.disk.host.name
        ledger = self.ledger
        if new.owner_generation != old.owner_generation and old.owner_generation:
            key = (place.host_id, old.owner_generation)
            incarnation = ledger.incarnations.get(key)
            if incarnation is None:
                return
            if incarnation.host == name:
                if ledger.is_acting(incarnation):
                    raise self.ledger.violation(
                        f"{name} took its host id again while processes of generation {key[1]} act"
                    )
                incarnation.over = incarnation.over or "back again"
            elif old.timestamp:
                ledger.must_be_over(*key, f"host id {place.host_id}")
                ledger.counts.add("host ids taken over")
        elif new.timestamp == 0:
            incarnation = ledger.incarnations.get((place.host_id, new.owner_generation))
            if incarnation is not None and not incarnation.over:
                incarnation.over = "left"
                ledger.counts.add("leaves")

    # --- resources

    def _lease_submitted(self, op: Op, machine: Machine, place: Place) -> None:
        incarnation = machine.incarnation
        now = self.ledger.now()
        if incarnation is None or incarnation.boot != machine.boots:
            raise self.ledger.violation(
                f"rule 15: {machine.name} writes {place.kind} of {place.resource} without a lockspace"
            )
        if now >= incarnation.fail_at or incarnation.failed:
            raise self.ledger.violation(
                f"rule 15: {machine.name} writes {place.kind} of {place.resource} at {now:.3f}, "
                f"its lockspace was lost at {incarnation.fail_at:.3f}"
            )
        if place.kind == "request":
            return
        view = self._views.setdefault((machine.name, machine.boots, place.resource), OwnView())
        if place.kind == "block":
            self._block_submitted(op, machine, place, view, incarnation.host_id)
        else:
            self._leader_submitted(op, machine, place, view, incarnation.host_id, incarnation.generation)

    def _block_submitted(self, op: Op, machine: Machine, place: Place, view: OwnView, own_id: int) -> None:
        block = decode_host_block(op.data)[0]
        on_disk = decode_host_block(self.storage.peek(op.offset, SECTOR))[0]
        if place.host_id != own_id:
            # Rule 13: only the mark of a shared holder that is over may be taken away, nothing else.
            if block != on_disk._replace(mode_flags=0, mode_generation=0) and on_disk.shared:
                raise self.ledger.violation(
                    f"rule 13: {machine.name} changed the ballot state of host {place.host_id}"
                )
            self.ledger.must_be_over(
                place.host_id, on_disk.mode_generation, f"shared mark on {place.resource}", place.resource
            )
            self.ledger.counts.add("dead shared marks cleared")
            return
        if view.last_block is None or (block.lver, block.mbal) != (view.last_block.lver, view.last_block.mbal):
            view.seen_lver = 0
        view.block_written_at = -1.0
        view.covered.clear()
        view.last_block = block
        if block.mbal == 0:
            raise self.ledger.violation(f"rule 7: {machine.name} erased its block of {place.resource}")
        if block.mbal % MAX_HOSTS != own_id % MAX_HOSTS:
            raise self.ledger.violation(
                f"rule 7: {machine.name} used ballot number {block.mbal}, its host id is {own_id}"
            )
        if block.lver == on_disk.lver:
            if block.mbal < on_disk.mbal:
                raise self.ledger.violation(
                    f"rule 7: {machine.name} lowered its ballot on {place.resource} "
                    f"from {on_disk.mbal} to {block.mbal}"
                )
            if on_disk.bal and not block.bal and on_disk.mbal == block.mbal:
                raise self.ledger.violation(
                    f"rule 7: {machine.name} withdrew its accepted value on {place.resource}"
                )

    def _leader_submitted(
        self, op: Op, machine: Machine, place: Place, view: OwnView, own_id: int, generation: int
    ) -> None:
        leader = decode_leader(op.data)
        what = f"{machine.name} on {place.resource} lver {leader.lver}"
        own_offset = op.offset + (own_id + 1) * SECTOR
        block = decode_host_block(self.storage.peek(own_offset, SECTOR))[0]
        if leader.timestamp == 0:
            if not block.released and not block.shared:
                raise self.ledger.violation(
                    f"rules 9, 11: {what}: leader freed before RELEASED or SHARED is on disk"
                )
            return
        mine = view.last_block
        if view.seen_lver >= leader.lver:
            raise self.ledger.violation(f"rule 8a: {what}: commit although version {view.seen_lver} was seen")
        if mine is None or mine.lver != leader.lver or not mine.bal or view.block_written_at < 0:
            raise self.ledger.violation(f"rule 6: {what}: commit without a completed phase 2")
        if mine[2:5] != (leader.owner_id, leader.owner_generation, leader.timestamp):
            raise self.ledger.violation(f"rule 6: {what}: commit of another value than the proposed one")
        missing = set(range(1, self.num_hosts + 1)) - view.covered
        if missing:
            raise self.ledger.violation(
                f"rule 6: {what}: commit without reading the blocks of hosts {sorted(missing)}"
            )

    def _was_taken_back(self, place: Place, old: Leader) -> bool:
        """Whether that leader is the late write of an original which had wiped or released its block since.

        Nobody who read the block then could know of the value, and decided another one for the same version.
        """
        incarnation = self.ledger.incarnations.get((old.owner_id, old.owner_generation))
        if incarnation is None or self.machines[incarnation.host].ours or old.write_id != old.owner_id:
            return False
        given_up = self._released.get((place.resource, old.owner_id), 0)
        return self.ledger.attributes_to_originals and given_up >= old.lver

    def _leader_landed(self, op: Op, old: Leader, new: Leader, place: Place) -> None:
        ledger = self.ledger
        machine = self.machines[op.disk.host.name]
        same_owner = (old.owner_id, old.owner_generation) == (new.owner_id, new.owner_generation)
        what = (
            f"{place.resource}: {machine.name} replaced lver {old.lver} "
            f"owner {old.owner_id}/{old.owner_generation} "
            f"by lver {new.lver} owner {new.owner_id}/{new.owner_generation}"
        )
        takes_old_self = (
            new.timestamp and new.owner_id == new.write_id and new.owner_generation < new.write_generation
        )
        if takes_old_self and not machine.ours and self.ledger.attributes_to_originals:
            ledger.spoil(
                machine.name, place.resource, f"takes a lease of its earlier generation for its own: {what}"
            )
        if new.owner_id != new.write_id and new.timestamp and not machine.ours:
            self._helped.add((place.resource, new.lver))
        if new.lver < old.lver or (new.lver == old.lver and not same_owner):
            earlier_self = machine.incarnation is not None and (
                new.owner_generation < machine.incarnation.generation
            )
            for_another = new.owner_id != new.write_id or earlier_self
            late_help = for_another and ledger.is_gone(new.owner_id, new.owner_generation)
            if late_help and new.lver < old.lver:
                # See the docstring: the one way in which versions may repeat that the format leaves open.
                ledger.put_back.add(place.resource)
                ledger.counts.add("leaders put back by late help for a gone owner")
                return
            # On a spoiled resource an original's late write may have changed the leader while our write, which was
            # right when it was submitted, was under way.
            by_original = (
                not machine.ours
                or place.resource in ledger.spoiled
                or self._was_taken_back(place, old)
                or (new.lver < old.lver and any((place.resource, v) in self._helped for v in (new.lver, old.lver)))
            )
            if not by_original:
                raise ledger.violation(f"the leader went back: {what}")
            ledger.put_back.add(place.resource)
            if new.lver == old.lver and self.ledger.attributes_to_originals:
                ledger.spoil(machine.name, place.resource, what)
            ledger.counts.add("leaders put back by originals")
            return
        if new.lver > old.lver:
            ledger.counts.add("lease versions decided")
            if new.owner_id != new.write_id:
                ledger.counts.add("commits for another host")
            if old.timestamp and not same_owner:
                confused = place.resource in ledger.put_back and not machine.ours
                if self._released.get((place.resource, old.owner_id), 0) < old.lver and not confused:
                    if (
                        self.ledger.attributes_to_originals
                        and not machine.ours
                        and not ledger.is_over(old.owner_id, old.owner_generation)
                    ):
                        ledger.spoil(machine.name, place.resource, f"took it too early: {what}")
                    ledger.must_be_over(
                        old.owner_id, old.owner_generation, f"{place.resource} lver {old.lver}", place.resource
                    )
                    ledger.counts.add("leases taken from dead hosts")
