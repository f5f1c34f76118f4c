"""Two hosts on one machine, one lease file: storage fails, a workload is ended, the other host takes over.

Real parts only: two lease daemons with separate run directories and host names, `holdfast run` on each, a
workload that appends to a counter file (`holdfast demo`). The first host's storage is taken away by its
daemon's fault file. What happened is then checked against what the timing rules promise (spec lease-disk 5), on
one clock, CLOCK_BOOTTIME.

Leaves nothing behind: every process and the directory are gone when `Demonstration.run` returns, however it ends.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from holdfast.client.addresses import IndexAddress, SpaceAddress
from holdfast.client.daemon import Daemon
from holdfast.client.errors import ClientError
from holdfast.client.runner import EXIT_LOST
from holdfast.client.supervision import boottime
from holdfast.lease import timing
from holdfast.lease.geometry import MIB

SPACE = "demo"
RESOURCE = "counter"
IO_TIMEOUT_S = 1
FIRE_TIMEOUT_S = 10
"""Small, and the same on both hosts; every rule of the format holds with it, only the demo is over sooner."""
COUNT_EVERY_S = 0.2
BEFORE_FAILURE_S = 4.0
AFTER_TAKEOVER_S = 3.0
START_LIMIT_S = 60.0
END_LIMIT_S = 15.0
POLL_S = 0.1
KILL_LATE_S = 1.0
"""How much later than promised the last count of the first host may be before the demo says so."""

WORKLOAD = """
import os, sys, time
fd = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
while True:
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    os.write(fd, f"{sys.argv[1]} {os.environ['HOLDFAST_LEASE_VERSION']} {now:.3f}\\n".encode())
    time.sleep(%s)
"""


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened, or will: seconds since the beginning of the demo."""

    at_s: float
    host: str
    text: str
    promised: bool = False


@dataclass(frozen=True, slots=True)
class Count:
    """A line of the counter file."""

    host: str
    lver: int
    at: float


@dataclass(slots=True)
class Summary:
    """What was promised and what happened; seconds since the beginning. No violations: all promises were kept."""

    io_timeout: int = IO_TIMEOUT_S
    fire_timeout: int = FIRE_TIMEOUT_S
    storage_lost_s: float = 0.0
    last_renewal_s: float = 0.0
    promised_end_s: float = 0.0
    last_count_s: float = 0.0
    ended_s: float = 0.0
    promised_takeover_s: float = 0.0
    takeover_s: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def as_document(self) -> dict[str, object]:
        """For JSON."""
        return {"ok": not self.violations, **asdict(self)}


Tell = Callable[[Moment], None]
Waiting = Callable[[str, float | None], None]


class DemonstrationFailed(Exception):
    """The demo could not be played to its end; says at which step."""


