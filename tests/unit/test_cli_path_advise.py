"""`holdfast path advise`: values that hold together for every io_timeout, and what contradicts them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from holdfast.cli import path_advise
from holdfast.cli.main import main
from holdfast.cli.path_advise import disks, lease_timing
from holdfast.lease import timing
from holdfast.path.advice import advise, contradictions
from holdfast.path.conf_files import load

ARRAY = "devices {\n device {\n vendor A\n product B\n no_path_retry queue\n }\n}\n"


@pytest.fixture(autouse=True)
def no_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "block"
    folder.mkdir()
    monkeypatch.setattr(path_advise, "BLOCK", folder)
    return folder


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "multipath.conf"
    path.write_text(text)
    return str(path)


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[tuple[str, str]]]:
    code = main(["path", "advise", "--json", *words])
    found = json.loads(capsys.readouterr().out)
    return code, [(one["name"], one["value"]) for one in found["contradictions"]]


@pytest.mark.parametrize("fire", [5, 60, 600])
def test_all_ends_before_a_renewal_is_late(fire: int) -> None:
    for io in range(timing.MIN_IO_TIMEOUT_S, timing.MAX_IO_TIMEOUT_S + 1):
        found = advise(lease_timing(io, fire))
        budget = timing.warn_after(io)
        assert 1 <= found.polling_interval <= found.max_polling_interval
        assert found.detection_s + found.queueing_s <= budget
        # No longer wait for storage would end in time.
        assert found.detection_s + found.queueing_s + found.polling_interval > budget
        assert timing.renewal_interval(io) + found.scsi_timeout + found.eh_deadline <= budget
        assert found.fast_io_fail_tmo <= found.detection_s
        assert found.dev_loss_tmo > found.queueing_s + found.fast_io_fail_tmo
        assert found.dev_loss_tmo >= timing.host_dead_after(io, fire)


@pytest.mark.parametrize("io", [1, 2, 5, 10, 40])
def test_what_is_advised_contradicts_nothing(
    io: int, tmp_path: Path, no_disks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is printed, read as a configuration, on a host with an array whose own entry queues for ever."""
    device = no_disks / "sda" / "device"
    device.mkdir(parents=True)
    (device / "vendor").write_text("NETAPP  \n")
    (device / "model").write_text("LUN C-Mode      \n")
    assert main(["path", "advise", "--io-timeout", str(io)]) == 3
    lines = capsys.readouterr().out.splitlines()
    text = "\n".join(line for line in lines if ": contradicts: " not in line)
    path = written(tmp_path, text)
    assert main(["path", "config", "check", path]) == 0
    capsys.readouterr()
    assert told(capsys, "--io-timeout", str(io), "--config", path) == (0, [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("defaults {\n no_path_retry queue\n}\n", [("no_path_retry", "queue")]),
        ('defaults {\n features "1 queue_if_no_path"\n}\n', [("features", "1 queue_if_no_path")]),
        ('defaults {\n features "1 queue_if_no_path"\n no_path_retry 3\n}\n', []),
        ("defaults {\n no_path_retry 11\n}\n", []),
        ("defaults {\n no_path_retry 12\n}\n", [("no_path_retry", "12")]),
        ("defaults {\n no_path_retry 5\n polling_interval 20\n checker_timeout 5\n}\n", [
            ("max_polling_interval", "80"), ("no_path_retry", "5")]),
        ("defaults {\n no_path_retry fail\n}\n", []),
        ("defaults {\n checker_timeout 40\n}\n", [("checker_timeout", "40")]),
        ("defaults {\n queue_without_daemon yes\n}\n", [("queue_without_daemon", "yes")]),
        ("defaults {\n fast_io_fail_tmo off\n}\n", [("fast_io_fail_tmo", "off")]),
        ("overrides {\n fast_io_fail_tmo 61\n}\n", [("fast_io_fail_tmo", "61")]),
        ("multipaths {\n multipath {\n wwid w\n no_path_retry queue\n }\n}\n", [("no_path_retry", "queue")]),
        # What overrides say counts, whatever stands in defaults and devices; a multipath section counts more.
        ("defaults {\n no_path_retry queue\n}\noverrides {\n no_path_retry 5\n}\n", []),
        (ARRAY, [("no_path_retry", "queue")]),
        (ARRAY + "overrides {\n no_path_retry 5\n}\n", []),
        ("multipaths {\n multipath {\n wwid w\n no_path_retry queue\n }\n}\noverrides {\n no_path_retry 5\n}\n",
         [("no_path_retry", "queue")]),
    ],
)  # fmt: skip
def test_contradictions(
    text: str, expected: list[tuple[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(capsys, "--config", written(tmp_path, text)) == (3 if expected else 0, expected)


def test_the_hardware_table_counts_for_disks_that_are_here(tmp_path: Path) -> None:
    config = load(written(tmp_path, ""), None)
    lease = lease_timing(10, 60)
    assert contradictions(config, lease) == []
    found = contradictions(config, lease, [("NETAPP", "LUN C-Mode", "")])
    assert [(one.name, one.value) for one in found] == [("no_path_retry", "queue")]
    assert "NETAPP:LUN" in found[0].place


def test_where_and_why_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "defaults {\n\n no_path_retry queue\n}\n")
    assert main(["path", "advise", "--config", path]) == 3
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{path}:3: contradicts: no_path_retry queue: ")
    assert "the watchdog resets the host after 140 s" in last


def test_unusable_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["path", "advise", "--config", str(tmp_path / "missing.conf")]) == 1
    assert "holdfast path config check" in capsys.readouterr().out


def test_disks_of_sysfs(no_disks: Path) -> None:
    for name, attributes in {
        "sda": {"vendor": "NETAPP  ", "model": "LUN C-Mode      ", "rev": "9000"},
        "nvme0n1": {"model": "InfiniBox  ", "firmware_rev": "7.3"},
        "vda": {},
        "sdb": {"vendor": "A\udce9"},
    }.items():
        device = no_disks / name / "device"
        device.mkdir(parents=True)
        for attribute, value in attributes.items():
            (device / attribute).write_bytes(value.encode(errors="surrogateescape") + b"\n")
    assert disks(no_disks) == {("NETAPP", "LUN C-Mode", "9000"), ("NVME", "InfiniBox", "7.3")}


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--io-timeout", "0"], ["--io-timeout", "256"], ["--fire-timeout", "x"]):
        with pytest.raises(SystemExit) as caught:
            main(["path", "advise", *words])
        assert caught.value.code == 2
        capsys.readouterr()
