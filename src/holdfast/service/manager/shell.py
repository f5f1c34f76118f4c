"""The manager's hands: the hosts of processes and of triggers, and what they ask one another."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from holdfast.service.events import Event
from holdfast.service.manager.hosts import Host, Triggers
from holdfast.service.manager.manager import Manager
from holdfast.service.manager.options import NOTIFY_NAME, ManagerOptions, StartError
from holdfast.service.process import record
from holdfast.service.process.host import HostSettings, ProcessHost
from holdfast.service.process.output import Line
from holdfast.service.triggers.host import TriggerHost
from holdfast.service.triggers.messages import Serve


class Shell:
    """Of one manager; what it makes is closed by the manager."""

    def __init__(self, options: ManagerOptions, environment: Mapping[str, str]) -> None:
        """`environment`: of all services; looked at when each process is started."""
        self._options = options
        self._environment = environment
        self._manager: Manager | None = None
        self._processes: ProcessHost | None = None
        self._triggers: TriggerHost | None = None

    def make_host(self, deliver: Callable[[str, Event], None]) -> Host:
        """Who starts, signals and watches processes. StartError."""
        settings = HostSettings(
            notify_socket=os.path.join(self._options.run_dir, NOTIFY_NAME),
            environment=self._environment,
            record=os.path.join(self._options.run_dir, record.NAME),
            log=self._log,
            output=self._output,
            sockets=self._sockets,
            variables=self._variables,
        )
        try:
            self._processes = ProcessHost(deliver, settings)
        except OSError as error:
            raise StartError(f"{settings.notify_socket}: {error.strerror}") from error
        return self._processes

    def make_triggers(self, manager: Manager) -> Triggers:
        """Who listens and watches."""

        def serve(unit: str, action: Serve) -> None:
            manager.serve(action.unit)

        self._triggers = TriggerHost(manager.deliver_trigger, serve)
        return self._triggers

    async def start(self, manager: Manager) -> None:
        """Before the first unit. StartError."""
        assert self._processes is not None
        self._manager = manager
        manager.watch(self._when_idle)
        try:
            await self._processes.start()
        except OSError as error:
            raise StartError(f"the forker: {error}") from error

    def _when_idle(self) -> None:
        """Type=idle: with the last job done, its processes may begin."""
        if self._processes is not None and self._manager is not None and not len(self._manager.core.jobs):
            self._processes.release_idle()

    def _log(self, unit: str, text: str, level: int) -> None:
        if self._manager is not None:
            self._manager.say(unit, text, level)

    def _output(self, line: Line) -> None:
        if self._manager is not None:
            text = f"{line.identifier}[{line.pid}]: {line.text}"
            self._manager.heard(line.unit, text, line.priority)

    def _sockets(self, unit: str) -> Sequence[tuple[str, int]]:
        """Names and descriptors for a service."""
        if self._triggers is None or self._manager is None:
            return ()
        graph = self._manager.core.graph
        file = graph.unit(unit).file
        own = file.service.sockets if file is not None and file.service is not None else ()
        triggers = (one for one in graph.of(unit, "TriggeredBy") if one.endswith(".socket"))
        return self._triggers.descriptors(unit, dict.fromkeys((*own, *triggers)))

    def _variables(self, unit: str) -> Mapping[str, str]:
        """What only the shell knows of the unit that this one follows on."""
        if self._manager is None or self._processes is None:
            return {}
        ended = self._manager.core.variables(unit).get("MONITOR_UNIT", "")
        invocation = self._processes.invocation_id(ended) if ended else ""
        return {"MONITOR_INVOCATION_ID": invocation} if invocation else {}
