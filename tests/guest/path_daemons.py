"""The real multipathd and ours as subjects of the same cases, one after the other in one guest.

    with running(paths, "multipathd", conf) as daemon:
        daemon.wait_for_map()
        print(daemon.ask("show", "topology"))

Both are asked with the real client. Nothing of a daemon is left in the guest at the end of the block.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from holdfast.path import dm_text
from tests.guest.machine import GuestError
from tests.guest.path_lab import PYTHON, Paths

CONF: Final = "/etc/multipath.conf"
OUR_CONF: Final = "/run/holdfast-multipath.conf"
OUR_KEYWORDS: Final = "\tdetect_pgpolicy no\n"
"""From 0.9.6 on, and in ours, ALUA means group_by_prio whatever the policy. 0.9.4 has no such keyword, and its
client warns of words that it does not know: so ours gets a file of its own.
"""
COMMANDS: Final = {
    "multipathd": ("multipathd", "-d"),
    "holdfast": (PYTHON, "-m", "holdfast", "path", "daemon", "--foreground", "--config", OUR_CONF),
}
DAEMONS: Final = ["multipathd", "holdfast"]
"""For parametrize: each case with either."""
START_LIMIT_S: Final = 180.0
STEP_LIMIT_S: Final = 120.0
PAUSE_S: Final = 0.3
MAP: Final = "mpatha"

DEFAULTS: Final[Mapping[str, str]] = {
    "user_friendly_names": "yes",
    "find_multipaths": "no",
    "polling_interval": "1",
    "max_polling_interval": "2",
    "path_grouping_policy": "group_by_prio",
    # The original waits 1 ms for TEST UNIT READY: on a slow machine the first table would depend on luck.
    "force_sync": "yes",
}


def conf(**changes: str) -> str:
    """multipath.conf with `DEFAULTS`, changed; an empty value leaves a keyword out."""
    values = {**DEFAULTS, **changes}
    lines = [f"\t{key} {value}\n" for key, value in values.items() if value]
    return f"defaults {{\n{''.join(lines)}}}\n"


def write_conf(paths: Paths, text: str) -> None:
    """For either daemon, and for the programs that udev's rules run."""
    paths.write(CONF, text)
    paths.write(OUR_CONF, text.replace("defaults {\n", f"defaults {{\n{OUR_KEYWORDS}", 1))


class PathDaemon:
    """One that runs in a guest."""

    def __init__(self, paths: Paths, kind: str, pid: int) -> None:
        self.paths = paths
        self.kind = kind
        self.pid = pid

    def ask(self, *words: str) -> str:
        """The reply to the real client."""
        return self.paths.guest.run("multipathd", *words, check=False)

    def table(self, name: str = MAP) -> str:
        """Parameters of the map's table line in the kernel."""
        return self.paths.shell(f"dmsetup table {name}").split(" multipath ", 1)[1].strip()

    def status(self, name: str = MAP) -> dm_text.Status:
        """The map's status in the kernel."""
        line = self.paths.shell(f"dmsetup status --noflush {name}")
        return dm_text.parse_status(line.split(" multipath ", 1)[1])

    def path_states(self, name: str = MAP) -> dict[str, str]:
        """By `major:minor`: A or F in the kernel."""
        return {path.dev_t: path.state.letter for group in self.status(name).groups for path in group.paths}

    def wait(self, what: Callable[[], bool], name: str, limit_s: float = STEP_LIMIT_S) -> None:
        """Until it is so. GuestError with the end of the console."""
        deadline = time.monotonic() + limit_s
        while not what():
            if time.monotonic() > deadline:
                seen = self.paths.shell("dmsetup table; dmsetup status --noflush", check=False)
                told = self.ask("show", "topology")
                tail = self.paths.guest.tail()
                raise GuestError(f"{self.kind}: not in {limit_s:g} s: {name}\n{seen}\n{told}\n{tail}")
            time.sleep(PAUSE_S)

    def wait_for_map(self, paths: int, name: str = MAP) -> PathDaemon:
        """Until the kernel has the map with that many active paths, and the daemon has found all of them up."""

        def is_there() -> bool:
            if self.paths.guest.run("dmsetup", "status", name, check=False).count(" A ") < paths:
                return False
            # Those of no map are undef.
            told = self.ask("show", "paths", "raw", "format", "%T").split()
            return [word for word in told if word != "undef"] == ["ready"] * paths

        self.wait(is_there, f"map {name} with {paths} paths")
        return self

    def wait_for_paths(self, states: Mapping[str, str], name: str = MAP) -> None:
        """Until the kernel has those paths, by `major:minor`, in those states."""
        self.wait(lambda: states.items() <= self.path_states(name).items(), f"{dict(states)}")

    def shown(self, wildcard: str, what: str = "maps") -> str:
        """One wildcard of the first map, or path."""
        return self.ask("show", what, "raw", "format", wildcard).strip()


@contextlib.contextmanager
def running(paths: Paths, kind: str, text: str, *arguments: str) -> Iterator[PathDaemon]:
    """That daemon with that multipath.conf, until the end of the block; then no map and no file of it is left.

    `arguments` are added to its command.
    """
    guest = paths.guest
    write_conf(paths, text)
    begun = len(guest.console)
    pid = guest.start(*COMMANDS[kind], *arguments, log=kind)
    daemon = PathDaemon(paths, kind, pid)
    try:
        # The client takes half a second of the guest's only processor: not beside a daemon that starts.
        paths.shell("until grep -q storage/multipathd /proc/net/unix; do sleep 0.3; done", limit_s=START_LIMIT_S)
        daemon.wait(lambda: f"pid {pid} " in daemon.ask("show", "daemon"), "it serves", START_LIMIT_S)
        yield daemon
        guest.signal(pid, signal.SIGTERM)
        guest.wait_for_line(f"{kind}: ended", STEP_LIMIT_S, after=begun)
    finally:
        clean(paths)


def clean(paths: Paths) -> None:
    """No daemon, no map, no file: as after a boot. Best effort when a case has failed."""
    paths.shell("kill -9 $(cat /run/multipathd.pid) 2>/dev/null; sleep 0.1", check=False)
    paths.shell(
        "for dev in /sys/block/sd*/device/state; do echo running >$dev; done;"
        "for map in $(dmsetup ls --target multipath | cut -f1 | grep -v '^No'); do"
        " dmsetup message $map 0 fail_if_no_path; done; udevadm settle; dmsetup remove_all;"
        "rm -rf /etc/multipath /run/multipath /run/multipathd.pid; udevadm settle",
        check=False,
    )
