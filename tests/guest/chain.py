"""The whole chain inside a guest: watchdog daemon and lease daemon, a lockspace, a holder, and every ping as the
kernel sees it. All instants are put on this host's CLOCK_MONOTONIC.

A reset is good when it comes before `host_dead`: from then on another host may use what this one held.
"""

from __future__ import annotations

import re
import signal
import sys
import time
from dataclasses import dataclass
from typing import Final

from tests.guest.disk import RESOURCE, RESOURCE_OFFSET, SPACE, Disk, last_renewal
from tests.guest.machine import Guest, GuestError

PYTHON: Final = sys.executable
WATCHDOG_DAEMON: Final = (
    *(PYTHON, "-m", "holdfast", "watchdog", "daemon", "--foreground"),
    *("--systemd-settings", "no"),  # A guest sees the files of this host.
)
RUN_DIR: Final = "/run/sanlock"
"""Where the original's command line looks for a daemon."""
START_LIMIT_S: Final = 90.0
STEP_LIMIT_S: Final = 60.0
MARGIN_S: Final = 30.0
"""Beyond the instant at which a guest must be reset, until the test gives up."""
DEVICE: Final = "/dev/vda"

TRACE: Final = """
set -e
mount -t tracefs tracefs /sys/kernel/tracing
cd /sys/kernel/tracing
echo mono >trace_clock
for function in FUNCTIONS; do echo "p:holdfast/$function $function" >>kprobe_events; done
echo 1 >events/holdfast/enable
echo tracing
exec cat trace_pipe
"""
"""Each call of a driver's function to the console, with the guest's CLOCK_MONOTONIC."""
PING_FUNCTIONS: Final = {
    "i6300esb": ("esb_timer_keepalive", "esb_timer_start"),
    "softdog": ("softdog_ping",),
}
"""By module: the functions that restart the count."""
TIMEOUT_FUNCTIONS: Final = {"i6300esb": ("esb_timer_set_heartbeat",)}
"""By module: the functions that set the timeout; the kernel lets a ping follow each."""
FOLLOWS_S: Final = 0.1
_TRACE_LINE: Final = re.compile(r"pings: .* (\d+\.\d+): (\w+): ")


@dataclass(frozen=True)
class Instants:
    """What is judged, seconds of this host's CLOCK_MONOTONIC."""

    renewal: float
    """The timestamp on disk, R."""
    expiry: float
    """R + 8 x io."""
    last_ping: float
    reset: float
    host_dead: float
    """R + 8 x io + fire timeout: other hosts take over."""

    def __str__(self) -> str:
        """All but the first counted from it."""
        named = (("expiry", self.expiry), ("last ping", self.last_ping), ("reset", self.reset))
        said = ", ".join(f"{name} R{at - self.renewal:+.2f}" for name, at in named)
        return f"{said}, host dead R{self.host_dead - self.renewal:+.2f}"

    @property
    def in_time(self) -> bool:
        """Whether the lease was free only after the reset."""
        return self.reset < self.host_dead


def load_driver(guest: Guest, module: str = "i6300esb") -> None:
    """With every ping on the console from now on."""
    guest.run("modprobe", module)
    functions = (*PING_FUNCTIONS[module], *TIMEOUT_FUNCTIONS.get(module, ()))
    guest.start("sh", "-c", TRACE.replace("FUNCTIONS", " ".join(functions)), log="pings")
    guest.wait_for_line("pings: tracing", STEP_LIMIT_S)


def pings(guest: Guest) -> list[float]:
    """Of the whole boot, the guest's CLOCK_MONOTONIC; those that follow the setting of a timeout too."""
    return _traced(guest, {name for names in PING_FUNCTIONS.values() for name in names})


def timeouts_set(guest: Guest) -> list[float]:
    """When the device's timeout was set, the guest's CLOCK_MONOTONIC."""
    return _traced(guest, {name for names in TIMEOUT_FUNCTIONS.values() for name in names})


def _traced(guest: Guest, functions: set[str]) -> list[float]:
    found = [_TRACE_LINE.search(line.text) for line in list(guest.console)]
    return [float(match[1]) for match in found if match is not None and match[2] in functions]


