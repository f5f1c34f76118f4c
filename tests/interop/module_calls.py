"""Calls of the `sanlock` module with their answers, one per line, for the original binding and for ours.

    module_calls.py original|holdfast alone DIRECTORY      any daemon will do, and none
    module_calls.py original|holdfast session DIRECTORY    joins, acquires and leaves through a real daemon

The first word says which module has to be found under the name `sanlock`.
"""

import errno
import fcntl
import os
import pathlib
import pickle
import re
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import sanlock

Call = tuple[str, tuple[Any, ...], dict[str, Any]]


class Index:
    """A number that is no int."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value

    def __repr__(self) -> str:
        return f"Index({self.value})"


class BadIndex:
    """Fails when it is taken for a number."""

    def __index__(self) -> int:
        raise KeyError("no number")

    def __repr__(self) -> str:
        return "BadIndex()"


def answer(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call and print what came back; the result, None after an exception."""
    try:
        result = function(*arguments, **options)
    except Exception as error:
        print(f"  {type(error).__module__}.{type(error).__qualname__} {error.args!r:.200} {str(error)!r:.200}")
        return None
    shown = re.sub(r"'timestamp': [1-9]\d*", "'timestamp': T", repr(result))
    print(f"  {shown if len(shown) < 400 else (shown[:100], len(shown))}")
    return result


def call(name: str, *arguments: Any, **options: Any) -> Any:
    """One call of the module by name, printed with its answer."""
    shown = ", ".join([*map(repr, arguments), *(f"{key}={value!r}" for key, value in options.items())])
    print(f"{name}({re.sub('x{20,}', lambda run: f'<{len(run[0])} x>', shown):.300})")
    return answer(getattr(sanlock, name), *arguments, **options)


def c(name: str, *arguments: Any, **options: Any) -> Call:
    return name, arguments, options


def all_functions(path: str, fd: int) -> Iterator[Call]:
    """Each function once, as it is meant to be called, except the two that end or make descriptors."""
    disks = [(path, 0)]
    yield c("add_lockspace", b"L", 1, path)
    yield c("add_lockspace", b"L", 1, path, 1 << 20, 5, False)
    yield c("inq_lockspace", b"L", 1, path)
    yield c("inq_lockspace", b"L", 1, path, 1 << 20, True)
    yield c("rem_lockspace", b"L", 1, path)
    yield c("rem_lockspace", b"L", 1, path, 1 << 20, False, True)
    yield c("get_lockspaces")
    yield c("get_hosts", b"L")
    yield c("get_hosts", b"L", 7)
    yield c("write_lockspace", b"L", path)
    yield c("write_lockspace", b"L", path, 1 << 20, 9, 3, 2 << 20, 4096)
    yield c("read_lockspace", path)
    yield c("read_lockspace", path, 8 << 20, 8 << 20, 4096)
    yield c("write_resource", b"L", b"R", disks)
    yield c("write_resource", b"L", b"R", disks, 9, 3, True, 4 << 20, 4096)
    yield c("read_resource", path)
    yield c("read_resource", path, 8 << 20, 8 << 20, 4096)
    yield c("read_resource_owners", b"L", b"R", disks)
    yield c("read_resource_owners", b"L", b"R", disks, 8 << 20, 4096)
    yield c("acquire", b"L", b"R", disks, slkfd=fd)
    yield c("acquire", b"L", b"R", disks, pid=77)
    yield c("acquire", b"L", b"R", disks, fd, 77, True, 5, True)
    yield c("release", b"L", b"R", disks, slkfd=fd)
    yield c("release", b"L", b"R", disks, -1, 77)
    yield c("release", b"L", b"R", disks)
    yield c("inquire", fd)
    yield c("inquire", pid=77)
    yield c("request", b"L", b"R", disks)
    yield c("request", b"L", b"R", disks, sanlock.REQ_FORCE, 4)
    yield c("killpath", "/bin/true", ["one", "two words", "back\\slash", ""], slkfd=fd)
    yield c("get_lvb", b"L", b"R", disks, 100)
    yield c("set_lvb", b"L", b"R", disks, b"value")
    yield c("set_event", b"L", 2, 3, 4)
    yield c("set_event", b"L", 2, 3, 4, 5, sanlock.SETEV_ALL_HOSTS)


