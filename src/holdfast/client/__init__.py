"""What programs import: `Lease` and `SyncLease`, the daemon's commands (`Daemon`, `Registration`), their errors.

Loaded lazily: `import holdfast` and `holdfast --help` must not pay for an event loop.
"""

from __future__ import annotations

# The module `typing` costs a third of the time of `holdfast --help`: only type checkers load it.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from holdfast.client.addresses import IndexAddress, LeaseAddress, SpaceAddress
    from holdfast.client.daemon import Daemon
    from holdfast.client.errors import (
        CallTimeout,
        ClientError,
        DaemonUnreachable,
        LeaseLost,
        NotAcquired,
    )
    from holdfast.client.lease import Lease
    from holdfast.client.registration import Registration
    from holdfast.client.sync import SyncLease
    from holdfast.client.watchdog import SyncWatchdog, Watchdog, WatchdogError, WatchdogLost, WatchdogUnavailable

_HOME = {
    "CallTimeout": "errors",
    "ClientError": "errors",
    "Daemon": "daemon",
    "DaemonUnreachable": "errors",
    "IndexAddress": "addresses",
    "Lease": "lease",
    "LeaseAddress": "addresses",
    "LeaseLost": "errors",
    "NotAcquired": "errors",
    "Registration": "registration",
    "SpaceAddress": "addresses",
    "SyncLease": "sync",
    "SyncWatchdog": "watchdog",
    "Watchdog": "watchdog",
    "WatchdogError": "watchdog",
    "WatchdogLost": "watchdog",
    "WatchdogUnavailable": "watchdog",
}

__all__ = [
    "CallTimeout",
    "ClientError",
    "Daemon",
    "DaemonUnreachable",
    "IndexAddress",
    "Lease",
    "LeaseAddress",
    "LeaseLost",
    "NotAcquired",
    "Registration",
    "SpaceAddress",
    "SyncLease",
    "SyncWatchdog",
    "Watchdog",
    "WatchdogError",
    "WatchdogLost",
    "WatchdogUnavailable",
]


if not TYPE_CHECKING:
    # Hidden from type checkers: they know the names above, and must report others.
    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value: object = getattr(import_module(f"holdfast.client.{_HOME[name]}"), name)
        return value
