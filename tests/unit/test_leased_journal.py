"""The journal of a run: what a successor can read back, and what it makes of damage and of foreign files."""

from __future__ import annotations

import asyncio
import functools
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from holdfast.daemons.processes import Process, start_time
from holdfast.lease.errors import LeaseError
from holdfast.leased import journal, wire
from holdfast.leased.clients import Client
from holdfast.leased.holders import Standing, look_for
from holdfast.leased.journal import (
    FORMAT,
    OLD_FORMAT,
    Holder,
    Journal,
    RecordedClient,
    RecordedLease,
    RecordedSpace,
    SocketId,
    replay,
)
from holdfast.leased.leases import LeaseTable, LocalLease
from holdfast.leased.peer_sockets import SocketTable
from holdfast.leased.record import RunRecord, run_tag
from holdfast.leased.spaces import Space

SPACE = RecordedSpace("LS \udcff", 7, 3, 10, 1 << 20, "/dev/a b", "name of host", config=3, renewed=4711)
SOCKETS = (SocketId(1, 2, 1 << 63), SocketId(1, 3, 4))
CLIENT = RecordedClient(5, "0a1b", 1234, 99, 7, True, "näme", "/bin/kill path", "a\\ b", SOCKETS)


def written(made: Journal) -> str:
    return f"{FORMAT}\n" + "".join(made.lines())


def everything() -> Journal:
    made = Journal(unknown=True)
    made.spaces[SPACE.name] = SPACE
    made.clients[5] = CLIENT
    made.clients[6] = CLIENT._replace(ci=6, name="", killpath="", killargs="")
    for lease in (
        RecordedLease(SPACE.name, "EX", "/p", 0, journal.FLAG_LVB, {5: True}, lver=12, lvb=b"\0value"),
        RecordedLease(SPACE.name, "SH", "/p", 512, wire.RES_SHARED, {5: False, 6: True}, shared=True, lver=2),
        RecordedLease(SPACE.name, "unconfirmed", "/p", 0, 0, {6: False}),
        RecordedLease(SPACE.name, "orphan", "/p", 0, 0, lver=9, orphan=True, pid=77),
        RecordedLease(SPACE.name, "leaving", "/p", 0, 0, lver=9, leaving=True),
    ):
        made.leases[lease.key] = lease
    made.old_holders["OLD"] = {Holder(12, 13), Holder(14, 0, SOCKETS)}
    return made


def test_what_is_written_is_read_back() -> None:
    made = everything()
    found = replay(written(made))
    assert found.unknown
    assert found.spaces == made.spaces
    assert found.clients == made.clients
    assert found.old_holders == made.old_holders
    orphan = found.leases[SPACE.name, "orphan"]
    assert (orphan.orphan, orphan.leaving, orphan.pid, orphan.holders, orphan.lver) == (True, False, 77, {}, 9)
    assert found.leases[SPACE.name, "leaving"].leaving
    for name in ("EX", "SH", "unconfirmed"):
        expected, lease = made.leases[SPACE.name, name], found.leases[SPACE.name, name]
        assert (lease.holders, lease.lver, lease.shared, lease.lvb) == (
            expected.holders,
            expected.lver,
            expected.shared,
            expected.lvb,
        )
    assert written(replay(written(found))) == written(found)


@pytest.mark.parametrize(
    ("lines", "holders"),
    [
        ("free {LS} {R}", None),
        ("end 5", {}),
        ("drop {LS} {R} 5", {}),
        ("left {LS}", None),
        ("failed {LS}", None),
        ("lver {LS} {R} 5 0", {5: False}),
    ],
)
def test_changes_of_a_held_lease(lines: str, holders: dict[int, bool] | None) -> None:
    start = Journal(clients={5: CLIENT}, spaces={"LS": RecordedSpace("LS", 1, 1, 1, 0, "/p", "h")})
    start.leases["LS", "R"] = RecordedLease("LS", "R", "/p", 0, 0, {5: False})
    text = written(start) + lines.format(LS=b"LS".hex(), R=b"R".hex()) + "\n"
    lease = replay(text).leases.get(("LS", "R"))
    assert (lease.holders if lease else None) == holders


