"""`holdfast service enable`, `disable`, `mask`, `preset`, `is-enabled`, `cat`, `list-unit-files` ...: unit files.

They work on the files themselves, without a manager too; one that runs is asked for its search path, and to read
its files again afterwards.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
from functools import partial
from typing import TYPE_CHECKING

from holdfast.cli.output import print_json
from holdfast.cli.service_asking import (
    EXIT_FAILED,
    EXIT_OK,
    add_units,
    complain,
    connect,
    service_parser,
    unit_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.service.install import Change
    from holdfast.service.load import UnitFiles

CHANGES = {
    "enable": "Let units start with the units of their [Install] sections.",
    "disable": "Undo that.",
    "reenable": "Disable and enable again.",
    "preset": "Enable or disable units as the presets say.",
    "mask": "Make it impossible to start units.",
    "unmask": "Undo that.",
    "link": "Make unit files known that are elsewhere.",
}
PRESET_WORDS = {"enable": "enabled", "disable": "disabled", "ignore": "ignored"}
_STATIC = """\
The unit files have no installation config (WantedBy=, RequiredBy=, Also=,
Alias= settings in the [Install] section, and DefaultInstance= for template
units). This means they are not meant to be enabled or disabled using systemctl.
"""


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", metavar="DIR", help="unit files below this directory; no manager is asked")


def _changes_parser(verb: str) -> argparse.ArgumentParser:
    examples = "  holdfast service enable --now nginx\n" if verb == "enable" else ""
    made = service_parser(verb, CHANGES[verb], examples)
    made.add_argument("--runtime", action="store_true", help="until the next boot only")
    made.add_argument("-f", "--force", action="store_true", help="replace links that are in the way")
    if verb in ("enable", "disable", "mask", "reenable"):
        made.add_argument("--now", action="store_true", help="start (or stop) them too")
    made.add_argument("-q", "--quiet", action="store_true", help="say nothing")
    made.add_argument("--no-reload", action="store_true", help="do not ask the manager to read its files again")
    _add_files(made)
    add_units(made)
    made.set_defaults(verb=verb)
    return made


def unit_files(arguments: argparse.Namespace) -> UnitFiles:
    """The files of the manager that runs, or of this host."""
    from holdfast.service.load import UnitFiles, search_path
    from holdfast.service.manager.host_view import this_host

    root, path, control = arguments.root or "/", search_path(os.environ), ""
    if not arguments.root:
        try:
            with connect(arguments) as client:
                said = client.ask("ping")
                root, path = said["root"], tuple(said["unit_path"])
                control = said.get("control", "")
        except OSError:
            pass  # None runs: the usual places.
    return UnitFiles(root, path, this_host(root), control=control)


def changes_run(arguments: argparse.Namespace) -> int:
    """1: refused, or the change failed."""
    from holdfast.service import install
    from holdfast.service.install import InstallError

    files = unit_files(arguments)
    names = [one if "/" in one else unit_name(one) for one in arguments.units]
    try:
        changes = _plan(files, arguments, names)
        said = install.apply(files.root, changes)
    except InstallError as error:
        complain(f"Failed to {arguments.verb} unit: {str(error).removeprefix('Failed to mask unit: ')}")
        return EXIT_FAILED
    except OSError as error:
        complain(f"Failed to {arguments.verb} unit: {error.strerror}")
        return EXIT_FAILED
    if not arguments.quiet:
        for line in said:
            complain(line)
    if arguments.verb in ("enable", "reenable") and not changes and not arguments.quiet:
        _explain_static(files, names)
    if arguments.root or arguments.no_reload:
        return EXIT_OK
    return _tell_manager(arguments, names)


def _plan(files: UnitFiles, arguments: argparse.Namespace, names: list[str]) -> list[Change]:
    from holdfast.service import install

    runtime, force = arguments.runtime, arguments.force
    paths = [name for name in names if "/" in name]
    base = [os.path.basename(name) for name in names]
    if arguments.verb == "enable":
        linked = install.link(files, paths, runtime)
        if linked:
            install.apply(files.root, linked)
            files = type(files)(files.root, files.directories)
        return install.enable(files, base, runtime, force)
    if arguments.verb == "reenable":
        install.apply(files.root, install.disable(files, base, runtime))
        return install.enable(files, base, runtime, force)
    if arguments.verb == "mask":
        return install.mask(files, base, runtime, force)
    if arguments.verb == "link":
        return install.link(files, names, runtime)
    planners: dict[str, Callable[[UnitFiles, list[str], bool], list[Change]]] = {
        "disable": install.disable,
        "preset": install.apply_presets,
        "unmask": install.unmask,
    }
    return planners[arguments.verb](files, base, runtime)


def _explain_static(files: UnitFiles, names: list[str]) -> None:
    from holdfast.service import install
    from holdfast.service.install import InstallError

    for name in names:
        try:
            if install.unit_file_state(files, name) != "static":
                return
        except InstallError:
            return
    complain(_STATIC.rstrip("\n"))


def _tell_manager(arguments: argparse.Namespace, names: list[str]) -> int:
    """Read the files again; `--now`."""
    from holdfast.cli import service_jobs
    from holdfast.service.control.wire import ControlError

    try:
        with connect(arguments) as client:
            client.ask("daemon-reload")
    except ControlError as error:
        complain(f"Reload daemon failed: {error}")
        return EXIT_FAILED
    except OSError:
        return EXIT_OK  # None runs.
    if not getattr(arguments, "now", False):
        return EXIT_OK
    verb = "start" if arguments.verb in ("enable", "reenable") else "stop"
    return service_jobs.run(
        argparse.Namespace(**vars(arguments) | {"verb": verb, "units": names, "no_block": False, "json": False})
    )


for _verb in CHANGES:
    globals()[f"{_verb}_parser"] = partial(_changes_parser, _verb)
    globals()[f"{_verb}_run"] = changes_run


def is_enabled_parser() -> argparse.ArgumentParser:
    """Options and help of `is-enabled`."""
    made = service_parser("is-enabled", "Print whether units are enabled; 0 when one of them is.")
    made.add_argument("-q", "--quiet", action="store_true", help="only the exit code")
    _add_files(made)
    add_units(made)
    return made


def is_enabled_run(arguments: argparse.Namespace) -> int:
    """0: at least one is."""
    from holdfast.service import install
    from holdfast.service.install import InstallError

    files = unit_files(arguments)
    code = EXIT_FAILED
    for one in arguments.units:
        try:
            state = install.unit_file_state(files, unit_name(one))
        except InstallError as error:
            complain(str(error))
            continue
        if not arguments.quiet:
            print(state)
        if install.EXIT_CODES.get(state, EXIT_FAILED) == 0:
            code = EXIT_OK
    return code


def cat_parser() -> argparse.ArgumentParser:
    """Options and help of `cat`."""
    made = service_parser("cat", "Print the files of units, drop-ins after them.")
    _add_files(made)
    add_units(made)
    return made


def cat_run(arguments: argparse.Namespace) -> int:
    """1: a unit has no file."""
    from holdfast.service.names import UnitNameError

    files = unit_files(arguments)
    code = EXIT_OK
    printed = False
    for one in arguments.units:
        name = unit_name(one)
        try:
            found = files.find(name)
            paths = ([found.path] if found.path else []) + files.drop_ins(found.name)
        except UnitNameError:
            paths = []
        if not paths:
            complain(f"No files found for {name}.")
            code = EXIT_FAILED
        for path in paths:
            try:
                with open(files.at(path), encoding="utf-8", errors="replace") as file:
                    text = file.read(1 << 20)
            except OSError as error:
                complain(f"{path}: {error.strerror}")
                code = EXIT_FAILED
                continue
            print("\n" * printed + f"# {path}\n{text}", end="" if text.endswith("\n") else "\n")
            printed = True
    return code


def list_unit_files_parser() -> argparse.ArgumentParser:
    """Options and help of `list-unit-files`."""
    made = service_parser("list-unit-files", "List unit files, whether they are enabled, and what presets say.")
    made.add_argument("-t", "--type", action="append", default=[], metavar="TYPE", help="only units of this type")
    made.add_argument("--state", action="append", default=[], metavar="STATE", help="only in this state")
    made.add_argument("--no-legend", action="store_true", help="rows only")
    made.add_argument("--json", action="store_true", help="machine-readable output")
    _add_files(made)
    add_units(made, "*", "PATTERN")
    return made


def list_unit_files_run(arguments: argparse.Namespace) -> int:
    """0."""
    from holdfast.service import install
    from holdfast.service.install import InstallError

    files = unit_files(arguments)
    presets = install.read_presets(files)
    types = [word for one in arguments.type for word in one.split(",")]
    states = [word for one in arguments.state for word in one.split(",")]
    rows = []
    for name in files.names():
        if types and name.rpartition(".")[2] not in types:
            continue
        if arguments.units and not any(fnmatch.fnmatchcase(name, one) for one in arguments.units):
            continue
        try:
            state = install.unit_file_state(files, name)
        except InstallError:
            state = "bad"
        if states and state not in states:
            continue
        preset = {"enable": "enabled", "disable": "disabled", "ignore": "ignored"}[
            install.preset_of(presets, name)
        ]
        shown = preset if state in ("enabled", "disabled", "enabled-runtime") else "-"
        rows.append((name, state, shown))
    if arguments.json:
        print_json([{"unit_file": name, "state": state, "preset": preset} for name, state, preset in rows])
        return EXIT_OK
    heads = ("UNIT FILE", "STATE", "PRESET")
    widths = [max([len(head), *(len(row[at]) for row in rows)]) for at, head in enumerate(heads)]
    for row in ([] if arguments.no_legend else [heads]) + rows:
        print(" ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if not arguments.no_legend:
        print(f"\n{len(rows)} unit files listed.")
    return EXIT_OK


def get_default_parser() -> argparse.ArgumentParser:
    """Options and help of `get-default`."""
    made = service_parser("get-default", "Print the unit that the manager starts first.")
    _add_files(made)
    return made


def get_default_run(arguments: argparse.Namespace) -> int:
    """0."""
    print(unit_files(arguments).find("default.target").name)
    return EXIT_OK


def set_default_parser() -> argparse.ArgumentParser:
    """Options and help of `set-default`."""
    example = "  holdfast service set-default multi-user.target\n"
    made = service_parser("set-default", "Set the unit that the manager starts first.", example)
    made.add_argument("-q", "--quiet", action="store_true", help="say nothing")
    _add_files(made)
    made.add_argument("target", metavar="TARGET")
    return made


def set_default_run(arguments: argparse.Namespace) -> int:
    """1: there is no such unit, or the link cannot be made."""
    from holdfast.service import install
    from holdfast.service.install import MakeLink, RemoveLink

    files = unit_files(arguments)
    name = unit_name(arguments.target, "target")
    found = files.find(name)
    if found.state in ("not-found", "masked"):
        complain(f"Failed to set default target: Unit file {name} does not exist.")
        return EXIT_FAILED
    place = f"{files.config()}/default.target"
    changes: list[Change] = [RemoveLink(place), MakeLink(place, found.path or f"{files.config()}/{name}")]
    try:
        said = install.apply(files.root, changes)
    except OSError as error:
        complain(f"Failed to set default target: {error.strerror}")
        return EXIT_FAILED
    if not arguments.quiet:
        for line in said:
            complain(line)
    return EXIT_OK if arguments.root else _tell_manager(arguments, [])
