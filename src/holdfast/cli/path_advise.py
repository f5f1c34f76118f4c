"""`holdfast path advise`: multipath.conf values that go with the leases' timing."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from holdfast.cli.output import Parser, add_json, bounded, colour, print_json, printable
from holdfast.lease import timing
from holdfast.path.advice import Advice, Contradiction, Device, LeaseTiming, advise, contradictions
from holdfast.path.conf import Config
from holdfast.path.conf_files import DIRECTORY, MAIN, load
from holdfast.path.keyword_values import Surroundings, local_group, local_user
from holdfast.path.keywords import RELEASES

EXIT_UNUSABLE = 1
EXIT_CONTRADICTIONS = 3
MAX_FIRE_S = 3600
BLOCK = Path("/sys/block")

EPILOG = f"""\
A lease on storage behind multipath is renewed every 2 x io_timeout and lost after 8 x io_timeout. Until
6 x io_timeout a failure of paths must be over: the path found bad and not used any more, or, when none is left,
errors returned. Queueing without end (no_path_retry queue) makes the renewal hang instead, and processes that wait
for I/O cannot be killed: the watchdog resets the host. The values printed wait for storage as long as they can and
end in time:

  max_polling_interval + checker_timeout + 1 + no_path_retry x polling_interval  <=  6 x io_timeout

The present configuration ({MAIN} with {DIRECTORY}/*.conf, or --config), and the hardware
table for the disks of this host, are compared with that. Values in `overrides` count for all arrays; in `defaults`
the hardware table would win.

exit codes: 0 nothing contradicts, 1 the configuration is unusable, 2 wrong usage, 3 values contradict

examples:
  holdfast path advise
  holdfast path advise --io-timeout 5 --fire-timeout 30
  holdfast path advise --json | jq .settings.no_path_retry
"""


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("path advise", "Compute multipath.conf values that agree with the timing of leases.", EPILOG)
    made.add_argument(
        "--io-timeout",
        type=bounded(timing.MIN_IO_TIMEOUT_S, timing.MAX_IO_TIMEOUT_S),
        default=timing.DEFAULT_IO_TIMEOUT_S,
        metavar="SECONDS",
        help=f"of the lockspace ({timing.DEFAULT_IO_TIMEOUT_S})",
    )
    made.add_argument(
        "--fire-timeout",
        type=bounded(1, MAX_FIRE_S),
        default=timing.DEFAULT_FIRE_TIMEOUT_S,
        metavar="SECONDS",
        help=f"of the watchdog ({timing.DEFAULT_FIRE_TIMEOUT_S})",
    )
    made.add_argument("--config", metavar="FILE", help=f"compare with this file (default: {MAIN}, {DIRECTORY})")
    add_json(made)
    return made


def run(arguments: argparse.Namespace) -> int:
    """0, 1 or 3: see the epilog."""
    lease = lease_timing(arguments.io_timeout, arguments.fire_timeout)
    advice = advise(lease)
    config = _load(arguments.config)
    found = contradictions(config, lease, disks(BLOCK))
    if arguments.json:
        print_json(_json(advice, config, found))
    else:
        _print(advice, config, found)
    if config.fatal:
        return EXIT_UNUSABLE
    return EXIT_CONTRADICTIONS if found else 0


def lease_timing(io_timeout: int, fire_timeout: int) -> LeaseTiming:
    """What the lease daemon does when."""
    return LeaseTiming(
        io_timeout,
        fire_timeout,
        timing.renewal_interval(io_timeout),
        timing.warn_after(io_timeout),
        timing.fail_after(io_timeout),
        timing.host_dead_after(io_timeout, fire_timeout),
    )


def disks(folder: Path) -> set[Device]:
    """Vendor, product and revision of this host's disks, from sysfs; nothing is opened."""
    found = set()
    for disk in folder.glob("*/device"):
        words = [_attribute(disk / name) for name in ("vendor", "model", "rev")]
        if disk.parent.name.startswith("nvme"):
            words = ["NVME", words[1], _attribute(disk / "firmware_rev")]
        if words[1]:
            found.add((words[0], words[1], words[2]))
    return found


def _attribute(path: Path) -> str:
    try:
        return path.read_text(errors="replace").rstrip()
    except OSError:
        return ""


def _load(path: str | None) -> Config:
    around = Surroundings(RELEASES["0.14.3"], local_user, local_group)
    if path is None:
        return load(MAIN, DIRECTORY, around)
    return load(os.path.normpath(path), None, around, must_exist=True)


def _print(advice: Advice, config: Config, found: list[Contradiction]) -> None:
    lease = advice.timing
    print(
        f"# io_timeout {lease.io_timeout} s, watchdog {lease.fire_timeout} s: a lease is renewed every "
        f"{lease.renewal_interval} s, lost after {lease.fail_after} s,\n"
        f"# the host is reset after {lease.reset_after} s; paths have {lease.warn_after} s."
    )
    for section in ("defaults", "overrides"):
        print(f"{section} {{")
        for one in advice.settings:
            if one.section == section:
                print(f"\t{f'{one.name} {one.value}':<24} # {one.why}")
        print("}")
    print(f"# /sys/block/sd*/device/timeout: at most {advice.scsi_timeout} s; commands on a hung path end so late")
    if config.fatal:
        print("the present configuration is unusable: holdfast path config check")
    for wrong in found:
        where = f"{wrong.place}: " if wrong.place else ""
        text = printable(f"{wrong.name} {wrong.value}: {wrong.what}")
        print(f"{printable(where)}{colour('contradicts', 'yellow')}: {text}")
    if not found and not config.fatal:
        print("nothing in the present configuration contradicts")


def _json(advice: Advice, config: Config, found: list[Contradiction]) -> dict[str, object]:
    lease = advice.timing
    return {
        "io_timeout": lease.io_timeout,
        "fire_timeout": lease.fire_timeout,
        "budget_s": lease.warn_after,
        "renewal_fails_after_s": lease.fail_after,
        "host_reset_after_s": lease.reset_after,
        "settings": {one.name: one.value for one in advice.settings},
        "sections": {one.name: one.section for one in advice.settings},
        "why": {one.name: one.why for one in advice.settings},
        "detection_s": advice.detection_s,
        "queueing_s": advice.queueing_s,
        "scsi_timeout_s": advice.scsi_timeout,
        "usable": not config.fatal,
        "contradictions": [
            {"name": one.name, "value": one.value, "place": one.place, "what": one.what} for one in found
        ],
    }
