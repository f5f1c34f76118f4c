"""Requests that set something that stays: the environment, properties of units; and `clean` (spec 13.2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from holdfast.service.control import changes
from holdfast.service.control.units import checked_name, loaded
from holdfast.service.control.wire import ControlError, Request
from holdfast.service.manager.manager import Manager

Reply = dict[str, Any]
Handlers = dict[str, Callable[[Request], Awaitable[Reply]]]


class SettingVerbs:
    """Of one manager."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager
        self.changing: Handlers = {
            "set-environment": self._set_environment,
            "unset-environment": self._set_environment,
            "set-property": self._set_property,
            "clean": self._clean,
        }
        """Root's."""
        self.reading: Handlers = {"show-environment": self._show_environment}

    async def _set_environment(self, request: Request) -> Reply:
        environment = self.manager.environment
        adds = request.verb == "set-environment"
        try:
            (environment.set if adds else environment.unset)(request.assignments)
        except ValueError as error:
            raise ControlError("request", f"Failed to {'set' if adds else 'unset'} environment: {error}") from None
        return {"ok": True}

    async def _set_property(self, request: Request) -> Reply:
        """Drop-ins are written, all files are read again; what runs gets its new limits."""
        if len(request.units) != 1 or not request.assignments:
            raise ControlError("request", "Too few arguments.")
        name = checked_name(request.units[0])
        await self.manager.ensure([name])
        name = self.manager.core.graph.resolve(name)
        failed = f"Failed to set unit properties on {name}"
        unit = self.manager.core.graph.unit(name)
        if unit.file is None or unit.load_state in ("not-found", "masked"):
            kind = "not-found" if unit.load_state == "not-found" else "masked"
            raise ControlError(
                kind, f"{failed}: Unit {name} {'not found' if kind == 'not-found' else 'is masked'}."
            )
        loader = self.manager.loader
        try:
            pieces = [changes.piece_of(unit.file.name, one) for one in request.assignments]
            for _, text in pieces:
                for complaint in loader.complaints_about(name, text):
                    raise ValueError(complaint)
        except ValueError as error:
            raise ControlError("request", f"{failed}: {error}") from None
        try:
            await loader.offload(self._write_pieces, name, pieces, request.runtime)
        except OSError as error:
            raise ControlError("failed", f"{failed}: {error.strerror}") from None
        await self.manager.reload()
        return {"ok": True, "refused": await self._renew_limits(name)}

    def _write_pieces(self, name: str, pieces: list[tuple[str, str]], runtime: bool) -> None:
        """In a thread."""
        loader = self.manager.loader
        files = loader.files()
        base = loader.control if runtime and loader.control else files.config()
        changes.write_pieces(files.at(f"{base}/{name}.d"), pieces)

    async def _renew_limits(self, name: str) -> list[str]:
        """Limits of a group that lives; the keys that this host cannot do."""
        group = self.manager.host.control_group(name)
        file = self.manager.core.graph.unit(name).file
        if group is None or file is None:
            return []
        return await self.manager.loader.offload(group[1].renew, file.exec)

    async def _clean(self, request: Request) -> Reply:
        kinds = changes.KINDS if "all" in request.what else tuple(request.what) or changes.USUAL_KINDS
        if unknown := set(kinds) - set(changes.KINDS):
            raise ControlError("request", f"Cannot clean {', '.join(sorted(unknown))}: "
                               f"known are all, {', '.join(changes.KINDS)}")  # fmt: skip
        await self.manager.ensure([checked_name(unit) for unit in request.units])
        for unit in request.units:
            failed = f"Failed to clean unit {checked_name(unit)}"
            name = loaded(self.manager, unit, failed)
            core = self.manager.core
            if self.manager.sub_state(name) != "dead" or core.jobs.get(name) is not None:
                raise ControlError("busy", f"{failed}: Unit is not inactive or has pending job.")
            file = core.graph.unit(name).file
            paths = [path for kind in kinds for path in self.manager.host.directories(file, kind)] if file else []
            if not paths:
                raise ControlError("not-found", f"{failed}: No matching resources found.")
            try:
                await self.manager.loader.offload(lambda paths: list(map(changes.remove_tree, paths)), paths)
            except OSError as error:
                raise ControlError("failed", f"{failed}: {error.filename}: {error.strerror}") from None
        return {"ok": True}

    async def _show_environment(self, request: Request) -> Reply:
        return {"environment": dict(self.manager.environment)}
