"""What the running host still knows of the boot before: recorders' files, boot status of devices, pstore.

Reads files only, opens no device. Whatever cannot be read is reported and left out. Contents are hostile.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from holdfast.observe.flight import FlightError, Record, read, running_boot_id
from holdfast.observe.why import Evidence
from holdfast.watchdog import sysfs

PSTORE: Final = "/sys/fs/pstore"
MAX_PSTORE_FILES: Final = 64
MAX_PSTORE_BYTES: Final = 1 << 18
MAX_RINGS: Final = 16
MAX_LINE: Final = 200
MAX_DUMP_AGE_S: Final = 1800.0
"""A dump that is older than this when the host booted is of an earlier end."""
GUARD_LINE: Final = "holdfast watchdog guard: restarting the host now:"
"""What the guard writes to the kernel's log before it restarts the host (watchdog.guard)."""

_STAMP: Final = re.compile(r"^(?:<\d+>)?\[\s*\d+\.\d+\]\s*(?:\[[^\]]*\]\s*)?")


@dataclass(frozen=True, slots=True)
class Recordings:
    """All recorders of a directory."""

    records: list[Record]
    files: list[str]
    complaints: list[str]
    """Files that cannot be read, and damaged records."""


def recordings(directory: str) -> Recordings:
    """OSError when the directory cannot be read."""
    names = sorted(name for name in os.listdir(directory) if name.endswith(".ring"))[:MAX_RINGS]
    found = Recordings([], [], [])
    for name in names:
        path = os.path.join(directory, name)
        try:
            recording = read(path)
        except FlightError as error:
            found.complaints.append(str(error))
            continue
        found.files.append(path)
        found.records.extend(recording.records)
        if recording.damaged:
            found.complaints.append(f"{path}: {recording.damaged} damaged records left out")
    return found


def gather(sysfs_class: str = sysfs.CLASS, pstore: str = PSTORE) -> Evidence:
    """What can be known now."""
    panic, restarted = last_words(_pstore_texts(pstore))
    return Evidence(running_boot_id(), boot_status=boot_status(sysfs_class), panic=panic, restarted=restarted)


def boot_status(sysfs_class: str = sysfs.CLASS) -> dict[str, int]:
    """Driver identity to its `bootstatus`. Reading does not ping."""
    found: dict[str, int] = {}
    for name in sysfs.devices(sysfs_class):
        base = os.path.join(sysfs_class, name)
        identity, bits = sysfs.attribute(base, "identity"), sysfs.attribute(base, "bootstatus")
        if identity and bits and bits.isdigit():
            found[identity] = found.get(identity, 0) | int(bits)
    return found


def _pstore_texts(directory: str) -> list[str]:
    """Dumps of the kernel's log, without those of earlier ends: they stay until somebody deletes them."""
    try:
        names = [name for name in os.listdir(directory) if name.startswith(("dmesg-", "console-"))]
    except OSError:
        return []
    texts = []
    booted = _boot_wall_time()
    for name in sorted(names)[:MAX_PSTORE_FILES]:
        path = os.path.join(directory, name)
        try:
            written = os.stat(path).st_mtime
            if name.startswith("dmesg-") and booted - written > MAX_DUMP_AGE_S:
                continue
            with open(path, encoding="utf-8", errors="replace") as file:
                texts.append(file.read(MAX_PSTORE_BYTES))
        except OSError:
            continue
    return texts


def _boot_wall_time() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def last_words(texts: Sequence[str]) -> tuple[str, str]:
    """The panic and the guard's line in dumps of the kernel's log; empty when there is none."""
    panic = restarted = ""
    for text in texts:
        for line in text.splitlines():
            bare = _STAMP.sub("", line).strip()
            if GUARD_LINE in bare:
                restarted = bare.partition(GUARD_LINE)[2].strip()[:MAX_LINE]
            elif not panic and bare.startswith("Kernel panic - not syncing"):
                panic = bare[:MAX_LINE]
    return panic, restarted