def odd_arguments(path: str, fd: int) -> Iterator[Call]:
    """Arguments at and beyond the limits of what is taken."""
    disks = [(path, 0)]
    for name in ("L", None, bytearray(b"L"), b"", b"x" * 48, b"x" * 49, b"a\0b", b"\xff\xfe", 3):
        yield c("add_lockspace", name, 1, path)
        yield c("get_hosts", name)
        yield c("release", b"L", name, disks, slkfd=fd)
        yield c("set_event", name, 1, 1, 1)
    for place in (
        *(path.encode(), pathlib.Path(path), "", "a\0b", "x" * 1022, "x" * 1023, "x" * 1024, "x" * 3000, None, 3),
        *("\udcff", "\ud800", "/nö"),
    ):
        yield c("inq_lockspace", b"L", 1, place)
        yield c("write_lockspace", b"L", place)
        yield c("read_lockspace", place)
        yield c("read_resource", place)
        yield c("write_resource", b"L", b"R", [(place, 0)])
        yield c("acquire", b"L", b"R", [(path, 0), (place, 0)], slkfd=fd)
        yield c("killpath", place, [], slkfd=fd)
        yield c("killpath", "/bin/true", ["a", place], slkfd=fd)
    numbers = (-1, 0, True, 1 << 31, (1 << 32) + 5, 1 << 63, (1 << 64) + 5, 1.0, "1", None, Index(3), BadIndex())
    for number in numbers:
        yield c("add_lockspace", b"L", number, path)
        yield c("add_lockspace", b"L", 1, path, number)
        yield c("add_lockspace", b"L", 1, path, iotimeout=number)
        yield c("add_lockspace", b"L", 1, path, wait=number)
        yield c("rem_lockspace", b"L", 1, path, unused=number)
        yield c("get_hosts", b"L", number)
        yield c("write_lockspace", b"L", path, max_hosts=number)
        yield c("write_lockspace", b"L", path, iotimeout=number)
        yield c("write_lockspace", b"L", path, align=number)
        yield c("write_lockspace", b"L", path, sector=number)
        yield c("write_resource", b"L", b"R", disks, number)
        yield c("write_resource", b"L", b"R", disks, num_hosts=number)
        yield c("write_resource", b"L", b"R", disks, clear=number)
        if not isinstance(number, Index | BadIndex):
            # The original cannot print a disk whose number prints itself: it has an exception pending.
            yield c("write_resource", b"L", b"R", [(path, number)])
        yield c("acquire", b"L", b"R", disks, pid=number)
        yield c("acquire", b"L", b"R", disks, slkfd=fd, version=number)
        yield c("acquire", b"L", b"R", disks, slkfd=fd, shared=number)
        yield c("acquire", b"L", b"R", disks, slkfd=fd, lvb=number)
        yield c("request", b"L", b"R", disks, number)
        yield c("request", b"L", b"R", disks, version=number)
        yield c("get_lvb", b"L", b"R", disks, number)
        yield c("set_lvb", b"L", b"R", disks, number)
        for position in range(4):
            event: list[Any] = [1, 2, 3, 4]
            event[position] = number
            yield c("set_event", b"L", *event, flags=0)
        yield c("set_event", b"L", 1, 2, 3, 4, number)
        yield c("inquire", pid=number)
    for bad in (
        [],
        disks * 2,
        disks * 4,
        disks * 5,
        (),
        [[path, 0]],
        [(path,)],
        [(path, 0, 1)],
        [path],
        [3],
        None,
    ):
        yield c("write_resource", b"L", b"R", bad)
        yield c("read_resource_owners", b"L", b"R", bad)
        yield c("acquire", b"L", b"R", bad, slkfd=fd)
        yield c("release", b"L", b"R", bad, slkfd=fd)
        yield c("request", b"L", b"R", bad)
        yield c("get_lvb", b"L", b"R", bad, 5)
        yield c("set_lvb", b"L", b"R", bad, b"v")
    for size in (1, 512, 513, 4095, 4096, 4097, 0, -1):
        yield c("get_lvb", b"L", b"R", disks, size)
        yield c("set_lvb", b"L", b"R", disks, b"x" * size)
    for count in (125, 126, 127, 128, 200):
        # The original takes 127 bytes and sends 126 of them: see docs/compatibility.md.
        if count != 127:
            yield c("killpath", "x" * count, [], slkfd=fd)
            yield c("killpath", "/bin/true", ["x" * (count - 5), "a b"], slkfd=fd)
        yield c("killpath", "/bin/true", ["x" * count], slkfd=fd)
        yield c("killpath", "/bin/true", ["", "x" * (count - 1)], slkfd=fd)
    for texts in (("a",), "ab", None, [1], [b"a"], ["x" * 200, 1], ["\ttab", "new\nline", "quote'"], ["", "", ""]):
        yield c("killpath", "/bin/true", texts, slkfd=fd)


