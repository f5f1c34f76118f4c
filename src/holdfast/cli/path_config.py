"""`holdfast path config check`: what is wrong with multipath.conf, and which values hold."""

from __future__ import annotations

import argparse
import os

from holdfast.cli.output import Parser, add_json, colour, print_json, print_table, printable
from holdfast.path.conf import Config
from holdfast.path.conf_diagnostics import LEVEL_NAMES, NOTICE, WARNING, Diagnostic
from holdfast.path.conf_effective import Effective, of_subject, whole
from holdfast.path.conf_files import DIRECTORY, MAIN, load
from holdfast.path.conf_resolve import Subject
from holdfast.path.keyword_values import Surroundings, local_group, local_user
from holdfast.path.keywords import RELEASES

EXIT_UNUSABLE = 1
EXIT_REMARKS = 3

CHECK_EPILOG = f"""\
Reads {MAIN} and {DIRECTORY}/*.conf as the path daemon does, or FILE alone
(with --drop-ins DIR also what is in DIR). A wrong value is reported, and the one before it holds.
Remarks go to stdout, as FILE:LINE: what (hint).

With --effective every value is shown with the place that it comes from. With --device, --wwid or
--protocol these are the values for such a path: first multipaths, then overrides, the hardware table,
defaults. What a device tells of itself (detect_prio and the like) is not known here.

exit codes: 0 nothing to remark, 1 unusable: multipathd would not start, 2 wrong usage, 3 usable, with remarks

examples:
  holdfast path config check
  holdfast path config check new.conf && mv new.conf {MAIN}
  holdfast path config check --effective --device PURE:FlashArray
"""


def check_parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("path config check", "Check multipath.conf and show what it means.", CHECK_EPILOG)
    made.add_argument("file", metavar="FILE", nargs="?", help=f"main file (default: {MAIN} with its drop-ins)")
    made.add_argument("--drop-ins", metavar="DIR", help="directory of files that are read after the main file")
    made.add_argument("--effective", action="store_true", help="show every value with its source")
    made.add_argument("--device", metavar="VENDOR:PRODUCT[:REV]", help="values for paths of this device")
    made.add_argument("--wwid", default="", help="values for the map with this WWID")
    made.add_argument("--protocol", default="", help="values for paths of this protocol, as scsi:fcp")
    made.add_argument(
        "--as",
        dest="release",
        choices=sorted(RELEASES),
        default="0.14.3",
        help="multipath-tools' release to follow",
    )
    add_json(made)
    return made


def check_run(arguments: argparse.Namespace) -> int:
    """0, 1 or 3: see the epilog."""
    config = _load(arguments)
    shown = [one for one in config.diagnostics if one.level <= NOTICE or one.fatal]
    effective = list(_effective(config, arguments)) if _wants_values(arguments) else None
    if arguments.json:
        print_json(_json(config, shown, effective))
    else:
        _print(config, shown, effective)
    if config.fatal:
        return EXIT_UNUSABLE
    return EXIT_REMARKS if any(one.level <= WARNING for one in shown) else 0


def _load(arguments: argparse.Namespace) -> Config:
    around = Surroundings(RELEASES[arguments.release], local_user, local_group)
    if arguments.file is None:
        return load(MAIN, arguments.drop_ins or DIRECTORY, around)
    return load(os.path.normpath(arguments.file), arguments.drop_ins, around, must_exist=True)


def _wants_values(arguments: argparse.Namespace) -> bool:
    return bool(arguments.effective or arguments.device or arguments.wwid or arguments.protocol)


def _effective(config: Config, arguments: argparse.Namespace) -> list[Effective]:
    if not (arguments.device or arguments.wwid or arguments.protocol):
        return list(whole(config))
    device: str = arguments.device or ""
    vendor, product, revision, *_ = [*device.split(":", 2), "", "", ""]
    devices = config.matching_devices(vendor, product, revision) if device else ()
    return list(of_subject(config, Subject(arguments.wwid, devices, arguments.protocol)))


def _json(config: Config, shown: list[Diagnostic], effective: list[Effective] | None) -> dict[str, object]:
    found: dict[str, object] = {
        "files": list(config.files),
        "usable": not config.fatal,
        "diagnostics": [
            {
                "level": LEVEL_NAMES[one.level],
                "path": one.path,
                "line": one.line or None,
                "message": one.brief or one.text,
                "hint": one.hint,
                "original": one.text,
                "fatal": one.fatal,
            }
            for one in shown
        ],
    }
    if effective is not None:
        found["effective"] = [
            {"section": one.section, "name": one.name, "value": one.value, "source": one.source}
            for one in effective
        ]
    return found


def _print(config: Config, shown: list[Diagnostic], effective: list[Effective] | None) -> None:
    for one in shown:
        level = LEVEL_NAMES[one.level]
        where = f"{one.place}: " if one.place else ""
        hint = f" ({one.hint})" if one.hint else ""
        word = colour(level, "red" if one.level < NOTICE else "yellow")
        print(f"{printable(where)}{word}: {printable((one.brief or one.text) + hint)}")
    if effective is not None:
        rows = [(one.section, one.name, one.printed, one.source) for one in effective]
        print_table(rows, ("section", "setting", "value", "from"))
    elif not shown:
        files = ", ".join(config.files) or "no file, the built-in values hold"
        print(f"nothing to remark: {printable(files)}")
    if config.fatal:
        print("unusable: multipathd would not start with this; holdfast keeps what it had at a reload")
