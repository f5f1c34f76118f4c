"""Enabling, disabling, masking, presets: as a plan of symlinks, then its execution below the root (spec 2.5).

The planning functions read unit files and directories, and change nothing; `apply` makes the changes.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from holdfast.service.load import MAX_ENTRIES, Found, UnitFiles
from holdfast.service.names import UnitName, UnitNameError
from holdfast.service.settings import InstallSettings

MASK: Final = "/dev/null"
PRESET_DIRECTORIES: Final = (
    "/etc/systemd/system-preset",
    "/run/systemd/system-preset",
    "/usr/local/lib/systemd/system-preset",
    "/usr/lib/systemd/system-preset",
    "/lib/systemd/system-preset",
)
MAX_ALSO: Final = 1024
_FOLDERS: Final = (".wants", ".requires", ".upholds")


class InstallError(Exception):
    """Refused; the text is for the user."""


@dataclass(frozen=True, slots=True)
class MakeLink:
    """A symlink to be made, in the place of another one that was there."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class RemoveLink:
    """A symlink to be removed."""

    path: str


Change = MakeLink | RemoveLink


def enable(files: UnitFiles, names: list[str], runtime: bool = False, force: bool = False) -> list[Change]:
    """The links of the units' `[Install]`, with `Also=`. Empty: static units. InstallError."""
    changes: dict[str, Change] = {}
    for found, install, name in _with_also(files, names, strict=True):
        for link, target in _links(found, install, name, files.config(runtime)):
            old = _readlink(files, link)
            if old == target:
                continue
            if old is not None and not force and not link.endswith(f"/{name}"):
                raise InstallError(f'File "{link}" already exists and is a symlink to "{old}".')
            if old is None and os.path.lexists(files.at(link)):
                raise InstallError(f'File "{link}" already exists.')
            changes.setdefault(link, MakeLink(link, target))
    return list(changes.values())


def _with_also(files: UnitFiles, names: list[str], strict: bool) -> Iterator[tuple[Found, InstallSettings, str]]:
    """The units with all that their `Also=` names. `strict`: those asked for must exist."""
    seen: set[str] = set()
    queue = list(names)
    while queue and len(seen) < MAX_ALSO:
        name = queue.pop(0)
        if name in seen:
            continue
        seen.add(name)
        try:
            found, file, _ = files.read(name)
        except UnitNameError as error:
            raise InstallError(str(error)) from None
        if strict and name in names and found.state == "masked":
            raise InstallError(f"Unit file {found.place} is masked.")
        if strict and name in names and file is None:
            raise InstallError(f"Unit file {name} does not exist.")
        if file is not None:
            queue += file.install.also
            yield found, file.install, found.name if found.name != name else name


def _links(found: Found, install: InstallSettings, name: str, directory: str) -> Iterator[tuple[str, str]]:
    """Link and target. A template is enabled as its default instance."""
    parsed = UnitName.parse(name)
    for alias in install.alias:
        if _may_be_alias(parsed, alias):
            yield f"{directory}/{alias}", found.path
    linked = parsed.with_instance(install.default_instance) if parsed.is_template else parsed
    for folder, others in (
        (".wants", install.wanted_by),
        (".requires", install.required_by),
        (".upholds", install.upheld_by),
    ):
        for other in others:
            if linked.is_template and not _is_template(other):
                continue  # Nothing says which instance is meant.
            yield f"{directory}/{other}{folder}/{linked}", found.path


def _is_template(name: str) -> bool:
    try:
        return UnitName.parse(name).is_template
    except UnitNameError:
        return False


def _may_be_alias(name: UnitName, alias: str) -> bool:
    try:
        other = UnitName.parse(alias)
    except UnitNameError:
        return False
    return other.type == name.type and (other.instance is None) == (name.instance is None)


def _readlink(files: UnitFiles, path: str) -> str | None:
    try:
        return os.readlink(files.at(path))
    except OSError:
        return None


