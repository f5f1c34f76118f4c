"""Commands for maps (spec path 6.4)."""

from __future__ import annotations

from holdfast.path import dm_text, path_rules
from holdfast.path.control.operations import Refused
from holdfast.path.daemon.making import uuid_of
from holdfast.path.daemon.occasion import Occasion
from holdfast.path.daemon.parts import NOT_FOUND, Commands
from holdfast.path.daemon.registry import KnownMap
from holdfast.path.dm_wire import Flag
from holdfast.path.records import Action, Counters, Message, Reload
from holdfast.path.state_files import is_token

IN_USE = "map or partition in use"


class MapCommands(Commands):
    """Each returns the reply, or raises Refused."""

    async def add_map(self, name: str) -> str:
        """By alias, bound name, WWID or dm name; find_multipaths does not matter."""
        self._may_change()
        wwid = await self._wwid_of(name.removeprefix("/dev/"))
        if wwid in self._shared.registry.maps:
            return ""
        if self._shared.choices.wwid_excluded(wwid):
            raise Refused(f"{wwid}: {self._shared.choices.wwid_excluded(wwid)}")
        self._shared.claims_removed.discard(wwid)
        await self._parts.settler.settle(wwid, Occasion("add map", regardless=True))
        if wwid not in self._shared.registry.maps:
            raise Refused()
        return ""

    async def _wwid_of(self, name: str) -> str:
        shared = self._shared
        known = shared.registry.find_map(name)
        if known is not None:
            return known.wwid
        if shared.registry.with_wwid(name):
            return name
        if name in shared.choices.aliases:
            return shared.choices.aliases[name]
        uuid = shared.names.uuids.get(name, "")
        if uuid.startswith(uuid_of("")):
            return uuid.removeprefix(uuid_of(""))
        bound = await shared.files.bound_wwid(name) if is_token(name) else ""
        if not bound:
            raise Refused(NOT_FOUND)
        return bound

    async def remove_map(self, name: str) -> str:
        """Flush it; it is made again only by command, by a new path or by a reconfigure."""
        self._may_change()
        known = self._map(name)
        if not await self._flush(known):
            raise Refused(IN_USE)
        return ""

    async def _flush(self, known: KnownMap) -> bool:
        async with self._parts.settler.only(known.wwid):
            if self._shared.registry.maps.get(known.wwid) is not known:
                return True
            if known.left_alone or not await self._parts.maker.remove(known):
                return False
            self._shared.claims_removed.add(known.wwid)
            return True

    async def remove_maps(self) -> str:
        """All that the daemon knows and nobody uses. Those that were left alone from the beginning stay."""
        self._may_change()
        done = [await self._flush(known) for known in list(self._shared.registry.maps.values())]
        if not all(done):
            raise Refused(IN_USE)
        return ""

    async def switch_group(self, map_name: str, group: int) -> str:
        """The kernel uses that group with the next I/O, until failback."""
        known = self._map(map_name)
        self._may_change()
        if not 1 <= group <= len(known.record.groups):
            raise Refused()

        def switch() -> list[Action]:
            known.record.counters.switch_grp += 1
            return [Message(dm_text.switch_group(group))]

        await self._submit(known, switch)
        return ""

    async def _submit(self, known: KnownMap, actions: object) -> None:
        if not await known.watch.submit(actions):  # type: ignore[arg-type]
            raise Refused()

    async def suspend_map(self, name: str) -> str:
        """No I/O passes until `resume map`; queued and running I/O is not waited for."""
        known = self._changeable(name)
        calls, uuid = self._shared.calls, known.kernel.uuid
        assert calls is not None
        try:
            await calls.call(uuid, lambda dm: dm.suspend(uuid, Flag.NOFLUSH))
        except OSError as error:
            raise Refused(f"{error.strerror}") from error
        known.watch.kernel_event()
        return ""

    async def resume_map(self, name: str) -> str:
        """I/O passes again."""
        known = self._changeable(name)
        calls, uuid = self._shared.calls, known.kernel.uuid
        assert calls is not None
        try:
            await calls.call(uuid, lambda dm: dm.resume(uuid, Flag.NOFLUSH))
        except OSError as error:
            raise Refused(f"{error.strerror}") from error
        known.watch.kernel_event()
        return ""

    async def resize_map(self, name: str) -> str:
        """Read its paths' sizes again; if all are equal and not the map's, the map gets it."""
        known = self._changeable(name)
        paths = [path for path in self._shared.registry.with_wwid(known.wwid) if path.map is known]
        sizes = set()
        for path in paths:
            try:
                info = await self._shared.discovery.read(path.info.dev)
            except OSError as error:
                raise Refused(f"{path.info.dev}: {error.strerror}") from error
            if info is None or info.wwid != path.wwid:
                raise Refused(f"{path.info.dev}: is not what it was")
            self._parts.tables.take(info)
            sizes.add(info.size)
        if len(sizes) != 1 or 0 in sizes:
            raise Refused(f"{known.record.name}: its paths have different sizes")
        if not await self._parts.settler.settle(known.wwid, Occasion("resize map", resize=True)):
            raise Refused()
        return ""

    async def reload_map(self, name: str) -> str:
        """Load its table again, whether it has changed or not."""
        known = self._changeable(name)
        if not await self._parts.settler.settle(known.wwid, Occasion("reload map", may_create=False, forced=True)):
            raise Refused()
        return ""

    async def reassign_map(self, name: str) -> str:
        """`reset map`: would change tables of devices that are not ours, under whoever uses them."""
        self._map(name)
        raise Refused("tables of other devices are not changed")

    async def reset_stats(self, map_name: str | None) -> str:
        """Counters of `show maps stats` begin at 0."""
        maps = [self._map(map_name)] if map_name is not None else list(self._shared.registry.maps.values())
        for known in maps:
            failures = known.record.counters.failures
            known.record.counters = Counters(failures=failures)
        return ""

    async def set_marginal(self, path_name: str, marginal: bool) -> str:
        """By hand; the map's groups follow."""
        path = self._path(path_name)
        if path.map is None:
            raise Refused()
        known, record = self._changeable(path.map.wwid), path.record

        def mark() -> list[Action]:
            actions: list[Action] = []
            path_rules.set_marginal(known.record, record, marginal, actions)
            return self._regroup(known, actions)

        await self._submit(known, mark)
        return ""

    async def unset_marginal_map(self, map_name: str) -> str:
        """All its paths."""
        known = self._changeable(map_name)

        def unmark() -> list[Action]:
            actions: list[Action] = []
            for record in known.record.paths:
                path_rules.set_marginal(known.record, record, False, actions)
            return self._regroup(known, actions)

        await self._submit(known, unmark)
        return ""

    @staticmethod
    def _regroup(known: KnownMap, actions: list[Action]) -> list[Action]:
        if not known.record.force_reload:
            return actions
        known.record.force_reload = False
        known.action = "reload"
        return [*actions, Reload("marginal paths changed")]
