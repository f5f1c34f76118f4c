"""A path unit: starts another when something becomes true or changes in the file system (spec supervisor 4.3).

What happens to a path while its unit runs is not remembered; the conditions that can be looked at (exists, not
empty) are looked at again when it stops.
"""

from __future__ import annotations

from typing import ClassVar

from holdfast.service.events import Start, State, Stop
from holdfast.service.exit_status import Result
from holdfast.service.limits import StartLimit
from holdfast.service.settings import UnitFile
from holdfast.service.triggers.machine import TriggerMachine, common
from holdfast.service.triggers.messages import Activate, NotActivated, PathHit, Triggered, Unwatch, Watch, Watched


class PathMachine(TriggerMachine):
    """dead, waiting, running, failed."""

    handlers: ClassVar = {
        **common((State.DEAD, State.FAILED), (State.WAITING, State.RUNNING)),
        (State.WAITING, Watched): "watched",
        (State.WAITING, PathHit): "hit",
        (State.WAITING, Triggered): "other_changed",
        (State.RUNNING, Triggered): "other_changed",
        (State.DEAD, Triggered): "remember",
        (State.FAILED, Triggered): "remember",
        (State.RUNNING, NotActivated): "not_activated",
    }

    def __init__(self, file: UnitFile, triggered: str) -> None:
        super().__init__(file, triggered)
        assert file.path is not None
        self._triggers = StartLimit(file.path.trigger_limit_interval_sec, file.path.trigger_limit_burst)

    def start(self, event: Start) -> None:
        if self.may_start():
            self.actions.append(Watch(first=True))
            self.enter(State.WAITING)

    def stop(self, event: Stop) -> None:
        self._close()
        self.end()

    def _close(self) -> None:
        self.actions.append(Unwatch())

    def watched(self, event: Watched) -> None:
        if event.hit:
            self._trigger(event.hit)

    def hit(self, event: PathHit) -> None:
        self._trigger(event.path)

    def _trigger(self, path: str) -> None:
        if not self._triggers.allow(self.now):
            self.log("Trigger limit hit, refusing further activation.", 4)
            self.fail(Result.TRIGGER_LIMIT_HIT)
            self.stop(Stop())
            return
        self.enter(State.RUNNING)
        self.actions.append(Activate(self.triggered, {"TRIGGER_UNIT": self.name, "TRIGGER_PATH": path}))

    def remember(self, event: Triggered) -> None:
        self.other = event.active

    def other_changed(self, event: Triggered) -> None:
        self.other = event.active
        if event.limited:
            self.fail(Result.UNIT_START_LIMIT_HIT)
            self.stop(Stop())
        elif event.active.is_down and self.state is State.RUNNING:
            self.enter(State.WAITING)
            self.actions.append(Watch())

    def not_activated(self, event: NotActivated) -> None:
        self.log(f"Failed to queue unit startup job: {event.reason}", 4)
        self.fail(Result.RESOURCES)
        self.stop(Stop())

    def elapsed(self, event: object) -> None:
        """A path has no deadlines."""
