"""Conditions and asserts against an injected view of the system."""

from __future__ import annotations

import itertools

import pytest

from holdfast.service.conditions import Unsupported, View, answer, compare_versions, holds, unmet
from holdfast.service.settings import Condition

VIEW = View(
    path=lambda what, path: (what, path) in {("exists", "/etc/passwd"), ("directory", "/etc")},
    host_name="guest7",
    machine_id="c2dbc0480efe4ddda6d815b0e006a75b",
    kernel_command_line=("quiet", "root=/dev/sda1"),
    kernel_release="6.1.0-56-cloud-amd64",
    virtualization="qemu",
    architecture="x86-64",
    capabilities=frozenset({"CAP_NET_ADMIN"}),
    security=frozenset({"apparmor"}),
    environment={"LANG": "C"},
    controllers=frozenset({"v2", "cpu", "memory"}),
    memory=4 << 30,
    cpus=2,
    os_release={"ID": "debian", "VERSION_ID": "12"},
)


@pytest.mark.parametrize(
    ("kind", "argument", "expected"),
    [
        ("PathExists", "/etc/passwd", True),
        ("PathExists", "/nonexistent", False),
        ("PathIsDirectory", "/etc", True),
        ("User", "0", True),
        ("User", "@system", True),
        ("User", "nobody", False),
        ("Group", "root", True),
        ("Host", "guest?", True),
        ("Host", "C2DBC0480EFE4DDDA6D815B0E006A75B", True),
        ("KernelCommandLine", "root", True),
        ("KernelCommandLine", "root=/dev/sda1", True),
        ("KernelCommandLine", "roo", False),
        ("KernelVersion", ">=5.10 <6.2", True),
        ("KernelVersion", ">= 6.2", False),
        ("KernelVersion", "6.1.*", True),
        ("Virtualization", "vm", True),
        ("Virtualization", "container", False),
        ("Virtualization", "yes", True),
        ("Virtualization", "qemu", True),
        ("Architecture", "native", True),
        ("Architecture", "arm64", False),
        ("Security", "selinux", False),
        ("Capability", "CAP_NET_ADMIN", True),
        ("ACPower", "false", False),
        ("FirstBoot", "no", True),
        ("Environment", "LANG", True),
        ("Environment", "LANG=de", False),
        ("ControlGroupController", "cpu memory", True),
        ("Memory", ">=2G", True),
        ("CPUs", "4", False),
        ("OSRelease", "ID=debian VERSION_ID>=11", True),
        ("OSRelease", "VERSION_ID<12", False),
        ("PathIsEncrypted", "/", False),
    ],
)
def test_kinds(kind: str, argument: str, expected: bool) -> None:
    assert holds(Condition(kind, argument), VIEW) is expected
    assert holds(Condition(kind, argument, negate=True), VIEW) is not expected


def test_what_nobody_can_answer() -> None:
    for condition in (Condition("MemoryPressure", "10%"), Condition("CPUs", "many"), Condition("ACPower", "x")):
        with pytest.raises(Unsupported):
            holds(condition, VIEW)


def test_unanswered_conditions_are_met_and_asserts_fail() -> None:
    said: list[str] = []
    condition = Condition("CPUPressure", "10%")
    assert answer(condition, False, VIEW, said.append)
    assert not answer(condition, True, VIEW, said.append)
    assert len(said) == 2


def test_triggering_conditions() -> None:
    def blamed(*conditions: Condition) -> Condition | None:
        return unmet(conditions, lambda one: holds(one, VIEW))

    yes, no = Condition("PathExists", "/etc/passwd"), Condition("PathExists", "/x")
    maybe, never = Condition("PathExists", "/etc/passwd", True), Condition("PathExists", "/x", True)
    assert blamed() is None
    assert blamed(yes, maybe, never) is None
    assert blamed(yes, never) == never
    assert blamed(no, maybe) == no


def test_versions() -> None:
    ascending = ["", "1~rc1", "1", "1-1", "1.2", "1.10", "2a", "2b", "10"]
    for first, second in itertools.pairwise(ascending[1:]):
        assert compare_versions(first, second) < 0, (first, second)
        assert compare_versions(second, first) > 0
    assert compare_versions("6.1", "6.1") == 0