class _Host:
    """One simulated host: a daemon and a run of the workload."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.run_dir = directory / name
        self.fault_file = directory / f"{name}.fault"
        self.daemon = Daemon(self.run_dir)
        self.process: asyncio.subprocess.Process | None = None
        self.runner: asyncio.subprocess.Process | None = None
        self._log = directory / f"{name}.log"

    async def _spawn(self, *arguments: str) -> asyncio.subprocess.Process:
        with self._log.open("ab") as log:
            # A session of its own: Ctrl-C ends the demo, and the demo ends its hosts in order.
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "holdfast",
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def start_daemon(self) -> None:
        self.process = await self._spawn(
            *("lease", "daemon", "--foreground", "--no-watchdog", "--run-dir", str(self.run_dir)),
            *("--host-name", self.name, "--io-timeout", str(IO_TIMEOUT_S)),
            *("--watchdog-fire-timeout", str(FIRE_TIMEOUT_S), "--storage-faults", str(self.fault_file)),
            *("--parent-pid", str(os.getpid())),
        )
        deadline = boottime() + START_LIMIT_S
        while True:
            try:
                await self.daemon.version(timeout_s=1)
                return
            except ClientError as error:
                if self.process.returncode is not None or boottime() > deadline:
                    raise DemonstrationFailed(f"the daemon of {self.name} does not start: {self.log()}") from error
            await asyncio.sleep(POLL_S)

    async def start_run(self, lease_file: Path, counter: Path) -> None:
        self.runner = await self._spawn(
            *("run", "--lease", f"{SPACE}:{RESOURCE}", "--space-path", str(lease_file)),
            *("--io-timeout", str(IO_TIMEOUT_S), "--run-dir", str(self.run_dir), "--"),
            *(sys.executable, "-c", WORKLOAD % COUNT_EVERY_S, self.name, str(counter)),
        )

    def log(self) -> str:
        """The last lines of what its processes wrote."""
        try:
            return " | ".join(self._log.read_text("utf-8", "replace").splitlines()[-3:])
        except OSError:
            return ""

    async def stop(self) -> None:
        """End everything of this host; safe at any moment."""
        if self.runner is not None:
            await _end(self.runner, signal.SIGTERM)
        if self.process is not None:
            try:
                await self.daemon.shutdown(force=True, timeout_s=5)
            except ClientError:
                # Its storage hangs, or it is gone: it is ended without leaving, nothing of it runs any more.
                pass
            await _end(self.process, signal.SIGKILL)


async def _end(process: asyncio.subprocess.Process, first: int) -> None:
    if process.returncode is None:
        try:
            process.send_signal(first)
            async with asyncio.timeout(END_LIMIT_S):
                await process.wait()
        except ProcessLookupError:
            pass
        except TimeoutError:
            process.kill()
    await process.wait()


class Demonstration:
    """One showing. `tell` gets each moment as it happens, `waiting` what goes on."""

    def __init__(self, tell: Tell, waiting: Waiting) -> None:
        self._tell = tell
        self._waiting = waiting
        self._began = boottime()
        self._counter = Path()
        self.summary = Summary()

    def _happened(self, host: str, text: str, at: float | None = None) -> None:
        when = boottime() if at is None else at
        self._tell(Moment(when - self._began, host, text))

    def _promise(self, host: str, text: str, at: float) -> None:
        self._tell(Moment(at - self._began, host, text, promised=True))

    async def run(self) -> Summary:
        """Play and check. DemonstrationFailed or ClientError when a step does not work."""
        directory = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="holdfast-demo-"))
        async with AsyncExitStack() as stack:
            stack.callback(shutil.rmtree, directory, True)
            first, second = _Host("alpha", directory), _Host("beta", directory)
            stack.push_async_callback(second.stop)
            stack.push_async_callback(first.stop)
            await self._play(first, second, directory)
            self._check(first.name, second.name)
        return self.summary

    async def _play(self, first: _Host, second: _Host, directory: Path) -> None:
        lease_file, self._counter = directory / f"{SPACE}.lease", directory / "counter"
        self._waiting("starting two lease daemons", None)
        async with asyncio.TaskGroup() as group:
            group.create_task(first.start_daemon())
            group.create_task(second.start_daemon())
        self._happened("", "two hosts: alpha and beta, one lease daemon each, one lease file")
        lease_file.touch(0o600)
        await first.daemon.write_lockspace(SpaceAddress(SPACE, 1, str(lease_file)), io_timeout=IO_TIMEOUT_S)
        await first.daemon.format_index(IndexAddress(SPACE, str(lease_file), MIB))

        await first.start_run(lease_file, self._counter)
        self._waiting("alpha joins and takes the lease", 2.0 * IO_TIMEOUT_S)
        count = await self._first_count(first)
        self._happened(first.name, f"holds the lease (version {count.lver}), its workload counts", count.at)

        await second.start_run(lease_file, self._counter)
        self._waiting("beta joins", 2.0 * IO_TIMEOUT_S)
        await self._until_joined(second)
        self._happened(second.name, "has joined, wants the lease, and waits: alpha is alive")
        self._waiting("alpha counts, beta waits", BEFORE_FAILURE_S)
        await asyncio.sleep(BEFORE_FAILURE_S)

        lost = boottime()
        first.fault_file.write_text("hang\n", "ascii")
        self.summary.storage_lost_s = lost - self._began
        self._happened(first.name, "its storage is taken away: no I/O of alpha completes any more", lost)
        await self._watch_the_end(first)
        await self._watch_the_takeover(first, second)

    async def _until_joined(self, host: _Host) -> None:
        deadline = boottime() + START_LIMIT_S
        while boottime() < deadline:
            space = (await host.daemon.status()).space(SPACE)
            if space is not None and space.state == "spaces":
                return
            self._still_running(host)
            await asyncio.sleep(POLL_S)
        raise DemonstrationFailed(f"{host.name} does not join: {host.log()}")

    @staticmethod
    def _still_running(host: _Host) -> None:
        if host.runner is not None and host.runner.returncode is not None:
            raise DemonstrationFailed(f"holdfast run on {host.name} ended: {host.log()}")

    async def _first_count(self, host: _Host, limit_s: float = START_LIMIT_S) -> Count:
        deadline = boottime() + limit_s
        while boottime() < deadline:
            for count in self._counts():
                if count.host == host.name:
                    return count
            self._still_running(host)
            await asyncio.sleep(POLL_S)
        raise DemonstrationFailed(f"no count of {host.name}: {host.log()}")

    async def _last_renewal(self, host: _Host) -> float | None:
        """When the host's last successful renewal began, BOOTTIME; None when the lockspace is gone."""
        status = await host.daemon.status()
        space = status.space(SPACE)
        if space is None or space.last_success is None or status.monotime is None:
            return None
        return float(space.last_success)

    async def _watch_the_end(self, host: _Host) -> None:
        """From the loss of storage to the end of the workload. A renewal in flight may still succeed."""
        assert host.runner is not None
        last = await self._last_renewal(host)
        if last is None:
            raise DemonstrationFailed(f"{host.name} does not say when it last renewed: {host.log()}")
        self._promises(host, last)
        while host.runner.returncode is None:
            fail_at = last + timing.fail_after(IO_TIMEOUT_S)
            if boottime() > fail_at + END_LIMIT_S:
                raise DemonstrationFailed(f"the workload of {host.name} was not ended: {host.log()}")
            self._waiting("no renewal of alpha succeeds; its workload must end in time", fail_at - boottime())
            newer = await self._last_renewal(host)
            if newer is not None and newer > last:
                last = newer
                self._promises(host, last)
            await asyncio.sleep(POLL_S)
        ended = boottime()
        self.summary.ended_s = ended - self._began
        code = host.runner.returncode
        counts = [count for count in self._counts() if count.host == host.name]
        self._happened(host.name, f"last count of its workload ({len(counts)} in all)", counts[-1].at)
        self._happened(host.name, f"'holdfast run' has ended everything and returns {code}", ended)
        if code != EXIT_LOST:
            self.summary.violations.append(f"holdfast run on {host.name} returned {code}, not {EXIT_LOST}")

    def _promises(self, host: _Host, last: float) -> None:
        fail_at = last + timing.fail_after(IO_TIMEOUT_S)
        dead_at = last + timing.host_dead_after(IO_TIMEOUT_S, FIRE_TIMEOUT_S)
        summary = self.summary
        summary.last_renewal_s = last - self._began
        summary.promised_end_s = fail_at - self._began
        summary.promised_takeover_s = dead_at - self._began
        self._happened(host.name, f"its last renewal that succeeded began at {summary.last_renewal_s:.2f} s")
        self._promise(host.name, "its workload is ended by now (8 x io_timeout)", fail_at)
        self._promise("beta", "may take over from now on, not sooner (8 x io_timeout + W)", dead_at)

    async def _watch_the_takeover(self, first: _Host, second: _Host) -> None:
        takeover_at = self._began + self.summary.promised_takeover_s
        limit = takeover_at + 4 * timing.fail_after(IO_TIMEOUT_S)
        count: Count | None = None
        while count is None:
            self._waiting("beta waits until alpha is certain to be dead", takeover_at - boottime())
            count = next((found for found in self._counts() if found.host == second.name), None)
            self._still_running(second)
            if boottime() > limit:
                raise DemonstrationFailed(f"{second.name} does not take over: {second.log()}")
            await asyncio.sleep(POLL_S)
        self.summary.takeover_s = count.at - self._began
        self._happened(second.name, f"holds the lease (version {count.lver}), its workload counts", count.at)
        self._waiting("beta counts", AFTER_TAKEOVER_S)
        await asyncio.sleep(AFTER_TAKEOVER_S)

    def _counts(self) -> list[Count]:
        try:
            text = self._counter.read_text("ascii")
        except FileNotFoundError:
            return []
        counts = []
        for line in text.splitlines(keepends=True):
            words = line.split()
            if line.endswith("\n") and len(words) == 3:
                counts.append(Count(words[0], int(words[1]), float(words[2])))
        return counts

    def _check(self, first: str, second: str) -> None:
        """Compare the counter file with the promises. The file's order is the order of the writes."""
        summary = self.summary
        counts = self._counts()
        one = [count for count in counts if count.host == first]
        two = [count for count in counts if count.host == second]
        summary.counts = {first: len(one), second: len(two)}
        summary.versions = {first: one[-1].lver, second: two[-1].lver}
        summary.last_count_s = one[-1].at - self._began
        hosts = [count.host for count in counts]
        if hosts != sorted(hosts, key=[first, second].index) or one[-1].at >= two[0].at:
            summary.violations.append("overlap: counts of both hosts are mixed")
        if summary.takeover_s < summary.promised_takeover_s:
            early = summary.promised_takeover_s - summary.takeover_s
            summary.violations.append(f"takeover {early:.3f} s earlier than promised")
        if not two[0].lver > one[-1].lver:
            summary.violations.append(f"lease version did not grow: {one[-1].lver}, then {two[0].lver}")
        late = summary.last_count_s - summary.promised_end_s
        if summary.last_count_s >= summary.promised_takeover_s:
            summary.violations.append(f"the workload of {first} counted after others may have taken over")
        elif late > KILL_LATE_S:
            summary.remarks.append(
                f"the workload of {first} was ended {late:.1f} s late; is this machine overloaded?"
            )
