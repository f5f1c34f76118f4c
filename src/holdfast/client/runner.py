"""`holdfast run`: a command that runs only while this host holds its leases (issue scope 7).

Order: fork the gated child, find or start a daemon, join, locate, acquire for the child's pid, prove, open the
gate. From then on this process is a second guard beside the daemon: it asks for proof each io_timeout and ends
the command and all its descendants when there is none by `last renewal + 8·io_timeout`, whatever the daemon
does. The lease is given back only when every descendant is gone.

Must never let the command begin without proof, and never return while something of it runs.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.client import locations
from holdfast.client.acquiring import PASSING, Obstacle, acquire_patiently, find_obstacle
from holdfast.client.addresses import LeaseAddress
from holdfast.client.connection import socket_path
from holdfast.client.daemon import Daemon
from holdfast.client.embedded import (
    LEAVE_TIMEOUT_S,
    LOST_LEAVE_TIMEOUT_S,
    CommandLine,
    EmbeddedDaemon,
    our_daemon,
)
from holdfast.client.errors import ClientError, DaemonUnreachable, NotAcquired
from holdfast.client.gated import GatedChild, become_subreaper, exec_exit_code
from holdfast.client.proof import Held, Proof, Verdict, read_clocks
from holdfast.client.report import Report
from holdfast.client.space import SpaceRequest, ensure_joined, locate, make_space_file
from holdfast.client.status import SpaceStatus, Status
from holdfast.client.supervision import EXIT_BY_SIGNAL, SIGNAL_NAMES, Supervision, boottime
from holdfast.client.terminal import Terminal, in_shared_foreground, leads_foreground
from holdfast.client.warden import MARK_NAME, Warden
from holdfast.client.watch import LeaseWatch
from holdfast.lease import timing
from holdfast.leased import wire

EXIT_FAILED = 1
EXIT_NOT_ACQUIRED = 73
EXIT_LOST = 74
DEFAULT_FILE_IO_TIMEOUT_S = 2
"""For lease files that `run` makes itself: joining takes 2·io, and nobody likes to wait 20 s for a command."""
GRACE_MARGIN_S = 1
"""SIGKILL must come at least this long before the other hosts may take over."""
PROBE_TIMEOUT_S = 5.0
RELEASE_TIMEOUT_S = 20.0
NO_KILLPATH = "/bin/true"
"""With --on-lost=exec the daemon runs this instead of sending SIGTERM: the grace time belongs to the handler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What `run` is told. Times in seconds."""

    leases: Sequence[LeaseAddress]
    command: Sequence[str]
    space_path: str = ""
    space_offset: int = 0
    host_id: int = 0
    io_timeout: int = 0
    wait_s: float | None = None
    """None waits for ever, 0 tries once."""
    shared: bool = False
    kill_grace: int | None = None
    on_lost: str = "term"
    """`term`, `kill`, or `exec` with `on_lost_command`."""
    on_lost_command: str = ""
    wait_for_descendants: bool = False
    run_dir: str | None = None
    """Given explicitly: that daemon or none. None: the default one, or a private one when none answers."""
    embedded: CommandLine | None = field(default=None, repr=False)
    """How to start the private daemon; None: our own."""


def run(options: RunOptions, report: Report) -> int:
    """Run the command under its leases; its exit code, or EXIT_NOT_ACQUIRED, EXIT_LOST, 126, 127, 128 + signal.

    ClientError, LeaseError or OSError when it could not begin for another reason. To be called by the main
    thread of a process that has no other threads: it forks.
    """
    become_subreaper()
    child = GatedChild.fork(options.command, own_group=not in_shared_foreground())
    warden = Warden.fork(child.pid if child.own_group else 0)
    terminal = Terminal(child.pid) if child.own_group and leads_foreground() else None
    try:
        return asyncio.run(_Run(options, report, child, warden, terminal).main())
    finally:
        warden.dismiss()


class _Run:
    """One run, step by step."""

    def __init__(
        self,
        options: RunOptions,
        report: Report,
        child: GatedChild,
        warden: Warden,
        terminal: Terminal | None,
    ) -> None:
        self._options = options
        self._report = report
        self._child = child
        self._warden = warden
        self._terminal = terminal
        self._embedded: EmbeddedDaemon | None = None
        self._daemon = Daemon(options.run_dir)
        self._spaces: dict[str, SpaceStatus] = {}
        self._fire_timeout = timing.DEFAULT_FIRE_TIMEOUT_S
        self._interrupted = 0
        self._lost = False

    async def main(self) -> int:
        """Everything, with the clean end in every case."""
        body = asyncio.current_task()
        assert body is not None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._interrupt, number, body)
        try:
            return await self._run()
        except asyncio.CancelledError:
            if not self._interrupted:
                raise
            self._report.say(f"{SIGNAL_NAMES[self._interrupted]} before the lease was acquired")
            return EXIT_BY_SIGNAL + self._interrupted
        except NotAcquired as error:
            self._report.say(f"not acquired: {error}")
            return EXIT_NOT_ACQUIRED
        finally:
            self._child.abandon()
            await asyncio.shield(self._leave())

    def _interrupt(self, number: int, body: asyncio.Task[object]) -> None:
        # Only until the command begins: then the signals are its.
        self._interrupted = number
        body.cancel()

    async def _run(self) -> int:
        options, child = self._options, self._child
        await self._find_daemon()
        leases = await self._prepare_leases()
        killpath = NO_KILLPATH if options.on_lost == "exec" else ""
        # RESTRICT_SIGTERM means: SIGKILL from the first round. RESTRICT_ALL: nothing that the command sends into
        # its inherited socket is taken for a request.
        restrict = wire.RESTRICT_ALL | (wire.RESTRICT_SIGTERM if options.on_lost == "kill" else 0)
        await child.register(socket_path(self._daemon.run_dir), restrict=restrict, killpath=killpath)
        before, clocks = await self._daemon.status(), read_clocks()
        self._fire_timeout = before.fire_timeout or timing.DEFAULT_FIRE_TIMEOUT_S
        await self._acquire(leases)
        proof = Proof(child.pid, [Held(lease.space, lease.resource) for lease in leases], before, clocks)
        watch = LeaseWatch(self._daemon, proof)
        verdict = await watch.look(PROBE_TIMEOUT_S)
        if reason := verdict.lost or watch.expired():
            raise NotAcquired(-28, f"acquire {', '.join(map(str, leases))} ({reason})")
        environ = {**os.environ, **await self._environment(leases)}
        # No cancellation from here on: the command either begins and is supervised, or never begins.
        return await self._supervise(watch, environ, leases)

    # Before the command

    async def _find_daemon(self) -> None:
        options = self._options
        try:
            await self._daemon.version(timeout_s=PROBE_TIMEOUT_S)
            return
        except DaemonUnreachable:
            if options.run_dir is not None or "SANLOCK_RUN_DIR" in os.environ:
                raise
        command_line = options.embedded or our_daemon(
            options.io_timeout or DEFAULT_FILE_IO_TIMEOUT_S, options.kill_grace
        )
        self._embedded = await EmbeddedDaemon.start(command_line)
        self._daemon = Daemon(self._embedded.run_dir)
        self._report.say(
            f"no lease daemon at {locations.run_dir()}: using a private one, without a watchdog "
            "(if this whole host hangs, nothing resets it)"
        )

    async def _prepare_leases(self) -> list[LeaseAddress]:
        located = []
        for lease in self._options.leases:
            if lease.space not in self._spaces:
                self._spaces[lease.space] = await self._join(lease.space)
            located.append(await locate(self._daemon, lease, self._spaces[lease.space], create=True))
        return located

    async def _join(self, space: str) -> SpaceStatus:
        options = self._options
        path, offset, io_timeout = options.space_path, options.space_offset, options.io_timeout
        status = await self._daemon.status()
        if path:
            path = os.path.abspath(path)
        elif status.space(space) is None:
            file = self._space_file(space)
            await make_space_file(self._daemon, file, space, io_timeout or DEFAULT_FILE_IO_TIMEOUT_S, self._report)
            path = str(file)
        request = SpaceRequest(space, path, offset, options.host_id, io_timeout)
        return await ensure_joined(self._daemon, request, self._report)

    @staticmethod
    def _space_file(space: str) -> Path:
        try:
            return locations.space_file(space)
        except ValueError as error:
            raise ClientError(-22, str(error), "") from error

    async def _acquire(self, leases: Sequence[LeaseAddress]) -> None:
        options, child = self._options, self._child

        async def attempt(flags: int, timeout_s: float) -> None:
            await self._daemon.acquire_for(
                child.pid,
                *leases,
                shared=options.shared,
                flags=flags,
                owner_name="holdfast run",
                timeout_s=timeout_s,
            )

        async def obstacles(code: int) -> list[Obstacle]:
            found = [await find_obstacle(self._daemon, lease, code) for lease in leases]
            return [item for item in found if item.host_id or item.pid] or found[:1]

        def report(found: Sequence[Obstacle]) -> None:
            for obstacle in found:
                self._report.waiting(f"waiting: {obstacle}")

        try:
            await acquire_patiently(attempt, wait_s=options.wait_s, obstacles=obstacles, on_wait=report)
        except NotAcquired as error:
            if error.code in PASSING:
                for obstacle in await obstacles(error.code):
                    self._report.say(str(obstacle))
            raise

    async def _environment(self, leases: Sequence[LeaseAddress]) -> dict[str, str]:
        status = await self._daemon.status()
        versions = [self._version(status, lease) for lease in leases]
        space = self._spaces[leases[0].space]
        return {
            MARK_NAME: self._warden.mark,
            "HOLDFAST_LEASE": " ".join(map(str, leases)),
            "HOLDFAST_LEASE_VERSION": " ".join(map(str, versions)),
            "HOLDFAST_SPACE": leases[0].space,
            "HOLDFAST_RESOURCE": leases[0].resource,
            "HOLDFAST_HOST_ID": str(space.host_id),
            "HOLDFAST_GENERATION": str(space.generation or 0),
            "HOLDFAST_RUN_DIR": str(self._daemon.run_dir or locations.run_dir()),
        }

    def _version(self, status: Status, lease: LeaseAddress) -> int:
        for held in status.leases:
            if (held.space, held.name, held.pid) == (lease.space, lease.resource, self._child.pid):
                return held.lver
        raise NotAcquired(-1, f"acquire {lease}: the daemon does not show it")

    # While it runs

    async def _supervise(self, watch: LeaseWatch, environ: dict[str, str], leases: Sequence[LeaseAddress]) -> int:
        own = frozenset({self._warden.pid, *([self._embedded.pid] if self._embedded else ())})
        watched = self._embedded.pid if self._embedded else 0
        supervision = Supervision(self._child, own, self._terminal, watched)
        supervision.may_continue = lambda: not watch.expired()
        supervision.start()
        try:
            if self._terminal is not None:
                self._terminal.lend()
            if watch.expired():
                raise NotAcquired(-28, "the proof ended before the command began")
            failure = await self._child.begin(environ)
            if failure is not None:
                await supervision.exited.wait()
                self._report.say(f"cannot run {self._options.command[0]}: {failure.strerror}")
                return exec_exit_code(failure)
            lost = await self._until_end(supervision, watch)
            if lost is not None:
                return await self._end_lost(supervision, watch, lost)
            await self._give_back(leases)
            return EXIT_FAILED if supervision.exit_code is None else supervision.exit_code
        finally:
            self._child.abandon()
            supervision.finish()

    async def _until_end(self, supervision: Supervision, watch: LeaseWatch) -> Verdict | None:
        """None once the command and all its descendants are gone; the verdict when the lease is lost before."""
        watching = asyncio.create_task(watch.until_lost(on_warning=self._warn), name="watch")
        daemon_gone = asyncio.create_task(supervision.watched_exited.wait(), name="private daemon")
        ending = asyncio.create_task(self._until_gone(supervision, watch), name="command")
        tasks = {watching, daemon_gone, ending}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                return watching.result()
            if daemon_gone.done() and not ending.done():
                return Verdict(watch.proof.deadline, "the private lease daemon has ended")
            ending.result()
            if (supervision.exit_code or 0) > EXIT_BY_SIGNAL:
                # Perhaps the daemon was faster than we and killed it for the loss of the lease.
                verdict = await watch.look(PROBE_TIMEOUT_S)
                return verdict if verdict.lost else None
            return None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_gone(self, supervision: Supervision, watch: LeaseWatch) -> None:
        await supervision.exited.wait()
        if not supervision.anything_left():
            return
        if self._child.lease_is_cut():
            # The daemon was started again and knows the command by its pid alone: with that the lease goes.
            self._report.say("the command has ended, and with it the lease; ending processes that it left behind")
            await supervision.end_all(kill_at=boottime(), first=signal.SIGKILL, say=self._report.say)
            return
        if self._options.wait_for_descendants:
            self._report.waiting("the command has ended; waiting for processes that it left behind")
            await supervision.until_empty()
            return
        self._report.say("the command has ended; ending processes that it left behind")
        kill_at = min(boottime() + self._grace(watch), watch.proof.deadline)
        await supervision.end_all(kill_at=kill_at, say=self._report.say)

    def _warn(self, left_s: float) -> None:
        self._report.say(f"no renewal seen; the command is ended in {left_s:.0f} s unless there is one")

    # When the lease is lost

    def _grace(self, watch: LeaseWatch) -> int:
        """Seconds from the deadline to SIGKILL: before the others may take over, W after the deadline."""
        wanted = timing.kill_grace(self._options.kill_grace, self._fire_timeout)
        return max(0, min(wanted, self._fire_timeout - GRACE_MARGIN_S))

    async def _end_lost(self, supervision: Supervision, watch: LeaseWatch, verdict: Verdict) -> int:
        options = self._options
        self._lost = True
        now = boottime()
        grace = self._grace(watch)
        # The grace time counts from the deadline, however late this is noticed (after a suspend, say).
        kill_at = now if verdict.at_once else min(now + grace, watch.proof.deadline + grace)
        self._report.say(f"lease lost: {verdict.lost}")
        if options.on_lost == "kill":
            kill_at = now
        first = signal.SIGTERM
        handler = 0
        if options.on_lost == "exec" and kill_at > now:
            handler = self._start_handler(verdict)
        if handler:
            # The handler is a child of ours as well: it ends with the rest at the end of the grace time.
            while boottime() < kill_at and not supervision.exited.is_set():
                await asyncio.sleep(min(0.05, max(0.0, kill_at - boottime())))
        how = "SIGKILL" if kill_at <= boottime() else f"{first.name}, SIGKILL in {kill_at - boottime():.0f} s"
        self._report.say(f"ending the command ({how})")
        await supervision.end_all(kill_at=kill_at, first=first, say=self._report.say)
        self._report.say("the command and its descendants are gone")
        return EXIT_LOST

    def _start_handler(self, verdict: Verdict) -> int:
        """Run the --on-lost=exec command; 0 when that fails."""
        environ = {
            **os.environ,
            MARK_NAME: self._warden.mark,
            "HOLDFAST_LOST_PID": str(self._child.pid),
            "HOLDFAST_LOST_REASON": verdict.lost,
        }
        command = ["/bin/sh", "-c", self._options.on_lost_command]
        try:
            return os.posix_spawn(command[0], command, environ)
        except OSError as error:
            self._report.say(f"cannot run the --on-lost command: {error}")
            return 0

    # Afterwards

    async def _give_back(self, leases: Sequence[LeaseAddress]) -> None:
        """Release on storage, now that nothing of the command runs; the next host need not wait for the daemon."""
        try:
            await self._daemon.release_for(self._child.pid, *leases, timeout_s=RELEASE_TIMEOUT_S)
        except ClientError as error:
            if error.code == -errno.ESRCH and self._child.lease_is_cut():
                # A daemon that was started again knew the command by its pid alone: the lease went with it.
                return
            # Closing the socket makes the daemon release as well; only nobody waits for it.
            self._report.say(str(error))

    async def _leave(self) -> None:
        if self._embedded is None:
            return
        timeout_s = LOST_LEAVE_TIMEOUT_S if self._lost else LEAVE_TIMEOUT_S
        for complaint in await self._embedded.stop(leave_timeout_s=timeout_s):
            self._report.say(f"the private lease daemon did not leave cleanly: {complaint}")
