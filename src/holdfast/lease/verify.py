"""Verified reads: which records may be believed (spec lease-disk sections 6 and 8.1).

Pure functions on the bytes of one sector. A record that fails here must never be treated as free: it is
damaged, belongs to somebody else, or was written by a newer program whose rules we do not know. The
caller adds path and offset to the error; here the detail names the record and what is wrong with it.
"""

from __future__ import annotations

from holdfast.lease.errors import Code, LeaseError
from holdfast.lease.geometry import LFL_KNOWN, Geometry, from_record
from holdfast.lease.records import (
    DBLOCK_FL_KNOWN,
    DELTA_DISK_MAGIC,
    DELTA_VERSION,
    MAJOR_MASK,
    MBLOCK_FL_KNOWN,
    PAXOS_DISK_CLEAR,
    PAXOS_DISK_MAGIC,
    PAXOS_VERSION,
    HostBlock,
    Leader,
    decode_host_block,
    decode_leader,
    leader_checksum_ok,
)


def verify_leader(
    sector: bytes | memoryview,
    space_name: str | None = None,
    resource_name: str | None = None,
    host_id: int | None = None,
) -> Leader:
    """The leader record of a resource, checked in the order of spec 8.1; None leaves a comparison out.

    Raises LeaseError: LEADER_MAGIC (also for a cleared lease), LEADER_VERSION, LEADER_LOCKSPACE,
    LEADER_RESOURCE, LEADER_NUMHOSTS, LEADER_CHECKSUM; LEADER_VERSION again for flags of a newer format.
    """
    leader = decode_leader(sector)
    if leader.magic == PAXOS_DISK_CLEAR:
        raise LeaseError(Code.LEADER_MAGIC, f"leader record of {leader.resource_name!r}: the lease was cleared")
    if leader.magic != PAXOS_DISK_MAGIC:
        raise LeaseError(Code.LEADER_MAGIC, f"leader record: magic {leader.magic:#x}, not {PAXOS_DISK_MAGIC:#x}")
    _check_version("leader record", leader, PAXOS_VERSION)
    _check_space("leader record", leader, space_name)
    if resource_name is not None and leader.resource_name != resource_name:
        raise LeaseError(
            Code.LEADER_RESOURCE,
            f"leader record: resource {leader.resource_name!r} on disk, {resource_name!r} wanted",
        )
    if host_id is not None and leader.num_hosts < host_id:
        raise LeaseError(
            Code.LEADER_NUMHOSTS,
            f"leader record of {leader.resource_name!r}: room for {leader.num_hosts} hosts, own host id {host_id}",
        )
    _check_checksum("leader record", sector, leader)
    _check_flags("leader record", leader)
    return leader


def resource_geometry(leader: Leader) -> Geometry:
    """Sizes of a verified resource, after checking that the numbers in its leader record can be worked with.

    The checksum proves only that somebody wrote them. Raises LeaseError: LEADER_SECTORSIZE, ADDLS_SIZES, or
    LEADER_NUMHOSTS when there are more host blocks than the area has, or ballot numbers (which are unique
    modulo max_hosts, rule 7) could collide. The original trusts num_hosts and reads beyond its buffer.
    """
    geometry = from_record(leader.sector_size, leader.flags)
    if not leader.num_hosts <= leader.max_hosts <= geometry.max_hosts:
        raise LeaseError(
            Code.LEADER_NUMHOSTS,
            f"leader record of {leader.resource_name!r}: {leader.num_hosts} host blocks, max_hosts "
            f"{leader.max_hosts}, but the area has room for {geometry.max_hosts}",
        )
    return geometry


def verify_delta(sector: bytes | memoryview, space_name: str | None = None) -> Leader:
    """A host's record in a lockspace, checked in the order of spec 6; None accepts any lockspace.

    Raises LeaseError: LEADER_MAGIC, LEADER_VERSION, LEADER_LOCKSPACE, LEADER_CHECKSUM; LEADER_VERSION
    again for flags of a newer format.
    """
    leader = decode_leader(sector)
    if leader.magic != DELTA_DISK_MAGIC:
        raise LeaseError(Code.LEADER_MAGIC, f"host record: magic {leader.magic:#x}, not {DELTA_DISK_MAGIC:#x}")
    _check_version("host record", leader, DELTA_VERSION)
    _check_space("host record", leader, space_name)
    _check_checksum("host record", sector, leader)
    _check_flags("host record", leader)
    return leader


def verify_host_block(sector: bytes | memoryview) -> HostBlock:
    """A host's block in a resource.

    Raises LeaseError: DBLOCK_CHECKSUM (rule 8: a damaged block may hide a promise or an accepted value,
    so it is never skipped), LEADER_VERSION for flags of a newer format.
    """
    block, intact = decode_host_block(sector)
    if not intact:
        raise LeaseError(
            Code.DBLOCK_CHECKSUM, f"host block: mbal {block.mbal} lver {block.lver} does not fit its checksum"
        )
    if block.flags & ~DBLOCK_FL_KNOWN or block.mode_flags & ~MBLOCK_FL_KNOWN:
        raise LeaseError(
            Code.LEADER_VERSION,
            f"host block: flags {block.flags:#x}, mode flags {block.mode_flags:#x}: written by a newer program, "
            "not touched",
        )
    return block


def _check_version(what: str, leader: Leader, version: int) -> None:
    if (leader.version & MAJOR_MASK) != (version & MAJOR_MASK):
        raise LeaseError(
            Code.LEADER_VERSION,
            f"{what}: version {leader.version:#x} on disk, {version & MAJOR_MASK:#x} is known here",
        )


def _check_space(what: str, leader: Leader, space_name: str | None) -> None:
    if space_name is not None and leader.space_name != space_name:
        raise LeaseError(
            Code.LEADER_LOCKSPACE, f"{what}: lockspace {leader.space_name!r} on disk, {space_name!r} wanted"
        )


def _check_checksum(what: str, sector: bytes | memoryview, leader: Leader) -> None:
    if not leader_checksum_ok(sector, leader):
        raise LeaseError(
            Code.LEADER_CHECKSUM,
            f"{what} of {leader.space_name!r}/{leader.resource_name!r}: {leader.checksum:#x} does not fit",
        )


def _check_flags(what: str, leader: Leader) -> None:
    # After the checksum, so that a flipped bit is reported as damage and only an intact record as foreign.
    if leader.flags & ~LFL_KNOWN:
        raise LeaseError(
            Code.LEADER_VERSION,
            f"{what} of {leader.space_name!r}/{leader.resource_name!r}: unknown flags "
            f"{leader.flags & ~LFL_KNOWN:#x}: written by a newer program, not touched",
        )
