"""Names of units in requests."""

from __future__ import annotations

from holdfast.service.control.wire import ControlError
from holdfast.service.install import InstallError
from holdfast.service.manager.manager import Manager
from holdfast.service.names import UnitNameError, mangle


def checked_name(text: str) -> str:
    """A unit's name. ControlError."""
    try:
        return mangle(text)
    except (UnitNameError, InstallError) as error:
        raise ControlError("bad-name", f"{text}: {error}") from None


def loaded(manager: Manager, unit: str, failed: str) -> str:
    """The name of a unit that is loaded. ControlError: it is not; `failed` begins its text."""
    name = manager.core.graph.resolve(checked_name(unit))
    if name not in manager.core.graph.units:
        raise ControlError("not-found", f"{failed}: Unit {name} not loaded.")
    return name
