"""Every recorded message decodes and encodes to the same bytes; strings; payload sizes; hostile bytes."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.leased import wire
from holdfast.leased.wire import Command, Disk, Header, Payload

VECTORS = Path(__file__).parents[1] / "vectors" / "wire"
FILES = sorted(VECTORS.glob("*.jsonl.gz"))


def records(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt") as lines:
        for line in lines:
            yield json.loads(line)


def requests_in(raw: bytes) -> Iterator[tuple[Header, Payload, bytes]]:
    """As the daemon takes them: 32 bytes, then what the command says; bad headers are skipped."""
    at = 0
    while len(raw) - at >= wire.HEADER_SIZE:
        header = wire.decode_header(raw, at)
        start = at
        at += wire.HEADER_SIZE
        if header.magic != wire.MAGIC:
            continue
        if header.cmd == Command.ACQUIRE and header.data > wire.MAX_RESOURCES:
            return
        try:
            taken = wire.take_payload(header, raw, at)
        except wire.DiskCountError:
            return
        if taken is None:
            return
        payload, at = taken
        yield header, payload, raw[start:at]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name[:2])
def test_recorded_requests_decode_and_encode_again(path: Path) -> None:
    count = 0
    for record in records(path):
        if record["rec"] != "io" or record["dir"] != "c2d":
            continue
        for header, payload, raw in requests_in(bytes.fromhex(record["hex"])):
            assert header.encode() == raw[:32]
            encoded = payload.encode(with_disks=header.cmd in wire.COMMANDS_WITH_DISKS)
            assert encoded == raw[32:], Command(header.cmd).name
            count += 1
    assert count


def encode_body(cmd: int, header: Header, body: bytes) -> bytes | None:
    """Decode a reply's body by its command and encode it again; None for plain bytes."""
    if cmd in (Command.STATUS, Command.HOST_STATUS, Command.RENEWAL):
        return b"".join(item.encode() for item in wire.decode_status_items(body))
    if cmd == Command.READ_LOCKSPACE:
        return wire.decode_lockspace(body).encode()
    if cmd in (Command.READ_RESOURCE, Command.READ_RESOURCE_OWNERS):
        hosts = [wire.decode_host(body, at) for at in range(128, len(body), 32)]
        return wire.decode_resource(body).encode() + b"".join(host.encode() for host in hosts)
    if cmd == Command.GET_LOCKSPACES:
        spaces = [wire.decode_lockspace(body, at) for at in range(0, len(body), 1104)]
        assert len(spaces) == header.data2
        return b"".join(space.encode() for space in spaces)
    if cmd == Command.GET_HOSTS:
        return b"".join(wire.decode_host(body, at).encode() for at in range(0, len(body), 32))
    if cmd in (Command.UPDATE_RINDEX, Command.LOOKUP_RINDEX, Command.CREATE_RESOURCE, Command.DELETE_RESOURCE):
        return wire.decode_rentry(body).encode()
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name[:2])
def test_recorded_replies_decode_and_encode_again(path: Path) -> None:
    last: dict[str, Header] = {}
    events: set[str] = set()
    compared = 0
    for record in records(path):
        if record["rec"] != "io":
            continue
        raw = bytes.fromhex(record["hex"])
        if record["dir"] == "c2d":
            for header, _, _ in requests_in(raw):
                last[record["conn"]] = header
                if header.cmd == Command.REG_EVENT:
                    events.add(record["conn"])
            continue
        if len(raw) < 32:
            continue
        reply = wire.decode_header(raw)
        if record["conn"] in events and reply.length == wire.EVENT_MESSAGE_SIZE:
            for at in range(0, len(raw), 80):
                assert wire.decode_event_message(raw[at:]).encode() == raw[at : at + 80]
            continue
        assert reply.encode() == raw[:32]
        request = last.get(record["conn"])
        if request is not None and reply.cmd == request.cmd and reply.cmd != Command.VERSION:
            body = raw[32:]
            encoded = encode_body(reply.cmd, reply, body) if body else b""
            if encoded is not None:
                assert encoded == body, Command(reply.cmd).name
            again = wire.encode_reply(request, reply.data, reply.data2, body, length=reply.length)
            assert again == raw
            compared += 1
        if reply.cmd == Command.VERSION:
            assert wire.encode_version_reply() == raw
    assert compared


def test_payload_is_taken_only_when_complete() -> None:
    lease = wire.resource("LS", "R", [Disk("/dev/x", 1 << 20)])
    payload = Payload((lease,), wire.Options("owner"))
    raw = payload.encode(with_disks=True)
    header = wire.decode_header(wire.encode_request(Command.ACQUIRE, raw, data=1, data2=wire.SELF_PID))
    for cut in range(len(raw)):
        assert wire.take_payload(header, raw[:cut]) is None
    assert wire.take_payload(header, raw + b"next") == (payload, len(raw))


