"""What `holdfast why` says in the next boot, cause by cause: real daemons, a real kernel, a device that fires.

The recorders lie on a file system that outlives the guest. Slow: run with `make why-guests` only.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import Any, Final

from tests.guest.chain import DEVICE, PYTHON, START_LIMIT_S, STEP_LIMIT_S, WATCHDOG_DAEMON, Chain
from tests.guest.disk import Disk
from tests.guest.lab import I6300ESB, IO_TIMEOUT_S, Lab
from tests.guest.machine import Guest

KEPT: Final = "/dev/vdb"
FIRE_S: Final = 10
NO_HURRY_S: Final = 600
"""A client's expiry that no case lives to see."""
DEATH_LIMIT_S: Final = 180.0
CLIENT: Final = (sys.executable, "-S", "-E", "/run/package/inside/client.py")
PANIC_STORE: Final = ("mem_address=0x1f000000", "mem_size=0x100000", "record_size=0x20000", "console_size=0")
"""For ramoops, in memory that a reset leaves alone (`memmap=` keeps the kernel away from it)."""
KEEP_FREE: Final = "memmap=0x100000$0x1f000000"
US, NOT_US, NOBODY_KNOWS = 3, 0, 4
"""Exit codes."""


class Stage:
    """A guest with recorders that outlive it."""

    def __init__(self, lab: Lab, *, reboots: bool = True, append: str = "") -> None:
        self.lab = lab
        self.leases: Disk = lab.disk()
        self.kept = lab.file_system("kept")
        self.append = append
        self.reboots = reboots
        self.guest = self.boot("guest")
        self.chain = Chain(self.guest, self.leases, io_timeout=IO_TIMEOUT_S, fire_timeout=FIRE_S)
        self.daemons = 0

    def boot(self, name: str) -> Guest:
        """Another guest with the same disks."""
        guest = self.lab.guest(
            *I6300ESB, name=name, disk=self.leases, kept=self.kept, reboots=self.reboots, append=self.append
        )
        self._prepare(guest)
        return guest

    def _prepare(self, guest: Guest) -> None:
        guest.run("modprobe", "virtio_blk")
        guest.run("chown", "sanlock", DEVICE)
        self.lab.mount(guest, device=KEPT)
        guest.run("modprobe", "i6300esb")

    def watchdog(self, *more: str) -> Stage:
        """The watchdog daemon serves."""
        seen = len(self.guest.console)
        self.chain.start_watchdog(*WATCHDOG_DAEMON, *more)
        self.guest.wait_for_line("watchdog daemon started", START_LIMIT_S, after=seen)
        return self

    def client(self, expires_in: int = NO_HURRY_S, name: str = "backup-master", fire_s: int = FIRE_S) -> int:
        """A program that relies on it has told its expiry; its pid."""
        pid = self.guest.start(*CLIENT, str(fire_s), str(expires_in), name, log="client")
        self.guest.wait_for_line("client: expires", STEP_LIMIT_S)
        return pid

    def lockspace(self) -> Stage:
        """Both daemons, the lockspace joined and in use by something that nobody can end."""
        self.watchdog()
        self.chain.start_leases()
        self.chain.wait_for_leases()
        self.chain.join().use().wait_for_renewal()
        return self

    def inside(self, script: str) -> None:
        """A shell there, which may end the guest. Does not wait."""
        self.guest.start("sh", "-c", f"sleep 1; {script}", log="fate")

    def dies(self, by_device: bool = True) -> Stage:
        """Until it boots again; the storage works by then."""
        self.guest.wait_for_event("WATCHDOG" if by_device else "RESET", DEATH_LIMIT_S)
        assert by_device == bool(self.guest.events_named("WATCHDOG")), self.guest.tail()
        self.leases.go_on()
        self.leases.work()
        self.guest.wait_for_boot()
        self._prepare(self.guest)
        return self

    def why(self, cause: str, by_holdfast: bool | None, status: int, *words: str, daemon: bool = False) -> None:
        """Judge what it answers. `daemon`: our watchdog daemon runs again already."""
        if daemon:
            self.watchdog()
        command = [PYTHON, "-m", "holdfast", "why", "--json"]
        answer = self.guest.ask(130, run=command, limit_s=120)
        document: dict[str, Any] = json.loads(answer["output"])
        self.lab.record(
            f"{document['cause']} {document['by_holdfast']} ({answer['status']}): {document['sentence']}"
        )
        told = json.dumps(document, indent=1)
        assert (document["cause"], document["by_holdfast"], answer["status"]) == (cause, by_holdfast, status), told
        assert not document["complaints"], told
        for word in words:
            assert word in document["sentence"], told


def test_storage_hangs(lab: Lab) -> None:
    stage = Stage(lab).lockspace()
    stage.leases.hang()
    stage.dies().why("withheld", True, US, "sanlock_LS:1", "Lockspace LS could not be renewed", daemon=True)


def test_storage_fails(lab: Lab) -> None:
    stage = Stage(lab).lockspace()
    stage.leases.fail()
    stage.dies().why("withheld", True, US, "sanlock_LS:1", "Lockspace LS could not be renewed")


