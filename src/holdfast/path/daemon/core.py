"""The path daemon: one loop that owns all paths and maps (spec path 4, 14).

    daemon = PathDaemon(options, Control, discovery, make_checker, choices_of(config), ...)
    await daemon.start()        the first configuration
    await daemon.run()          until `shutdown`, or until cancelled
    await daemon.stop()         queue_without_daemon; maps stay

Nothing here waits for a device, a file or the kernel on the loop. Without a device-mapper it checks paths, says
so, and tries again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol

from holdfast.path import conf_reload
from holdfast.path.conf import Config
from holdfast.path.control.operations import Refused
from holdfast.path.daemon.arrivals import Arrivals
from holdfast.path.daemon.blocking import Threads
from holdfast.path.daemon.checkers import Checkers
from holdfast.path.daemon.choices import Choices
from holdfast.path.daemon.configure import Configurator
from holdfast.path.daemon.ending import end_queueing
from holdfast.path.daemon.files import StateFiles
from holdfast.path.daemon.kernel_events import KernelEvents
from holdfast.path.daemon.listing import Listing
from holdfast.path.daemon.making import LIST_LANE, Maker
from holdfast.path.daemon.map_commands import MapCommands
from holdfast.path.daemon.occasion import Occasion
from holdfast.path.daemon.options import PathOptions
from holdfast.path.daemon.parts import Parts
from holdfast.path.daemon.path_commands import PathCommands
from holdfast.path.daemon.path_tables import PathTables
from holdfast.path.daemon.queueing_commands import QueueingCommands
from holdfast.path.daemon.registry import KnownMap, KnownPath
from holdfast.path.daemon.reservation_commands import ReservationCommands
from holdfast.path.daemon.retriggers import Retriggers
from holdfast.path.daemon.settle import Settler
from holdfast.path.daemon.shared import Shared, name_of_number
from holdfast.path.daemon.watches import Watches
from holdfast.path.daemon.wishes import Deeds, Wishes
from holdfast.path.daemon.world import AskPriority, Blocking, Discovery, DmCalls, LockPaths, MakeChecker
from holdfast.path.dm import DeviceMapper
from holdfast.path.kernel import ThreadedKernel

DM_RETRY_S: Final = 10.0
"""Between two attempts to open a device-mapper that is not there."""
STEP_S: Final = 60.0
"""How long one step of a configuration may take: the kernel is asked with a limit of 30 s each time."""
CONFIGURE: Final = "configure"
JUDGED_S: Final = 3.0
"""So long `reconfigure` waits for the verdict on the files: less than a client waits."""

_log: Final = logging.getLogger(__name__)


class Promises(Protocol):
    """Whom the service manager's watchdog asks: `liveness.Promises`."""

    def back_by(self, who: str, until: float) -> None: ...

    def done(self, who: str) -> None: ...


class NoPromises:
    """Nobody asks."""

    def back_by(self, who: str, until: float) -> None:
        """Nothing to remember."""

    def done(self, who: str) -> None:
        """Nothing to forget."""


def _no_locks(devices: list[str]) -> AbstractContextManager[None]:
    return nullcontext()


def _looked_at(answer: asyncio.Future[str]) -> None:
    if not answer.cancelled():
        answer.exception()


