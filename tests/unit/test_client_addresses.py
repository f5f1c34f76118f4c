"""Addresses as people write them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from holdfast.client import locations
from holdfast.client.addresses import AddressError, IndexAddress, LeaseAddress, SpaceAddress
from holdfast.client.connection import connect
from holdfast.client.errors import DaemonUnreachable
from holdfast.leased import wire


def test_a_lease_by_name() -> None:
    lease = LeaseAddress.parse("web:primary")
    assert (lease.space, lease.resource, lease.disks) == ("web", "primary", ())
    assert str(lease) == "web:primary"


def test_a_path_with_colons_and_backslashes() -> None:
    lease = LeaseAddress.parse(r"web:p:/dev/disk\:by\\path:3M")
    assert lease.disks == (wire.Disk("/dev/disk:by\\path", 3 << 20),)


def test_several_disks_and_a_version() -> None:
    lease = LeaseAddress.parse("s:r:/a:0:/b:1048576:7")
    assert lease.disks == (wire.Disk("/a", 0), wire.Disk("/b", 1 << 20))
    assert lease.lver == 7
    sent = lease.to_wire(shared=True)
    assert sent.flags == wire.RES_LVER | wire.RES_SHARED
    assert (sent.lver, sent.num_disks) == (7, 2)


def test_shared_as_the_original_writes_it() -> None:
    assert LeaseAddress.parse("s:r:/a:0:SH").shared


@pytest.mark.parametrize(
    "text",
    [
        "",
        "web",
        ":r",
        "s:",
        "s:r:/a",
        "s:r:/a:x",
        "s:r:/a:-1",
        "s:r::0",
        "s:r:/a:0:/b:0:/c:0:/d:0:/e:0",
        "s" * 49 + ":r",
        "s:" + "ä" * 25,
        "s:r:/a:0:-1",
        "s:r\0:/a:0",
        "s:r:" + "/x" * 600 + ":0",
        "s:r:/a:99999999999999999999",
    ],
)
def test_wrong_leases_are_refused_with_the_way_to_write_them(text: str) -> None:
    with pytest.raises(AddressError, match="write SPACE:RESOURCE") as caught:
        LeaseAddress.parse(text)
    assert caught.value.code == -22


def test_a_lockspace_with_all_parts_and_with_few() -> None:
    assert SpaceAddress.parse(r"s:3:/a\:b:1M") == SpaceAddress("s", 3, "/a:b", 1 << 20)
    assert SpaceAddress.parse("s::/a") == SpaceAddress("s", 0, "/a", 0)
    assert SpaceAddress.parse("s", need_path=False).path == ""
    assert str(SpaceAddress("s", 3, "/a:b", 0)) == r"s:3:/a\:b:0"


@pytest.mark.parametrize("text", ["s", "s:x:/a:0", "s:-1:/a:0", "s:1:/a:0:0", "s:1:/a:zero", ":1:/a:0"])
def test_wrong_lockspaces(text: str) -> None:
    with pytest.raises(AddressError, match="HOST_ID"):
        SpaceAddress.parse(text)


def test_what_is_no_number_is_said_in_words() -> None:
    with pytest.raises(AddressError, match="host id 'x' is not a number"):
        SpaceAddress.parse("s:x:/a:0")
    with pytest.raises(AddressError, match="offset 'x' is not a number"):
        LeaseAddress.parse("s:r:/a:xM")
    with pytest.raises(AddressError, match="lease version 'x' is not a number"):
        LeaseAddress.parse("s:r:/a:0:x")


def test_an_index() -> None:
    assert IndexAddress.parse("s:/a:1M") == IndexAddress("s", "/a", 1 << 20)
    with pytest.raises(AddressError):
        IndexAddress.parse("s:/a")


def test_where_the_socket_is_looked_for() -> None:
    assert str(locations.run_dir({"SANLOCK_RUN_DIR": "/x"}, 1000)) == "/x"
    assert str(locations.run_dir({}, 0)) == "/run/sanlock"
    assert str(locations.run_dir({"XDG_RUNTIME_DIR": "/run/user/1000"}, 1000)) == "/run/user/1000/holdfast"
    assert str(locations.run_dir({}, 1000)) == "/tmp/holdfast-1000"


def test_a_place_below_tmp_that_another_user_made_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, me = tmp_path / "place", os.geteuid()
    monkeypatch.setattr(locations, "_in_tmp", lambda user: place)
    assert not locations.is_somebody_elses(place)
    place.mkdir()
    assert not locations.is_somebody_elses(place)
    assert locations.is_somebody_elses(place, me + 1)
    assert not locations.is_somebody_elses(tmp_path, me + 1)
    monkeypatch.setattr(locations, "is_somebody_elses", lambda directory: str(directory) == str(place))
    with pytest.raises(DaemonUnreachable, match="belongs to another user"):
        asyncio.run(connect(place))
    with pytest.raises(DaemonUnreachable, match="no lease daemon answers"):
        asyncio.run(connect(tmp_path))


def test_where_lease_files_are_kept() -> None:
    assert str(locations.space_file("web", {}, 0)) == "/var/lib/holdfast/web.lease"
    assert str(locations.space_file("web", {"XDG_STATE_HOME": "/s"}, 1)) == "/s/holdfast/web.lease"
    assert str(locations.space_file("web", {"HOME": "/h"}, 1)) == "/h/.local/state/holdfast/web.lease"
    for name in ("../x", "..", "a/b"):
        with pytest.raises(ValueError, match="--space-path"):
            locations.space_file(name, {}, 0)
