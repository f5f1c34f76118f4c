"""Commands for paths (spec path 4.6, 6.4)."""

from __future__ import annotations

from holdfast.path import path_rules
from holdfast.path.control.operations import Refused
from holdfast.path.daemon.occasion import Occasion
from holdfast.path.daemon.parts import NOT_FOUND, Commands


class PathCommands(Commands):
    """Each returns the reply, or raises Refused."""

    async def add_path(self, name: str) -> str:
        """Read the device; it joins its map, or one is made if find_multipaths allows it."""
        shared = self._shared
        dev = name.removeprefix("/dev/")
        if ":" in dev:
            dev = shared.name_of(dev)
        known = shared.registry.paths.get(dev)
        if known is not None and known.map is not None:
            return ""
        try:
            path = await self._parts.arrivals.look_again(dev, is_new=True)
        except OSError as error:
            raise Refused(f"{error.strerror}") from error
        if path is None:
            if dev in shared.discovery.excluded:
                return "blacklisted"
            raise Refused(NOT_FOUND)
        if path.wwid:
            shared.claims_removed.discard(path.wwid)
            path.refused = ""
            await self._parts.settler.settle(path.wwid, Occasion(f"add path {dev}"))
            if path.refused:
                raise Refused(f"{path.refused}")
        return ""

    async def remove_path(self, name: str) -> str:
        """Out of its map, and forgotten until it is added again or the daemon is reconfigured."""
        path = self._path(name)
        known = path.map
        if known is not None:
            self._may_change()
        done = await self._parts.arrivals.removed(path)
        if known is not None and known.postponed is not None:
            return "delayed"
        return "" if done else "map reload error. removed"

    async def fail_path(self, name: str) -> str:
        """Not used, and not checked, until it is reinstated."""
        path = self._path(name)
        if path.map is None:
            raise Refused()
        self._may_change()
        found, record = path.map.record, path.record
        if not await path.map.watch.submit(lambda: path_rules.operator_fails(found, record)):
            raise Refused()
        return ""

    async def reinstate_path(self, name: str) -> str:
        """Used again at once, and checked within a second."""
        path = self._path(name)
        if path.map is None:
            if not path.record.is_disabled:
                raise Refused()
            path.record.is_disabled = False  # Its map has gone since it was failed; the next one may use it.
            return ""
        self._may_change()
        found, record = path.map.record, path.record
        if not await path.map.watch.submit(lambda: path_rules.operator_reinstates(found, record)):
            raise Refused()
        return ""
