"""Commands about persistent reservations: keys, and registering returning paths (spec path 6.4, 8.3)."""

from __future__ import annotations

import re
from typing import Final

from holdfast.path.control.operations import Refused
from holdfast.path.daemon.parts import Commands
from holdfast.path.daemon.registry import KnownMap
from holdfast.path.prkeys import ReservationKey

_KEY: Final = re.compile(r"(?:0[xX])?([0-9a-fA-F]{1,16})(:aptpl)?", re.ASCII)


def parse_key(text: str) -> ReservationKey | None:
    """Hexadecimal, `0x` or not, `:aptpl` or not. None: it is no key."""
    found = _KEY.fullmatch(text)
    if found is None or int(found[1], 16) == 0:
        return None
    return ReservationKey(int(found[1], 16), found[2] is not None)


class ReservationCommands(Commands):
    """Each returns the reply, or raises Refused."""

    def key_of(self, wwid: str) -> ReservationKey | None:
        """The key to be registered on the paths of that map."""
        known = self._shared.registry.maps.get(wwid)
        if known is None:
            return None
        if known.plan.options.reservation_key_in_file:
            return self._shared.files.keys.get(wwid)
        return known.plan.options.reservation_key

    def reservation_status(self, map_name: str) -> str:
        return f"{self._map(map_name).reservation_status}"

    def reservation_hold(self, map_name: str) -> str:
        return f"{self._map(map_name).reservation_hold}"

    def reservation_key(self, map_name: str) -> str:
        key = self.key_of(self._map(map_name).wwid)
        if key is None:
            return "none"
        return f"0x{key.key:x}{':aptpl' if key.aptpl else ''}"

    async def set_reservation_status(self, map_name: str, is_set: bool, paths: str | None) -> str:
        """Whether the key is registered on paths that come back. Without a key it stays unset."""
        known = self._map(map_name)
        if is_set and self.key_of(known.wwid) is None:
            known.reservation_status = "unset"
            return ""
        known.reservation_status = "set" if is_set else "unset"
        self._follow(known)
        if is_set and paths:
            for name in paths.split():
                path = self._shared.registry.find_path(name)
                if path is not None and path.map is known:
                    path.record.granted.clear()
        return ""

    def _follow(self, known: KnownMap) -> None:
        known.record.has_reservation_key = known.reservation_status == "set"

    async def set_reservation_key(self, map_name: str, key: str | None) -> str:
        """None: forget it. Only with `reservation_key file`."""
        known = self._map(map_name)
        if not known.plan.options.reservation_key_in_file:
            raise Refused("reservation_key file is not configured for this map")
        parsed = parse_key(key) if key is not None else None
        if key is not None and parsed is None:
            raise Refused(f"no key: {key}")
        if not await self._shared.files.set_key(known.wwid, parsed):
            raise Refused("the prkeys file cannot be written")
        if parsed is None:
            known.reservation_status = "unset"
            self._follow(known)
        return ""

    async def set_reservation_hold(self, map_name: str, is_set: bool) -> str:
        self._map(map_name).reservation_hold = "set" if is_set else "unset"
        return ""
