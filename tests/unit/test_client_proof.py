"""Until when a lease is proven, and what ends it at once."""

from __future__ import annotations

import asyncio
import math

import pytest

from holdfast.client.daemon import Daemon
from holdfast.client.errors import DaemonUnreachable
from holdfast.client.proof import READ_TRIES, Clocks, Held, Proof, read_together, space_deadline
from holdfast.client.status import LeaseStatus, SpaceStatus, Status
from holdfast.client.watch import LeaseWatch

PID = 4711
HELD = Held("web", "primary")


def space(last: object = 1000, io: object = 10, **values: object) -> SpaceStatus:
    pairs = {"list": "spaces", "io_timeout": io, "host_generation": 3, "renewal_last_success": last, **values}
    return SpaceStatus("web", 1, "/x", 0, {key: str(value) for key, value in pairs.items()})


def lease(pid: int = PID, state: str = "held") -> LeaseStatus:
    return LeaseStatus("web", "primary", pid, 5, False, (), {"list": state})


def status(
    monotime: object = 1010,
    spaces: tuple[SpaceStatus, ...] | None = None,
    leases: tuple[LeaseStatus, ...] | None = None,
) -> Status:
    return Status(
        "here",
        {"monotime": str(monotime)},
        (),
        (space(),) if spaces is None else spaces,
        (lease(),) if leases is None else leases,
    )


def at(boot: float, slept: float = 0.0) -> Clocks:
    return Clocks(boot, boot - slept)


def proof(first: Status | None = None, clocks: Clocks | None = None) -> Proof:
    return Proof(PID, [HELD], first or status(), clocks or at(1010))


def test_a_process_that_waits_between_two_clocks_does_not_take_that_for_a_suspend() -> None:
    # It was not running for 3 s after its first look, and the host never slept.
    boots, monos = iter([100.0, 103.0, 103.0, 103.001]), iter([103.0, 103.0])
    assert read_together(lambda: next(boots), lambda: next(monos)).slept == 0
    # Never close together: the closest, after a bounded number of tries.
    asked = iter(range(2 * READ_TRIES))
    assert read_together(lambda: float(next(asked)), lambda: 0.0) == Clocks(0.0, 0.0)
    assert next(asked, None) is None


def test_the_deadline_is_the_last_renewal_plus_eight_io_timeouts() -> None:
    followed = proof()
    verdict = followed.look(status(), at(1010), at(1010.1))
    assert verdict.deadline == 1080
    assert not verdict.lost
    assert followed.warn_at == 1060
    assert followed.expired(at(1079.9)) == ""
    assert "8 x io_timeout = 80" in followed.expired(at(1080))


def test_before_the_first_look_nothing_is_proven() -> None:
    assert proof().expired(at(1010))


def test_a_daemon_on_the_monotonic_clock_of_a_host_that_slept_before() -> None:
    # 500 s of suspend lie before the start: BOOTTIME is ahead of the daemon's clock.
    clocks = Clocks(1510, 1010)
    assert space_deadline(space(), status(), clocks, clocks) == 1580


def test_a_daemon_on_boottime() -> None:
    clocks = Clocks(1510, 1010)
    assert space_deadline(space(last=1500), status(monotime=1510), clocks, clocks) == 1580


def test_a_daemon_on_an_unknown_clock_gets_no_second_as_a_present() -> None:
    before, after = at(1010), at(1011)
    assert space_deadline(space(last=90_000), status(monotime=90_004), before, after) == 1010 + 80 - 5


def test_where_both_clocks_fit_the_earlier_deadline_counts() -> None:
    clocks = Clocks(1012, 1010)
    assert space_deadline(space(), status(monotime=1011), clocks, clocks) == 1080


