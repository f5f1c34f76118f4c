# ruff: noqa: SIM905 - long lists of words read better as text
"""How a process ended: names of exit codes, what is clean, lists of statuses (spec supervisor 7.1 to 7.3)."""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass
from typing import Final

from holdfast.service import words


class Code(enum.IntEnum):
    """How (`ExecMainCode`); the numbers are those of waitid."""

    NEVER = 0
    EXITED = 1
    KILLED = 2
    DUMPED = 3

    @property
    def word(self) -> str:
        """`$EXIT_CODE`, and in the log."""
        return self.name.lower()


class Result(enum.Enum):
    """Why a service failed; the value is systemd's word."""

    SUCCESS = "success"
    RESOURCES = "resources"
    PROTOCOL = "protocol"
    TIMEOUT = "timeout"
    EXIT_CODE = "exit-code"
    SIGNAL = "signal"
    CORE_DUMP = "core-dump"
    WATCHDOG = "watchdog"
    START_LIMIT_HIT = "start-limit-hit"
    OOM_KILL = "oom-kill"
    EXEC_CONDITION = "exec-condition"
    TRIGGER_LIMIT_HIT = "trigger-limit-hit"
    """Of sockets and paths."""
    SERVICE_START_LIMIT_HIT = "service-start-limit-hit"
    """Of sockets."""
    UNIT_START_LIMIT_HIT = "unit-start-limit-hit"
    """Of timers and paths."""


@dataclass(frozen=True, slots=True)
class Exit:
    """A death: `status` is the exit code, or the signal's number."""

    code: Code
    status: int

    def __str__(self) -> str:
        """`code=exited, status=1/FAILURE`, as the log has it."""
        name = code_name(self.status) if self.code is Code.EXITED else signal_name(self.status)
        return f"code={self.code.word}, status={self.status}/{name or 'n/a'}"


_LSB: Final = (
    "SUCCESS FAILURE INVALIDARGUMENT NOTIMPLEMENTED NOPERMISSION NOTINSTALLED NOTCONFIGURED NOTRUNNING".split()
)
_BSD: Final = (
    "USAGE DATAERR NOINPUT NOUSER NOHOST UNAVAILABLE SOFTWARE OSERR OSFILE CANTCREAT IOERR TEMPFAIL PROTOCOL "
    "NOPERM CONFIG"
).split()
_OURS: Final = (
    "CHDIR NICE FDS EXEC MEMORY LIMITS OOM_ADJUST SIGNAL_MASK STDIN STDOUT CHROOT IOPRIO TIMERSLACK SECUREBITS "
    "SETSCHEDULER CPUAFFINITY GROUP USER CAPABILITIES CGROUP SETSID CONFIRM STDERR - PAM NETWORK NAMESPACE "
    "NO_NEW_PRIVILEGES SECCOMP SELINUX_CONTEXT PERSONALITY APPARMOR ADDRESS_FAMILIES RUNTIME_DIRECTORY - CHOWN "
    "SMACK_PROCESS_LABEL KEYRING STATE_DIRECTORY CACHE_DIRECTORY LOGS_DIRECTORY CONFIGURATION_DIRECTORY "
    "NUMA_POLICY CREDENTIALS - BPF"
).split()
NAMES: Final = {
    code: name
    for first, names in ((0, _LSB), (64, _BSD), (200, _OURS), (255, ["EXCEPTION"]))
    for code, name in enumerate(names, first)
    if name != "-"
}
_CODES: Final = {name: code for code, name in NAMES.items()}

CLEAN_SIGNALS: Final = frozenset((signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE))
"""Deaths by these are clean for a daemon, not for a command."""
MAX_SIGNAL: Final = 64
_REALTIME: Final = {"RTMIN": int(signal.SIGRTMIN), "RTMAX": int(signal.SIGRTMAX)}
_SIGNALS: Final = {
    one.name[3:]: int(one) for one in signal.Signals if not one.name.startswith(("SIGRT", "SIG_"))
} | {"IOT": int(signal.SIGABRT), "CLD": int(signal.SIGCHLD), "POLL": int(signal.SIGIO)}
_SIGNAL_NAMES: Final = {
    int(one): one.name[3:] for one in signal.Signals if not one.name.startswith("SIGRT")
}  # Aliases of one number have one member, the common name.


