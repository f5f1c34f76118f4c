"""Who holds a lease, since when, until when at least: the estimate, the fake daemon, storage alone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from holdfast.cli.lease_who import describe
from holdfast.cli.main import main
from holdfast.client.addresses import LeaseAddress
from holdfast.client.holders import Age, Holder, HostView, Life, Takeover, life_after_silence
from holdfast.client.registration import Registration
from holdfast.client.who import from_storage
from holdfast.lease.errors import LeaseError
from holdfast.lease.format import init_lockspace, init_resource
from holdfast.lease.rindex import format_index, set_entry
from holdfast.leased import wire
from holdfast.storage import close_disk, close_storage, open_disk
from holdfast.testing.fake_daemon import FakeDaemon
from holdfast.testing.fake_storage import FakeHost
from tests.unit.cli_harness import LEASE, PATH, Say, with_cli

FIRE = 60
MIB = 1 << 20


def host(life: Life = Life.LIVE, silent_s: float | None = 3.0, **changes: object) -> HostView:
    values: dict[str, object] = {
        "host_id": 2,
        "name": "beta",
        "generation": 5,
        "timestamp": 1000,
        "io_timeout": 10,
        "life": life,
        "silent_s": silent_s,
        "look_interval_s": 20.0,
    }
    return HostView(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("holder", "since"),
    [
        # Taken 100 s before the renewal that was seen 3 s ago, at most 20 s after it had happened.
        (Holder(host(), 5, False, 900), Age(113, 11)),
        # Taken after that renewal: younger than its sighting.
        (Holder(host(), 5, False, 1010), Age(11.5, 12.5)),
        (Holder(host(), 4, False, 900), None),  # another life of that host: its clock may be another
        (Holder(host(silent_s=None), 5, False, 900), None),
        (Holder(host(watched_only=True), 5, False, 900), None),
        (Holder(host(), 5, True, 0), None),
        (Holder(host(clock_now=1007), 5, False, 900, own_host=True), Age(107, 1)),
    ],
)
def test_since(holder: Holder, since: Age | None) -> None:
    assert holder.since == since


@pytest.mark.parametrize(
    ("holder", "takeover"),
    [
        (Holder(host(), 5, False, 900), Takeover(137, conditional=True)),
        (Holder(host(Life.FAIL, 90.0), 5, False, 900), Takeover(50, conditional=True)),
        (Holder(host(Life.DEAD, 200.0), 5, False, 900), Takeover(0)),
        (Holder(host(Life.FREE), 5, False, 900), Takeover(0, stale=True)),
        (Holder(host(), 4, False, 900), Takeover(0, stale=True)),  # it has come back since
        (Holder(host(Life.UNKNOWN, None), 5, False, 900), Takeover(140, conditional=True, newcomer=True)),
        (
            Holder(host(Life.UNKNOWN, 30.0, watched_only=True), 5, False, 900),
            Takeover(110, conditional=True, newcomer=True),
        ),
        (Holder(HostView(2), 5, False, 900), Takeover(None, conditional=True)),
    ],
)
def test_takeover(holder: Holder, takeover: Takeover) -> None:
    assert holder.takeover(FIRE) == takeover
    text = "\n".join(describe(holder, FIRE, 1_700_000_000.0))
    assert "host 2" in text
    assert "takeover" in text


def test_silence_proves_death_only_after_the_dead_time() -> None:
    assert life_after_silence(10, 80, FIRE) is Life.UNKNOWN
    assert life_after_silence(10, 81, FIRE) is Life.FAIL
    assert life_after_silence(10, 141, FIRE) is Life.FAIL
    assert life_after_silence(10, 141.1, FIRE) is Life.DEAD


def test_who_with_a_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def body(daemon: FakeDaemon, say: Say) -> None:
        assert await say("lease", "who", "web:primary") == 3
        assert "free, version 0" in capsys.readouterr().out
        async with await Registration.open(daemon.run_dir) as registration:
            await registration.acquire(LEASE, owner_name="server")
            assert await say("lease", "who", "web:primary", "--json") == 0
            document = json.loads(capsys.readouterr().out)
            holder = document["holders"][0]
            assert (document["mode"], document["source"]) == ("exclusive", "daemon")
            assert (holder["host_id"], holder["name"], holder["this_host"]) == (3, "fake", True)
            assert holder["processes"][0]["name"] == "server"
            assert holder["since"]["s"] >= 0
            assert holder["takeover"]["only_if_silent"] is True
            assert await say("lease", "who", "web:primary") == 0
            assert "(server)" in capsys.readouterr().out
        await daemon.until(lambda: not daemon.registered_pids())
        resource = daemon.storage.resources[PATH, 3 * MIB]
        resource.shared = {3: 1, 7: 2}
        hosts = daemon.storage.spaces[PATH, 0].hosts
        hosts[7] = FakeHost("beta\x1b", 2, 500, wire.HOST_FAIL, 20)
        assert await say("lease", "who", "web:primary") == 0
        text = capsys.readouterr().out
        assert "shared, version 1" in text
        assert "host 7 (beta\\x1b)" in text
        assert "FAIL" in text
        assert "\x1b" not in text
        assert await say("lease", "who", f"web:primary:{PATH}:3M", "--json") == 0
        document = json.loads(capsys.readouterr().out)
        assert [holder["state"] for holder in document["holders"]] == ["LIVE", "FAIL"]
        assert 0 <= document["holders"][1]["takeover"]["in_s"] <= 48
        hosts[7] = FakeHost("beta", 3, 500)
        assert await say("lease", "who", "web:primary", "--json") == 0
        assert json.loads(capsys.readouterr().out)["holders"][1]["takeover"]["stale"] is True
        # Not joined: owners are known, nothing about them.
        assert await say("lease", "remove", "web") == 0
        capsys.readouterr()
        assert await say("lease", "who", f"web:primary:{PATH}:3M", "--json") == 0
        holder = json.loads(capsys.readouterr().out)["holders"][0]
        assert (holder["state"], holder["takeover"]["in_s"]) == ("UNKNOWN", None)

    with_cli(tmp_path, body)


async def make_storage(path: Path) -> None:
    """A lockspace `web` with an index and the free resource `primary`."""
    path.touch()
    disk = await open_disk(str(path), timeout_s=10)
    try:
        await init_lockspace(disk, 0, "web", io_timeout=1)
        await format_index(disk, MIB, "web", None, 0)
        await init_resource(disk, 3 * MIB, "web", "primary")
        await set_entry(disk, MIB, "web", "primary", 3 * MIB)
    finally:
        close_disk(disk)


async def write_records(path: Path, timestamp: int, owner: bool = True) -> None:
    """Host 2's renewal, and its hold of the lease, as its daemon would write them."""
    from holdfast.lease.records import decode_leader, whole_sector

    disk = await open_disk(str(path), timeout_s=10)
    try:
        record = decode_leader(await disk.read(512, 512, 10))
        record = record._replace(owner_id=2, owner_generation=5, timestamp=timestamp, resource_name="beta")
        await disk.write(512, whole_sector(record.encode(), 512), 10)
        if owner:
            leader = decode_leader(await disk.read(3 * MIB, 512, 10))
            leader = leader._replace(owner_id=2, owner_generation=5, lver=8, timestamp=900)
            await disk.write(3 * MIB, whole_sector(leader.encode(), 512), 10)
    finally:
        close_disk(disk)


