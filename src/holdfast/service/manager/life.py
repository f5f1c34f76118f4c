"""The life of a manager: what it starts first, signals, and its end in order (spec 5.7, 8, 12.1).

An end: the target of its kind is started irreversibly, which stops all units in order; then what is left gets
SIGTERM, and SIGKILL; then `System` does the rest. Each step has a limit.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import logging
import signal
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Final

from holdfast.service.events import Kill
from holdfast.service.exit_status import Code, Result
from holdfast.service.jobs import JobType
from holdfast.service.manager.emergency import Ending, How, Place, System
from holdfast.service.manager.manager import Manager
from holdfast.service.manager.options import DEFAULT_TARGET, ManagerOptions
from holdfast.service.transaction import TransactionError

log = logging.getLogger(__name__)

ORDERED_S: Final = 1800.0
"""All units together; systemd's JobTimeoutSec= of its targets."""
TERM_S: Final = 90.0
"""What is left after that may take so long to end on SIGTERM (DefaultTimeoutStopSec=)."""
KILL_S: Final = 10.0
"""What SIGKILL does not end by then is left to the kernel."""
BURST: Final = 7
BURST_S: Final = 2.0
"""More ctrl-alt-del than this in so many seconds: no order any more."""
EXIT_NOT_STARTED: Final = 1
_SIGNAL_EXIT: Final = 128


