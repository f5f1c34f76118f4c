"""`holdfast watchdog settings, devices, test, status, handover`, without any device of this host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.cli.main import main
from holdfast.cli.watchdog_daemon import wdmd_main
from holdfast.testing.fake_watchdog import FakeWatchdog
from holdfast.watchdog.asking import clients_in
from holdfast.watchdog.device import DeviceError
from holdfast.watchdog.probing import count_until_reset, first_usable, no_daemon, try_device

NO_SYSFS = "/nonexistent"


def fake_host(tmp_path: Path, **attributes: str) -> list[str]:
    base = tmp_path / "class" / "watchdog0"
    base.mkdir(parents=True)
    given = {
        "identity": "i6300ESB timer",
        "min_timeout": "1",
        "max_timeout": "2046",
        "timeout": "30",
        "bootstatus": "32",
    }
    for name, value in {**given, **attributes}.items():
        (base / name).write_text(value + "\n")
    return ["--sysfs", str(tmp_path / "class"), "--dev", str(tmp_path / "dev")]


def test_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "etc" / "systemd" / "system.conf"
    file.parent.mkdir(parents=True)
    file.write_text("[Manager]\nRuntimeWatchdogSec=90\nRebootWatchdogSec=10foo\n")
    assert main(["watchdog", "settings", "--root", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    by_name = {one["name"]: one for one in document["settings"]}
    assert by_name["RuntimeWatchdogSec"]["shown"] == "1min 30s"
    assert by_name["RuntimeWatchdogSec"]["source"] == f"{file}:2"
    assert document["complaints"][0]["line"] == 3
    assert main(["watchdog", "settings", "--root", str(tmp_path), "--check"]) == 3
    assert "10foo" in capsys.readouterr().err


def test_devices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = fake_host(tmp_path, nowayout="1")
    assert main(["watchdog", "devices", *where]) == 0
    shown = capsys.readouterr().out
    for part in ("i6300ESB timer", "1 to 2046 s", "caused by this device", "cannot be stopped", "two timers"):
        assert part in shown
    assert main(["watchdog", "devices", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["devices"][0]["caused_last_reset"] is True
    assert main(["watchdog", "devices", "--sysfs", NO_SYSFS, "--dev", NO_SYSFS]) == 1


def test_the_rehearsal_opens_nothing_and_asks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = fake_host(tmp_path)
    assert main(["watchdog", "test", *where]) == 0
    assert "would be armed with 60 s" in capsys.readouterr().out
    assert main(["watchdog", "test", "--timeout", "3000", *where]) == 1
    assert "out of its range, 1 to 2046 s" in capsys.readouterr().err
    for wanted in ("--arm", "--fire"):
        # stdin is no terminal here.
        assert main(["watchdog", "test", wanted, *where]) == 3
    marker = ["--marker", str(tmp_path / "marker")]
    assert main(["watchdog", "test", "--arm", "--yes", *marker, *where]) == 1
    assert "No such file" in capsys.readouterr().err
    assert not (tmp_path / "marker").exists()
    assert main(["watchdog", "test", "--sysfs", NO_SYSFS, "--dev", NO_SYSFS]) == 1


def test_a_device_is_tried_and_stopped() -> None:
    device = FakeWatchdog(lambda: 100.0)
    trial = try_device("/dev/watchdog0", 20, device.open, NO_SYSFS)
    assert (trial.timeout_before, trial.answered, trial.timeout_after, trial.stopped) == (60, 20, 20, True)
    assert trial.pretimeout == "possible"
    assert device.fires_at is None
    complaints: list[str] = []
    device.answers["get_timeout"] = 15
    paths = ["/dev/none", "/dev/watchdog0"]
    assert first_usable(paths, 20, device.open, NO_SYSFS, complaints.append) is None
    assert "error 2 open /dev/none" in complaints[0]
    assert "no watchdog device" in complaints[-1]


def test_a_device_with_nowayout_is_not_opened(tmp_path: Path) -> None:
    fake_host(tmp_path, nowayout="1")
    device = FakeWatchdog(lambda: 100.0)
    with pytest.raises(DeviceError, match="nowayout"):
        try_device("/dev/watchdog0", 20, device.open, str(tmp_path / "class"))
    assert not device.pings


def test_a_device_that_does_not_fire_is_told() -> None:
    device = FakeWatchdog(lambda: 100.0)
    said: list[str] = []
    slept: list[float] = []
    trial = try_device(
        "/dev/watchdog0",
        5,
        device.open,
        NO_SYSFS,
        fire=lambda trial, latest: count_until_reset(trial, latest, said.append, slept.append),
    )
    assert said[:5] == ["1", "2", "3", "4", "5"]
    assert "failed to fire after timeout 5 seconds" in said[-1]
    assert trial.stopped


def test_no_probing_beside_a_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marker = tmp_path / "marker"
    marker.write_text("")
    with pytest.raises(DeviceError, match="in use"), no_daemon(str(marker)):
        pass
    assert marker.exists()
    assert wdmd_main(["-p", "--marker", str(marker)]) == 1
    assert "cannot probe watchdog devices while wdmd is in use." in capsys.readouterr().err


def test_wdmds_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert wdmd_main(["-V"]) == 0
    assert "wdmd version 3.8.5" in capsys.readouterr().out
    assert wdmd_main(["-d", "--run-dir", str(tmp_path)]) == 1
    assert wdmd_main(["-F"]) == 2
    with pytest.raises(SystemExit) as ended:
        wdmd_main(["-h"])
    assert ended.value.code == 0


def test_no_daemon_to_ask(tmp_path: Path) -> None:
    assert main(["watchdog", "status", "--run-dir", str(tmp_path)]) == 1
    assert main(["watchdog", "handover", "reboot", "--run-dir", str(tmp_path)]) == 1


def test_the_dump_of_a_wdmd() -> None:
    text = """\
wdmd 150 socket_gid 0 high_priority 0 now 15 last_keepalive 12 last_closeunclean 0
client 0 name signal pid 0 fd 4 dead 0 ref 0 now 15 renewal 0 expire 0
client 1 name listen pid 0 fd 5 dead 0 ref 0 now 15 renewal 0 expire 0
client 2 name sanlock_LS:1 pid 155 fd 9 dead 0 ref 1 now 15 renewal 14 expire 30
client 3 name a pid b pid 156 fd -1 dead 1 ref 0 now 15 renewal 14 expire 31
client 4 name dump pid 0 fd 10 dead 0 ref 0 now 15 renewal 0 expire 0
"""
    found = clients_in(text)
    assert [(one.number, one.name, one.pid, one.dead, one.refcount, one.expire) for one in found] == [
        (2, "sanlock_LS:1", 155, False, True, 30),
        (3, "a pid b", 156, True, False, 31),
    ]
