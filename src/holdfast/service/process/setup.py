"""From a fresh clone of the forker to the service's program: every step of set-up in its order (spec supervisor
11.1). Runs in the child, where waiting delays nobody else.

The forker process imports this file: nothing large may be imported here. What is to be done comes as a mapping of
plain values (`plan.py` makes it):

    path, argv, search          program; the directories for a bare name
    early, late, unset          environment below and above that of the user; names, or NAME=VALUE, to remove
    marks                       text in argv -> variable of the user that replaces it
    user, group, groups         names or numbers; empty: as we are
    stdin, stdout, stderr       ("null",) ("inherit",) ("fd", index) ("file", path, how) ("data", bytes)
                                ("tty", path, how, reset, vhangup)
    status, idle                indices of descriptors; idle: -1, or what is waited for, IDLE_LIMIT_S at most
    join                        cgroup.procs files to enter
    oom, nice, scheduler, io_priority, affinity, slack_ns, umask
    directories                 (step, base, names, mode, owned by the user)
    limits                      (number, soft, hard), -1: none
    root, chdir, chdir_optional
    bounding, ambient, no_new_privileges    masks; bounding -1: untouched
    fds, names, open_files, nonblock        indices of descriptors for 3 and up; (path, name, options)
    watchdog, ignore_sigpipe
"""

from __future__ import annotations

import errno
import fcntl
import marshal
import os
import resource
import select
import stat
import termios
import time

from holdfast.service.process import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn
else:
    import _signal as signal

CODES = {
    "CHDIR": 200, "NICE": 201, "FDS": 202, "EXEC": 203, "LIMITS": 205, "OOM_ADJUST": 206, "SIGNAL_MASK": 207,
    "STDIN": 208, "STDOUT": 209, "CHROOT": 210, "IOPRIO": 211, "TIMERSLACK": 212, "SETSCHEDULER": 214,
    "CPUAFFINITY": 215, "GROUP": 216, "USER": 217, "CAPABILITIES": 218, "CGROUP": 219, "SETSID": 220,
    "STDERR": 222, "NO_NEW_PRIVILEGES": 227, "RUNTIME_DIRECTORY": 233, "STATE_DIRECTORY": 238,
    "CACHE_DIRECTORY": 239, "LOGS_DIRECTORY": 240, "CONFIGURATION_DIRECTORY": 241,
}  # fmt: skip
"""Exit status of a child that fails at a step (7.3)."""
ABOUT_TO_EXECUTE = b"!"
"""The last that the status pipe gets: its end without this means that the child was killed before. No marshalled
failure begins with it; one that follows says why the program could not be executed.
"""
FIRST_FD = 3
IDLE_LIMIT_S = 5.0
TTY_RETRY_S = 0.1
_ALL_FDS = 2**31 - 1
_STEPS = ("STDIN", "STDOUT", "STDERR")
_NO_SHELLS = ("", "/usr/sbin/nologin", "/sbin/nologin", "/bin/false", "/usr/bin/false", "/bin/nologin")
_NO_HOMES = ("", "/", "/nonexistent")


