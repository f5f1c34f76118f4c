"""The flight recorder's file and what is read out of it (observe/)."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from holdfast.observe.flight import RECORD_SIZE, FlightError, FlightFile, Record, decode, encode, read
from holdfast.observe.recorder import NoRecorder, Recorder, open_recorder
from holdfast.observe.why import Cause, Evidence, explain

OLD = "11111111-1111-1111-1111-111111111111"
NEW = "22222222-2222-2222-2222-222222222222"


def test_a_record_survives_encoding() -> None:
    record = Record(7, OLD, 12.5, 1e9, "withheld", {"by": "watchdog", "reasons": ["a", "b"]})
    raw = encode(record)
    assert len(raw) == RECORD_SIZE
    assert decode(raw) == record


def test_what_does_not_fit_is_cut() -> None:
    record = decode(encode(Record(1, OLD, 1, 1, "x", {"text": "y" * 2000, "n": 5})))
    assert record is not None
    assert record.fields["n"] == 5
    assert record.fields["text"].endswith("...")
    record = decode(encode(Record(1, OLD, 1, 1, "x", {str(i): "y" * 50 for i in range(50)})))
    assert record is not None
    assert record.fields == {"cut": True}


def test_any_damage_is_noticed() -> None:
    raw = bytearray(encode(Record(7, OLD, 12.5, 1e9, "ping", {"by": "watchdog"})))
    rng = random.Random(1)
    for _ in range(500):
        damaged = bytearray(raw)
        damaged[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        assert decode(bytes(damaged)) is None


def test_the_ring_keeps_the_last_ones(tmp_path: Path) -> None:
    path = str(tmp_path / "ring")
    file = FlightFile(path, slots=8, boot_id=OLD)
    for number in range(20):
        file.write("ping", {"n": number}, number, number, sync=False)
    file.close()
    size = os.path.getsize(path)
    assert size == 9 * RECORD_SIZE
    again = FlightFile(path, slots=100, boot_id=NEW)
    again.write("start", {}, 1, 21)
    again.close()
    assert os.path.getsize(path) == size
    recording = read(path)
    assert [record.fields.get("n") for record in recording.records] == [13, 14, 15, 16, 17, 18, 19, None]
    assert recording.records[-1].boot_id == NEW
    assert recording.damaged == 0


def test_a_torn_record_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "ring"
    file = FlightFile(str(path), slots=8, boot_id=OLD)
    for number in range(4):
        file.write("ping", {"n": number}, number, number)
    file.close()
    raw = bytearray(path.read_bytes())
    raw[RECORD_SIZE * 3 + 100] ^= 0xFF
    path.write_bytes(raw)
    recording = read(str(path))
    assert [record.fields["n"] for record in recording.records] == [0, 2, 3]
    assert recording.damaged == 1


@pytest.mark.parametrize("content", [b"something else", b"HFFLIGHT" + b"\xff" * 600, b"x" * 4096])
def test_what_is_not_ours_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ring"
    path.write_bytes(content)
    with pytest.raises(FlightError):
        FlightFile(str(path), boot_id=OLD)
    with pytest.raises(FlightError):
        read(str(path))
    assert path.read_bytes() == content
    assert isinstance(open_recorder(str(path), "watchdog"), NoRecorder)


def test_the_recorder_writes_in_the_background_and_tells_the_kernel(tmp_path: Path) -> None:
    kmsg = tmp_path / "kmsg"
    kmsg.touch()
    recorder = Recorder(str(tmp_path / "ring"), "watchdog", str(kmsg))
    recorder.note("armed", device="/dev/watchdog0")
    recorder.note("withheld", loud=True, reasons=["because"])
    recorder.close()
    records = read(str(tmp_path / "ring")).records
    assert [(record.kind, record.fields["by"]) for record in records] == [
        ("armed", "watchdog"),
        ("withheld", "watchdog"),
    ]
    assert b"holdfast withheld by=watchdog" in kmsg.read_bytes()


class Boot:
    """Records of one boot, in the making."""

    def __init__(self, boot_id: str = OLD, wall: float = 1000.0) -> None:
        self.records: list[Record] = []
        self._boot_id = boot_id
        self._wall = wall

    def note(self, at: float, kind: str, by: str = "watchdog", **fields: object) -> Boot:
        self.records.append(
            Record(len(self.records) + 1, self._boot_id, at, self._wall + at, kind, {"by": by, **fields})
        )
        return self


def armed() -> Boot:
    boot = Boot().note(1, "start").note(2, "start", "lease").note(5, "armed", timeout=60, interval=10)
    boot.note(6, "joined", "lease", space="LS", io_timeout=10)
    for at in (15, 25, 35):
        boot.note(at, "ping").note(at + 1, "renewal", "lease")
    return boot


def test_withheld() -> None:
    boot = armed().note(40, "lockspace-failed", "lease", space="LS", since=20.0, reason="I/O timeout on /dev/sdb")
    boot.note(41, "will-not-die", "lease", pid=4711)
    boot.note(45, "withheld", reasons=["test failed client 77 sanlock_LS:1"], fires_at=95.0)
    verdict = explain(boot.records, Evidence(NEW))
    assert (verdict.cause, verdict.by_holdfast, verdict.boot_id) == (Cause.WITHHELD, True, OLD)
    for part in ("at 95.0", "sanlock_LS:1", "Lockspace LS", "I/O timeout on /dev/sdb", "4711"):
        assert part in verdict.sentence
    assert [record.kind for record in verdict.timeline].count("ping") == 1


def test_withheld_and_resumed_is_no_reason() -> None:
    boot = (
        armed()
        .note(45, "withheld", reasons=["x"])
        .note(50, "resumed")
        .note(50, "ping")
        .note(51, "renewal", "lease")
    )
    assert explain(boot.records, Evidence(NEW, card_reset=False)).cause is Cause.SUDDEN


def test_stopped_in_order() -> None:
    boot = armed().note(50, "stop", "lease").note(51, "disarmed").note(52, "stop")
    verdict = explain(boot.records, Evidence(NEW, card_reset=False))
    assert (verdict.cause, verdict.by_holdfast) == (Cause.ORDERLY, False)


def test_the_watchdog_daemon_died_alone() -> None:
    boot = armed().note(60, "renewal", "lease").note(80, "renewal", "lease")
    verdict = explain(boot.records, Evidence(NEW))
    assert (verdict.cause, verdict.by_holdfast) == (Cause.DAEMON_GONE, True)


def test_the_whole_host_hung() -> None:
    verdict = explain(armed().records, Evidence(NEW, card_reset=True))
    assert (verdict.cause, verdict.by_holdfast) == (Cause.HOST_HUNG, True)


def test_the_next_daemon_saw_what_the_device_said() -> None:
    after = Boot(NEW, 5000.0).note(1, "start").note(2, "armed", boot_status=32)
    assert explain(armed().records + after.records, Evidence(NEW)).cause is Cause.HOST_HUNG


def test_power_loss() -> None:
    verdict = explain(armed().records, Evidence(NEW, card_reset=False))
    assert (verdict.cause, verdict.by_holdfast) == (Cause.SUDDEN, False)
    verdict = explain(armed().records, Evidence(NEW))
    assert (verdict.cause, verdict.by_holdfast) == (Cause.SUDDEN, None)


def test_panic() -> None:
    verdict = explain(armed().records, Evidence(NEW, panic="Kernel panic - not syncing: sysrq"))
    assert (verdict.cause, verdict.by_holdfast) == (Cause.PANIC, False)


def test_a_late_ping() -> None:
    verdict = explain(armed().note(60, "late-ping", reason="stopped for 30 s").records, Evidence(NEW))
    assert (verdict.cause, verdict.by_holdfast) == (Cause.LATE_PING, True)


def test_nothing_known() -> None:
    assert explain([], Evidence(NEW)).cause is Cause.UNKNOWN
    assert explain(armed().records, Evidence(OLD)).cause is Cause.UNKNOWN
    assert explain(Boot().note(1, "start", "lease").records, Evidence(NEW)).cause is Cause.UNKNOWN
