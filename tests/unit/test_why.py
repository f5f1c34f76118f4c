"""The judgement of what ended a boot where it is not simple, its evidence, and the command (observe/)."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from holdfast.cli.main import main
from holdfast.observe.evidence import boot_status, gather, last_words, recordings
from holdfast.observe.flight import FlightFile
from holdfast.observe.why import Cause, Evidence, explain
from tests.unit.test_flight_recorder import NEW, OLD, Boot

ESB = "i6300ESB timer"
SOFT = "Software Watchdog"
OLDER = "00000000-1111-1111-1111-111111111111"


def host(identity: str = SOFT, boot_id: str = OLD, wall: float = 1000.0) -> Boot:
    boot = Boot(boot_id, wall).note(1, "start").note(2, "start", "lease")
    boot.note(5, "armed", timeout=60, interval=10, identity=identity)
    boot.note(6, "joined", "lease", space="LS", io_timeout=10)
    for at in (15, 25, 35):
        boot.note(at, "ping").note(at + 1, "renewal", "lease")
    return boot


def test_softdog_cannot_tell_and_says_so() -> None:
    verdict = explain(host().records, Evidence(NEW, boot_status={SOFT: 0}))
    assert (verdict.cause, verdict.by_holdfast) == (Cause.SUDDEN, None)
    assert "Software Watchdog" in verdict.sentence
    assert "kernel panic" in verdict.sentence


def test_a_device_that_can_tell_rules_it_out() -> None:
    verdict = explain(host(ESB).records, Evidence(NEW, boot_status={ESB: 0}))
    assert (verdict.cause, verdict.by_holdfast) == (Cause.SUDDEN, False)
    # Another device than the armed one says nothing.
    verdict = explain(host(SOFT).records, Evidence(NEW, boot_status={ESB: 0}))
    assert verdict.by_holdfast is None


def test_an_orderly_reboot_that_hung() -> None:
    boot = host(ESB).note(50, "stop", "lease").note(51, "handover", to="reboot", timeout=600).note(51.2, "stop")
    assert explain(boot.records, Evidence(NEW, boot_status={ESB: 0x20})).cause is Cause.SHUTDOWN_HUNG
    verdict = explain(boot.records, Evidence(NEW, boot_status={ESB: 0}))
    assert (verdict.cause, verdict.by_holdfast) == (Cause.ORDERLY, False)


def test_after_kexec_the_device_tells_of_something_older() -> None:
    boot = host(ESB).note(50, "stop", "lease").note(51, "handover", to="kexec", timeout=60).note(51.2, "stop")
    verdict = explain(boot.records, Evidence(NEW, boot_status={ESB: 0x20}))
    assert verdict.cause is Cause.ORDERLY
    assert "kexec" in verdict.sentence


def test_one_daemon_stopped_is_no_orderly_end() -> None:
    boot = host().note(50, "stop", "lease").note(51, "disarmed", stopped=True)
    verdict = explain(boot.records, Evidence(NEW))
    assert (verdict.cause, verdict.by_holdfast) == (Cause.SUDDEN, False)


def test_nowayout() -> None:
    boot = host().note(50, "stop", "lease").note(51, "disarmed", stopped=False).note(51, "stop")
    assert explain(boot.records, Evidence(NEW)).cause is Cause.NOT_DISARMED


def test_the_watchdog_daemon_was_killed() -> None:
    boot = host().note(38, "watchdog-lost", "lease", expires=100)
    verdict = explain(boot.records, Evidence(NEW))
    assert (verdict.cause, verdict.by_holdfast) == (Cause.DAEMON_GONE, True)
    boot.note(40, "watchdog-again", "lease")
    assert explain(boot.records, Evidence(NEW)).cause is Cause.SUDDEN


def test_the_watchdog_daemon_was_stopped() -> None:
    """The lease daemon's word is on the disk, its signs of life may not be."""
    boot = host(ESB).note(46, "watchdog-silent", "lease", name="sanlock_LS:1")
    verdict = explain(boot.records, Evidence(NEW, boot_status={ESB: 0x20}))
    assert (verdict.cause, verdict.by_holdfast) == (Cause.DAEMON_GONE, True)
    assert "before 46.0" in verdict.sentence
    verdict = explain(boot.records, Evidence(NEW, boot_status={ESB: 0}))
    assert (verdict.cause, verdict.by_holdfast) == (Cause.SUDDEN, False)
    assert "something else was faster" in verdict.sentence
    boot.note(66, "watchdog-heard", "lease", name="sanlock_LS:1").note(67, "ping")
    assert explain(boot.records, Evidence(NEW, boot_status={ESB: 0x20})).cause is Cause.HOST_HUNG


