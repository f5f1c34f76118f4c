"""The shell of sockets, timers and paths: real descriptors, real inotify."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from holdfast.service.settings import UnitFile
from holdfast.service.triggers.host import TriggerHost
from holdfast.service.triggers.messages import (
    Accepted,
    Close,
    Disconnected,
    Drop,
    Incoming,
    LastTriggered,
    Open,
    Opened,
    OpenFailed,
    PathHit,
    Poll,
    ReadStamp,
    Serve,
    TriggerEvent,
    Unwatch,
    Watch,
    Watched,
    WriteStamp,
)
from tests.vectors.supervisor_world import load


class Lab:
    """A host, and what it told."""

    def __init__(self, directory: Path) -> None:
        self.told: list[tuple[str, TriggerEvent]] = []
        self.served: list[Serve] = []
        self.host = TriggerHost(
            lambda unit, event: self.told.append((unit, event)),
            lambda unit, serve: self.served.append(serve),
            str(directory / "stamps"),
        )

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.005)

    def events(self, kind: type) -> list[TriggerEvent]:
        return [event for _, event in self.told if isinstance(event, kind)]


def unit(name: str, text: str) -> UnitFile:
    file = load(name, text).file
    assert file is not None
    return file


def run(directory: Path, scene: Callable[[Lab], Awaitable[None]]) -> None:
    async def main() -> None:
        lab = Lab(directory)
        try:
            await scene(lab)
        finally:
            await lab.host.close()

    asyncio.run(main())


def test_descriptors_in_order_with_names_and_modes(tmp_path: Path) -> None:
    text = (
        f"[Socket]\nListenStream={tmp_path}/sub/a.sock\nListenDatagram=@holdfast-test-{os.getpid()}\n"
        f"ListenStream=127.0.0.1:0\nListenFIFO={tmp_path}/fifo\nSocketMode=0600\nDirectoryMode=0750\n"
    ).replace("127.0.0.1:0", "127.0.0.1:" + str(_free_port()))
    file = unit("a.socket", text + f"Symlinks={tmp_path}/link\n")

    async def scene(lab: Lab) -> None:
        stale = socket.socket(socket.AF_UNIX)
        (tmp_path / "sub").mkdir(mode=0o750)
        stale.bind(str(tmp_path / "sub" / "a.sock"))
        stale.close()
        lab.host.perform("a.socket", file, Open())
        assert lab.told == [("a.socket", Opened())]
        found = lab.host.descriptors("a.service", ["a.socket", "other.socket"])
        assert [name for name, _ in found] == ["a.socket"] * 4
        path = tmp_path / "sub" / "a.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert os.readlink(tmp_path / "link") == str(path)
        kinds = []
        for _, descriptor in found[:3]:
            with socket.socket(fileno=os.dup(descriptor)) as sock:
                kinds.append((sock.family, sock.type, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)))
                assert os.get_blocking(descriptor)
        assert kinds == [
            (socket.AF_UNIX, socket.SOCK_STREAM, 1),
            (socket.AF_UNIX, socket.SOCK_DGRAM, 0),
            (socket.AF_INET, socket.SOCK_STREAM, 1),
        ]
        lab.host.perform("a.socket", file, Poll(True))
        client = socket.create_connection(_address(found[2][1]))
        await lab.until(lambda: lab.events(Incoming))
        lab.host.perform("a.socket", file, Poll(False))
        client.close()
        lab.host.perform("a.socket", file, Close(unlink=True))
        assert not path.exists()
        assert not os.path.lexists(tmp_path / "link")
        assert lab.host.descriptors("a.service", ["a.socket"]) == []

    run(tmp_path, scene)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _address(descriptor: int) -> tuple[str, int]:
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        host, port = sock.getsockname()
        return host, port


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("ListenStream=/proc/nowhere/a.sock", "No such file"),
        ("ListenNetlink=nonsense 1", "unknown netlink family"),
        ("ListenStream=/{file}", "Address already in use"),
    ],
)
def test_all_or_none(tmp_path: Path, line: str, why: str) -> None:
    (tmp_path / "plain").write_text("not a socket")
    line = line.replace("/{file}", str(tmp_path / "plain"))
    file = unit("a.socket", f"[Socket]\nListenStream={tmp_path}/good.sock\n{line}\n")

    async def scene(lab: Lab) -> None:
        before = len(os.listdir("/proc/self/fd"))
        lab.host.perform("a.socket", file, Open())
        (event,) = lab.events(OpenFailed)
        assert isinstance(event, OpenFailed)
        assert why in event.reason
        assert len(os.listdir("/proc/self/fd")) == before
        assert (tmp_path / "plain").read_text() == "not a socket"

    run(tmp_path, scene)


def test_a_connection_is_accepted_served_and_ended(tmp_path: Path) -> None:
    file = unit("b.socket", f"[Socket]\nListenStream={tmp_path}/b.sock\nAccept=yes\n")

    async def scene(lab: Lab) -> None:
        lab.host.perform("b.socket", file, Open())
        lab.host.perform("b.socket", file, Poll(True))
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            for client in (first, second):
                client.connect(str(tmp_path / "b.sock"))
            await lab.until(lambda: len(lab.events(Accepted)) == 2)
            one, two = lab.events(Accepted)
            assert isinstance(one, Accepted)
            assert isinstance(two, Accepted)
            assert one.peer == f"{os.getpid()}-{os.getuid()}"
            instance = "b@0-x.service"
            lab.host.perform("b.socket", file, Serve(one.connection, instance, one.source))
            lab.host.perform("b.socket", file, Drop(two.connection))
            assert second.recv(1) == b"", "dropped"
            assert lab.served[0].unit == instance
            ((name, descriptor),) = lab.host.descriptors(instance, [])
            assert name == "connection"
            os.write(descriptor, b"hello")
            assert first.recv(5) == b"hello"
            lab.host.handed_over(instance)
            assert first.recv(1) == b"", "our copy is closed: the service's end is the connection's end"
            assert lab.host.descriptors(instance, []) == []
            lab.host.instance_gone(instance)
            assert lab.told[-1] == ("b.socket", Disconnected(str(os.getuid())))

    run(tmp_path, scene)


def test_stamps(tmp_path: Path) -> None:
    file = unit("t.timer", "[Timer]\nOnCalendar=daily\nPersistent=yes\n")

    async def scene(lab: Lab) -> None:
        lab.host.perform("t.timer", file, ReadStamp())
        await lab.until(lambda: lab.told)
        assert lab.told == [("t.timer", LastTriggered(0))]
        lab.host.perform("t.timer", file, WriteStamp())
        lab.host.perform("t.timer", file, ReadStamp())
        await lab.until(lambda: len(lab.told) == 2 and (tmp_path / "stamps" / "stamp-t.timer").exists())
        lab.host.perform("t.timer", file, ReadStamp())
        await lab.until(lambda: len(lab.told) == 3)
        last = lab.events(LastTriggered)[-1]
        assert isinstance(last, LastTriggered)
        assert last.at > 0

    run(tmp_path, scene)


def _hit(tmp_path: Path, line: str, act: Callable[[], None], expected: str) -> None:
    file = unit("p.path", f"[Path]\n{line}\n")

    async def scene(lab: Lab) -> None:
        lab.host.perform("p.path", file, Watch(first=True))
        await lab.until(lambda: lab.told)
        assert lab.told == [("p.path", Watched(""))]
        act()
        await lab.until(lambda: lab.events(PathHit))
        assert lab.events(PathHit)[0] == PathHit(expected)
        lab.host.perform("p.path", file, Unwatch())

    run(tmp_path, scene)


def test_a_path_that_comes_to_exist_below_a_missing_directory(tmp_path: Path) -> None:
    def act() -> None:
        (tmp_path / "one" / "two").mkdir(parents=True)
        (tmp_path / "one" / "two" / "three").touch()

    _hit(tmp_path, f"PathExists={tmp_path}/one/two/three", act, f"{tmp_path}/one/two/three")


def test_a_pattern(tmp_path: Path) -> None:
    _hit(
        tmp_path, f"PathExistsGlob={tmp_path}/*.done", lambda: (tmp_path / "a.done").touch(), f"{tmp_path}/a.done"
    )


def test_a_directory_is_made_and_gets_an_entry(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    _hit(
        tmp_path,
        f"DirectoryNotEmpty={spool}\nMakeDirectory=yes",
        lambda: (spool / "job").touch(),
        str(spool),
    )


def test_a_file_that_is_replaced_has_changed(tmp_path: Path) -> None:
    (tmp_path / "conf").write_text("old")
    (tmp_path / "new").write_text("new")
    _hit(
        tmp_path,
        f"PathChanged={tmp_path}/conf",
        lambda: os.rename(tmp_path / "new", tmp_path / "conf"),
        f"{tmp_path}/conf",
    )


def test_a_write_counts_for_modified_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    changed = unit("c.path", f"[Path]\nPathChanged={tmp_path}/file\n")
    modified = unit("m.path", f"[Path]\nPathModified={tmp_path}/file\n")

    async def scene(lab: Lab) -> None:
        lab.host.perform("c.path", changed, Watch())
        lab.host.perform("m.path", modified, Watch())
        await lab.until(lambda: len(lab.told) == 2)
        with open(tmp_path / "file", "w") as file:
            file.write("x")
            file.flush()
            await lab.until(lambda: lab.events(PathHit))
            assert {name for name, event in lab.told if isinstance(event, PathHit)} == {"m.path"}
        await lab.until(lambda: any(name == "c.path" and isinstance(event, PathHit) for name, event in lab.told))

    run(tmp_path, scene)