def disable(files: UnitFiles, names: list[str], runtime: bool = False) -> list[Change]:
    """Every symlink to the units (and to those of their `Also=`), whoever made it; masks stay."""
    gone = set(names)
    for found, _, name in _with_also(files, names, strict=False):
        gone |= {name, found.name}
    changes: list[Change] = []
    for path, target in _all_links(files, files.config(runtime)):
        entry = os.path.basename(path)
        if target != MASK and _is_one_of(entry, os.path.basename(target), gone):
            changes.append(RemoveLink(path))
    return changes


def _is_one_of(entry: str, target: str, gone: set[str]) -> bool:
    """A link by name or target; a template takes its instances along."""
    if entry in gone or target in gone:
        return True
    try:
        return str(UnitName.parse(entry).template) in gone
    except UnitNameError:
        return False


def _all_links(files: UnitFiles, directory: str) -> Iterator[tuple[str, str]]:
    for entry in _list(files, directory):
        path = f"{directory}/{entry}"
        target = _readlink(files, path)
        if target is not None:
            yield path, target
        elif entry.endswith(_FOLDERS):
            for inner in _list(files, path):
                target = _readlink(files, f"{path}/{inner}")
                if target is not None:
                    yield f"{path}/{inner}", target


def _list(files: UnitFiles, directory: str) -> list[str]:
    try:
        return sorted(os.listdir(files.at(directory)))[:MAX_ENTRIES]
    except OSError:
        return []


def mask(files: UnitFiles, names: list[str], runtime: bool = False, force: bool = False) -> list[Change]:
    """Links to /dev/null. InstallError where a file is in the way."""
    changes: list[Change] = []
    for name in names:
        path = f"{files.config(runtime)}/{_checked(name)}"
        old = _readlink(files, path)
        if old == MASK:
            continue
        if not force and (old is not None or os.path.lexists(files.at(path))):
            raise InstallError(f"Failed to mask unit: File {path} already exists.")
        changes.append(MakeLink(path, MASK))
    return changes


def unmask(files: UnitFiles, names: list[str], runtime: bool = False) -> list[Change]:
    """Remove the masks, nothing else."""
    paths = [f"{files.config(runtime)}/{_checked(name)}" for name in names]
    return [RemoveLink(path) for path in paths if _readlink(files, path) == MASK]


def link(files: UnitFiles, paths: list[str], runtime: bool = False) -> list[Change]:
    """Unit files from outside the search path."""
    changes: list[Change] = []
    for path in paths:
        if not path.startswith("/"):
            raise InstallError(f"{path}: not an absolute path")
        place = f"{files.config(runtime)}/{_checked(os.path.basename(path))}"
        if os.path.dirname(path) not in files.directories and _readlink(files, place) != path:
            changes.append(MakeLink(place, path))
    return changes


def _checked(name: str) -> str:
    try:
        return str(UnitName.parse(name))
    except UnitNameError as error:
        raise InstallError(str(error)) from None


# State.


def unit_file_state(files: UnitFiles, name: str) -> str:
    """The word of `is-enabled`. InstallError when there is no such unit file."""
    try:
        found, file, _ = files.read(name)
    except UnitNameError as error:
        raise InstallError(str(error)) from None
    if found.state == "masked":
        return "masked-runtime" if found.place.startswith("/run/") else "masked"
    if found.state == "not-found" or (not found.path and file is None):
        raise InstallError(f"Failed to get unit file state for {name}: No such file or directory")
    if found.name != name:
        return "alias"
    install = file.install if file else InstallSettings()
    for directory, word in ((files.config(), "enabled"), (files.config(True), "enabled-runtime")):
        links = [path for path, _ in _links(found, install, name, directory)]
        if any(_readlink(files, path) is not None for path in links) or _is_pulled(files, directory, name):
            return word
    if found.state == "linked":
        return "linked-runtime" if found.place.startswith("/run/") else "linked"
    if _other_links(files, name):
        return "indirect"
    if install.makes_links:
        return "disabled"
    return "indirect" if install.also else "static"


