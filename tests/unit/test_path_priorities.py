"""Prioritizers: bytes of ALUA, vendor pages, words of arguments; answers that are cut off or lie."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable

import pytest

from holdfast.path.priorities import SCSI, alua, arrays, plain, scsi_exchange
from holdfast.path.priorities.alua import Access, PortGroup, Tpgs
from holdfast.path.sg import SgAnswer, SgCommand, run_exchange

ATTENTION = SgAnswer(status=2, info=1, sense=bytes.fromhex("7206290000000000"))


def page_83(*designators: tuple[int, bytes]) -> bytes:
    body = b"".join(struct.pack(">BBBB", 1, kind, 0, len(data)) + data for kind, data in designators)
    return struct.pack(">BBH", 0, 0x83, len(body)) + body


STANDARD = bytes(5) + bytes([0x10]) + bytes(90)
WITH_GROUP = page_83((0x03, bytes(16)), (0x14, bytes([0, 0, 0, 7])), (0x15, bytes([0, 0, 0x12, 0x34])))


class Array:
    """Answers by opcode and page; `first` answers come before."""

    def __init__(self, groups: list[PortGroup], first: Iterable[SgAnswer] = ()) -> None:
        self.commands: list[SgCommand] = []
        self.groups = groups
        self.first = list(first)

    def __call__(self, command: SgCommand) -> SgAnswer:
        self.commands.append(command)
        if self.first:
            return self.first.pop(0)
        if command.cdb[0] == 0xA3:
            data = alua.encode_rtpg(self.groups)
        else:
            data = WITH_GROUP if command.cdb[1] else STANDARD
        return SgAnswer(data=data[: command.length])


def test_rtpg_bytes() -> None:
    groups = [PortGroup(0x1234, 0, True, 0x8F, 2, (1, 2)), PortGroup(1, 0xF, False, 0, 0, ())]
    data = alua.encode_rtpg(groups)
    assert data.hex() == "00000018" + "808f123400020002" + "00000001" + "00000002" + "0f00000100000000"
    assert alua.parse_rtpg(data) == groups
    for cut in range(len(data)):
        assert len(alua.parse_rtpg(data[:cut])) <= 1
    assert alua.rtpg_command(4096, 1).cdb.hex() == "a30a00000000000010000000"


@pytest.mark.parametrize(
    ("access", "preferred", "exclusive", "value"),
    [
        (Access.OPTIMIZED, False, False, 50),
        (Access.OPTIMIZED, True, False, 50),
        (Access.OPTIMIZED, True, True, 130),
        (Access.NON_OPTIMIZED, True, False, 90),
        (Access.STANDBY, False, False, 1),
        (Access.LBA_DEPENDENT, False, False, 5),
        (Access.UNAVAILABLE, False, False, 0),
        (Access.OFFLINE, True, False, 80),
        (9, False, False, 0),
    ],
)
def test_alua(access: int, preferred: bool, exclusive: bool, value: int) -> None:
    array = Array([PortGroup(1, 2, False, 0, 0, (9,)), PortGroup(0x1234, access, preferred, 0, 0, ())])
    args = "exclusive_pref_bit" if exclusive else ""
    assert run_exchange(alua.alua_priority(100, args), array) == value


def test_alua_errors() -> None:
    assert run_exchange(alua.alua_priority(1), lambda command: SgAnswer(errno=25)) == alua.NOT_SUPPORTED
    assert run_exchange(alua.alua_priority(1), lambda command: SgAnswer(data=bytes(96))) == alua.NO_TPGS
    assert run_exchange(alua.alua_priority(1), lambda command: SgAnswer(data=STANDARD)) == alua.NO_GROUP
    assert run_exchange(alua.alua_priority(1), Array([])) == alua.RTPG_FAILED
    retried = Array([PortGroup(0x1234, 1, False, 0, 0, ())], [ATTENTION] * 3)
    assert run_exchange(alua.alua_priority(1), retried) == 10
    assert run_exchange(alua.alua_priority(1), Array([], [ATTENTION] * 4)) == alua.NOT_SUPPORTED


def test_a_long_list_of_groups_is_asked_for_again() -> None:
    groups = [PortGroup(number, 2, False, 0, 0, tuple(range(250))) for number in range(5)]
    array = Array([*groups, PortGroup(0x1234, 0, False, 0, 0, ())])
    assert run_exchange(alua.alua_priority(1), array) == 50
    assert [command.length for command in array.commands if command.cdb[0] == 0xA3] == [4096, 4 + 5 * 1008 + 8]


def test_tpgs() -> None:
    assert alua.tpgs_of(STANDARD) is Tpgs.IMPLICIT
    assert alua.tpgs_of(b"") is Tpgs.NONE
    assert alua.group_of(WITH_GROUP) == 0x1234
    assert alua.group_of(WITH_GROUP[:-1]) is None


def test_lies_raise_nothing() -> None:
    chosen = random.Random(4)
    for _ in range(2000):
        for name in SCSI:
            answers = lambda command: SgAnswer(data=chosen.randbytes(chosen.randint(0, min(command.length, 200))))  # noqa: E731
            value = run_exchange(scsi_exchange(name, 1, "preferredsds=x"), answers)
            assert isinstance(value, int)


def emc_page(state: int, default: int, this: int) -> bytes:
    page = bytearray(128)
    page[1], page[4], page[5], page[8], page[27], page[28], page[30] = 0xC0, state, default, this, 3, 4, 4
    return bytes(page)


def test_vendor_pages() -> None:
    def ask(name: str, data: bytes, args: str = "") -> int:
        return run_exchange(scsi_exchange(name, 1, args), lambda command: SgAnswer(data=data))

    assert ask("emc", emc_page(2, 1, 1)) == 4
    assert ask("emc", emc_page(1, 0, 1)) == 1
    assert ask("emc", bytes(128)) == -1
    rdac = bytearray(48)
    rdac[8], rdac[9] = 0x21, 1
    assert ask("rdac", bytes(rdac)) == 14
    rdac[8], rdac[9] = 0, 2
    assert ask("rdac", bytes(rdac)) == 1
    assert ask("hds", b"x" * 47 + b"F01" + bytes(10)) == 1
    assert ask("hds", b"x" * 47 + b"E01" + bytes(10)) == 0
    assert ask("hds", b"short") == -1
    assert ask("datacore", bytes(112) + b"SDS1   ", "timeout=2 preferredsds=SDS1") == 1
    assert ask("datacore", bytes(112) + b"SDS2   ", "preferredsds=SDS1") == 0
    assert ask("datacore", bytes(112)) == -1
    assert ask("hp_sw", b"") == 4
    standby = SgAnswer(status=2, info=1, sense=bytes.fromhex("7202040200000000"))
    assert run_exchange(arrays.hp_sw_priority(1), lambda command: standby) == 2
    assert run_exchange(arrays.hp_sw_priority(1), lambda command: ATTENTION) == 0
    assert arrays.iet_priority("preferredip=10.0.0.1", "10.0.0.1") == 20
    assert arrays.iet_priority("preferredip=10.0.0.1", "10.0.0.2") == 10


def test_plain_ones() -> None:
    assert plain.const_priority() == 1
    assert {plain.random_priority(random.Random(seed)) for seed in range(200)} == set(range(1, 11))
    assert plain.sysfs_priority("active/non-optimized\n", "1\n") == 90
    assert plain.sysfs_priority("active/optimized", "1") == 50
    assert plain.sysfs_priority("active/optimized", "1", "exclusive_pref_bit") == 130
    assert plain.sysfs_priority(None, None) == -1
    assert [plain.ana_priority(state) for state in (1, 2, 3, 4, 15, 7)] == [50, 10, 1, 0, 1, -1]
    weights = plain.parse_weights("hbtl 1:.:.:. 5 .* 2")
    assert plain.weighted_priority(weights, "1:0:0:0") == 5
    assert plain.weighted_priority(weights, "4:0:0:0") == 2
    assert plain.parse_latency_args("io_num=20 base_num=2") == plain.LatencyArgs(20, 2.0)
    fast = plain.latency_priority([100.0, 120.0], 2.0)
    slow = plain.latency_priority([1000.0], 2.0)
    assert fast - slow == 3
    assert plain.latency_priority([], 2.0) == -1


@pytest.mark.parametrize("args", ["", "hbtl", "hbtl a", "foo a 1", "hbtl ( 1", "hbtl a x"])
def test_bad_weights(args: str) -> None:
    with pytest.raises(ValueError):
        plain.parse_weights(args)


@pytest.mark.parametrize("args", ["io_num=10", "base_num=11", "io_num=x", "nonsense"])
def test_bad_latency_args(args: str) -> None:
    with pytest.raises(ValueError):
        plain.parse_latency_args(args)
