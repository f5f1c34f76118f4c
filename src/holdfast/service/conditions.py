"""`Condition…=` and `Assert…=`: what is asked, answered from an injected view of the system (spec supervisor
1.6).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from holdfast.service.settings import Condition
from holdfast.service.values import parse_boolean, parse_size


@dataclass(frozen=True, slots=True)
class View:
    """What conditions look at. `path(what, path)`: `exists`, `glob`, `directory`, `symlink`, `mount-point`,
    `read-write`, `nonempty-directory`, `nonempty-file`, `executable`, `needs-update`.
    """

    path: Callable[[str, str], bool]
    user: str = "root"
    uid: int = 0
    groups: frozenset[str] = frozenset({"root", "0"})
    """Names and numbers."""
    host_name: str = ""
    machine_id: str = ""
    kernel_command_line: tuple[str, ...] = ()
    kernel_release: str = ""
    virtualization: str = ""
    """A technology's word, empty for none."""
    is_container: bool = False
    private_users: bool = False
    architecture: str = ""
    firmware: frozenset[str] = frozenset()
    security: frozenset[str] = frozenset()
    capabilities: frozenset[str] = frozenset()
    """`CAP_…` in the bounding set."""
    on_ac_power: bool = True
    first_boot: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    controllers: frozenset[str] = frozenset()
    """cgroup controllers, and `v1` or `v2`."""
    memory: int = 0
    cpus: int = 1
    cpu_features: frozenset[str] = frozenset()
    os_release: Mapping[str, str] = field(default_factory=dict)
    version: str = "252"


class Unsupported(Exception):
    """Nobody can answer this."""


def holds(condition: Condition, view: View) -> bool:
    """Whether a condition is true, `!` included. Unsupported."""
    test = _TESTS.get(condition.kind)
    if test is None:
        raise Unsupported(f"{condition.kind}= is not supported")
    try:
        return test(condition.argument, view) != condition.negate
    except ValueError as error:
        raise Unsupported(f"{condition}: {error}") from None


def answer(condition: Condition, asserted: bool, view: View, warn: Callable[[str], None]) -> bool:
    """As `holds`; what nobody can answer is true for a condition, with a warning, and false for an assert."""
    try:
        return holds(condition, view)
    except Unsupported as error:
        warn(f"{error}, treated as {'failed' if asserted else 'met'}")
        return not asserted


def _path(what: str) -> Callable[[str, View], bool]:
    return lambda argument, view: view.path(what, argument)


def _user(argument: str, view: View) -> bool:
    if argument == "@system":
        return view.uid < 1000
    return argument in (view.user, str(view.uid))


def _host(argument: str, view: View) -> bool:
    return argument.lower() == view.machine_id or fnmatch.fnmatchcase(view.host_name, argument)


def _command_line(argument: str, view: View) -> bool:
    words = view.kernel_command_line
    if "=" in argument:
        return argument in words
    return any(word == argument or word.startswith(argument + "=") for word in words)


_OPERATORS: Final[tuple[tuple[str, Callable[[int], bool]], ...]] = (
    ("<=", lambda sign: sign <= 0),
    (">=", lambda sign: sign >= 0),
    ("!=", lambda sign: sign != 0),
    ("<", lambda sign: sign < 0),
    (">", lambda sign: sign > 0),
    ("=", lambda sign: sign == 0),
)


def compare_versions(first: str, second: str) -> int:
    """Below, at or above 0. Numbers as numbers, letters as text; `~` is before everything, the end included."""
    one, other = (re.findall(r"[0-9]+|[A-Za-z]+|~|[-.^+]", text) for text in (first, second))
    while one or other:
        left = one.pop(0) if one else ""
        right = other.pop(0) if other else ""
        left_key, right_key = _version_key(left), _version_key(right)
        if left_key != right_key:
            return -1 if left_key < right_key else 1
    return 0


def _version_key(part: str) -> tuple[int, int, str]:
    if part.isdecimal():
        return 4, int(part), ""
    rank = {"~": 0, "": 1, "-": 2, "^": 2, ".": 2, "+": 2}.get(part, 3)
    return rank, 0, part


