"""Every command, right and wrong, at both daemons: equal but for what `on_purpose` lists.

Each story is played against a pair of daemons of its own; all stories run beside one another and beside the other
tests. A difference that is not listed fails, and so does a listed one that has gone.
"""

from __future__ import annotations

import difflib
import grp
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.interop import (
    raw_calls,
    scenes_index,
    scenes_leases,
    scenes_spaces,
    scenes_storage,
)
from tests.interop.conftest import Command, our_command, private_directory
from tests.interop.hosts import OURS, REAL, running
from tests.interop.on_purpose import DIFFERENCES, Difference
from tests.interop.transcript import Transcript

Scene = Callable[[Transcript], None]

STORIES: dict[str, tuple[Scene, ...]] = {
    "blocked": (scenes_leases.blocked,),
    "spaces": (
        scenes_spaces.files,
        scenes_spaces.without_lockspace,
        scenes_spaces.refused,
        scenes_spaces.joining,
        scenes_spaces.events_and_config,
        scenes_spaces.leaving,
        scenes_spaces.forced_shutdown,
    ),
    "leases": (
        scenes_leases.setting,
        scenes_leases.exclusive,
        scenes_leases.commands,
        scenes_leases.other_pids,
        scenes_leases.shared,
        scenes_leases.two_local_readers_one_writer,
        scenes_leases.orphans,
        scenes_leases.orphans_of_nobody,
        scenes_leases.odd_paths,
        scenes_leases.too_many_hosts,
        scenes_leases.many_leases,
        scenes_leases.demands,
    ),
    "index": (
        scenes_index.setting,
        scenes_index.without_lockspace,
        scenes_index.with_lockspace,
        scenes_index.same_name_twice,
    ),
    "storage": (
        scenes_storage.lockspaces,
        scenes_storage.resources,
        scenes_storage.bad_storage,
        scenes_storage.odd_names,
        scenes_storage.several_disks,
    ),
    "direct": (scenes_storage.direct,),
    "undone": (scenes_spaces.undone,),
    "plain shutdown": (scenes_spaces.plain_shutdown,),
    "waiting shutdown": (scenes_spaces.waiting_shutdown,),
}
TWO_HOSTS = "two hosts"
RAW = tuple(f"raw {scene.__name__}" for scene in raw_calls.SCENES)
ALL = (*STORIES, TWO_HOSTS, *RAW)
AT_ONCE = 12
"""Daemons, with their clients, on what may be two cores."""
RAW_LIMIT_S = 120.0

ACTIONS = {
    "client": (
        *("status", "gets", "host_status", "renewal", "set_event", "set_config", "log_dump", "shutdown", "init"),
        *("read", "align", "add_lockspace", "inq_lockspace", "rem_lockspace", "command", "acquire", "convert"),
        *("release", "inquire", "request", "examine", "format", "create", "delete", "lookup", "update", "rebuild"),
        "version",
    ),
    "direct": (
        *("init", "read_leader", "write_leader", "dump", "next_free", "acquire", "release", "acquire_id"),
        *("release_id", "renew_id", "format", "lookup", "update", "rebuild"),
    ),
}
"""Spec section 17."""


def play(story: str, command: Command, home: Path) -> list[str]:
    """The record of one story at one kind of daemon."""
    files = home / "files"
    files.mkdir(parents=True)
    with ExitStack() as stack:
        host = stack.enter_context(running(command, home / "one", "samename"))
        transcript = Transcript(host, files)
        if story == TWO_HOSTS:
            other = stack.enter_context(running(command, home / "two", "othername"))
            scenes_leases.two_hosts(transcript, transcript.beside(other))
        elif story in RAW:
            play_raw(transcript, story.removeprefix("raw "))
        else:
            for scene in STORIES[story]:
                scene(transcript)
    return transcript.entries


def play_raw(transcript: Transcript, scene: str) -> None:
    """A scene of `raw_calls`, in a process that the daemon may kill."""
    socket_path = transcript.host.run_dir / "sanlock.sock"
    caller = subprocess.Popen(
        [sys.executable, raw_calls.__file__, str(socket_path), str(transcript.directory), scene],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
    )
    transcript.name(caller.pid, "caller")
    try:
        output = caller.communicate(timeout=RAW_LIMIT_S)[0]
    finally:
        caller.kill()
        caller.wait()
    assert caller.returncode == 0, output
    for block in re.split(r"^(?=# )", output, flags=re.M):
        transcript.record(block.rstrip())


def commands() -> tuple[Command, Command]:
    """Both daemons with the same settings where their defaults differ."""
    user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    ours = our_command()
    return (*REAL, "-U", user, "-G", group), (*ours, "--mlock-level", "0") if ours == OURS else ours


@pytest.fixture(scope="session")
def records(request: pytest.FixtureRequest) -> Iterator[dict[str, tuple[Future[list[str]], Future[list[str]]]]]:
    """The stories that were asked for: record at the original, record at ours."""
    wanted = {_story_of(item) for item in request.session.items}
    if any(item.name == "test_number_of_command_lines" for item in request.session.items):
        wanted |= set(ALL)
    with private_directory() as home, ThreadPoolExecutor(AT_ONCE) as pool:
        found = {}
        for number, story in enumerate(ALL):
            if story in wanted:
                first, second = (
                    pool.submit(play, story, command, home / kind / f"{number:02}")
                    for kind, command in zip(("real", "ours"), commands(), strict=True)
                )
                found[story] = first, second
        yield found


def _story_of(item: pytest.Item) -> str:
    """The parameter of `test_same`; empty for other tests."""
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("story", "")) if callspec else ""


def differing(real: list[str], ours: list[str]) -> list[Difference]:
    """Entries that differ, with the lines that only one of both has."""
    assert [entry.split("\n")[0] for entry in ours] == [entry.split("\n")[0] for entry in real]
    found = []
    for left, right in zip(real, ours, strict=True):
        if left != right:
            lines = list(difflib.ndiff(left.splitlines(), right.splitlines()))
            only = [tuple(line[2:] for line in lines if line.startswith(sign)) for sign in ("- ", "+ ")]
            found.append(Difference(left.split("\n")[0], "", only[0], only[1]))
    return found


@pytest.mark.parametrize("story", ALL)
def test_same(records: dict[str, tuple[Future[list[str]], Future[list[str]]]], story: str) -> None:
    real, ours = (future.result() for future in records[story])
    expected = [difference._replace(row="") for difference in DIFFERENCES.get(story, ())]
    assert differing(real, ours) == expected


def test_number_of_command_lines(records: dict[str, tuple[Future[list[str]], Future[list[str]]]]) -> None:
    asked = [entry.split("\n")[0] for real, _ in records.values() for entry in real.result()]
    lines = {line for line in asked if line.startswith("$ sanlock ")}
    assert len(lines) >= 500
    assert len({line for line in asked if line.startswith("# ")}) >= 250
    used = {tuple(line.split()[2:4]) for line in lines}
    assert not {(kind, action) for kind, actions in ACTIONS.items() for action in actions} - used


def test_each_difference_has_its_row() -> None:
    """What differs on purpose is in docs/compatibility.md, in the first column of a table."""
    text = Path(__file__).parents[2].joinpath("docs/compatibility.md").read_text()
    rows = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")}
    assert not {difference.row for story in DIFFERENCES.values() for difference in story} - rows
    assert not set(DIFFERENCES) - set(ALL)
