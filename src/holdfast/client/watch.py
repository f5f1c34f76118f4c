"""Watching over a held lease: asks the daemon each io_timeout and keeps the deadline by itself (see `proof`).

The loop ends with the reason of the loss, or by cancellation. A daemon that hangs, dies or answers nonsense is
simply no proof: the deadline stays where it is and passes.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from holdfast.client.daemon import Daemon
from holdfast.client.errors import ClientError
from holdfast.client.proof import Clocks, Proof, Verdict, read_clocks

CLOCK_CHECK_S = 0.5
"""Loop timers stand still while the host sleeps; this often the clocks are compared with the deadline."""
MIN_QUERY_S = 0.05


class LeaseWatch:
    """Follows one `Proof`. `deadline` and `expired` may be read at any time, from any thread."""

    def __init__(self, daemon: Daemon, proof: Proof, *, clocks: Callable[[], Clocks] = read_clocks) -> None:
        self._daemon = daemon
        self.proof = proof
        self._clocks = clocks
        self.last_error = ""

    @property
    def remaining_s(self) -> float:
        """Seconds for which the lease is still proven; 0 or less: stop."""
        return self.proof.deadline - self._clocks().boot

    def expired(self) -> str:
        """Why nothing may run any more; empty while the lease is proven. No I/O, cheap."""
        return self.proof.expired(self._clocks())

    async def look(self, timeout_s: float) -> Verdict:
        """Ask the daemon once. An unreachable daemon leaves the verdict as it was."""
        before = self._clocks()
        try:
            status = await self._daemon.status(timeout_s=timeout_s)
        except ClientError as error:
            self.last_error = str(error)
            return Verdict(self.proof.deadline)
        self.last_error = ""
        return self.proof.look(status, before, self._clocks())

    async def until_lost(self, *, on_warning: Callable[[float], None] | None = None) -> Verdict:
        """Return why, once the lease can no longer be proven.

        `on_warning` is called, once per silence, when 6·io_timeout have passed without a renewal: with the seconds
        left until the deadline.
        """
        warned_for = -math.inf
        while True:
            if reason := self.expired():
                return self._explained(reason)
            verdict = await self.look(max(MIN_QUERY_S, min(self.remaining_s, self.proof.io_timeout)))
            if verdict.lost:
                return verdict
            next_look = self._clocks().boot + self.proof.io_timeout
            while (now := self._clocks().boot) < next_look:
                if reason := self.expired():
                    return self._explained(reason)
                deadline = self.proof.deadline
                if on_warning is not None and now >= self.proof.warn_at and warned_for != deadline:
                    warned_for = deadline
                    on_warning(deadline - now)
                await asyncio.sleep(max(0.0, min(CLOCK_CHECK_S, next_look - now, deadline - now)))

    def _explained(self, reason: str) -> Verdict:
        text = f"{reason}; {self.last_error}" if self.last_error else reason
        return Verdict(self.proof.deadline, text)
