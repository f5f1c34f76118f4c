"""Events, requests, settings, renewals and log of `FakeDaemon` (spec lease-wire sections 13.4, 13.8, 14)."""

from __future__ import annotations

from holdfast.leased import wire
from holdfast.testing.fake_state import FakeClient, JoinedSpace
from holdfast.testing.fake_storage import FakeStorage
from holdfast.testing.fake_storage_commands import Answer


class NewsCommands:
    """Handlers by the name of their command. What was asked for is kept in lists that a test may read."""

    storage: FakeStorage
    spaces: dict[str, JoinedSpace]
    clients: list[FakeClient]
    renewals: list[tuple[int, int, int, int, int]]
    """The history: timestamp, read_ms, write_ms, next_timeouts, next_errors."""
    log_text: str
    requests: dict[tuple[str, int], tuple[int, int]]
    """Place of a resource: version asked for, and how."""
    events: list[tuple[str, wire.HostEvent, int]]
    """Lockspace, event and flags of each SET_EVENT."""
    examined: list[tuple[str, str]]
    settings: list[tuple[str, int]]
    goodbyes: int
    """Event descriptors whose client has said that it is over (spec 14.1)."""

    # What a test may do

    def deliver_event(self, space: str, event: wire.HostEvent, from_host_id: int, generation: int = 1) -> None:
        """Another host has told this one an event."""
        for client in self._listeners(space):
            client.writer.write(wire.EventMessage(event, from_host_id, generation).encode())

    def end_events(self, space: str) -> None:
        """Close the event descriptors of a lockspace, as when it ends."""
        for client in self._listeners(space):
            client.writer.close()

    def listeners(self, space: str) -> int:
        """How many listen."""
        return len(self._listeners(space))

    def _listeners(self, space: str) -> list[FakeClient]:
        return [client for client in self.clients if client.listens_to == space]

    # Handlers

    def _do_reg_event(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        assert payload.lockspace is not None
        if payload.lockspace.name not in self.spaces:
            return Answer(-2)
        client.listens_to = payload.lockspace.name
        return Answer()

    def _do_end_event(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        assert payload.lockspace is not None
        return Answer(0 if payload.lockspace.name in self.spaces else -2, close=True)

    def _do_set_event(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        assert payload.lockspace is not None
        assert payload.event is not None
        if payload.lockspace.name not in self.spaces:
            return Answer(-2)
        self.events.append((payload.lockspace.name, payload.event, header.cmd_flags))
        return Answer()

    def _do_examine_lockspace(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        assert payload.lockspace is not None
        self.examined.append((payload.lockspace.name, ""))
        return Answer()

    def _do_examine_resource(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        self.examined.append((payload.resources[0].lockspace_name, payload.resources[0].name))
        return Answer()

    def _do_set_config(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        assert payload.lockspace is not None
        if payload.lockspace.name not in self.spaces:
            return Answer(-2, close=True)
        self.settings.append((payload.lockspace.name, header.data))
        return Answer(close=True)

    def _do_request(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        wanted = payload.resources[0]
        if wanted.lockspace_name not in self.spaces:
            return Answer(-28)
        place = (wanted.disks[0].path, wanted.disks[0].offset)
        resource = self.storage.resources.get(place)
        if resource is None:
            return Answer(-223)
        if not wanted.lver and not header.data and not header.cmd_flags & wire.REQUEST_NEXT_LVER:
            self.requests.pop(place, None)
            return Answer()
        if not resource.owner:
            return Answer()
        lver = wanted.lver or resource.lver + 1
        if lver <= resource.lver:
            return Answer(-272)
        self.requests[place] = (lver, header.data)
        return Answer()

    def _do_renewal(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        assert payload.lockspace is not None
        space = self.spaces.get(payload.lockspace.name)
        if space is None:
            return Answer(-28, close=True)
        keys = ("timestamp", "read_ms", "write_ms", "next_timeouts", "next_errors")
        states = [
            wire.State(
                wire.STATE_RENEWAL, 0, entry[0], "", wire.format_pairs(zip(keys, entry, strict=True))
            ).encode()
            for entry in self.renewals
        ]
        return Answer(0, space.io_timeout, b"".join(states), close=True)

    def _do_log_dump(self, client: FakeClient, header: wire.Header, payload: wire.Payload) -> Answer:
        text = self.log_text.encode()
        return Answer(len(text), 0, text, close=True)
