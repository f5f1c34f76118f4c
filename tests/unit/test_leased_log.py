"""Lines, the ring, and where lines go: file rotation, journald, syslog, and sinks that hang (lease-wire 16)."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.daemons import log_sinks
from holdfast.daemons.log import LineFormatter, LogRing, LogWriter
from holdfast.daemons.log_sinks import Entry, FileSink, Sink, SinkThread, SystemLogSink, journal_message
from holdfast.leased.log import RESOURCE_LINE, SPACE_LINE, References, start_log
from holdfast.leased.options import DaemonOptions

PATIENCE_S = 15.0


def record(text: str, *arguments: object, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("holdfast.x", level, "", 0, text, arguments, None)


class Held:
    """A sink that writes nothing until it is let go."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.holds = threading.Event()
        self.may_go = threading.Event()

    def write(self, entry: Entry) -> None:
        self.holds.set()
        assert self.may_go.wait(PATIENCE_S)
        self.lines.append(entry.line)

    def close(self) -> None:
        pass


def writer(*sinks: tuple[int, Sink], references: References | None = None) -> LogWriter:
    return LogWriter(LineFormatter(True), list(sinks), references or References())


# -- lines -----------------------------------------------------------------------------------------------------


def test_a_line_is_the_originals() -> None:
    line = LineFormatter(True).line(1700000000.9, 123.9, "s1 renewed")
    assert line == f"2023-11-14 22:13:20 123 [{threading.get_native_id()}]: s1 renewed"


def test_names_cannot_break_out_of_their_line() -> None:
    line = LineFormatter(True).format(record("host %s", "a\nb\x1b[2J\x7f\udcffé"))
    assert line.endswith("host a\\x0ab\\x1b[2J\\x7f\\xffé")


def test_the_time_zone_is_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    try:
        stamps = [LineFormatter(use_utc).line(0, 0, "")[11:19] for use_utc in (True, False)]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert stamps == ["00:00:00", "02:00:00"]


def test_long_lines_are_cut_at_511_bytes() -> None:
    assert len(LineFormatter(True).format(record("é" * 600)).encode()) in (510, 511)


# -- the ring --------------------------------------------------------------------------------------------------


def test_the_ring_has_every_level_in_order() -> None:
    ring = LogRing(LineFormatter(True))
    ring.emit(record("first", level=logging.DEBUG))
    ring.note("second %d", 2)
    ring.emit(record("third"))
    assert [line.split(b"]: ")[1] for line in ring.dump().split(b"\n")] == [b"first", b"second 2", b"third"]


def test_notes_are_bounded_too() -> None:
    ring = LogRing(LineFormatter(True), max_bytes=5000)
    for number in range(1000):
        ring.note("note %s", f"{number} " + "x" * 200)
    dump = ring.dump()
    assert len(dump) <= 5000
    assert re.match(rb"\d{4}-", dump), "only whole lines"
    assert b"note 999 " in dump


def test_notes_become_records_where_debug_lines_are_wanted() -> None:
    sink = Held()
    sink.may_go.set()
    handler = writer((7, sink))
    logger = logging.getLogger("holdfast")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        ring = LogRing(LineFormatter(True))
        ring.notes_go_further = True
        ring.note("cmd_%s", "acquire")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.finish()
    assert sink.lines[0].endswith("]: cmd_acquire")


# -- sinks -----------------------------------------------------------------------------------------------------


def test_a_sink_that_hangs_delays_nobody_and_what_was_dropped_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_sinks, "MAX_QUEUED_ENTRIES", 10)
    stuck, well = Held(), Held()
    well.may_go.set()
    handler = writer((7, stuck), (3, well))
    handler.emit(record("first"))
    assert stuck.holds.wait(PATIENCE_S)
    for number in range(25):
        handler.emit(record("line %d", number))
    handler.emit(record("bad", level=logging.ERROR))
    stuck.may_go.set()
    handler.finish()
    assert [line.split("]: ")[1] for line in well.lines] == ["bad"]
    assert len(stuck.lines) == 1 + 10 + 1
    assert stuck.lines[-1] == "dropped 16 entries"


def test_the_exit_does_not_wait_for_a_sink_that_hangs() -> None:
    stuck = Held()
    thread = SinkThread(stuck)
    thread.put(Entry(4, "x"))
    assert stuck.holds.wait(PATIENCE_S)
    thread.finish(timeout_s=0.0)
    assert stuck.lines == []
    stuck.may_go.set()
    thread._thread.join(PATIENCE_S)
    assert stuck.lines == ["x"]


def test_a_rotated_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = FileSink(str(path))
    sink.write(Entry(4, "one"))
    path.rename(tmp_path / "log.1")
    sink.write(Entry(4, "two"))
    path.unlink()
    sink.write(Entry(4, "three"))
    os.truncate(path, 0)
    sink.write(Entry(4, "four"))
    sink.close()
    assert (tmp_path / "log.1").read_text() == "one\n"
    assert path.read_text() == "four\n"


