"""Unit files of the path daemon: the rule of 2013, what systemd says of the present ones (spec path 5.3, 5.4)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from holdfast.path.daemon import units

PACKAGING = Path(__file__).parents[2] / "packaging"
SERVICE_OF_2013 = """\
Type=notify
NotifyAccess=main
ExecStartPre=/sbin/modprobe dm-multipath
ExecStart=/sbin/multipathd -d -s
ExecReload=/sbin/multipathd reconfigure
WatchdogSec=5s
Restart=on-failure
RestartPreventExitStatus=1
"""


def section(text: str, name: str) -> str:
    return text.split(f"[{name}]\n")[1].split("\n[")[0].rstrip("\n") + "\n"


def test_as_the_patch_of_2013() -> None:
    new = units.unit("service", 207, "/sbin/multipathd")
    assert section(new, "Service") == SERVICE_OF_2013
    old = units.unit("service", 206, "/sbin/multipathd")
    assert "Watchdog" not in old
    assert "Restart" not in old
    assert set(new.splitlines()) - set(old.splitlines()) == set(units.WATCHDOG_LINES)
    assert units.with_watchdog(old, 207) == new


def test_a_template_without_exec_reload_stays() -> None:
    assert units.with_watchdog("[Service]\nType=notify\n", 252) == "[Service]\nType=notify\n"


@pytest.mark.parametrize("kind", units.KINDS)
def test_packaged_files_are_the_generated_ones(kind: str) -> None:
    assert (PACKAGING / units.NAMES[kind]).read_text() == units.unit(kind)


def test_newer_systemds_get_more_lines() -> None:
    sizes = [len(units.unit("service", version).splitlines()) for version in (206, 207, 245, 252)]
    assert sizes == sorted(sizes)
    for kind in units.KINDS:
        assert "{" not in units.unit(kind, 252)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze: Debian package systemd")
@pytest.mark.parametrize("version", [206, 207, 252])
def test_systemd_has_nothing_to_remark(version: int, tmp_path: Path) -> None:
    for kind in units.KINDS:
        (tmp_path / units.NAMES[kind]).write_text(units.unit(kind, version, "/bin/true"))
    paths = [str(path) for path in tmp_path.iterdir()]
    command = ["systemd-analyze", "verify", "--man=no", "--generators=no", *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    ours = [line for line in done.stderr.splitlines() if "holdfast" in line]
    # That of 2013 wants an old target, and modprobe where no kmod may be installed.
    assert [line for line in ours if "syslog.target" not in line and "modprobe" not in line] == []
