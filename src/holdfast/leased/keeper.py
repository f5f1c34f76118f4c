"""Watching over one lockspace: is our lease proven, who must be ended, and when may it end (lease-wire 10).

Event driven: it sleeps until the next instant at which something is due, or until somebody wakes it. Every pass
looks at the deadline first. Kills go out from here directly, through pidfds; a lease operation in progress never
delays them (rule: no process outlives its lease).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from holdfast.lease import timing
from holdfast.lease.lockspace import Health
from holdfast.leased.clients import Client
from holdfast.leased.leases import Stage
from holdfast.leased.options import DEBUG_CHECKS
from holdfast.leased.recovery import MAX_KILLS, NOTHING, ROUND_S, Action, Event, Phase, choose_kill, react
from holdfast.leased.spaces import Space

if TYPE_CHECKING:
    from holdfast.leased.core import LeaseDaemon

log = logging.getLogger(__name__)

NOTHING_DUE_S: Final = 86400.0
WARN_EVERY_S: Final = 1.0
KILLPATH_SHOWN: Final = 100
"""In the log, in the place of a signal's number (spec 10.4)."""


class Keeper:
    """What the watching of one lockspace has to remember between two looks."""

    def __init__(self, daemon: LeaseDaemon, space: Space) -> None:
        self.daemon = daemon
        self.space = space
        self.lockspace = space.membership
        self.next_warning = 0.0
        self.next_round = 0.0
        self.actions: dict[Action, Callable[[], None]] = {
            Action.LOG_WARNING: self.log_warning,
            Action.BEGIN_FAILING: self.begin_failing,
            Action.BEGIN_REMOVING: self.begin_removing,
            Action.KILL_ROUND: self.kill_round,
            Action.LOG_STUCK: self.log_stuck,
            Action.END: self.log_end,
        }

    def next_event(self) -> Event | None:
        """The most urgent thing that is so now; the deadline comes first."""
        space, now = self.space, self.daemon.clock.now()
        health = self.lockspace.check()
        if space.phase is Phase.HEALTHY:
            if health is Health.FAILED:
                return Event.LOST
            if space.removal_wanted or self.daemon.forced_shutdown:
                return Event.REMOVE
            if health is Health.WARN and now >= self.next_warning:
                return Event.WARN
            return None
        users = self.users()
        if not users:
            if space.operations or self.is_blocked():
                return None
            return Event.CLEAR
        if space.phase is Phase.FAILING and (space.removal_wanted or self.daemon.forced_shutdown):
            return Event.REMOVE
        if space.phase is Phase.STUCK:
            return None
        if all(client.kill_count >= MAX_KILLS for client in users):
            return Event.TRIED_ALL
        return Event.ROUND if now >= self.next_round else None

    def pause(self) -> float:
        """Seconds until something may be due without anybody waking us."""
        space, now = self.space, self.daemon.clock.now()
        if space.phase is Phase.HEALTHY:
            warn_at = self.lockspace.last_success + timing.warn_after(space.io_timeout)
            return min(self.lockspace.fail_at, max(warn_at, self.next_warning)) - now
        if space.phase in (Phase.FAILING, Phase.REMOVING) and self.users():
            return self.next_round - now
        return NOTHING_DUE_S

    def users(self) -> list[Client]:
        """Living processes that hold a lease of this lockspace.

        Who is still acquiring has nothing yet and will get -28; the operation itself counts as use.
        """
        found = {
            token.client: None
            for lease in self.daemon.leases.in_space(self.space)
            if lease.stage is not Stage.ADD or lease.adopting
            for token in lease.tokens
            if not token.client.pid_dead
        }
        return sorted(found, key=lambda client: client.ci)

    def is_blocked(self) -> bool:
        """Spec 10.5: an administrator said that the storage is in use by more than processes."""
        space = self.space
        orphans = len(self.daemon.leases.orphans(space.name)) if space.used_by_orphans else 0
        if not space.external_used and not orphans:
            return False
        if not space.blocked_checks:
            if space.external_used:
                log.error("s%d used external blocking lockspace removal", space.number)
            else:
                log.error("s%d used by orphan %d blocking lockspace removal", space.number, orphans)
        space.blocked_checks += 1
        return True

    def log_warning(self) -> None:
        now = self.daemon.clock.now()
        last = self.lockspace.last_success
        log.error("s%d check_our_lease warning %d last_success %d", self.space.number, int(now) - last, last)
        self.next_warning = now + WARN_EVERY_S
        self.daemon.helper.ping()

    def begin_failing(self) -> None:
        space = self.space
        space.renew_fail = True
        if self.lockspace.corrupt:
            log.error("s%d check_our_lease corrupt %d", space.number, self.lockspace.corrupt)
        else:
            gap = int(self.daemon.clock.now()) - self.lockspace.last_success
            log.error("s%d check_our_lease failed %d", space.number, gap)
            if self.lockspace.fail_at < self.lockspace.last_success + timing.fail_after(space.io_timeout):
                log.error("s%d the watchdog daemon could not be told of the last renewals", space.number)
        self.daemon.flight.failed(space, self.lockspace.corrupt)
        self.lockspace.fail()
        self.daemon.record.failed(space)
        log.error("s%d set killing_pids check %d remove %d", space.number, -1, int(space.removal_wanted))
        self.drop_unowned()

    def begin_removing(self) -> None:
        # A forced shutdown wants removal too, but nobody has asked for it by name.
        marked = self.space.removal_wanted and not self.daemon.forced_shutdown
        log.info("s%d set killing_pids check %d remove %d", self.space.number, 0, int(marked))
        self.lockspace.close_leases()
        self.daemon.record.failed(self.space)
        self.drop_unowned()

    def drop_unowned(self) -> None:
        """Leases that only a background release still knew end with the host id (spec 6.4)."""
        for lease in self.daemon.leases.in_space(self.space):
            if lease.stage is Stage.REM and not self.space.operations:
                self.daemon.forget_lease(lease)

    def kill_round(self) -> None:
        """Spec 10.3. The next one comes in a second, or when the grace time ends."""
        now = self.daemon.clock.now()
        grace_end = self.lockspace.fail_at + self.daemon.options.kill_grace
        sent: dict[int, list[Client]] = {}
        for client in self.users():
            if client.kill_count >= MAX_KILLS:
                continue
            grace_just_ended = client.kill_last < grace_end <= now
            if now - client.kill_last < ROUND_S * 0.9 and not grace_just_ended:
                continue  # Another lockspace of the same client has seen to it in this second.
            sent.setdefault(self.kill(client, now, in_grace=now < grace_end), []).append(client)
        self.daemon.flight.kill_round(self.space, sent)
        self.next_round = now + ROUND_S
        if now < grace_end < self.next_round:
            self.next_round = grace_end

    def kill(self, client: Client, now: float, in_grace: bool) -> int:
        """The signal; 0 for none, KILLPATH_SHOWN for its killpath."""
        client.kill_count += 1
        client.kill_last = now
        kill = choose_kill(
            phase=self.space.phase,
            in_grace=in_grace,
            kill_grace=self.daemon.options.kill_grace,
            # It names a process that is no more.
            has_killpath=bool(client.killpath) and not self.daemon.adopted.has_heirs(client),
            killpath_sent=client.killpath_sent,
            restricted=client.restricted,
        )
        if kill == NOTHING:
            return 0  # Its killpath has the grace time to itself; the round counts all the same.
        shown = KILLPATH_SHOWN if kill.killpath else kill.signal
        log.error("s%d kill %d sig %d count %d", self.space.number, client.pid, shown, client.kill_count)
        if kill.killpath:
            client.killpath_sent = self.daemon.run_killpath(client)
        else:
            failed = self.daemon.signal_client(client, kill.signal)
            if failed:
                log.error("s%d kill %d sig %d: errno %d", self.space.number, client.pid, kill.signal, failed)
        return shown

    def log_stuck(self) -> None:
        log.error("s%d killing pids stuck %d", self.space.number, len(self.users()))

    def log_end(self) -> None:
        self.daemon.flight.clear(self.space)
        loud = self.space.renew_fail or self.space.blocked_checks
        log.log(logging.ERROR if loud else logging.INFO, "s%d all pids clear", self.space.number)


async def watch(daemon: LeaseDaemon, space: Space) -> None:
    """Return when no process uses the lockspace any more and it has to end."""
    keeper = Keeper(daemon, space)
    while space.phase is not Phase.GONE:
        event = keeper.next_event()
        if daemon.options.debug_renew >= DEBUG_CHECKS and event is None and space.phase is Phase.HEALTHY:
            last = keeper.lockspace.last_success
            log.debug("s%d check_our_lease good %d %d", space.number, int(daemon.clock.now()) - last, last)
        if event is None:
            daemon.alarm.set_at(space, keeper.lockspace.fail_at)
            await keeper.lockspace.changed.wait(daemon.clock, max(keeper.pause(), 0.0))
            continue
        space.phase, actions = react(space.phase, event)
        for action in actions:
            keeper.actions[action]()
    daemon.alarm.forget(space)
