"""Health checks: a directory of executables, each of which must end with 0 (spec watchdog 3.9).

Nothing waits for a script. A test of the keeper uses the latest result of each one; the scripts are started so
long before the next test (`LEAD_S`) that an ordinary one has a fresh result by then. One that runs longer than its
deadline has failed until it ends. The original waits for its scripts inside its test, up to the whole interval.

A script is started by `/bin/sh -c exec`, so that a disk that hangs holds the child and not this process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from holdfast.watchdog.dump import ScriptState

log = logging.getLogger(__name__)

DIRECTORY: Final = "/etc/wdmd.d"
MAX_SCRIPTS: Final = 8
MAX_ENTRIES: Final = 4096
LEAD_S: Final = 2.0
"""Started so long before the test that wants the result, or half an interval if that is shorter."""
NOT_STARTED: Final = (126, 127)
"""The shell's exit statuses when there is nothing to execute."""


class Child(Protocol):
    """A started script."""

    pid: int

    def kill(self) -> None:
        """SIGKILL to it and all that it started."""
        ...


Start = Callable[[str, Callable[[int], None]], Child]
"""Start a program; the function is told its exit status, negative for a signal. OSError."""


@dataclass(eq=False)
class Script:
    """One executable and what became of its runs."""

    path: str
    child: Child | None = None
    started: float = 0.0
    result: int | None = None
    """Exit status of the last run that ended; None: none has."""
    told_long: bool = False
    was_killed: bool = False
    state: ScriptState = field(default_factory=lambda: ScriptState(""))

    @property
    def name(self) -> str:
        """In the dump and in messages."""
        return os.path.basename(self.path)


class Scripts:
    """All scripts of a directory."""

    def __init__(
        self,
        directory: str,
        now: Callable[[], float],
        interval: Callable[[], int],
        *,
        kill_after_s: int = 0,
        start: Start | None = None,
    ) -> None:
        """`interval`: seconds between two tests. `kill_after_s`: SIGKILL for a script then; 0: never."""
        self._directory = directory
        self._now = now
        self._interval = interval
        self._kill_after_s = kill_after_s
        self._start = start or start_program
        self._timer: asyncio.TimerHandle | None = None
        self._scripts: dict[str, Script] = {}

    def __len__(self) -> int:
        return len(self._scripts)

    async def rescan(self) -> None:
        """New names are added, none removed (SIGHUP). In a thread: the directory may be on a disk that hangs."""
        try:
            paths = await asyncio.to_thread(executables, self._directory)
        except OSError as error:
            log.error("scripts directory %s: %s", self._directory, error.strerror)
            return
        for path in paths:
            if path in self._scripts:
                continue
            if len(self._scripts) >= MAX_SCRIPTS:
                log.error("script %s not used: %d are the most", path, MAX_SCRIPTS)
                continue
            script = Script(path)
            script.state = ScriptState(script.name)
            self._scripts[path] = script
            log.warning("script %s added", script.name)

    async def check(self) -> Sequence[str]:
        """`keeper.Checks`: at once, from what is known; sees to it that more is known at the next test."""
        if not self._scripts:
            return ()
        failures = []
        interval = self._interval()
        for script in list(self._scripts.values()):
            failure = self._failure(script, interval)
            if failure:
                failures.append(failure)
        # One that failed, or of which nothing is known, is not made to wait.
        self._begin(lambda script: script.result != 0)
        if self._timer is None:
            lead = min(LEAD_S, interval / 2)
            self._timer = asyncio.get_running_loop().call_later(interval - lead, self._begin_all)
        return failures

    def _failure(self, script: Script, interval: int) -> str:
        """Why this one forbids a ping; empty when it does not."""
        if script.child is not None:
            ran = self._now() - script.started
            if self._kill_after_s and ran >= self._kill_after_s and not script.was_killed:
                script.was_killed = True
                script.state = _counted(script.state, kill=1)
                log.error("script %s pid %d killed after %.0f s", script.name, script.child.pid, ran)
                script.child.kill()
            if ran >= deadline_of(interval):
                if not script.told_long:
                    script.told_long = True
                    script.state = _counted(script.state, long=1, fail=1)
                return f"script {script.name} runs for {ran:.0f} s, {deadline_of(interval):g} are allowed"
        if script.result:
            return f"script {script.name} failed: {_ending(script.result)}"
        return ""

    def _begin_all(self) -> None:
        self._timer = None
        self._begin(lambda script: True)

    def _begin(self, is_wanted: Callable[[Script], bool]) -> None:
        """Start each that is wanted and does not run."""
        for script in list(self._scripts.values()):
            if script.child is None and is_wanted(script):
                self._run(script)

    def _run(self, script: Script) -> None:
        script.started, script.told_long, script.was_killed = self._now(), False, False
        try:
            script.child = self._start(script.path, lambda status: self._ended(script, status))
        except OSError as error:
            # No memory, no processes: the host is not well.
            log.error("script %s not started: %s", script.name, error.strerror)
            script.result = error.errno or 1
            return
        script.state = _counted(script.state, run=1, pid=script.child.pid, start=int(script.started))

    def _ended(self, script: Script, status: int) -> None:
        script.child = None
        if status in NOT_STARTED and not os.access(script.path, os.X_OK):
            log.error("script %s removed %d", script.name, status)
            self._scripts.pop(script.path, None)
            return
        if status and script.result != status:
            log.error("script %s failed: %s", script.name, _ending(status))
        script.result = status
        if not status:
            script.state = _counted(script.state, good=1, pid=0, last_result=0)
        else:
            # A run that was too long has been counted as failed already.
            failed = 0 if script.told_long else 1
            script.state = _counted(script.state, fail=failed, pid=0, last_result=status)

    def states(self) -> Iterable[ScriptState]:
        """For the dump."""
        return [script.state for script in self._scripts.values()]

    def close(self) -> None:
        """No more runs; those that go on are ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for script in self._scripts.values():
            if script.child is not None:
                script.child.kill()


def deadline_of(interval: int) -> float:
    """How long a script may run, seconds: the original's I - 1, but at least a second."""
    return float(max(1, interval - 1))


