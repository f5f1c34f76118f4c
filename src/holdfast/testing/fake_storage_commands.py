"""The storage commands of `FakeDaemon`: initialise, read, owners, resource index (spec lease-wire section 8)."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import NamedTuple

from holdfast.leased import wire
from holdfast.testing.fake_storage import MIB, FakeIndex, FakeResource, FakeSpace, FakeStorage


class Answer(NamedTuple):
    """What is sent back. `close`: as the real daemon does after it; `silent`: REGISTER has no reply."""

    result: int = 0
    data2: int = 0
    body: bytes = b""
    close: bool = False
    silent: bool = False


class StorageCommands:
    """Handlers by the name of their command. They need nothing but the storage and the names of joined spaces."""

    storage: FakeStorage

    def joined(self) -> Container[str]:
        """Names of the lockspaces that the daemon has joined."""
        raise NotImplementedError

    def _do_align(self, client: object, header: wire.Header, payload: wire.Payload) -> Answer:
        return Answer(MIB)

    def _do_write_lockspace(self, client: object, header: wire.Header, payload: wire.Payload) -> Answer:
        assert payload.lockspace is not None
        name, _, _, disk = payload.lockspace
        self.storage.spaces[disk.path, disk.offset] = FakeSpace(name, header.data2 or 10)
        return Answer()

    def _do_read_lockspace(self, client: object, header: wire.Header, payload: wire.Payload) -> Answer:
        assert payload.lockspace is not None
        wanted = payload.lockspace
        found = self.storage.spaces.get((wanted.disk.path, wanted.disk.offset))
        if found is None or wanted.name not in ("", found.name):
            return Answer(-223 if found is None else -226, 0, wanted.encode())
        flags = wire.SECTOR512 | wire.ALIGN1M
        return Answer(0, found.io_timeout, wanted._replace(name=found.name, flags=flags).encode())

    def _resource(self, wanted: wire.Resource) -> FakeResource | int:
        found = self.storage.resources.get((wanted.disks[0].path, wanted.disks[0].offset))
        if found is None:
            return -223
        return found if wanted.name in ("", found.name) else -227

    def _do_write_resource(self, client: object, header: wire.Header, payload: wire.Payload) -> Answer:
        wanted = payload.resources[0]
        for disk in wanted.disks:
            if header.cmd_flags & wire.WRITE_CLEAR:
                self.storage.resources.pop((disk.path, disk.offset), None)
            else:
                self.storage.make_resource(wanted.lockspace_name, wanted.name, disk.path, disk.offset)
        return Answer()

    def _do_read_resource(self, client: object, header: wire.Header, payload: wire.Payload) -> Answer:
        found = self._resource(payload.resources[0])
        if isinstance(found, int):
            return Answer(found, 0, payload.resources[0].encode())
        flags = wire.SECTOR512 | wire.ALIGN1M
        return Answer(0, 0, wire.resource(found.space, found.name, lver=found.lver, flags=flags).encode())

    def _do_read_resource_owners(self, client: object, header: wire.Header, payload: wire.Payload) -> Answer:
        found = self._resource(payload.resources[0])
        if isinstance(found, int):
            return Answer(found, 0, payload.resources[0].encode())
        hosts = [wire.Host(found.owner, found.generation, found.timestamp)] if found.owner else []
        hosts += [wire.Host(host_id, generation) for host_id, generation in sorted(found.shared.items())]
        head = payload.resources[0]._replace(lver=found.lver).encode()
        return Answer(0, len(hosts), head + b"".join(host.encode() for host in hosts))

    # Resource index

    def _do_format_rindex(self, client: object, header: wire.Header, payload: wire.Payload) -> Answer:
        assert payload.rindex is not None
        place = (payload.rindex.disk.path, payload.rindex.disk.offset)
        self.storage.indexes[place] = FakeIndex(payload.rindex.lockspace_name)
        return Answer()

    def _index_answer(
        self,
        header: wire.Header,
        payload: wire.Payload,
        action: Callable[[FakeIndex, wire.Rindex, wire.Rentry], wire.Rentry | int],
    ) -> Answer:
        assert payload.rindex is not None
        assert payload.rentry is not None
        if payload.rindex.lockspace_name not in self.joined() and not header.cmd_flags & wire.RINDEX_NO_LOCKSPACE:
            return Answer(-2, 0, payload.rentry.encode())
        index = self.storage.indexes.get((payload.rindex.disk.path, payload.rindex.disk.offset))
        found = -274 if index is None else action(index, payload.rindex, payload.rentry)
        if isinstance(found, int):
            return Answer(found, 0, payload.rentry.encode())
        return Answer(0, 0, found.encode())

    def _do_lookup_rindex(self, client: object, header: wire.Header, payload: wire.Payload) -> Answer:
        def look(index: FakeIndex, where: wire.Rindex, entry: wire.Rentry) -> wire.Rentry | int:
            if not entry.name:
                free = self.storage.free_place(where.disk.path, where.disk.offset)
                return wire.Rentry(index.names.get(entry.offset, ""), entry.offset or free)
            offsets = [offset for offset, name in sorted(index.names.items()) if name == entry.name]
            return wire.Rentry(entry.name, offsets[0]) if offsets else -2

        return self._index_answer(header, payload, look)

    def _do_create_resource(self, client: object, header: wire.Header, payload: wire.Payload) -> Answer:
        def create(index: FakeIndex, where: wire.Rindex, entry: wire.Rentry) -> wire.Rentry | int:
            offset = self.storage.free_place(where.disk.path, where.disk.offset)
            index.names[offset] = entry.name
            self.storage.make_resource(index.space, entry.name, where.disk.path, offset)
            return wire.Rentry("", offset)

        return self._index_answer(header, payload, create)

    def _do_delete_resource(self, client: object, header: wire.Header, payload: wire.Payload) -> Answer:
        def delete(index: FakeIndex, where: wire.Rindex, entry: wire.Rentry) -> wire.Rentry | int:
            offset = next((offset for offset, name in index.names.items() if name == entry.name), None)
            if offset is None:
                return -2
            del index.names[offset]
            self.storage.resources.pop((where.disk.path, offset), None)
            return wire.Rentry()

        return self._index_answer(header, payload, delete)

    def _do_update_rindex(self, client: object, header: wire.Header, payload: wire.Payload) -> Answer:
        def update(index: FakeIndex, where: wire.Rindex, entry: wire.Rentry) -> wire.Rentry | int:
            if header.cmd_flags & wire.RINDEX_REM:
                index.names.pop(entry.offset, None)
                return wire.Rentry()
            index.names[entry.offset] = entry.name
            return entry

        return self._index_answer(header, payload, update)

    def _do_rebuild_rindex(self, client: object, header: wire.Header, payload: wire.Payload) -> Answer:
        assert payload.rindex is not None
        place = (payload.rindex.disk.path, payload.rindex.disk.offset)
        index = self.storage.indexes.get(place)
        if index is None:
            return Answer(-274)
        index.names = {
            offset: found.name
            for (path, offset), found in self.storage.resources.items()
            if path == place[0] and found.space == index.space
        }
        return Answer()
