"""The unit's control group: v2, or a v1 hierarchy of names, when one can be written (spec supervisor 12.4).

All calls are short: cgroupfs is memory. A unit without a group is told apart by its processes' lineage instead.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from holdfast.service.settings import ExecSettings
from holdfast.service.values import Amount

log = logging.getLogger(__name__)

MOUNTS: Final = "/proc/self/mountinfo"
OWN: Final = "/proc/self/cgroup"
MAX_SUPERVISORS: Final = 32
"""In one group."""
MAX_GROUPS: Final = 4096
"""Below one unit; a service that makes more hides in them."""
CPU_PERIOD_USEC: Final = 100_000
CONTROLLERS: Final = ("cpu", "io", "memory", "pids")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A directory below which units' groups are made; `unified`: v2."""

    path: str
    unified: bool

    def group(self, unit: str) -> Group:
        """That of one unit; not made yet."""
        return Group(f"{self.path}/{_file_name(unit)}", self.unified)

    def unit_of(self, pid: int) -> str | None:
        """The unit whose group the process is in. None: none, or the process is gone."""
        try:
            with open(f"/proc/{pid}/cgroup", "rb", buffering=0) as file:
                text = file.read(1 << 16).decode("utf-8", "surrogateescape")
        except OSError:
            return None
        root, own = _relative(self.path)
        for line in text.splitlines():
            number, controllers, path = line.split(":", 2)
            matches = number == "0" if self.unified else f"name={os.path.basename(root)}" == controllers
            if matches and path.startswith(own):
                return _unit_name(path[len(own) :].partition("/")[0].removesuffix(" (deleted)"))
        return None

    def populated(self) -> Iterator[tuple[str, frozenset[int]]]:
        """Units whose groups have processes."""
        try:
            with os.scandir(self.path) as entries:
                names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            return
        for name in names:
            pids = Group(f"{self.path}/{name}", self.unified).pids()
            if pids:
                yield _unit_name(name), pids

    def shown(self, unit: str) -> str:
        """The unit's group as /proc/PID/cgroup has it: what `ControlGroup=` is."""
        return _relative(self.path)[1] + _file_name(unit)

    def remove(self) -> None:
        """The directory itself, when it is empty."""
        try:
            os.rmdir(self.path)
        except OSError:
            pass


@functools.lru_cache(maxsize=16)
def _relative(path: str) -> tuple[str, str]:
    """A hierarchy's mount point, and our directory as /proc/PID/cgroup writes it, with a slash."""
    for mount, root, _options, _kind in _mounts():
        if (path + "/").startswith(mount + "/"):
            return mount, f"{root.rstrip('/')}{path[len(mount) :]}/"
    return path, "/"


@dataclass(frozen=True, slots=True)
class Claimed:
    """A hierarchy that is ours alone as long as `lock` is open."""

    hierarchy: Hierarchy
    lock: int

    def release(self) -> None:
        """With the directory, when it is empty."""
        self.hierarchy.remove()
        os.close(self.lock)


def find_hierarchy(name: str) -> Claimed | None:
    """Where groups can be made: below our own, v2 first. None: nowhere. Another supervisor in the same group, even
    one in another PID namespace with the same paths, has claimed its own: then it is `NAME-2`, and so on.
    """
    own = _own_groups()
    found: list[Hierarchy] = []
    for mount, root, options, kind in _mounts():
        if kind == "cgroup2":
            key, unified = "", True
        elif kind == "cgroup" and "name=systemd" in options:
            key, unified = "name=systemd", False
        else:
            continue
        path = own.get(key)
        if path is None or not (path + "/").startswith(root.rstrip("/") + "/"):
            continue
        below = path[len(root.rstrip("/")) :].rstrip("/")
        found.append(Hierarchy(f"{mount}{below}/{name}", unified))
    for one in sorted(found, key=lambda hierarchy: not hierarchy.unified):
        for number in range(1, MAX_SUPERVISORS + 1):
            candidate = one if number == 1 else Hierarchy(f"{one.path}-{number}", one.unified)
            if not try_hierarchy(candidate):
                break
            claimed = claim(candidate)
            if claimed is not None:
                return claimed
    return None


