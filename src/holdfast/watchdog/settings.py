"""The watchdog's settings as systemd has them: names, values, sources, precedence (spec watchdog 2.1 to 2.3).

`load` gives each effective value with the place that it came from. What cannot be understood is reported and
leaves the previous value, as systemd does it; what systemd does silently and leaves the host unprotected by (a
timeout out of the device's range) is decided in `nearest`, and said.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from holdfast import system_conf
from holdfast.conf_text import Complaint
from holdfast.timespan import INFINITY, USEC_PER_SEC, TimeSpanError, format_timespan, parse_timespan

MAX_TIMEOUT_S: Final = 4294967
"""What the kernel's watchdog core can count (UINT_MAX milliseconds)."""
DEFAULT: Final = INFINITY
"""`default` and `infinity`: use the device, with the timeout that it has."""
OFF: Final = 0

BUILT_IN: Final = "built in"
KERNEL_COMMAND_LINE: Final = "/proc/cmdline"


@dataclass(frozen=True, slots=True)
class Value:
    """One effective setting. Time spans are microseconds."""

    value: int | str
    source: str = BUILT_IN
    """Built in, `FILE:LINE`, or the kernel's command line."""

    @property
    def usec(self) -> int:
        """Of a time span."""
        assert isinstance(self.value, int)
        return self.value

    @property
    def text(self) -> str:
        """Of a string; empty for none."""
        assert isinstance(self.value, str)
        return self.value

    @property
    def shown(self) -> str:
        """For people."""
        if isinstance(self.value, str):
            return self.value
        if self.value == OFF:
            return "off"
        return "default" if self.value == DEFAULT else format_timespan(self.value)


RUNTIME: Final = "RuntimeWatchdogSec"
PRETIMEOUT: Final = "RuntimeWatchdogPreSec"
GOVERNOR: Final = "RuntimeWatchdogPreGovernor"
REBOOT: Final = "RebootWatchdogSec"
KEXEC: Final = "KExecWatchdogSec"
DEVICE: Final = "WatchdogDevice"

_DEFAULTS: Final[dict[str, int | str]] = {
    RUNTIME: OFF,
    PRETIMEOUT: OFF,
    GOVERNOR: "",
    REBOOT: 600 * USEC_PER_SEC,
    KEXEC: OFF,
    DEVICE: "",
}
_ALIASES: Final = {"ShutdownWatchdogSec": REBOOT}
_SPANS: Final = (RUNTIME, PRETIMEOUT, REBOOT, KEXEC)

_KERNEL_OPTIONS: Final[dict[str, tuple[str, ...]]] = {
    "systemd.watchdog_device": (DEVICE,),
    "systemd.watchdog_sec": (RUNTIME, REBOOT, KEXEC),
    "systemd.watchdog_pre_sec": (PRETIMEOUT,),
    "systemd.watchdog_pretimeout_governor": (GOVERNOR,),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """All effective values by systemd's names, and everything that was not understood."""

    values: dict[str, Value] = field(
        default_factory=lambda: {key: Value(value) for key, value in _DEFAULTS.items()}
    )
    complaints: tuple[Complaint, ...] = ()

    def __getitem__(self, key: str) -> Value:
        return self.values[key]


def load(root: str = "/", command_line: str | None = None) -> Settings:
    """Defaults, main file, drop-ins, kernel command line: each overrides what came before it.

    `command_line` None: the running kernel's.
    """
    values = {key: Value(value) for key, value in _DEFAULTS.items()}
    complaints: list[Complaint] = []
    for path in system_conf.files(root):
        assignments, unreadable = system_conf.read(path)
        complaints += unreadable
        for one in assignments:
            key = _ALIASES.get(one.key, one.key)
            if key not in _DEFAULTS:
                continue  # The manager has many settings that are not about the watchdog.
            try:
                values[key] = Value(_parse(key, one.value), f"{one.path}:{one.line}")
            except ValueError as error:
                complaints.append(Complaint(one.path, one.line, f"{one.key}={one.value}: {error}, ignoring"))
    for option, text in _kernel_options(_running_command_line() if command_line is None else command_line):
        for key in _KERNEL_OPTIONS[option]:
            try:
                values[key] = Value(_parse(key, text, from_kernel=True), KERNEL_COMMAND_LINE)
            except ValueError as error:
                complaint = f"Failed to parse {option}= argument '{text}', ignoring: {error}"
                complaints.append(Complaint(KERNEL_COMMAND_LINE, 0, complaint))
                break
    return Settings(values, tuple(complaints))


def _running_command_line() -> str:
    try:
        with open("/proc/cmdline", encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def _kernel_options(command_line: str) -> Iterator[tuple[str, str]]:
    try:
        words = shlex.split(command_line, posix=True)
    except ValueError:
        words = command_line.split()
    for word in words:
        name, equals, value = word.partition("=")
        name = name.replace("-", "_")
        if equals and name in _KERNEL_OPTIONS:
            yield name, value


def _parse(key: str, text: str, from_kernel: bool = False) -> int | str:
    if key in _SPANS:
        return parse_watchdog_span(text)
    if key == DEVICE:
        if text and not os.path.isabs(text):
            raise ValueError("not an absolute path")
        if not text and from_kernel:
            raise ValueError("no path")
    return text


def parse_watchdog_span(text: str) -> int:
    """`off`, `default`, or a time span; microseconds. ValueError for anything else, empty included."""
    word = text.strip()
    if word in ("off", "0"):
        return OFF
    if word == "default":
        return DEFAULT
    try:
        return parse_timespan(word)
    except TimeSpanError as error:
        raise ValueError(str(error)) from None


def whole_seconds(usec: int) -> int:
    """What is programmed: rounded up, at most what the kernel can count."""
    return min(-(-usec // USEC_PER_SEC), MAX_TIMEOUT_S)