def test_without_a_witness_a_stopped_daemon_and_a_hung_host_look_the_same() -> None:
    for boot in (host(ESB).note(37, "left", "lease", space="LS"), host(ESB)):
        if boot.records[-1].kind != "left":
            # Renewals are too rare to be a witness before the device fires.
            boot.note(37, "joined", "lease", space="LS", io_timeout=60)
        verdict = explain(boot.records, Evidence(NEW, boot_status={ESB: 0x20}))
        assert (verdict.cause, verdict.by_holdfast) == (Cause.UNKNOWN, True)
        assert "cannot be told" in verdict.sentence


@pytest.mark.parametrize("identity", [ESB, SOFT])
def test_another_device_fired(identity: str) -> None:
    """One that somebody else had armed."""
    verdict = explain(host(identity).records, Evidence(NEW, boot_status={identity: 0, "iTCO_wdt": 0x20}))
    assert (verdict.cause, verdict.by_holdfast) == (Cause.SUDDEN, False)
    assert "iTCO_wdt" in verdict.sentence


def test_a_withheld_ping_and_a_device_that_cannot_tell() -> None:
    boot = host().note(45, "withheld", reasons=["x"], fires_at=95.0)
    verdict = explain(boot.records, Evidence(NEW, boot_status={SOFT: 0}))
    assert (verdict.cause, verdict.by_holdfast) == (Cause.WITHHELD, True)
    assert "cannot tell" in verdict.sentence


def test_a_short_silence_proves_nothing() -> None:
    """Signs of life that were not yet on the disk look like silence."""
    boot = host(ESB).note(60, "renewal-slow", "lease", latency_ms=9000)
    verdict = explain(boot.records, Evidence(NEW, card_reset=True))
    assert (verdict.cause, verdict.by_holdfast) == (Cause.UNKNOWN, True)
    boot.note(90, "renewal-slow", "lease", latency_ms=9000)
    assert explain(boot.records, Evidence(NEW)).cause is Cause.DAEMON_GONE


def test_the_guard_restarted_the_host() -> None:
    verdict = explain(host().records, Evidence(NEW, restarted="a ping took effect after a client's expiry 40"))
    assert (verdict.cause, verdict.by_holdfast) == (Cause.LATE_PING, True)


def test_a_late_ping_that_was_made_harmless_is_no_restart() -> None:
    verdict = explain(host().note(40, "late-ping", shortened_to=9).note(45, "ping").records, Evidence(NEW))
    assert verdict.cause is Cause.SUDDEN


def test_withheld_but_something_else_was_faster() -> None:
    boot = host(ESB).note(45, "withheld", reasons=["x"], fires_at=95.0)
    assert explain(boot.records, Evidence(NEW, boot_status={ESB: 0})).by_holdfast is False
    boot.note(200, "renewal", "lease")
    verdict = explain(boot.records, Evidence(NEW))
    assert verdict.cause is Cause.UNKNOWN
    assert "does not work" in verdict.sentence


def test_a_host_that_had_slept() -> None:
    verdict = explain(host().note(36, "slept", seconds=3600.0).records, Evidence(NEW))
    assert "suspended for 3600.0 s" in verdict.sentence