def test_lease_daemon_killed(lab: Lab) -> None:
    stage = Stage(lab).lockspace()
    stage.guest.signal(stage.chain.leases, signal.SIGKILL)
    stage.dies().why("withheld", True, US, "sanlock_LS:1")


def test_client_died(lab: Lab) -> None:
    stage = Stage(lab).watchdog()
    stage.guest.signal(stage.client(20), signal.SIGKILL)
    stage.dies().why("withheld", True, US, "backup-master", daemon=True)


def test_health_check_fails(lab: Lab) -> None:
    stage = Stage(lab)
    stage.guest.run("mkdir", "-p", "/etc/wdmd.d")
    stage.guest.ask(write="/etc/wdmd.d/healthy", data="#!/bin/sh\n[ ! -e /run/ill ]\n")
    stage.guest.run("chmod", "755", "/etc/wdmd.d/healthy")
    # With 10 s a check has 1 s to end, which is too little for an emulated processor.
    stage.watchdog("-S", "1").client(fire_s=60)
    stage.guest.run("touch", "/run/ill")
    stage.dies().why("withheld", True, US, "healthy")


def test_watchdog_daemon_stopped(lab: Lab) -> None:
    """The lease daemon goes on and tells that nobody listens to it."""
    stage = Stage(lab).lockspace()
    stage.guest.signal(stage.chain.watchdog, signal.SIGSTOP)
    stage.dies().why("watchdog-daemon-gone", True, US, daemon=True)


def test_watchdog_daemon_and_guard_killed(lab: Lab) -> None:
    stage = Stage(lab).lockspace()
    stage.inside(f"kill -9 {stage.chain.watchdog} {stage.chain.guard()}")
    stage.dies().why("watchdog-daemon-gone", True, US)


def test_kernel_panic(lab: Lab) -> None:
    """The kernel's last words are kept by ramoops."""
    stage = Stage(lab, append=KEEP_FREE)
    stage.guest.run("modprobe", "ramoops", *PANIC_STORE)
    stage.watchdog().client()
    stage.inside("echo c >/proc/sysrq-trigger")
    stage.dies()
    stage.guest.run("modprobe", "ramoops", *PANIC_STORE)
    stage.guest.run("mount", "-t", "pstore", "pstore", "/sys/fs/pstore")
    stage.why("panic", False, NOT_US, "sysrq")


def test_kernel_panic_without_last_words(lab: Lab) -> None:
    """Nothing tells it from a host that hung."""
    stage = Stage(lab).lockspace()
    stage.inside("echo c >/proc/sysrq-trigger")
    stage.dies().why("host-hung", True, US, "panic")


def test_power_off(lab: Lab) -> None:
    stage = Stage(lab).watchdog()
    stage.client()
    stage.guest.close()
    stage.guest = stage.boot("again")
    stage.why("sudden", False, NOT_US)


def test_reset_by_the_monitor(lab: Lab) -> None:
    stage = Stage(lab).lockspace()
    stage.guest.monitor("system_reset")
    stage.dies(by_device=False).why("sudden", False, NOT_US, daemon=True)


def test_orderly_reboot(lab: Lab) -> None:
    stage = Stage(lab).watchdog()
    client = stage.client()
    stage.guest.signal(client, signal.SIGTERM)
    stage.guest.wait_for_line("client: ended", STEP_LIMIT_S)
    stage.guest.signal(stage.chain.watchdog, signal.SIGTERM)
    stage.guest.wait_for_line("watchdog: ended 0", STEP_LIMIT_S)
    stage.inside("sync; busybox reboot -f")
    stage.dies(by_device=False).why("orderly", False, NOT_US, daemon=True)


def test_forced_reboot(lab: Lab) -> None:
    stage = Stage(lab).lockspace()
    stage.inside("busybox reboot -f")
    stage.dies(by_device=False).why("sudden", False, NOT_US)


def test_all_of_user_space_stopped(lab: Lab) -> None:
    stage = Stage(lab).lockspace()
    stage.inside("kill -STOP -1")
    stage.dies().why("host-hung", True, US)


def test_only_the_watchdog_daemon_recorded(lab: Lab) -> None:
    """It stops: nobody else could tell whether the whole host did."""
    stage = Stage(lab).watchdog()
    stage.client()
    stage.guest.signal(stage.chain.watchdog, signal.SIGSTOP)
    stage.dies().why("unknown", True, US, "cannot be told")


def test_continued_after_the_expiry(lab: Lab) -> None:
    """Daemon and guard were stopped past the expiry, and go on before the device fires: no ping any more."""
    stage = Stage(lab).watchdog()
    guard = stage.chain.guard()
    stage.client(6)
    for pid in (guard, stage.chain.watchdog):
        stage.guest.signal(pid, signal.SIGSTOP)
    expiry = stage.guest.wait_for_line("client: expires", 0).text.rsplit(" ", 1)[1]
    time.sleep(max(0.0, float(expiry) + 0.5 - stage.guest.uptime))
    for pid in (guard, stage.chain.watchdog):
        stage.guest.signal(pid, signal.SIGCONT)
    assert not stage.guest.events_named("WATCHDOG"), "not continued in time"
    stage.dies().why("withheld", True, US, "backup-master")
