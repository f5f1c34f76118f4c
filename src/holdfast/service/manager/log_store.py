"""What units said, kept in files (`service/log_files.py`), so that it outlives them and this manager.

A thread writes, one batch at a time: a disk that hangs costs lines, which are counted, and nothing else. All
sizes are bounded: what waits, each unit's files, all files together.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from typing import Final

from holdfast.service import log_files
from holdfast.storage.threads import Job, Lane, ThreadPool

log = logging.getLogger(__name__)

MAX_PENDING_BYTES: Final = 4 << 20
"""That wait for the thread; what comes then is dropped, and counted."""
MAX_TOTAL_BYTES: Final = 64 << 20
MAX_FILES: Final = 4096
"""Units with a log; beyond it, and beyond the total, the one that was silent for longest loses its own."""
FLUSH_LIMIT_S: Final = 2.0
DIRECTORY_MODE: Final = 0o750
FILE_MODE: Final = 0o640


class LogStore:
    """Of one manager. To be closed."""

    def __init__(self, directory: str) -> None:
        """In a running loop. Nothing is touched yet."""
        self.directory = directory
        self._loop = asyncio.get_running_loop()
        self._files = _Files(directory)
        self._pool = ThreadPool(self._loop, 1)
        self._lane = Lane(self._pool)
        self._pending: dict[str, list[bytes]] = {}
        self._pending_bytes = 0
        self._lost: dict[str, int] = {}
        self._busy = False
        self._asked = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._failure = ""

    def put(self, at: int, unit: str, level: int, text: str) -> None:
        """A line, to be written soon."""
        line = log_files.encode(at, unit, level, text)
        if self._pending_bytes + len(line) > MAX_PENDING_BYTES:
            self._lost[unit] = self._lost.get(unit, 0) + 1
            return
        lost = self._lost.pop(unit, 0)
        if lost:
            note = f"{unit}: {lost} lines are missing here: the storage of the log did not keep up."
            line = log_files.encode(at, unit, 4, note) + line
        self._pending.setdefault(unit, []).append(line)
        self._pending_bytes += len(line)
        self._idle.clear()
        if not self._busy and not self._asked:
            self._asked = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._asked = False
        if self._busy or not self._pending:
            return
        batch = {unit: b"".join(lines) for unit, lines in self._pending.items()}
        self._pending, self._pending_bytes = {}, 0
        self._busy = True
        self._lane.run(Job(lambda: self._files.write(batch), self._written))

    def _written(self, failure: str) -> None:
        self._busy = False
        if failure != self._failure:
            self._failure = failure
            if failure:
                log.error("log of units: %s", failure)
            else:
                log.info("log of units: written again")
        if self._pending:
            self._write()
        else:
            self._idle.set()

    async def flush(self) -> bool:
        """Wait until all is written; False: not within the limit."""
        try:
            async with asyncio.timeout(FLUSH_LIMIT_S):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """What can be written is."""
        if not await self.flush():
            log.error("log of units: the storage does not answer, the latest lines are lost")
        self._pool.close()


class _Files:
    """In the thread, one call at a time."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._sizes: OrderedDict[str, list[int]] = OrderedDict()
        """By file name: bytes of the file, and of the one before. The one written last is the last."""
        self._total = 0
        self._found = False
        self._whole: set[str] = set()
        """Files whose last line is known to be whole: others may end within one, where a manager was killed."""

    def write(self, batch: dict[str, bytes]) -> str:
        """Append; what went wrong, in words, for the last one that did."""
        failure = ""
        try:
            if not self._found:
                self._find()
        except OSError as error:
            return f"{self._directory}: {error.strerror}"
        for unit, data in batch.items():
            name = log_files.file_name(unit)
            try:
                self._append(name, data)
            except OSError as error:
                failure = f"{self._directory}/{name}: {error.strerror}"
        return failure

    def _find(self) -> None:
        """What an earlier manager has left."""
        os.makedirs(self._directory, DIRECTORY_MODE, exist_ok=True)
        found: list[tuple[float, str, int, int]] = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.name.endswith(log_files.SUFFIX) and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    found.append((status.st_mtime, entry.name, status.st_size, _size(entry.path + log_files.OLD)))
        for _time, name, size, old in sorted(found):
            self._sizes[name] = [size, old]
            self._total += size + old
        self._found = True

    def _append(self, name: str, data: bytes) -> None:
        path = os.path.join(self._directory, name)
        sizes = self._sizes.get(name)
        if sizes is None:
            sizes = self._sizes[name] = [0, 0]
        self._sizes.move_to_end(name)
        if sizes[0] and sizes[0] + len(data) > log_files.MAX_FILE_BYTES:
            os.replace(path, path + log_files.OLD)
            self._total -= sizes[1]
            sizes[0], sizes[1] = 0, sizes[0]
        if len(data) > log_files.MAX_FILE_BYTES:
            # More than a file in one batch: the latest lines of it.
            data = data[data.index(b"\n", len(data) - log_files.MAX_FILE_BYTES - 1) + 1 :]
        if sizes[0] and name not in self._whole:
            data = b"\n" + data
        self._whole.discard(name)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        try:
            written = os.write(fd, data)
        finally:
            os.close(fd)
        if written == len(data):
            self._whole.add(name)
        sizes[0] += written
        self._total += written
        while (self._total > MAX_TOTAL_BYTES or len(self._sizes) > MAX_FILES) and len(self._sizes) > 1:
            self._forget_one()

    def _forget_one(self) -> None:
        name, (size, old) = self._sizes.popitem(last=False)
        self._total -= size + old
        self._whole.discard(name)
        for path in (os.path.join(self._directory, name), os.path.join(self._directory, name + log_files.OLD)):
            try:
                os.unlink(path)
            except OSError:
                continue


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0
