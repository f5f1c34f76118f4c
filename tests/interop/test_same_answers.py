"""The real command line and client library get the same answers from our daemon as from the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.interop.conftest import our_command, private_directory
from tests.interop.hosts import REAL, Host, running
from tests.interop.same_calls import SCENES
from tests.interop.transcript import Transcript

LIBRARY_CALLS = Path(__file__).with_name("library_calls.py")
LIBRARY_LIMIT_S = 120.0


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Transcript, Transcript]]:
    """Both daemons under the same host name, each with a directory whose name is as long as the other's."""
    with private_directory() as home:
        homes = home / "real", home / "ours"
        with running(REAL, homes[0], "samename") as real, running(our_command(), homes[1], "samename") as ours:
            files = [path / "files" for path in homes]
            for path in files:
                path.mkdir()
            yield Transcript(real, files[0]), Transcript(ours, files[1])


def both(pair: tuple[Transcript, Transcript], scene: Callable[[Transcript], None]) -> tuple[list[str], list[str]]:
    """Play `scene` against both at the same time; what each answered."""
    for transcript in pair:
        transcript.entries.clear()
    with ThreadPoolExecutor(2) as pool:
        for result in [pool.submit(scene, transcript) for transcript in pair]:
            result.result()
    return pair[0].entries, pair[1].entries


# The scenes build on one another: one test per scene, in this order.
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_command_line(pair: tuple[Transcript, Transcript], scene: Callable[[Transcript], None]) -> None:
    real, ours = both(pair, scene)
    assert "\n".join(ours) == "\n".join(real)


def test_client_library(pair: tuple[Transcript, Transcript]) -> None:
    def scene(transcript: Transcript) -> None:
        transcript.file("py", 4)
        transcript.record(_output(transcript.host, transcript.directory))

    real, ours = both(pair, scene)
    assert "\n".join(ours) == "\n".join(real)
    assert "Traceback" not in real[0]


def _output(host: Host, directory: Path) -> str:
    script = host.start_script(LIBRARY_CALLS, str(directory))
    return script.communicate(timeout=LIBRARY_LIMIT_S)[0].decode(errors="backslashreplace")