def claim(one: Hierarchy) -> Claimed | None:
    """None: somebody alive has it. The kernel gives it back when its holder is gone, however that went."""
    try:
        lock = os.open(one.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return Claimed(one, lock)


def try_hierarchy(one: Hierarchy) -> bool:
    """Make its directory; whether groups can be made there."""
    try:
        os.makedirs(one.path, exist_ok=True)
        probe = f"{one.path}/.probe-{os.getpid()}"
        os.mkdir(probe)
        usable = os.path.exists(f"{probe}/cgroup.procs") and os.access(f"{probe}/cgroup.procs", os.W_OK)
        os.rmdir(probe)
    except OSError:
        return False
    if usable and one.unified:
        _enable_controllers(one.path)
    return usable


def _enable_controllers(path: str) -> None:
    """Best effort: without them limits are reported as not available."""
    for directory in (os.path.dirname(path), path):
        for controller in CONTROLLERS:
            try:
                _write(f"{directory}/cgroup.subtree_control", f"+{controller}")
            except OSError:
                continue


def _own_groups() -> dict[str, str]:
    try:
        with open(OWN, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError:
        return {}
    return {controllers: path for _number, controllers, path in lines}


def _mounts() -> Iterator[tuple[str, str, list[str], str]]:
    """Mount point, root, super options, type of each cgroup mount."""
    try:
        with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                left, _dash, right = line.partition(" - ")
                kind, _source, options = right.split()
                if kind in ("cgroup", "cgroup2"):
                    fields = left.split()
                    yield fields[4], fields[3], options.split(","), kind
    except OSError:
        return


def _file_name(unit: str) -> str:
    """A unit's name, but never one of the kernel's files."""
    return f"_{unit}" if unit.startswith(("_", ".", "cgroup.")) else unit


def _unit_name(name: str) -> str:
    return name.removeprefix("_")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a group takes; None: not counted here."""

    memory: int | None = None
    """Bytes."""
    tasks: int | None = None
    tasks_max: int | None = None
    """None: no limit."""
    cpu_nsec: int | None = None


class Group:
    """One unit's group; it need not exist."""

    __slots__ = ("path", "unified")

    def __init__(self, path: str, unified: bool) -> None:
        self.path = path
        self.unified = unified

    def make(self) -> None:
        """OSError."""
        os.makedirs(self.path, exist_ok=True)

    @property
    def exists(self) -> bool:
        return os.path.isdir(self.path)

    @property
    def procs(self) -> str:
        """The file that a process writes its pid, or 0, into."""
        return f"{self.path}/cgroup.procs"

    @property
    def events(self) -> str:
        """v2 only: changes when the group becomes empty."""
        return f"{self.path}/cgroup.events"

    def open(self) -> int:
        """A descriptor of the directory. OSError."""
        return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def pids(self) -> frozenset[int]:
        """All processes, of groups below too."""
        found: set[int] = set()
        for path in self._all():
            try:
                with open(f"{path}/cgroup.procs", "rb") as file:
                    found.update(map(int, file.read().split()))
            except OSError:
                continue
        found.discard(0)
        return frozenset(found)

    def _all(self) -> Iterator[str]:
        todo = [self.path]
        seen = 0
        while todo and seen < MAX_GROUPS:
            path = todo.pop()
            seen += 1
            yield path
            try:
                with os.scandir(path) as entries:
                    todo += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            except OSError:
                continue

    def populated(self) -> bool:
        """Whether any process is left."""
        if not self.unified:
            return bool(self.pids())
        return self._event("populated", self.events) > 0

    def oom_kills(self) -> int:
        """How often the kernel has killed here for memory; -1: not counted."""
        return self._event("oom_kill", f"{self.path}/memory.events")

    def _event(self, name: str, path: str) -> int:
        try:
            with open(path, encoding="ascii") as file:
                for line in file:
                    key, _blank, value = line.partition(" ")
                    if key == name:
                        return int(value)
        except (OSError, ValueError):
            pass
        return -1

    def usage(self) -> Usage:
        """Now; v2 only. May take a moment on large machines: not for the loop."""
        cpu = self._event("usage_usec", f"{self.path}/cpu.stat")
        return Usage(
            self._number("memory.current"),
            self._number("pids.current"),
            self._number("pids.max"),
            cpu * 1000 if cpu >= 0 else None,
        )

    def _number(self, name: str) -> int | None:
        try:
            with open(f"{self.path}/{name}", encoding="ascii") as file:
                return int(file.read())
        except (OSError, ValueError):  # "max"
            return None

    def kill(self) -> bool:
        """SIGKILL to all at once, those just being born included (v2, Linux 5.14). False: not possible."""
        try:
            _write(f"{self.path}/cgroup.kill", "1")
        except OSError:
            return False
        return True

    def freeze(self, frozen: bool) -> bool:
        """Stop all, or let them go on. False: not possible."""
        try:
            _write(f"{self.path}/cgroup.freeze", "1" if frozen else "0")
        except OSError:
            return False
        return True

    def limit(self, exe: ExecSettings) -> list[str]:
        """Write the resource settings; the names of those that cannot be."""
        refused = []
        for key, file, text in _settings(exe):
            try:
                _write(f"{self.path}/{file}", text)
            except OSError:
                refused.append(key)
        return refused

    def renew(self, exe: ExecSettings) -> list[str]:
        """As `limit`, for a group that has had limits: those that do not count any more are lifted."""
        if self.unified:
            for file, text in _NO_LIMITS.items():
                try:
                    _write(f"{self.path}/{file}", text)
                except OSError:
                    continue
        return self.limit(exe)

    def remove(self) -> None:
        """With groups below, as far as they are empty."""
        for path in sorted(self._all(), key=len, reverse=True):
            try:
                os.rmdir(path)
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENOENT, errno.ENOTEMPTY):
                    log.debug("%s: %s", path, error.strerror)


_NO_LIMITS: Final = {
    "memory.min": "0", "memory.low": "0", "memory.high": "max", "memory.max": "max", "memory.swap.max": "max",
    "pids.max": "max", "cpu.max": f"max {CPU_PERIOD_USEC}", "cpu.weight": "100", "io.weight": "default 100",
}  # fmt: skip


def _settings(exe: ExecSettings) -> Iterator[tuple[str, str, str]]:
    unlimited = Amount()
    for key, file, amount in (
        ("MemoryMin", "memory.min", exe.memory_min),
        ("MemoryLow", "memory.low", exe.memory_low),
        ("MemoryHigh", "memory.high", exe.memory_high),
        ("MemoryMax", "memory.max", exe.memory_max),
        ("MemorySwapMax", "memory.swap.max", exe.memory_swap_max),
    ):
        if amount != unlimited:
            total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            yield key, file, str(amount.of(total))
    if exe.tasks_max != unlimited:
        yield "TasksMax", "pids.max", str(exe.tasks_max.of(tasks_limit()))
    if exe.cpu_quota.endswith("%") and exe.cpu_quota[:-1].isdecimal():
        quota = int(exe.cpu_quota[:-1]) * CPU_PERIOD_USEC // 100
        yield "CPUQuota", "cpu.max", f"{quota} {CPU_PERIOD_USEC}"
    if exe.cpu_weight.isdecimal():
        yield "CPUWeight", "cpu.weight", exe.cpu_weight
    if exe.io_weight.isdecimal():
        yield "IOWeight", "io.weight", f"default {exe.io_weight}"


@functools.cache
def tasks_limit() -> int:
    """What a share of `TasksMax=` is of."""
    try:
        with open("/proc/sys/kernel/pid_max", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 32768


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)
