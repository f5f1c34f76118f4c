"""Loaded units and the dependencies between them: explicit, implicit, default, inverse (spec supervisor 5.1,
5.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from holdfast.service.names import UnitName, escape_path
from holdfast.service.settings import UnitFile

INVERSE: Final = {
    "Requires": "RequiredBy",
    "Wants": "WantedBy",
    "Requisite": "RequisiteOf",
    "BindsTo": "BoundBy",
    "PartOf": "ConsistsOf",
    "Upholds": "UpheldBy",
    "Conflicts": "ConflictedBy",
    "Before": "After",
    "After": "Before",
    "OnFailure": "OnFailureOf",
    "OnSuccess": "OnSuccessOf",
    "PropagatesReloadTo": "ReloadPropagatedFrom",
    "ReloadPropagatedFrom": "PropagatesReloadTo",
    "PropagatesStopTo": "StopPropagatedFrom",
    "StopPropagatedFrom": "PropagatesStopTo",
    "JoinsNamespaceOf": "JoinsNamespaceOf",
    "Triggers": "TriggeredBy",
}
"""Each kind, and what the other unit has for it."""

BUILT_IN_TARGETS: Final = tuple(
    f"{name}.target"
    for name in (
        "sysinit", "basic", "multi-user", "graphical", "default", "sockets", "timers", "paths", "shutdown",
        "reboot", "poweroff", "halt", "kexec", "exit", "network", "network-online", "network-pre", "local-fs",
        "remote-fs",
        "nss-lookup", "nss-user-lookup", "time-set", "time-sync", "syslog", "umount", "rescue", "emergency",
        "final", "getty",
    )
)  # fmt: skip
"""Empty targets that exist without a file."""

BUILT_IN_TEXTS: Final[Mapping[str, str]] = {
    "default.target": "[Unit]\nRequires=multi-user.target\nAfter=multi-user.target\nAllowIsolate=yes\n",
    "multi-user.target": "[Unit]\nRequires=basic.target\nAfter=basic.target\nAllowIsolate=yes\n",
    "graphical.target": "[Unit]\nRequires=multi-user.target\nAfter=multi-user.target\nAllowIsolate=yes\n",
    "basic.target": "[Unit]\nRequires=sysinit.target\nWants=sockets.target timers.target paths.target\n"
    "After=sysinit.target sockets.target paths.target\n",
    "rescue.target": "[Unit]\nRequires=sysinit.target\nAfter=sysinit.target\nAllowIsolate=yes\n",
    "emergency.target": "[Unit]\nAllowIsolate=yes\n",
    "shutdown.target": "[Unit]\nDefaultDependencies=no\nRefuseManualStart=yes\n",
    "umount.target": "[Unit]\nDefaultDependencies=no\nRefuseManualStart=yes\n",
    "final.target": "[Unit]\nDefaultDependencies=no\nRefuseManualStart=yes\nAfter=shutdown.target umount.target\n",
} | {
    f"{kind}.target": "[Unit]\nDefaultDependencies=no\nRequires=shutdown.target umount.target final.target\n"
    "After=shutdown.target umount.target final.target\nAllowIsolate=yes\n"
    for kind in ("reboot", "poweroff", "halt", "kexec", "exit")
}
"""What built-in targets say; those that are not here say nothing."""

MANAGERS_TARGETS: Final = frozenset(
    f"{name}.target"
    for name in (
        "sysinit", "local-fs", "local-fs-pre", "swap", "cryptsetup", "cryptsetup-pre", "veritysetup",
        "integritysetup", "shutdown", "umount", "final", "reboot", "poweroff", "halt", "kexec", "exit",
    )
)  # fmt: skip
"""Where somebody else has booted the machine, these are the built-in ones whatever files say: nobody wants udev
started once more because a daemon requires sysinit.target, or systemctl as the last step of a shutdown.
"""

SYSTEMDS_UNITS: Final = frozenset(
    (
        "systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket",
        "systemd-journald-audit.socket", "systemd-journal-flush.service", "systemd-udevd.service",
        "systemd-udevd-control.socket", "systemd-udevd-kernel.socket", "systemd-udev-trigger.service",
        "systemd-initctl.service", "systemd-initctl.socket", "systemd-logind.service",
    )
)  # fmt: skip
"""Parts of systemd itself, which packages want and which fail without it; there neither."""

IGNORED_ON_ISOLATE: Final = frozenset(("mount", "device", "swap", "slice", "scope"))


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as loaded. `load_state`: `loaded`, `not-found`, `masked`, `bad-setting` or `error`."""

    name: str
    load_state: str = "loaded"
    file: UnitFile | None = None
    wants: tuple[str, ...] = ()
    """From `.wants/` directories."""
    requires: tuple[str, ...] = ()
    upholds: tuple[str, ...] = ()

    @property
    def type(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def ignores_isolate(self) -> bool:
        own = self.file.unit.ignore_on_isolate if self.file else None
        return self.type in IGNORED_ON_ISOLATE if own is None else own


class Graph:
    """Units by name, and their dependencies in both directions, each in the order in which it was found."""

    def __init__(
        self,
        units: Mapping[str, Unit],
        aliases: Mapping[str, str] | None = None,
        defaults: bool = True,
        user: bool = False,
    ) -> None:
        """`units`: all that may be asked for; names that are missing are `not-found`. `defaults`: default
        dependencies too (only on units that exist).
        """
        self.units: dict[str, Unit] = {}
        self.warnings: list[str] = []
        self._defaults = defaults
        self._user = user
        self.aliases: dict[str, str] = {}
        self._edges: dict[str, dict[str, dict[str, None]]] = {}
        self.add(units.values(), aliases or {})

    def add(self, units: Iterable[Unit], aliases: Mapping[str, str]) -> None:
        """More units, none of which is there yet, with all that they refer to. Targets that default dependencies
        name must be there before, or be among them.
        """
        added = list(units)
        self.units.update((unit.name, unit) for unit in added)
        self.aliases.update(aliases)
        for unit in added:
            for kind, other in self._own(unit):
                self._add(unit.name, kind, self.resolve(other))
        if not self._defaults:
            return
        for unit in added:
            for kind, other in default_dependencies(unit, self._user):
                if other in self.units:
                    self._add(unit.name, kind, other)
        for unit in added:
            if unit.type == "target" and unit.file and unit.file.unit.default_dependencies:
                self._order_target(unit.name)

    def remove(self, name: str) -> None:
        """A unit is unloaded, with its dependencies in both directions."""
        del self.units[name]
        for kind, others in self._edges.pop(name, {}).items():
            inverse = INVERSE.get(kind)
            for other in others if inverse else ():
                self._edges.get(other, {}).get(inverse or "", {}).pop(name, None)

    def aliases_of(self, name: str) -> list[str]:
        """Other names of a unit."""
        return [alias for alias, own in self.aliases.items() if own == name]

    def kinds(self, name: str) -> Iterable[str]:
        """The kinds of dependencies that a unit has."""
        return self._edges.get(name, {}).keys()

    def resolve(self, name: str) -> str:
        """The unit that a name or alias means."""
        return self.aliases.get(name, name)

    def unit(self, name: str) -> Unit:
        """A unit, `not-found` when nobody knows it."""
        name = self.resolve(name)
        return self.units.get(name) or Unit(name, "not-found")

    def of(self, name: str, kind: str) -> tuple[str, ...]:
        """The units that `name` has in a dependency, inverse kinds included."""
        return tuple(self._edges.get(name, {}).get(kind, ()))

    def _own(self, unit: Unit) -> Iterator[tuple[str, str]]:
        if unit.file is not None:
            for kind, others in unit.file.unit.dependencies.items():
                for other in others:
                    if other == unit.name and kind in ("After", "Before"):
                        self.warnings.append(f"{unit.name}: Dependency {kind}={other} is dropped.")
                    elif other != unit.name or kind in ("OnFailure", "OnSuccess"):
                        yield kind, other
            for kind, other in implicit_dependencies(unit.file):
                if other != unit.name:
                    yield kind, other
        for kind, names in (("Wants", unit.wants), ("Requires", unit.requires), ("Upholds", unit.upholds)):
            for other in names:
                yield kind, other

    def _add(self, name: str, kind: str, other: str) -> None:
        self._edges.setdefault(name, {}).setdefault(kind, {})[other] = None
        inverse = INVERSE.get(kind)
        if inverse:
            self._edges.setdefault(other, {}).setdefault(inverse, {})[name] = None

    def _order_target(self, name: str) -> None:
        """A target comes after what it pulls in, unless that has no default dependencies or comes after it."""
        for kind in ("Wants", "Requires", "Requisite", "BindsTo", "Upholds"):
            for other in self.of(name, kind):
                file = self.unit(other).file
                if file is None or not file.unit.default_dependencies or other in self.of(name, "Before"):
                    continue
                self._add(name, "After", other)


def implicit_dependencies(file: UnitFile) -> Iterator[tuple[str, str]]:
    """What a unit's own settings bring with them, default dependencies or not."""
    triggered = triggered_unit(file)
    if triggered:
        yield "Triggers", triggered
        yield "Before", triggered
    if file.service is not None:
        for socket in file.service.sockets:
            yield "Wants", socket
            yield "After", socket
        if file.service.type == "dbus":
            yield "Requires", "dbus.socket"
            yield "After", "dbus.socket"
    outputs = (file.exec.standard_output, file.exec.standard_error)
    if file.service is not None and any(_logs(output) for output in outputs):
        yield "After", "systemd-journald.socket"
    yield from _slice_dependencies(file)
    for path in file.unit.requires_mounts_for:
        for mount in mounts_of(path):
            yield "After", mount


def _logs(output: str) -> bool:
    return output.partition("+")[0] in ("", "journal", "syslog", "kmsg")


def _slice_dependencies(file: UnitFile) -> Iterator[tuple[str, str]]:
    if file.service is None and file.socket is None:
        return
    slice_ = file.exec.slice
    if not slice_ and file.name.is_instance:
        slice_ = _instance_slice(file.name)
    if file.unit.default_dependencies or slice_:
        yield "Requires", slice_ or "system.slice"
        yield "After", slice_ or "system.slice"


def _instance_slice(name: UnitName) -> str:
    return "system-" + name.prefix.replace("-", "\\x2d") + ".slice"


def triggered_unit(file: UnitFile) -> str:
    """What a socket, timer or path starts; empty: nothing, or a new instance for each connection."""
    stem = file.name.without_type
    if file.socket is not None:
        return "" if file.socket.accept else file.socket.service or f"{stem}.service"
    if file.timer is not None:
        return file.timer.unit or f"{stem}.service"
    if file.path is not None:
        return file.path.unit or f"{stem}.service"
    return ""


def mounts_of(path: str) -> list[str]:
    """The mount units that a path may need, from the root on."""
    parts = [part for part in path.split("/") if part]
    return [f"{escape_path('/' + '/'.join(parts[:count]))}.mount" for count in range(len(parts) + 1)]


_DEFAULTS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "service": (("Requires", "sysinit"), ("After", "sysinit"), ("After", "basic")),
    "socket": (("Before", "sockets"), ("Requires", "sysinit"), ("After", "sysinit")),
    "timer": (("Before", "timers"), ("Requires", "sysinit"), ("After", "sysinit")),
    "path": (("Before", "paths"), ("Requires", "sysinit"), ("After", "sysinit")),
    "target": (),
}


def default_dependencies(unit: Unit, user: bool = False) -> Iterator[tuple[str, str]]:
    """With `DefaultDependencies=yes` (5.2)."""
    if unit.file is None or not unit.file.unit.default_dependencies or unit.type not in _DEFAULTS:
        return
    for kind, target in _DEFAULTS[unit.type]:
        yield kind, f"{'basic' if user else target}.target" if target == "sysinit" else f"{target}.target"
    if unit.file.timer is not None and any(one.kind == "OnCalendar" for one in unit.file.timer.triggers):
        yield "After", "time-set.target"
        yield "After", "time-sync.target"
    yield "Conflicts", "shutdown.target"
    yield "Before", "shutdown.target"
