"""Default, implicit and inverse dependencies, defaults of system.conf, other unit types."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.service.manager_conf import load_defaults
from holdfast.service.units import Graph, Unit, default_dependencies, implicit_dependencies, mounts_of
from tests.vectors.supervisor_world import load

_SHUTDOWN = {("Conflicts", "shutdown.target"), ("Before", "shutdown.target")}
_TEXTS = {
    "service": "[Service]\nExecStart=/x\n",
    "socket": "[Socket]\nListenStream=/run/x\n",
    "timer": "[Timer]\nOnCalendar=daily\n",
    "path": "[Path]\nPathExists=/x\n",
    "target": "[Unit]\nDescription=t\n",
}
_EXPECTED = {
    "service": {("Requires", "sysinit.target"), ("After", "sysinit.target"), ("After", "basic.target")},
    "socket": {("Before", "sockets.target"), ("Requires", "sysinit.target"), ("After", "sysinit.target")},
    "timer": {
        ("Before", "timers.target"), ("Requires", "sysinit.target"), ("After", "sysinit.target"),
        ("After", "time-set.target"), ("After", "time-sync.target"),
    },
    "path": {("Before", "paths.target"), ("Requires", "sysinit.target"), ("After", "sysinit.target")},
    "target": set(),
}  # fmt: skip


@pytest.mark.parametrize("kind", _TEXTS)
def test_default_dependencies(kind: str) -> None:
    unit = load(f"a.{kind}", _TEXTS[kind])
    assert unit.load_state == "loaded"
    assert set(default_dependencies(unit)) == _EXPECTED[kind] | _SHUTDOWN
    without = load(f"a.{kind}", "[Unit]\nDefaultDependencies=no\n" + _TEXTS[kind])
    assert set(default_dependencies(without)) == set()


def test_of_the_user_manager() -> None:
    assert ("Requires", "basic.target") in set(
        default_dependencies(load("a.service", _TEXTS["service"]), user=True)
    )


def test_triggering_units() -> None:
    for kind in ("socket", "timer", "path"):
        file = load(f"a.{kind}", _TEXTS[kind]).file
        assert file is not None
        found = set(implicit_dependencies(file))
        assert {("Triggers", "a.service"), ("Before", "a.service")} <= found
    file = load("a.socket", _TEXTS["socket"] + "Accept=yes\n").file
    assert file is not None
    assert file.socket is not None
    assert file.socket.trigger_limit_burst == 200
    assert "Triggers" not in dict(implicit_dependencies(file))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.socket", "[Socket]\nAccept=no\n"),
        ("a.timer", "[Timer]\nPersistent=yes\n"),
        ("a.path", "[Path]\nUnit=b.service\n"),
    ],
)
def test_units_without_anything_to_do(name: str, text: str) -> None:
    assert load(name, text).load_state == "bad-setting"


def test_inverse_and_target_order() -> None:
    units = {
        "t.target": load("t.target", "[Unit]\nWants=a.service b.service\n"),
        "a.service": load("a.service", "[Unit]\nOnFailure=h@%n.service\n[Service]\nExecStart=/x\n"),
        "b.service": load(
            "b.service", "[Unit]\nDefaultDependencies=no\nAfter=b.service\n[Service]\nExecStart=/x\n"
        ),
    }
    graph = Graph(units)
    assert graph.of("a.service", "WantedBy") == ("t.target",)
    assert graph.of("t.target", "After") == ("a.service",)
    assert graph.of("a.service", "OnFailure") == ("h@a.service.service",)
    assert graph.warnings == ["b.service: Dependency After=b.service is dropped."]
    assert graph.unit("nosuch.service") == Unit("nosuch.service", "not-found")


def test_mounts() -> None:
    assert mounts_of("/srv/a-b") == ["-.mount", "srv.mount", "srv-a\\x2db.mount"]


def test_defaults_of_the_manager(tmp_path: Path) -> None:
    folder = tmp_path / "etc/systemd"
    (folder / "system.conf.d").mkdir(parents=True)
    (folder / "system.conf").write_text(
        "[Manager]\nDefaultTimeoutStartSec=5\nDefaultStartLimitBurst=9\nRuntimeWatchdogSec=1\nDefaultRestartSec=x\n"
    )
    (folder / "system.conf.d/a.conf").write_text(
        "[Manager]\nDefaultTimeoutStartSec=0\nDefaultTimeoutAbortSec=3s\n"
    )
    defaults, complaints = load_defaults(str(tmp_path))
    assert defaults.timeout_start_sec == 2**64 - 1
    assert (defaults.start_limit_burst, defaults.restart_sec, defaults.timeout_abort_sec) == (
        9,
        100_000,
        3_000_000,
    )
    assert [one.line for one in complaints] == [5]