class Life:
    """From the first unit to the last."""

    def __init__(self, manager: Manager, system: System, options: ManagerOptions) -> None:
        self.manager = manager
        self.system = system
        self._options = options
        self._ending: Ending | None = None
        self._task: asyncio.Task[None] | None = None
        self._interrupts: collections.deque[float] = collections.deque(maxlen=BURST + 1)
        self._reloading: asyncio.Task[None] | None = None
        self._main_seen = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = self._loop.create_future()
        """The exit status, when everything is over."""
        manager.watch(self._look_at_main)

    @property
    def is_ending(self) -> bool:
        """No unit is started any more."""
        return self._ending is not None

    # Start.

    async def begin(self) -> None:
        """Start the units of the command line, else the default target. One that cannot be is only logged, but
        without the main unit there is nothing to live for.
        """
        main = self._options.main
        units = list(self._options.units or (() if main else (DEFAULT_TARGET,)))
        if main and main not in units:
            units.append(main)
        await self.manager.ensure(units)
        for unit in units:
            try:
                self.manager.request(unit, JobType.START)
            except TransactionError as error:
                log.error("Failed to start %s: %s", unit, error)
                if unit == main:
                    self.end(Ending("exit", How.ORDERED, EXIT_NOT_STARTED))
        self._main_seen = bool(main)
        self._look_at_main()

    def _look_at_main(self) -> None:
        """The main unit is down and stays so: the end, with its exit status."""
        if not self._main_seen or self.is_ending:
            return
        core = self.manager.core
        main = core.graph.resolve(self._options.main)
        if core.active(main).is_down and core.jobs.get(main) is None:
            log.info("Main unit %s has ended.", main)
            self.end(Ending("exit", How.ORDERED, self.main_status()))

    def main_status(self) -> int:
        """What the main unit's process ended with: its exit code; 128 + n if signal n killed it, 0 if that is a
        proper end for it; 1 without a process.
        """
        machine = self.manager.machine(self.manager.core.graph.resolve(self._options.main))
        if machine is None:
            return EXIT_NOT_STARTED
        run = machine.run
        failed = run.result not in (Result.SUCCESS, Result.EXEC_CONDITION)
        if run.main_death is None:
            return EXIT_NOT_STARTED if failed else 0
        if run.main_death.code is Code.EXITED:
            return run.main_death.status or (EXIT_NOT_STARTED if failed else 0)
        return _SIGNAL_EXIT + run.main_death.status if failed else 0

    # The end.

    def end(self, ending: Ending) -> None:
        """Begin to end; a more thorough way overtakes one that has begun, nothing else does."""
        if self._ending is not None:
            if ending.how is How.ORDERED or self._ending.how is not How.ORDERED:
                return
            log.warning("The end in order is given up.")
        self._ending = ending
        if self._task is not None:
            self._task.cancel()
        self._task = self._loop.create_task(self._end(ending))

    async def _end(self, ending: Ending) -> None:
        try:
            if ending.how is How.ORDERED:
                await self._in_order(ending)
            if ending.how is not How.IMMEDIATE:
                log.info("Shutting down.")
                await self._rest()
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("at the end")
        if ending.kind == "exit" and ending.status is None:
            ending = replace(ending, status=self.main_status() if self._options.main else 0)
        if not self.ended.done():
            self.ended.set_result(self.system.end(ending))

    async def _in_order(self, ending: Ending) -> None:
        target = f"{ending.kind}.target"
        log.info("Activating special unit %s...", target)
        await self.manager.ensure([target])
        try:
            job = self.manager.request(target, JobType.START, "replace-irreversibly")
        except TransactionError as error:
            log.error("Failed to start %s: %s", target, error)
            return
        try:
            async with asyncio.timeout(ORDERED_S):
                await job
        except TimeoutError:
            log.error("%s took more than %.0f s: what is left is ended", target, ORDERED_S)

    async def _rest(self) -> None:
        """What no job has stopped: units without default dependencies, and processes that stayed."""
        self.manager.freeze()
        for number, limit in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, KILL_S)):
            living = self.manager.living()
            if not living:
                return
            log.info("Sending %s to remaining processes...", signal.Signals(number).name)
            for unit, pids in living.items():
                file = self.manager.core.graph.unit(unit).file
                if file is not None:
                    self.manager.host.perform(unit, file, Kill(pids, number, everybody=True))
            await self._all_gone(limit)
        for unit, pids in self.manager.living().items():
            log.error("%s: processes %s survive SIGKILL", unit, ", ".join(map(str, sorted(pids))))

    async def _all_gone(self, limit: float) -> None:
        gone = asyncio.Event()
        left = list(self.manager.living())

        def look() -> None:
            # One unit at a time: with hundreds of them, to ask all after each death would take a minute.
            while left and not self.manager.has_processes(left[-1]):
                left.pop()
            if not left:
                gone.set()

        self.manager.watch(look)
        look()
        try:
            async with asyncio.timeout(limit):
                await gone.wait()
        except TimeoutError:
            pass

    # Signals.

    def handle_signals(self) -> None:
        """Install handlers for everything that means something (12.1)."""
        for number, action in self.signals().items():
            self._loop.add_signal_handler(number, self._signal, number, action)

    def _signal(self, number: int, action: Callable[[], None]) -> None:
        log.info("Received %s.", signal_text(number))
        action()

    def signals(self) -> dict[int, Callable[[], None]]:
        """Signal number to what it does."""
        minimum = int(signal.SIGRTMIN)
        machine = self.system.place is Place.MACHINE
        found: dict[int, Callable[[], None]] = {
            int(signal.SIGTERM): self._hang_up if machine else self._terminate,
            int(signal.SIGINT): self._interrupt,
            int(signal.SIGHUP): self._hang_up,
            int(signal.SIGUSR1): lambda: None,
            int(signal.SIGUSR2): self._dump,
            minimum + 24: (lambda: None) if machine else lambda: self.end(Ending("exit", How.FORCE)),
        }
        if self.system.place is not Place.BESIDE:
            found[int(signal.SIGPWR)] = lambda: self._start("sigpwr.target", "replace")
        if machine:
            found[int(signal.SIGWINCH)] = lambda: self._start("kbrequest.target", "replace")
        for offset, target in ((0, "default"), (1, "rescue"), (2, "emergency")):
            found[minimum + offset] = functools.partial(self._start, f"{target}.target", "isolate")
        for offset, kind in ((3, "halt"), (4, "poweroff"), (5, "reboot"), (6, "kexec")):
            found[minimum + offset] = functools.partial(self.end, Ending(kind, How.ORDERED))
        for offset, kind in ((13, "halt"), (14, "poweroff"), (15, "reboot"), (16, "kexec")):
            found[minimum + offset] = functools.partial(self.end, Ending(kind, How.FORCE))
        return found

    def _terminate(self) -> None:
        self.end(Ending("exit", How.ORDERED))

    def _interrupt(self) -> None:
        """Ctrl-alt-del of a machine; elsewhere as SIGTERM."""
        now = self._loop.time()
        self._interrupts.append(now)
        burst = len(self._interrupts) > BURST and now - self._interrupts[0] <= BURST_S
        if self.system.place is Place.BESIDE:
            self.end(Ending("exit", How.FORCE if burst else How.ORDERED))
        else:
            kind = "reboot" if self.system.place is Place.MACHINE else "exit"
            self.end(Ending(kind, How.FORCE if burst else How.ORDERED))

    def _hang_up(self) -> None:
        if self._reloading is None or self._reloading.done():
            self._reloading = self._loop.create_task(self._reload())

    async def _reload(self) -> None:
        try:
            await self.manager.reload()
        except Exception:
            log.exception("reload")

    def _start(self, target: str, mode: str) -> None:
        if not self.is_ending:
            self._later(self._started(target, mode))

    async def _started(self, target: str, mode: str) -> None:
        await self.manager.ensure([target])
        try:
            self.manager.request(target, JobType.START, mode)
        except TransactionError as error:
            log.error("Failed to start %s: %s", target, error)

    def _later(self, what: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _dump(self) -> None:
        """SIGUSR2: the state of all units, to the log."""
        core = self.manager.core
        for unit in sorted(core.graph.units):
            active = core.active(unit)
            job = core.jobs.get(unit)
            if not active.is_down or job is not None:
                waiting = f", job {job.type.value} {'running' if job.running else 'waiting'}" if job else ""
                log.info("%s: %s (%s)%s", unit, active.value, self.manager.sub_state(unit), waiting)

    async def close(self) -> None:
        """No task is left."""
        tasks = [task for task in (self._task, self._reloading, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def signal_text(number: int) -> str:
    """`SIGTERM`, `SIGRTMIN+3`."""
    minimum = int(signal.SIGRTMIN)
    if minimum <= number <= int(signal.SIGRTMAX):
        return f"SIGRTMIN+{number - minimum}"
    return signal.Signals(number).name
