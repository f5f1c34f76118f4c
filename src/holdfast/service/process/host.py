"""The processes of all units: the rules ask, this does, and tells what happens (spec supervisor 6.6, 9, 11, 12).

    host = ProcessHost(deliver, HostSettings(notify_socket="/run/holdfast/notify"))
    host.perform(unit, file, action)      # every action; those that are nobody's process are ignored

A Spawn is answered soon, or at once if it cannot even be tried; nothing of the unit's processes but messages is
told between. What an event leads to must be carried out before `deliver` returns, or in the same turn of the loop:
a message's descriptors are kept for a StoreFds until then.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import marshal
import os
import signal
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from holdfast.daemons.processes import start_time
from holdfast.service import events
from holdfast.service.events import Event
from holdfast.service.exit_status import Exit
from holdfast.service.process import cgroups, kernel, leftovers
from holdfast.service.process.calls import Call, Calls
from holdfast.service.process.children import Child, Children
from holdfast.service.process.deaths import Deaths
from holdfast.service.process.directories import Remover
from holdfast.service.process.environment_files import MAX_WAIT_S, Found, not_read, read_files
from holdfast.service.process.fd_store import FdStore
from holdfast.service.process.forker import Forker
from holdfast.service.process.inotify import MODIFY, Inotify
from holdfast.service.process.killing import EMPTY_LOOKS, Killer
from holdfast.service.process.lineage import (
    FIRST_MARK,
    MARK_RANDOM_BITS,
    MARK_UNIT_BITS,
    children_of,
    invocation_mark,
    limit_mark,
    process_name,
    read_entry,
)
from holdfast.service.process.log_limit import LogLimit
from holdfast.service.process.notify_socket import Message, NotifySocket
from holdfast.service.process.output import Line, OutputPipe
from holdfast.service.process.pid_file import (
    PidFile,
    PidFileError,
    PidFileWatch,
    check_target,
    full_path,
    read_pid_file,
    remove_pid_file,
)
from holdfast.service.process.plan import (
    BASES,
    DEFAULT_LIMITS,
    DEFAULT_PATH,
    PlanError,
    Surroundings,
    directory_names,
    make_plan,
)
from holdfast.service.process.record import Record, run_tag
from holdfast.service.process.record import read as read_record
from holdfast.service.process.setup import ABOUT_TO_EXECUTE, IDLE_LIMIT_S
from holdfast.service.run import Members
from holdfast.service.settings import UnitFile
from holdfast.service.values import Limit
from holdfast.timespan import INFINITY, USEC_PER_SEC

log = logging.getLogger(__name__)

DEFAULT_NOTIFY_SOCKET: Final = "/run/holdfast/notify"
MAX_STATUS: Final = 4096
MAX_DEPTH: Final = 64
"""Of parents looked at for whose a process is."""
MAX_POSTPONED: Final = 256
"""Messages of a unit that wait until its new process is known; what comes after is told at once."""
MAX_LEFT_OVER: Final = 16
"""Processes of an earlier run that are named in the log."""
LAST_CALLS_S: Final = 1.0
"""For the removal of PID files at the end; those that hang are left."""
DRAIN_TURNS: Final = 16
"""Of a pipe, before a death is told: what fits into it, unless its lines are very short."""
_LEVELS: Final = {3: logging.ERROR, 4: logging.WARNING, 5: logging.INFO, 6: logging.INFO, 7: logging.DEBUG}


def _log_line(unit: str, text: str, level: int) -> None:
    log.log(_LEVELS.get(level, logging.INFO), "%s: %s", unit, text)


def _log_output(line: Line) -> None:
    log.log(
        _LEVELS.get(line.priority, logging.INFO), "%s %s[%d]: %s", line.unit, line.identifier, line.pid, line.text
    )


def _no_sockets(unit: str) -> Sequence[tuple[str, int]]:
    return ()


def _no_variables(unit: str) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What is the same for all units."""

    notify_socket: str = DEFAULT_NOTIFY_SOCKET
    """A path or `@name`; its directory exists."""
    environment: Mapping[str, str] = field(default_factory=lambda: {"PATH": DEFAULT_PATH})
    """Of all children: PATH, LANG, DefaultEnvironment=."""
    cgroup: str = "auto"
    """`auto`: below our own if that can be written; `none`; or the directory of a v1 or v2 hierarchy to use."""
    cgroup_name: str = ""
    """Of the directory that `auto` makes. Empty: one that belongs to the notify socket's path, for two supervisors
    in one group must not take each other's processes for theirs.
    """
    bases: Mapping[str, str] = field(default_factory=lambda: BASES)
    """Where RuntimeDirectory= and its like lie."""
    limits: Mapping[str, Limit] = field(default_factory=lambda: DEFAULT_LIMITS)
    standard_output: str = "journal"
    subreaper: bool = True
    """Orphans of services become our children. Stays set for the process."""
    oom_score: int | None = None
    """Of children without OOMScoreAdjust=, when ours is a special one."""
    record: str = ""
    """Path of the file that tells a successor whose processes run, if this supervisor is killed; empty: none."""
    log: Callable[[str, str, int], None] = _log_line
    """A line about a unit: unit, text, syslog level."""
    output: Callable[[Line], None] = _log_output
    """A line of a service."""
    read_environment_files: Callable[[Sequence[str]], Found] = read_files
    """In a thread."""
    read_pid_file: Callable[[str], PidFile] = read_pid_file
    """In a thread."""
    sockets: Callable[[str], Sequence[tuple[str, int]]] = _no_sockets
    """Names and descriptors of a unit's socket activation; they stay the caller's."""
    variables: Callable[[str], Mapping[str, str]] = _no_variables
    """REMOTE_ADDR, TRIGGER_UNIT, MONITOR_... of a unit's next process."""


