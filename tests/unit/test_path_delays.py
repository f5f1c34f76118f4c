"""Paths that come and go: san_path_err, delay checks, marginal paths."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from holdfast.path import marginal, path_rules
from holdfast.path.marginal import Delays, DelaySettings, Phase, Verdict, found_good, from_delay_checks
from holdfast.path.records import Action, MapSettings, Recheck
from holdfast.path.schedule import Intervals
from holdfast.path.states import PathState
from holdfast.testing.virtual_loop import run_virtual
from tests.unit.path_lab import Lab

SAN = DelaySettings(san_threshold=1, san_forget_rate=3, san_recovery_s=100)
MARGINAL = DelaySettings(double_failed_s=60, sample_s=120, recheck_gap_s=300, rate_threshold=10)
P2 = MapSettings(intervals=Intervals(2, 8))


def virtual(scene: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scene()

    run_virtual(main())


def recover(delays: Delays, now: float, active: int = 1) -> Verdict:
    return found_good(delays, SAN, False, True, active, now)[0]


def test_threshold_and_recovery_time() -> None:
    delays = Delays()
    assert recover(delays, 0) is Verdict.ACCEPT
    assert recover(delays, 10) is Verdict.DELAY
    assert found_good(delays, SAN, False, False, 1, 110)[0] is Verdict.DELAY
    assert found_good(delays, SAN, False, False, 1, 111) == (
        Verdict.ACCEPT,
        "reinstate the path after err recovery time",
    )
    assert delays.failures == 0


def test_failing_again_starts_the_time_anew_and_no_path_ends_it() -> None:
    delays = Delays()
    recover(delays, 0)
    recover(delays, 10)
    assert recover(delays, 100) is Verdict.DELAY
    assert found_good(delays, SAN, False, False, 1, 150)[0] is Verdict.DELAY
    assert found_good(delays, SAN, False, False, 0, 151) == (Verdict.ACCEPT, "reinstating path early")


def test_failures_are_forgotten_by_good_checks() -> None:
    delays = Delays()
    recover(delays, 0)
    for at in range(3):
        found_good(delays, SAN, True, False, 1, at)
    assert delays.failures == 0
    assert recover(delays, 20) is Verdict.ACCEPT


def test_delay_checks_are_translated() -> None:
    assert from_delay_checks(12, 4, 20) == DelaySettings(1, 12, 80)
    assert not from_delay_checks(0, 4, 20).uses_san
    assert not replace(SAN, double_failed_s=1, sample_s=1, recheck_gap_s=1, rate_threshold=0).uses_san


def test_marginal_phases() -> None:
    delays = Delays()
    assert not marginal.kernel_failed(delays, MARGINAL, 0)
    assert not marginal.kernel_failed(delays, MARGINAL, 100)
    assert marginal.kernel_failed(delays, MARGINAL, 150)
    assert found_good(delays, MARGINAL, False, True, 1, 151)[0] is Verdict.SAMPLE
    assert found_good(delays, MARGINAL, False, False, 1, 160)[0] is Verdict.DELAY
    assert not marginal.sampled(delays, MARGINAL, errors=12, reads=1000, now_s=300)
    assert found_good(delays, MARGINAL, False, False, 1, 500)[0] is Verdict.DELAY
    assert found_good(delays, MARGINAL, False, False, 1, 601)[0] is Verdict.SAMPLE
    assert marginal.sampled(delays, MARGINAL, errors=10, reads=1000, now_s=800)
    assert delays.phase is Phase.NORMAL
    marginal.kernel_failed(delays, MARGINAL, 900)
    marginal.kernel_failed(delays, MARGINAL, 901)
    assert found_good(delays, MARGINAL, False, False, 0, 902)[1] == "no paths. recovering early"
    assert MARGINAL.effective_sample_s == 120


def test_a_flapping_path_is_held_back_and_then_reinstated() -> None:
    async def scene() -> None:
        async with Lab(replace(P2, delays=SAN)) as lab:
            await lab.pass_time(20)
            for _ in range(2):
                lab.kill("sda")
                await lab.pass_time(9)
                lab.mend("sda")
                await lab.pass_time(3)
            assert lab.path("sda").state is PathState.DELAYED
            assert lab.kernel_states() == {"sda": "F", "sdb": "A"}
            lab.dm.message("mpatha", "reinstate_path 8:0")
            await lab.pass_time(9)
            assert lab.kernel_states()["sda"] == "F"
            lab.kill("sdb")
            await lab.pass_time(10)
            assert lab.kernel_states() == {"sda": "A", "sdb": "F"}  # better than nothing

    virtual(scene)


def test_marginal_path_is_sampled_before_it_is_used() -> None:
    async def scene() -> None:
        settings = replace(P2, delays=MARGINAL)
        async with Lab(settings) as lab:
            await lab.pass_time(20)
            path = lab.path("sda")
            for _ in range(2):
                lab.dm.io_error("mpatha", "8:0")
                await lab.watch.submit(lambda: path_rules.path_failed_event(lab.map, path, lab.loop.time()))
                await lab.pass_time(4)
            assert path.state is PathState.DELAYED
            assert [asked.split(" ", 1)[1] for asked in lab.asked if "SAMPLE" in asked] == ["SAMPLE sda"]

            def judged() -> list[Action]:
                trusted = marginal.sampled(path.delays, settings.delays, 0, 30000, lab.loop.time())
                return [Recheck(path)] if trusted else []

            await lab.watch.submit(judged)
            await lab.pass_time(2)
            assert lab.path("sda").state is PathState.UP
            assert lab.kernel_states() == {"sda": "A", "sdb": "A"}

    virtual(scene)


def test_with_pathgroups_a_marginal_path_is_used_in_the_last_group() -> None:
    async def scene() -> None:
        async with Lab(replace(P2, delays=replace(SAN, pathgroups=True))) as lab:
            await lab.pass_time(20)
            for _ in range(2):
                lab.kill("sda")
                await lab.pass_time(9)
                lab.mend("sda")
                await lab.pass_time(3)
            assert lab.path("sda").marginal
            assert [[path.dev for path in group.paths] for group in lab.map.groups] == [["sdb"], ["sda"]]
            assert lab.kernel_states() == {"sda": "A", "sdb": "A"}
            await lab.pass_time(120)
            assert not lab.path("sda").marginal
            assert any(line.endswith("sda: path is no longer marginal") for line in lab.log)

    virtual(scene)
