"""Requests that no client library sends, byte for byte, at a lease daemon; prints what came back.

A program of its own, because what registers with a daemon may be killed by it: `raw_calls.py SOCKET DIRECTORY
SCENE`. Each block of output begins with a line `# what was asked`. Requests that crash or hang the original
(spec lease-wire section 21) are left out.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Callable

from holdfast.leased import wire
from holdfast.leased.wire import Command, Disk, HostEvent, Lockspace, Options, Payload, Rentry, Resource, Rindex

MIB = 1 << 20
LIMIT_S = 60.0
QUIET_S = 0.4
"""How long a connection is listened to whose reply has no length."""
SELF = wire.SELF_PID
SH, PERSISTENT = wire.RES_SHARED, wire.RES_PERSISTENT
UNTIL_EOF = (Command.STATUS, Command.HOST_STATUS, Command.RENEWAL)


class Peer:
    """One connection."""

    def __init__(self, place: Place, register: bool = False) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        # Before the time limit: a connection that has to queue is refused to sockets that have one.
        self.sock.connect(place.socket_path)
        self.sock.settimeout(LIMIT_S)
        if register:
            self.send(Command.REGISTER)
            place.wait(lambda: self.result(Command.RESTRICT) == 0, "registration")

    def send(self, cmd: int, payload: bytes = b"", **fields: int) -> None:
        fields.setdefault("data2", 0)
        self.sock.sendall(wire.encode_request(cmd, payload, **fields))

    def raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            if not more:
                return data
            data += more
        return data

    def reply(self) -> tuple[wire.Header, bytes]:
        raw = self.receive(wire.HEADER_SIZE)
        if len(raw) < wire.HEADER_SIZE:
            raise ConnectionResetError(f"closed after {len(raw)} bytes")
        header = wire.decode_header(raw)
        if header.cmd == Command.GET_LVB and header.data < 0:
            return header, b""  # The length says how much was asked for (spec 7.4).
        return header, self.receive(header.length - wire.HEADER_SIZE)

    def result(self, cmd: int, payload: bytes = b"", **fields: int) -> int:
        self.send(cmd, payload, **fields)
        return self.reply()[0].data

    def ask(self, label: str, cmd: int, payload: bytes = b"", **fields: int) -> None:
        """Send, and print the reply."""
        self.send(cmd, payload, **fields)
        self.show(label)

    def show(self, label: str) -> None:
        print(f"# {label}")
        try:
            header, body = self.reply()
        except OSError as error:
            print(type(error).__name__)
            return
        print(header._replace(magic=0))
        if body:
            print(re.sub(rb"(.)\1{15,}", lambda run: b"<%d times %r>" % (len(run[0]), run[1]), body, flags=re.S))

    def is_open(self) -> str:
        """Whether the daemon still serves this connection."""
        try:
            self.send(Command.VERSION)
            return f"open, VERSION {self.reply()[0].data2:x}"
        except OSError:
            return "closed"
        finally:
            print("", end="", flush=True)

    def acquire(self, label: str, *leases: Resource, flags: int = 0, owner: str = "", data2: int = SELF) -> None:
        body = Payload(leases, Options(owner)).encode(with_disks=True)
        self.ask(f"ACQUIRE {label}", Command.ACQUIRE, body, flags=flags, data=len(leases), data2=data2)

    def release(self, label: str, *leases: Resource, flags: int = 0, data2: int = SELF) -> None:
        body = b"".join(lease.encode() for lease in leases)
        self.ask(f"RELEASE {label}", Command.RELEASE, body, flags=flags, data=len(leases), data2=data2)

    def convert(self, label: str, lease: Resource, flags: int = 0, data2: int = SELF) -> None:
        self.ask(f"CONVERT {label}", Command.CONVERT, lease.encode(), flags=flags, data2=data2)

    def inquire(self, label: str = "", data2: int = SELF) -> None:
        self.ask(f"INQUIRE {label}", Command.INQUIRE, data2=data2)

    def close(self) -> None:
        self.sock.close()


class Place:
    """The daemon and the files of one run."""

    def __init__(self, socket_path: str, directory: str) -> None:
        self.socket_path = socket_path
        self.directory = directory

    def peer(self, register: bool = False) -> Peer:
        return Peer(self, register)

    def once(self, label: str, cmd: int, payload: bytes = b"", **fields: int) -> None:
        """One request on a connection of its own; also says whether it stays open."""
        peer = self.peer()
        peer.ask(label, cmd, payload, **fields)
        print(peer.is_open())
        peer.close()

    def quietly(self, cmd: int, payload: bytes = b"", **fields: int) -> int:
        peer = self.peer()
        try:
            return peer.result(cmd, payload, **fields)
        finally:
            peer.close()

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(what)
            time.sleep(0.02)

    def items(self, last: int = 0, cmd: int = Command.STATUS, payload: bytes = b"") -> list[wire.StatusItem]:
        peer = self.peer()
        peer.send(cmd, payload, data=last)
        raw = peer.receive(1 << 24)
        peer.close()
        return wire.decode_status_items(raw[wire.HEADER_SIZE :])

    def status(self, label: str, last: int = 0) -> None:
        """All states but those of other connections, once no command runs any more."""
        self.wait(lambda: not any("suspend=1" in item.state.text for item in self.items(2)), "commands to end")
        print(f"# STATUS {label}")
        for item in self.items(last):
            state = item.state
            text = "" if state.type == wire.STATE_DAEMON else state.text
            if state.type == wire.STATE_CLIENT and state.data32 == 0xFFFFFFFF and state.name != "helper":
                continue
            print(state.type, state.data32, state.data64, repr(state.name))
            print(text)
            if item.lockspace:
                disk = item.lockspace.disk._replace(pad1=0, pad2=0)
                print(item.lockspace._replace(disk=disk))
            if item.resource:
                shown = item.resource._replace(disks=())
                print(shown, [(disk.path, disk.offset) for disk in item.resource.disks])

    def file(self, name: str, mebibytes: int = 1) -> str:
        path = f"{self.directory}/{name}"
        if not os.path.exists(path):
            with open(path, "wb") as file:
                file.truncate(mebibytes * MIB)
        return path

    def space(self, name: str = "LS", host_id: int = 1, offset: int = 0) -> Lockspace:
        return Lockspace(name, host_id, 0, Disk(self.file(f"space-{name}"), offset))

    def lease(self, name: str, flags: int = 0, lver: int = 0, space: str = "LS") -> Resource:
        return wire.resource(space, name, [Disk(self.file(f"lease-{name}"))], flags=flags, lver=lver)

    def join(self, name: str = "LS") -> Lockspace:
        """A joined lockspace whose hosts are known."""
        space = self.space(name)
        assert self.quietly(Command.WRITE_LOCKSPACE, space.encode(), data2=1) == 0
        assert self.quietly(Command.ADD_LOCKSPACE, space.encode(), data=1) == 0
        self.wait(lambda: self.quietly(Command.GET_HOSTS, space.encode()) == 0, "hosts")
        return space

    def make(self, *names: str) -> list[Resource]:
        leases = [self.lease(name) for name in names]
        for lease in leases:
            assert self.quietly(Command.WRITE_RESOURCE, lease.encode_with_disks()) == 0
        return leases

    def until_held(self, *names: str) -> None:
        """Until exactly these leases are known here."""
        wanted = sorted(names)
        self.wait(
            lambda: sorted(item.state.name for item in self.items() if item.resource) == wanted, f"only {names}"
        )


def headers(place: Place) -> None:
    """Bad headers are dropped in silence; what is echoed."""
    peer = place.peer()
    good = wire.encode_request(Command.VERSION)
    bad = {
        "magic": b"\0\0\0\0" + good[4:],
        "command 0": wire.encode_request(0),
        "command 41": wire.encode_request(41),
        "command 77777": wire.encode_request(77777),
        "newer version": wire.Header(wire.MAGIC, 0x10001, Command.ALIGN, 0, 32, 0, 0, 0).encode(),
    }
    for what, raw in bad.items():
        peer.raw(raw)
        peer.ask(f"VERSION after bad {what}", Command.VERSION)
    for version in (0, 1, 0xFFFF, 0x10000, 0xFFFFFFFF):
        peer.raw(wire.Header(wire.MAGIC, version, Command.VERSION, 7, 32, 9, 5, 6).encode())
        peer.show(f"VERSION of version {version:#x} with odd fields")
    disk = Disk(place.file("align")).encode()
    peer.raw(wire.Header(wire.MAGIC, 0, Command.ALIGN, 0xABCD, 9999, 77, 5, 6).encode() + disk)
    peer.show("ALIGN with odd fields")
    peer.raw(wire.encode_request(Command.ALIGN, disk) + good + wire.encode_request(Command.ALIGN, disk) + good)
    for label in ("ALIGN", "VERSION", "ALIGN again", "VERSION again"):
        peer.show(f"pipelined {label}")
    peer.close()
    for cmd in (Command.GET_LOCKSPACES, Command.SET_CONFIG, Command.GET_HOSTS, Command.END_EVENT):
        body = b"" if cmd == Command.GET_LOCKSPACES else place.space("NONE").encode()
        place.once(f"{Command(cmd).name} of nothing", cmd, body)
    place.once("INQUIRE", Command.INQUIRE, data2=SELF)
    for last in range(6):
        kinds = [item.state.type for item in place.items(last)]
        print(f"# STATUS up to {last}\n{sorted(set(kinds))}")
    odd_fields(place)


def odd_fields(place: Place) -> None:
    """What a reply takes over of a header that has everything set."""
    none = place.space("NONE")
    event = none.encode() + HostEvent(0, 0, 0, 0).encode()
    lease = wire.resource("NONE", "R", [Disk("/missing")])
    entry = Rindex(0, 0, 0, "NONE", Disk("/missing")).encode() + Rentry("a", 0).encode()
    bodies: dict[Command, bytes] = {
        **dict.fromkeys((Command.STATUS, Command.LOG_DUMP, Command.GET_LOCKSPACES, Command.RESTRICT), b""),
        **dict.fromkeys(
            (Command.HOST_STATUS, Command.RENEWAL, Command.GET_HOSTS, Command.SET_CONFIG), none.encode()
        ),
        **dict.fromkeys((Command.END_EVENT, Command.EXAMINE_LOCKSPACE, Command.READ_LOCKSPACE), none.encode()),
        **dict.fromkeys((Command.INQ_LOCKSPACE, Command.REM_LOCKSPACE), none.encode()),
        Command.ADD_LOCKSPACE: none._replace(name="").encode(),
        Command.WRITE_LOCKSPACE: none._replace(disk=Disk("/missing")).encode(),
        **dict.fromkeys((Command.REG_EVENT, Command.SET_EVENT), event),
        **dict.fromkeys((Command.EXAMINE_RESOURCE, Command.GET_LVB, Command.CONVERT), lease.encode()),
        **dict.fromkeys((Command.READ_RESOURCE, Command.READ_RESOURCE_OWNERS), lease.encode_with_disks()),
        **dict.fromkeys((Command.WRITE_RESOURCE, Command.REQUEST), lease.encode_with_disks()),
        Command.ALIGN: Disk("/missing").encode(),
        **dict.fromkeys((Command.FORMAT_RINDEX, Command.REBUILD_RINDEX), entry[: wire.RINDEX_SIZE]),
        **dict.fromkeys((Command.UPDATE_RINDEX, Command.LOOKUP_RINDEX, Command.CREATE_RESOURCE), entry),
        Command.DELETE_RESOURCE: entry,
        **dict.fromkeys((Command.INQUIRE, Command.RELEASE), b""),
    }
    for cmd, body in bodies.items():
        peer = place.peer()
        peer.raw(wire.Header(wire.MAGIC, 1, cmd, 0x40, 32 + len(body), 9, 5, 6).encode() + body)
        header = wire.decode_header(peer.receive(32))
        shown = header._replace(magic=0, data=0 if cmd == Command.LOG_DUMP else header.data)
        print(f"# {cmd.name} with odd fields\n{shown}")
        peer.close()


def registration(place: Place) -> None:
    """Who may be acted upon, and how it is shown."""
    place.join()
    one, two, three = place.make("R1", "R2", "R3")
    stranger = place.peer()
    stranger.acquire("unregistered", one)
    stranger.release("unregistered", one)
    stranger.release("unregistered, all", flags=wire.RELEASE_ALL)
    stranger.convert("unregistered", one)
    stranger.inquire("unregistered")
    path = Payload(killpath="/bin/true", killargs="a b").encode()
    stranger.ask("KILLPATH unregistered", Command.KILLPATH, path, data2=SELF)
    for pid in (0, 1, 0x7FFFFFFF, 0x80000000):
        stranger.acquire(f"of {pid}", one, data2=pid)
        stranger.release(f"of {pid}", one, data2=pid)
        stranger.convert(f"of {pid}", one, data2=pid)
        stranger.inquire(f"of {pid}", data2=pid)
    peer = place.peer(register=True)
    place.status("registered")
    peer.inquire("nothing held")
    peer.acquire("nothing")
    place.status("no name given")
    peer.acquire("nothing, name", owner="who am i")
    place.status("name given")
    pid = os.getpid()
    stranger.acquire("by pid", one, owner="by pid", data2=pid)
    stranger.inquire("by pid", data2=pid)
    place.status("acquired by pid")
    peer.acquire("own pid", two, data2=pid)
    peer.inquire("own pid", data2=pid)
    stranger.convert("by pid", one._replace(flags=SH), data2=pid)
    stranger.convert("by pid again", one._replace(flags=SH), data2=pid)
    stranger.convert("by pid, back", one, data2=pid)
    stranger.release("by pid", one, two, data2=pid)
    second = place.peer(register=True)
    second.acquire("second connection", three, owner="second")
    stranger.inquire("pid of two connections", data2=pid)
    second.inquire("second connection")
    place.status("two connections")
    for flags in (wire.RESTRICT_SIGKILL, wire.RESTRICT_SIGTERM, 0xF0, 0):
        peer.ask(f"RESTRICT {flags:#x}", Command.RESTRICT, flags=flags)
        peer.acquire(f"restricted {flags:#x}", one)
        place.status(f"restricted {flags:#x}")
        peer.release("restricted", one)
    peer.ask("KILLPATH", Command.KILLPATH, path, data2=SELF)
    place.status("killpath")
    peer.ask("KILLPATH with pid", Command.KILLPATH, path, flags=wire.KILLPATH_PID, data2=SELF)
    peer.ask("KILLPATH again without", Command.KILLPATH, path, data2=SELF)
    place.status("killpath with pid")
    stranger.ask("RESTRICT unregistered", Command.RESTRICT, flags=wire.RESTRICT_SIGKILL)
    for cmd in (Command.STATUS, Command.GET_LOCKSPACES, Command.GET_HOSTS, Command.SET_CONFIG, Command.END_EVENT):
        body = b"" if cmd in (Command.STATUS, Command.GET_LOCKSPACES) else place.space("NONE").encode()
        busy = place.peer(register=True)
        busy.send(cmd, body)
        header = wire.decode_header(busy.receive(32))
        drain(busy)
        print(f"# {Command(cmd).name} on a registered connection\n{header.data} {header.data2} {busy.is_open()}")
        place.status(f"after {Command(cmd).name} on a registered connection", 2)
        busy.close()
        place.wait(lambda: sum(item.state.data32 == pid for item in place.items(2)) == 2, "closed")
    busy = place.peer(register=True)
    for cmd, body in (
        (Command.ALIGN, Disk("/missing").encode()),
        (Command.INQ_LOCKSPACE, place.space("NO").encode()),
    ):
        busy.ask(f"{cmd.name} on a registered connection", cmd, body)
        place.status(f"after {cmd.name} on a registered connection", 2)
    busy.close()
    place.wait(lambda: sum(item.state.data32 == pid for item in place.items(2)) == 2, "closed")
    deaf = place.peer(register=True)
    deaf.acquire("before RESTRICT ALL", one)
    deaf.ask("RESTRICT ALL", Command.RESTRICT, flags=wire.RESTRICT_ALL)
    deaf.send(Command.VERSION)
    deaf.send(Command.INQUIRE, data2=SELF)
    place.status("restricted all")
    deaf.close()
    place.until_held("R3")
    for open_one in (peer, second):
        open_one.close()
    place.until_held()


def drain(peer: Peer) -> None:
    """What is left of a reply without a length, on a connection that stays open."""
    peer.sock.settimeout(QUIET_S)
    try:
        while peer.sock.recv(65536):
            pass
    except TimeoutError:
        pass
    peer.sock.settimeout(LIMIT_S)


def leases(place: Place) -> None:
    """ACQUIRE, RELEASE, CONVERT, LVB in forms that the command line has not."""
    place.join()
    many = place.make(*[f"R{number}" for number in range(10)])
    one, two, three = many[:3]
    peer = place.peer(register=True)
    peer.acquire("nine", *many[:9])
    peer.inquire("after nine")
    for count in (0, 5, 0xFFFFFFFF):
        peer.acquire(f"{count} disks", one._replace(num_disks=count, disks=()))
        print(peer.is_open())
    peer.acquire("lver without flag", one._replace(lver=77))
    peer.inquire()
    peer.release("by name, other lver", one._replace(lver=5, disks=()))
    peer.acquire("lver 0 with flag", one._replace(flags=wire.RES_LVER))
    peer.inquire()
    peer.release("no disks", one._replace(disks=(), num_disks=0))
    peer.acquire("unknown flags", one._replace(flags=0xFFFF0000), flags=0xFFF0)
    peer.inquire()
    peer.release("again, twice the same", one, one)
    peer.release("nothing")
    peer.acquire("num_hosts", one._replace(flags=wire.RES_NUM_HOSTS, data32=9))
    peer.release("of num_hosts", one)
    place.once("READ_RESOURCE of num_hosts", Command.READ_RESOURCE, one.encode_with_disks())
    peer.acquire("shared and persistent", one._replace(flags=SH | PERSISTENT), two)
    place.status("two held")
    peer.release("ORPHAN of held ones", one, flags=wire.RELEASE_ORPHAN)
    peer.release("ORPHAN and ALL", flags=wire.RELEASE_ALL | wire.RELEASE_ORPHAN)
    peer.inquire("after ORPHAN and ALL")
    peer.acquire("three", one, two, three)
    peer.release("RENAME", one, one._replace(name="new name"), flags=wire.RELEASE_RENAME)
    place.once("READ_RESOURCE renamed", Command.READ_RESOURCE, one._replace(name="").encode_with_disks())
    peer.acquire("renamed", one)
    peer.acquire("by the new name", one._replace(name="new name"))
    peer.release("RENAME not held", many[5], many[6], flags=wire.RELEASE_RENAME)
    peer.release("RENAME back", one._replace(name="new name"), one, flags=wire.RELEASE_RENAME)
    peer.release("RENAME and ORPHAN", two, flags=wire.RELEASE_ORPHAN | wire.RELEASE_RENAME)
    peer.release("ALL with a count", two, three, flags=wire.RELEASE_ALL)
    print(peer.is_open())
    place.until_held()
    peer.acquire("for conversion", one._replace(flags=SH))
    for flags in (0, SH, SH | PERSISTENT, 0):
        peer.convert(f"to {flags:#x}", one._replace(flags=flags), flags=wire.CONVERT_OWNER_NOWAIT)
        peer.inquire()
        place.status(f"converted to {flags:#x}")
    peer.convert("not held", two)
    peer.convert("disks given", one._replace(flags=SH))
    peer.release("ALL", flags=wire.RELEASE_ALL)
    place.until_held()
    values(place, peer, one, two)
    other = place.peer(register=True)
    peer.acquire("shared", one._replace(flags=SH))
    other.acquire("shared too, with LVB", one._replace(flags=SH), flags=wire.ACQUIRE_LVB)
    place.once("GET_LVB of a later LVB", Command.GET_LVB, one.encode())
    peer.release("first", one)
    other.release("second", one)
    peer.close()
    other.close()
    place.until_held()


def values(place: Place, peer: Peer, one: Resource, two: Resource) -> None:
    """SET_LVB and GET_LVB."""
    peer.acquire("LVB", one, flags=wire.ACQUIRE_LVB)
    peer.acquire("no LVB", two)
    for size in (0, 1, 16, 511, 512):
        place.once(f"GET_LVB {size}", Command.GET_LVB, one.encode(), data2=size)
    # What lies behind the value in the original's memory is not shown.
    print(f"# GET_LVB 513\n{place.quietly(Command.GET_LVB, one.encode(), data2=513)}")
    for size in (1, 16, 512, 513, 4096):
        place.once(f"SET_LVB {size}", Command.SET_LVB, one.encode() + b"v" * size)
        place.once(f"GET_LVB after {size}", Command.GET_LVB, one.encode())
    place.status("dirty")
    for what, lease in (("without", two), ("not held", one._replace(name="none")), ("no space", two)):
        lease = lease._replace(lockspace_name="NO") if what == "no space" else lease
        place.once(f"SET_LVB {what}", Command.SET_LVB, lease.encode() + b"v")
        place.once(f"GET_LVB {what}", Command.GET_LVB, lease.encode())
        place.once(f"GET_LVB {what}, 16", Command.GET_LVB, lease.encode(), data2=16)
    peer.convert("writes the LVB", one._replace(flags=SH))
    place.status("clean")
    place.once("SET_LVB shared", Command.SET_LVB, one.encode() + b"w" * 8)
    peer.convert("back", one)
    place.once("GET_LVB converted", Command.GET_LVB, one.encode())
    peer.release("ALL", flags=wire.RELEASE_ALL)
    place.until_held()
    peer.acquire("LVB again", one, flags=wire.ACQUIRE_LVB)
    place.once("GET_LVB again", Command.GET_LVB, one.encode())
    peer.release("ALL", flags=wire.RELEASE_ALL)
    place.until_held()


def adoption(place: Place) -> None:
    """Orphans: the table of spec 6.5 with every flag."""
    place.join()
    (one,) = place.make("R1")
    peer = place.peer(register=True)
    for mode in (0, SH):
        for flags in (0, wire.ACQUIRE_ORPHAN, wire.ACQUIRE_ORPHAN_ONLY, 6):
            for wanted in (0, SH):
                parent = place.peer(register=True)
                parent.acquire(f"mode {mode}", one._replace(flags=mode | PERSISTENT))
                parent.close()
                place.wait(
                    lambda: any("list=orphan" in item.state.text for item in place.items() if item.resource),
                    "orphan",
                )
                place.status(f"orphan {mode}")
                peer.acquire(f"orphan {mode} as {wanted} with {flags}", one._replace(flags=wanted), flags=flags)
                peer.inquire()
                place.status(f"orphan {mode} as {wanted} with {flags}")
                peer.release("adopted", one)
                peer.release("orphan", one, flags=wire.RELEASE_ORPHAN)
                place.until_held()
    peer.acquire("ORPHAN without one", one, flags=wire.ACQUIRE_ORPHAN)
    peer.release("of it", one)
    peer.acquire("ORPHAN_ONLY with LVB without one", one, flags=wire.ACQUIRE_ORPHAN_ONLY | wire.ACQUIRE_LVB)
    peer.inquire()
    peer.acquire("ORPHAN_ONLY without one", one, flags=wire.ACQUIRE_ORPHAN_ONLY)
    peer.close()
    place.until_held()


def spaces(place: Place) -> None:
    """Lockspace commands with their flags."""
    space = place.join()
    (one,) = place.make("R1")
    second = place.space("LS2")
    place.once("WRITE_LOCKSPACE", Command.WRITE_LOCKSPACE, second.encode(), data=99, data2=1)
    place.once("ADD ASYNC", Command.ADD_LOCKSPACE, second.encode(), flags=wire.ADD_ASYNC, data=1)
    place.once("ADD ASYNC again", Command.ADD_LOCKSPACE, second.encode(), flags=wire.ADD_ASYNC, data=1)
    place.once("INQ", Command.INQ_LOCKSPACE, second.encode())
    place.once("GET_HOSTS while adding", Command.GET_HOSTS, second.encode())
    place.once("GET_LOCKSPACES while adding", Command.GET_LOCKSPACES)
    place.once("INQ WAIT", Command.INQ_LOCKSPACE, second.encode(), flags=wire.INQ_WAIT)
    place.once("INQ WAIT of none", Command.INQ_LOCKSPACE, place.space("NO").encode(), flags=wire.INQ_WAIT)
    place.once("ADD ASYNC without name", Command.ADD_LOCKSPACE, second._replace(name="").encode(), flags=1)
    place.once("GET_LOCKSPACES", Command.GET_LOCKSPACES)
    for host_id in (0, 1, 2, 2000):
        peer = place.peer()
        peer.send(Command.GET_HOSTS, space._replace(host_id=host_id).encode())
        header, body = peer.reply()
        hosts = [wire.decode_host(body, at)._replace(timestamp=0) for at in range(0, len(body), wire.HOST_SIZE)]
        print(f"# GET_HOSTS {host_id}\n{header._replace(magic=0)} {hosts} {peer.is_open()}")
    items = place.items(cmd=Command.HOST_STATUS, payload=Lockspace("LS", 0, 0, Disk("")).encode())
    print(f"# HOST_STATUS\n{[(item.state.type, item.state.data32, item.state.text) for item in items]}")
    history = place.items(cmd=Command.RENEWAL, payload=Lockspace("LS", 0, 0, Disk("")).encode())
    print(f"# RENEWAL\n{(history[0].state.type, history[0].state.data32, history[0].state.text)}")
    for cmd in (Command.HOST_STATUS, Command.RENEWAL):
        place.once(f"{Command(cmd).name} of none", cmd, place.space("NO").encode())
    peer = place.peer(register=True)
    peer.acquire("a user", one._replace(flags=PERSISTENT))
    unused = wire.REM_UNUSED
    place.once("REM UNUSED, used", Command.REM_LOCKSPACE, space.encode(), flags=unused)
    other = space._replace(disk=Disk("/elsewhere"))
    place.once("REM UNUSED of another of that name, used", Command.REM_LOCKSPACE, other.encode(), flags=unused)
    peer.close()
    place.wait(lambda: any("list=orphan" in i.state.text for i in place.items() if i.resource), "orphan")
    place.once("REM UNUSED, orphan", Command.REM_LOCKSPACE, space.encode(), flags=unused)
    for value in (0, 1, 2, 3, 4, 5, 8, 16, -1):
        place.once(f"SET_CONFIG {value}", Command.SET_CONFIG, space.encode(), data=value)
        place.once(f"SET_CONFIG {value} of none", Command.SET_CONFIG, place.space("NO").encode(), data=value)
    place.once("SET_CONFIG used by orphans", Command.SET_CONFIG, space.encode(), data=4)
    place.status("used by orphans")
    place.once("REM ASYNC", Command.REM_LOCKSPACE, space.encode(), flags=wire.REM_ASYNC)
    place.wait(
        lambda: any(" killing_pids=1 used_retries=1" in item.state.text for item in place.items()), "it is blocked"
    )
    place.once("REM ASYNC again", Command.REM_LOCKSPACE, space.encode(), flags=wire.REM_ASYNC)
    place.once("REM UNUSED while removing", Command.REM_LOCKSPACE, space.encode(), flags=unused)
    place.once("INQ while removing", Command.INQ_LOCKSPACE, space.encode())
    place.once("GET_HOSTS while removing", Command.GET_HOSTS, space._replace(host_id=2).encode())
    place.once("ADD while removing", Command.ADD_LOCKSPACE, space.encode(), data=1)
    for value in (1, 4, 2, 16):
        place.once(f"SET_CONFIG {value} while removing", Command.SET_CONFIG, space.encode(), data=value)
    place.once("REQUEST while removing", Command.REQUEST, one.encode_with_disks(), data=1)
    place.status("blocked by an orphan")
    place.once("SET_CONFIG unused by orphans", Command.SET_CONFIG, space.encode(), data=8)
    place.wait(lambda: place.quietly(Command.INQ_LOCKSPACE, space.encode()) == -2, "removed")
    place.status("removed")
    place.once("REM of both", Command.REM_LOCKSPACE, second.encode(), flags=unused)
    place.status("all removed")


def events(place: Place) -> None:
    """Event descriptors and SET_EVENT in the order of its checks."""
    place.join()
    small = place.space("SMALL")._replace(flags=wire.ALIGN1M | wire.SECTOR4K)
    place.once("WRITE_LOCKSPACE small", Command.WRITE_LOCKSPACE, small.encode(), data2=1)
    place.once("ADD small", Command.ADD_LOCKSPACE, small.encode(), data=1)

    def body(name: str, host_id: int = 0, generation: int = 0, event: int = 0, data: int = 0) -> bytes:
        return Lockspace(name, 0, 0, Disk("")).encode() + HostEvent(host_id, generation, event, data).encode()

    cases = [
        *(("", 0, 1), ("", 2, 1), ("NO", 0, 1), ("NO", 2001, 1), ("NO", 2, 1), ("LS", 0, 1), ("LS", 2001, 1)),
        *(("SMALL", 250, 1), ("SMALL", 251, 1), ("SMALL", 2000, 1), ("LS", 2000, 0), ("LS", 2, 0)),
    ]
    for name, host_id, event in cases:
        place.once(f"SET_EVENT {name} {host_id} {event}", Command.SET_EVENT, body(name, host_id, 1, event))
    for flags in (0x1, 0x2, 0x4, 0x8, 0x10, 0x1F, 0x20, 0x6):
        for host_id, generation, event in ((2, 1, 5), (2, 1, 6), (1, 0, 6), (3, 0, 0)):
            label = f"SET_EVENT flags {flags:#x} {host_id} {generation} {event}"
            place.once(label, Command.SET_EVENT, body("LS", host_id, generation, event, 9), flags=flags)
    place.once("SET_EVENT clear", Command.SET_EVENT, body("LS", 2), flags=wire.EVENT_CLEAR_EVENT)
    for event, data in ((5, 1), (5, 2), (6, 2), (0, 0), (6, 2)):
        place.once(f"SET_EVENT {event} {data}", Command.SET_EVENT, body("LS", 2, 1, event, data))
    for name in ("", "NO"):
        place.once(f"REG_EVENT {name!r}", Command.REG_EVENT, body(name))
        place.once(f"END_EVENT {name!r}", Command.END_EVENT, body(name)[: wire.LOCKSPACE_SIZE])
    watchers = [place.peer() for _ in range(34)]
    for number, watcher in enumerate(watchers):
        watcher.send(Command.REG_EVENT, body("LS"))
        header = watcher.reply()[0]
        if header.data or number < 2:
            print(f"# REG_EVENT {number}\n{header._replace(magic=0)}")
    place.status("no slots for event descriptors", 2)
    watchers[0].raw(b"\1\0\0\0")
    watchers[1].close()
    place.once("END_EVENT", Command.END_EVENT, body("LS")[: wire.LOCKSPACE_SIZE])
    print(f"# the one that said goodbye\n{watchers[0].receive(1)!r}")
    for number in range(3):
        watchers.append(place.peer())
        watchers[-1].ask(f"REG_EVENT after two have gone, {number}", Command.REG_EVENT, body("LS"))
    place.once("END_EVENT of nobody", Command.END_EVENT, body("LS")[: wire.LOCKSPACE_SIZE])
    registered = place.peer(register=True)
    watchers[2].close()
    place.quietly(Command.END_EVENT, body("LS")[: wire.LOCKSPACE_SIZE])
    place.once("REM", Command.REM_LOCKSPACE, place.space().encode())
    print(f"# event descriptors end with the lockspace\n{watchers[5].receive(1)!r} {watchers[31].receive(1)!r}")
    registered.close()


def storage(place: Place) -> None:
    """Reading and writing without a client library in between: bodies, flags, numbers."""
    (one,) = place.make("R1")
    file = place.file("spaces", 40)
    for flags in (0, 0x110, 0x210, 0x220, 0x240, 0x280, 0x180, 0x10, 0x100, 0x300, 0x30, 0x211, 0xFFFF0110):
        space = Lockspace("S", 5, flags, Disk(file, 0))
        place.once(f"WRITE_LOCKSPACE {flags:#x}", Command.WRITE_LOCKSPACE, space.encode(), data2=3)
        for read_flags in (0, flags):
            place.once("READ_LOCKSPACE", Command.READ_LOCKSPACE, space._replace(flags=read_flags).encode())
        named = space._replace(name="", host_id=0)
        place.once("READ_LOCKSPACE without a name", Command.READ_LOCKSPACE, named.encode())
        lease = wire.resource("S", "R", [Disk(file, 16 * MIB)], flags=flags)
        place.once(f"WRITE_RESOURCE {flags:#x}", Command.WRITE_RESOURCE, lease.encode_with_disks())
        for read_flags in (0, flags):
            body = lease._replace(flags=read_flags | SH, lver=9, data32=7).encode_with_disks()
            place.once(f"READ_RESOURCE {read_flags:#x}", Command.READ_RESOURCE, body)
            place.once(f"READ_RESOURCE_OWNERS {read_flags:#x}", Command.READ_RESOURCE_OWNERS, body)
    for data, data2, flags in ((7, 0, 0), (7, 9, 0), (2000, 0, 0), (2001, 0, 0), (7, 0, wire.WRITE_CLEAR)):
        body = one.encode_with_disks()
        place.once(
            f"WRITE_RESOURCE {data} {data2}", Command.WRITE_RESOURCE, body, data=data, data2=data2, flags=flags
        )
        place.once("READ_RESOURCE_OWNERS", Command.READ_RESOURCE_OWNERS, body)
    for count in (0, 5, 100):
        body = one._replace(num_disks=count, disks=()).encode()
        for cmd in (Command.WRITE_RESOURCE, Command.READ_RESOURCE, Command.READ_RESOURCE_OWNERS, Command.REQUEST):
            place.once(f"{cmd.name} with {count} disks", cmd, body)
    for path in ("", "/missing", place.directory, file):
        place.once(f"ALIGN {path!r}", Command.ALIGN, Disk(path).encode())
        space = Lockspace("S", 1, 0, Disk(path, 39 * MIB))
        for cmd in (Command.READ_LOCKSPACE, Command.WRITE_LOCKSPACE if path != file else Command.READ_LOCKSPACE):
            place.once(f"{cmd.name} {path!r}", cmd, space.encode(), data2=1)
        lease = wire.resource("S", "R", [Disk(path, 39 * MIB)])
        place.once(f"READ_RESOURCE {path!r}", Command.READ_RESOURCE, lease.encode_with_disks())
    for what in ("name", "path"):
        raw = bytearray(one.encode_with_disks())
        at = 48 if what == "name" else wire.RESOURCE_SIZE
        raw[at : at + 48] = b"\xff" * 48
        place.once(f"READ_RESOURCE with a {what} that is no text", Command.READ_RESOURCE, bytes(raw))


def index(place: Place) -> None:
    """Resource indexes: with and without lockspace, flags and entries right and wrong."""
    place.join()
    path = place.file("index", 40)
    plain = Rindex(0, 0, 0, "LS", Disk(path))
    none = wire.RINDEX_NO_LOCKSPACE
    entry = Rentry("a", 0)

    def ask(what: str, cmd: Command, rindex: Rindex, rentry: Rentry | None = None, **fields: int) -> None:
        body = rindex.encode() + (rentry.encode() if rentry else b"")
        place.once(f"{cmd.name} {what}", cmd, body, **fields)

    for cmd in (Command.LOOKUP_RINDEX, Command.CREATE_RESOURCE, Command.DELETE_RESOURCE):
        ask("unformatted", cmd, plain, entry)
    ask("unformatted", Command.REBUILD_RINDEX, plain)
    for flags in (0x110, 0x280, 0x180, 0x100):
        ask(f"{flags:#x}", Command.FORMAT_RINDEX, plain._replace(flags=flags))
        ask(f"{flags:#x}", Command.LOOKUP_RINDEX, plain._replace(flags=flags), Rentry())
        ask(f"{flags:#x}, no flags", Command.LOOKUP_RINDEX, plain, Rentry())
    for count in (16000, 16001, 0xFFFFFFFF, 5, 0):
        sized = plain._replace(max_resources=count)
        ask(f"for {count}", Command.FORMAT_RINDEX, sized)
        ask(f"for {count}", Command.LOOKUP_RINDEX, plain, Rentry())
    for name in ("NO", ""):
        ask(f"space {name!r}", Command.LOOKUP_RINDEX, plain._replace(lockspace_name=name), Rentry())
        ask(
            f"space {name!r} unlocked",
            Command.LOOKUP_RINDEX,
            plain._replace(lockspace_name=name),
            Rentry(),
            flags=none,
        )
    for data, data2 in ((0, 0), (3, 0), (0, 7)):
        ask(
            f"{data} {data2}", Command.CREATE_RESOURCE, plain, Rentry(f"c{data}{data2}", 0), data=data, data2=data2
        )
    ask("with an offset", Command.CREATE_RESOURCE, plain, Rentry("o", 9 * MIB))
    for number in range(2, 7):
        lease = wire.resource("LS", "", [Disk(path, number * MIB)])
        place.once(f"READ_RESOURCE {number}", Command.READ_RESOURCE, lease.encode_with_disks())
    for rentry in (
        *(Rentry(), Rentry("c00", 0), Rentry("", 2 * MIB), Rentry("c00", 2 * MIB), Rentry("c00", 3 * MIB)),
        *(Rentry("none", 0), Rentry("", 5), Rentry("", 9 * MIB), Rentry("c00", 5), Rentry("", 39 * MIB)),
    ):
        for flags in (0, none):
            ask(f"{rentry} {flags}", Command.LOOKUP_RINDEX, plain, rentry, flags=flags)
    for flags in (0, wire.RINDEX_ADD, wire.RINDEX_REM, wire.RINDEX_ADD | wire.RINDEX_REM):
        for rentry in (
            Rentry(),
            Rentry("u", 0),
            Rentry("", 9 * MIB),
            Rentry("u", 9 * MIB),
            Rentry("c00", 9 * MIB),
        ):
            ask(f"{flags:#x} {rentry}", Command.UPDATE_RINDEX, plain, rentry, flags=flags | none)
    ask("of an odd offset", Command.UPDATE_RINDEX, plain, Rentry("u", 5), flags=wire.RINDEX_ADD | none)
    ask("after updates", Command.LOOKUP_RINDEX, plain, Rentry())
    for rentry in (
        Rentry(),
        Rentry("none", 0),
        Rentry("", 3 * MIB),
        Rentry("c00", 2 * MIB),
        Rentry("c30", 3 * MIB),
    ):
        ask(f"{rentry}", Command.DELETE_RESOURCE, plain, rentry)
    ask("after deletes", Command.LOOKUP_RINDEX, plain, Rentry())
    ask("with lockspace", Command.REBUILD_RINDEX, plain)
    ask("unlocked", Command.REBUILD_RINDEX, plain, flags=none)
    ask("after rebuild", Command.LOOKUP_RINDEX, plain, Rentry("c07", 0))
    ask("without a name", Command.CREATE_RESOURCE, plain, Rentry())
    ask("nowhere", Command.FORMAT_RINDEX, plain._replace(disk=Disk("/missing")))
    ask("nowhere", Command.REBUILD_RINDEX, plain._replace(disk=Disk("/missing")))
    ask("nowhere", Command.LOOKUP_RINDEX, plain._replace(disk=Disk("/missing")), Rentry())


SCENES = (headers, registration, leases, adoption, spaces, events, storage, index)

if __name__ == "__main__":
    {scene.__name__: scene for scene in SCENES}[sys.argv[3]](Place(sys.argv[1], sys.argv[2]))
