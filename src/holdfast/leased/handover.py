"""Leaving so that a successor goes on: for upgrades and `systemctl reload`. SIGUSR2, or `--handover`.

The daemon ends commands that run, and then itself, leaving lockspaces, leases, watchdog registrations and journal
as they are. SIGTERM stays what it is in the original: ignored while there are lockspaces. Refused when the next
daemon could not go on: a lockspace that is failing or being removed, or a watchdog connection that nobody
keeps (its end would mean the reset of this host).
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import time
from typing import TYPE_CHECKING, Final

from holdfast import notify
from holdfast.leased.options import DaemonOptions

if TYPE_CHECKING:
    from holdfast.leased.core import LeaseDaemon

log = logging.getLogger(__name__)

FINISH_COMMANDS_S: Final = 5.0
"""For commands that run; one that takes longer is cut off, and its sender's connection closed by the successor."""
POLL_S: Final = 0.05
UNNOTICED_S: Final = 2.0
"""A deadline may be noticed so late on a loaded machine."""


def refusal(daemon: LeaseDaemon) -> str:
    """Why it cannot be done now; empty when it can."""
    if daemon.leaving:
        return "already leaving"
    for space in daemon.spaces:
        if space.dead or space.removal_wanted:
            return f"lockspace {space.name} is failing or being removed"
    if daemon.options.use_watchdog and len(daemon.spaces) and not daemon.service.stores:
        return (
            "no service manager keeps the watchdog connections (FileDescriptorStoreMax): the host would be reset"
        )
    return ""


async def finish_commands(daemon: LeaseDaemon) -> None:
    """New requests are not read any more; return when those that run are answered, or time is over."""
    deadline = daemon.clock.now() + FINISH_COMMANDS_S
    while daemon.connections.commands_running() and daemon.clock.now() < deadline:
        await daemon.clock.sleep(POLL_S)


def request_handover(options: DaemonOptions, timeout_s: float = 30.0) -> str:
    """Tell the daemon of a run directory to hand over and wait until it has ended; a sentence when it did not."""
    try:
        with open(options.lock_path, "rb+") as file:
            pid = int(file.read(32) or b"0")
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                pass
            else:
                return f"no lease daemon runs in {options.run_dir}"
            os.kill(pid, signal.SIGUSR2)
            deadline = time.monotonic() + timeout_s
            while time.monotonic() < deadline:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    time.sleep(POLL_S)
                else:
                    return ""
    except (OSError, ValueError) as error:
        return f"{options.lock_path}: {error}"
    return f"the lease daemon (pid {pid}) did not hand over within {timeout_s:g} s; its log says why"


async def keep_manager_informed(daemon: LeaseDaemon) -> None:
    """STATUS= for people, as long as the daemon runs."""
    shown = ""
    while True:
        text = daemon.summary()
        if text != shown:
            shown = text
            notify.status(text)
        await daemon.spaces.wait_changed(60.0)


def is_sound(daemon: LeaseDaemon) -> bool:
    """Whether every lockspace is renewed and watched: only then does the service manager get its ping.

    Storage that hangs is no reason to end the daemon, it has processes to kill then; bookkeeping that does
    not notice a deadline is.
    """
    now = daemon.clock.now()
    for space in daemon.spaces:
        lockspace = space.lockspace
        if lockspace is None or not lockspace.joined or space.renewing is None:
            continue
        if space.renewing.done() and not space.dead:
            return False
        if now > lockspace.fail_at + UNNOTICED_S and not space.dead:
            return False
    return True