def _is_pulled(files: UnitFiles, directory: str, name: str) -> bool:
    return any(
        os.path.basename(path) == name and os.path.dirname(path) != directory
        for path, _ in _all_links(files, directory)
    )


def _other_links(files: UnitFiles, name: str) -> bool:
    """Another name, or an instance, is enabled."""
    for directory in dict.fromkeys((files.config(), files.config(True))):
        for path, target in _all_links(files, directory):
            entry = os.path.basename(path)
            if os.path.basename(target) == name and entry != name:
                return True
    return False


EXIT_CODES: Final = {
    "enabled": 0, "enabled-runtime": 0, "static": 0, "indirect": 0, "alias": 0, "generated": 0,
    "linked": 1, "linked-runtime": 1, "disabled": 1, "masked": 1, "masked-runtime": 1, "transient": 1, "bad": 1,
}  # fmt: skip
"""Of `is-enabled`."""


# Presets.


@dataclass(frozen=True, slots=True)
class Preset:
    """One line: `enable`, `disable` or `ignore`, a glob, and instances."""

    action: str
    pattern: str
    instances: tuple[str, ...] = ()


def read_presets(files: UnitFiles) -> list[Preset]:
    """All lines that count, first match first."""
    found: dict[str, str] = {}
    for directory in PRESET_DIRECTORIES:
        for entry in _list(files, directory):
            if entry.endswith(".preset"):
                found.setdefault(entry, f"{directory}/{entry}")
    presets: list[Preset] = []
    for entry in sorted(found):
        try:
            with open(files.at(found[entry]), encoding="utf-8", errors="replace") as file:
                lines = file.read(1 << 20).splitlines()
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if len(words) >= 2 and words[0] in ("enable", "disable", "ignore"):
                presets.append(Preset(words[0], words[1], tuple(words[2:])))
    return presets


def preset_of(presets: list[Preset], name: str) -> str:
    """`enable`, `disable` or `ignore`; no match means enable."""
    parsed = UnitName.parse(name)
    for preset in presets:
        if fnmatch.fnmatchcase(name, preset.pattern):
            return preset.action
        if parsed.is_instance and preset.instances and fnmatch.fnmatchcase(str(parsed.template), preset.pattern):
            return preset.action if parsed.instance in preset.instances else "disable"
    return "enable"


def apply_presets(files: UnitFiles, names: list[str], runtime: bool = False) -> list[Change]:
    """Enable or disable each unit as the presets say."""
    presets = read_presets(files)
    changes: list[Change] = []
    planners: dict[str, Callable[[UnitFiles, list[str], bool], list[Change]]] = {
        "enable": enable,
        "disable": disable,
    }
    for name in names:
        planner = planners.get(preset_of(presets, name))
        if planner is not None:
            changes += planner(files, [name], runtime)
    return list(dict.fromkeys(changes))


# Execution.


def apply(root: str, changes: list[Change]) -> list[str]:
    """Carry a plan out; what was done, in the words of systemctl. OSError."""
    said = []
    for change in changes:
        path = os.path.join(root, change.path.lstrip("/"))
        if isinstance(change, MakeLink):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            new = f"{path}.{os.getpid()}.new"
            os.symlink(change.target, new)
            try:
                os.replace(new, path)  # A link that was there is never missing in between.
            except OSError:
                os.unlink(new)
                raise
            said.append(f"Created symlink {change.path} → {change.target}.")
        else:
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue
            said.append(f'Removed "{change.path}".')
            if os.path.dirname(change.path).endswith(_FOLDERS):
                try:
                    os.rmdir(os.path.dirname(path))  # Only when it is empty.
                except OSError:
                    pass
    return said
