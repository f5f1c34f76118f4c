"""Who may act on what: the truth that no host knows, kept beside the simulated cluster.

The safety invariants are checked here at every grant and every end of a promise. A *process* is anything that
acts because its host was granted a lease: from the grant until its release begins, until the daemon killed it,
or until its host was reset; a paused daemon does not pause it. An *incarnation* is one ownership of a host id
(id and generation).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


class ViolationError(AssertionError):
    """A promise was broken. The campaign prints it with the seed."""


@dataclass(eq=False)
class Incarnation:
    """One ownership of a host id, from its registration with the watchdog."""

    host: str
    boot: int
    host_id: int
    generation: int
    ours: bool
    promise: float
    """Virtual time at which its watchdog has fired at the latest, unless it is extended."""
    fail_at: float = 0.0
    """Virtual time from which it may not write any lease record (rule 15)."""
    over: str = ""
    """Why nothing of it can act any more although the promise runs: `left`, `reset` (and booted again)."""
    failed: bool = False
    gone: bool = False
    """Its machine was reset, or its daemon gave the lockspace up."""


@dataclass(eq=False)
class Process:
    """Something that acts under a lease."""

    incarnation: Incarnation
    resource: str
    shared: bool
    lver: int
    since: float


@dataclass
class Counts:
    """What a run exercised. Summed up over a campaign."""

    numbers: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, by: int = 1) -> None:
        self.numbers[name] = self.numbers.get(name, 0) + by

    def merge(self, other: Counts) -> None:
        for name, number in other.numbers.items():
            self.add(name, number)


class Ledger:
    """All incarnations and processes. `now`: virtual time. `trace`: a line for the transcript."""

    def __init__(self, now: Callable[[], float], trace: Callable[[str, str], None]) -> None:
        self.now = now
        self.trace = trace
        self.counts = Counts()
        self.incarnations: dict[tuple[int, int], Incarnation] = {}
        self.acting: dict[str, list[Process]] = {}
        self.spoiled: dict[str, str] = {}
        """Resources that an *original* damaged in a way that no other host can prevent: see `invariants`."""
        self.put_back: set[str] = set()
        """Resources whose leader went back through an original's late commit: versions may repeat."""
        self._highest: dict[str, int] = {}
        self.attributes_to_originals = True
        """False where originals are to be convicted."""
        self.has_mark: Callable[[Incarnation, str], bool] = lambda incarnation, resource: False
        """Whether the disk shows that incarnation as a shared holder."""
        self.violations: list[str] = []
        self.on_violation: Callable[[], None] = lambda: None

    def violation(self, text: str) -> ViolationError:
        """Record it; the caller raises the result, which keeps the wrong step from happening where that is
        possible.
        """
        self.violations.append(f"{self.now():.4f}: {text}")
        self.trace("*****", f"VIOLATION {text}")
        self.on_violation()
        return ViolationError(text)

    def register(self, incarnation: Incarnation) -> None:
        key = (incarnation.host_id, incarnation.generation)
        if key in self.incarnations:
            raise self.violation(f"host id {key[0]} generation {key[1]} was taken twice: {incarnation.host}")
        self.incarnations[key] = incarnation
        self.counts.add("joins")

    def grant(self, incarnation: Incarnation, resource: str, shared: bool, lver: int) -> Process:
        """The daemon told its client that it holds the lease: from now on it can act."""
        process = Process(incarnation, resource, shared, lver, self.now())
        self.trace(incarnation.host, f"GRANTED {resource} {'shared' if shared else 'exclusive'} lver {lver}")
        self.counts.add("grants shared" if shared else "grants exclusive")
        others = self.acting.setdefault(resource, [])
        for other in others:
            if not (shared and other.shared):
                self._conflict(process, other)
        # The fencing token: it must not go back from grant to grant, or a stale owner could pass for the current
        # one.
        if resource not in self.spoiled and resource not in self.put_back:
            highest = self._highest.get(resource, 0)
            if lver <= highest and not shared:
                raise self.violation(
                    f"{incarnation.host} was granted {resource} with lver {lver}, but {highest} was granted before"
                )
            self._highest[resource] = max(highest, lver)
        others.append(process)
        return process

    def convert(self, process: Process, shared: bool, lver: int) -> None:
        """A conversion succeeded (or, to shared, is about to start: from then on the process acts as shared)."""
        process.shared = shared
        process.lver = lver
        if not shared:
            for other in self.acting[process.resource]:
                if other is not process:
                    self._conflict(process, other)
            self.counts.add("conversions to exclusive")
            self._highest[process.resource] = max(self._highest.get(process.resource, 0), lver)
        else:
            self.counts.add("conversions to shared")
        self.trace(process.incarnation.host, f"CONVERTED {process.resource} to {'SH' if shared else 'EX'}")

    def end(self, process: Process, why: str) -> None:
        """It does not act any more."""
        acting = self.acting.get(process.resource, [])
        if process in acting:
            acting.remove(process)
            self.trace(process.incarnation.host, f"PROCESS of {process.resource} ends: {why}")

    def end_all(self, incarnation: Incarnation, why: str) -> None:
        for acting in self.acting.values():
            for process in [p for p in acting if p.incarnation is incarnation]:
                self.end(process, why)

    def is_acting(self, incarnation: Incarnation) -> bool:
        return any(p.incarnation is incarnation for acting in self.acting.values() for p in acting)

    def must_be_over(self, host_id: int, generation: int, what: str, resource: str = "") -> None:
        """Somebody takes what this incarnation held: nothing of it may be left, and its deadline has passed."""
        incarnation = self.incarnations.get((host_id, generation))
        if incarnation is None or incarnation.over:
            return
        if self.now() < incarnation.promise and resource not in self.spoiled:
            raise self.violation(
                f"{what} taken from {incarnation.host} (id {host_id} generation {generation}) "
                f"at {self.now():.3f}, before its reset deadline {incarnation.promise:.3f}"
            )

    def is_over(self, host_id: int, generation: int) -> bool:
        """Whether nothing of that incarnation can act, and its deadline has passed."""
        incarnation = self.incarnations.get((host_id, generation))
        return incarnation is None or bool(incarnation.over) or self.now() >= incarnation.promise

    def is_gone(self, host_id: int, generation: int) -> bool:
        """Whether that incarnation's machine was reset or left since, or took the id again."""
        incarnation = self.incarnations.get((host_id, generation))
        return incarnation is None or incarnation.gone or self.is_over(host_id, generation)

    def spoil(self, host: str, resource: str, why: str) -> None:
        """An original did it; what follows on this resource is not held against anybody."""
        if resource not in self.spoiled:
            self.spoiled[resource] = why
            self.trace(host, f"SPOILS {resource}: {why}")

    def _conflict(self, process: Process, other: Process) -> None:
        newcomer = process.incarnation
        if (
            self.attributes_to_originals
            and not newcomer.ours
            and not process.shared
            and other.shared
            and self.has_mark(other.incarnation, other.resource)
        ):
            self.spoil(newcomer.host, process.resource, "overlooked a shared mark that is on the disk")
        if process.resource in self.spoiled:
            ours = newcomer.ours or other.incarnation.ours
            self.counts.add(
                "double owners made by originals" + (", a host of ours is one of them" if ours else "")
            )
            return
        raise self.violation(
            f"{process.resource}: {process.incarnation.host} "
            f"({'shared' if process.shared else 'exclusive'}, lver {process.lver}) can act while "
            f"{other.incarnation.host} ({'shared' if other.shared else 'exclusive'}, lver {other.lver}, "
            f"since {other.since:.3f}) still can"
        )
