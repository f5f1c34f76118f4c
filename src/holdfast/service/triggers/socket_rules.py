"""A socket unit: listens for a service that need not run yet (spec supervisor 4.3)."""

from __future__ import annotations

import collections
from typing import ClassVar, Final

from holdfast.service.commands import Command
from holdfast.service.events import (
    Answer,
    Elapsed,
    Exited,
    Kill,
    Role,
    Spawn,
    Spawned,
    SpawnFailed,
    Start,
    State,
    Stop,
)
from holdfast.service.exit_status import Code, Result
from holdfast.service.limits import StartLimit
from holdfast.service.names import UnitName
from holdfast.service.settings import UnitFile
from holdfast.service.triggers.machine import TriggerMachine, common
from holdfast.service.triggers.messages import (
    Accepted,
    Activate,
    Close,
    Disconnected,
    Drop,
    Incoming,
    NotActivated,
    Open,
    Opened,
    OpenFailed,
    Poll,
    Serve,
    Triggered,
)
from holdfast.timespan import INFINITY

SIGTERM: Final = 15
SIGKILL: Final = 9
_COMMANDS: Final = (State.START_PRE, State.START_POST, State.STOP_PRE, State.STOP_POST)
_UP: Final = (State.LISTENING, State.RUNNING)
_ENDING: Final = (State.STOP_PRE, State.STOP_POST, State.FINAL_SIGTERM, State.FINAL_SIGKILL)


