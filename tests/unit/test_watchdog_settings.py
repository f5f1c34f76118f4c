"""systemd's watchdog settings: values, sources, precedence (spec watchdog 2.1 to 2.3, 7.6)."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.watchdog.nearest import effective_timeout
from holdfast.watchdog.settings import (
    DEFAULT,
    DEVICE,
    GOVERNOR,
    KERNEL_COMMAND_LINE,
    KEXEC,
    OFF,
    PRETIMEOUT,
    REBOOT,
    RUNTIME,
    load,
    parse_watchdog_span,
    whole_seconds,
)

SECOND = 1_000_000


class Root:
    """A root directory with configuration files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, *lines: str, section: str = "[Manager]") -> str:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join((section, *lines)) + "\n")
        return str(file)

    def seconds(self, key: str, command_line: str = "") -> float:
        return load(str(self.path), command_line)[key].usec / SECOND


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


def test_built_in(root: Root) -> None:
    settings = load(str(root.path), "")
    assert {key: value.value for key, value in settings.values.items()} == {
        RUNTIME: OFF,
        PRETIMEOUT: OFF,
        GOVERNOR: "",
        REBOOT: 600 * SECOND,
        KEXEC: OFF,
        DEVICE: "",
    }
    assert settings[REBOOT].shown == "10min"
    assert settings[RUNTIME].shown == "off"


def test_a_drop_in_beats_the_main_file(root: Root) -> None:
    root.write("etc/systemd/system.conf", "RuntimeWatchdogSec=20s")
    drop_in = root.write("etc/systemd/system.conf.d/a.conf", "RuntimeWatchdogSec=1min 30s")
    settings = load(str(root.path), "")
    assert settings[RUNTIME].usec == 90 * SECOND
    assert settings[RUNTIME].source == f"{drop_in}:2"


def test_the_kernel_command_line_beats_all_and_sets_three(root: Root) -> None:
    root.write("etc/systemd/system.conf", "RuntimeWatchdogSec=20s")
    root.write("etc/systemd/system.conf.d/a.conf", "RuntimeWatchdogSec=15s", "KExecWatchdogSec=77s")
    settings = load(str(root.path), "quiet systemd.watchdog_sec=12 root=/dev/sda")
    for key in (RUNTIME, REBOOT, KEXEC):
        assert settings[key].usec == 12 * SECOND
        assert settings[key].source == KERNEL_COMMAND_LINE


def test_dash_and_underscore_are_the_same_in_option_names(root: Root) -> None:
    line = "systemd.watchdog-sec=5 systemd.watchdog_pre-sec=2s systemd.watchdog-device=/dev/watchdog1"
    settings = load(str(root.path), line + " systemd.watchdog_pretimeout_governor=panic")
    assert settings[RUNTIME].usec == 5 * SECOND
    assert settings[PRETIMEOUT].usec == 2 * SECOND
    assert settings[DEVICE].text == "/dev/watchdog1"
    assert settings[GOVERNOR].text == "panic"
    assert load(str(root.path), "systemd.watchdog_pretimeout_governor=")[GOVERNOR].text == ""


def test_drop_ins_are_one_list_by_name(root: Root) -> None:
    root.write("usr/lib/systemd/system.conf.d/20.conf", "RuntimeWatchdogSec=1")
    root.write("run/systemd/system.conf.d/20.conf", "RuntimeWatchdogSec=2")
    root.write("etc/systemd/system.conf.d/10.conf", "RuntimeWatchdogSec=3", "KExecWatchdogSec=3")
    root.write("usr/lib/systemd/system.conf.d/30.conf", "RebootWatchdogSec=4")
    settings = load(str(root.path), "")
    assert (settings[RUNTIME].usec, settings[KEXEC].usec, settings[REBOOT].usec) == (
        2 * SECOND,
        3 * SECOND,
        4 * SECOND,
    )


def test_the_first_main_file_counts(root: Root) -> None:
    root.write("usr/lib/systemd/system.conf", "RuntimeWatchdogSec=1", "KExecWatchdogSec=9")
    root.write("run/systemd/system.conf", "RuntimeWatchdogSec=2")
    settings = load(str(root.path), "")
    assert (settings[RUNTIME].usec, settings[KEXEC].usec) == (2 * SECOND, OFF)


