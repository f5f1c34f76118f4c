"""Loading and installing as observed: drop-ins, enable, disable, mask, presets, aliases, `.wants/`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.vectors.supervisor_world import vectors

from holdfast.service import install
from holdfast.service.load import UnitFiles, search_path

_PARSE = vectors("parse")
_ETC = "etc/systemd/system"
_MAIN = """[Unit]
Description=etc
[Service]
ExecStart=/bin/sleep 1000
[Install]
WantedBy=multi-user.target
RequiredBy=basic.target
Alias=di-alias.service
Also=di2.service
"""


class Tree:
    """Unit files below a root of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str) -> None:
        """A file."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def link(self, path: str, target: str) -> None:
        """A symlink."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)

    @property
    def files(self) -> UnitFiles:
        """A fresh look."""
        return UnitFiles(str(self.root))

    def apply(self, changes: list[install.Change]) -> set[str]:
        """Carry out; what was said."""
        return set(install.apply(str(self.root), changes))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.write(f"{_ETC}/di-x-y.service", _MAIN)
    tree.write("usr/lib/systemd/system/di-x-y.service", _MAIN.replace("etc", "usr"))
    tree.write(
        "usr/lib/systemd/system/di2.service",
        "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\nRequiredBy=basic.target\n",
    )
    (tmp_path / "lib").symlink_to("usr/lib")
    return tree


def _conf(text: str) -> str:
    return f"[Service]\nEnvironment={text}\n"


def test_drop_ins(tree: Tree) -> None:
    for path, text in {
        "usr/lib/systemd/system/service.d/10-all.conf": "ALL=1",
        "usr/lib/systemd/system/di-.service.d/20.conf": "DASH1=1",
        f"{_ETC}/di-x-.service.d/20.conf": "DASH2=1",
        "usr/lib/systemd/system/di-x-y.service.d/50-a.conf": "A=usr",
        f"{_ETC}/di-x-y.service.d/50-a.conf": "A=etc",
        "run/systemd/system/di-x-y.service.d/60-b.conf": "B=run",
        f"{_ETC}/di-x-y.service.d/05-c.conf": "C=etc",
        f"{_ETC}/di-x-y.service.d/note.txt": "NOTE=1",
        "usr/lib/systemd/system/di-x-y.service.d/70-m.conf": "M=1",
    }.items():
        tree.write(path, _conf(text))
    tree.link(f"{_ETC}/di-x-y.service.d/70-m.conf", "/dev/null")
    found, file, drop_ins = tree.files.read("di-x-y.service")
    shown = dict(line.split("=", 1) for line in _PARSE["dropins"]["show"].strip().split("\n"))
    assert found.path == shown["FragmentPath"]
    assert [
        path.replace("/lib/", "/usr/lib/", 1) if path.startswith("/lib") else path for path in drop_ins
    ] == shown["DropInPaths"].split()
    assert file is not None
    assert " ".join(f"{name}={value}" for name, value in file.exec.environment) == shown["Environment"]
    assert file.unit.description == shown["Description"]


def _expected(case: dict[str, Any]) -> set[str]:
    return {line for line in case["stderr"].split("\n") if line}


def test_install_sequence(tree: Tree) -> None:
    cases = {case["cmd"].removeprefix("systemctl "): case for case in _PARSE["install"]}
    unit = "di-x-y.service"

    def state(name: str) -> str:
        return install.unit_file_state(tree.files, name)

    assert state(unit) == "disabled"
    assert tree.apply(install.enable(tree.files, [unit])) == _expected(cases[f"enable {unit}"])
    assert [state(name) for name in (unit, "di-alias.service", "di2.service")] == ["enabled", "alias", "enabled"]
    assert install.enable(tree.files, [unit]) == []
    assert tree.apply(install.disable(tree.files, [unit])) == _expected(cases[f"disable {unit}"])
    assert state(unit) == "disabled"
    with pytest.raises(install.InstallError, match=r"state for nosuch\.service: No such file"):
        state("nosuch.service")
    with pytest.raises(install.InstallError, match=r"Unit file nosuch\.service does not exist\."):
        install.enable(tree.files, ["nosuch.service"])
    assert tree.apply(install.mask(tree.files, ["di2.service"])) == _expected(cases["mask di2.service"])
    assert state("di2.service") == "masked"
    assert tree.files.load("di2.service").load_state == "masked"
    with pytest.raises(install.InstallError, match="masked"):
        install.enable(tree.files, ["di2.service"])
    assert tree.apply(install.unmask(tree.files, ["di2.service"])) == _expected(cases["unmask di2.service"])
    assert tree.apply(install.apply_presets(tree.files, ["di2.service"])) == _expected(cases["preset di2.service"])
    tree.write("probe/linked.service", "[Service]\nExecStart=/bin/true\n")
    assert install.link(tree.files, ["/probe/linked.service"]) == [
        install.MakeLink("/etc/systemd/system/linked.service", "/probe/linked.service")
    ]
    tree.link(f"{_ETC}/linked.service", str(tree.root / "probe/linked.service"))
    with pytest.raises(install.InstallError, match="already exists"):
        install.mask(tree.files, [unit])