class PathDaemon(MapCommands, PathCommands, QueueingCommands, ReservationCommands, Listing):
    """Also the `Operations` of the CLI socket."""

    def __init__(
        self,
        options: PathOptions,
        open_dm: Callable[[], DeviceMapper],
        discovery: Discovery,
        make_checker: MakeChecker,
        config: Config,
        choose: Callable[[Config], Choices],
        load_config: Callable[[], Config],
        *,
        priority: AskPriority | None = None,
        deeds: Deeds | None = None,
        lock_paths: LockPaths = _no_locks,
        calls_of: Callable[[DeviceMapper], DmCalls] = ThreadedKernel,
        blocking: Blocking | None = None,
        name_of: Callable[[str], str] = name_of_number,
        on_state: Callable[[str], None] = lambda state: None,
        on_config: Callable[[Config], None] = lambda config: None,
        on_end: Callable[[], None] = lambda: None,
        promises: Promises | None = None,
    ) -> None:
        """On the running loop. `open_dm` and `load_config` block and are called in threads; `open_dm` raises
        OSError where there is no device-mapper. `choose` makes a configuration's answers. `on_state` hears
        each new state, `on_config` each configuration that a reconfigure has put in force.
        """
        blocking = blocking if blocking is not None else Threads()
        shared = Shared(options, discovery, blocking, StateFiles(options, blocking), choose(config), name_of)
        self._open_dm = open_dm
        self._calls_of = calls_of
        self._choose = choose
        self._load_config = load_config
        self._on_state = on_state
        self.on_config = on_config
        self._remarks: set[str] = set()
        """What was said of the configuration in force."""
        self._on_end = on_end
        self._promises = promises if promises is not None else NoPromises()
        self._dm: DeviceMapper | None = None
        self._state = "init"
        self._configuring = asyncio.Lock()
        self._waiting: list[tuple[bool, asyncio.Future[str]]] = []
        self._reconfigure_wanted = asyncio.Event()
        self._ending = asyncio.Event()
        checkers = Checkers(shared.registry, make_checker)
        watches = Watches(
            shared,
            checkers,
            priority=priority,
            ask=lambda ask: self._wishes.ask(ask),
            gone=self._gone,
            weighed=self._weighed,
        )
        maker = Maker(shared, watches, lock_paths)
        settler = Settler(shared, watches, maker)
        maker.release, maker.confirmed = settler.release, settler.confirmed
        maker.partial = lambda path: self._retriggers.watch(path)
        tables = PathTables(shared, watches, checkers)
        settler.drop = tables.drop
        retriggers = Retriggers(shared, self._without_udev)
        arrivals = Arrivals(shared, tables, watches, settler, maker, retriggers)
        super().__init__(Parts(shared, tables, watches, settler, maker, arrivals))
        self._retriggers = retriggers
        self._configurator = Configurator(shared, tables, watches, settler, maker, retriggers)
        self._wishes = Wishes(
            shared,
            deeds or Deeds(),
            look_again=arrivals.look_again,
            removed=arrivals.removed,
            key_of=self.key_of,
        )

    # State.

    @property
    def state(self) -> str:
        """init, startup, configure, idle, running, shutdown."""
        if self._state == "idle" and (self.is_busy or self._parts.settler.under_way):
            return "running"
        return self._state

    @property
    def reconfigure_is_pending(self) -> bool:
        """One was asked for and has not begun."""
        return bool(self._waiting)

    def stalled(self) -> str | None:
        """Who should drive checks and does not, in one line for the log; None: all is well."""
        return self._parts.watches.stalled()

    def progress(self) -> int:
        """Steps of configurations done so far: that it grows shows that nothing hangs."""
        return self._shared.progress

    def _enter(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._on_state(state)

    # Life.

    async def start(self) -> None:
        """The first configuration. Events are heard before devices are read, so that none is missed."""
        self._enter("startup")
        try:
            self._shared.discovery.start()
        except OSError as error:
            _log.error("no uevents: new paths are found by reconfigure only: %s", error)
        await self._open()
        if self._shared.options.monitor_only:
            _log.info("only watching: nothing is changed")
        async with self._configuring:
            await self._configure("start", all_maps=False)

    async def run(self) -> None:
        """Until `shutdown` is asked for, or until cancelled."""
        parts = [
            asyncio.create_task(self._parts.arrivals.run(), name="uevents"),
            asyncio.create_task(self._kernel(), name="device-mapper events"),
            asyncio.create_task(self._reconfigures(), name="reconfigures"),
            asyncio.create_task(self._rescans(), name="rescans"),
        ]
        ending = asyncio.create_task(self._ending.wait(), name="ending")
        try:
            done, _ = await asyncio.wait([*parts, ending], return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                part.result()
        finally:
            for part in [*parts, ending]:
                part.cancel()
            await asyncio.wait([*parts, ending])

    async def stop(self) -> None:
        """Checks end, queueing ends as queue_without_daemon says, maps stay."""
        self._enter("shutdown")
        for _, answer in self._waiting:
            if not answer.done():
                answer.set_exception(Refused("the daemon ends"))
        self._waiting.clear()
        await self._parts.settler.close()
        await self._retriggers.close()
        await self._wishes.close()
        self._parts.maker.close()
        maps = list(self._shared.registry.maps.values())
        await self._parts.watches.close()
        await end_queueing(self._shared, maps)
        self._shared.discovery.close()
        self._shared.blocking.close()
        self._on_end()
        if self._shared.calls is not None:
            self._shared.calls.close()

    async def _open(self) -> bool:
        """The device-mapper, if it is there."""
        try:
            self._dm = await self._shared.blocking.run(LIST_LANE, self._open_dm)
        except OSError as error:
            _log.error("no device-mapper: paths are checked, maps cannot be made: %s", error)
            return False
        self._shared.calls = self._calls_of(self._dm)
        return True

    async def _kernel(self) -> None:
        """The device-mapper's events; before that, waiting for it to be there."""
        while self._dm is None:
            await asyncio.sleep(DM_RETRY_S)
            if await self._open():
                async with self._configuring:
                    await self._configure("there is a device-mapper", all_maps=False)
        if self._shared.options.poll_events:
            await KernelEvents(self._shared, self._parts.settler, self._dm).run()
        await asyncio.Event().wait()

    async def _rescans(self) -> None:
        """Events were lost: look at all devices again."""
        wanted = self._parts.arrivals.rescan_wanted
        while True:
            await wanted.wait()
            wanted.clear()
            async with self._configuring:
                await self._configure("uevents were lost", all_maps=False, quietly=True)

    # Configurations.

    async def reconfigure(self, all_maps: bool) -> str:
        """Read the files again. Answers when they were taken over, or after `JUDGED_S`; maps follow afterwards.
        Refused: the running configuration stays.
        """
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_looked_at)
        self._waiting.append((all_maps, answer))
        self._reconfigure_wanted.set()
        done, _ = await asyncio.wait([answer], timeout=JUDGED_S)
        return answer.result() if done else ""

    async def _reconfigures(self) -> None:
        """Those that come while one waits are done with it."""
        while True:
            await self._reconfigure_wanted.wait()
            self._reconfigure_wanted.clear()
            async with self._configuring:
                waiting, self._waiting = self._waiting, []
                await self._again(any(all_maps for all_maps, _ in waiting), [answer for _, answer in waiting])

    async def _again(self, all_maps: bool, answers: list[asyncio.Future[str]]) -> None:
        self._enter(CONFIGURE)
        self._promise()
        try:
            error = await self._take_over()
            for answer in answers:
                if answer.done():
                    continue
                if error is not None:
                    answer.set_exception(error)
                else:
                    answer.set_result("")
            if error is None:
                await self._configure("reconfigure", all_maps=all_maps)
        finally:
            self._promises.done(CONFIGURE)
            self._enter("idle")

    async def _take_over(self) -> Refused | None:
        """A new configuration is in force, or why not."""
        try:
            # It may be large and hostile: seconds of work, not on the loop.
            fresh = await self._shared.blocking.run("configuration", self._load_config)
        except OSError as error:
            _log.error("configuration not taken over: %s", error)
            return Refused(f"configuration not taken over: {error}")
        found = conf_reload.reload(self._shared.choices.config, fresh)
        for remark in found.remarks:
            if not found.taken or remark not in self._remarks:
                _log.error("%s", remark)
        if not found.taken:
            return Refused("\n".join(found.remarks))
        self._remarks = set(found.remarks)
        self._shared.choices = self._choose(found.config)
        self.on_config(found.config)
        return None

    async def _configure(self, why: str, *, all_maps: bool, quietly: bool = False) -> None:
        if not quietly:
            self._enter(CONFIGURE)
        promising = asyncio.create_task(self._keep_promising(), name="promises")
        try:
            await self._configurator.configure(all_maps=all_maps, why=why)
        except OSError as error:
            _log.error("%s: devices cannot be read: %s", why, error)
        finally:
            promising.cancel()
            await asyncio.wait([promising])
            self._promises.done(CONFIGURE)
        if not quietly:
            self._enter("idle")

    def _promise(self) -> None:
        self._promises.back_by(CONFIGURE, asyncio.get_running_loop().time() + STEP_S)

    async def _keep_promising(self) -> None:
        """A configuration that goes on may take its time; one that stands still breaks the promise."""
        seen = -1
        while True:
            if seen != self._shared.progress:
                seen = self._shared.progress
                self._promise()
            await asyncio.sleep(1.0)

    # What the parts tell each other.

    def _gone(self, known: KnownMap) -> None:
        self._parts.maker.confirm_quietly(known)
        self._shared.names.remove(known.record.name)
        self._parts.settler.release(known)

    def _weighed(self, path: KnownPath) -> None:
        if path.map is not None:
            # Later, when the map's rules know the priority too.
            occasion = Occasion("first priority of a path", may_create=False)
            asyncio.get_running_loop().call_later(0.5, self._parts.settler.soon, path.wwid, occasion)

    async def _without_udev(self, path: KnownPath) -> object:
        return await self._parts.arrivals.look_again(path.info.dev, is_new=True, fallback=True)

    async def shutdown(self) -> str:
        """`run` returns."""
        self._ending.set()
        return ""