def test_clients_and_holders_of_journals_that_knew_no_sockets() -> None:
    made = Journal(clients={5: CLIENT}, old_holders={"LS": {Holder(1, 2, SOCKETS)}})
    text = written(made).replace(f" {journal.sockets_text(SOCKETS)}\n", "\n")
    assert "1:2:" not in text
    found = replay(text)
    assert found.clients[5] == CLIENT._replace(sockets=())
    assert found.old_holders == {"LS": {Holder(1, 2)}}


@pytest.mark.parametrize("sockets", ["1:2", "1:2:x", "1:4294967296:3", ",".join(["1:2:3"] * 9), "1:2:3 4", ""])
def test_sockets_that_no_daemon_wrote(sockets: str) -> None:
    text = written(Journal(clients={5: CLIENT}))
    with pytest.raises(ValueError, match="line"):
        replay(text.replace(journal.sockets_text(SOCKETS), sockets))


def test_of_a_failed_lockspace_only_the_holders_count() -> None:
    made = everything()
    made.unknown = False
    later = f"failed {journal.quote(SPACE.name)}\nlver {journal.quote(SPACE.name)} {journal.quote('EX')} 13 0\n"
    found = replay(written(made) + later)
    assert SPACE.name not in found.spaces
    assert not found.leases
    assert found.old_holders[SPACE.name] == {CLIENT.holder, journal.ORPHAN}


def test_joined_again_under_a_new_generation_means_without_leases() -> None:
    made = everything()
    again = RecordedSpace(SPACE.name, 7, 4, 10, 1 << 20, "/dev/a b", "name of host")
    found = replay(written(made) + journal.join_line(again))
    assert found.spaces[SPACE.name].generation == 4
    assert not found.leases


def test_a_cut_last_line_was_never_promised() -> None:
    whole = written(everything())
    for length in range(len(FORMAT) + 1, len(whole)):
        replay(whole[:length])
    assert replay("") == Journal()
    assert replay(whole + "left") == replay(whole)


def test_damage_is_an_error_of_one_kind() -> None:
    rng = random.Random(1)
    whole = written(everything())
    refused = 0
    for _ in range(2000):
        text = list(whole)
        for _ in range(rng.choice((1, 1, 3))):
            text[rng.randrange(len(text))] = rng.choice("\n -0f9x\0\xff")
        try:
            replay("".join(text))
        except ValueError:
            refused += 1
    assert refused > 500