def test_the_old_name_is_an_alias(root: Root) -> None:
    root.write("etc/systemd/system.conf", "ShutdownWatchdogSec=5min")
    assert root.seconds(REBOOT) == 300


def test_what_is_not_understood_leaves_the_previous_value_and_is_reported(root: Root) -> None:
    path = root.write(
        "etc/systemd/system.conf",
        "RuntimeWatchdogSec=",
        "RebootWatchdogSec=10foo",
        "KExecWatchdogSec=infinity",
        "WatchdogDevice=watchdog0",
        "Nonsense",
        "DefaultTimeoutStopSec=5s",
    )
    settings = load(str(root.path), "systemd.watchdog_pre_sec=x systemd.watchdog_device=")
    assert (settings[RUNTIME].value, settings[REBOOT].usec) == (OFF, 600 * SECOND)
    assert settings[KEXEC].usec == DEFAULT
    assert settings[KEXEC].shown == "default"
    texts = [str(complaint) for complaint in settings.complaints]
    assert [text.split(": ")[0] for text in texts] == [
        f"{path}:6",
        f"{path}:2",
        f"{path}:3",
        f"{path}:5",
        KERNEL_COMMAND_LINE,
        KERNEL_COMMAND_LINE,
    ]
    assert "Failed to parse systemd.watchdog_device= argument '', ignoring" in "".join(texts)


def test_other_sections_comments_quotes_and_continuations(root: Root) -> None:
    root.write("etc/systemd/system.conf", "RuntimeWatchdogSec=99", section="[Other]")
    root.write(
        "etc/systemd/system.conf.d/x.conf",
        "# RuntimeWatchdogSec=1",
        "; RuntimeWatchdogSec=2",
        "RuntimeWatchdogSec = 1min \\",
        "# between",
        "  30s",
        'WatchdogDevice="/dev/watchdog1"',
    )
    settings = load(str(root.path), "")
    assert settings[RUNTIME].usec == 90 * SECOND
    assert settings[DEVICE].text == "/dev/watchdog1"
    assert settings.complaints == ()


def test_hostile_files(root: Root) -> None:
    (root.path / "etc/systemd/system.conf.d").mkdir(parents=True)
    (root.path / "etc/systemd/system.conf").write_bytes(b"x" * (1 << 21))
    (root.path / "etc/systemd/system.conf.d/a.conf").mkdir()
    (root.path / "etc/systemd/system.conf.d/b.conf").write_bytes(
        b"\xff\xfe\n[Manager\nA=1\n[Manager]\nRuntimeWatchdogSec=7"
    )
    settings = load(str(root.path), "systemd.watchdog_sec='unclosed")
    assert settings[RUNTIME].usec == 7 * SECOND
    assert len(settings.complaints) == 6


@pytest.mark.parametrize(
    ("text", "usec"),
    [
        ("off", OFF),
        ("0", OFF),
        ("default", DEFAULT),
        ("infinity", DEFAULT),
        ("1500ms", 1_500_000),
        (" 10s ", 10 * SECOND),
    ],
)
def test_values(text: str, usec: int) -> None:
    assert parse_watchdog_span(text) == usec


@pytest.mark.parametrize(("usec", "seconds"), [(1_500_000, 2), (1, 1), (10 * SECOND, 10), (10**15, 4294967)])
def test_rounded_up_to_whole_seconds(usec: int, seconds: int) -> None:
    assert whole_seconds(usec) == seconds


@pytest.mark.parametrize(
    ("wanted", "lowest", "highest", "told", "actual"),
    [
        # softdog with 1d 3h 46min 40s, i6300esb with 1 h: systemd closes the device and never tries again.
        (100000, 1, 65535, True, 65535),
        (3600, 1, 2046, True, 2046),
        (1, 5, 60, True, 5),
        # A legacy driver that does not tell its limits (ib700: 30 at most).
        (60, 2, 30, False, 30),
        (30, 1, 60, True, 30),
        (60, 1, 0, False, 0),
    ],
)
def test_a_timeout_out_of_range_falls_back_to_the_nearest(
    wanted: int, lowest: int, highest: int, told: bool, actual: int
) -> None:
    def try_timeout(value: int) -> int | None:
        return value if lowest <= value <= highest else None

    done = effective_timeout(wanted, try_timeout, lowest if told else 0, highest if told else 0)
    assert done.timeout_s == actual
    assert (f"timeout {wanted} s is not possible" in done.remark) == (actual != wanted)
