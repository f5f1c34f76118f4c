"""A path checker that breaks its contract on command: while /run/block is there, it blocks the event loop."""

import os
import time

from holdfast.path.checkers.base import UP, CheckerContext, CheckResult

COMMAND = "/run/block"


class BlockingChecker:
    def __init__(self, context: CheckerContext) -> None:
        pass

    async def check(self, timeout_s: float) -> CheckResult:
        while os.path.exists(COMMAND):
            time.sleep(0.1)  # This is what it is for.
        return UP

    def close(self) -> None:
        """Nothing to give back."""