class Chain:
    """The daemons of one guest."""

    def __init__(
        self, guest: Guest, disk: Disk, *, host_id: int = 1, io_timeout: int = 1, fire_timeout: int = 10
    ) -> None:
        """Nothing is started by this."""
        self.guest = guest
        self.disk = disk
        self.host_id = host_id
        self.io_timeout = io_timeout
        self.fire_timeout = fire_timeout
        self.watchdog = 0
        """Pid of the watchdog daemon."""
        self.leases = 0
        """Pid of the lease daemon."""
        self.holder = 0

    @property
    def space(self) -> str:
        """As the original's command line writes it."""
        return f"{SPACE}:{self.host_id}:{DEVICE}:0"

    @property
    def resource(self) -> str:
        """As the original's command line writes it."""
        return f"{SPACE}:{RESOURCE}:{DEVICE}:{RESOURCE_OFFSET}"

    def start(self) -> Chain:
        """Both daemons, at the same time; with i6300esb."""
        load_driver(self.guest)
        self.start_watchdog()
        self.start_leases()
        self.guest.wait_for_line("watchdog daemon started", START_LIMIT_S)
        self.wait_for_leases()
        return self

    def start_watchdog(self, *command: str) -> None:
        """Ours, or that command. Does not wait."""
        self.watchdog = self.guest.start(*(command or WATCHDOG_DAEMON), log="watchdog")

    def start_leases(self) -> None:
        """Does not wait."""
        self.leases = self.guest.start(
            *(PYTHON, "-m", "holdfast", "lease", "daemon", "--foreground", "--run-dir", RUN_DIR),
            *("--host-name", self.guest.name, "--io-timeout", str(self.io_timeout)),
            *("--watchdog-fire-timeout", str(self.fire_timeout)),
            log="leases",
        )

    def start_original(self) -> None:
        """The original's lease daemon in place of ours. Does not wait."""
        self.guest.run("install", "-d", "-o", "sanlock", "-g", "sanlock", RUN_DIR)
        self.leases = self.guest.start(
            *("sanlock", "daemon", "-D", "-w", "1", "-h", "0", "-l", "0", "-e", self.guest.name),
            log="leases",
        )

    def wait_for_leases(self) -> None:
        """Until the lease daemon serves."""
        self.guest.run(
            "sh", "-c", f"until [ -S {RUN_DIR}/sanlock.sock ]; do sleep 0.1; done", limit_s=START_LIMIT_S
        )

    def join(self) -> Chain:
        """Add the lockspace: from now on the watchdog expires unless it is renewed.

        Tried again: on a busy host arming may take longer than the lease daemon waits for it (-203).
        """
        add = f"sanlock client add_lockspace -s {self.space} -o {self.io_timeout}"
        self.guest.run("sh", "-c", f"{add} || {add} || {add}")
        return self

    def leave(self) -> None:
        """Remove the lockspace."""
        self.guest.run("sanlock", "client", "rem_lockspace", "-s", self.space)

    def hold(self, *program: str) -> Chain:
        """A process that holds the resource: `program`, or one that just sleeps. Returns once it is running."""
        program = program or ("/bin/sleep", "1000")
        command = ("sanlock", "client", "command", "-r", self.resource, "-c", *program)
        self.holder = self.guest.start(*command, log="holder")
        # Registered and acquired under its first name, then executed.
        became = f"until [ $(cat /proc/{self.holder}/comm) != sanlock ]; do sleep 0.1; done"
        self.guest.run("sh", "-c", became, limit_s=STEP_LIMIT_S)
        return self

    def hold_when_free(self, *program: str) -> None:
        """Tries again and again to become a process that holds the resource. Does not wait."""
        command = " ".join(("sanlock", "client", "command", "-r", self.resource, "-c", *program))
        self.guest.start("sh", "-c", f"until {command}; do sleep 0.5; done", log="holder")

    def end_holder(self) -> None:
        """Its lease is released by that."""
        self.guest.signal(self.holder, signal.SIGKILL)
        self.guest.wait_for_line("holder: ended", STEP_LIMIT_S)

    def wait_for_renewal(self) -> None:
        """The next one that is written to the disk."""
        before, deadline = last_renewal(self.disk.image, self.host_id), time.monotonic() + STEP_LIMIT_S
        while last_renewal(self.disk.image, self.host_id) <= before:
            if time.monotonic() > deadline:
                raise GuestError(f"not renewed in {STEP_LIMIT_S:g} s\n{self.guest.tail()}")
            time.sleep(0.05)

    def use(self) -> Chain:
        """The lockspace is in use by something that nobody can kill: only a reset ends it."""
        self.guest.run("sanlock", "client", "set_config", "-s", self.space, "-u", "1")
        return self

    def guard(self) -> int:
        """Pid of the guard."""
        return int(self.guest.run("pgrep", "-f", "holdfast.watchdog.guard", "-n"))

    def expiry(self) -> int:
        """Of our lockspace, as the watchdog daemon has it; 0: none."""
        match = re.search(rf"name sanlock_{SPACE}:{self.host_id} .* expire (\d+)", self.dump())
        return int(match[1]) if match else 0

    def dump(self) -> str:
        """What the watchdog daemon says of itself and its clients."""
        return self.guest.run("wdmd", "-d")

    def device_state(self) -> str:
        """active or inactive."""
        return self.guest.run("cat", "/sys/class/watchdog/watchdog0/state").strip()

    def assert_no_ping_after(self, instant: float) -> None:
        """The guest's clock. What only goes with a new timeout is no ping: it sets an end, and when it comes
        is judged by the reset.
        """
        shortened = timeouts_set(self.guest)
        late = [
            at
            for at in pings(self.guest)
            if at > instant and not any(0 <= at - before < FOLLOWS_S for before in shortened)
        ]
        assert not late, f"pinged at {late}, not before {instant:.3f}\n{self.guest.tail()}"

    def gap_after(self, instant: float) -> str:
        """How long nobody pinged around `instant` of the guest's clock."""
        seen = pings(self.guest)
        last, first = max(at for at in seen if at <= instant), min(at for at in seen if at > instant)
        return f"not pinged for {first - last:.2f} s"

    def reset(self) -> Instants:
        """Wait until the device fires, and tell what came when.

        The clocks are compared while the guest lives; the earliest possible `host_dead` is what counts.
        """
        ahead, _ = self.guest.clock_offset()
        limit = 8 * self.io_timeout + self.fire_timeout + MARGIN_S
        reset = self.guest.wait_for_event("WATCHDOG", limit).at
        renewal = last_renewal(self.disk.image, self.host_id) + ahead
        expiry = renewal + 8 * self.io_timeout
        return Instants(renewal, expiry, pings(self.guest)[-1] + ahead, reset, expiry + self.fire_timeout)
