"""What the daemon's process takes and gives up: limits, user and group (spec lease-wire 2, 16).

Nothing here but the change of user may keep the daemon from serving: each failure is one log line. What survives
that change, so that a daemon that is not root any more can still end processes of any user, is in `capabilities`.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
from typing import Final

from holdfast.leased import capabilities
from holdfast.leased.options import DaemonOptions
from holdfast.leased.spawning import where_forks_happen

log = logging.getLogger(__name__)

_PR_SET_DUMPABLE: Final = 4
_LIMITS: Final = ("RLIMIT_MEMLOCK", "RLIMIT_RTPRIO", "RLIMIT_CORE")


def raise_limits(options: DaemonOptions) -> None:
    """Memory to lock, real-time priority and core files without limit for root; as many descriptors as allowed."""
    for name in (*_LIMITS, "RLIMIT_NOFILE"):
        number = getattr(resource, name)
        _, hard = resource.getrlimit(number)
        unlimited = options.privileged and os.geteuid() == 0 and name in _LIMITS
        try:
            wanted = resource.RLIM_INFINITY if unlimited else hard
            resource.setrlimit(number, (wanted, wanted))
        except (OSError, ValueError) as error:
            log.warning("cannot set the limits for %s: %s", name, error)
            try:
                resource.setrlimit(number, (hard, hard))
            except (OSError, ValueError):
                pass  # It stays as it was.


def change_user(options: DaemonOptions) -> None:
    """Become the configured user and group. OSError: the caller must not go on as somebody else."""
    if os.geteuid() != 0 or not options.privileged or not (options.uid or options.gid):
        return
    if options.gid:
        os.setgroups(_groups(options.uid, options.gid))
        os.setgid(options.gid)
    if options.uid:
        try:
            where_forks_happen(capabilities.keep_over_setuid)
            os.setuid(options.uid)
            where_forks_happen(capabilities.reduce_to_killing)
        except OSError as error:
            os.setuid(options.uid)
            # Root in a container may lack what it would keep.
            log.error(
                "degraded: only the first helper can signal processes of other users, its successors cannot: %s",
                error,
            )
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def _groups(uid: int | None, gid: int) -> list[int]:
    """The supplementary groups that go with the user (Debian's `sanlock` is in `disk`)."""
    import pwd

    try:
        return os.getgrouplist(pwd.getpwuid(uid or 0).pw_name, gid)
    except KeyError:
        return [gid]
