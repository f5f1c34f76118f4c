"""What is counted of paths and maps, as Prometheus text and as JSON.

Ten thousand paths make a long text: `lines` is a generator, so that whoever serves it can do other work between.
Histograms are per map: per path they would be a hundred times as many numbers as anybody reads; there the sum and
the count of durations are told, and the JSON form has all buckets. From memory only: nothing waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from holdfast.path.latency import BOUNDS_S, Histogram
from holdfast.path.records import Map, Path
from holdfast.path.states import PathState

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PREFIX: Final = "holdfast_path"


@dataclass(frozen=True, slots=True)
class Watched:
    """A map, or with no map the orphans, and how its checks keep up."""

    map: Map | None
    orphans: Sequence[Path] = field(default_factory=tuple)
    overdue: int = 0
    """Paths whose check should have begun a second ago (`MapWatch.overdue`)."""
    under_way: int = 0

    @property
    def paths(self) -> Sequence[Path]:
        """All of it."""
        return self.map.paths if self.map is not None else self.orphans

    @property
    def name(self) -> str:
        """Empty: the orphans."""
        return self.map.name if self.map is not None else ""


def lines(watched: Sequence[Watched], now_s: float) -> Iterator[str]:
    """Prometheus text, line by line, each with its end. `now_s`: of the clock that the records use."""
    yield from _path_family(watched, "state", "gauge", "1 for the present state of a path", _states)
    yield from _simple(watched, "checks_total", "counter", "checks that ended", lambda p: p.statistics.checks)
    yield from _simple(
        watched, "check_failures_total", "counter", "checks that found it bad", lambda p: p.statistics.failures
    )
    yield from _simple(watched, "flaps_total", "counter", "from good to bad", lambda p: p.statistics.flaps)
    yield from _simple(watched, "kernel_failures", "gauge", "the kernel's fail count", lambda p: p.fail_count)
    yield from _simple(watched, "priority", "gauge", "its priority, -1: undefined", lambda p: p.priority)
    yield from _simple(
        watched,
        "check_seconds_total",
        "counter",
        "durations of checks that found it good",
        lambda p: p.statistics.latency.total_s,
    )
    yield from _simple(
        watched,
        "last_check_seconds",
        "gauge",
        "duration of the last check that found it good",
        lambda p: p.statistics.last_latency_s,
    )
    yield from _map_lines(watched, now_s)
    yield from _histograms(watched)
    yield from _head("checks_overdue", "gauge", "paths whose check should have begun a second ago")
    yield f"{PREFIX}_checks_overdue {sum(one.overdue for one in watched)}\n"
    yield from _head("checks_under_way", "gauge", "checks that have not returned")
    yield f"{PREFIX}_checks_under_way {sum(one.under_way for one in watched)}\n"


def text(watched: Sequence[Watched], now_s: float) -> str:
    """All of `lines`."""
    return "".join(lines(watched, now_s))


def _head(name: str, kind: str, help_text: str) -> Iterator[str]:
    yield f"# HELP {PREFIX}_{name} {help_text}\n"
    yield f"# TYPE {PREFIX}_{name} {kind}\n"


def _path_family(
    watched: Sequence[Watched], name: str, kind: str, help_text: str, samples: Callable[[Path, str], Iterable[str]]
) -> Iterator[str]:
    yield from _head(name, kind, help_text)
    for one in watched:
        for path in one.paths:
            yield from samples(path, _labels(("dev", path.dev), ("map", one.name)))


def _states(path: Path, labels: str) -> Iterator[str]:
    yield f'{PREFIX}_state{{{labels},state="{path.state.word}"}} 1\n'


def _simple(
    watched: Sequence[Watched],
    name: str,
    kind: str,
    help_text: str,
    value: Callable[[Path], float | None],
) -> Iterator[str]:
    def sample(path: Path, labels: str) -> Iterator[str]:
        found = value(path)
        if found is not None:
            yield f"{PREFIX}_{name}{{{labels}}} {_number(found)}\n"

    yield from _path_family(watched, name, kind, help_text, sample)


def _map_lines(watched: Sequence[Watched], now_s: float) -> Iterator[str]:
    families: tuple[tuple[str, str, str, Callable[[Map], float]], ...] = (
        ("map_paths", "gauge", "paths of a map", lambda m: len(m.paths)),
        ("map_active_paths", "gauge", "paths of a map that are up or ghost", lambda m: m.active_paths),
        ("map_queueing", "gauge", "1: I/O is queued while no path is left", lambda m: m.queues),
        ("map_in_recovery", "gauge", "1: no path is left, and queueing will end", lambda m: m.in_recovery),
        (
            "map_queued_seconds_total",
            "counter",
            "time in recovery mode",
            lambda m: (
                m.counters.total_q_time + (now_s - m.recovery_since if m.recovery_since is not None else 0.0)
            ),
        ),
        ("map_path_faults_total", "counter", "path failures", lambda m: m.counters.path_faults),
        ("map_switch_group_total", "counter", "switches of the path group", lambda m: m.counters.switch_grp),
        ("map_loads_total", "counter", "tables that were loaded", lambda m: m.counters.map_loads),
        ("map_queue_timeouts_total", "counter", "times it entered recovery", lambda m: m.counters.q_timeouts),
        ("map_failures_total", "counter", "times I/O could fail", lambda m: m.counters.failures),
    )
    for name, kind, help_text, value in families:
        yield from _head(name, kind, help_text)
        for one in watched:
            if one.map is not None:
                yield f"{PREFIX}_{name}{{{_labels(('map', one.name))}}} {_number(value(one.map))}\n"


def _histograms(watched: Sequence[Watched]) -> Iterator[str]:
    name = "check_duration_seconds"
    yield from _head(name, "histogram", "durations of checks that found a path of the map good")
    for one in watched:
        labels = _labels(("map", one.name))
        together = Histogram()
        for path in one.paths:
            together.merge(path.statistics.latency)
        seen = 0
        for bound, count in zip(BOUNDS_S, together.counts, strict=False):
            seen += count
            yield f'{PREFIX}_{name}_bucket{{{labels},le="{bound:g}"}} {seen}\n'
        yield f'{PREFIX}_{name}_bucket{{{labels},le="+Inf"}} {together.count}\n'
        yield f"{PREFIX}_{name}_sum{{{labels}}} {_number(together.total_s)}\n"
        yield f"{PREFIX}_{name}_count{{{labels}}} {together.count}\n"


def _labels(*pairs: tuple[str, str]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.9g}"


def as_json(watched: Sequence[Watched], now_s: float) -> dict[str, object]:
    """`maps[]`, `paths[]`, `checks_overdue`, `checks_under_way`: the same figures, and all histograms."""
    return {
        "maps": [_map_json(one.map, now_s) for one in watched if one.map is not None],
        "paths": [_path_json(path, one.name) for one in watched for path in one.paths],
        "checks_overdue": sum(one.overdue for one in watched),
        "checks_under_way": sum(one.under_way for one in watched),
    }


def _map_json(found: Map, now_s: float) -> dict[str, object]:
    counters = found.counters
    recovery_s = now_s - found.recovery_since if found.recovery_since is not None else 0.0
    return {
        "map": found.name,
        "wwid": found.wwid,
        "paths": len(found.paths),
        "active_paths": found.active_paths,
        "queueing": found.queues,
        "in_recovery": found.in_recovery,
        "queued_s": round(counters.total_q_time + recovery_s, 3),
        "path_faults": counters.path_faults,
        "switch_group": counters.switch_grp,
        "map_loads": counters.map_loads,
        "queue_timeouts": counters.q_timeouts,
        "failures": counters.failures,
    }


def _path_json(path: Path, map_name: str) -> dict[str, object]:
    checked = None if path.state is PathState.UNCHECKED else path.state.is_good
    return {
        "dev": path.dev,
        "dev_t": path.dev_t,
        "map": map_name or None,
        "state": path.state.word,
        "good": checked,
        "kernel_failures": path.fail_count,
        "priority": path.priority,
        **path.statistics.as_json(),
    }
