"""The daemon's side of the helper: asks it, and is never worse off for having asked (spec lease-wire 11, 21).

The original trusts its helper: a full pipe drops the kill, a stopped helper swallows it, a dead one ends all
killing. Here every request is answered, and whatever is not answered soon is done by the daemon itself. A
helper that dies, hangs, or says something that it should not is killed and replaced, not more often than the
delays below allow.

Rules only: the process is behind `Link`, time behind the clock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from holdfast.clock import Clock, Timer
from holdfast.daemons.processes import Process
from holdfast.leased.helper_wire import NUMBERS, Kind, Request, Result, WireError, decode_statuses

log = logging.getLogger(__name__)

NO_FD: Final = -1
ANSWER_LIMIT_S: Final = 1.0
"""Requests are waiting and not one of them was answered for so long: the helper hangs."""
LATE_S: Final = 0.5
"""Our own timer came that much too late: the whole host stood still, and the helper gets its time once more."""
KILL_VALID_MS: Final = 1000
"""A signal belongs to its kill round."""
PROGRAM_VALID_MS: Final = 3000
"""Later than this the answer is EXPIRED, and the daemon starts the program itself."""
START_LIMIT_S: Final = 10.0
"""From fork to the first heartbeat. Until then nothing is asked of it."""
SILENCE_LIMIT_S: Final = 40.0
"""Heartbeats come every 30 s; after a longer silence it is asked."""
STEADY_S: Final = 10.0
"""A helper that lived for so long is replaced at once; others after growing delays."""
RESTART_DELAYS_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
MAX_WAITING: Final = 4096


class Link(Protocol):
    """A helper process, as `helper_pipes.HelperPipes`."""

    pid: int
    request_fd: int
    status_fd: int

    def watch(self, on_status: Callable[[bytes], None], on_end: Callable[[str], None]) -> None: ...

    def write(self, request: bytes) -> bool: ...

    def read(self) -> None: ...

    def end(self) -> None: ...

    def leave(self) -> None: ...


RunProgram = Callable[[str, str, int], bool]
"""Start path with args and pid from the daemon; whether that was possible."""


class _Asked(NamedTuple):
    request: Request
    at: float


class Helper:
    """At most one helper process at a time."""

    def __init__(self, clock: Clock, start: Callable[[], Link], run_program: RunProgram) -> None:
        self.full_count = 0
        """Requests that did not fit into the pipe."""
        self.last_status = 0.0
        """When the helper said something last, CLOCK_BOOTTIME; 0: never."""
        self._clock = clock
        self._start = start
        self._run_program = run_program
        self._link: Link | None = None
        self._enabled = False
        self._ready = False
        self._started_at = 0.0
        self._short_lives = 0
        self._number = 0
        self._asked: dict[int, _Asked] = {}
        self._heard_at = 0.0
        self._progress_at = 0.0
        self._due_at = 0.0
        self._spared = False
        self._timer: Timer | None = None

    # -- what STATUS shows ---------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        return self._link.pid if self._link is not None else -1

    @property
    def request_fd(self) -> int:
        return self._link.request_fd if self._link is not None else NO_FD

    @property
    def status_fd(self) -> int:
        return self._link.status_fd if self._link is not None else NO_FD

    # -- life ----------------------------------------------------------------------------------------------

    def begin(self, link: Link | None) -> None:
        """Use the helper that was started before privileges were dropped; None: there was none, try again."""
        self._enabled = True
        if link is None:
            self._start_later()
        else:
            self._use(link)

    def close(self) -> None:
        """The daemon leaves."""
        self._enabled = False
        self._set_timer(None)
        if self._link is not None:
            self._link.leave()
            self._link = None
        self._asked.clear()

    def _use(self, link: Link) -> None:
        now = self._clock.now()
        self._link, self._ready, self._spared = link, False, False
        self._started_at = self._heard_at = self._progress_at = now
        link.watch(self._said, self._ended)
        self._watch_out()

    def _replace(self, why: str) -> None:
        """Kill it; do what it was asked; start another one."""
        link = self._link
        if link is None:
            return
        log.error("helper pid %d %s: killed and replaced", link.pid, why)
        link.end()
        self._lost()

    def _ended(self, how: str) -> None:
        log.error("helper pid %d dead %s", self.pid, how)
        self._lost()

    def _lost(self) -> None:
        self._link, self._ready = None, False
        asked, self._asked = self._asked, {}
        for one in asked.values():
            self._do_ourselves(one.request)
        self._start_later()

    def _start_later(self) -> None:
        steady = self._clock.now() >= self._started_at + STEADY_S
        self._short_lives = 0 if steady else self._short_lives + 1
        delays = (0.0, *RESTART_DELAYS_S)
        self._set_timer(self._clock.now() + delays[min(self._short_lives, len(delays) - 1)])

    def _start_again(self) -> None:
        self._started_at = self._clock.now()
        try:
            link = self._start()
        except OSError as error:
            log.error("helper cannot be started: %s", error)
            self._start_later()
            return
        log.warning("helper pid %d started", link.pid)
        self._use(link)

    # -- requests ------------------------------------------------------------------------------------------

    def run_program(self, path: str, args: str, pid: int) -> bool:
        """Execute a killpath program, by the helper or by ourselves; False when neither could start it."""
        request = self._request(Kind.RUNPATH, PROGRAM_VALID_MS)._replace(path=path, args=args, pid=pid)
        return self._ask(request) or self._do_ourselves(request)

    def kill(self, process: Process, number: int) -> None:
        """A signal that the kernel refused to send for us."""
        request = self._request(Kind.KILLPID, KILL_VALID_MS)
        request = request._replace(pid=process.pid, signal=number, start_ticks=process.start or 0)
        if not self._ask(request):
            self._do_ourselves(request)

    def write_sysfs(self, path: str, number: int) -> bool:
        """A number into a file below /sys that the kernel refused to us; whether the helper was asked."""
        request = self._request(Kind.WRITE_SYSFS, PROGRAM_VALID_MS)
        return self._ask(request._replace(path=path, args=str(number)))

    def ping(self) -> None:
        """Somebody will soon need it: see whether it works, so that it is replaced in time if not."""
        if not self._asked:
            self._ask(self._request(Kind.PING, PROGRAM_VALID_MS))

    def _request(self, kind: Kind, valid_ms: int) -> Request:
        self._number = (self._number + 1) % NUMBERS
        return Request(kind, self._number, int(self._clock.now() * 1000) + valid_ms)

    def _ask(self, request: Request) -> bool:
        """Whether it is in the pipe."""
        if self._link is None or not self._ready:
            return False
        try:
            sent = len(self._asked) < MAX_WAITING and self._link.write(request.encode())
        except OSError as error:
            self._replace(f"cannot be asked ({error.strerror})")
            return False
        if not sent:
            self.full_count += 1
            log.error("helper pid %d pipe is full, %d times until now", self._link.pid, self.full_count)
            return False
        now = self._clock.now()
        if not self._asked:
            self._progress_at, self._spared = now, False
        self._asked[request.number] = _Asked(request, now)
        self._watch_out()
        return True

    def _do_ourselves(self, request: Request) -> bool:
        """What the helper did not do. There is no other way to signal a process that we may not signal."""
        if request.kind is Kind.RUNPATH:
            return self._run_program(request.path, request.args, request.pid)
        if request.kind is Kind.KILLPID:
            log.error("kill %d sig %d: not permitted, and no helper does it", request.pid, request.signal)
        return False

    # -- answers -------------------------------------------------------------------------------------------

    def _said(self, data: bytes) -> None:
        now = self._clock.now()
        try:
            statuses = decode_statuses(data)
        except WireError as error:
            self._replace(f"says what it should not ({error})")
            return
        self._ready = True
        self._heard_at = self.last_status = now
        for status in statuses:
            if status.number is None:
                continue
            asked = self._asked.pop(status.number, None)
            if asked is None:
                self._replace(f"answers what was not asked ({status.number})")
                return
            self._progress_at, self._spared = now, False
            self._answered(asked.request, status.result)
        self._watch_out()

    def _answered(self, request: Request, result: Result) -> None:
        if result in (Result.DONE, Result.GONE):
            return
        log.error("helper pid %d: %s pid %d: %s", self.pid, request.kind.name, request.pid, result.name)
        self._do_ourselves(request)

    # -- time ----------------------------------------------------------------------------------------------

    def _watch_out(self) -> None:
        """Set the timer to the next instant at which its silence means something."""
        if self._link is None:
            return
        if self._asked:
            self._set_timer(self._progress_at + ANSWER_LIMIT_S)
        elif not self._ready:
            self._set_timer(self._started_at + START_LIMIT_S)
        else:
            self._set_timer(self._heard_at + SILENCE_LIMIT_S)

    def _set_timer(self, due_at: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due_at is not None:
            self._due_at = due_at
            self._timer = self._clock.call_later(due_at - self._clock.now(), self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        if not self._enabled:
            return
        now = self._clock.now()
        if now < self._due_at:
            self._set_timer(self._due_at)
            return
        if self._link is None:
            self._start_again()
            return
        due_at = self._due_at
        # Its answer may lie there since long: it was this loop that did not look.
        self._link.read()
        if self._link is None or self._due_at != due_at:
            return
        if now > due_at + LATE_S and not self._spared:
            self._spared = True
            self._set_timer(now + ANSWER_LIMIT_S)
        elif self._asked:
            self._replace(f"has not answered for {now - self._progress_at:.1f} s")
        elif not self._ready:
            self._replace(f"has not started in {START_LIMIT_S:g} s")
        else:
            self.ping()