def code_name(code: int) -> str:
    """`TEMPFAIL` of 75; empty for a code without a name."""
    return NAMES.get(code, "")


def signal_name(number: int) -> str:
    """Without `SIG`; `RTMIN+n` of the realtime ones."""
    if number in _SIGNAL_NAMES:
        return _SIGNAL_NAMES[number]
    minimum, maximum = _REALTIME["RTMIN"], _REALTIME["RTMAX"]
    if minimum <= number <= maximum:
        return f"RTMIN+{number - minimum}"
    return ""


def parse_signal(text: str) -> int:
    """A name with or without `SIG`, `RTMIN+n`, `RTMAX-n`, or a number. ValueError."""
    if text.isascii() and text.isdecimal():
        number = int(text)
    else:
        name = text.removeprefix("SIG")
        number = _SIGNALS.get(name, 0)
        for base, sign in (("RTMIN", "+"), ("RTMAX", "-")):
            if name == base:
                number = _REALTIME[base]
            elif name.startswith(base + sign) and name[6:].isascii() and name[6:].isdecimal():
                number = _REALTIME[base] + int(name[5:])
                if not _REALTIME["RTMIN"] <= number <= _REALTIME["RTMAX"]:
                    number = 0
    if not 1 <= number <= MAX_SIGNAL:
        raise ValueError(f"{text!r} is no signal")
    return number


@dataclass(frozen=True, slots=True)
class StatusSet:
    """`SuccessExitStatus=` and its like: exit codes and signals, compared by kind and number."""

    codes: frozenset[int] = frozenset()
    signals: frozenset[int] = frozenset()

    def __contains__(self, death: object) -> bool:
        if not isinstance(death, Exit):
            return False
        return death.status in (self.codes if death.code is Code.EXITED else self.signals)

    def __or__(self, other: StatusSet) -> StatusSet:
        return StatusSet(self.codes | other.codes, self.signals | other.signals)

    def __bool__(self) -> bool:
        return bool(self.codes or self.signals)

    def __str__(self) -> str:
        """As `systemctl show` prints it: numbers, then signals without `SIG`."""
        return " ".join(
            [str(code) for code in sorted(self.codes)] + [signal_name(one) for one in sorted(self.signals)]
        )


def parse_statuses(value: str) -> tuple[StatusSet, list[str]]:
    """A list of codes, names of codes and signals; what cannot be understood is left out, with a warning.
    WordError.
    """
    codes, signals, warnings = set(), set(), []
    for word in words.texts(value):
        if word.isascii() and word.isdecimal():
            if int(word) <= 255:
                codes.add(int(word))
                continue
        elif word in _CODES:
            codes.add(_CODES[word])
            continue
        elif word.startswith("SIG") or word in _SIGNALS:
            try:
                signals.add(parse_signal(word))
                continue
            except ValueError:
                pass
        warnings.append(f"Failed to parse value, ignoring: {word}")
    return StatusSet(frozenset(codes), frozenset(signals)), warnings


def classify(death: Exit, *, daemon: bool, clean: StatusSet) -> Result:
    """What a death means. `daemon`: the main process of all types but oneshot (spec 7.1)."""
    if death in clean or death == Exit(Code.EXITED, 0):
        return Result.SUCCESS
    if death.code is Code.EXITED:
        return Result.EXIT_CODE
    if daemon and death.code is Code.KILLED and death.status in CLEAN_SIGNALS:
        return Result.SUCCESS
    return Result.CORE_DUMP if death.code is Code.DUMPED else Result.SIGNAL