def test_lines_go_on_to_the_old_file_when_no_new_one_can_be_made(tmp_path: Path) -> None:
    directory = tmp_path / "log.d"
    directory.mkdir()
    sink = FileSink(str(directory / "log"))
    directory.rename(tmp_path / "moved")
    sink.write(Entry(4, "one"))
    sink.close()
    assert (tmp_path / "moved" / "log").read_text() == "one\n"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Callable[[str], socket.socket]]:
    opened = []

    def bind(name: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.settimeout(PATIENCE_S)
        sock.bind(str(tmp_path / name))
        opened.append(sock)
        return sock

    yield bind
    for sock in opened:
        sock.close()


def no_fields(text: str) -> dict[str, str]:
    return {}


def test_syslog_lines(tmp_path: Path, receiver: Callable[[str], socket.socket]) -> None:
    syslog = receiver("log")
    sink = SystemLogSink(no_fields, str(tmp_path / "none"), str(tmp_path / "log"), identifier="sanlock")
    sink.write(Entry(3, "2023-11-14 22:13:20 123 [7]: s1 renewal error -202"))
    assert syslog.recv(1000) == f"<27>sanlock[{os.getpid()}]: s1 renewal error -202".encode()
    syslog.close()
    os.unlink(tmp_path / "log")
    with pytest.raises(OSError):
        sink.write(Entry(3, "x"))
    again = receiver("log")
    sink.write(Entry(4, "dropped 3 entries"))
    assert again.recv(1000).endswith(b"]: dropped 3 entries")
    sink.close()


def test_journal_entries_carry_names(tmp_path: Path, receiver: Callable[[str], socket.socket]) -> None:
    journal = receiver("journal")
    references = References()
    handler = writer(
        (
            4,
            SystemLogSink(
                references.fields, str(tmp_path / "journal"), str(tmp_path / "none"), identifier="sanlock"
            ),
        ),
        references=references,
    )
    handler.emit(record(SPACE_LINE, 3, "LS", 1, "/dev/x", 0))
    handler.emit(record(RESOURCE_LINE, 3, 8, "LS", "disk1", "/dev/y", 1048576))
    handler.emit(record("s3 kill %d sig 15 count 1", 4711, level=logging.ERROR))
    handler.emit(record("s3:r8 something", level=logging.INFO))
    handler.emit(record("s9 unknown"))
    handler.finish()
    fields = [dict(line.split("=", 1) for line in journal.recv(4000).decode().splitlines()) for _ in range(4)]
    assert fields[0] == {
        "MESSAGE": "s3 lockspace LS:1:/dev/x:0",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "sanlock",
        "SYSLOG_FACILITY": "3",
        "LOCKSPACE": "LS",
    }
    assert (fields[1]["LOCKSPACE"], fields[1]["RESOURCE"]) == ("LS", "disk1")
    assert (fields[2]["PID"], fields[2]["PRIORITY"], fields[2]["LOCKSPACE"]) == ("4711", "3", "LS")
    assert "LOCKSPACE" not in fields[3]


def test_values_with_newlines_have_a_length() -> None:
    assert journal_message({"A": "b\nc"}) == b"A\n\x03\0\0\0\0\0\0\0b\nc\n"


def test_a_log_file_that_cannot_be_opened_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = start_log(DaemonOptions(run_dir="/x", logfile=str(tmp_path / "no" / "log")))
    try:
        logging.getLogger("holdfast").debug("only the ring has this")
        logging.getLogger("holdfast").info("and this goes to stderr")
    finally:
        log.close()
    said = capfd.readouterr().err
    assert f"log file {tmp_path}/no/log: No such file or directory" in said
    assert "and this goes to stderr" in said
    assert "only the ring" not in said
    assert b"only the ring" in log.ring.dump()


def test_the_file_takes_warnings_and_worse(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = start_log(DaemonOptions(run_dir="/x", logfile=str(path), log_level=-1, logfile_use_utc=True))
    try:
        logging.getLogger("holdfast").info("no")
        logging.getLogger("holdfast").warning("yes")
    finally:
        log.close()
    assert [line.split("]: ")[1] for line in path.read_text().splitlines()] == ["yes"]


def test_under_journald_lines_go_there_and_not_to_stderr(
    tmp_path: Path,
    receiver: Callable[[str], socket.socket],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    journal = receiver("journal")
    monkeypatch.setattr(log_sinks, "JOURNAL_SOCKET", str(tmp_path / "journal"))
    monkeypatch.setattr(SystemLogSink.__init__, "__defaults__", (str(tmp_path / "journal"), "/none"))
    found = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    log = start_log(DaemonOptions(run_dir="/x"))
    try:
        logging.getLogger("holdfast").info("hello")
    finally:
        log.close()
    assert b"MESSAGE=hello\nPRIORITY=6\n" in journal.recv(4000)
    assert capfd.readouterr().err == ""
