"""FailureAction= and its like: what a word means where this manager runs, and how that is done (spec 8).

`System` is the only door to reboot(2) and to the host's commands; tests have a fake one.
"""

from __future__ import annotations

import enum
import logging
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

log = logging.getLogger(__name__)

INITIAL_PID_NAMESPACE: Final = "pid:[4026531836]"
"""The kernel's constant: whoever is PID 1 in another one is no machine's init."""
CONTAINER_MARKS: Final = ("/run/.containerenv", "/.dockerenv", "/run/systemd/container")
EXIT_FAILURE: Final = 255
"""Of `exit` when the unit's main process did not exit by itself."""
EXIT_REBOOT: Final = 133
"""The manager of a container that shall start again."""
_MAGIC: Final = {"reboot": 0x01234567, "poweroff": 0x4321FEDC, "halt": 0xCDEF0123, "kexec": 0x45584543}


class How(enum.Enum):
    """How thoroughly the units are stopped first."""

    ORDERED = "ordered"
    FORCE = "force"
    """All processes are ended, none in order."""
    IMMEDIATE = "immediate"
    """Nothing is ended."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of the manager, or of the machine. `kind`: `exit`, `reboot`, `poweroff`, `halt`, `kexec`."""

    kind: str
    how: How
    status: int | None = None
    """Exit status, of `exit`."""


class Place(enum.Enum):
    """Where the manager runs."""

    MACHINE = "machine"
    """PID 1 of a machine."""
    CONTAINER = "container"
    """PID 1 of a container, or of any other PID namespace."""
    BESIDE = "beside"
    """An ordinary process."""


def find_place() -> Place:
    """Look at this process."""
    if os.getpid() != 1:
        return Place.BESIDE
    try:
        initial = os.readlink("/proc/self/ns/pid") == INITIAL_PID_NAMESPACE
    except OSError:
        initial = False
    contained = "container" in os.environ or any(map(os.path.exists, CONTAINER_MARKS))
    return Place.MACHINE if initial and not contained else Place.CONTAINER


_SAID: Final = {
    ("reboot", How.ORDERED): "Rebooting",
    ("reboot", How.FORCE): "Forcibly rebooting",
    ("reboot", How.IMMEDIATE): "Rebooting immediately",
    ("poweroff", How.ORDERED): "Powering off",
    ("poweroff", How.FORCE): "Forcibly powering off",
    ("poweroff", How.IMMEDIATE): "Powering off immediately",
    ("halt", How.ORDERED): "Halting",
    ("halt", How.FORCE): "Forcibly halting",
    ("halt", How.IMMEDIATE): "Halting immediately",
    ("kexec", How.ORDERED): "Executing kexec",
    ("kexec", How.FORCE): "Forcibly executing kexec",
    ("exit", How.ORDERED): "Exiting",
    ("exit", How.FORCE): "Exiting immediately",
}


def decide(action: str, reason: str, status: int | None, place: Place) -> tuple[Ending | None, list[str]]:
    """What an action's word comes to, and the lines to log. None: nothing is to be done."""
    if action == "none":
        return None, []
    kind, dash, word = action.rpartition("-")
    how = {"force": How.FORCE, "immediate": How.IMMEDIATE}.get(word) if dash else None
    if how is None:
        kind, how = action, How.ORDERED
    said = []
    if kind == "soft-reboot":
        said.append(f'Doing "reboot" action instead of a "{action}" emergency action.')
        kind = "reboot"
    if kind == "exit" and place is Place.MACHINE:
        suffix = "" if how is How.ORDERED else f"-{how.value}"
        said.append(f'Doing "poweroff{suffix}" action instead of an "{action}" emergency action.')
        kind = "poweroff"
    said.append(f"{_SAID[kind, how]}: {reason}")
    if kind == "exit" and status is None:
        status = EXIT_FAILURE
    return Ending(kind, how, status), said


class System(Protocol):
    """What can be done to the machine. Each returns the manager's exit status, if it returns."""

    place: Place

    def end(self, ending: Ending) -> int:
        """The last step: units are stopped, or shall not be."""
        ...


class ExitSystem:
    """The manager ends, nothing else does: in a container, and the default beside another init."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def end(self, ending: Ending) -> int:
        """The exit status; `reboot` has one of its own, for whoever starts containers."""
        if self.place is Place.BESIDE and ending.kind != "exit":
            log.error("%s of this host is left to others: the manager ends", ending.kind)
        if ending.kind in ("reboot", "kexec"):
            return EXIT_REBOOT
        return ending.status or 0


class HostSystem:
    """Beside another init, with leave to act on the host: its own commands do it."""

    place = Place.BESIDE

    def __init__(self, run: Callable[[Sequence[str]], object] | None = None) -> None:
        self._run = run or _start

    def end(self, ending: Ending) -> int:
        """0 when the host was asked, 1 when it cannot be."""
        if ending.kind == "exit":
            return ending.status or 0
        command = ["kexec", "-e"] if ending.kind == "kexec" else [ending.kind]
        if ending.how is not How.ORDERED and ending.kind != "kexec":
            # Once leaves out the order, twice the init system altogether.
            command += ["-f"] * (1 if ending.how is How.FORCE else 2)
        if ending.how is not How.ORDERED:
            os.sync()
        try:
            self._run(command)
        except OSError as error:
            log.error("%s: %s; this host goes on", command[0], error.strerror)
            return 1
        return 0


def _start(command: Sequence[str]) -> object:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=True, start_new_session=True)


class MachineSystem:
    """PID 1 of a machine: reboot(2). Nobody else may make one."""

    place = Place.MACHINE

    def __init__(self) -> None:
        if find_place() is not Place.MACHINE:
            raise RuntimeError("only a machine's PID 1 restarts it")

    def end(self, ending: Ending) -> int:
        """Does not return, unless the kernel refuses."""
        import ctypes

        kind = "poweroff" if ending.kind == "exit" else ending.kind
        os.sync()
        libc = ctypes.CDLL(None, use_errno=True)
        libc.reboot(ctypes.c_int(_MAGIC[kind] - (1 << 32) if _MAGIC[kind] >= 1 << 31 else _MAGIC[kind]))
        log.error("%s: %s", kind, os.strerror(ctypes.get_errno()))
        return 1


def system_for(place: Place, host_actions: bool) -> System:
    """The one that fits."""
    if place is Place.MACHINE:
        return MachineSystem()
    if place is Place.BESIDE and host_actions:
        return HostSystem()
    return ExitSystem(place)
