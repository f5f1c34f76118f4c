"""WWIDs from VPD pages and the bytes of bindings, wwids and prkeys, as multipath-tools has them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.vectors.path_conf import HERE

from holdfast.path.bindings import Bindings, BindingsFile
from holdfast.path.prkeys import PrkeysFile, ReservationKey
from holdfast.path.wwid import VPD_SERIAL, WwidError, serial_of_page_80, wwid_of_page_83
from holdfast.path.wwids import WwidsFile

PAGES = [json.loads(line) for line in (HERE / "vpd.jsonl").read_text().splitlines()]
FILES = {one["file"]: one["bytes"] for one in map(json.loads, (HERE / "files.jsonl").read_text().splitlines())}
FIRST, SECOND = "35000c50015ea71aa", "35000c50015ea71bb"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page["name"])
def test_page(page: dict[str, Any]) -> None:
    data, wanted = bytes.fromhex(page["hex"]), page["expected"]["0.14.3"]
    if page["page"] == VPD_SERIAL:
        assert serial_of_page_80(data) == wanted["wwid"]
        return
    if wanted["result"] < 0:
        with pytest.raises(WwidError) as caught:
            wwid_of_page_83(data)
        assert (-caught.value.code, list(caught.value.remarks)) == (wanted["result"], page["diagnostics"])
        return
    chosen = wwid_of_page_83(data)
    assert (chosen.wwid, list(chosen.remarks)) == (wanted["wwid"], page["diagnostics"])
    # The original's length also counts what lies behind a NUL.
    assert len(chosen.wwid) <= wanted["result"]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page["page"] != VPD_SERIAL], ids=lambda page: page["name"]
)
def test_every_beginning_of_a_page(page: dict[str, Any]) -> None:
    data = bytes.fromhex(page["hex"])
    for length in range(len(data)):
        with contextlib.suppress(WwidError):
            assert len(wwid_of_page_83(data[:length]).wwid) <= 127


def test_bindings(tmp_path: Path) -> None:
    file = BindingsFile(str(tmp_path / "etc" / "bindings"))
    assert file.allocate([FIRST, SECOND], "mpath", lambda alias: False) == {FIRST: "mpatha", SECOND: "mpathb"}
    assert Path(file.path).read_text() == FILES["bindings"]
    assert file.allocate([SECOND], "mpath", lambda alias: False) == {SECOND: "mpathb"}
    assert Bindings.parse(FILES["bindings"]).render() == FILES["bindings"]


def test_wwids(tmp_path: Path) -> None:
    file = WwidsFile(str(tmp_path / "wwids"))
    assert [file.add(wwid) for wwid in (FIRST, SECOND, FIRST)] == [True, True, False]
    assert Path(file.path).read_text() == FILES["wwids"]
    assert file.load() == {FIRST, SECOND}


def test_prkeys(tmp_path: Path) -> None:
    file = PrkeysFile(str(tmp_path / "prkeys"))
    file.set(FIRST, ReservationKey(0x123ABC))
    file.set(FIRST, ReservationKey(0x123ABD, aptpl=True))
    assert file.load() == {FIRST: ReservationKey(0x123ABD, True)}
    assert file.unset(FIRST)
    assert Path(file.path).read_text() == FILES["prkeys"]
    assert file.load() == {}
    assert not file.unset(FIRST)
