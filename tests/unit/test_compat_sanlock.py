"""The `sanlock` module where it has to cope: broken replies, signals, threads, descriptors of the caller.

What it has in common with the original is tested against the original, in tests/interop/test_module.py.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import sanlock
from holdfast.compat.sanlock import blocking
from holdfast.leased import wire
from tests.unit.scripted_daemon import Answer, ScriptedDaemon, closed, granted, refused, scripted

DISKS = [("/lease", 1 << 20)]
LIMIT_S = 30.0


PATIENCE_S = 20.0


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(blocking.RUN_DIR_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture
def daemon(run_dir: Path) -> Iterator[ScriptedDaemon]:
    with scripted(run_dir) as started:
        yield started


@pytest.fixture
def fd(daemon: ScriptedDaemon) -> Iterator[int]:
    registered = sanlock.register()
    yield registered
    os.close(registered)


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_a_registered_descriptor_stays_open_and_is_inheritable(fd: int) -> None:
    assert os.get_inheritable(fd)
    sanlock.acquire(b"space", b"name", DISKS, slkfd=fd)
    assert [lease["resource"] for lease in sanlock.inquire(slkfd=fd)] == [b"one", b"two"]
    os.fstat(fd)


def test_nothing_is_left_open(daemon: ScriptedDaemon, run_dir: Path) -> None:
    before = open_descriptors()
    sanlock.get_lockspaces()
    fd, event = sanlock.register(), sanlock.reg_event(b"space")
    sanlock.killpath("/bin/true", ["a"], slkfd=fd)
    assert sanlock.get_event(event) == []
    sanlock.end_event(event, b"space")
    os.close(fd)
    with pytest.raises(sanlock.SanlockException):
        sanlock.get_event(event)
    (run_dir / "sanlock.sock").unlink()
    with pytest.raises(sanlock.SanlockException) as caught:
        sanlock.register()
    assert caught.value.args == (errno.ENOENT, "Sanlock registration failed", os.strerror(errno.ENOENT))
    # The scripted daemon lives in this process too, and closes its end when its thread gets to it.
    deadline = time.monotonic() + PATIENCE_S
    while open_descriptors() != before:
        assert time.monotonic() < deadline, open_descriptors() - before
        time.sleep(0.01)


def test_killpath_and_arguments_of_127_bytes_arrive_whole(fd: int, daemon: ScriptedDaemon) -> None:
    sanlock.killpath("/" + "p" * 126, ["a" * 122, "b c"], slkfd=fd)
    payload = daemon.requests[0][2 * wire.HEADER_SIZE :]
    assert payload == b"/" + b"p" * 126 + b"\0" + b"a" * 122 + b" b\\ c\0"


def foreign(header: wire.Header) -> bytes:
    return b"HTTP/1.0 400 Bad Request".ljust(wire.HEADER_SIZE)


def endless(header: wire.Header) -> bytes:
    return wire.encode_reply(header, 0, 0x7FFFFFFF, length=0x7FFFFFFF)


@pytest.mark.parametrize("answer", [closed, foreign, endless])
def test_a_broken_reply_is_an_error_and_ends_the_connection(run_dir: Path, answer: Answer) -> None:
    with scripted(run_dir, answer):
        fd = sanlock.register()
        with pytest.raises(sanlock.SanlockException) as caught:
            sanlock.inquire(slkfd=fd)
        assert caught.value.errno == errno.EPERM
        # Never again: the rest of that reply would be taken for the answer to another question.
        with pytest.raises(sanlock.SanlockException) as caught:
            sanlock.acquire(b"space", b"name", DISKS, slkfd=fd)
        assert caught.value.errno == errno.EPIPE
        os.close(fd)


def test_no_answer_is_an_error(run_dir: Path) -> None:
    with scripted(run_dir, closed), pytest.raises(sanlock.SanlockException) as caught:
        sanlock.get_hosts(b"space")
    assert caught.value.args == (1, "Sanlock get hosts failure", "Operation not permitted")


def test_codes_of_the_daemon_stay_negative(run_dir: Path) -> None:
    with scripted(run_dir, refused(-243)), pytest.raises(sanlock.SanlockException) as caught:
        sanlock.read_resource("/lease")
    assert caught.value.errno == -243
    assert str(caught.value) == "(-243, 'Sanlock resource read failure', 'Lease is held by another host')"


def test_a_handler_that_raises_waits_for_the_reply(run_dir: Path) -> None:
    """An interrupted call on a registered descriptor leaves it in step, as the original's do."""
    interrupted = threading.Event()

    def slow(header: wire.Header) -> bytes | None:
        if not interrupted.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            interrupted.set()
        return granted(header)

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with scripted(run_dir, slow):
            fd = sanlock.register()
            with pytest.raises(KeyboardInterrupt):
                sanlock.acquire(b"space", b"name", DISKS, slkfd=fd)
            assert interrupted.is_set()
            assert [lease["resource"] for lease in sanlock.inquire(slkfd=fd)] == [b"one", b"two"]
            os.close(fd)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_threads_wait_independently(run_dir: Path) -> None:
    """While one call waits for its answer, other threads ask and are answered."""
    asked, may_answer = threading.Event(), threading.Event()

    def slow(header: wire.Header) -> bytes | None:
        asked.set()
        may_answer.wait(LIMIT_S)
        return granted(header)

    with ThreadPoolExecutor(1) as pool, pytest.MonkeyPatch.context() as patch, scripted(run_dir / "slow", slow):
        patch.setenv(blocking.RUN_DIR_VARIABLE, str(run_dir / "slow"))
        waiting = pool.submit(sanlock.get_lockspaces)
        assert asked.wait(LIMIT_S)
        with scripted(run_dir / "quick"):
            patch.setenv(blocking.RUN_DIR_VARIABLE, str(run_dir / "quick"))
            assert len(sanlock.get_hosts(b"space")) == 2
        assert not waiting.done()
        may_answer.set()
        assert len(waiting.result(LIMIT_S)) == 2


def test_a_default_timeout_of_the_program_does_not_matter(fd: int) -> None:
    socket.setdefaulttimeout(1e-6)
    try:
        sanlock.acquire(b"space", b"name", DISKS, slkfd=fd)
        assert len(sanlock.get_lockspaces()) == 2
    finally:
        socket.setdefaulttimeout(None)
    assert os.get_blocking(fd)


def test_a_run_directory_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(blocking.RUN_DIR_VARIABLE, "/" + "d" * 200)
    with pytest.raises(sanlock.SanlockException) as caught:
        sanlock.get_lockspaces()
    assert caught.value.errno == errno.ENAMETOOLONG
