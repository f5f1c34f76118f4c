"""A running command and everything below it: exit status, signals, stopping, and the end of all of it.

The exit of the command is noticed without reaping it: its pid must not be given to another process while the
daemon may still send signals to it. `finish` reaps it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from types import MappingProxyType

from holdfast.client.descendants import reap, running, send
from holdfast.client.gated import GatedChild
from holdfast.client.terminal import Terminal

TO_COMMAND = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Forwarded to the command alone."""
TO_GROUP = (signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH)
"""Forwarded to the command's process group: what a terminal would send."""
END_POLL_S = 0.05
KILL_POLL_S = 0.02
STUCK_REPORT_S = 5.0
EXIT_BY_SIGNAL = 128

SIGNAL_NAMES = MappingProxyType({number.value: number.name for number in signal.Signals})


def boottime() -> float:
    """CLOCK_BOOTTIME: counts through suspend."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Supervision:
    """Follows one command. `leave_out` are children of ours that do not belong to it; `watched` is one of them
    whose end matters (the embedded daemon), 0 for none."""

    def __init__(
        self, child: GatedChild, leave_out: frozenset[int], terminal: Terminal | None, watched: int
    ) -> None:
        self._child = child
        self._leave_out = leave_out
        self._terminal = terminal
        self._shared_terminal = not child.own_group
        self.exited = asyncio.Event()
        self.watched_exited = asyncio.Event()
        """The watched process (the embedded daemon) has ended."""
        self._watched = watched
        self.exit_code: int | None = None
        self.may_continue: Callable[[], bool] = lambda: True
        """Asked before stopped processes are continued: not without the lease."""

    # Signals

    def start(self) -> None:
        """Follow SIGCHLD and forward signals from now on. Needs the running loop of the main thread."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._look)
        for number in TO_COMMAND + TO_GROUP:
            loop.add_signal_handler(number, self._forward, number)
        loop.add_signal_handler(signal.SIGTSTP, self.suspend)
        self._look()

    def finish(self) -> None:
        """End following and reap everything."""
        loop = asyncio.get_running_loop()
        for number in (*TO_COMMAND, *TO_GROUP, signal.SIGTSTP, signal.SIGCHLD):
            loop.remove_signal_handler(number)
        if self._terminal is not None:
            self._terminal.take_back()
        reap(self._leave_out)

    def _forward(self, number: int) -> None:
        if self._shared_terminal and number in TO_GROUP:
            # The terminal has sent it to the command itself.
            return
        try:
            if number in TO_GROUP and self._child.own_group:
                os.killpg(self._child.pid, number)
            elif self.exit_code is None:
                # Not reaped before `finish`: the pid is still the command's.
                os.kill(self._child.pid, number)
        except ProcessLookupError:
            pass

    # State of the command

    def _look(self) -> None:
        self._look_for_exit()
        self._look_for_stop()
        if self._watched and self._has_exited(self._watched):
            self.watched_exited.set()
        reap(self._leave_out | {self._child.pid})

    @staticmethod
    def _has_exited(pid: int) -> bool:
        try:
            found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return True
        return found is not None

    def _look_for_exit(self) -> None:
        if self.exit_code is not None:
            return
        try:
            found = os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            self.exit_code = 1
        else:
            if found is None:
                return
            by_signal = found.si_code != os.CLD_EXITED
            self.exit_code = found.si_status + (EXIT_BY_SIGNAL if by_signal else 0)
        self.exited.set()

    def _look_for_stop(self) -> None:
        if self.exit_code is not None:
            return
        try:
            found = os.waitid(os.P_PID, self._child.pid, os.WSTOPPED | os.WNOHANG)
        except ChildProcessError:
            return
        if found is not None and self._terminal is not None:
            self.suspend()

    def suspend(self) -> None:
        """Stop everything below us, then ourselves, as Ctrl-Z expects; go on when we are continued.

        While we are stopped nobody keeps the deadline here, so nothing that runs under the lease may go on.
        """
        stopped = running(os.getpid(), self._leave_out)
        for entry in stopped:
            send(entry, signal.SIGSTOP)
        if self._terminal is not None:
            self._terminal.take_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        if not self.may_continue():
            return
        if self._terminal is not None:
            self._terminal.lend()
        for entry in stopped:
            send(entry, signal.SIGCONT)

    # The end

    def anything_left(self) -> bool:
        """Whether any process of the command still runs."""
        return bool(running(os.getpid(), self._leave_out))

    async def until_empty(self) -> None:
        """Wait until the command and everything below it has ended by itself."""
        while self.anything_left():
            await asyncio.sleep(END_POLL_S)

    async def end_all(self, *, kill_at: float, first: int = signal.SIGTERM, say: Callable[[str], None]) -> None:
        """End the command and everything below it: `first` now, SIGKILL from `kill_at` (BOOTTIME) on.

        Returns when all are gone. A process that the kernel holds in an unfinished I/O cannot be ended by anybody:
        then this says so and goes on trying.
        """
        # Only what runs now is asked: what a command starts for its own clean-up must be able to do its work.
        asked = False
        next_report = kill_at + STUCK_REPORT_S
        while left := running(os.getpid(), self._leave_out):
            now = boottime()
            if now >= kill_at:
                for entry in left:
                    send(entry, signal.SIGKILL)
                if now >= next_report:
                    pids = ", ".join(str(entry.pid) for entry in left)
                    say(f"SIGKILL has no effect yet on {pids}: waiting in the kernel, most likely for storage")
                    next_report = now + STUCK_REPORT_S
                await asyncio.sleep(KILL_POLL_S)
                continue
            for entry in left if not asked else ():
                send(entry, first)
                # A stopped process takes the signal only when it goes on.
                send(entry, signal.SIGCONT)
            asked = True
            await asyncio.sleep(max(0.0, min(END_POLL_S, kill_at - now)))