def wrong_calls(path: str) -> Iterator[Call]:
    """Too few and too many arguments, unknown names, the same by position and by name; which error comes first."""
    names = (
        *("acquire", "add_lockspace", "get_hosts", "get_lvb", "inq_lockspace", "inquire", "killpath"),
        *("read_lockspace", "read_resource", "read_resource_owners", "release", "rem_lockspace", "request"),
        *("set_event", "set_lvb", "write_lockspace", "write_resource", "end_event", "get_alignment", "get_event"),
        *("reg_event", "register", "get_lockspaces"),
    )
    for name in names:
        for count in range(10):
            yield c(name, *([b"L"] * count))
        yield c(name, bogus=1)
        yield c(name, path=path)
        yield c(name, **{f"bogus{number}": 1 for number in range(10)})
    yield c("write_lockspace", b"L", path, path=path)
    yield c("write_lockspace", "L", path, bogus=1)
    yield c("write_lockspace", b"L", path, align=1, sector=1)
    yield c("write_resource", b"L", b"R", [3], align=1, sector=1)
    yield c("read_resource_owners", b"L", b"R", [3], align=1)
    yield c("acquire", b"L", b"R", [3])
    yield c("acquire", b"L", b"R", [3], version="x", pid=1)
    yield c("acquire", b"L", b"R", [3, 3, 3, 3, 3], version="x", slkfd=-1, pid=-1)
    yield c("request", b"L", b"R", [3], version="x")
    yield c("get_lvb", b"L", b"R", [3], 0)
    yield c("set_lvb", b"L", b"R", [3], b"")
    yield c("killpath", "x" * 128, [3], slkfd=1)
    yield c("inquire", "x", "y")


