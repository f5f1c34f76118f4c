"""Holdfast: a workload runs only while its host can prove that it holds the lease.

Programs use `holdfast.Lease` (asyncio) or `holdfast.SyncLease`; `holdfast.Watchdog` has the host reset if
they hang. All are loaded on first use.
"""

from __future__ import annotations

from holdfast.version import __version__

# The module `typing` costs a third of the time of `holdfast --help`: only type checkers load it.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from holdfast.client.errors import ClientError, DaemonUnreachable, LeaseLost, NotAcquired
    from holdfast.client.lease import Lease
    from holdfast.client.sync import SyncLease
    from holdfast.client.watchdog import SyncWatchdog, Watchdog, WatchdogError, WatchdogLost, WatchdogUnavailable

_WATCHDOG = frozenset({"SyncWatchdog", "Watchdog", "WatchdogError", "WatchdogLost", "WatchdogUnavailable"})
_CLIENT = _WATCHDOG | {"ClientError", "DaemonUnreachable", "Lease", "LeaseLost", "NotAcquired", "SyncLease"}

__all__ = [
    "ClientError",
    "DaemonUnreachable",
    "Lease",
    "LeaseLost",
    "NotAcquired",
    "SyncLease",
    "SyncWatchdog",
    "Watchdog",
    "WatchdogError",
    "WatchdogLost",
    "WatchdogUnavailable",
    "__version__",
]


if not TYPE_CHECKING:
    # Hidden from type checkers: they know the names above, and must report others.
    def __getattr__(name: str) -> object:
        if name not in _CLIENT:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from holdfast import client

        value: object = getattr(client, name)
        return value