class StepError(Exception):
    """The step that failed, and why."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(step, reason)
        self.step = step
        self.reason = reason


def become(plan: Mapping[str, Any], fds: list[int]) -> NoReturn:
    """Never returns: executes, or tells the status pipe (step, reason) and exits with the step's code. Before it
    executes it says that it will: see ABOUT_TO_EXECUTE.
    """
    code = 255
    try:
        try:
            _Child(plan, fds).run()
        except StepError as failure:
            code = CODES[failure.step]
            os.write(fds[plan["status"]], marshal.dumps((failure.step, failure.reason)))
        except BaseException as error:
            os.write(fds[plan["status"]], marshal.dumps(("EXCEPTION", repr(error))))
    finally:
        os._exit(code)


class _Child:
    def __init__(self, plan: Mapping[str, Any], fds: list[int]) -> None:
        self.plan = plan
        self.received = fds
        self.uid = self.gid = -1
        self.groups: list[int] | None = None
        self.home = "/root" if os.getuid() == 0 else "/"
        self.user_variables: dict[str, str] = {}
        self.terminal = ""
        self.descriptors: list[tuple[int, str]] = []

    def run(self) -> None:
        """Everything."""
        plan = self.plan
        self._step("SIGNAL_MASK", self._signals)
        self._step("SETSID", os.setsid)
        if plan["idle"] >= 0:
            select.select([self.received[plan["idle"]]], [], [], IDLE_LIMIT_S)
        self._identity()
        for path in plan["join"]:
            self._step("CGROUP", _write, path, b"0")
        self._streams()
        self._priorities()
        self._directories()
        for number, soft, hard in plan["limits"]:
            self._step("LIMITS", _limit, number, soft, hard)
        self._step("FDS", self._open_files)
        self._where()
        self._privileges()
        self._step("FDS", self._hand_over)
        environment = self._environment()
        argv = list(plan["argv"])
        for mark, name in plan["marks"].items():
            argv = [word.replace(mark, self.user_variables.get(name, "")) for word in argv]
        path = self._step("EXEC", self._located)
        self._step("SIGNAL_MASK", signal.pthread_sigmask, signal.SIG_SETMASK, ())
        os.write(self.received[plan["status"]], ABOUT_TO_EXECUTE)
        self._step("EXEC", os.execve, path, argv, environment)

    def _step(self, step: str, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except OSError as error:
            raise StepError(step, error.strerror or str(error)) from None
        except (ValueError, OverflowError, KeyError, termios.error) as error:
            raise StepError(step, str(error)) from None

    # -- in the order of the spec ----------------------------------------------------------------------------

    def _signals(self) -> None:
        """The forker has reset and blocked all; they are unblocked when the program begins."""
        if self.plan["ignore_sigpipe"]:
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def _identity(self) -> None:
        """Look user and groups up while the host's files can still be seen."""
        plan = self.plan
        if plan["user"]:
            self._step("USER", self._find_user, plan["user"])
        if plan["group"]:
            self.gid = self._step("GROUP", _gid, plan["group"])
        if self.uid >= 0 or self.gid >= 0 or plan["groups"]:
            extra = [self._step("GROUP", _gid, name) for name in plan["groups"]]
            name = self.user_variables.get("USER", "")
            base = os.getgrouplist(name, self.gid) if name and self.gid >= 0 else []
            self.groups = list(dict.fromkeys([*base, *extra]))

    def _find_user(self, name: str) -> None:
        import pwd

        try:
            entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
        except KeyError:
            if not name.isdecimal():
                raise OSError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
            self.uid = self.gid = int(name)
            return
        self.uid, self.gid = entry.pw_uid, entry.pw_gid
        self.user_variables = {"LOGNAME": entry.pw_name, "USER": entry.pw_name}
        if entry.pw_dir not in _NO_HOMES:
            self.user_variables["HOME"] = self.home = entry.pw_dir
        if entry.pw_shell not in _NO_SHELLS:
            self.user_variables["SHELL"] = entry.pw_shell

    def _streams(self) -> None:
        for number, (name, step) in enumerate(zip(("stdin", "stdout", "stderr"), _STEPS, strict=True)):
            what = self.plan[name]
            if what[0] == "inherit":
                self._step(step, os.dup2, 0 if number == 1 else 1, number)
                continue
            source = self._step(step, self._stream, number, what)
            self._step(step, os.dup2, source, number)

    def _stream(self, number: int, what: tuple[Any, ...]) -> int:
        """A descriptor for it, not below 3: the caller's own may lie there."""
        kind = what[0]
        if kind == "fd":
            received: int = self.received[what[1]]
            return received
        if kind == "null":
            fd = os.open("/dev/null", os.O_RDWR if number == 0 else os.O_WRONLY)
        elif kind == "data":
            fd = os.memfd_create("stdin", 0)
            os.write(fd, what[1])
            os.lseek(fd, 0, os.SEEK_SET)
        elif kind == "tty":
            fd = self._open_terminal(*what[1:])
        else:
            fd = _open_stream_file(what[1], what[2], number)
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FIRST_FD)

    def _open_terminal(self, path: str, how: str, reset: bool, hangup: bool) -> int:
        self.terminal = path
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        if hangup:
            fcntl.ioctl(fd, _TIOCVHANGUP)
            os.close(fd)
            fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        if reset:
            _reset_terminal(fd)
        while how != "plain":
            try:
                fcntl.ioctl(fd, termios.TIOCSCTTY, 1 if how == "tty-force" else 0)
                break
            except OSError as error:
                if how != "tty" or error.errno != errno.EPERM:
                    raise
            time.sleep(TTY_RETRY_S)
        return fd

    def _priorities(self) -> None:
        plan = self.plan
        if plan["oom"] is not None:
            self._step("OOM_ADJUST", _set_oom_score, plan["oom"])
        if plan["nice"] is not None:
            self._step("NICE", os.setpriority, os.PRIO_PROCESS, 0, plan["nice"])
        if plan["scheduler"] is not None:
            policy, level = plan["scheduler"]
            self._step("SETSCHEDULER", os.sched_setscheduler, 0, policy, os.sched_param(level))
        if plan["affinity"]:
            self._step("CPUAFFINITY", os.sched_setaffinity, 0, plan["affinity"])
        if plan["io_priority"] is not None:
            self._step("IOPRIO", kernel.set_io_priority, plan["io_priority"])
        if plan["slack_ns"] is not None:
            self._step("TIMERSLACK", kernel.prctl, kernel.PR_SET_TIMERSLACK, plan["slack_ns"])
        os.umask(plan["umask"])

    def _directories(self) -> None:
        for step, base, names, mode, owned in self.plan["directories"]:
            owner = (self.uid, self.gid) if owned else (-1, -1)
            for name in names:
                self._step(step, _make_directory, base, name, mode, owner)

    def _where(self) -> None:
        plan = self.plan
        if plan["root"]:
            self._step("CHROOT", os.chroot, plan["root"])
            self._step("CHDIR", os.chdir, "/")
        target = self.home if plan["chdir"] == "~" else plan["chdir"] or "/"
        try:
            os.chdir(target)
        except OSError as error:
            if not (plan["chdir_optional"] and error.errno == errno.ENOENT):
                raise StepError("CHDIR", error.strerror or str(error)) from None
            os.chdir("/")

    def _privileges(self) -> None:
        plan = self.plan
        may_change = os.geteuid() == 0 or self.uid not in (-1, os.geteuid())
        if plan["bounding"] != -1:
            self._step("CAPABILITIES", kernel.drop_from_bounding, plan["bounding"])
        if may_change and self.groups is not None:
            self._step("GROUP", os.setgroups, self.groups)
        if may_change and self.gid >= 0:
            self._step("GROUP", os.setresgid, self.gid, self.gid, self.gid)
        if may_change and self.uid >= 0:
            if plan["ambient"]:
                self._step("CAPABILITIES", kernel.prctl, kernel.PR_SET_KEEPCAPS, 1)
            self._step("USER", os.setresuid, self.uid, self.uid, self.uid)
        if plan["bounding"] != -1:
            self._step("CAPABILITIES", kernel.limit_inheritable, plan["bounding"])
        if plan["ambient"]:
            ambient = plan["ambient"] & kernel.bounding_set()[0]
            self._step("CAPABILITIES", kernel.inherit_capabilities, ambient)
            for number in range(64):
                if ambient >> number & 1:
                    self._step("CAPABILITIES", kernel.raise_ambient, number)
        if plan["no_new_privileges"]:
            self._step("NO_NEW_PRIVILEGES", kernel.prctl, kernel.PR_SET_NO_NEW_PRIVS, 1)

    def _open_files(self) -> None:
        plan = self.plan
        self.descriptors = [
            (self.received[index], name) for index, name in zip(plan["fds"], plan["names"], strict=True)
        ]
        for path, name, options in plan["open_files"]:
            try:
                self.descriptors.append((_open_file(path, options), name))
            except OSError:
                if "graceful" not in options:
                    raise

    def _hand_over(self) -> None:
        """Descriptors to 3 and up, everything else closed; the status pipe behind them closes at the exec."""
        wanted = [fd for fd, _name in self.descriptors]
        clear = FIRST_FD + len(wanted)
        status = fcntl.fcntl(self.received[self.plan["status"]], fcntl.F_DUPFD_CLOEXEC, clear)
        aside = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, clear) for fd in wanted]
        for number, fd in enumerate(aside, FIRST_FD):
            os.dup2(fd, number)
            if self.plan["nonblock"]:
                os.set_blocking(number, False)
        os.closerange(clear, status)
        os.closerange(status + 1, _ALL_FDS)
        # `become` reports through the number that it knows.
        self.received[self.plan["status"]] = status

    def _environment(self) -> dict[str, str]:
        plan, pid = self.plan, str(os.getpid())
        found = {**plan["early"], **self.user_variables}
        if self.terminal:
            found["TERM"] = "linux" if self.terminal.startswith("/dev/tty") else "vt220"
        found.update(plan["late"])
        found["SYSTEMD_EXEC_PID"] = pid
        if plan["watchdog"]:
            found["WATCHDOG_PID"] = pid
        if self.descriptors:
            found["LISTEN_PID"] = pid
            found["LISTEN_FDS"] = str(len(self.descriptors))
            found["LISTEN_FDNAMES"] = ":".join(name for _fd, name in self.descriptors)
        for one in plan["unset"]:
            name, equals, value = one.partition("=")
            if not equals or found.get(name) == value:
                found.pop(name, None)
        return found

    def _located(self) -> str:
        path: str = self.plan["path"]
        if "/" in path:
            return path
        for directory in self.plan["search"]:
            candidate = f"{directory}/{path}"
            if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):
                return candidate
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))