def descriptors(directory: str) -> None:
    """Descriptors that are no connection; which are closed."""
    plain = os.open(directory, os.O_RDONLY)
    # Ending it closes it, whatever it is.
    for bad in (999, -1, -2, plain, 1 << 31, "1", None):
        call("get_event", bad)
        call("end_event", bad, b"L")
        call("inquire", slkfd=bad)
        call("killpath", "/bin/true", [], slkfd=bad)
        call("acquire", b"L", b"R", [("/x", 0)], slkfd=bad)
        call("release", b"L", b"R", [("/x", 0)], slkfd=bad)
    print("  still open" if _is_open(plain) else "  closed")
    # What a daemon's event connection could bring.
    message = struct.pack("<8I6Q", 0x04282010, 1, 1, 0, 80, 0, 0, 0, 1, 2, 3, 4, 5, 6)
    for chunks in ([], [b"short"], [message], [message * 3], [message, message[:30]], [b"\xff" * 80]):
        ours, theirs = socket.socketpair()
        for chunk in chunks:
            theirs.send(chunk)
        call("get_event", ours.fileno())
        call("get_event", ours.fileno())
        theirs.close()
        call("get_event", ours.fileno())
        call("end_event", ours.fileno(), b"L")
        print("  still open" if _is_open(ours.fileno()) else "  closed")
        ours.detach()


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def local_calls(directory: str) -> None:
    """What needs no daemon."""
    for name in sorted(dir(sanlock)):
        value = getattr(sanlock, name)
        if not name.startswith("__"):
            print(
                name, type(value).__name__ if not callable(value) else "callable", value if name.isupper() else ""
            )
    for arguments in ((), (1,), (-243, "what", "why"), ("x", 2, 3, 4)):
        error = sanlock.SanlockException(*arguments)
        print(f"  {error!r} {str(error)!r} {error.args!r}", isinstance(error, OSError))
        answer(lambda: error.errno)  # noqa: B023
        answer(lambda: setattr(error, "errno", 1))  # noqa: B023
        answer(lambda: pickle.loads(pickle.dumps(error)).args)  # noqa: B023
    print(sanlock.SanlockException.__module__, sanlock.SanlockException.__mro__[1:])
    file = os.path.join(directory, "file")
    pathlib.Path(file).write_bytes(b"")
    for place in (
        *(
            file,
            file.encode(),
            pathlib.Path(file),
            directory,
            "/dev/null",
            "/nope",
            "",
            "a\0b",
            "x" * 1100,
            "\ud800",
        ),
        *(3, None, "/proc/version"),
    ):
        call("get_alignment", place)


def everything(directory: str) -> None:
    """All calls that leave nothing behind, whatever answers."""
    local_calls(directory)
    path = "/some/where"
    answer(sanlock.register)
    call("reg_event", b"L")
    for name, arguments, options in wrong_calls(path):
        call(name, *arguments, **options)
    for source in (all_functions, odd_arguments):
        for name, arguments, options in source(path, 999):
            call(name, *arguments, **options)
    descriptors(directory)
    # A registered descriptor of its own for each call: some of them end it.
    for source in (all_functions, odd_arguments):
        for name, arguments, options in source(path, 900):
            if options.get("slkfd") == 900 or arguments[:1] == (900,):
                _call_registered(name, arguments, options)


