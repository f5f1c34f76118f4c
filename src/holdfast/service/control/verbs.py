"""Requests to the manager: each verb as a function (spec 13.2). What only reads is answered from one look."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

from msgspec.structs import replace

from holdfast.service import install, log_files
from holdfast.service.control import listing, properties, snapshot
from holdfast.service.control.properties import manager_properties, unit_properties, wanted
from holdfast.service.control.setting_verbs import SettingVerbs
from holdfast.service.control.units import checked_name, loaded
from holdfast.service.control.wire import ControlError, Request
from holdfast.service.jobs import JobResult, JobType
from holdfast.service.manager.emergency import Ending, How
from holdfast.service.manager.life import Life
from holdfast.service.manager.manager import Manager
from holdfast.service.transaction import TransactionError
from holdfast.version import __version__

PRIVILEGED_TEXT: Final = "Access denied: only root may do this."
JOBS: Final = {
    "start": JobType.START,
    "stop": JobType.STOP,
    "restart": JobType.RESTART,
    "try-restart": JobType.TRY_RESTART,
    "reload": JobType.RELOAD,
    "reload-or-restart": JobType.RELOAD_OR_START,
    "try-reload-or-restart": JobType.TRY_RELOAD,
    "isolate": JobType.START,
}
LISTS: Final = {"list-timers": listing.timers, "list-sockets": listing.sockets, "list-paths": listing.paths}
MAX_LOG_LINES: Final = 10_000
"""Of one answer."""
CHANGED_S: Final = 2.0
"""A disk that does not say so long whether files have changed does not keep a job's end from who waits for it."""
ENDINGS: Final = ("exit", "reboot", "poweroff", "halt", "kexec")
Reply = dict[str, Any]


