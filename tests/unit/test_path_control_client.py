"""Listening on the CLI socket's addresses, and asking whoever listens there."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.path.control import client
from holdfast.path.control.client import Connection, PathCommandError, ask, ask_async, socket_names
from holdfast.path.control.listening import ABSTRACT_NAME, SOCKET_MODE, SOCKET_PATH, listen
from holdfast.path.control.wire import FramingError, encode
from tests.unit.path_control_lab import laboratory


@pytest.fixture
def abstract() -> str:
    return f"@holdfast-test-{os.getpid()}-{threading.get_ident()}"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "socket")


def connect(name: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(f"\0{name[1:]}" if name.startswith("@") else name)
    return sock


def test_both_addresses(path: str, abstract: str) -> None:
    old = os.umask(0o077)
    try:
        listeners = listen([path, abstract])
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(path).st_mode) == SOCKET_MODE
    for name in (path, abstract):
        connect(name).close()
    with open("/proc/net/unix", encoding="utf-8") as table:
        # Without a NUL behind the name, which would be printed as another @.
        assert any(line.endswith(f" {abstract}\n") for line in table)
    listeners.close()
    assert not os.path.exists(path)


def test_a_file_that_nobody_listens_on_is_replaced(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as old:
        old.bind(path)
    listeners = listen([path])
    connect(path).close()
    listeners.close()


def test_somebody_who_listens_is_left_alone(path: str, abstract: str) -> None:
    first = listen([path, abstract])
    for names in ([path], [abstract], [f"{path}2", abstract]):
        with pytest.raises(OSError, match="in use") as caught:
            listen(names)
        assert caught.value.filename == names[-1]
    assert not os.path.exists(f"{path}2")
    connect(path).close()
    first.close()


def test_somebody_who_listens_and_hangs_is_left_alone(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as busy:
        busy.bind(path)
        busy.listen(0)
        waiting = []
        try:
            while True:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                waiting.append(sock)
                sock.setblocking(False)
                sock.connect(path)
        except BlockingIOError:
            pass
        with pytest.raises(OSError, match="in use"):
            listen([path])
        for sock in waiting:
            sock.close()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_left_alone(path: str, kind: str) -> None:
    if kind == "file":
        Path(path).touch()
    elif kind == "directory":
        Path(path).mkdir()
    else:
        Path(path).symlink_to("x")
    with pytest.raises(FileExistsError):
        listen([path])
    assert os.path.lexists(path)


def test_the_file_of_a_successor_is_left_alone(path: str) -> None:
    first = listen([path])
    os.unlink(path)
    second = listen([path])
    first.close()
    connect(path).close()
    second.close()


# -- asking --------------------------------------------------------------------------------------------------


def test_where_to_ask() -> None:
    assert socket_names({}) == (SOCKET_PATH, ABSTRACT_NAME)
    assert socket_names({"MULTIPATH_SOCKET_NAME": "@x"}) == ("@x",)
    assert socket_names({"MULTIPATH_SOCKET_NAME": ""}) == (SOCKET_PATH, ABSTRACT_NAME)


def test_asking(path: str) -> None:
    async def play() -> None:
        async with laboratory() as lab:
            names = [f"{path}-missing", lab.path]
            assert await ask_async("show daemon", names) == "pid 4711 idle\n"
            assert await asyncio.to_thread(ask, "show daemon", names) == "pid 4711 idle\n"
            with pytest.raises(PathCommandError, match="show path nosuch: device not found") as caught:
                await ask_async("show path nosuch", names)
            assert caught.value.text == "device not found\n"
            with pytest.raises(PathCommandError, match="less than 512 bytes"):
                await ask_async("x" * 512, names)

            def many() -> None:
                with Connection(names) as connection:
                    for _ in range(20):
                        assert connection.ask("show paths").count("\n") == 5

            await asyncio.to_thread(many)

    asyncio.run(play())


def test_nobody_is_there(path: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        ask("show daemon", [path, f"{path}2"])
    assert caught.value.filename == path
    with pytest.raises(FileNotFoundError):
        asyncio.run(ask_async("show daemon", [path]))


@pytest.fixture
def strange_daemon(path: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """Answers one request with the bytes that the test names."""
    listener = listen([path])
    listener.sockets[0].setblocking(True)

    def serve() -> None:
        sock, _ = listener.sockets[0].accept()
        with sock:
            sock.recv(4096)
            sock.sendall(request.param)

    thread = threading.Thread(target=serve)
    thread.start()
    yield path
    thread.join()
    listener.close()


STRANGE = [
    (b"", ConnectionResetError),
    (encode(b"ok")[:9], ConnectionResetError),
    (b"\0" * 8, FramingError),
    (b"\xff" * 8, FramingError),
]


@pytest.mark.parametrize(("strange_daemon", "error"), STRANGE, indirect=["strange_daemon"])
def test_strange_replies(strange_daemon: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        ask("show daemon", [strange_daemon])


@pytest.mark.parametrize(("strange_daemon", "error"), STRANGE, indirect=["strange_daemon"])
def test_strange_replies_on_a_loop(strange_daemon: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        asyncio.run(ask_async("show daemon", [strange_daemon]))


def test_a_daemon_that_does_not_answer(path: str) -> None:
    listeners = listen([path])
    with pytest.raises(TimeoutError):
        ask("show daemon", [path], timeout_s=0.05)
    with pytest.raises(TimeoutError):
        asyncio.run(ask_async("show daemon", [path], timeout_s=0.05))
    listeners.close()
    assert client.REPLY_S > 4.0
