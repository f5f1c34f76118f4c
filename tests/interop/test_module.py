"""Our `sanlock` module and the original binding: the same calls, the same answers, the same bytes on the wire.

The original runs in Debian's Python, ours in the Python of these tests; both execute module_calls.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.interop.conftest import our_command
from tests.interop.hosts import DEBIAN_PYTHON, REAL, daemon_environment, running
from tests.unit.scripted_daemon import Answer, closed, granted, refused, scripted

CALLS = Path(__file__).with_name("module_calls.py")
SOURCES = Path(__file__).parents[2] / "src"
LIMIT_S = 120.0
CLIENTS = ("original", "holdfast")
# As long as each other: paths of the same length, directories that can be told apart.
HOMES = {"original": "a", "holdfast": "b"}


def play(client: str, kind: str, directory: Path, run_dir: Path) -> str:
    """The answers of one client, free of what differs by nature."""
    interpreter = [DEBIAN_PYTHON, "-I"] if client == "original" else [sys.executable]
    done = subprocess.run(
        [*interpreter, str(CALLS), client, kind, str(directory)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=daemon_environment(run_dir) | {"PYTHONPATH": str(SOURCES), "PYTHONUTF8": "1"},
        timeout=LIMIT_S,
        check=False,
    )
    text = done.stdout.decode(errors="backslashreplace").replace(str(directory), "{d}")
    assert done.returncode == 0, f"{client}:\n{text[-3000:]}"
    return text


def shown(request: bytes) -> str:
    """The same bytes, readable."""
    return re.sub(rb"\0{4,}", lambda zeros: b"<%d zeros>" % len(zeros[0]), request).decode("latin-1")


@pytest.fixture
def homes(directory: Path) -> dict[str, Path]:
    made = {client: directory / HOMES[client] for client in CLIENTS}
    for home in made.values():
        home.mkdir()
    return made


def test_without_a_daemon(homes: dict[str, Path]) -> None:
    answers = {client: play(client, "alone", home, home) for client, home in homes.items()}
    assert answers["holdfast"].splitlines() == answers["original"].splitlines()


@pytest.mark.parametrize(
    "answer",
    [granted, refused(-28), refused(-243), refused(-999), closed],
    ids=["0", "-28", "-243", "-999", "EOF"],
)
def test_same_requests(homes: dict[str, Path], answer: Answer) -> None:
    answers, requests = {}, {}
    for client, home in homes.items():
        with scripted(home / "run", answer) as daemon:
            answers[client] = play(client, "alone", home, home / "run")
            requests[client] = [bytes(request) for request in daemon.requests]
    if answer is closed:
        # A registered connection is ended once it is out of step; the original leaves it so.
        again = answers["holdfast"].replace("Broken pipe", "Operation not permitted").replace("(32,", "(1,")
        answers["holdfast"] = again
    else:
        assert list(map(shown, requests["holdfast"])) == list(map(shown, requests["original"]))
    assert answers["holdfast"].splitlines() == answers["original"].splitlines()
    assert len(requests["holdfast"]) > 300


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(len(CLIENTS)) as executor:
        yield executor


@pytest.mark.parametrize("daemon", CLIENTS)
def test_a_whole_session(homes: dict[str, Path], daemon: str, pool: ThreadPoolExecutor) -> None:
    command = REAL if daemon == "original" else our_command()

    def session(client: str) -> str:
        with running(command, homes[client], "samename") as host:
            return play(client, "session", homes[client], host.run_dir)

    answers = dict(zip(CLIENTS, pool.map(session, CLIENTS), strict=True))
    assert answers["holdfast"].splitlines() == answers["original"].splitlines()
    assert "Traceback" not in answers["original"]


def test_the_original_is_not_shadowed(directory: Path) -> None:
    """Debian's scripts keep the original binding while our sources are on their path."""
    done = subprocess.run(
        [DEBIAN_PYTHON, "-I", "-c", "import sanlock; print(sanlock.__file__)"],
        stdout=subprocess.PIPE,
        env=dict(os.environ, PYTHONPATH=str(SOURCES)),
        text=True,
        check=True,
    )
    assert done.stdout.endswith(".so\n")