class Verbs:
    """All verbs of one manager."""

    def __init__(self, manager: Manager, life: Life) -> None:
        self.manager = manager
        self.life = life
        settings = SettingVerbs(manager)
        changing: dict[str, Callable[[Request], Awaitable[Reply]]] = {
            **dict.fromkeys(JOBS, self._jobs),
            **dict.fromkeys(ENDINGS, self._end),
            "kill": self._kill,
            "reset-failed": self._reset_failed,
            "daemon-reload": self._daemon_reload,
            "cancel": self._cancel,
            "logs": self._logs,
            **settings.changing,
        }
        reading: dict[str, Callable[[Request], Awaitable[Reply]]] = {
            "show": self._show,
            "show-manager": self._show_manager,
            "status": self._status,
            "units": self._units,
            "list-jobs": self._list_jobs,
            **dict.fromkeys(LISTS, self._list),
            "dependencies": self._dependencies,
            **settings.reading,
            "ping": self._ping,
        }
        self._changing = changing
        self._reading = reading

    async def answer(self, request: Request, privileged: bool) -> Reply:
        """One request. ControlError."""
        if request.verb in self._reading:
            if not privileged:
                # What services print is theirs and root's.
                request = replace(request, lines=0)
            return await self._reading[request.verb](request)
        if request.verb == "service-watchdogs":
            return self._watchdogs(request, privileged)
        if request.verb == "log-level":
            return self._log_level(request, privileged)
        handler = self._changing.get(request.verb)
        if handler is None:
            raise ControlError("unknown-verb", f"Unknown command verb {request.verb}.")
        if not privileged:
            raise ControlError("denied", PRIVILEGED_TEXT)
        return await handler(request)

    # Jobs.

    async def _jobs(self, request: Request) -> Reply:
        if not request.units:
            raise ControlError("request", "Too few arguments.")
        names = [checked_name(unit) for unit in request.units]
        await self.manager.ensure(names)
        mode = "isolate" if request.verb == "isolate" else request.mode
        results: list[Reply] = []
        waiting: list[tuple[Reply, asyncio.Future[JobResult]]] = []
        for name in names:
            said: Reply = {"unit": self.manager.core.graph.resolve(name)}
            results.append(said)
            try:
                waiting.append((said, self._request(request.verb, name, mode)))
            except TransactionError as error:
                said["error"] = {"kind": error.kind, "text": str(error)}
        if request.wait:
            for said, job in waiting:
                result = await asyncio.shield(job)
                said["result"] = result.value
                if not result.ok:
                    said["failure"] = self._failure(said["unit"])
        resolved = [one["unit"] for one in results]
        try:
            async with asyncio.timeout(CHANGED_S):
                changed = await self.manager.loader.offload(self._changed_on_disk, resolved)
        except TimeoutError:
            changed = set()
        for said in results:
            if said["unit"] in changed:
                said["changed_on_disk"] = True
        return {"jobs": results}

    def _changed_on_disk(self, names: list[str]) -> set[str]:
        """In a thread."""
        return {name for name in names if self.manager.loader.changed_on_disk(name)}

    def _request(self, verb: str, name: str, mode: str) -> asyncio.Future[JobResult]:
        if self.life.is_ending and verb != "stop":
            raise TransactionError("refused", "The manager is ending.")
        wanted_type = JOBS[verb]
        core = self.manager.core
        unit = core.graph.resolve(name)
        if verb == "try-reload-or-restart" and not core.active(unit).is_down:
            wanted_type = JobType.RELOAD_OR_START
        return self.manager.request(unit, wanted_type, mode, by_user=True)

    def _failure(self, unit: str) -> str:
        """The service's result, for the sentence about a job that failed."""
        machine = self.manager.machine(unit)
        return machine.result.value if machine is not None else "success"

    async def _cancel(self, request: Request) -> Reply:
        core = self.manager.core
        by_id = {job.id: job for job in core.jobs}
        missing = [number for number in request.jobs if number not in by_id]
        for job in by_id.values() if not request.jobs else [by_id[one] for one in request.jobs if one in by_id]:
            self.manager.cancel(job)
        if missing:
            raise ControlError("not-found", f"Failed to cancel job {missing[0]}: Job {missing[0]} does not exist.")
        return {"ok": True}

    # Changes without a job.

    async def _kill(self, request: Request) -> Reply:
        for unit in request.units:
            name = loaded(self.manager, unit, f"Failed to kill unit {checked_name(unit)}")
            try:
                self.manager.kill(name, request.signal, request.whom)
            except ProcessLookupError as error:
                raise ControlError("no-process", f"Failed to kill unit {name}: {error}") from None
        return {"ok": True}

    async def _reset_failed(self, request: Request) -> Reply:
        for unit in request.units or list(self.manager.core.machines):
            self.manager.reset_failed(
                loaded(self.manager, unit, f"Failed to reset failed state of unit {checked_name(unit)}")
            )
        return {"ok": True}

    async def _daemon_reload(self, request: Request) -> Reply:
        await self.manager.reload()
        return {"ok": True}

    def _watchdogs(self, request: Request, privileged: bool) -> Reply:
        if request.enabled is not None:
            if not privileged:
                raise ControlError("denied", PRIVILEGED_TEXT)
            self.manager.set_watchdogs(request.enabled)
        return {"enabled": self.manager.watchdogs_enabled}

    def _log_level(self, request: Request, privileged: bool) -> Reply:
        if request.level:
            if not privileged:
                raise ControlError("denied", PRIVILEGED_TEXT)
            try:
                self.manager.log_level.set(request.level)
            except ValueError as error:
                raise ControlError("request", f"Failed to set log level: {error}") from None
        return {"level": self.manager.log_level.word}

    async def _end(self, request: Request) -> Reply:
        try:
            how = How(request.how)
        except ValueError:
            raise ControlError("request", f"how: {request.how!r} is not known") from None
        status = request.status
        if status is not None and not 0 <= status <= 255:
            raise ControlError("request", "an exit status is a number from 0 to 255")
        ending = Ending(request.verb, how, status)
        # The reply goes out first.
        asyncio.get_running_loop().call_soon(self.life.end, ending)
        return {"ok": True}

    # Reading.

    async def _show(self, request: Request) -> Reply:
        names = [checked_name(unit) for unit in request.units]
        await self.manager.ensure(names)
        found = [unit_properties(self.manager, name) for name in names]
        if not request.properties or set(request.properties) & set(snapshot.FROM_GROUP):
            of_groups = await self._of_groups([one["Id"] for one in found])
            found = [one | more for one, more in zip(found, of_groups, strict=True)]
        if not request.properties or set(request.properties) & set(snapshot.FROM_DISK):
            of_files = await self.manager.loader.offload(self._of_files, [one["Id"] for one in found])
            found = [one | more for one, more in zip(found, of_files, strict=True)]
        return {"units": [wanted(one, request.properties) for one in found]}

    async def _of_groups(self, names: list[str]) -> list[dict[str, str]]:
        """What their control groups count; nothing of units that have none."""
        groups = [self.manager.host.control_group(name) for name in names]
        if not any(groups):
            return [{} for _ in names]
        return await self.manager.loader.offload(lambda: list(map(snapshot.group_properties, groups)))

    def _of_files(self, names: list[str]) -> list[dict[str, str]]:
        """What only the disk knows. In a thread."""
        files = self.manager.loader.files()
        presets = install.read_presets(files)
        return [snapshot.file_properties(self.manager.loader, files, presets, name) for name in names]

    async def _show_manager(self, request: Request) -> Reply:
        return {"properties": wanted(manager_properties(self.manager, self._of_manager), request.properties)}

    def _of_manager(self) -> dict[str, str]:
        state = "stopping" if self.life.is_ending else snapshot.system_state(self.manager)
        return {"Version": f"holdfast {__version__}", "SystemState": state, "MainPID": str(os.getpid())}

    async def _status(self, request: Request) -> Reply:
        names = [checked_name(unit) for unit in request.units]
        await self.manager.ensure(names)
        graph = self.manager.core.graph
        resolved = [graph.resolve(name) for name in names]
        of_files = await self.manager.loader.offload(self._of_files, resolved)
        units = [snapshot.status(self.manager, name, request.lines) for name in resolved]
        of_groups = await self._of_groups(resolved)
        for one, more, counted in zip(units, of_files, of_groups, strict=True):
            one["properties"] |= more | counted
        processes = [one["pids"] for one in units]
        commands = await self.manager.loader.offload(lambda: [snapshot.command_lines(pids) for pids in processes])
        for one, lines in zip(units, commands, strict=True):
            one["processes"] = lines
        return {"units": units}

    async def _logs(self, request: Request) -> Reply:
        """From the files, which have what earlier managers have heard too."""
        store = self.manager.store
        if store is None:
            return {"lines": [], "whole": True, "units": []}
        names = [self.manager.core.graph.resolve(checked_name(unit)) for unit in request.units]
        count = max(0, min(request.lines, MAX_LOG_LINES))
        whole = await store.flush()
        found = await self.manager.loader.offload(log_files.read, store.directory, names, count, request.since)
        return {"lines": found, "whole": whole, "units": names}

    async def _units(self, request: Request) -> Reply:
        return {"units": snapshot.rows(self.manager)}

    async def _list_jobs(self, request: Request) -> Reply:
        return {
            "jobs": [
                {
                    "id": job.id,
                    "unit": job.unit,
                    "type": job.type.value,
                    "state": "running" if job.running else "waiting",
                }
                for job in self.manager.core.jobs
            ]
        }

    async def _list(self, request: Request) -> Reply:
        return {request.verb.removeprefix("list-"): LISTS[request.verb](self.manager)}

    async def _dependencies(self, request: Request) -> Reply:
        names = [checked_name(unit) for unit in request.units]
        await self.manager.ensure(names)
        kinds = request.properties or list(snapshot.FORWARD)
        if set(kinds) - set(properties.DEPENDENCIES):
            raise ControlError("request", f"kinds: known are {', '.join(properties.DEPENDENCIES)}")
        return {"tree": snapshot.dependencies(self.manager, names, kinds)}

    async def _ping(self, request: Request) -> Reply:
        return {"ok": True, "pid": os.getpid(), "version": __version__, "root": self.manager.loader.root,
                "unit_path": list(self.manager.loader.directories),
                "control": self.manager.loader.control}  # fmt: skip
