"""Every lease deadline, as a function of io_timeout and the watchdog fire timeout (spec lease-disk section 5).

Seconds throughout. `io` is io_timeout of the host in question (for another host: the one in its record),
`fire` the watchdog fire timeout W, which must be the same on all hosts and is not on disk.
"""

from __future__ import annotations

DEFAULT_IO_TIMEOUT_S = 10
DEFAULT_FIRE_TIMEOUT_S = 60
DEFAULT_KILL_GRACE_S = 40
WRITE_INIT_IO_TIMEOUT_S = 60

MIN_IO_TIMEOUT_S = 1
MAX_IO_TIMEOUT_S = 255
"""Acquire and renew store 8 bits (spec 5)."""

RENEWAL_RETRY_S = 0.5
"""Pause after a failed renewal, until the lockspace stops (spec 6.4)."""

OBSERVER_MARGIN_S = 1.0
"""What a waiter adds to another host's dead time: the original waits for whole seconds with a strict `>`,
which costs it up to one second; we spend the same second on clocks that do not run alike."""

LOOK_VALID_S = 0.5
"""Freeing the leader, or writing it for another host, rests on a look at it that is not older than this: a process
that was held up in between looks again, because others may have moved on."""

RESUME_MARGIN_S = 1.0
"""A restarted daemon goes on with a host id only if a renewal is proven so long before `last success + 8·io`."""

BALLOT_RETRY_MIN_S = 0.005
BALLOT_RETRY_MAX_S = 0.05
"""Back-off after a ballot that met a larger one; safety does not rest on it (spec 14)."""

OWNER_FINISH_S = 2.0
"""Quiet time for a live host to commit its own chosen value: twice the longest back-off of an original (8.5)."""

SHARED_RETRY_MAX_S = 1.0
SHARED_RETRIES = 8
"""Retries of a shared acquire that met another one's short exclusive phase (spec 9.1)."""

CONVERT_RELEASE_RETRIES = 3
"""How often a conversion tries to free the leader again when its outcome is unclear (spec 9.3)."""


def renewal_interval(io: int) -> int:
    """From the timestamp of the last successful renewal to the next attempt: 2·io."""
    return 2 * io


def warn_after(io: int) -> int:
    """No successful renewal for this long: a warning each second, 6·io (spec wire 10)."""
    return 6 * io


def fail_after(io: int) -> int:
    """No successful renewal for this long: users are killed, the watchdog is not fed any more: 8·io."""
    return 8 * io


def host_dead_after(io: int, fire: int) -> int:
    """No change of a host's record for this long: its watchdog has fired: 8·io + W."""
    return fail_after(io) + fire


def join_check_delay(io: int) -> int:
    """Between writing a host id and the check read that finds a rival: 2·io of the previous record."""
    return 2 * io


def set_bitmap_for(io: int) -> int:
    """How long a notification bit stays in our renewals: 6·io."""
    return 6 * io


def renewal_write_timeout(io: int, fire: int) -> int:
    """No sense in giving a renewal's write up before everybody else gives us up (spec 6.4)."""
    return host_dead_after(io, fire)


def kill_grace(configured: int | None, fire: int) -> int:
    """Time for SIGTERM or killpath before SIGKILL; it must end before the watchdog fires (spec lease-wire 1)."""
    if configured is not None:
        return configured
    if fire >= DEFAULT_FIRE_TIMEOUT_S:
        return DEFAULT_KILL_GRACE_S
    return 15 if fire >= 30 else 0
