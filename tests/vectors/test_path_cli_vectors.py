"""Recorded sessions with multipathd 0.9.4 and 0.14.3 on the CLI socket, replayed on our server byte by byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.path_control_lab import Lab, laboratory
from tests.vectors.path_cli_world import RecordedOperations, World

from holdfast.path.control.grammar import CommandError, Grammar, Request
from holdfast.path.control.rows import GroupRow, MapRow, PathRow
from holdfast.path.keywords import OLD, RELEASES, Release

FOLDER = Path(__file__).parent / "path"
SESSIONS = (
    "cli-alua-flapping-0.9.4",
    "cli-alua-groups-0.9.4",
    "cli-core-0.14.3",
    "cli-core-0.9.4",
    "cli-directio-hang-0.14.3",
    "cli-directio-hang-0.9.4",
)
TEXTS_OF_OTHERS = ("show config", "show config local", "show blacklist")
"""Made by other modules, and compared with these recordings in test_path_conf_vectors.py; passed on."""
TRUNCATED = {("cli-alua-groups-0.9.4", "show config")}
"""Only the beginning was recorded."""
SHORT_TIMEOUT_S = 0.05


def session(name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Requests with what came back."""
    lines = [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]
    pairs = list(zip(lines[::2], lines[1::2], strict=True))
    assert all(one["dir"] == "c>d" and other["dir"] == "d>c" for one, other in pairs)
    return pairs


def two_luns(checker: str, release: Release) -> World:
    """Two logical units with two paths each."""
    paths = {}
    for number, (dev, hcil) in enumerate(zip("abcd", ("0:0:0:0", "0:0:0:1", "1:0:0:0", "1:0:0:1"), strict=True)):
        letter = "ab"[number % 2]
        paths[f"sd{dev}"] = PathRow(
            dev=f"sd{dev}",
            dev_t=f"8:{16 * number}",
            wwid=f"35000c50015ea71{letter * 2}",
            hcil=hcil,
            dm_state="active",
            state=3,
            vendor="HOLDFAST",
            product="TESTDISK",
            revision="2.5+",
            checker=checker,
            priority=1,
            size=131072,
            serial=f"LUN{letter.upper()}",
            map_name=f"mpath{letter}",
            protocol="scsi:unspec",
            lun=number % 2,
            max_sectors_kb=1280,
        )
    maps = {
        f"mpath{letter}": MapRow(
            name=f"mpath{letter}",
            wwid=f"35000c50015ea71{letter * 2}",
            sysfs=f"dm-{number}",
            failback=-1,
            no_path_retry=4,
            queues=True,
            active_paths=2,
            size=131072,
            features="1 queue_if_no_path",
            vendor="HOLDFAST",
            product="TESTDISK",
            revision="2.5+",
            groups=(
                GroupRow(
                    "service-time 0",
                    1,
                    "enabled",
                    paths=tuple(row for row in paths.values() if row.map_name == f"mpath{letter}"),
                ),
            ),
        )
        for number, letter in enumerate("ab")
    }
    return World(paths, maps, release)


def four_ports(failback: int, no_path_retry: int) -> World:
    """One logical unit behind four ports with ALUA."""
    paths = {
        f"sd{dev}": PathRow(
            dev=f"sd{dev}",
            dev_t=f"8:{16 * number}",
            wwid="1Linux_scsi_debug_2000",
            hcil=f"{2 + number}:0:0:0",
            dm_state="active",
            state=3,
            vendor="Linux",
            product="scsi_debug",
            revision="0191",
            checker="tur",
            priority=1,
            size=131072,
            serial="2000",
            map_name="mpatha",
            protocol="scsi:unspec",
            lun=0,
        )
        for number, dev in enumerate("abcd")
    }
    row = MapRow(
        name="mpatha",
        wwid="1Linux_scsi_debug_2000",
        sysfs="dm-0",
        failback=failback,
        no_path_retry=no_path_retry,
        active_paths=4,
        size=131072,
        features="0",
        hw_handler="1 alua",
        map_loads=1,
        vendor="Linux",
        product="scsi_debug",
        revision="0191",
    )
    return World(paths, {"mpatha": row}, OLD)


def world_of(name: str) -> World:
    if "alua-groups" in name:
        return four_ports(failback=0, no_path_retry=0)
    if "alua-flapping" in name:
        return four_ports(failback=-1, no_path_retry=4)
    return two_luns("directio" if "directio" in name else "tur", RELEASES[name.rpartition("-")[2]])


def request_in(raw: bytes, release: Release) -> Request | None:
    """What the bytes of a frame ask for; None for what is no command."""
    try:
        return Grammar(release).parse(raw[8:].partition(b"\0")[0]) if len(raw) > 8 else None
    except CommandError:
        return None


@pytest.mark.parametrize("name", SESSIONS)
def test_session(name: str) -> None:
    release = RELEASES[name.rpartition("-")[2]]
    world = world_of(name)
    operations = RecordedOperations(world)

    async def replay() -> int:
        async with laboratory(operations, release) as lab:
            return await replay_in(lab, name, release)

    compared = asyncio.run(replay())
    assert compared == len(session(name)) - len([one for one in TRUNCATED if one[0] == name])


async def replay_in(lab: Lab, name: str, release: Release) -> int:
    operations = lab.operations
    assert isinstance(operations, RecordedOperations)
    peer = await lab.connect()
    compared = 0
    for number, (sent, came) in enumerate(session(name)):
        raw = bytes.fromhex(sent["hex"])
        if (name, sent.get("note")) in TRUNCATED:
            assert came["text_truncated"]
            continue
        request = request_in(raw, release)
        expected = bytes.fromhex(came.get("hex", ""))
        if request is not None and expected:
            operations.expect(request, came["text"])
        is_incomplete = sent.get("note", "").startswith("length 12 but 4 bytes only")
        # Asked for afresh: a snapshot may serve for a while, but these are minutes apart.
        lab.server._commands.changed()
        lab.server.timeout_s = SHORT_TIMEOUT_S if is_incomplete else 60.0
        await peer.send(raw)
        where = f"{name} line {2 * number + 2}: {sent.get('note')}"
        if expected:
            assert (await peer.reply()).decode() == expected[8:-1].decode(), where
        else:
            assert await peer.is_closed(), where
            peer = await lab.connect()
        compared += 1
    return compared


def test_syntax() -> None:
    """Random lines and what the real 0.9.4 answered: which error, or (None) that it is a command."""
    grammar = Grammar(OLD)
    for text in (FOLDER / "cli-grammar-0.9.4.jsonl").read_text().splitlines():
        vector = json.loads(text)
        found: str | None = None
        try:
            grammar.parse(vector["line"].encode())
        except CommandError as error:
            found = error.reply.removeprefix(f"{vector['line']}: ").partition("\n")[0]
        assert found == vector["error"], vector["line"]


def every_reply() -> Iterator[tuple[str, str]]:
    for name in SESSIONS:
        for sent, _ in session(name):
            yield name, sent.get("note") or ""


def test_what_is_passed_on_is_little() -> None:
    passed_on = [one for one in every_reply() if one[1] in TEXTS_OF_OTHERS]
    assert len(passed_on) <= 8
