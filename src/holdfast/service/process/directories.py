"""Removing runtime directories without holding up the loop (spec supervisor 4.2)."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil

log = logging.getLogger(__name__)


class Remover:
    """A directory is gone at once, under its name; its contents go in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._running: set[asyncio.Future[None]] = set()

    def remove(self, path: str) -> None:
        """A directory that is a link, or no directory, is left alone."""
        if os.path.islink(path) or not os.path.isdir(path):
            return
        aside = f"{os.path.dirname(path)}/.{os.path.basename(path)}.{os.urandom(4).hex()}"
        try:
            os.rmdir(path)
            return
        except OSError:
            pass
        try:
            os.rename(path, aside)
        except OSError as error:
            log.warning("%s cannot be removed: %s", path, error.strerror)
            return
        future = self._loop.run_in_executor(None, _remove, aside)
        self._running.add(future)
        future.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Wait for those that run."""
        if self._running:
            await asyncio.wait(set(self._running))


def _remove(path: str) -> None:
    try:
        shutil.rmtree(path)
    except OSError as error:
        log.warning("%s cannot be removed: %s", path, error)
