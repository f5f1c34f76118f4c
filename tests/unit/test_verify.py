"""Every record that is damaged, foreign or newer is refused with the code of the spec, in its order."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from holdfast.lease.errors import Code, LeaseError
from holdfast.lease.records import (
    DBLOCK_FL_RELEASED,
    DELTA_DISK_MAGIC,
    DELTA_VERSION,
    MBLOCK_SHARED,
    PAXOS_DISK_CLEAR,
    PAXOS_DISK_MAGIC,
    PAXOS_VERSION,
    HostBlock,
    Leader,
    whole_sector,
)
from holdfast.lease.verify import verify_delta, verify_host_block, verify_leader

LEADER = Leader(
    magic=PAXOS_DISK_MAGIC,
    version=PAXOS_VERSION,
    flags=0x10,
    sector_size=512,
    num_hosts=5,
    max_hosts=2000,
    owner_id=3,
    owner_generation=2,
    lver=7,
    space_name="space",
    resource_name="res",
    timestamp=1000,
    unused1=0,
    checksum=0,
    unused2=0,
    io_timeout=0,
    write_id=3,
    write_generation=2,
    write_timestamp=1001,
)
DELTA = LEADER._replace(magic=DELTA_DISK_MAGIC, version=DELTA_VERSION, num_hosts=0, max_hosts=1, lver=0)


def sector(record: Leader | HostBlock) -> bytes:
    return whole_sector(record.encode(), 512)


def damaged(raw: bytes) -> bytes:
    """A bit of the owner's generation flipped: covered by the checksum, looked at by no other check."""
    return raw[:40] + bytes([raw[40] ^ 1]) + raw[41:]


def code_of(call: Any, *args: Any) -> int:
    with pytest.raises(LeaseError) as caught:
        call(*args)
    assert caught.value.detail
    return caught.value.code


def test_a_good_leader_is_returned() -> None:
    found = verify_leader(sector(LEADER), "space", "res", 5)
    assert found._replace(checksum=0) == LEADER


def test_none_leaves_the_comparisons_out() -> None:
    assert verify_leader(sector(LEADER)).lver == 7


def test_minor_versions_are_accepted() -> None:
    assert verify_leader(sector(LEADER._replace(version=0x0006FFFF))).version == 0x0006FFFF
    assert verify_delta(sector(DELTA._replace(version=0x00030001))).version == 0x00030001


LEADER_FAULTS: list[tuple[dict[str, Any], int]] = [
    ({"magic": PAXOS_DISK_CLEAR}, Code.LEADER_MAGIC),
    ({"magic": DELTA_DISK_MAGIC}, Code.LEADER_MAGIC),
    ({"magic": 0}, Code.LEADER_MAGIC),
    ({"version": 0x00070001}, Code.LEADER_VERSION),
    ({"version": 0x00050004}, Code.LEADER_VERSION),
    ({"space_name": "spac"}, Code.LEADER_LOCKSPACE),
    ({"space_name": "space2"}, Code.LEADER_LOCKSPACE),
    ({"resource_name": "re"}, Code.LEADER_RESOURCE),
    ({"num_hosts": 4}, Code.LEADER_NUMHOSTS),
    ({"flags": 0x10 | 0x2}, Code.LEADER_VERSION),
    ({"flags": 0x10 | 0x100}, Code.LEADER_VERSION),
    ({"flags": 0x80000010}, Code.LEADER_VERSION),
]


@pytest.mark.parametrize(("change", "code"), LEADER_FAULTS)
def test_leader_faults(change: dict[str, Any], code: int) -> None:
    assert code_of(verify_leader, sector(LEADER._replace(**change)), "space", "res", 5) == code


def test_a_damaged_leader_is_refused() -> None:
    assert code_of(verify_leader, damaged(sector(LEADER)), "space", "res", 5) == Code.LEADER_CHECKSUM


def test_the_first_failed_check_decides() -> None:
    """All faults at once, removed one by one in the order of spec 8.1; the checksum last but ours."""
    faults: dict[str, Any] = {
        "magic": 1,
        "version": 0x00070000,
        "space_name": "x",
        "resource_name": "y",
        "num_hosts": 1,
        "flags": 0x400,
    }
    seen: list[int] = []
    while True:
        raw = sector(LEADER._replace(**faults))
        seen.append(code_of(verify_leader, damaged(raw) if len(seen) < 6 else raw, "space", "res", 5))
        if len(seen) == 7:
            break
        if len(faults) > 1:
            del faults[next(iter(faults))]
    assert seen == [
        Code.LEADER_MAGIC,
        Code.LEADER_VERSION,
        Code.LEADER_LOCKSPACE,
        Code.LEADER_RESOURCE,
        Code.LEADER_NUMHOSTS,
        Code.LEADER_CHECKSUM,
        Code.LEADER_VERSION,
    ]


