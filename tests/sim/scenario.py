"""What happens in a simulated cluster, drawn from a seed: hosts, timeouts, workload, weather, trouble.

Scenario classes aim at different parts of the rules, because one mixture of everything would visit each of
them rarely: see `CLASSES`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal

from holdfast.testing.sim_clock import max_drift
from holdfast.testing.sim_disk import Weather
from tests.sim.daemon import Workload

Mode = Literal["ours", "mixed", "original"]

CLASSES = {
    "slow contended": "a fresh resource, exclusive and shared acquires at once, I/O delays of seconds (spec 13.1)",
    "calm": "many quick acquires, conversions and releases without faults",
    "deaths": "crashes, watchdog resets, pauses, restarts with the same or another name, leaving",
    "sick storage": "stalls, EIO, timeouts with late or no completion",
    "id clash": "two machines with one host id, restarts with new names",
    "everything": "all of it, less often",
    "restarts": "daemons that are killed and started again while their processes run on, beside deaths",
}
RESTARTS_EVERY = 9
"""Of the seeds without a forced class and without originals."""


@dataclass
class Trouble:
    """Mean seconds between events per host; 0 = never."""

    crash_s: float = 0.0
    daemon_kill_s: float = 0.0
    pause_s: float = 0.0
    stall_s: float = 0.0
    errors_s: float = 0.0
    leave_s: float = 0.0
    restart_s: float = 0.0


@dataclass
class HostPlan:
    """One machine."""

    name: str
    host_id: int
    ours: bool
    io: int
    rate: float
    weather: Weather


@dataclass
class Scenario:
    """Everything that a seed decides before time starts."""

    seed: int
    kind: str
    mode: Mode
    duration_s: float
    fire: int
    num_hosts: int
    resources: int
    hosts: list[HostPlan]
    workload: Workload
    trouble: Trouble
    new_name_chance: float
    fresh_io: int
    dead_s: float = field(default=0.0)

    def describe(self) -> str:
        hosts = ", ".join(f"{h.name}=id {h.host_id}{'' if h.ours else ' original'} io {h.io}" for h in self.hosts)
        return f"{self.kind}: {hosts}; W {self.fire}, {self.resources} resources, {self.duration_s:g} s"


def draw(seed: int, mode: Mode, kind: str | None = None) -> Scenario:
    """The scenario of a seed. `kind` forces a class."""
    rng = random.Random(f"scenario {seed} {mode}")
    kinds = [name for name in CLASSES if name != "restarts"]
    # The original is convicted where it is weakest.
    weights = (80, 4, 4, 4, 4, 4) if mode == "original" else (30, 15, 20, 15, 10, 10)
    if kind is None:
        kind = rng.choices(kinds, weights=weights)[0]
        if mode == "ours" and seed % RESTARTS_EVERY == RESTARTS_EVERY - 1:
            kind = "restarts"
    count = rng.choice((2, 3, 3, 4, 5, 8)) if kind in ("calm", "everything") else rng.choice((2, 3, 3, 3, 4, 5))
    if kind in ("slow contended", "id clash"):
        count = rng.choice((3, 3, 4))
    fire = rng.choice((10, 20, 60))
    ios = [rng.choice((2, 5, 10))] * count
    if rng.random() < 0.3:
        ios = [rng.choice((2, 3, 5, 10)) for _ in range(count)]
    if kind == "slow contended":
        ios = [10] * count
    dead = 8 * max(ios) + fire
    drift = 0.0 if mode != "ours" else max_drift(dead)
    ours = [True] * count
    if mode == "original":
        ours = [False] * count
    elif mode == "mixed":
        ours = [rng.random() < 0.5 for _ in range(count)]
        ours[rng.randrange(count)] = True
        ours[rng.choice([i for i in range(count) if not all(ours[:i] + ours[i + 1 :])] or [0])] = False
        if all(ours) or not any(ours):
            ours[0], ours[-1] = True, False
    ids = rng.sample(range(1, 9), count)
    if kind == "id clash" and count > 2:
        ids[1] = ids[0]
    weather = _weather(kind, rng, max(ios))
    hosts = [
        HostPlan(f"h{i + 1}", ids[i], ours[i], ios[i], 1 + rng.uniform(-drift, drift), _copy(weather))
        for i in range(count)
    ]
    think, hold = rng.choice(((0.3, 0.5), (1.0, 2.0), (3.0, 10.0)))
    shared = rng.choice((0.0, 0.2, 0.5, 0.8))
    if kind == "slow contended":
        think, hold = rng.choice(((0.5, 5.0), (1.0, 20.0)))
        shared = rng.choice((0.3, 0.4, 0.5))
    elif kind in ("deaths", "id clash", "sick storage", "everything", "restarts"):
        # Long holds: a lease must be held when its host dies. Few acquires: most of the time is waiting.
        think, hold = rng.choice(((3.0, 20.0), (10.0, 60.0), (2.0, 5.0)))
    duration = {
        "slow contended": rng.choice((80.0, 120.0)),
        "calm": 30.0 if think < 1 else 80.0,
        "deaths": 3.5 * dead,
        "sick storage": 2.5 * dead,
        "id clash": 3.0 * dead,
        "everything": 3.0 * dead,
        "restarts": 3.0 * dead,
    }[kind]
    workload = Workload(
        resources=1 if kind == "slow contended" else rng.choice((1, 1, 2)),
        think_s=think,
        hold_s=hold,
        shared_chance=shared,
        nowait_chance=rng.choice((0.0, 0.2)),
        convert_chance=rng.choice((0.0, 0.1, 0.3)) if kind != "slow contended" else 0.0,
        request_chance=0.0 if kind == "slow contended" else rng.choice((0.0, 0.2)),
    )
    return Scenario(
        seed=seed,
        kind=kind,
        mode=mode,
        duration_s=duration + 5 * max(ios),
        fire=fire,
        num_hosts=8,
        resources=workload.resources,
        hosts=hosts,
        workload=workload,
        trouble=_trouble(kind, rng, dead),
        new_name_chance=rng.choice((0.0, 0.3, 1.0)),
        fresh_io=rng.choice((min(ios), max(ios))),
        dead_s=dead,
    )


def _copy(weather: Weather) -> Weather:
    return Weather(**{name: getattr(weather, name) for name in Weather.__slots__})


def _weather(kind: str, rng: random.Random, io: int) -> Weather:
    weather = Weather()
    if kind == "slow contended":
        weather.slow_chance = rng.choice((0.3, 0.5, 0.7))
        weather.slow_s = (0.2, rng.choice((3.0, 6.0, 0.9 * io)))
        weather.submit_delay_chance = rng.choice((0.0, 0.1, 0.3))
        weather.submit_delay_s = (0.2, 8.0)
    elif kind == "calm":
        weather.slow_chance = rng.choice((0.0, 0.05))
        weather.slow_s = (0.005, 0.5)
    elif kind == "sick storage":
        weather.slow_chance = 0.05
        weather.slow_s = (0.1, 1.2 * io)
        weather.late_chance = rng.choice((0.0, 0.01, 0.05))
        weather.late_s = (io, 15.0 * io)
        weather.lost_chance = rng.choice((0.0, 0.3))
        weather.error_chance = rng.choice((0.0, 0.01, 0.05))
        weather.submit_delay_chance = rng.choice((0.0, 0.02))
        weather.submit_delay_s = (0.1, 3.0 * io)
    else:
        weather.slow_chance = rng.choice((0.0, 0.05))
        weather.slow_s = (0.01, 0.5 * io)
        if kind == "everything":
            weather.late_chance = rng.choice((0.0, 0.01))
            weather.late_s = (io, 10.0 * io)
            weather.error_chance = rng.choice((0.0, 0.005))
            weather.submit_delay_chance = 0.01
            weather.submit_delay_s = (0.1, 8.0 * io)
    return weather


def _trouble(kind: str, rng: random.Random, dead: float) -> Trouble:
    often = dead * rng.choice((1.0, 2.0))
    if kind == "deaths":
        return Trouble(crash_s=2 * often, daemon_kill_s=3 * often, pause_s=2 * often, leave_s=3 * often)
    if kind == "restarts":
        return Trouble(crash_s=4 * often, pause_s=4 * often, errors_s=4 * often, restart_s=0.3 * often)
    if kind == "sick storage":
        return Trouble(stall_s=often, errors_s=2 * often, leave_s=5 * often, pause_s=5 * often)
    if kind == "id clash":
        return Trouble(crash_s=often, pause_s=3 * often, leave_s=2 * often)
    if kind == "everything":
        return Trouble(4 * often, 5 * often, 4 * often, 4 * often, 5 * often, 5 * often)
    return Trouble()
