"""A process for tests: the path daemon's shell around a core that does nothing but what SCENE says.

python -m tests.unit.path_process_main OPTIONS OF `holdfast path daemon`
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from holdfast.cli import path_daemon
from holdfast.path.conf import Config
from holdfast.path.control.operations import Refused
from holdfast.path.control.rows import Snapshot
from holdfast.path.daemon.assembly import make_server
from holdfast.path.daemon.configuration import load_config
from holdfast.path.daemon.liveness import Promises
from holdfast.path.daemon.process import run_process
from holdfast.path.daemon.process_options import ProcessOptions, StartError
from tests.unit.path_control_lab import FakeOperations

SCENE = os.environ.get("SCENE", "")
TURN_S = 0.01


class FakeCore(FakeOperations):
    """Drives nothing, in turns that it promises."""

    def __init__(self, options: ProcessOptions, on_state: Callable[[str], None], promises: Promises) -> None:
        super().__init__(Snapshot(pid=os.getpid()))
        self._options = options
        self._on_state = on_state
        self.on_config: Callable[[Config], None] = lambda config: None
        self._promises = promises
        self._quitting = asyncio.Event()

    def _enter(self, state: str) -> None:
        self.state = replace(self.state, daemon_state=state)
        self._on_state(state)

    def stalled(self) -> str | None:
        return None

    async def start(self) -> None:
        self._enter("configure")
        if SCENE == "refuses":
            raise StartError("nothing to check with")
        if SCENE == "starts for ever":
            await asyncio.Event().wait()
        self._enter("idle")

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._quitting.is_set():
            self._promises.back_by("checks", loop.time() + TURN_S)
            if SCENE == "defect":
                raise RuntimeError("a defect")
            self._enter("running")
            self._enter("idle")
            if "block" in self.finished:
                time.sleep(3600)
            try:
                async with asyncio.timeout(TURN_S):
                    await self._quitting.wait()
            except TimeoutError:
                pass

    async def stop(self) -> None:
        if SCENE == "never stops":
            await asyncio.Event().wait()
        print("stopped", file=sys.stderr, flush=True)

    async def reconfigure(self, all_maps: bool) -> str:
        self._enter("configure")
        await asyncio.sleep(0)
        self.on_config(load_config(self._options))
        self._enter("idle")
        return ""

    async def fail_path(self, name: str) -> str:
        if name == "nobody":
            raise Refused("device not found")
        self.finished.append(name)
        return ""

    async def shutdown(self) -> str:
        self._quitting.set()
        return ""


def make_core(
    options: ProcessOptions, config: Config, on_state: Callable[[str], None], promises: Promises
) -> FakeCore:
    """As `assembly.make_core`."""
    return FakeCore(options, on_state, promises)


if __name__ == "__main__":
    given = path_daemon.parser().parse_args()
    if SCENE == "never stops":
        from holdfast.path.daemon import process

        process.STOP_S = 0.05  # type: ignore[misc]
    sys.exit(run_process(path_daemon.options_of(given), given.foreground, make_core, make_server))
