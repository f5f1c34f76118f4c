"""Whom a service may name as its main process (spec supervisor 9.4): not somebody else's, unless root asks."""

from __future__ import annotations

import pytest

from holdfast.service.events import Claim, Notified
from tests.vectors.supervisor_world import World

UNIT = "n.service"
FOREIGN = 4242


def told(world: World, claim: Claim, uid: int = 1000) -> int:
    """What is the main process after a message of this user that claims it."""
    main = world.core.machines[UNIT].run.main_pid
    world._deliver(UNIT, Notified(main, {"MAINPID": str(claim.pid)}, uid=uid, claim=claim))
    return world.core.machines[UNIT].run.main_pid


@pytest.mark.parametrize(
    ("claim", "why"),
    [
        (Claim(FOREIGN, ours=False, child=False), "does not belong to service, refusing"),
        (Claim(FOREIGN, alive=False), "does not exist or is a zombie"),
        (Claim(FOREIGN, manager=True), "is the manager, refusing"),
        (Claim(1), "is the manager, refusing"),
    ],
)
def test_what_may_not_be_adopted(claim: Claim, why: str) -> None:
    world = World({UNIT: "[Service]\nExecStart=/probe/p pause\nNotifyAccess=all\n"})
    world.command("start", UNIT)
    own = world.core.machines[UNIT].run.main_pid
    assert told(world, claim) == own
    assert any(why in line for line in world.log)


def test_own_processes_and_what_root_names() -> None:
    for claim, uid in ((Claim(FOREIGN, ours=True), 1000), (Claim(FOREIGN, ours=False, child=False), 0)):
        world = World({UNIT: "[Service]\nExecStart=/probe/p pause\nNotifyAccess=all\n"})
        world.command("start", UNIT)
        assert told(world, claim, uid) == FOREIGN
