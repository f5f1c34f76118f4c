"""A supervisor that was killed: what it leaves is ended before its successor starts anything."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from holdfast.daemons.processes import start_time
from holdfast.service.process import leftovers, record
from holdfast.service.process.lineage import children_of
from tests.unit.process_lab import TRACKING, UNIT, lab, unit_file
from tests.unit.service_process import Supervisor, wait_for

TRAP = "trap 'echo $1 >> $2; exit 0' TERM; echo up; while :; do sleep 0.05; done"


def living(word: str) -> list[int]:
    """Processes with this word among their arguments."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if word.encode() in words:
                found.append(int(name))
    return found


@pytest.fixture
def word() -> str:
    """An argument that only this test's processes have."""
    return f"31{os.getpid()}.{time.monotonic_ns() % 1_000_000}"


def test_services_of_a_killed_supervisor_are_ended_in_order_and_never_run_twice(tmp_path: Path, word: str) -> None:
    order = tmp_path / "order"
    (tmp_path / "trap").write_text(TRAP)
    a, b = (f"[Service]\nExecStart=/bin/sh {tmp_path}/trap {name} {order}\n" for name in "ab")
    units = {
        "a.service": a,
        "b.service": "[Unit]\nAfter=a.service\nRequires=a.service\n" + b,
        # One that ignores SIGTERM would hold up the test for 10 s; a daemon in a session of its own does not.
        "c.service": f"[Service]\nType=forking\nExecStart=/bin/sh -c 'setsid env -i sleep {word} & exit 0'\n",
    }
    with Supervisor(tmp_path, units, "b.service", "c.service") as running:
        running.wait_until("b", "active/running")
        wait_for(lambda: running.log().count("]: up") == 2)
        first = wait_for(lambda: living(word))
        running.signal(signal.SIGKILL)
        running.process.wait()
    assert living(word) == first
    assert (tmp_path / "run" / record.NAME).exists()
    with Supervisor(tmp_path, units, "b.service", "c.service") as running:
        running.wait_until("b", "active/running")
        second = wait_for(lambda: living(word))
        assert len(second) == 1
        assert second != first
        lines = running.log().splitlines()
        ended = [number for number, line in enumerate(lines) if "Left running by a supervisor" in line]
        assert len(ended) == 3
        assert max(ended) < min(number for number, line in enumerate(lines) if "Started " in line)
        assert order.read_text().split() == ["b", "a"]
        running.signal(signal.SIGTERM)
        assert running.ended() == 0
    assert living(word) == []
    assert not (tmp_path / "run" / record.NAME).exists()


@pytest.mark.parametrize("tracking", TRACKING)
def test_all_descendants_are_found(tmp_path: Path, tracking: str) -> None:
    async def scene() -> None:
        path = str(tmp_path / "record")
        async with lab(tmp_path, tracking, record=path) as it:
            script = "sleep 100 & (setsid sleep 100 &); (setsid env -i sleep 100 &); sleep 100 & wait"
            await it.spawn(unit_file(""), script)
            await it.spawn(unit_file("LimitLOCKS=77", "other.service"), "/bin/sleep 100", unit="other.service")
            recorded = record.read(path, record.run_tag())

            def all_found() -> bool:
                # Together, once the subshells have become what they are to be.
                members = {unit: set(it.host.members(unit)()) for unit in ("other.service", UNIT)}
                found = leftovers.find(recorded, it.host._hierarchy)
                same = {unit: set(pids) for unit, pids in found.items()} == members
                return same and len(members[UNIT]) == 5 and list(found) == ["other.service", UNIT]

            await it.until(all_found, "found")
            # Without a record nobody is anybody's: groups alone prove nothing.
            assert leftovers.find(record.Recorded(), it.host._hierarchy) == {}
            assert record.read(path, "elsewhere") == record.Recorded()
        # Everything was ended: a successor has nothing to look for.
        assert not os.path.exists(path)

    asyncio.run(scene())


def test_who_ignores_sigterm_is_killed_and_newcomers_are_asked_too(
    word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "TURN_S", 0.1)
    monkeypatch.setattr(leftovers, "TERM_S", 0.3)
    script = f"trap '' TERM; echo up; while :; do sleep {word} & wait; done"
    said: list[str] = []
    with subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        start = start_time(process.pid)
        assert start is not None
        recorded = record.Recorded(units={0: "a.service"}, processes=[(0, process.pid, start)])
        asyncio.run(leftovers.end(lambda: leftovers.find(recorded, None), lambda *line: said.append(line[1])))
        assert process.wait(10) == -signal.SIGKILL
    assert len(said) == 1
    for pid in living(word):
        os.kill(pid, signal.SIGKILL)


def test_another_process_with_the_number_is_left_alone() -> None:
    with subprocess.Popen(["/bin/sleep", "1000"]) as process:
        try:
            start = start_time(process.pid)
            assert start is not None
            recorded = record.Recorded(units={0: "a.service"}, processes=[(0, process.pid, start - 1)])
            assert leftovers.find(recorded, None) == {}
            leftovers._signal({process.pid: start - 1}, signal.SIGTERM)
            assert process.poll() is None
            # Whoever started this very process is spared, whatever a record says.
            parent, mine = os.getppid(), os.getpid()
            both = [(0, pid, start_time(pid) or 0) for pid in (parent, mine)]
            found = leftovers.find(record.Recorded(units={0: "a.service"}, processes=both), None)
            assert {parent, mine}.isdisjoint(found.get("a.service", {}))
            assert process.pid in found["a.service"]
            assert process.pid in children_of(mine)
        finally:
            process.kill()


def test_the_record_is_read_as_it_was_written_and_rewritten_when_it_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "REWRITE_BYTES", 300)
    path = str(tmp_path / "record")
    one = record.Record(path, 1 << 50)
    one._rewrite_at = 300
    one.begin()
    one.unit(0, "a\\x20b.service")
    one.unit(1, "c.service")
    one.process(0, 10, 1000)
    found = record.read(path, record.run_tag())
    assert found == record.Recorded(1 << 50, {0: "a\\x20b.service", 1: "c.service"}, [(0, 10, 1000)])
    assert record.read(path, "another boot") == record.Recorded()
    while not one.is_long:
        one.process(1, 11, 1001)
    one.rewrite([(0, "a\\x20b.service")], [(0, 12, 1002)])
    one.process(0, 13, 1003)
    assert record.read(path, record.run_tag()).processes == [(0, 12, 1002), (0, 13, 1003)]
    one.close(remove=False)
    assert os.path.exists(path)
    again = record.Record(path, 1)
    again.begin()
    assert record.read(path, record.run_tag()) == record.Recorded(1)
    again.close(remove=True)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("text", ["", "x", "holdfast-service-record 2\n", "\0\xff\n\n"])
def test_what_is_no_record_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "record").write_text(text)
    assert record.read(str(tmp_path / "record"), record.run_tag()) == record.Recorded()


def test_lines_that_mean_nothing_and_a_cut_one_are_left_out(tmp_path: Path) -> None:
    text = f"{record.FORMAT}\nrun {record.run_tag()}\nmark x\nunit 1\nwhat\nprocess 1 2\nunit 2 b.service\nproc"
    (tmp_path / "record").write_text(text)
    assert record.read(str(tmp_path / "record"), record.run_tag()) == record.Recorded(units={2: "b.service"})


def test_without_a_record_nothing_is_written(tmp_path: Path) -> None:
    one = record.Record("", 1)
    one.begin()
    one.unit(0, "a.service")
    one.process(0, 1, 1)
    one.close(remove=True)
    assert not one.is_long
    assert os.listdir(tmp_path) == []