_TIOCVHANGUP = 0x5437


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _gid(name: str) -> int:
    import grp

    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH)) from None


def _set_oom_score(score: int) -> None:
    try:
        _write("/proc/self/oom_score_adj", str(score).encode())
    except PermissionError:
        pass  # A container that may not lower it; the supervisor has told.


def _limit(number: int, soft: int, hard: int) -> None:
    try:
        resource.setrlimit(number, (soft, hard))
    except (PermissionError, ValueError):
        # Without the right to raise it: as near as we may.
        ceiling = resource.getrlimit(number)[1]
        if ceiling == -1:
            raise
        nearest = [ceiling if one in (-1,) or one > ceiling else one for one in (soft, hard)]
        resource.setrlimit(number, (nearest[0], nearest[1]))


def _open_stream_file(path: str, how: str, number: int) -> int:
    if number == 0:
        return os.open(path, os.O_RDONLY | os.O_NOCTTY)
    extra = {"append": os.O_APPEND, "truncate": os.O_TRUNC}.get(how, 0)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOCTTY | extra, 0o666)


def _open_file(path: str, options: list[str]) -> int:
    if stat.S_ISSOCK(_mode_of(path)):
        import socket

        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(path)
        return sock.detach()
    if "read-only" in options:
        flags = os.O_RDONLY
    else:
        flags = os.O_RDWR
        flags |= os.O_APPEND if "append" in options else 0
        flags |= os.O_TRUNC if "truncate" in options else 0
    try:
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOCTTY)
    except PermissionError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)


