"""The real `multipath -t` on files of our choice, and random configurations for it."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from holdfast.path.keywords import CHILDREN, KEYWORDS, OLD, Section, keywords_of

LIMIT_S = 30.0
NEEDED = ("multipath", "unshare", "mount")
STAMP = re.compile(r"^\d+\.\d+ \| ")


def what_is_missing() -> str | None:
    """None, or what is not there and how to get it."""
    for program in NEEDED:
        if shutil.which(program) is None:
            return f"{program} is missing; install multipath-tools, util-linux, mount"
    probe = subprocess.run(["unshare", "-m", "true"], capture_output=True, timeout=LIMIT_S, check=False)
    if probe.returncode:
        return "mount namespaces are not allowed here; run as root"
    version = subprocess.run(["multipath", "-h"], capture_output=True, timeout=LIMIT_S, check=False)
    if b"v0.9.4" not in version.stdout + version.stderr:
        return "multipath-tools is not 0.9.4, whose messages are compared"
    return None


@dataclass(frozen=True)
class Answer:
    """What the original made of a configuration."""

    code: int
    remarks: list[str]
    text: str


def ask(directory: Path, conf: bytes, drop_ins: dict[str, bytes] | None = None) -> Answer:
    """Run it with `directory` in the place of /etc, in a mount namespace of its own."""
    folder = directory / "multipath" / "conf.d"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (directory / "multipath.conf").write_bytes(conf)
    for name, text in (drop_ins or {}).items():
        (folder / name).write_bytes(text)
    for name in ("ld.so.cache", "passwd", "group"):
        if not (directory / name).exists() and Path("/etc", name).exists():
            shutil.copy(Path("/etc", name), directory / name)
    script = 'mount --bind "$1" /etc && exec multipath -t'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", str(directory)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    remarks = [STAMP.sub("", line) for line in done.stderr.decode("utf-8", "surrogateescape").splitlines()]
    return Answer(done.returncode, remarks, done.stdout.decode("utf-8", "surrogateescape"))


DIFFERENT = [
    "reservation_key",
    "partition_delimiter",
    "product_blacklist",
    "polling_interval",
    "max_polling_interval",
    "dev_loss_tmo",
    "mode",
    "uid",
    "gid",
    "uid_attrs",
    "max_fds",
    "force_sync",
    "retrigger_tries",
    "alias",
    "revision",
]
"""Where values are refused that the original takes in part, where it ends, or where the tool is not the daemon."""

VALUES = [
    "yes",
    "no",
    "0",
    "1",
    "5",
    "off",
    "on",
    "abc",
    '"a;b"',
    '"',
    '"',
    '""',
    '"""',
    '"x""y"',
    "a;b",
    "{",
    "}",
    '"1;a"',
    '"round-robin;0"',
    "^sd",
    '"!^sd"',
    "-3",
    "99999999999999",
    "immediate",
    "queue",
    "fail",
    "manual",
    "a/b",
    "#c",
    "x#c",
    "x!c",
    "scsi:fcp",
    "file",
    "é",
    "aéb",
    "multibus",
    "strict",
    "rdac",
    "A",
    "B",
    "C",
]


class Writer:
    """Makes a random configuration, mostly well formed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._lines: list[str] = []
        for _ in range(self._random.randint(1, 5)):
            word, section = self._random.choice(list(CHILDREN[Section.TOP].items()))
            if self._random.random() < 0.1:
                self._setting(Section.DEFAULTS)
            self._block(word, section)

    @property
    def text(self) -> bytes:
        """The file."""
        kept = [line for line in self._lines if not any(word in line for word in DIFFERENT)]
        return ("\n".join(kept) + "\n").encode()

    def _setting(self, section: Section) -> None:
        known = keywords_of(section, OLD)
        anything = [*(one.name for one in KEYWORDS), *(one.word for one in Section), "foo", '"', "#", "{", "}"]
        word = self._random.choice(list(known) if known and self._random.random() < 0.85 else anything)
        value = self._random.choice(VALUES).replace(";", " ")
        if word in known and known[word].words and self._random.random() < 0.5:
            value = self._random.choice(list(known[word].words))
        gap = self._random.choice([" ", "\t", "  ", ""])
        self._lines.append(self._random.choice(["\t", "", " ", "é"]) + word + gap + value)

    def _block(self, word: str, section: Section) -> None:
        choice = self._random.choice
        odd = ["{", "", " foo", " {x", ' "{"', " { }", " {#c"]
        self._lines.append(word + (" {" if self._random.random() < 0.8 else choice(odd)))
        for _ in range(self._random.randint(0, 6)):
            children = CHILDREN.get(section, {})
            if children and self._random.random() < 0.5:
                self._block(*choice(list(children.items())))
            else:
                self._setting(section)
        # Without both, the original prints a block that does not end.
        if section is Section.LISTED_DEVICE or (section is Section.DEVICE and self._random.random() < 0.8):
            self._lines += [f"vendor {choice('ABC')}", f"product {choice('AB')}"]
        elif section is Section.MULTIPATH and self._random.random() < 0.8:
            self._lines.append(f"wwid {choice('abc')}")
        elif section is Section.PROTOCOL and self._random.random() < 0.8:
            self._lines.append(f"type {choice(['scsi:fcp', 'scsi:sas', 'ccw'])}")
        if self._random.random() < 0.93:
            self._lines.append("}" + choice(["", "", "", "", " x"]))