def _kernel_version(argument: str, view: View) -> bool:
    """Several expressions are all to be true; a blank may follow the operator."""
    for word in re.sub(r"([<>=!]=?)\s+", r"\1", argument).split():
        for operator, accepts in _OPERATORS:
            if word.startswith(operator):
                wanted = word[len(operator) :].lstrip("=")
                if not accepts(compare_versions(view.kernel_release, wanted)):
                    return False
                break
        else:
            if not fnmatch.fnmatchcase(view.kernel_release, word):
                return False
    return True


def _number(text: str, actual: int, parse: Callable[[str], int]) -> bool:
    text = text.strip()
    for operator, accepts in _OPERATORS:
        if text.startswith(operator):
            return accepts(actual - parse(text[len(operator) :].strip()))
    return actual >= parse(text)


def _virtualization(argument: str, view: View) -> bool:
    if argument == "private-users":
        return view.private_users
    if argument == "vm":
        return bool(view.virtualization) and not view.is_container
    if argument == "container":
        return bool(view.virtualization) and view.is_container
    try:
        return parse_boolean(argument) == bool(view.virtualization)
    except ValueError:
        return argument == view.virtualization


def _environment(argument: str, view: View) -> bool:
    name, equals, value = argument.partition("=")
    return view.environment.get(name) == value if equals else name in view.environment


def _controllers(argument: str, view: View) -> bool:
    return set(argument.split()) <= view.controllers


def _os_release(argument: str, view: View) -> bool:
    for word in argument.split():
        match = re.fullmatch(r"([A-Z0-9_]+)(<=|>=|!=|<|>|=)(.*)", word)
        if match is None:
            raise ValueError(f"{word!r} is no comparison")
        actual, wanted = view.os_release.get(match[1], ""), match[3].strip("\"'")
        if match[2] in ("=", "!="):
            accepted = (actual == wanted) == (match[2] == "=")
        else:
            accepted = dict(_OPERATORS)[match[2]](compare_versions(actual, wanted))
        if not accepted:
            return False
    return True


_TESTS: Final[Mapping[str, Callable[[str, View], bool]]] = {
    "PathExists": _path("exists"),
    "PathExistsGlob": _path("glob"),
    "PathIsDirectory": _path("directory"),
    "PathIsSymbolicLink": _path("symlink"),
    "PathIsMountPoint": _path("mount-point"),
    "PathIsReadWrite": _path("read-write"),
    "DirectoryNotEmpty": _path("nonempty-directory"),
    "FileNotEmpty": _path("nonempty-file"),
    "FileIsExecutable": _path("executable"),
    "NeedsUpdate": _path("needs-update"),
    "PathIsEncrypted": lambda argument, view: False,
    "Credential": lambda argument, view: False,
    "User": _user,
    "Group": lambda argument, view: argument in view.groups,
    "Host": _host,
    "KernelCommandLine": _command_line,
    "KernelVersion": _kernel_version,
    "Virtualization": _virtualization,
    "Architecture": lambda argument, view: argument in ("native", view.architecture),
    "Firmware": lambda argument, view: argument in view.firmware,
    "Security": lambda argument, view: argument in view.security,
    "Capability": lambda argument, view: argument.upper() in view.capabilities,
    "ACPower": lambda argument, view: parse_boolean(argument) == view.on_ac_power,
    "FirstBoot": lambda argument, view: parse_boolean(argument) == view.first_boot,
    "Environment": _environment,
    "ControlGroupController": _controllers,
    "Memory": lambda argument, view: _number(argument, view.memory, parse_size),
    "CPUs": lambda argument, view: _number(argument, view.cpus, int),
    "CPUFeature": lambda argument, view: argument in view.cpu_features,
    "OSRelease": _os_release,
}


def unmet(conditions: tuple[Condition, ...], test: Callable[[Condition], bool]) -> Condition | None:
    """None: they hold; else the one to blame. All that do not trigger, and one of the triggering ones if any."""
    for one in conditions:
        if not one.trigger and not test(one):
            return one
    triggers = [one for one in conditions if one.trigger]
    if triggers and not any(test(one) for one in triggers):
        return triggers[0]
    return None