def test_masked_at_run_time(tree: Tree) -> None:
    tree.apply(install.mask(tree.files, ["b2.service"], runtime=True))
    assert install.unit_file_state(tree.files, "b2.service") == "masked-runtime"
    tree.write("run/systemd/system/empty.service", "")
    assert tree.files.load("empty.service").load_state == "masked"


def test_templates(tree: Tree) -> None:
    tree.write(
        "usr/lib/systemd/system/t@.service",
        "[Unit]\nDescription=%i of %p\n[Service]\nExecStart=/x %I\n[Install]\nWantedBy=basic.target\n"
        "DefaultInstance=one\n",
    )
    unit = tree.files.load("t@a-b.service")
    assert unit.file is not None
    assert unit.file.unit.description == "a-b of t"
    assert unit.file.service is not None
    assert unit.file.service.exec_start[0].argv == ("/x", "a/b")
    assert install.enable(tree.files, ["t@.service"]) == [
        install.MakeLink(f"/{_ETC}/basic.target.wants/t@one.service", "/lib/systemd/system/t@.service")
    ]
    tree.apply(install.enable(tree.files, ["t@two.service"]))
    assert install.unit_file_state(tree.files, "t@two.service") == "enabled"
    assert install.unit_file_state(tree.files, "t@.service") == "indirect"
    assert install.disable(tree.files, ["t@.service"]) == [
        install.RemoveLink(f"/{_ETC}/basic.target.wants/t@two.service")
    ]


def test_aliases_and_pulled_units(tree: Tree) -> None:
    tree.link(f"{_ETC}/other.service", f"/{_ETC}/di-x-y.service")
    tree.link(f"{_ETC}/other.service.wants/w2.service", "/nowhere")
    tree.write(f"{_ETC}/other.service.wants/w1.service", "")
    unit = tree.files.load("other.service")
    assert (unit.name, unit.wants) == ("di-x-y.service", ("w2.service",))
    assert tree.files.aliases_of("di-x-y.service") == ["other.service"]
    units, aliases = tree.files.closure(["other.service", "multi-user.target"])
    assert aliases == {"other.service": "di-x-y.service"}
    assert units["multi-user.target"].load_state == "not-found" or units["multi-user.target"].file is not None


def test_presets(tree: Tree) -> None:
    tree.write("usr/lib/systemd/system-preset/90-x.preset", "# no\nenable di2.*\ndisable *\n")
    tree.write("etc/systemd/system-preset/10-t.preset", "enable t@.service one two\n")
    presets = install.read_presets(tree.files)
    asked = ("di2.service", "x.service", "t@one.service", "t@z.service")
    said = [install.preset_of(presets, name) for name in asked]
    assert said == ["enable", "disable", "enable", "disable"]
    assert install.preset_of([], "x.service") == "enable"


def test_search_path() -> None:
    usual = ("/a",)
    assert search_path({}, usual) == usual
    assert search_path({"SYSTEMD_UNIT_PATH": "/x:/y"}, usual) == ("/x", "/y")
    assert search_path({"SYSTEMD_UNIT_PATH": "/x:"}, usual) == ("/x", "/a")


def test_loops_of_links(tree: Tree) -> None:
    tree.link(f"{_ETC}/l1.service", f"/{_ETC}/l2.service")
    tree.link(f"{_ETC}/l2.service", f"/{_ETC}/l1.service")
    tree.link("outside/l4", "l4")
    tree.link(f"{_ETC}/l3.service", "/outside/l4")
    assert tree.files.load("l1.service").load_state == "not-found"
    assert tree.files.load("l3.service").load_state == "not-found"


_HERE = UnitFiles() if os.path.isdir("/lib/systemd/system") else None


def test_units_of_this_machine() -> None:
    """Whatever the distribution ships can be read without an unknown key."""
    if _HERE is None:
        pytest.skip("no unit files on this machine")
    unknown = []
    loaded = 0
    for name in _HERE.names():
        if name.rpartition(".")[2] not in ("service", "socket", "timer", "path", "target") or "@." in name:
            continue
        unit = _HERE.load(name)
        if unit.file is None:
            continue
        loaded += unit.load_state == "loaded"
        unknown += [str(one) for one in unit.file.complaints if "Unknown" in one.text or "Failed" in one.text]
    assert unknown == []
    assert loaded > 0
