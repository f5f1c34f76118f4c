"""What the service manager is told, and in which order (spec path 5.1). Each message is a datagram of its own.

The order is the original's. One difference: RELOADING=1 carries MONOTONIC_USEC, as Type=notify-reload wants it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from holdfast import notify

Send = Callable[..., bool]
"""As `notify.send`: KEY=VALUE lines of one datagram."""
SERVING: Final = ("idle", "running")


class Notifier:
    """Turns the daemon's states into messages. Nothing here waits or raises."""

    def __init__(self, send: Send = notify.send) -> None:
        self._send = send
        self._state = ""
        self._was_ready = False
        self._reloads = False
        self._stopped = False

    @property
    def is_ready(self) -> bool:
        """Whether the first configuration is done."""
        return self._was_ready

    def state(self, state: str) -> None:
        """The daemon is now `startup`, `configure`, `idle`, `running` or `shutdown`. Repetitions say nothing."""
        before, self._state = self._state, state
        if state == before or self._stopped:
            return
        if state in ("startup", "init"):
            self._send("STATUS=startup")
        elif state == "configure":
            self._configure()
        elif state in SERVING and before not in SERVING:
            self._up()
        elif state == "shutdown":
            self._shutdown()

    def _configure(self) -> None:
        self._send("STATUS=configure")
        if self._was_ready:
            self._reloads = True
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._send("RELOADING=1", f"MONOTONIC_USEC={now}")

    def _up(self) -> None:
        self._send("STATUS=up")
        self._send("READY=1")
        self._was_ready, self._reloads = True, False

    def _shutdown(self) -> None:
        self._stopped = True
        self._send("STATUS=shutdown")
        if self._reloads:
            # The manager waits for the end of the reload first.
            self._send("READY=1")
        self._send("STOPPING=1")

    def ended(self, exit_status: int) -> None:
        """The very last message."""
        self._send(f"ERRNO={exit_status}")
