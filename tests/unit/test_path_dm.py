"""The device-mapper codec byte by byte, hostile lines, and the fake's semantics."""

from __future__ import annotations

import errno
import os
import random
import struct

import pytest

from holdfast.path import dm_text, dm_wire
from holdfast.path.dm import Control, DmError, Info, map_state
from holdfast.path.dm_text import DmTextError, GroupLine, PathLine, Table
from holdfast.path.dm_wire import (
    HEADER_BYTES,
    Answer,
    Command,
    DmWireError,
    Flag,
    Header,
    Listed,
    Target,
    UdevFlag,
)
from holdfast.testing.fake_dm import FakeDm

TWO_GROUPS = Table(
    (
        GroupLine("service-time", (PathLine("8:0", ("1",)), PathLine("8:16", ("1",)))),
        GroupLine("round-robin", (PathLine("8:32", ("1000",)),)),
    ),
    features=("queue_if_no_path", "pg_init_retries", "50"),
    hw_handler=("alua",),
)


def fake(table: Table = TWO_GROUPS) -> FakeDm:
    dm = FakeDm()
    dm.create("m", "mpath-1")
    dm.load("m", 2048, table)
    dm.resume("m")
    return dm


def test_request_numbers() -> None:
    assert Command.TABLE_STATUS.request == 0xC138FD0C
    assert Command.DEV_ARM_POLL.request == 0xC138FD10


def test_header_bytes() -> None:
    buffer = dm_wire.encode(
        Header(name="mpatha", uuid="mpath-36", flags=Flag.NOFLUSH, target_count=1, event_nr=7, dev=0xFD01), b"xyz"
    )
    assert len(buffer) == 315
    assert struct.unpack_from("=3I", buffer) == (4, 0, 0)
    assert struct.unpack_from("=IIIiIII", buffer, 12) == (315, 312, 1, 0, 0x800, 7, 0)
    assert struct.unpack_from("=Q", buffer, 40) == (0xFD01,)
    assert buffer[48:54] == b"mpatha"
    assert buffer[54:176] == bytes(122)
    assert buffer[176:184] == b"mpath-36"
    assert buffer[184:312] == bytes(128)
    assert buffer[312:] == b"xyz"
    assert dm_wire.decode(buffer).header == Header(
        name="mpatha",
        uuid="mpath-36",
        flags=Flag.NOFLUSH,
        target_count=1,
        event_nr=7,
        dev=0xFD01,
        data_size=315,
    )


def test_answer_without_data() -> None:
    """The kernel sets data_size to the offset of the header's own data, which is before data_start."""
    buffer = dm_wire.encode(Header(name="mpatha"))
    struct.pack_into("=I", buffer, 12, dm_wire.EMPTY_DATA_SIZE)
    answer = dm_wire.decode(buffer)
    assert (answer.header.name, answer.data) == ("mpatha", b"")


def test_arm_poll_bytes() -> None:
    buffer = dm_wire.encode_arm_poll()
    assert struct.unpack_from("=5I", buffer) == (4, 37, 0, 312, 305)
    assert struct.unpack_from("=I", buffer, 28) == (4,)


def test_load_bytes_and_status_answer() -> None:
    targets = [Target(0, 2048, "multipath", "0 0 0 0"), Target(2048, 8, "error", "")]
    data = dm_wire.encode_targets(targets)
    assert data[:40] == struct.pack("=QQiI16s", 0, 2048, 0, 48, b"multipath")
    assert data[40:48] == b"0 0 0 0\0"
    assert data[48:88] == struct.pack("=QQiI16s", 2048, 8, 0, 48, b"error")
    assert len(data) == 96
    # In answers `next` counts from the first spec.
    answered = data[:20] + struct.pack("=I", 48) + data[24:68] + struct.pack("=I", 96) + data[72:]
    assert dm_wire.decode_targets(Answer(Header(target_count=2), answered)) == targets
    for cut in (0, 39, 41, 87):
        with pytest.raises(DmWireError):
            dm_wire.decode_targets(Answer(Header(target_count=2), answered[:cut]))


