"""`holdfast.notify` against a manager's socket, a missing one, and a full one."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast import notify


class Inbox:
    """The manager's end."""

    def __init__(self, address: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.sock.bind(address)

    def receive(self) -> tuple[list[str], list[int]]:
        raw, ancillary, _, _ = self.sock.recvmsg(8192, socket.CMSG_SPACE(64 * 4))
        fds = array.array("i")
        for _, _, data in ancillary:
            fds.frombytes(data)
        return raw.decode().split("\n"), list(fds)


@pytest.fixture(params=["path", "abstract"])
def inbox(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    if request.param == "path":
        made = Inbox(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    else:
        made = Inbox(f"\0holdfast-test-{os.getpid()}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@holdfast-test-{os.getpid()}")
    yield made
    made.sock.close()


def test_messages(inbox: Inbox) -> None:
    assert notify.ready("all\nright")
    assert inbox.receive()[0] == ["READY=1", "STATUS=all right"]
    assert notify.reloading()
    lines, _ = inbox.receive()
    assert lines[0] == "RELOADING=1"
    assert lines[1].startswith("MONOTONIC_USEC=")
    assert notify.stopping()
    assert inbox.receive()[0] == ["STOPPING=1"]
    assert notify.status("x" * 10000)
    assert len(inbox.receive()[0][0]) < notify.MAX_MESSAGE_BYTES
    assert notify.extend_timeout(1.5)
    assert inbox.receive()[0] == ["EXTEND_TIMEOUT_USEC=1500000"]
    assert notify.watchdog_ping()
    assert inbox.receive()[0] == ["WATCHDOG=1"]


@pytest.mark.parametrize("address", [None, "", "relative", "vsock:2:1234", "/no/such/socket", "/" + "x" * 300])
def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify.ready()
    assert not notify.store_fds("name", [0])
    assert not notify.barrier_blocking(5.0)
    assert not asyncio.run(notify.barrier(5.0))


def test_a_manager_that_reads_nothing_holds_nobody_up(inbox: Inbox) -> None:
    sent = 0
    while notify.status("text"):
        sent += 1
        assert sent < 100000
    assert sent


def test_bytes_that_are_no_message(inbox: Inbox) -> None:
    assert not notify.send()
    assert not notify.send("X=" + "y" * notify.MAX_MESSAGE_BYTES)
    assert not notify.send("X=\0")


def test_descriptors_are_stored_and_removed(inbox: Inbox) -> None:
    fds = [os.dup(0) for _ in range(notify.FDS_PER_MESSAGE + 1)]
    assert notify.store_fds("name", fds)
    lines, first = inbox.receive()
    assert lines == ["FDSTORE=1", "FDNAME=name"]
    _, second = inbox.receive()
    assert len(first) + len(second) == len(fds)
    for fd in (*fds, *first, *second):
        os.close(fd)
    assert notify.store_fds("other", [0], poll=False)
    lines, (fd,) = inbox.receive()
    os.close(fd)
    assert lines == ["FDSTORE=1", "FDNAME=other", "FDPOLL=0"]
    assert notify.remove_fds("name")
    assert inbox.receive()[0] == ["FDSTOREREMOVE=1", "FDNAME=name"]
    for name in ("", "a:b", "ü", "x" * 256, "a\nb"):
        with pytest.raises(ValueError, match="descriptor name"):
            notify.store_fds(name, [0])


def test_the_barrier_is_the_managers_close(inbox: Inbox) -> None:
    async def main() -> bool:
        waiting = asyncio.create_task(notify.barrier())
        while True:
            try:
                lines, (fd,) = inbox.receive()
                break
            except BlockingIOError:
                await asyncio.sleep(0.001)
        assert lines == ["BARRIER=1"]
        assert not waiting.done()
        os.close(fd)
        return await waiting

    assert asyncio.run(main())
    assert not notify.barrier_blocking(0.001)
    os.close(inbox.receive()[1][0])


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        ("2000000", "", 2.0),
        ("2000000", "own", 2.0),
        ("2000000", "1", None),
        ("0", "", None),
        ("nonsense", "", None),
        (str((1 << 64) - 1), "", None),
        (None, "", None),
    ],
)
def test_watchdog_interval(
    monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str, expected: float | None
) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    if usec is not None:
        monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert notify.watchdog_interval() == expected


def test_pings_come_only_while_all_is_well(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000")
    answers = [True, False, True]

    async def main() -> None:
        task: asyncio.Task[None]

        def is_well() -> bool:
            if not answers:
                task.cancel()
                return False
            return answers.pop(0)

        task = asyncio.create_task(notify.keep_watchdog_alive(is_well))
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    assert inbox.receive()[0] == inbox.receive()[0] == ["WATCHDOG=1"]
    with pytest.raises(BlockingIOError):
        inbox.receive()
    monkeypatch.delenv("WATCHDOG_USEC")
    asyncio.run(notify.keep_watchdog_alive())


def listen_fds_of(environ: dict[str, str], count: int) -> str:
    """What a process finds that was started with so many pipes from descriptor 3 on."""
    program = (
        "import os; os.environ.update({k: v.replace('PID', str(os.getpid())) for k, v in os.environ.items()"
        " if k == 'LISTEN_PID'})\n"
        "from holdfast import notify; found = notify.listen_fds()\n"
        "print(found, [os.get_inheritable(f) for fs in found.values() for f in fs], 'LISTEN_FDS' in os.environ)"
    )
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(count)]
    high = [os.dup2(fd, 300 + index) for index, fd in enumerate(fds)]
    try:
        return subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, **environ},
            capture_output=True,
            text=True,
            check=True,
            preexec_fn=lambda: [os.dup2(fd, 3 + index) for index, fd in enumerate(high)],
            pass_fds=range(3, 3 + count),
        ).stdout.strip()
    finally:
        for fd in (*fds, *high):
            os.close(fd)


def test_descriptors_that_were_passed() -> None:
    found = listen_fds_of({"LISTEN_PID": "PID", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "a:b:a"}, 3)
    assert found == "{'a': [3, 5], 'b': [4]} [False, False, False] False"
    assert listen_fds_of({"LISTEN_PID": "PID", "LISTEN_FDS": "1"}, 1).startswith("{'unknown': [3]}")


@pytest.mark.parametrize("number", ["0", "-1", "x", "99999999"])
def test_descriptors_that_are_not_ours(number: str) -> None:
    assert listen_fds_of({"LISTEN_PID": "PID", "LISTEN_FDS": number}, 0).startswith("{} ")
    assert listen_fds_of({"LISTEN_PID": "1", "LISTEN_FDS": "1"}, 0).startswith("{} ")
