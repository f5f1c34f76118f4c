"""Bad storage and bad clients at the running daemon: an error to who asked, nothing written, nobody else hurt."""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.lease.checksum import checksum
from tests.interop.conftest import StartHost, our_command
from tests.interop.hosts import CALL_LIMIT_S, REAL, Host, new_file, running, start_process

MIB = 1 << 20
SECTOR = 512
MAGIC = struct.pack("<I", 0x04282010)


@pytest.fixture
def host(start_ours: StartHost) -> Host:
    """A Holdfast host without lockspaces."""
    return start_ours("holdfast")


@pytest.fixture
def leases(host: Host, directory: Path) -> Path:
    """A file with the lockspace LS at 0 and the resource R at 1 MiB."""
    path = new_file(directory / "leases", 2)
    assert result(host, "init", "-s", f"LS:0:{path}:0", "-o", "1") == 0
    assert result(host, "init", "-r", f"LS:R:{path}:{MIB}") == 0
    return path


def result(host: Host, *arguments: str) -> int:
    """Result code of a client command."""
    output = host.cli("client", *arguments).output
    codes = re.findall(r"(?:done|error) (-?\d+)", output)
    assert codes, output
    return int(codes[-1])


def change(path: Path, offset: int, data: bytes) -> None:
    """Overwrite some bytes."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def seal(path: Path, area: int) -> None:
    """Make the checksum of the record at `area` fit again, so that the change before it looks intended."""
    record = path.read_bytes()[area : area + 168]
    change(path, area + 168, struct.pack("<I", checksum(record)))


def refused_and_untouched(host: Host, path: Path, *arguments: str) -> int:
    """The error code of a command that must fail and write nothing."""
    before = path.read_bytes()
    code = result(host, *arguments)
    assert code < 0
    assert path.read_bytes() == before
    return code


@pytest.mark.parametrize(
    ("offset", "data", "sealed", "code"),
    [
        (0, b"\0\0\0\0", False, -223),
        (4, struct.pack("<I", 0x00990004), False, -224),
        (56, b"XX", True, -226),
        (152, b"\1", False, -229),
        (12, struct.pack("<I", 1024), True, -225),
    ],
    ids=["magic", "version", "name", "checksum", "sector size"],
)
def test_damaged_lockspace(host: Host, leases: Path, offset: int, data: bytes, sealed: bool, code: int) -> None:
    change(leases, offset, data)
    if sealed:
        seal(leases, 0)
    joining = ("add_lockspace", "-s", f"LS:1:{leases}:0", "-o", "1")
    assert refused_and_untouched(host, leases, *joining) == code


def test_lockspace_of_a_newer_program_is_refused(host: Host, leases: Path) -> None:
    """Unknown flags may change what a lease means: never treat such a lease as free."""
    change(leases, 8, struct.pack("<I", 0x10 | 0x4000))
    seal(leases, 0)
    refused_and_untouched(host, leases, "add_lockspace", "-s", f"LS:1:{leases}:0", "-o", "1")


@pytest.mark.parametrize("offset", [1, 100, 513, MIB + 7])
def test_unaligned_offset(host: Host, leases: Path, offset: int) -> None:
    refused_and_untouched(host, leases, "add_lockspace", "-s", f"LS:1:{leases}:{offset}")
    refused_and_untouched(host, leases, "read", "-r", f"LS:R:{leases}:{offset}")
    refused_and_untouched(host, leases, "init", "-r", f"LS:R:{leases}:{offset}")


def test_offset_beyond_all_bounds(host: Host, leases: Path) -> None:
    for offset in (2**63 - 512, 2**63, 2**64 - 512):
        refused_and_untouched(host, leases, "add_lockspace", "-s", f"LS:1:{leases}:{offset}")
        refused_and_untouched(host, leases, "read", "-r", f"LS:R:{leases}:{offset}")


def test_not_a_file(host: Host, leases: Path, directory: Path) -> None:
    fifo = directory / "fifo"
    os.mkfifo(fifo)
    for path in (directory, fifo, Path("/dev/null"), Path("/dev/zero")):
        assert result(host, "add_lockspace", "-s", f"LS:1:{path}:0") < 0
        assert result(host, "read", "-r", f"LS:R:{path}:0") < 0


def test_corrupted_resource(host: Host, leases: Path) -> None:
    assert result(host, "add_lockspace", "-s", f"LS:1:{leases}:0", "-o", "1") == 0
    resource = f"LS:R:{leases}:{MIB}"
    good = leases.read_bytes()[MIB:]
    damages = {
        "checksum": (152, b"\1", False),
        "resource name": (104, b"X", True),
        "version": (4, struct.pack("<I", 0x00990004), True),
        "unknown flags": (8, struct.pack("<I", 0x10 | 0x4000), True),
        "own host block": (2 * SECTOR, b"\1", False),
        "another host block": (9 * SECTOR, b"\1", False),
    }
    for what, (offset, data, sealed) in damages.items():
        change(leases, MIB + offset, data)
        if sealed:
            seal(leases, MIB)
        damaged = leases.read_bytes()[MIB:]
        acquiring = host.cli("client", "command", "-r", resource, "-c", "/bin/true")
        assert acquiring.status == 1, what
        assert re.search(r"acquire done -\d+", acquiring.output), what
        if what != "another host block":
            assert leases.read_bytes()[MIB:] == damaged, what
        change(leases, MIB, good)
    host.hold(resource)


@pytest.fixture
def mounts(directory: Path) -> Iterator[Path]:
    """`full`, a file system without a free block, and `readonly`, both with a lockspace `leases`."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount: run the tests as root")
    mounted = []
    try:
        for name, size in (("readonly", "4m"), ("full", "512k")):
            path = directory / name
            path.mkdir()
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size}", "holdfast-test", str(path)], check=False
            )
            if done.returncode != 0:
                pytest.skip("mounting a tmpfs is refused here: give the container CAP_SYS_ADMIN")
            mounted.append(path)
            new_file(path / "leases", 2)
        yield directory
    finally:
        for path in mounted:
            subprocess.run(["umount", "-l", str(path)], check=True)