def _call_registered(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    try:
        fd = sanlock.register()
    except sanlock.SanlockException:
        return
    os.dup2(fd, 900)
    os.close(fd)
    call(name, *arguments, **options)
    call("inquire", slkfd=900)
    os.close(900)


def wait_for_hosts(name: bytes) -> None:
    """Until the daemon has looked at the hosts of a lockspace."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if sanlock.get_hosts(name):
                return
        except sanlock.SanlockException as error:
            if error.errno != errno.EAGAIN:
                raise
        time.sleep(0.05)
    raise AssertionError("no hosts known")


def session(directory: str) -> None:
    """The life of a lockspace with everything in it."""
    path, other = f"{directory}/space", f"{directory}/ödd name"
    for file in (path, other):
        with open(file, "wb") as created:
            created.truncate(16 << 20)
    disks = [(path, 1 << 20)]
    call("write_lockspace", b"S", path, iotimeout=1)
    call("read_lockspace", path)
    call("read_lockspace", path, 1 << 20)
    call("read_lockspace", path, 1 << 40)
    call("read_lockspace", f"{directory}/missing")
    for number, name in enumerate((b"R1", b"R2", b"\xff\xfe odd"), 1):
        call("write_resource", b"S", name, [(path, number << 20)])
        call("read_resource", path, number << 20)
        call("read_resource_owners", b"S", name, [(path, number << 20)])
    call("write_resource", b"S", b"BIG", [(other, 8 << 20)], align=8 << 20, sector=4096)
    call("read_resource", other, 8 << 20)
    call("read_resource", other, 8 << 20, 8 << 20, 4096)
    call("write_resource", b"S", b"gone", [(path, 4 << 20)], clear=True)
    call("read_resource", path, 4 << 20)
    call("read_resource_owners", b"WRONG", b"R1", disks)
    call("read_resource_owners", b"S", b"WRONG", disks)
    call("read_resource_owners", b"S", b"R1", disks, 8 << 20, 4096)
    call("write_lockspace", b"O", other, iotimeout=1)
    call("get_lockspaces")
    call("inq_lockspace", b"S", 1, path)
    call("get_hosts", b"S")
    call("add_lockspace", b"S", 1, path, iotimeout=1, wait=False)
    call("inq_lockspace", b"S", 1, path, wait=True)
    call("add_lockspace", b"S", 1, path)
    call("add_lockspace", b"S", 2, path)
    call("add_lockspace", b"S", 0, path)
    call("add_lockspace", b"X", 1, f"{directory}/missing")
    call("add_lockspace", b"O", 3, other, iotimeout=1)
    call("get_lockspaces")
    call("inq_lockspace", b"S", 1, path)
    call("inq_lockspace", b"S", 2, path)
    call("inq_lockspace", b"S", 1, path, 1 << 20)
    wait_for_hosts(b"S")
    call("get_hosts", b"S")
    for host_id in (1, 2, 2000, 2001, -1):
        call("get_hosts", b"S", host_id)
    with_leases(path, other)
    with_events()
    handed_over(path)
    call("rem_lockspace", b"S", 1, path, unused=True)
    call("rem_lockspace", b"S", 1, path)
    call("rem_lockspace", b"O", 3, other, wait=False)
    # Until the removal has begun the lockspace counts as joined.
    while sanlock.inq_lockspace(b"O", 3, other, wait=True):
        time.sleep(0.05)
    call("get_lockspaces")


def with_leases(path: str, other: str) -> None:
    """Acquire, inquire, values, requests, release."""
    disks, big = [(path, 1 << 20)], [(other, 8 << 20)]
    fd = sanlock.register()
    print("  inheritable", os.get_inheritable(fd), fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK)
    call("inquire")
    call("inquire", pid=1)
    answer(lambda: sanlock.inquire(slkfd=fd))
    for options in ({}, {}, {"shared": True}, {"version": 1}, {"version": 99}, {"lvb": True}):
        answer(lambda: sanlock.acquire(b"S", b"R1", disks, slkfd=fd, **options))  # noqa: B023
        answer(lambda: sanlock.inquire(slkfd=fd))
        answer(lambda: sanlock.inquire(pid=os.getpid()))
        call("read_resource_owners", b"S", b"R1", disks)
        if len(options) == 1:
            answer(lambda: sanlock.release(b"S", b"R1", disks, slkfd=fd))
    answer(lambda: sanlock.release(b"S", b"R1", disks, pid=os.getpid()))
    answer(lambda: sanlock.acquire(b"S", b"R1", disks, slkfd=fd, lvb=True))
    call("rem_lockspace", b"S", 1, path, unused=True)
    answer(lambda: sanlock.acquire(b"S", b"R2", [(path, 2 << 20)], pid=os.getpid(), shared=True))
    answer(lambda: sanlock.inquire(slkfd=fd))
    call("get_lvb", b"S", b"R1", disks, 8)
    for value in (b"one", b"a\0b", b"", b"x" * 512, b"x" * 513, b"x" * 4097):
        call("set_lvb", b"S", b"R1", disks, value)
        for size in (5, 512, 513, 4096):
            call("get_lvb", b"S", b"R1", disks, size)
    call("get_lvb", b"S", b"R2", disks, 8)
    call("set_lvb", b"S", b"R2", disks, b"x")
    call("get_lvb", b"S", b"none", disks, 8)
    call("request", b"S", b"R2", [(path, 2 << 20)])
    call("request", b"S", b"R2", [(path, 2 << 20)], sanlock.REQ_GRACEFUL, 1)
    call("request", b"S", b"none", disks)
    call("request", b"none", b"R1", disks)
    answer(lambda: sanlock.killpath("/bin/true", ["a b", "c"], slkfd=fd))
    # A lease whose state string has a blank in it: the inquiry fails, the connection stays in step.
    answer(lambda: sanlock.acquire(b"S", b"BIG", big, slkfd=fd))
    answer(lambda: sanlock.inquire(slkfd=fd))
    answer(lambda: sanlock.release(b"S", b"BIG", big, slkfd=fd))
    answer(lambda: sanlock.inquire(slkfd=fd))
    for name in (b"R1", b"R2", b"R2"):
        answer(lambda: sanlock.release(b"S", name, disks, slkfd=fd))  # noqa: B023
    answer(lambda: sanlock.acquire(b"S", b"R1", disks, slkfd=fd, lvb=True))
    call("get_lvb", b"S", b"R1", disks, 8)
    os.close(fd)
    # Closing gives back; while that is written the lease is busy.
    while any(owner["host_id"] for owner in sanlock.read_resource_owners(b"S", b"R1", disks)):
        time.sleep(0.05)


def with_events() -> None:
    """Event descriptors; what is refused."""
    call("reg_event", b"none")
    call("reg_event", b"")
    event = sanlock.reg_event(b"S")
    print("  inheritable", os.get_inheritable(event), fcntl.fcntl(event, fcntl.F_GETFL) & os.O_NONBLOCK)
    answer(lambda: sanlock.get_event(event))
    for arguments in (
        (2, 0, 1),
        (2, 0, 1, 5),
        (2, 0, 2),
        (2, 0, 2, 0, 8),
        (0, 0, 1),
        (2001, 0, 1),
        (2, 0, 0, 0, 4),
    ):
        call("set_event", b"S", *arguments)
    call("set_event", b"none", 1, 1, 1)
    answer(lambda: sanlock.end_event(event, b"none"))
    print("  still open" if _is_open(event) else "  closed")
    event = sanlock.reg_event(b"S")
    answer(lambda: sanlock.end_event(event, b"S"))
    print("  still open" if _is_open(event) else "  closed")
    answer(lambda: sanlock.end_event(event, b"S"))


def handed_over(path: str) -> None:
    """Registered in a forked child, which then executes another program: the lease lives as long as that."""
    disks = [(path, 1 << 20)]
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    child = os.fork()
    if child == 0:
        os.close(reading)
        fd = sanlock.register()
        sanlock.acquire(b"S", b"R1", disks, slkfd=fd)
        os.execv("/bin/sh", ["sh", "-c", f"echo ready >&{writing}; exec sleep 1000"])
    os.close(writing)
    with os.fdopen(reading) as pipe:
        print("  child:", pipe.readline().strip())
        answer(lambda: len(sanlock.inquire(pid=child)))
        answer(lambda: sanlock.acquire(b"S", b"R2", [(path, 2 << 20)], pid=child))
        answer(lambda: sanlock.inquire(pid=child))
        answer(lambda: sanlock.release(b"S", b"R1", disks, pid=child))
        os.kill(child, 9)
        os.waitpid(child, 0)
    while sanlock.read_resource_owners(b"S", b"R2", [(path, 2 << 20)]):
        time.sleep(0.05)
    # The daemon has forgotten the process some moments later.
    while _known(child):
        time.sleep(0.05)
    print("  gone")


def _known(pid: int) -> bool:
    try:
        sanlock.inquire(pid=pid)
    except sanlock.SanlockException as error:
        return bool(error.errno != 3)
    return True


def main() -> None:
    """All calls of one kind."""
    module, kind, directory = sys.argv[1:]
    original = str(sanlock.__file__).endswith(".so")
    assert original == (module == "original"), f"wrong module: {sanlock.__file__}"
    {"alone": everything, "session": session}[kind](directory)


main()
