"""The path daemon as a process: start, signals, end (spec path 14), and what the service manager is told (5.1).

Order of start: pid file, configuration, limits, listening sockets, the first configure; the CLI is answered from
before that on. The checks themselves are `core.PathDaemon`'s.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final, Protocol

from holdfast.daemons.background import Starter, become_background_process
from holdfast.daemons.log import LOG_NONE, DaemonLog, LogSettings
from holdfast.path.conf import Config
from holdfast.path.control.listening import Listeners
from holdfast.path.control.operations import Operations, Refused
from holdfast.path.daemon import liveness, privileges
from holdfast.path.daemon.configuration import load_config, log_config
from holdfast.path.daemon.notifying import Notifier
from holdfast.path.daemon.pid_file import PidFile
from holdfast.path.daemon.process_options import ProcessOptions, StartError
from holdfast.path.daemon.process_settings import ProcessSettings, log_level
from holdfast.path.daemon.sockets import listeners
from holdfast.version import __version__

log = logging.getLogger(__name__)

NAME: Final = "holdfast path daemon"
IDENTIFIER: Final = "multipathd"
"""What administrators already search for."""
EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
"""Starting again would not help: RestartPreventExitStatus=1 in the unit."""
EXIT_DEFECT: Final = 70
"""An error of ours: the service manager should start the daemon again."""
UMASK: Final = 0o022
THREAD_STACK_BYTES: Final = 512 * 1024
STOP_S: Final = 20.0
"""How long the end may take; storage that hangs must not keep the host from shutting down."""


class Core(Operations, Protocol):
    """The daemon proper. `on_state` of its maker is called with each new state (6.4, `show daemon`)."""

    on_config: Callable[[Config], None]
    """Called with each configuration that a reconfigure has put in force."""

    def stalled(self) -> str | None:
        """Who should drive checks and does not, in one line for the log; None: all is well."""
        ...

    async def start(self) -> None:
        """The first configure. StartError: it cannot be; a cancelled one leaves nothing behind after `stop`."""
        ...

    async def run(self) -> None:
        """Until `shutdown` is asked for over the CLI, or until cancelled; raises what nobody can mend."""
        ...

    async def stop(self) -> None:
        """Maps stay; queueing ends as queue_without_daemon says."""
        ...


class Server(Protocol):
    """Answers the CLI."""

    timeout_s: float
    """uxsock_timeout."""

    async def run(self) -> None: ...


MakeCore = Callable[[ProcessOptions, Config, Callable[[str], None], liveness.Promises], Core]
MakeServer = Callable[[ProcessOptions, Listeners, Core, Config], Server]


def run_process(options: ProcessOptions, foreground: bool, make_core: MakeCore, make_server: MakeServer) -> int:
    """Run until a signal or the CLI ends it; the exit status. Not in the foreground, only the child returns from
    here: the parent leaves with the status of the start.
    """
    threading.stack_size(THREAD_STACK_BYTES)
    starter = Starter() if foreground else become_background_process(NAME)
    notifier = Notifier()
    status = EXIT_DEFECT
    pid_file = None
    notifier.state("startup")
    config = load_config(options)
    daemon_log = _start_log(options, foreground, config)
    try:
        log.info("%s %s: start up", NAME, __version__)
        log_config(config)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        os.umask(UMASK)
        _make_run_dir(options)
        pid_file = PidFile(options.pid_path)
        if config.fatal:
            reasons = [one.shown for one in config.diagnostics if one.fatal]
            raise StartError(f"configuration: {'; '.join(reasons)}; see holdfast path config check")
        privileges.raise_descriptor_limit(config.default("max_fds").value)
        privileges.protect()
        gc.collect()
        gc.freeze()
        life = Life(options, config, notifier, starter.ready, ProcessSettings(options, config, daemon_log))
        asyncio.run(life.serve(make_core, make_server))
        status = EXIT_OK
    except StartError as error:
        status = EXIT_FAILED
        log.error("%s", error)
        starter.failed(str(error))
    except Exception as error:
        starter.failed(f"unexpected error: {error!r}; see the log")
        log.exception("unexpected error")
    finally:
        if pid_file is not None:
            pid_file.release()
        notifier.ended(status)
        daemon_log.close()
    return status


def _start_log(options: ProcessOptions, foreground: bool, config: Config) -> DaemonLog:
    level = log_level(options, config)
    return DaemonLog(
        LogSettings(
            identifier=IDENTIFIER,
            foreground=foreground,
            log_level=level,
            time_stamps=options.time_stamps,
            # In the foreground stderr has them, and the journal when stderr is the journal.
            syslog_priority=LOG_NONE if foreground else level,
        )
    )


def _make_run_dir(options: ProcessOptions) -> None:
    try:
        os.makedirs(options.run_dir, exist_ok=True)
    except OSError as error:
        raise StartError(f"run directory {options.run_dir}: {error.strerror}") from error


class Life:
    """The daemon from its first to its last loop turn."""

    def __init__(
        self,
        options: ProcessOptions,
        config: Config,
        notifier: Notifier,
        on_ready: Callable[[], None],
        settings: ProcessSettings,
    ) -> None:
        self._options = options
        self._config = config
        self._notifier = notifier
        self._on_ready = on_ready
        self._settings = settings
        self._quitting = asyncio.Event()
        self._reconfigures: set[asyncio.Task[str]] = set()
        self.promises = liveness.Promises()

    async def serve(self, make_core: MakeCore, make_server: MakeServer) -> None:
        """`run` with sockets of its own, or inherited ones. StartError."""
        sockets = listeners(self._options)
        try:
            await self.run(sockets, make_core, make_server)
        finally:
            sockets.close()

    async def run(self, sockets: Listeners, make_core: MakeCore, make_server: MakeServer) -> None:
        """Until the end is wanted, or a part of it fails: then what it raised."""
        core = make_core(self._options, self._config, self._notifier.state, self.promises)
        server = make_server(self._options, sockets, core, self._config)
        self._settings.server = server
        core.on_config = self._settings.apply
        self._obey_signals(core)
        parts = [
            asyncio.create_task(server.run(), name="command line"),
            asyncio.create_task(self._check(core), name="checks"),
        ]
        quitting = asyncio.create_task(self._quitting.wait(), name="signals")
        try:
            done, _ = await asyncio.wait([*parts, quitting], return_when=asyncio.FIRST_COMPLETED)
            for part in parts:
                if part in done:
                    part.result()
        finally:
            self._notifier.state("shutdown")
            await self._end(core, parts[1:], [parts[0], quitting, *self._reconfigures])

    async def _check(self, core: Core) -> None:
        await core.start()
        # Paths and maps stay as long as we do: the collector need not look at them again and again.
        gc.collect()
        gc.freeze()
        self._on_ready()
        interval_s = liveness.interval(self._options.watchdog_takes_over_intervals)

        def broken(now: float) -> str | None:
            return self.promises.broken(now) or core.stalled()

        pings = asyncio.create_task(liveness.Liveness(interval_s, broken).run(), name="watchdog")
        try:
            await core.run()
        finally:
            await _cancelled([pings])

    async def _end(self, core: Core, checks: list[asyncio.Task[None]], others: list[asyncio.Task[object]]) -> None:
        """Checks end before queueing is switched off; the command line answers until then."""
        await _bounded(_cancelled(checks), "checks")
        await _bounded(core.stop(), "the end")
        await _bounded(_cancelled(others), "the command line")

    def _obey_signals(self, core: Core) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._quit, signal.Signals(number).name)
        loop.add_signal_handler(signal.SIGHUP, self._reconfigure, core)
        loop.add_signal_handler(signal.SIGUSR1, log.info, "SIGUSR1: the log needs no reset")
        loop.add_signal_handler(signal.SIGUSR2, lambda: None)

    def _quit(self, name: str) -> None:
        log.info("%s: leaving", name)
        self._quitting.set()

    def _reconfigure(self, core: Core) -> None:
        """SIGHUP. Those that come while one waits are one."""
        if len(self._reconfigures) > 1:
            return
        log.info("reconfigure (SIGHUP)")
        task = asyncio.create_task(_logged(core.reconfigure(False), "reconfigure"), name="SIGHUP")
        self._reconfigures.add(task)
        task.add_done_callback(self._reconfigures.discard)


async def _logged(work: Coroutine[object, object, str], what: str) -> str:
    try:
        return await work
    except Refused as refused:
        log.error("%s refused: %s", what, " ".join(refused.text.split()))
        return ""
    except Exception as error:  # nobody waits for its result; the daemon goes on with what it has
        log.exception("%s failed: %s", what, error)
        return ""


async def _cancelled(tasks: list[asyncio.Task[None]] | list[asyncio.Task[object]]) -> None:
    """Cancel and wait; what they raise has been looked at, or does not matter any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _bounded(work: Awaitable[None], what: str) -> None:
    try:
        async with asyncio.timeout(STOP_S):
            await work
    except TimeoutError:
        log.error("%s: not done after %.0f s, left behind", what, STOP_S)
