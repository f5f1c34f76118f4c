"""Recorded outcomes of SG_IO lead to the recorded state, message and number of commands."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from holdfast.path.checkers.base import CheckResult
from holdfast.path.checkers.readsector0 import check_readsector0
from holdfast.path.checkers.tur import check_tur
from holdfast.path.sg import SgAnswer, SgCommand, encode_header, run_exchange

FOLDER = Path(__file__).parent / "path"
RELEASE = "0.14.3"
"""Where the releases differ (tur: 02/04/0A, 05/25/00), ours decides as the later one."""

VECTORS = [
    json.loads(line)
    for name in ("tur-sense.jsonl", "readsector0.jsonl")
    for line in (FOLDER / name).read_text().splitlines()
]


class Device:
    """Answers as the vector says, and keeps the commands."""

    def __init__(self, vector: dict[str, Any]) -> None:
        self.vector = vector
        self.commands: list[SgCommand] = []

    def execute(self, command: SgCommand) -> SgAnswer:
        self.commands.append(command)
        vector = self.vector
        if vector["errno"]:
            return SgAnswer(errno=vector["errno"])
        told = vector
        if "then" in vector and len(self.commands) > vector["after_calls"]:
            told = {"driver_status": 8 if vector["then"]["sense"] else 0, **vector["then"]}
        return SgAnswer(
            status=told["status"],
            host_status=told["host_status"],
            driver_status=told["driver_status"],
            sense=bytes.fromhex(told["sense"]),
            info=int(bool(told["status"] or told["host_status"] or told["driver_status"])),
        )


@pytest.mark.parametrize("vector", VECTORS, ids=[f"{v['checker']}-{v['name']}" for v in VECTORS])
def test_outcome(vector: dict[str, Any]) -> None:
    device = Device(vector)
    exchange = check_tur(30000) if vector["checker"] == "tur" else check_readsector0(30000, 4096)
    result: CheckResult = run_exchange(exchange, device.execute)
    expected = vector["expected"][RELEASE]
    assert (result.state.word, int(result.state)) == (expected["state"], expected["state_number"])
    assert result.message == expected["message"]
    assert len(device.commands) == expected["sg_io_calls"]
    assert device.commands[0].cdb.hex() == vector["cdb"]
    header = encode_header(device.commands[0], 1, 2, 3)
    fields = struct.unpack("=IiBBHIQQQIIi", header[:52])
    hdr = vector["hdr"]
    assert fields[0] == hdr["interface_id"]
    assert fields[1] == hdr["dxfer_direction"]
    assert fields[2] == hdr["cmd_len"]
    assert fields[3] == hdr["mx_sb_len"]
    assert fields[5] == hdr["dxfer_len"]
    assert fields[9] == hdr["timeout"]
    assert (fields[10], fields[11]) == (hdr["flags"], hdr["pack_id"])