@pytest.mark.parametrize("count", [0, 5, 0xFFFFFFFF])
def test_disk_count_out_of_range(count: int) -> None:
    lease = wire.Resource("LS", "R", num_disks=count)
    header = wire.decode_header(wire.encode_request(Command.READ_RESOURCE))
    with pytest.raises(wire.DiskCountError) as caught:
        wire.take_payload(header, lease.encode() + bytes(5000))
    assert caught.value.code == -34


def test_release_flags_decide_the_payload() -> None:
    def count(flags: int, data: int) -> int:
        return wire.release_count(wire.decode_header(wire.encode_request(8, flags=flags, data=data)))

    assert count(0, 3) == 3
    assert count(0, -1) == 0
    assert count(wire.RELEASE_ALL | wire.RELEASE_ORPHAN, 5) == 0
    assert count(wire.RELEASE_ORPHAN | wire.RELEASE_RENAME, 5) == 1
    assert count(wire.RELEASE_RENAME, 2) == 2


def test_random_bytes_never_break_the_decoder() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        cmd = rng.randrange(0, 45)
        raw = rng.randbytes(rng.randrange(0, 3000))
        header = Header(wire.MAGIC, 1, cmd, rng.getrandbits(32), rng.getrandbits(32), 0, rng.randrange(0, 8), 0)
        try:
            taken = wire.take_payload(header, raw)
        except wire.DiskCountError:
            continue
        if taken is not None:
            assert taken[1] <= len(raw)


def test_names_of_48_bytes_and_no_more() -> None:
    name = "n" * 48
    assert wire.decode_options(wire.Options(name).encode()).owner_name == name
    with pytest.raises(wire.FormatError):
        wire.Options("n" * 49).encode()
    any_bytes = bytes(range(1, 49)).replace(b"\x30", b"\xff")
    assert wire.decode_rentry(any_bytes + bytes(16)).encode() == any_bytes + bytes(16)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/a b", "/a\\ b"),
        ("/a:b", "/a\\:b"),
        ("/a\\ b", "/a\\ b"),
        ("/plain", "/plain"),
        ("/a\\\\:b", "/a\\\\\\:b"),
    ],
)
def test_path_export(path: str, text: str) -> None:
    assert wire.path_export(path) == text


def test_path_import_removes_every_backslash() -> None:
    assert wire.path_import("/a\\:b\\ c") == "/a:b c"


def test_str_to_res() -> None:
    lease = wire.str_to_res("LS:R\\:1:/dev/a\\:b:1048576")
    assert (lease.lockspace_name, lease.name, lease.disks) == ("LS", "R:1", (Disk("/dev/a:b", 1 << 20),))
    assert wire.str_to_res("LS:R:/a:0:5")[2] == 5
    assert wire.str_to_res("LS:R:/a:0:0x10").lver == 16
    assert wire.str_to_res("LS:R:/a:0:5").flags == wire.RES_LVER
    assert wire.str_to_res("LS:R:/a:0:SH").flags == wire.RES_SHARED
    assert wire.str_to_res("LS:R:/a:0:/b:8:SH").num_disks == 2
    assert wire.str_to_res("LS:R").disks == ()


@pytest.mark.parametrize("text", ["", "ab", "LSR", "LS:R:/a", "LS:R:/a:x", ":R:/a:0", "LS:R::0", "LS:R:/a:-1"])
def test_str_to_res_refuses(text: str) -> None:
    with pytest.raises(wire.FormatError) as caught:
        wire.str_to_res(text)
    assert caught.value.code == -1


def test_str_to_res_with_too_many_disks() -> None:
    with pytest.raises(wire.FormatError) as caught:
        wire.str_to_res("LS:R" + ":/a:0" * 5)
    assert caught.value.code == -2


def test_state_string_round_trip() -> None:
    leases = [
        wire.resource("LS", "R1", [Disk("/a:1", 5)], lver=7, flags=wire.RES_LVER),
        wire.resource("LS", "R2", [Disk("/b")], flags=wire.RES_SHARED),
    ]
    text = wire.args_to_state(leases)
    assert text == "LS:R1:/a\\:1:5:7 LS:R2:/b:0:SH"
    assert wire.state_to_args(text) == leases
    with pytest.raises(wire.FormatError) as caught:
        wire.res_to_str(wire.resource("LS", "R", [Disk("/with space")]))
    assert caught.value.code == -81
    with pytest.raises(wire.FormatError) as caught:
        wire.res_to_str(wire.resource("LS", "R", [Disk("/" + "x" * 1000)] * 5))
    assert caught.value.code == -80


def test_space_before_three_colons_belongs_to_the_item() -> None:
    first, second = wire.state_to_args("LS:R 1:/a:0:7 LS:R2:/b:0:SH")
    assert first.name == "R 1"
    assert second.name == "R2"


def test_pairs() -> None:
    text = wire.format_pairs([("list", "held"), ("lver", 3)])
    assert text == "list=held lver=3"
    assert wire.parse_pairs(text + " junk") == {"list": "held", "lver": "3"}
