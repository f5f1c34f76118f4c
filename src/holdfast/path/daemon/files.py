"""The state files as the daemon uses them: names, known WWIDs, failed WWIDs, keys (spec path 8).

Every call goes through `Blocking`: a file system that hangs delays only who needs the file. What cannot be read or
written is logged; the daemon works on with what it knows. With `monitor_only` nothing is written, not even made.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

from holdfast.path.bindings import Bindings, BindingsFile
from holdfast.path.daemon.options import PathOptions
from holdfast.path.daemon.world import Blocking
from holdfast.path.prkeys import PrkeysFile, ReservationKey, parse_prkeys
from holdfast.path.state_files import MAX_BYTES, is_token
from holdfast.path.wwid import MAX_WWID
from holdfast.path.wwids import FailedWwids, WwidsFile, parse_wwids

T = TypeVar("T")
_log: Final = logging.getLogger(__name__)


class StateFiles:
    """All of them, with what they said last."""

    def __init__(self, options: PathOptions, blocking: Blocking) -> None:
        self._options = options
        self._blocking = blocking
        self._bindings = BindingsFile(options.bindings_file, read_only=options.bindings_read_only)
        self._wwids = WwidsFile(options.wwids_file)
        self._failed = FailedWwids(options.failed_directory)
        self._prkeys = PrkeysFile(options.prkeys_file)
        self.known_wwids: set[str] = set()
        self.keys: dict[str, ReservationKey] = {}
        self._names: dict[tuple[str, str], str] = {}
        self._to_remember: dict[str, None] = {}
        self._remembering = asyncio.Lock()

    async def load(self) -> None:
        """Read what is there. Those of names and WWIDs are made, as the original does; that of keys is not."""
        if not (self._options.monitor_only or self._options.bindings_read_only):
            await self._try("bindings", self._bindings.load)
        wwids = await self._try("wwids", self._load_wwids)
        if wwids is not None:
            self.known_wwids = set(wwids)
        keys = await self._try("prkeys", self._load_keys)
        if keys is not None:
            self.keys = keys
        self._names.clear()

    def _load_wwids(self) -> Iterable[str]:
        return parse_wwids(_read(self._wwids.path)) if self._options.monitor_only else self._wwids.load()

    def _load_keys(self) -> dict[str, ReservationKey]:
        return parse_prkeys(_read(self._prkeys.path)) if self._options.monitor_only else self._prkeys.load()

    async def remember(self, wwids: Iterable[str]) -> None:
        """There are maps with these. What comes while others are written is written with one further write."""
        new = [wwid for wwid in wwids if wwid not in self.known_wwids and is_token(wwid) and "/" not in wwid]
        if not new or self._options.monitor_only:
            return
        self._to_remember.update(dict.fromkeys(new))
        async with self._remembering:
            written = list(self._to_remember)
            if written and await self._try("wwids", lambda: self._wwids.add_all(written)) is not None:
                self.known_wwids.update(written)
                for wwid in written:
                    self._to_remember.pop(wwid, None)

    async def mark_failed(self, wwid: str) -> None:
        """Making its map failed: udev shall not keep the paths for us."""
        if not self._options.monitor_only:
            await self._try("failed_wwids", lambda: self._failed.add(wwid))

    async def unmark_failed(self, wwid: str) -> None:
        """It has a map."""
        if not self._options.monitor_only:
            await self._try("failed_wwids", lambda: self._failed.remove(wwid))

    def known_name(self, wwid: str, prefix: str) -> str:
        """The friendly name, if it has been looked up since the last `load`."""
        return self._names.get((wwid, prefix), "")

    async def names(
        self,
        wwids: Iterable[str],
        prefix: str,
        taken: Callable[[str], bool],
        configured: Mapping[str, str],
    ) -> dict[str, str]:
        """Friendly names, new ones written down before this returns; those that cannot have one are missing.
        `taken` is called in a thread.
        """
        wanted = [wwid for wwid in wwids if is_token(wwid) and len(wwid) <= MAX_WWID]
        missing = [wwid for wwid in wanted if (wwid, prefix) not in self._names]
        if missing:
            found = await self._try("bindings", lambda: self._allocate(missing, prefix, taken, configured))
            for wwid, alias in (found or {}).items():
                self._names[wwid, prefix] = alias
        return {wwid: self._names[wwid, prefix] for wwid in wanted if (wwid, prefix) in self._names}

    def _allocate(
        self, wwids: list[str], prefix: str, taken: Callable[[str], bool], configured: Mapping[str, str]
    ) -> dict[str, str]:
        if not self._options.monitor_only:
            return self._bindings.allocate(wwids, prefix, taken, configured)
        bindings = Bindings.parse(_read(self._bindings.path).decode("utf-8", "surrogateescape"), configured)
        found = {wwid: bindings.alias_of(wwid, prefix) for wwid in wwids}
        return {wwid: alias for wwid, alias in found.items() if alias is not None}

    async def bind(self, running: Mapping[str, str], configured: Mapping[str, str]) -> None:
        """Maps that run keep their names (alias to WWID)."""
        valid = {alias: wwid for alias, wwid in running.items() if is_token(alias) and is_token(wwid)}
        if valid and not self._options.monitor_only:
            await self._try("bindings", lambda: self._bindings.bind(valid, configured))

    async def bound_wwid(self, alias: str) -> str:
        """The WWID that an alias is bound to; "": none."""

        def find() -> str:
            data = _read(self._bindings.path).decode("utf-8", "surrogateescape")
            return Bindings.parse(data).wwids.get(alias, "")

        return await self._try("bindings", find) or ""

    async def set_key(self, wwid: str, key: ReservationKey | None) -> bool:
        """False: it could not be written."""
        if self._options.monitor_only:
            return False

        def write() -> bool:
            if key is None:
                self._prkeys.unset(wwid)
            else:
                self._prkeys.set(wwid, key)
            return True

        if not await self._try("prkeys", write):
            return False
        if key is None:
            self.keys.pop(wwid, None)
        else:
            self.keys[wwid] = key
        return True

    async def _try(self, lane: str, work: Callable[[], T]) -> T | None:
        try:
            return await self._blocking.run(lane, work)
        except (OSError, ValueError) as error:
            _log.error("%s: %s", lane, error)
            return None


def _read(path: str) -> bytes:
    """Without making it. A file that is not there is empty."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return b""
    with open(fd, "rb") as file:
        return file.read(MAX_BYTES)
