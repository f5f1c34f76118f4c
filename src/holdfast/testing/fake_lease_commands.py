"""The lease commands of `FakeDaemon`: ACQUIRE, RELEASE, INQUIRE, CONVERT, values (spec lease-wire section 7)."""

from __future__ import annotations

from holdfast.leased import wire
from holdfast.testing.fake_state import FakeClient, JoinedSpace, now
from holdfast.testing.fake_storage import FakeStorage
from holdfast.testing.fake_storage_commands import Answer


class LeaseHandlers:
    """Handlers by the name of their command."""

    storage: FakeStorage
    spaces: dict[str, JoinedSpace]
    clients: list[FakeClient]
    orphans: dict[tuple[str, str], wire.Resource]

    def _target(self, client: FakeClient, header: wire.Header) -> FakeClient | int:
        """The client that a lease command acts on, or why not (spec 6.2)."""
        if header.data2 == wire.SELF_PID:
            return client if client.pid > 0 else -16
        return next((other for other in self.clients if other.pid == header.data2), -3)

    def _do_acquire(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        target = self._target(client, header)
        if isinstance(target, int):
            return Answer(target)
        taken: list[tuple[str, str]] = []
        for wanted in payload.resources:
            result = self._acquire(target, wanted, header.cmd_flags)
            if result:
                for key in taken:
                    self._release(target, key)
                return Answer(result)
            taken.append((wanted.lockspace_name, wanted.name))
        if payload.options is not None:
            target.name = payload.options.owner_name
        return Answer()

    def _acquire(self, client: FakeClient, wanted: wire.Resource, flags: int = 0) -> int:
        key = (wanted.lockspace_name, wanted.name)
        orphan = self.orphans.get(key)
        if orphan is not None:
            same = orphan.flags & wire.RES_SHARED == wanted.flags & wire.RES_SHARED
            if not same or not flags & (wire.ACQUIRE_ORPHAN | wire.ACQUIRE_ORPHAN_ONLY):
                return -117
            client.leases[key] = self.orphans.pop(key)
            return 0
        if flags & wire.ACQUIRE_ORPHAN_ONLY:
            return -2
        space = self.spaces.get(wanted.lockspace_name)
        if space is None or space.failing:
            return -28
        shared = bool(wanted.flags & wire.RES_SHARED)
        for other in self.clients:
            held = other.leases.get(key)
            if held is not None and not (shared and held.flags & wire.RES_SHARED):
                return -17
        disk = wanted.disks[0]
        resource = self.storage.resources.get((disk.path, disk.offset))
        if resource is None:
            return -223
        if (resource.space, resource.name) != key:
            return -227
        if wanted.flags & wire.RES_LVER and wanted.lver != resource.lver:
            return -240
        others = {host_id for host_id in resource.shared if host_id != space.host_id}
        if resource.owner not in (0, space.host_id):
            return -243
        if others and not shared:
            return -11
        if shared:
            resource.shared[space.host_id] = space.generation
        else:
            resource.lver += 1
            resource.owner, resource.generation = space.host_id, space.generation
            resource.timestamp = now()
        kept = wanted.flags & (wire.RES_SHARED | wire.RES_PERSISTENT)
        client.leases[key] = wanted._replace(lver=resource.lver, flags=kept)
        if flags & wire.ACQUIRE_LVB:
            client.values[key] = bytearray(resource.value)
        return 0

    def _end_hold(self, client: FakeClient, key: tuple[str, str]) -> None:
        """The process is gone: its lease is released, or becomes an orphan."""
        if client.leases[key].flags & wire.RES_PERSISTENT:
            self.orphans[key] = client.leases.pop(key)
        else:
            self._release(client, key)

    def _release(self, client: FakeClient, key: tuple[str, str]) -> int:
        held = client.leases.pop(key, None)
        if held is None:
            return -1
        value = client.values.pop(key, None)
        space = self.spaces.get(key[0])
        resource = self.storage.resources.get((held.disks[0].path, held.disks[0].offset))
        if space is not None and not space.failing and resource is not None:
            if value is not None:
                resource.value = bytes(value)
            if held.flags & wire.RES_SHARED:
                if not any(key in other.leases for other in self.clients):
                    resource.shared.pop(space.host_id, None)
            else:
                resource.owner = resource.timestamp = 0
        return 0

    def _do_release(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        if header.cmd_flags & wire.RELEASE_ORPHAN:
            named = payload.resources[0]
            gone = [key for key in self.orphans if key[0] == named.lockspace_name and named.name in ("", key[1])]
            for key in gone:
                client.leases[key] = self.orphans.pop(key)
                self._release(client, key)
            return Answer(len(gone))
        target = self._target(client, header)
        if isinstance(target, int):
            return Answer(target)
        keys = [(lease.lockspace_name, lease.name) for lease in payload.resources]
        if header.cmd_flags & wire.RELEASE_ALL:
            keys = list(target.leases)
        elif header.cmd_flags & wire.RELEASE_RENAME:
            disk = target.leases[keys[0]].disks[0] if keys[0] in target.leases else None
            if disk is not None:
                self.storage.resources[disk.path, disk.offset].name = keys[1][1]
            keys = keys[:1]
        return Answer(min([self._release(target, key) for key in keys], default=0))

    def _do_inquire(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        target = self._target(client, header)
        if isinstance(target, int):
            return Answer(target)
        if not target.leases:
            return Answer()
        try:
            text = wire.args_to_state(target.leases.values())
        except wire.FormatError as error:
            return Answer(error.code, len(target.leases))
        return Answer(0, len(target.leases), text.encode() + b"\0")

    def _do_convert(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        target = self._target(client, header)
        if isinstance(target, int):
            return Answer(target)
        wanted = payload.resources[0]
        held = target.leases.get((wanted.lockspace_name, wanted.name))
        if held is None:
            return Answer(-2)
        if held.flags & wire.RES_SHARED == wanted.flags & wire.RES_SHARED:
            return Answer(-114)
        self._release(target, (held.lockspace_name, held.name))
        return Answer(self._acquire(target, held._replace(flags=wanted.flags & wire.RES_SHARED, lver=0)))

    # The value block

    def _value(self, payload: wire.Payload) -> bytearray | int:
        key = (payload.resources[0].lockspace_name, payload.resources[0].name)
        holder = next((client for client in self.clients if key in client.leases), None)
        if holder is None:
            return -2
        return holder.values.get(key, -22)

    def _do_get_lvb(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        value = self._value(payload)
        return Answer(value) if isinstance(value, int) else Answer(0, 0, bytes(value[: header.data2 or None]))

    def _do_set_lvb(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        value = self._value(payload)
        if isinstance(value, int):
            return Answer(value)
        if len(payload.value) > len(value):
            return Answer(-7)
        value[: len(payload.value)] = payload.value
        return Answer()