def test_unknown_flags_of_an_intact_record_are_called_newer() -> None:
    with pytest.raises(LeaseError, match="written by a newer program, not touched"):
        verify_leader(sector(LEADER._replace(flags=0x110)))
    with pytest.raises(LeaseError, match="written by a newer program, not touched"):
        verify_delta(sector(DELTA._replace(flags=0x110)))


def test_fields_outside_of_the_checksum_may_change() -> None:
    raw = bytearray(sector(LEADER))
    raw[172:200] = bytes(range(28))
    assert verify_leader(bytes(raw), "space", "res", 5).write_id != 3


DELTA_FAULTS: list[tuple[dict[str, Any], int]] = [
    ({"magic": PAXOS_DISK_MAGIC}, Code.LEADER_MAGIC),
    ({"magic": 0}, Code.LEADER_MAGIC),
    ({"version": 0x00040004}, Code.LEADER_VERSION),
    ({"space_name": ""}, Code.LEADER_LOCKSPACE),
    ({"flags": 0x200}, Code.LEADER_VERSION),
]


@pytest.mark.parametrize(("change", "code"), DELTA_FAULTS)
def test_delta_faults(change: dict[str, Any], code: int) -> None:
    assert code_of(verify_delta, sector(DELTA._replace(**change)), "space") == code


def test_a_good_host_record_is_returned_and_a_damaged_one_refused() -> None:
    assert verify_delta(sector(DELTA), "space").owner_id == 3
    assert code_of(verify_delta, damaged(sector(DELTA)), "space") == Code.LEADER_CHECKSUM


BLOCK = HostBlock(mbal=2003, bal=2003, inp=3, inp2=2, inp3=1000, lver=8, flags=DBLOCK_FL_RELEASED)


def test_good_host_blocks() -> None:
    assert verify_host_block(sector(BLOCK)) == BLOCK
    shared = BLOCK._replace(mode_flags=MBLOCK_SHARED, mode_generation=2)
    assert verify_host_block(sector(shared)) == shared


def test_a_never_used_block_needs_no_checksum() -> None:
    assert verify_host_block(bytes(512)) == HostBlock()


def test_a_wiped_block_is_accepted_and_recognised() -> None:
    wiped = verify_host_block(sector(HostBlock(flags=DBLOCK_FL_RELEASED)))
    assert wiped.wiped
    assert not verify_host_block(bytes(512)).wiped
    assert not verify_host_block(sector(BLOCK)).wiped


@pytest.mark.parametrize("field", range(6))
def test_every_damaged_field_of_a_dblock_is_noticed(field: int) -> None:
    raw = bytearray(sector(BLOCK))
    raw[field * 8 + 5] ^= 0x40
    assert code_of(verify_host_block, bytes(raw)) == Code.DBLOCK_CHECKSUM


def test_a_block_of_zeros_with_a_checksum_or_a_value_is_damaged() -> None:
    assert code_of(verify_host_block, struct.pack("<QQQQQQII", 0, 0, 0, 0, 0, 0, 1, 0).ljust(512, b"\0"))
    only_inp = struct.pack("<QQQQQQII", 0, 0, 3, 0, 0, 0, 0, 0).ljust(512, b"\0")
    assert code_of(verify_host_block, only_inp) == Code.DBLOCK_CHECKSUM


@pytest.mark.parametrize("change", [{"flags": 2}, {"flags": 0x80000001}, {"mode_flags": 2}, {"mode_flags": 3}])
def test_unknown_flags_of_a_host_block_are_refused(change: dict[str, int]) -> None:
    assert code_of(verify_host_block, sector(BLOCK._replace(**change))) == Code.LEADER_VERSION


def test_bytes_between_and_after_the_blocks_are_ignored() -> None:
    """An original that converts writes them from uninitialised memory (spec 15 no. 14)."""
    raw = bytearray(sector(BLOCK))
    raw[56:128] = b"\xa5" * 72
    raw[132:136] = b"\xa5" * 4
    raw[144:] = b"\xa5" * (512 - 144)
    assert verify_host_block(bytes(raw)) == BLOCK