@pytest.mark.parametrize(
    "answer",
    [
        status(spaces=(space(last="x"),)),
        status(spaces=(space(last=0),)),
        status(spaces=(space(io=0),)),
        status(spaces=(space(io="many"),)),
        status(spaces=(space(last=1013),)),
        status(monotime="?"),
    ],
)
def test_an_answer_without_proof_leaves_the_deadline_alone(answer: Status) -> None:
    followed = proof()
    followed.look(status(), at(1010), at(1010))
    verdict = followed.look(answer, at(1011), at(1011))
    assert (verdict.deadline, verdict.lost) == (1080, "")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (status(spaces=()), "not joined"),
        (status(spaces=(space(list="rem"),)), "being left"),
        (status(spaces=(space(list="add", host_generation=0),)), "joined anew"),
        (status(spaces=(space(host_generation=4),)), "joined again"),
        (status(leases=()), "does not hold"),
        (status(leases=(lease(pid=1),)), "does not hold"),
        (status(leases=(lease(state="orphan"),)), "does not hold"),
        (status(leases=(lease(state="rem"),)), "does not hold"),
    ],
)
def test_what_others_may_have_already_is_lost_at_once(answer: Status, reason: str) -> None:
    followed = proof()
    followed.look(status(), at(1010), at(1010))
    verdict = followed.look(answer, at(1011), at(1011))
    assert reason in verdict.lost
    assert verdict.at_once


@pytest.mark.parametrize("key", ["renew_fail", "space_dead", "killing_pids", "corrupt_result"])
def test_a_failing_lockspace_is_lost_with_its_grace_time(key: str) -> None:
    value = -223 if key == "corrupt_result" else 1
    verdict = proof().look(status(spaces=(space(**{key: value}),)), at(1011), at(1011))
    assert key in verdict.lost
    assert not verdict.at_once


def test_a_suspend_ends_the_lease_whatever_the_daemon_says() -> None:
    followed = proof()
    assert not followed.look(status(), at(1010), at(1010)).lost
    slept = at(1020, slept=5)
    assert "suspended for 5.0 s" in followed.look(status(monotime=1015), slept, slept).lost
    assert "suspended" in followed.expired(slept)


def test_two_lockspaces_the_earlier_deadline_counts() -> None:
    other = SpaceStatus("db", 1, "/y", 0, {**space(last=990).pairs})
    both = status(spaces=(space(), other), leases=(lease(), LeaseStatus("db", "x", PID, 1, False, (), {})))
    followed = Proof(PID, [HELD, Held("db", "x")], both, at(1010))
    assert followed.look(both, at(1010), at(1010)).deadline == 1070


class SilentDaemon(Daemon):
    """A daemon that answers `answers` times and is then unreachable."""

    def __init__(self, answers: int) -> None:
        super().__init__("/nowhere")
        self.answers = answers
        self.asked = 0

    async def status(self, *, timeout_s: float = 0) -> Status:
        self.asked += 1
        if self.asked > self.answers:
            raise DaemonUnreachable(-111, "nobody there", "")
        return status()


class Running:
    """Clocks that gain `step` seconds each time they are read."""

    def __init__(self, boot: float, step: float) -> None:
        self.boot = boot
        self.step = step

    def __call__(self) -> Clocks:
        self.boot += self.step
        return at(self.boot)


def test_a_daemon_that_falls_silent_is_no_proof_beyond_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_sleep(_: float) -> None:
        return None

    monkeypatch.setattr(asyncio, "sleep", no_sleep)
    clocks = Running(1010, 0.25)
    daemon = SilentDaemon(answers=2)
    warnings: list[float] = []
    watch = LeaseWatch(daemon, proof(), clocks=clocks)

    async def follow() -> str:
        await watch.look(1)
        return (await watch.until_lost(on_warning=warnings.append)).lost

    reason = asyncio.run(follow())
    assert "no renewal proven" in reason
    assert "nobody there" in reason
    assert 1080 <= clocks.boot <= 1082
    assert len(warnings) == 1
    assert warnings[0] <= 20
    assert daemon.asked > 3


def test_never_looked_means_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = LeaseWatch(SilentDaemon(0), proof(), clocks=Running(1010, 0.1))
    assert watch.remaining_s == -math.inf
    assert "no renewal" in asyncio.run(watch.until_lost()).lost
