"""What `list-timers`, `list-sockets` and `list-paths` are made of: plain data, taken in one go (spec 13.2).

Times are microseconds of the wall clock, None for never.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from holdfast.service.manager.manager import Manager
from holdfast.service.settings import UnitFile
from holdfast.service.triggers.timer_rules import TimerMachine


def timers(manager: Manager) -> list[dict[str, Any]]:
    """One row per timer, the next one first; those that wait for nothing come last."""
    rows = []
    now = manager.now()
    for row, name, _ in _units(manager, "timer"):
        machine = manager.core.triggers.get(name)
        known = machine if isinstance(machine, TimerMachine) else None
        row["next"] = (known.next_elapse(now) or None) if known else None
        row["last"] = (known.last_trigger_wall or None) if known else None
        rows.append(row)
    return sorted(rows, key=lambda row: (row["next"] is None, row["next"] or 0, row["unit"]))


def sockets(manager: Manager) -> list[dict[str, Any]]:
    """One row per address, in their order."""
    rows = []
    for row, _, file in _units(manager, "socket"):
        assert file.socket is not None
        rows += [{"listen": one.address, "type": one.kind} | row for one in file.socket.listen]
    return sorted(rows, key=lambda row: (row["listen"], row["type"], row["unit"]))


def paths(manager: Manager) -> list[dict[str, Any]]:
    """One row per path that is looked at, in their order."""
    rows = []
    for row, _, file in _units(manager, "path"):
        assert file.path is not None
        rows += [{"path": one.value, "condition": one.kind} | row for one in file.path.watches]
    return sorted(rows, key=lambda row: (row["path"], row["condition"], row["unit"]))


def _units(manager: Manager, type_: str) -> Iterator[tuple[dict[str, Any], str, UnitFile]]:
    """What all rows have, the name, the file: of each loaded unit of a type."""
    core = manager.core
    for name, unit in sorted(core.graph.units.items()):
        if unit.type == type_ and unit.file is not None and not unit.file.refusal:
            row = {
                "unit": name,
                "activates": sorted(core.graph.of(name, "Triggers")),
                "active": core.active(name).value,
            }
            yield row, name, unit.file
