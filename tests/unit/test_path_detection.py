"""What a device says of itself, and which maps have changed."""

from __future__ import annotations

from holdfast.path.detection import (
    Abilities,
    checker_timeout,
    detect,
    detected_checker,
    detected_prioritizer,
    hardware_handler,
)
from holdfast.path.dm_wire import Listed
from holdfast.path.events import Changes, EventNumbers
from holdfast.path.priorities.alua import Tpgs
from holdfast.path.sg import SgAnswer, SgCommand, run_exchange

GROUP_PAGE = bytes([0, 0x83, 0, 8, 1, 0x15, 0, 4, 0, 0, 0, 9])


def device(tpgs: int, pages: bytes, volume_access: bytes) -> Abilities:
    def execute(command: SgCommand) -> SgAnswer:
        if not command.cdb[1]:
            return SgAnswer(data=bytes([0, 0, 0, 0, 0, tpgs << 4]))
        told = {
            0x00: bytes([0, 0, 0, len(pages)]) + pages,
            0x83: GROUP_PAGE,
            0xC9: bytes(4) + volume_access,
        }
        return SgAnswer(data=told[command.cdb[2]])

    return run_exchange(detect(1), execute)


def test_abilities() -> None:
    plain = device(0, b"\x00\x80\x83", b"")
    assert plain == Abilities()
    assert (detected_checker(plain), detected_prioritizer(plain, True), hardware_handler(plain, ())) == (
        None,
        None,
        (),
    )
    alua = device(1, b"\x00\x83", b"")
    assert alua == Abilities(Tpgs.IMPLICIT, 9)
    assert detected_checker(alua) == "tur"
    assert detected_prioritizer(alua, True) == "sysfs"
    assert detected_prioritizer(alua, False) == "alua"
    assert hardware_handler(alua, ()) == ("alua",)
    assert hardware_handler(alua, ("emc", "1")) == ("emc", "1")
    rdac = device(1, b"\x00\xc9", b"vac1")
    assert detected_checker(rdac) == "rdac"
    assert detected_prioritizer(rdac, True) == "alua"
    assert not device(3, b"\xc9", b"vac2").is_rdac
    failing = run_exchange(detect(1), lambda command: SgAnswer(errno=5))
    assert failing == Abilities()


def test_timeouts() -> None:
    assert checker_timeout(6, 30)[0] == 6
    assert checker_timeout(None, 30) == (30, "kernel sysfs")
    assert checker_timeout(None, None)[0] == 30


def test_changed_maps() -> None:
    numbers = EventNumbers()

    def seen(*listed: tuple[int, str, int, str]) -> Changes:
        return numbers.compare([Listed(dev, name, event, uuid) for dev, name, event, uuid in listed])

    a, b, other = (1, "a", 0, "mpath-1"), (2, "b", 5, "mpath-2"), (3, "root", 0, "LVM-x")
    assert seen(a, b, other) == Changes(appeared=("a", "b"))
    assert seen(a, b, other) == Changes()
    assert seen((1, "a", 2, "mpath-1"), b, (3, "root", 7, "LVM-x")) == Changes(changed=("a",))
    assert seen((4, "a", 2, "mpath-1")) == Changes(appeared=("a",), gone=("a", "b"))
    old = EventNumbers()
    assert old.compare([Listed(1, "a")]).appeared == ("a",)
    assert old.compare([Listed(1, "a")]).changed == ("a",)