class SocketMachine(TriggerMachine):
    """dead, start-pre, start-post, listening, running, stop-pre, stop-post, final-*, failed."""

    handlers: ClassVar = {
        **common((State.DEAD, State.FAILED), _UP),
        (State.START_PRE, Start): "starting",
        (State.START_POST, Start): "starting",
        (State.START_PRE, Stop): "stop_starting",
        (State.START_POST, Stop): "stop_starting",
        **{(state, Start): "again" for state in _ENDING},
        **{(state, Stop): "stopping" for state in _ENDING},
        **{(state, Spawned): "spawned" for state in _COMMANDS},
        **{(state, SpawnFailed): "spawn_failed" for state in _COMMANDS},
        **{(state, Exited): "exited" for state in (*_COMMANDS, State.FINAL_SIGTERM, State.FINAL_SIGKILL)},
        **{(state, Elapsed): "elapsed" for state in (*_COMMANDS, State.FINAL_SIGTERM, State.FINAL_SIGKILL)},
        (State.START_PRE, Opened): "opened",
        (State.START_PRE, OpenFailed): "open_failed",
        (State.LISTENING, Incoming): "incoming",
        **{(state, Accepted): "accepted" for state in _UP},
        **{(state, Disconnected): "disconnected" for state in State},
        **{(state, Triggered): "other_changed" for state in State},
        (State.RUNNING, NotActivated): "not_activated",
    }

    def __init__(self, file: UnitFile, triggered: str) -> None:
        super().__init__(file, triggered)
        assert file.socket is not None
        self.socket = file.socket
        self._triggers = StartLimit(self.socket.trigger_limit_interval_sec, self.socket.trigger_limit_burst)
        self._commands: collections.deque[Command] = collections.deque()
        self._pid = 0
        self.accepted_count = 0
        self.connections: dict[str, int] = {}
        """Now, by source."""

    @property
    def connection_count(self) -> int:
        return sum(self.connections.values())

    # Starting.

    def start(self, event: Start) -> None:
        if self.triggered and not self.other.is_down:
            # It runs without the sockets; they could not be handed over.
            self.log(f"Socket service {self.triggered} already active, refusing.", 4)
            self.actions.append(Answer("limited"))
            return
        if not self.may_start():
            return
        self.accepted_count = 0
        self._run(State.START_PRE, self.socket.exec_start_pre)

    def starting(self, event: Start) -> None:
        self.actions.append(Answer("running"))

    def again(self, event: Start) -> None:
        self.actions.append(Answer("again"))

    def _run(self, state: State, commands: tuple[Command, ...]) -> None:
        self._commands = collections.deque(commands)
        self.enter(state)
        self._next_command()

    def _next_command(self) -> None:
        self._pid = 0
        if self._commands:
            roles = {
                State.START_PRE: Role.START_PRE,
                State.START_POST: Role.START_POST,
                State.STOP_PRE: Role.STOP_PRE,
                State.STOP_POST: Role.STOP_POST,
            }
            self.deadline = self._timeout()
            self.actions.append(Spawn(roles[self.state], self._commands[0], main=False))
            return
        self.deadline = INFINITY
        if self.state is State.START_PRE:
            self.actions.append(Open())
        elif self.state is State.START_POST:
            self._listen(first=True)
        elif self.state is State.STOP_PRE:
            self.actions.append(Close(self.socket.remove_on_stop))
            self._run(State.STOP_POST, self.socket.exec_stop_post)
        else:
            self.end()

    def _timeout(self) -> int:
        return self.now + self.socket.timeout_sec if self.socket.timeout_sec not in (0, INFINITY) else INFINITY

    def spawned(self, event: Spawned) -> None:
        self._pid = event.pid

    def spawn_failed(self, event: SpawnFailed) -> None:
        self.log(f"Failed to run '{self.state.value}' task: {event.reason}", 4)
        self._command_failed(Result.RESOURCES)

    def exited(self, event: Exited) -> None:
        if event.pid != self._pid:
            return
        if self.state in (State.FINAL_SIGTERM, State.FINAL_SIGKILL):
            self._pid = 0
            self.end()
            return
        death = event.death
        if (death.code is Code.EXITED and death.status == 0) or self._commands[0].ignore_failure:
            self._commands.popleft()
            self._next_command()
            return
        self.log(f"Control process exited, {death}", 5)
        self._command_failed(Result.EXIT_CODE if death.code is Code.EXITED else Result.SIGNAL)

    def _command_failed(self, result: Result) -> None:
        self.fail(result)
        self._commands.clear()
        if self.state in (State.START_PRE, State.START_POST):
            self._begin_end()
        else:
            self._next_command()

    def elapsed(self, event: Elapsed) -> None:
        if self.now < self.deadline:
            return
        self.fail(Result.TIMEOUT)
        if self.state is State.FINAL_SIGKILL:
            self.log("Processes still around after SIGKILL. Entering failed mode.", 4)
            self.end()
            return
        state, signal = State.FINAL_SIGTERM, SIGTERM
        if self.state is State.FINAL_SIGTERM:
            state, signal = State.FINAL_SIGKILL, SIGKILL
        else:
            self.actions.append(Close(self.socket.remove_on_stop))
        self.log(f"{self.state.value.capitalize()} command timed out. Terminating.", 4)
        self._commands.clear()
        self.actions.append(Kill(frozenset({self._pid}), signal))
        self.enter(state)
        self.deadline = self._timeout()

    def opened(self, event: Opened) -> None:
        self._run(State.START_POST, self.socket.exec_start_post)

    def open_failed(self, event: OpenFailed) -> None:
        self.log(f"Failed to create listening socket: {event.reason}", 3)
        self.fail(Result.RESOURCES)
        self.end()

    def _listen(self, first: bool = False) -> None:
        self.enter(State.LISTENING)
        self.actions.append(Poll(True, flush=not first and self.socket.flush_pending))

    # Stopping.

    def stop_starting(self, event: Stop) -> None:
        self.actions.append(Answer("running"))
        if self._pid:
            self.actions.append(Kill(frozenset({self._pid}), SIGTERM))
        self._begin_end()

    def stop(self, event: Stop) -> None:
        self.actions.append(Answer("running"))
        self._begin_end()

    def stopping(self, event: Stop) -> None:
        self.actions.append(Answer("running"))

    def _begin_end(self) -> None:
        self.actions.append(Poll(False))
        self._run(State.STOP_PRE, self.socket.exec_stop_pre)

    # Connections.

    def incoming(self, event: Incoming) -> None:
        if self._refuses():
            return
        self.actions.append(Poll(False))
        self.enter(State.RUNNING)
        if self.other.is_down:
            self.actions.append(Activate(self.triggered))

    def _refuses(self) -> bool:
        if self._triggers.allow(self.now):
            return False
        self.log("Trigger limit hit, refusing further activation.", 4)
        self.fail(Result.TRIGGER_LIMIT_HIT)
        self._begin_end()
        return True

    def accepted(self, event: Accepted) -> None:
        if self._refuses():
            self.actions.append(Drop(event.connection))
            return
        limit, per_source = self.socket.max_connections, self.socket.max_connections_per_source
        of_source = self.connections.get(event.source, 0)
        if self.connection_count >= limit or (per_source and of_source >= per_source):
            which = f"connections ({self.connection_count})"
            if self.connection_count < limit:
                which = f"incoming connections ({of_source}) from source {event.source}"
            self.log(f"Too many {which}, dropping connection.", 4)
            self.actions.append(Drop(event.connection))
            return
        instance = f"{self.accepted_count}-{event.peer}"
        self.accepted_count += 1
        self.connections[event.source] = of_source + 1
        own = self.file.name
        unit = str(UnitName.parse(f"{own.without_type}@{instance}.service"))
        self.actions.append(Serve(event.connection, unit, event.source, event.variables))

    def disconnected(self, event: Disconnected) -> None:
        left = self.connections.get(event.source, 0) - 1
        if left > 0:
            self.connections[event.source] = left
        else:
            self.connections.pop(event.source, None)

    def other_changed(self, event: Triggered) -> None:
        self.other = event.active
        if self.socket.accept:
            return
        if event.limited and self.state in _UP:
            self.fail(Result.SERVICE_START_LIMIT_HIT)
            self._begin_end()
        elif event.active.is_down and self.state is State.RUNNING:
            self._listen()
        elif not event.active.is_down and self.state is State.LISTENING:
            self.actions.append(Poll(False))
            self.enter(State.RUNNING)

    def not_activated(self, event: NotActivated) -> None:
        self.log(f"Failed to queue service startup job: {event.reason}", 4)
        self.fail(Result.RESOURCES)
        self._begin_end()