def _counted(
    state: ScriptState,
    *,
    run: int = 0,
    fail: int = 0,
    good: int = 0,
    kill: int = 0,
    long: int = 0,
    pid: int | None = None,
    start: int | None = None,
    last_result: int | None = None,
) -> ScriptState:
    return ScriptState(
        state.name,
        pid=state.pid if pid is None else pid,
        start=state.start if start is None else start,
        last_result=state.last_result if last_result is None else last_result,
        run=state.run + run,
        fail=state.fail + fail,
        good=state.good + good,
        kill=state.kill + kill,
        long=state.long + long,
    )


def _ending(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def executables(directory: str) -> list[str]:
    """Regular files that their owner may execute, without hidden ones, by name. OSError."""
    found = []
    for name in sorted(os.listdir(directory))[:MAX_ENTRIES]:
        path = os.path.join(directory, name)
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue
        if not name.startswith(".") and stat.S_ISREG(mode) and mode & stat.S_IXUSR:
            found.append(path)
    return found


class _Program:
    """A child process whose end the event loop sees through a pidfd."""

    def __init__(self, path: str, on_end: Callable[[int], None]) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", 'exec "$0"', path], stdin=subprocess.DEVNULL, start_new_session=True, cwd="/"
        )
        self.pid = self._process.pid
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        try:
            self._fd = os.pidfd_open(self.pid)
        except OSError:
            self.kill()
            self._process.wait()
            raise
        self._loop.add_reader(self._fd, self._ended)

    def _ended(self) -> None:
        status = self._process.poll()
        if status is None:
            return
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._on_end(status)

    def kill(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # It has just ended; nobody has waited for it yet, so the number is still its own.


def start_program(path: str, on_end: Callable[[int], None]) -> Child:
    """`Start` with real processes."""
    return _Program(path, on_end)