def test_list_answer() -> None:
    listed = [Listed(0xFD00, "mpatha", 3, "mpath-36"), Listed(0xFD01, "x", 0, None), Listed(0xFD02, "yy", 9, "z")]
    answer = Answer(Header(version=(4, 47, 0)), dm_wire.encode_list(listed))
    assert dm_wire.decode_list(answer) == [listed[0], Listed(0xFD01, "x", 0, ""), listed[2]]
    old = dm_wire.decode_list(Answer(Header(version=(4, 30, 0)), dm_wire.encode_list(listed)))
    assert old == [Listed(entry.dev, entry.name) for entry in listed]
    assert dm_wire.decode_list(Answer(Header(), dm_wire.encode_list([]))) == []


def test_small_answers() -> None:
    assert dm_wire.decode_deps(Answer(Header(), struct.pack("=IIQQ", 2, 0, 0x800, 0x810))) == [0x800, 0x810]
    with pytest.raises(DmWireError):
        dm_wire.decode_deps(Answer(Header(), struct.pack("=IIQ", 2, 0, 0x800)))
    data = (
        struct.pack("=I3I", 32, 1, 14, 0)
        + b"multipath\0"
        + bytes(6)
        + struct.pack("=I3I", 0, 1, 5, 0)
        + b"error\0"
    )
    assert dm_wire.decode_versions(Answer(Header(), data)) == {"multipath": (1, 14, 0), "error": (1, 5, 0)}
    assert dm_wire.encode_message("fail_path 8:0") == bytes(8) + b"fail_path 8:0\0"
    assert dm_wire.cookie(UdevFlag.RELOAD | UdevFlag.DISABLE_LIBRARY_FALLBACK, 5) == 0x01600005


def test_answers_that_lie_raise_only_wire_errors() -> None:
    chosen = random.Random(1)
    good = dm_wire.encode_list([Listed(0xFD00, "mpatha", 3, "mpath-36"), Listed(0xFD01, "x", 0, None)])
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(chosen.randint(1, 4)):
            data[chosen.randrange(len(data))] = chosen.choice((0, 1, 8, 0x7F, 0xFF))
        count = chosen.choice((1, 2, 2**31))
        for decode in (dm_wire.decode_list, dm_wire.decode_targets, dm_wire.decode_deps, dm_wire.decode_versions):
            try:
                decode(Answer(Header(version=(4, 47, 0), target_count=count), bytes(data)))
            except DmWireError:
                pass


def test_names_that_do_not_fit() -> None:
    with pytest.raises(DmWireError):
        dm_wire.encode(Header(name="x" * 128))
    with pytest.raises(DmWireError):
        dm_wire.encode(Header(uuid="a\0b"))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "1",
        "0 0",
        "99 queue_if_no_path 0 0 0",
        "0 0 1 2 service-time 0 1 1 8:0 1",
        "0 0 1 0 service-time 0 1 1 8:0 1",
        "0 0 1 1 service-time 0 1 1 8:0",
        "0 0 1 1 service-time 0 1 1 sda 1",
        "0 0 1 1 service-time 0 1 1 8:0 1 9",
        "0 0 -1 1",
        "0 0 1 1 service-time 0 1000000000000 1 8:0 1",
    ],
)
def test_tables_that_are_none(line: str) -> None:
    with pytest.raises(DmTextError):
        dm_text.parse_table(line)


def test_empty_table() -> None:
    assert dm_text.parse_table("0 0 0 0") == Table((), initial_group=0)
    assert dm_text.format_table(Table(())) == "0 0 0 0"


def test_random_lines_raise_only_text_errors() -> None:
    chosen = random.Random(2)
    words = "0 1 2 3 8:0 8:16 A F E D service-time queue_if_no_path x 99999999999999999999999"
    for _ in range(5000):
        line = " ".join(chosen.choices(words.split(), k=chosen.randint(0, 20)))
        for parse in (dm_text.parse_table, dm_text.parse_status):
            try:
                parse(line)
            except DmTextError:
                pass