@dataclass(slots=True)
class _Status:
    """What a child has told of its set-up so far."""

    pid: int
    unit: str
    action: events.Spawn
    said: bytes = b""


@dataclass(slots=True)
class _Unit:
    """What is known of one unit's processes."""

    name: str
    group: cgroups.Group | None = None
    group_killed: bool = False
    """Nobody may be born in it any more: Linux 6.18 takes a newborn whose parent is in another group for one that
    was to be killed. That was seen there; other versions were not looked at.
    """
    group_watch: int = -1
    oom_watch: int = -1
    oom_kills: int = 0
    mark: int = 0
    """A resource limit that nothing uses and that all descendants inherit; see `lineage.py`."""
    invocation: str = ""
    in_run: bool = False
    sessions: set[int] = field(default_factory=set)
    pid_file: PidFileWatch | None = None
    pid_file_text: str = ""
    reading: Call | None = None
    """Its environment files are being read for a process that is to be started."""
    held: list[int] = field(default_factory=list)
    pipes: list[OutputPipe] = field(default_factory=list)
    log_limit: LogLimit | None = None
    looked_at_soon: bool = False
    refused: bool = False
    """Resource settings that cannot be had were reported."""


class ProcessHost:
    """See the module. To be closed; services that still run are then left alone."""

    def __init__(
        self,
        deliver: Callable[[str, Event], None],
        settings: HostSettings | None = None,
        run_dir: str | None = None,
    ) -> None:
        """In a running loop. `run_dir`: where the notify socket is, if there are no settings. OSError: no notify
        socket, no forker.
        """
        if settings is None:
            settings = HostSettings() if run_dir is None else HostSettings(notify_socket=f"{run_dir}/notify")
        self.settings = settings
        self._deliver = deliver
        self._loop = asyncio.get_running_loop()
        self._units: dict[str, _Unit] = {}
        self._invocations: dict[str, str] = {}
        self._marks: dict[int, str] = {}
        self._first_mark = FIRST_MARK + (int.from_bytes(os.urandom(MARK_RANDOM_BITS // 8)) << MARK_UNIT_BITS)
        self._record = Record(self.settings.record, self._first_mark)
        self._sessions: dict[int, str] = {}
        self._statuses: dict[int, _Status] = {}
        self._inotify = Inotify()
        self._spawning: dict[str, int] = {}
        self._postponed: dict[str, list[Message]] = {}
        self._notify = NotifySocket(self.settings.notify_socket, self._message)
        self._forker = Forker()
        self._calls = Calls()
        self._store = FdStore()
        self._remover = Remover()
        self._children = Children(self.unit_of, self._before_exit, self._exited)
        self._children.leave_alone = lambda: self._forker.pids
        self._children.is_held = self._spawning.__contains__
        self._children.before_deaths = self.hear
        self._children.is_busy = lambda: self._forker.asked > 0
        self._killer = Killer(self._children, self.pids, self._belongs)
        self._idle: tuple[int, int] | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._ordinary = os.sched_getscheduler(0) == os.SCHED_OTHER and os.getpriority(os.PRIO_PROCESS, 0) == 0
        self._oom_floor = kernel.oom_floor()
        self._claimed = _claim_hierarchy(self.settings)
        self._hierarchy = self._claimed.hierarchy if self._claimed is not None else None
        self._children.adopts_first = self._hierarchy is None or not self._hierarchy.unified
        if self.settings.subreaper and os.getpid() != 1:
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        self._closed = False
        self._deaths = Deaths(self._children.look_soon)

    async def start(self) -> None:
        """End what a supervisor has left that was killed, then wait until processes can be started at once.
        TimeoutError: they cannot. Needed only with a record.
        """
        if self.settings.record:
            await self._succeed()
        await self._forker.start()

    async def _succeed(self) -> None:
        try:
            recorded = await asyncio.to_thread(read_record, self.settings.record, run_tag())
            await leftovers.end(lambda: leftovers.find(recorded, self._hierarchy), self.settings.log)
            self._record.begin()
        except OSError as error:
            # No /proc, or no room: then a successor finds control groups at best, but services can run.
            log.error("nothing is left to a successor: %s", error)

    async def close(self) -> None:
        """Let go of everything. Processes of units are not touched."""
        for handle in (self._idle_timer,):
            if handle is not None:
                handle.cancel()
        self.release_idle()
        self._killer.close()
        self._notify.close()
        self._closed = True
        self._deaths.stop()
        for unit in self._units.values():
            self._stop_pid_file(unit)
        self._calls.close()
        self._forker.close(self._deaths.join)
        for fd in list(self._statuses):
            self._forget_status(fd)
        for unit in self._units.values():
            for pipe in list(unit.pipes):
                pipe.read()
                pipe.close()
            if unit.log_limit is not None:
                unit.log_limit.report()
            _close_all(unit.held)
            for message in self._postponed.pop(unit.name, ()):
                _close_all(message.fds)
            if unit.group is not None and not unit.group.populated():
                unit.group.remove()
        self._record.close(remove=not any(self.pids(name) for name in self._units))
        self._children.close()
        self._store.close()
        self._inotify.close()
        if self._claimed is not None:
            self._claimed.release()
        await self._remover.close()
        await self._calls.returned(LAST_CALLS_S)

    # -- what others ask ---------------------------------------------------------------------------------------

    @property
    def tracking(self) -> str:
        """How processes are attributed: `cgroup v2`, `cgroup v1` or `lineage`."""
        if self._hierarchy is None:
            return "lineage"
        return "cgroup v2" if self._hierarchy.unified else "cgroup v1"

    def control_group(self, unit: str) -> tuple[str, cgroups.Group] | None:
        """The unit's group while it has one, with its name as the kernel tells it."""
        known = self._units.get(unit)
        if known is None or known.group is None or self._hierarchy is None or not known.group.exists:
            return None
        return self._hierarchy.shown(unit), known.group

    def directories(self, file: UnitFile, kind: str) -> list[str]:
        """What `RuntimeDirectory=` and its like make; `kind`: a key of `HostSettings.bases`."""
        return [f"{self.settings.bases[kind]}/{name}" for name in directory_names(file.exec, kind)]

    def members(self, unit: str) -> Members:
        """The unit's view of its living processes."""
        return lambda: self.pids(unit)

    def pids(self, unit: str) -> frozenset[int]:
        """The unit's living processes."""
        known = self._units.get(unit)
        if known is None:
            return frozenset()
        if known.group is not None and known.group.exists:
            return known.group.pids() | self._entering(unit)
        for _ in range(EMPTY_LOOKS):
            found = self._descendants(unit)
            if found:
                break
        return frozenset(found)

    def _descendants(self, unit: str) -> set[int]:
        """What one look finds; see EMPTY_LOOKS."""
        self._children.scan()
        found: set[int] = set()
        todo = [child.pid for child in self._children.of(unit)]
        while todo:
            pid = todo.pop()
            entry = read_entry(pid)
            if entry is None or pid in found:
                continue
            if entry.alive:
                found.add(pid)
            todo += children_of(pid)
        return found

    def _entering(self, unit: str) -> set[int]:
        """Processes that have yet to enter their group, where they cannot be born in it."""
        started = [child.pid for child in self._children.of(unit) if child.role is not None]
        return {pid for pid in started if (entry := read_entry(pid)) is not None and entry.alive}

    def unit_of(self, pid: int) -> str | None:
        """Whose process it is: by the table, its group, its session, its parents, its mark. None: nobody's."""
        child = self._children.by_pid.get(pid)
        if child is not None:
            return child.unit
        if pid == os.getpid() or pid in self._forker.pids:
            return None
        if self._hierarchy is not None:
            unit = self._hierarchy.unit_of(pid)
            if unit is None and not self._hierarchy.unified and (entry := read_entry(pid)) is not None:
                # In v1 a zombie is in no group any more.
                return None if entry.alive else self._unit_by_lineage(pid)
            return unit if unit in self._units else None
        return self._unit_by_lineage(pid)

    def _unit_by_lineage(self, pid: int) -> str | None:
        """Only what descends from us is asked for its marks: anybody may set a variable or a limit."""
        at = pid
        mark = ""
        for _ in range(MAX_DEPTH):
            child = self._children.by_pid.get(at)
            if child is not None:
                return child.unit
            entry = read_entry(at)
            if entry is None or at in self._forker.pids:
                return None
            unit = self._sessions.get(entry.session) or self._marks.get(limit_mark(at))
            if unit is not None:
                return unit
            mark = mark or invocation_mark(at)
            if entry.parent == os.getpid():
                return self._invocations.get(mark)
            at = entry.parent
            if at <= 1:
                return None
        return None

    def hear(self) -> None:
        """All messages that were sent before now are told, whoever else fills the socket."""
        self._notify.drain()

    def invocation_id(self, unit: str) -> str:
        """Of the current or last run; empty: none yet."""
        known = self._units.get(unit)
        return known.invocation if known else ""

    def stored_fds(self, unit: str) -> int:
        """How many descriptors the store has (NFileDescriptorStore)."""
        return len(self._store.of(unit))

    def clear_fds(self, unit: str) -> None:
        """Drop what the store has (`clean --what=fdstore`, or a unit that is forgotten)."""
        self._store.clear(unit)

    def release_idle(self) -> None:
        """No job is running: processes of Type=idle may begin."""
        if self._idle is not None:
            for fd in self._idle:
                os.close(fd)
            self._idle = None
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None

    # -- actions -----------------------------------------------------------------------------------------------

    def perform(self, unit: str, file: UnitFile, action: events.Action) -> None:
        """Carry one out. Never waits but for the forker's answer; never raises for what a unit may cause."""
        if isinstance(action, events.Spawn):
            self._spawn(unit, file, action)
        elif isinstance(action, events.Kill):
            everybody = self._means_everybody(unit, file, action)
            if self._killer.kill(unit, action, everybody, self._group(unit)):
                self._unit(unit).group_killed = True
        elif isinstance(action, events.ReadPidFile):
            self._read_pid_file(self._unit(unit), full_path(action.path))
        elif isinstance(action, events.Changed):
            if action.new is not events.State.START and unit in self._units:
                self._stop_pid_file(self._units[unit])
        elif isinstance(action, events.Cleanup):
            self._cleanup(self._unit(unit), file, action.restarting)
        elif isinstance(action, events.GiveUp):
            self._give_up(unit)
        elif isinstance(action, events.StoreFds):
            self._store_fds(self._unit(unit), file, action)

    def _give_up(self, name: str) -> None:
        call = self._unit(name).reading
        if call is not None:
            self._loop.call_soon(self._calls.give_up, name, call)

    def _unit(self, name: str) -> _Unit:
        unit = self._units.get(name)
        if unit is None:
            unit = self._units[name] = _Unit(name, mark=self._first_mark + len(self._units))
            self._marks[unit.mark] = name
            self._record.unit(unit.mark - self._first_mark, name)
        return unit

    def _group(self, name: str) -> cgroups.Group | None:
        unit = self._units.get(name)
        return unit.group if unit is not None and unit.group is not None and unit.group.exists else None

    def _belongs(self, unit: str, pid: int) -> bool:
        return self.unit_of(pid) == unit

    def _means_everybody(self, unit: str, file: UnitFile, action: events.Kill) -> bool:
        """Whether those born meanwhile are meant too. Not only by who is there now: a bomb has grown since."""
        if action.everybody:
            return True
        mode = file.kill.kill_mode
        if mode == "mixed" and action.signal == file.kill.final_kill_signal:
            mode = "control-group"
        return mode == "control-group" and action.pids >= self.pids(unit)

    # Spawning.

    def _spawn(self, name: str, file: UnitFile, action: events.Spawn) -> None:
        unit = self._unit(name)
        self._stop_pid_file(unit)
        self._killer.stop(name)
        if not unit.in_run:
            self._begin_run(unit, file)
        self._spawning[name] = self._spawning.get(name, 0) + 1
        patterns = file.exec.environment_file
        if patterns or self._calls.is_busy(name):
            read = functools.partial(self.settings.read_environment_files, patterns)
            call = Call(read, functools.partial(self._have_read, unit, file, action), not_read)
            unit.reading = call
            self._calls.run(name, call, _time_for(file, action))
        else:
            self._launch(unit, file, action, {})

    def _have_read(self, unit: _Unit, file: UnitFile, action: events.Spawn, found: Found) -> None:
        unit.reading = None
        for text, level in found.remarks:
            self.settings.log(unit.name, text, level)
        if found.error:
            self._not_spawned(unit.name, [], None, PlanError(found.error))
        else:
            self._launch(unit, file, action, found.variables)

    def _launch(self, unit: _Unit, file: UnitFile, action: events.Spawn, from_files: Mapping[str, str]) -> None:
        name = unit.name
        fds: list[int] = []
        pipe: OutputPipe | None = None
        try:
            fds += os.pipe2(os.O_CLOEXEC)
            os.set_blocking(fds[0], False)
            birth = unit.group is not None and unit.group.unified and not unit.group_killed
            group_fd = unit.group.open() if unit.group is not None and birth else -1
            if group_fd >= 0:
                fds.append(group_fd)
            limit = self._log_limit(unit, file)
            output = self.settings.output
            pipe = OutputPipe(name, file.exec, action.command.path, output, self._pipe_ended, limit)
            around = self._surroundings(unit, file, action, fds[1], group_fd, pipe, from_files)
            plan = make_plan(file, action, around, self._logger(name))
            self._forker.spawn(plan, functools.partial(self._answered, unit, action, fds, pipe))
        except (PlanError, OSError) as error:
            self._not_spawned(name, fds, pipe, error)

    def _not_spawned(self, name: str, fds: list[int], pipe: OutputPipe | None, error: Exception) -> None:
        _close_all(fds)
        if pipe is not None:
            pipe.abandon()
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        self._spawn_over(name)
        self._deliver(name, events.SpawnFailed(reason))
        self._let_wait_no_longer(name)

    def _spawn_over(self, name: str) -> None:
        self._spawning[name] -= 1
        if not self._spawning[name]:
            del self._spawning[name]

    def _let_wait_no_longer(self, name: str) -> None:
        """Who waited for the answer, which was told."""
        for message in self._postponed.pop(name, ()):
            self._tell(name, message)
        self._children.let_go()

    def _answered(
        self, unit: _Unit, action: events.Spawn, fds: list[int], pipe: OutputPipe, pid: int, error: OSError | None
    ) -> None:
        """By the forker. `fds`: the status pipe's reading end, then what is the child's now."""
        name = unit.name
        if error is not None:
            self._not_spawned(name, fds, pipe, error)
            return
        self._spawn_over(name)
        reading = fds.pop(0)
        _close_all(fds)
        pipe.begin(pid)
        unit.pipes.append(pipe)
        unit.sessions.add(pid)
        self._sessions[pid] = name
        self._children.add(pid, name, action.role, action.main)
        self._write_down(unit, pid)
        self._statuses[reading] = _Status(pid, name, action)
        self._loop.add_reader(reading, self._status_readable, reading)
        self._deliver(name, events.Spawned(pid))
        self._let_wait_no_longer(name)

    def _write_down(self, unit: _Unit, pid: int) -> None:
        if not self.settings.record:
            return
        start = start_time(pid)
        if start is not None:
            self._record.process(unit.mark - self._first_mark, pid, start)
        if self._record.is_long:
            first = self._first_mark
            known = ((self._units[one.unit].mark - first, one.pid, start_time(one.pid)) for one in
                     self._children.by_pid.values())  # fmt: skip
            self._record.rewrite(
                ((one.mark - first, one.name) for one in self._units.values()),
                [(index, pid, start) for index, pid, start in known if start is not None],
            )

    def _logger(self, unit: str) -> Callable[[str, int], None]:
        return lambda text, level: self.settings.log(unit, text, level)

    def _log_limit(self, unit: _Unit, file: UnitFile) -> LogLimit:
        limit = unit.log_limit
        if limit is None:
            say = self._logger(unit.name)
            limit = unit.log_limit = LogLimit(file.exec, lambda count: say(f"Suppressed {count} messages.", 4))
        limit.adopt(file.exec)
        return limit

    def _begin_run(self, unit: _Unit, file: UnitFile) -> None:
        unit.in_run = True
        if unit.invocation:
            self._invocations.pop(unit.invocation, None)
        unit.invocation = os.urandom(16).hex()
        self._invocations[unit.invocation] = unit.name
        refused = []
        if (file.exec.oom_score_adjust or 0) < self._oom_floor:
            refused.append(f"OOMScoreAdjust={file.exec.oom_score_adjust}")
        if self._hierarchy is not None:
            refused += self._begin_group(unit, file, self._hierarchy.group(unit.name))
        if refused and not unit.refused:
            unit.refused = True
            self.settings.log(unit.name, f"not available here, ignoring: {', '.join(refused)}", 4)

    def _begin_group(self, unit: _Unit, file: UnitFile, group: cgroups.Group) -> list[str]:
        """The unit's group; settings that cannot be had."""
        unit.group_killed = unit.group_killed and group.exists
        try:
            group.make()
        except OSError as error:
            self.settings.log(unit.name, f"Failed to create control group: {error.strerror}", 4)
            return []
        unit.group = group
        for pid in sorted(group.pids())[:MAX_LEFT_OVER]:
            text = f"Found left-over process {pid} ({process_name(pid)}) in control group"
            self.settings.log(unit.name, f"{text} while starting unit. Ignoring.", 4)
        refused = group.limit(file.exec)
        self._watch_group(unit)
        return refused

    def _surroundings(
        self,
        unit: _Unit,
        file: UnitFile,
        action: events.Spawn,
        status: int,
        group_fd: int,
        pipe: OutputPipe,
        from_files: Mapping[str, str],
    ) -> Surroundings:
        settings, service = self.settings, file.service
        assert service is not None
        limits = dict(settings.limits)
        if unit.group is None or not unit.group.unified:
            limits["LOCKS"] = Limit(unit.mark, unit.mark)
        variables = {"INVOCATION_ID": unit.invocation, **settings.variables(unit.name)}
        if action.notify:
            variables["NOTIFY_SOCKET"] = settings.notify_socket
        if action.main and service.file_descriptor_store_max:
            variables["FDSTORE"] = str(service.file_descriptor_store_max)
        return Surroundings(
            environment=settings.environment,
            inherited=os.environ,
            from_files=from_files,
            variables=variables,
            bases=settings.bases,
            limits=limits,
            output=settings.standard_output,
            oom_score=settings.oom_score,
            ordinary=self._ordinary,
            sockets=[*settings.sockets(unit.name), *self._store.of(unit.name)],
            log_fd=pipe.writing_end,
            status_fd=status,
            idle_fd=self._idle_fd() if service.type == "idle" and action.main else -1,
            cgroup_fd=group_fd,
            join=[unit.group.procs] if unit.group is not None else [],
        )

    def _idle_fd(self) -> int:
        if self._idle is None:
            self._idle = os.pipe2(os.O_CLOEXEC)
            self._idle_timer = self._loop.call_later(IDLE_LIMIT_S, self.release_idle)
        return self._idle[0]

    def _status_readable(self, fd: int) -> None:
        """Of one child: at the end of the pipe the program runs, or a step has failed, or it was killed before."""
        status = self._statuses[fd]
        try:
            while len(status.said) <= MAX_STATUS and (data := os.read(fd, MAX_STATUS)):
                status.said += data
        except BlockingIOError:
            return
        self._forget_status(fd)
        unit, action = status.unit, status.action
        failure = status.said.removeprefix(ABOUT_TO_EXECUTE)
        if not failure:
            # Without a word it was killed in its set-up: its end says so.
            if action.main and status.said:
                self._deliver(unit, events.Execed())
            return
        step, reason = marshal.loads(failure)
        path = action.command.path
        if step == "EXEC":
            self.settings.log(unit, f"Failed to locate executable {path}: {reason}", 3)
        self.settings.log(unit, f"Failed at step {step} spawning {path}: {reason}", 3)

    def _forget_status(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        del self._statuses[fd]
        os.close(fd)

    def _pipe_ended(self, pipe: OutputPipe) -> None:
        unit = self._units.get(pipe.unit)
        if unit is not None and pipe in unit.pipes:
            unit.pipes.remove(pipe)
            if not unit.pipes and unit.log_limit is not None:
                unit.log_limit.report()

    # The end of processes.

    def _before_exit(self, child: Child) -> None:
        """What it said before it died counts first."""
        for fd, status in list(self._statuses.items()):
            if status.pid == child.pid:
                self._status_readable(fd)
        unit = self._units.get(child.unit)
        for pipe in list(unit.pipes) if unit else ():
            if pipe.pid == child.pid:
                for _ in range(DRAIN_TURNS):
                    if not pipe.read():
                        break

    def _exited(self, child: Child, death: Exit) -> None:
        for name in (child.unit, *child.also):
            self._deliver(name, events.Exited(child.pid, death))
        unit = self._units.get(child.unit)
        if unit is not None and (unit.group is None or not unit.group.unified):
            self._look_whether_empty(unit)

    def _look_whether_empty(self, unit: _Unit) -> None:
        """Once for all deaths of a turn."""
        if not unit.looked_at_soon:
            unit.looked_at_soon = True
            self._loop.call_soon(self._emptied_if_so, unit)

    def _emptied_if_so(self, unit: _Unit) -> None:
        unit.looked_at_soon = False
        if self._closed:
            return
        self._children.reap_now(unit.name)
        if unit.name not in self._spawning and not self.pids(unit.name):
            self._deliver(unit.name, events.Emptied())

    def _watch_group(self, unit: _Unit) -> None:
        group = unit.group
        if group is None or not group.unified or unit.group_watch >= 0:
            return
        try:
            unit.group_watch = self._inotify.watch(
                group.events, MODIFY, unit.name, lambda: self._group_changed(unit)
            )
            unit.oom_kills = max(group.oom_kills(), 0)
            unit.oom_watch = self._inotify.watch(
                f"{group.path}/memory.events", MODIFY, unit.name, lambda: self._memory_changed(unit)
            )
        except OSError:
            pass  # No memory controller: nobody counts.

    def _group_changed(self, unit: _Unit) -> None:
        if unit.group is not None and unit.group.exists and not unit.group.populated():
            self._look_whether_empty(unit)

    def _memory_changed(self, unit: _Unit) -> None:
        kills = unit.group.oom_kills() if unit.group is not None else -1
        if kills > unit.oom_kills:
            unit.oom_kills = kills
            self._deliver(unit.name, events.OomKilled())

    # The PID file.

    def _read_pid_file(self, unit: _Unit, path: str) -> None:
        self._stop_pid_file(unit)
        unit.pid_file_text = ""
        tell = functools.partial(self._pid_file_says, unit, path)
        unit.pid_file = PidFileWatch(self._calls, unit.name, path, tell, self.settings.read_pid_file)

    def _pid_file_says(self, unit: _Unit, path: str, found: PidFile | PidFileError) -> None:
        try:
            if isinstance(found, PidFileError):
                raise found
            note = check_target(found, path, lambda pid: self._belongs(unit.name, pid), os.getpid())
        except PidFileError as error:
            if str(error) != unit.pid_file_text:
                unit.pid_file_text = str(error)
                self.settings.log(unit.name, str(error), 5)
            return
        if note:
            self.settings.log(unit.name, note, 5)
        self._stop_pid_file(unit)
        if self._children.add(found.pid, unit.name, main=True) is not None:
            self._deliver(unit.name, events.PidFileRead(found.pid))

    def _stop_pid_file(self, unit: _Unit) -> None:
        if unit.pid_file is not None:
            unit.pid_file.close()
            unit.pid_file = None

    # Messages.

    def _message(self, message: Message) -> None:
        name = self._sender_unit(message)
        if name is None:
            self._notify.unknown_sender(message.pid)
            return
        # The socket closes what it still has when this returns.
        fds, message.fds = message.fds, []
        self._tell(name, Message(message.pid, message.uid, message.fields, fds))

    def _tell(self, name: str, message: Message) -> None:
        """Not while a process is being started: who is told would have to keep it, and the descriptors with it."""
        if name in self._spawning:
            waiting = self._postponed.setdefault(name, [])
            if len(waiting) < MAX_POSTPONED:
                waiting.append(message)
                return
        unit = self._unit(name)
        claim = self._claim(name, message)
        count = len(message.fds)
        if count:
            self._let_go(unit)
            unit.held = message.fds
            message.fds = []
            self._loop.call_soon(self._let_go, unit)
        self._deliver(name, events.Notified(message.pid, message.fields, message.uid, claim, count))
        # The rules may have made it the main process; the end of one that they refused means nothing.
        if claim is not None and claim.alive and not claim.manager and (claim.ours or message.uid == 0):
            self._children.add(claim.pid, name)

    def _let_go(self, unit: _Unit) -> None:
        if unit.held:
            self.settings.log(unit.name, "Got extra auxiliary fds with notification message, closing them.", 5)
            _close_all(unit.held)

    def _sender_unit(self, message: Message) -> str | None:
        unit = self.unit_of(message.pid)
        if unit is not None and message.pid not in self._children.by_pid and _is_reaped(message.pidfd):
            unit = None  # Another process has the number now.
        if unit is None and message.pidfd >= 0:
            unit = self._unit_of_dead(message.pidfd)
        if unit is None and not os.path.exists(f"/proc/{message.pid}"):
            unit = self._children.recent(message.pid)
        return unit

    def _unit_of_dead(self, pidfd: int) -> str | None:
        """The group that the kernel remembers."""
        try:
            group, _status = kernel.pidfd_end(pidfd)
        except OSError:
            return None
        if group == 0:
            return None
        for unit in self._units.values():
            if unit.group is not None and unit.group.unified and _inode(unit.group.path) == group:
                return unit.name
        return None

    def _claim(self, unit: str, message: Message) -> events.Claim | None:
        text = message.fields.get("MAINPID", "")
        if not (text.isascii() and text.isdecimal()) or len(text) > 10:
            return None
        pid = int(text)
        entry = read_entry(pid) if 0 < pid < 1 << 31 else None
        alive = entry is not None and entry.alive
        child = entry is not None and entry.parent == os.getpid()
        ours = alive and self._belongs(unit, pid)
        return events.Claim(pid, alive, ours, child, manager=pid == os.getpid() or pid in self._forker.pids)

    def _store_fds(self, unit: _Unit, file: UnitFile, action: events.StoreFds) -> None:
        if action.remove:
            self._store.remove(unit.name, action.name)
            return
        assert file.service is not None
        fds, unit.held = unit.held, []
        limit = file.service.file_descriptor_store_max
        self._store.add(unit.name, action.name, fds, limit, action.poll, self._logger(unit.name))

    # The end of a run.

    def _cleanup(self, unit: _Unit, file: UnitFile, restarting: bool) -> None:
        service = file.service
        assert service is not None
        unit.in_run = False
        self._stop_pid_file(unit)
        if service.pid_file:
            remove = functools.partial(remove_pid_file, full_path(service.pid_file))
            # The next process of the unit is started after it: see `_spawn`.
            self._calls.run(unit.name, Call(remove, lambda _: None, lambda _: None))
        preserve = file.exec.runtime_directory_preserve
        if not (preserve in ("yes", "true", "1", "on") or (preserve == "restart" and restarting)):
            base = self.settings.bases["runtime"]
            for name in directory_names(file.exec, "runtime"):
                self._remover.remove(f"{base}/{name}")
        keep = service.file_descriptor_store_preserve
        if keep == "no" or (keep == "restart" and not restarting):
            self._store.clear(unit.name)
        if not self.pids(unit.name):
            self._forget_processes(unit)

    def _forget_processes(self, unit: _Unit) -> None:
        """Nothing of it lives: neither its group nor the numbers of its sessions mean anything any more."""
        # Zombies that are left belong to it still.
        self._children.scan()
        for session in unit.sessions:
            if self._sessions.get(session) == unit.name:
                del self._sessions[session]
        unit.sessions.clear()
        if unit.group is not None:
            for watch in (unit.group_watch, unit.oom_watch):
                if watch >= 0:
                    self._inotify.forget(watch, unit.name)
            unit.group_watch = unit.oom_watch = -1
            unit.group.remove()


def _time_for(file: UnitFile, action: events.Spawn) -> float:
    """Seconds that the unit gives a process of this role to begin."""
    assert file.service is not None
    stopping = action.role in (events.Role.STOP, events.Role.STOP_POST)
    usec = file.service.timeout_stop_sec if stopping else file.service.timeout_start_sec
    return MAX_WAIT_S if usec == INFINITY else usec / USEC_PER_SEC


def _claim_hierarchy(settings: HostSettings) -> cgroups.Claimed | None:
    if settings.cgroup == "none":
        return None
    if settings.cgroup == "auto":
        return cgroups.find_hierarchy(settings.cgroup_name or _group_name(settings.notify_socket))
    unified = os.path.exists(f"{os.path.dirname(settings.cgroup.rstrip('/'))}/cgroup.controllers")
    found = cgroups.Hierarchy(settings.cgroup.rstrip("/"), unified)
    claimed = cgroups.claim(found) if cgroups.try_hierarchy(found) else None
    if claimed is None:
        log.warning("no control groups in %s: processes are told apart by lineage", settings.cgroup)
    return claimed


def _group_name(notify_socket: str) -> str:
    if notify_socket == DEFAULT_NOTIFY_SOCKET:
        return "holdfast"
    return f"holdfast-{zlib.crc32(os.fsencode(notify_socket)):08x}"


def _close_all(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _is_reaped(pidfd: int) -> bool:
    if pidfd < 0:
        return False
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
