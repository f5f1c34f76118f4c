"""Start and end of the manager as a process (spec 12): lock, unit files, control socket, signals, liveness.

Order of start: lock file, so that there is one manager per run directory; units of the defaults; control socket;
signals; then the first unit.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from holdfast import notify
from holdfast.daemons import memory
from holdfast.service.conditions import answer
from holdfast.service.control.server import ControlServer, listen
from holdfast.service.control.verbs import Verbs
from holdfast.service.manager.emergency import Place, System, find_place, system_for
from holdfast.service.manager.environment import ManagerEnvironment
from holdfast.service.manager.host_view import this_host, this_view
from holdfast.service.manager.life import Life
from holdfast.service.manager.liveness import Liveness, timeout_of
from holdfast.service.manager.loading import Loader
from holdfast.service.manager.log_level import LogLevel
from holdfast.service.manager.log_store import LogStore
from holdfast.service.manager.manager import Manager
from holdfast.service.manager.options import LOCK_NAME, ManagerOptions, StartError
from holdfast.service.manager.shell import Shell
from holdfast.service.manager.threads import DiskThreads
from holdfast.service.manager_conf import load_defaults
from holdfast.service.process.plan import DEFAULT_PATH
from holdfast.service.settings import Condition
from holdfast.watchdog import settings as watchdog_settings

log = logging.getLogger(__name__)

RUN_DIR_MODE: Final = 0o755


def make_run_dir(options: ManagerOptions) -> None:
    """Made when missing. StartError."""
    try:
        os.makedirs(options.run_dir, RUN_DIR_MODE, exist_ok=True)
    except OSError as error:
        raise StartError(f"run directory {options.run_dir}: {error.strerror}") from error
    closed = closed_to_others(options.run_dir)
    if closed and os.geteuid() == 0:
        log.warning("services with User= cannot reach the notify socket: only its owner may enter %s", closed)


def closed_to_others(path: str) -> str:
    """The directory on the way that other users may not enter; empty: there is none."""
    for place in (path, *map(str, Path(path).parents)):
        try:
            if not os.stat(place).st_mode & stat.S_IXOTH:
                return place
        except OSError:
            return place
    return ""


def take_lock_file(options: ManagerOptions) -> int:
    """The descriptor that holds the lock. The second manager of a run directory fails here."""
    path = os.path.join(options.run_dir, LOCK_NAME)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise StartError(f"lockfile {path}: {error.strerror}") from error
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise StartError(f"lockfile {path}: {error.strerror}; another manager runs there") from error
    os.ftruncate(fd, 0)
    os.write(fd, b"%d\n" % os.getpid())
    return fd


def run_daemon(
    options: ManagerOptions, on_ready: Callable[[], None] = lambda: None, log_level: LogLevel | None = None
) -> int:
    """Run until it is over; the exit status. StartError. `on_ready`: requests are served from now on; `log_level`:
    what `log-level` sets.
    """
    make_run_dir(options)
    lock = take_lock_file(options)
    try:
        place = find_place()
        return asyncio.run(_life(options, place, system_for(place, options.host_actions), on_ready, log_level))
    finally:
        os.close(lock)


async def _life(
    options: ManagerOptions, place: Place, system: System, on_ready: Callable[[], None], log_level: LogLevel | None
) -> int:
    disk = DiskThreads()
    try:
        return await _live(options, place, system, on_ready, log_level, disk)
    finally:
        disk.close()


async def _live(
    options: ManagerOptions,
    place: Place,
    system: System,
    on_ready: Callable[[], None],
    log_level: LogLevel | None,
    disk: DiskThreads,
) -> int:
    defaults, complaints = await disk(load_defaults, options.root)
    for complaint in complaints:
        log.warning("%s", complaint)
    watchdog = await disk(watchdog_settings.load, options.root)
    view = await disk(this_view, options.root)
    waiting: list[tuple[str, str, int]] = []
    loader = Loader(
        options.root,
        options.unit_path,
        await disk(this_host, options.root),
        defaults,
        lambda unit, text, level: waiting.append((unit, text, level)),
        options.whole_boot,
        disk,
        options.control_units,
    )
    await loader.start()

    def holds(condition: Condition, asserted: bool) -> bool:
        return answer(condition, asserted, view, lambda text: log.warning("%s", text))

    environment = ManagerEnvironment({"PATH": DEFAULT_PATH} | dict(defaults.environment))
    shell = Shell(options, environment)
    store = LogStore(options.log_path)
    manager = Manager(loader, shell.make_host, holds, place, shell.make_triggers, store=store,
                      environment=environment, watchdog=watchdog, log_level=log_level)  # fmt: skip
    await shell.start(manager)
    loader.tell_to(manager.say)
    for line in waiting:
        manager.say(*line)
    life = Life(manager, system, options)
    manager.end_by(life.end)
    try:
        listener = listen(options.control_path)
    except OSError as error:
        raise StartError(f"{options.control_path}: {error.strerror}") from error
    loop = asyncio.get_running_loop()
    timeout_s = timeout_of(options, place, watchdog)
    guard = Liveness(manager, timeout_s, options.watchdog_socket, summons=not options.watchdog_s)
    with listener:
        server = ControlServer(listener, Verbs(manager, life).answer, manager.feed)
        life.handle_signals()
        parts = [loop.create_task(server.run()), loop.create_task(guard.keep())]
        parts.append(loop.create_task(notify.keep_watchdog_alive()))
        log.info("supervisor started, socket %s", options.control_path)
        loop.call_soon(on_ready)
        try:
            manager.watch(_once_idle(manager, memory.settle))
            await life.begin()
            notify.ready()
            status = await life.ended
            notify.stopping()
            return status
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            await life.close()
            await manager.close()
            try:
                os.unlink(options.control_path)
            except OSError:
                pass


def _once_idle(manager: Manager, call: Callable[[], None]) -> Callable[[], None]:
    """A watcher that has something done once, when the jobs of the start have ended."""
    loop = asyncio.get_running_loop()
    done = False

    def look() -> None:
        nonlocal done
        if manager.was_idle and not done:
            done = True
            loop.call_soon(call)

    return look