@pytest.mark.parametrize(
    "line",
    [
        "client 5 ../x 1 1 0 0 - - -",
        "client 1 aa 1 1 0 0 - - -",
        "client 5 aa 0 1 0 0 - - -",
        "client 5 aa -1 1 0 0 - - -",
        "client 5 aa 99999999999999999999999 1 0 0 - - -",
        "join 4c53 1 1 0 0 2f70 68 0",
        "join 4c53 1 1 300 0 2f70 68 0",
        "join - 1 1 1 0 2f70 68 0",
        "join 00 1 1 1 0 2f70 68 0",
        "join " + "41" * 49 + " 1 1 1 0 2f70 68 0",
        "take 4c53 52 5 0 0 2f70",
        "word",
        "left",
    ],
)
def test_hostile_lines(line: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        replay(f"{FORMAT}\n{line}\n")


def test_the_old_format_tells_who_must_be_gone() -> None:
    name = b"LS".hex()
    found = replay(f"{OLD_FORMAT}\njoin {name}\nhold {name} 12 34\nhold {name} 5 6\ndrop {name} 5 6\n")
    assert found.old_holders == {"LS": {Holder(12, 34)}}
    assert not found.spaces


# -- the file ----------------------------------------------------------------------------------------------


def leave(run_dir: Path, text: str, mode: int = 0o600) -> Path:
    path = run_dir / "holdfast.record"
    path.write_text(text)
    path.chmod(mode)
    return path


def started(run_dir: Path) -> RunRecord:
    record = RunRecord(str(run_dir))
    record.read()
    record.start(lambda: record.previous)
    return record


def test_the_file_is_gone_after_a_proper_end(tmp_path: Path) -> None:
    started(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_it_is_kept_for_a_successor(tmp_path: Path) -> None:
    made = Journal(spaces={SPACE.name: SPACE})
    leave(tmp_path, f"{FORMAT}\nrun {run_tag()}\n" + "".join(made.lines()))
    record = started(tmp_path)
    record.keep()
    assert started(tmp_path).previous.spaces == made.spaces


def test_of_an_earlier_boot_nothing_is_left(tmp_path: Path) -> None:
    _, namespaces = run_tag().split(",", 1)
    leave(tmp_path, f"{FORMAT}\nrun other-boot,{namespaces}\n" + "".join(everything().lines()))
    record = started(tmp_path)
    assert record.previous == Journal()
    record.close()
    assert list(tmp_path.iterdir()) == []


def test_of_other_namespaces_nothing_is_known(tmp_path: Path) -> None:
    boot = run_tag().split(",")[0]
    leave(tmp_path, f"{FORMAT}\nrun {boot},pid:[1],time:[1]\n")
    assert started(tmp_path).previous.unknown


@pytest.mark.parametrize("content", ["something else\n", "\xff\xfe\n", FORMAT + "\nnonsense\n"])
def test_a_damaged_file_proves_nothing_even_later(tmp_path: Path, content: str) -> None:
    path = tmp_path / "holdfast.record"
    path.write_bytes(content.encode("latin-1"))
    for _ in range(2):
        record = started(tmp_path)
        assert record.previous.unknown
        assert not asyncio.run(record.prove_gone("LS"))
        record.keep()


@pytest.mark.parametrize("kind", ["writable", "link", "directory", "fifo"])
def test_a_file_that_others_may_have_made_is_not_believed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "holdfast.record"
    if kind == "writable":
        leave(tmp_path, f"{FORMAT}\n", 0o666)
    elif kind == "link":
        (tmp_path / "elsewhere").write_text(f"{FORMAT}\n")
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path, 0o600)
    record = RunRecord(str(tmp_path))
    record.read()
    assert record.previous.unknown


def test_a_restart_without_resume_kills_what_the_previous_run_left(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        name, start = b"LS".hex(), start_time(child.pid)
        leave(tmp_path, f"{OLD_FORMAT}\njoin {name}\nhold {name} {child.pid} {start}\n")
        record = started(tmp_path)
        assert asyncio.run(record.prove_gone("other"))
        assert child.poll() is None
        assert asyncio.run(record.prove_gone("LS"))
        assert child.wait(10) == -signal.SIGKILL
        record.close()
        assert list(tmp_path.iterdir()) == []
    finally:
        child.kill()
        child.wait()


def test_orphans_of_the_previous_run_prove_nothing(tmp_path: Path) -> None:
    made = Journal(spaces={"LS": RecordedSpace("LS", 1, 1, 1, 0, "/p", "h")})
    made.leases["LS", "R"] = RecordedLease("LS", "R", "/p", 0, 0, orphan=True)
    leave(tmp_path, written(made))
    record = started(tmp_path)
    assert asyncio.run(record.prove_gone("other"))
    assert not asyncio.run(record.prove_gone("LS"))
    record.conservative()
    assert not asyncio.run(record.prove_gone("LS"))


def test_a_reused_pid_is_not_killed(tmp_path: Path) -> None:
    start = start_time(os.getpid())
    assert start is not None
    table = SocketTable()
    here, there = socket.socketpair()
    used = table.peer_of(here)
    assert used is not None
    there.close()
    try:
        for sockets in ((used,), ()):
            leave(tmp_path, written(Journal(old_holders={"LS": {Holder(os.getpid(), start + 1, sockets)}})))
            record = started(tmp_path)
            record.sockets = table
            assert asyncio.run(record.prove_gone("LS")) is bool(sockets), "without it nobody knows of its heirs"
            record.keep()
    finally:
        here.close()
        table.close()


def test_standing_of_processes() -> None:
    start = start_time(os.getpid())
    assert start is not None
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # Now it is a zombie.
    for pid, at, expected in (
        (os.getpid(), start, Standing.SAME),
        (os.getpid(), start + 1, Standing.GONE),
        (os.getpid(), journal.UNKNOWN_START, Standing.UNPROVEN),
        (child.pid, 1, Standing.GONE),
        (child.pid, 0, Standing.GONE),
    ):
        standing, process = look_for(pid, at)
        process.close()
        assert standing is expected
    child.wait()


def in_a_loop(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    """For lines that wait a moment."""

    @functools.wraps(test)
    def run(*args: object, **fixtures: object) -> None:
        asyncio.run(test(*args, **fixtures))

    return run


class Writing:
    """A record being written, with one client and one lease."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "holdfast.record"
        self.record = RunRecord(str(run_dir))
        self.record.read()
        self.live = Journal(spaces={"LS": RecordedSpace("LS", 1, 1, 1, 0, "/p", "h")})
        self.record.start(lambda: self.live)
        self.client = Client(5, 9)
        self.client.register(os.getpid(), Process(os.getpid()))
        self.record.client(self.client)
        space = Space(1, "LS", 1, "/p", 0, 1)
        self.local: LocalLease = LeaseTable().begin(
            ("LS", "R"), space, wire.resource("LS", "R", [wire.Disk("/p")])
        )

    def read(self) -> Journal:
        return replay(self.path.read_text())

    def close(self) -> None:
        self.record.keep()
        if self.client.process is not None:
            self.client.process.close()


@in_a_loop
async def test_one_line_before_an_acquire_and_one_after_a_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = Writing(tmp_path)
    writes: list[bytes] = []
    really = os.write

    def counted(fd: int, data: bytes) -> int:
        writes.append(data)
        return really(fd, data)

    monkeypatch.setattr("holdfast.leased.record.os.write", counted)
    writing.record.take(writing.client, writing.local, False)
    assert writing.read().leases["LS", "R"].holders == {5: False}
    writing.record.taken(writing.local)
    writing.record.freed(writing.local)
    assert len(writes) == 2
    assert not writing.read().leases
    writing.close()


@in_a_loop
async def test_what_waits_is_written_by_itself(tmp_path: Path) -> None:
    writing = Writing(tmp_path)
    writing.record.take(writing.client, writing.local, False)
    before = writing.path.stat().st_size
    writing.record.taken(writing.local)
    async with asyncio.timeout(10):
        while writing.path.stat().st_size == before:
            await asyncio.sleep(0.01)
    writing.close()


@in_a_loop
async def test_the_file_is_rewritten_when_it_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.leased.record.REWRITE_BYTES", 300)
    writing = Writing(tmp_path)
    for _ in range(100):
        writing.record.take(writing.client, writing.local, False)
        writing.record.freed(writing.local)
    assert writing.path.stat().st_size < 1000
    assert writing.read().spaces == writing.live.spaces
    writing.close()


@in_a_loop
async def test_nothing_follows_a_line_that_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writing = Writing(tmp_path)
    really = os.write
    full = True

    def short(fd: int, data: bytes) -> int:
        if full:
            really(fd, data[:10])
            raise OSError(28, "No space left on device")
        return really(fd, data)

    monkeypatch.setattr("holdfast.leased.record.os.write", short)
    with pytest.raises(LeaseError):
        writing.record.take(writing.client, writing.local, False)
    full = False
    writing.record.take(writing.client, writing.local, False)
    assert writing.read().leases["LS", "R"].holders == {5: False}
    writing.close()