def test_who_from_storage_alone(tmp_path: Path) -> None:
    path = tmp_path / "leases"
    lease = LeaseAddress("web", "primary")

    async def go() -> None:
        await make_storage(path)
        assert (await from_storage(lease, str(path))).mode == "free"
        await write_records(path, 1000)
        found = await from_storage(lease, str(path))
        holder = found.holders[0]
        assert (found.lver, found.offset, holder.host.name) == (8, 3 * MIB, "beta")
        assert (holder.host.life, holder.host.silent_s, holder.since) == (Life.UNKNOWN, None, None)

        renewed = False

        def on_look(_: float) -> None:
            nonlocal renewed
            if not renewed:
                renewed = True
                tasks.append(asyncio.ensure_future(write_records(path, 1002, owner=False)))

        tasks: list[asyncio.Future[None]] = []
        found = await from_storage(lease, str(path), watch_s=30, on_look=on_look)
        await asyncio.gather(*tasks)
        holder = found.holders[0]
        assert holder.host.life is Life.LIVE
        assert holder.since is not None
        assert holder.since.seconds >= 102
        # Nobody renews now: nothing is proven by so short a silence.
        found = await from_storage(lease, str(path), watch_s=0.6)
        assert found.holders[0].host.watched_only
        assert found.holders[0].host.life is Life.UNKNOWN
        placed = LeaseAddress("web", "primary", (wire.Disk(str(path), 3 * MIB),))
        assert (await from_storage(placed, str(path))).lver == 8
        with pytest.raises(LeaseError):
            await from_storage(LeaseAddress("web", "other"), str(path))
        close_storage()

    asyncio.run(go())


def test_who_command_from_storage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "leases"

    async def prepare() -> None:
        await make_storage(path)
        await write_records(path, 1000)
        close_storage()

    asyncio.run(prepare())
    assert main(["lease", "who", "web:primary", "--path", str(path)]) == 0
    text = capsys.readouterr().out
    assert "whether a host lives shows only in its renewals" in text
    assert "8 x 1 s + 60 s" in text
    assert (
        main(["lease", "who", "web:primary", "--path", str(path), "--watchdog-fire-timeout", "30", "--json"]) == 0
    )
    document = json.loads(capsys.readouterr().out)
    assert document["source"] == "storage"
    assert document["holders"][0]["takeover"]["in_s"] == 38
    assert main(["lease", "who", "web:nope", "--path", str(path)]) == 1
    assert "holdfast lease index list" in capsys.readouterr().err
    assert main(["lease", "who", "web:primary", "--path", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