def test_older_boots_are_judged_by_what_the_next_one_saw() -> None:
    first = host(ESB, OLDER, 0.0)
    second = host(ESB, OLD, 5000.0).note(0.5, "start", boot_status={ESB: 0x20})
    records = first.records + second.records
    assert explain(records, Evidence(NEW, boot_status={ESB: 0}), -2).cause is Cause.HOST_HUNG
    assert explain(records, Evidence(NEW, boot_status={ESB: 0}), -1).cause is Cause.SUDDEN
    assert explain(records, Evidence(NEW), -3).cause is Cause.UNKNOWN
    assert explain(records, Evidence(NEW), 0).cause is Cause.RUNNING
    assert "boots between are not known" in explain(records, Evidence(NEW), -2).sentence


def test_after_a_panic_the_device_only_starts_the_host_again() -> None:
    verdict = explain(host(ESB).records, Evidence(NEW, boot_status={ESB: 0x20}, panic="Kernel panic: x"))
    assert (verdict.cause, verdict.by_holdfast) == (Cause.PANIC, False)
    assert "only started the host again" in verdict.sentence


def test_what_the_kernel_said_last() -> None:
    text = (
        "Panic#1 Part1\n<4>[   12.3] no\n<0>[   12.345678] Kernel panic - not syncing: sysrq triggered crash\n"
        "<0>[   12.345679] Kernel panic - not syncing: a second one\n"
    )
    assert last_words([text]) == ("Kernel panic - not syncing: sysrq triggered crash", "")
    line = "<0>[   99.1] holdfast watchdog guard: restarting the host now: a ping took effect\n"
    assert last_words([line]) == ("", "a ping took effect")
    assert last_words(["", "\0\xff"]) == ("", "")


def test_evidence_from_files(tmp_path: Path) -> None:
    device = tmp_path / "class" / "watchdog0"
    device.mkdir(parents=True)
    (device / "identity").write_text(ESB + "\n")
    (device / "bootstatus").write_text("32\n")
    store = tmp_path / "pstore"
    store.mkdir()
    (store / "dmesg-efi-1").write_text("[ 1.0] Kernel panic - not syncing: x\n")
    boot_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    os.utime(store / "dmesg-efi-1", (boot_at - 60, boot_at - 60))
    assert boot_status(str(tmp_path / "class")) == {ESB: 32}
    assert gather(str(tmp_path / "class"), str(store)).panic == "Kernel panic - not syncing: x"
    os.utime(store / "dmesg-efi-1", (boot_at - 86400, boot_at - 86400))
    assert gather(str(tmp_path / "class"), str(store)).panic == ""
    assert gather(str(tmp_path / "none"), str(tmp_path / "none")).boot_status == {}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--dir", str(tmp_path), "--sysfs", str(tmp_path / "none"), "--pstore", str(tmp_path / "none")]
    assert main(["why", *where]) == 1
    file = FlightFile(str(tmp_path / "flight-watchdog.ring"), slots=8, boot_id=OLD)
    for at, kind, fields in (
        (1.0, "armed", {"interval": 10}),
        (30.0, "withheld", {"reasons": ["test failed client 7 sanlock_LS:1"], "fires_at": 80.0}),
    ):
        file.write(kind, {"by": "watchdog", **fields}, at, 1000 + at)
    file.close()
    (tmp_path / "broken.ring").write_text("no recorder")
    capsys.readouterr()
    assert main(["why", *where]) == 3
    shown = capsys.readouterr()
    assert "sanlock_LS:1" in shown.out
    assert "-29.0 s" in shown.out
    assert "broken.ring" in shown.err
    assert main(["why", "--json", *where]) == 3
    document = json.loads(capsys.readouterr().out)
    assert (document["cause"], document["by_holdfast"], document["boot_id"]) == ("withheld", True, OLD)
    assert recordings(str(tmp_path)).complaints
    assert main(["why", "--boot", "-5", *where]) == 4
    assert main(["why", "--boot", "0", *where]) == 0