def _mode_of(path: str) -> int:
    try:
        return os.stat(path).st_mode
    except OSError:
        return 0


def _reset_terminal(fd: int) -> None:
    settings = termios.tcgetattr(fd)
    settings[0] = termios.ICRNL | termios.IXON | termios.IMAXBEL
    settings[1] = termios.OPOST | termios.ONLCR
    settings[2] = settings[2] | termios.CREAD
    settings[3] = termios.ISIG | termios.ICANON | termios.ECHO | termios.ECHOE | termios.ECHOK | termios.IEXTEN
    termios.tcsetattr(fd, termios.TCSANOW, settings)


def _make_directory(base: str, name: str, mode: int, owner: tuple[int, int]) -> None:
    """`name` may have several parts; those above the last are root's. One that somebody else owns is handed over
    with all that is in it.
    """
    path = base
    parts = name.split("/")
    for index, part in enumerate(parts, 1):
        path = f"{path}/{part}"
        last = index == len(parts)
        try:
            os.mkdir(path, mode if last else 0o755)
        except FileExistsError:
            pass
        except FileNotFoundError:
            os.makedirs(path, 0o755)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(fd, mode)
        uid, gid = owner
        found = os.fstat(fd)
        if (uid >= 0 and found.st_uid != uid) or (gid >= 0 and found.st_gid != gid):
            _hand_to(fd, uid, gid)
    finally:
        os.close(fd)


def _hand_to(top: int, uid: int, gid: int) -> None:
    for _path, directories, files, fd in os.fwalk(".", dir_fd=top, follow_symlinks=False):
        for name in (*directories, *files):
            os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
    os.fchown(top, uid, gid)