def test_read_only_and_full_file_systems(directory: Path, mounts: Path) -> None:
    """The same answers as the original."""
    answers = []
    readonly, full = mounts / "readonly" / "leases", mounts / "full" / "leases"
    with running(REAL, directory / "init", "init") as host:
        assert result(host, "init", "-s", f"LS:0:{readonly}:0", "-o", "1") == 0
        assert result(host, "init", "-r", f"LS:R:{readonly}:{MIB}") == 0
    subprocess.run(["mount", "-o", "remount,ro", str(readonly.parent)], check=True)
    for command, name in ((REAL, "real"), (our_command(), "ours")):
        with running(command, directory / name, name) as host:
            calls = [
                ("add_lockspace", "-s", f"LS:1:{readonly}:0", "-o", "1"),
                ("init", "-s", f"LS:0:{readonly}:0"),
                ("init", "-r", f"LS:R:{readonly}:{MIB}"),
                ("init", "-s", f"LS:0:{full}:0"),
                ("init", "-r", f"LS:R:{full}:{MIB}"),
            ]
            answers.append({call[0] + call[2]: result(host, *call) for call in calls})
    assert answers[1] == answers[0]
    assert all(code < 0 for code in answers[0].values())


def test_second_daemon_in_one_run_directory(host: Host, leases: Path) -> None:
    assert result(host, "add_lockspace", "-s", f"LS:1:{leases}:0", "-o", "1") == 0
    holder = host.hold(f"LS:R:{leases}:{MIB}")
    second = start_process(our_command(), host.directory, "second")
    try:
        assert second.wait(CALL_LIMIT_S) == 1
    finally:
        second.kill()
        second.wait()
    assert host.process.poll() is None
    assert f"p {holder.pid}" in host.cli("client", "status").output


def test_clients_that_do_not_speak_properly(host: Host, leases: Path) -> None:
    """One byte, half a message, garbage, a huge length, a close at any point: the others are served meanwhile."""
    header = MAGIC + struct.pack("<7I", 1, 7, 0, 0xFFFFFFFF, 0, 8, 0xFFFFFFFF)
    fragments = [
        b"\x10",
        MAGIC,
        header[:31],
        header,
        header + bytes(700),
        b"GET / HTTP/1.1\r\n\r\n" * 50,
        bytes(5000),
    ]
    kept = []
    for fragment in fragments:
        for keep in (True, False):
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(host.run_dir / "sanlock.sock"))
            client.sendall(fragment)
            if keep:
                kept.append(client)
            else:
                client.close()
    try:
        assert host.cli("client", "status", limit_s=10).status == 0
        assert result(host, "add_lockspace", "-s", f"LS:1:{leases}:0", "-o", "1") == 0
        host.hold(f"LS:R:{leases}:{MIB}")
    finally:
        for client in kept:
            client.close()
    assert host.process.poll() is None