def test_no_control_node(tmp_path: object) -> None:
    with pytest.raises(DmError, match="modprobe dm-multipath") as raised:
        Control(f"{tmp_path}/control")
    assert raised.value.errno == errno.ENOENT


def test_a_kernel_that_lies_is_refused_like_one_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks knows DmError only: anything else would end more than the one call."""
    chosen = random.Random(7)
    calls = 0

    def lie(fd: int, request: int, buffer: bytearray) -> int:
        nonlocal calls
        calls += 1
        start = chosen.choice((0, 12, HEADER_BYTES, HEADER_BYTES))
        for at in range(start, len(buffer), chosen.choice((1, 3, 4))):
            buffer[at] = chosen.choice((0, 0, 1, 0x41, 0xFF))
        return 0

    monkeypatch.setattr("holdfast.path.dm.ioctl", lie)
    refused = 0
    with Control(os.devnull) as control:
        for _ in range(30):
            for ask in (
                control.list_devices,
                control.target_versions,
                lambda: control.read_map("m"),
                lambda: control.dependencies("m"),
                lambda: control.info("m"),
            ):
                try:
                    ask()
                except DmError:
                    refused += 1
    assert refused > 30
    assert calls < 2000


def test_not_our_kind_of_map() -> None:
    info = Info("v", "LVM-1", 1, 0, 0, False, False, True)
    with pytest.raises(DmError, match="multipath target"):
        map_state(info, [Target(0, 1, "linear", "8:0 0")], [Target(0, 1, "linear", "")])
    with pytest.raises(DmError, match="word"):
        map_state(info, [Target(0, 1, "multipath", "0 0 0 0")], [Target(0, 1, "multipath", "nonsense")])


def test_fake_fails_over_and_queues() -> None:
    dm = fake()
    assert dm.io("m") == "ok"
    dm.broken |= {"8:0", "8:16", "8:32"}
    assert dm.io("m") == "queued"
    assert [p.fail_count for g in dm.read_map("m").status.groups for p in g.paths] == [1, 1, 1]
    dm.broken.clear()
    dm.message("m", "reinstate_path 8:32")
    assert dm.maps["m"].queued == 0
    assert dm.read_map("m").status.current_group == 2
    dm.message("m", "switch_group 1")
    dm.message("m", "reinstate_path 8:0")
    assert dm.io("m") == "ok"
    assert dm.read_map("m").status.current_group == 1


def test_fake_fails_io_without_queueing() -> None:
    dm = fake(Table(TWO_GROUPS.groups))
    for dev_t in ("8:0", "8:16", "8:32"):
        dm.message("m", f"fail_path {dev_t}")
    assert dm.io("m") == "error"
    dm.message("m", "queue_if_no_path")
    assert dm.io("m") == "queued"
    assert dm.read_map("m").table.features == ("queue_if_no_path",)
    dm.message("m", "fail_if_no_path")
    assert dm.maps["m"].failed == 2


def test_fake_refuses() -> None:
    dm = fake()
    with pytest.raises(DmError) as raised:
        dm.message("m", "switch_group 3")
    assert raised.value.errno == errno.EINVAL
    with pytest.raises(DmError):
        dm.message("m", "do_what_i_want")
    dm.suspend("m")
    with pytest.raises(DmError) as raised:
        dm.message("m", "queue_if_no_path")
    assert raised.value.errno == errno.EBUSY
    dm.resume("m")
    dm.refuse("message", errno.ENOMEM, times=1)
    with pytest.raises(DmError):
        dm.message("m", "queue_if_no_path")
    dm.message("m", "queue_if_no_path")
    dm.maps["m"].open_count = 1
    with pytest.raises(DmError):
        dm.remove("m")
    with pytest.raises(DmError) as raised:
        dm.read_map("other")
    assert raised.value.errno == errno.ENXIO
    with pytest.raises(DmError):
        dm.create("other", "mpath-1")
