"""Images to dump, and what `sanlock direct dump` and `read_leader` of 3.8.5 print for them.

`dump_golden.json` was recorded by `python -m tests.vectors.dump_cases record` on a machine with the Debian package
sanlock; the interop tests compare it with the program again.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.vectors.disk_vectors import image, names

from holdfast.lease.format import delta_record
from holdfast.lease.geometry import MIB, SMALL
from holdfast.lease.records import HostBlock, Request, decode_leader, encode_bitmap

GOLDEN = Path(__file__).parent / "dump_golden.json"

WHOLE_DEVICE = [
    "ls_three_live_hosts",
    "rindex_512_1m",
    "rindex_lease_512_1m",
    "res_owned_with_request",
    "res_shared_three",
    "crash_short_hold",
    "res_cleared",
    "res_released",
    "names_48",
    "res_contended",
    "crash_sh_mode_written_next",
    "ls_dead_host_retaken",
]


class Case(NamedTuple):
    """One dump: `detail` is -f, offset and size in bytes."""

    image: str
    detail: int
    offset: int = 0
    size: int = 0

    @property
    def name(self) -> str:
        return f"{self.image}+{self.offset}+{self.size}-f{self.detail}"


def odd_lockspace() -> bytes:
    """Records as nobody should write them, and some notification bits."""
    area = bytearray(MIB)
    empty = delta_record("odd", SMALL, 10)
    used = empty._replace(owner_generation=3, timestamp=7)
    for index, record in {
        0: empty._replace(timestamp=5),
        1: used._replace(magic=0, owner_id=2, resource_name="no magic"),
        2: used._replace(version=0x990000, owner_id=3, resource_name="other version"),
        3: used._replace(owner_id=4, space_name="other space", resource_name="h" * 48),
        4: used._replace(owner_id=5, timestamp=123456789012, resource_name="bits"),
        5: used._replace(owner_id=77777, owner_generation=99999, resource_name="large"),
        6: used._replace(owner_id=7, owner_generation=0, timestamp=0),
        7: used._replace(owner_id=0, timestamp=0, resource_name="generation only"),
        8: used._replace(owner_id=9, flags=0x110, resource_name="unknown flags"),
        2010: used._replace(owner_id=2011, resource_name="beyond the last host"),
    }.items():
        area[index * 512 : index * 512 + 200] = record.encode()
    area[4 * 512 + 256 : 5 * 512] = encode_bitmap({1, 5, 8, 9, 2000})
    area[3 * 512 + 168] ^= 1
    return bytes(area)


def odd_resource() -> bytes:
    """Host blocks in all kinds of states, and one beyond num_hosts."""
    area = bytearray(image("res_owned_with_request"))
    area[:200] = decode_leader(bytes(area))._replace(num_hosts=12, resource_name="odd").encode()
    area[512:536] = Request(lver=9, force_mode=1).encode()
    for host_id, block in {
        1: HostBlock(mbal=1),
        2: HostBlock(bal=5),
        3: HostBlock(inp2=5, inp3=4),
        4: HostBlock(mbal=4, flags=1, mode_flags=3, mode_generation=7),
        5: HostBlock(mode_flags=2, mode_generation=7),
        6: HostBlock(flags=1),
        7: HostBlock(mode_flags=1),
        8: HostBlock(lver=3),
        9: HostBlock(inp=3),
        13: HostBlock(mbal=13, mode_flags=1, mode_generation=1),
    }.items():
        start = (host_id + 1) * 512
        area[start : start + 144] = block.encode()
    return bytes(area)


def build(name: str) -> bytes:
    """The bytes of an image."""
    match name:
        case "whole_device":
            return b"".join(map(image, WHOLE_DEVICE))
        case "other_sizes":
            # Sizes come from the first record: the rest is looked at in steps of them.
            return image("init_res_4096_2m") + image("ls_three_live_hosts") + image("res_shared_three")
        case "nothing":
            return bytes(3 * MIB)
        case "late":
            return bytes(3 * MIB) + image("res_shared_three") + bytes(MIB) + image("res_released")
        case "cut_off":
            return image("ls_three_live_hosts") + image("res_shared_three")[:5120]
        case "odd_lockspace":
            return odd_lockspace()
        case "odd_resource":
            return odd_resource()
        case _:
            return image(name)


def cases() -> list[Case]:
    found = [Case(name, 2) for name in names() if name not in _LARGE]
    for name in ("whole_device", "late", "odd_lockspace", "odd_resource"):
        found += [Case(name, detail) for detail in (0, 1, 2)]
    found += [Case("whole_device", detail, 0, 16 * MIB) for detail in (0, 2)]
    found += [
        Case("whole_device", 1, MIB, 2 * MIB),
        Case("whole_device", 1, 3 * MIB, 100),
        Case("whole_device", 0, 3 * MIB, 512),
        Case("whole_device", 0, 3 * MIB, MIB + 511),
        Case("whole_device", 0, 3 * MIB, MIB + 512),
        Case("whole_device", 1, 512),
        Case("whole_device", 1, 99 * MIB),
        Case("late", 0, 0, 3 * MIB),
        Case("late", 0, 0, 6 * MIB),
        Case("late", 0, 0, 7 * MIB),
        Case("late", 0, 3 * MIB),
        Case("other_sizes", 2, 0, 16 * MIB),
        Case("nothing", 1),
        Case("cut_off", 1),
    ]
    return found


_LARGE = {"init_res_4096_8m", "init_ls_4096_8m", "init_res_4096_4m", "init_ls_4096_4m"}
"""8 MiB of nothing: the smaller sizes show the same."""


def run_sanlock(directory: Path, case: Case) -> str:
    """What the real program prints."""
    path = directory / f"{case.image}.img"
    if not path.exists():
        path.write_bytes(build(case.image))
    where = f"{path}:{case.offset}" + (f":{case.size}" if case.size else "")
    done = subprocess.run(
        ["sanlock", "direct", "dump", where, "-f", str(case.detail)], capture_output=True, check=False, timeout=60
    )
    return done.stdout.decode("utf-8", "surrogateescape")


LEADERS = {
    "res_owned_with_request": "-r vector-ls:res1",
    "bad_leader_checksum": "-r vector-ls:res1",
    "bad_leader_version": "-r vector-ls:res1",
    "bad_leader_lockspace": "-r vector-ls:res1",
    "bad_leader_resource": "-r vector-ls:res1",
    "bad_leader_magic": "-r vector-ls:res1",
    "res_cleared": "-r X:bbb",
    "ls_dead_host_retaken": "-s L:2",
    "ls_bad_checksum_host3": "-s L:3",
    "ls_three_live_hosts": "-s vector-ls:2000",
}
"""Image and what to read of it: -r space:resource or -s space:host id."""


def run_read_leader(directory: Path, name: str) -> str:
    """What the real `read_leader` prints."""
    path = directory / f"{name}.img"
    if not path.exists():
        path.write_bytes(build(name))
    option, what = LEADERS[name].split()
    done = subprocess.run(
        ["sanlock", "direct", "read_leader", option, f"{what}:{path}:0"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    return done.stdout.decode("utf-8", "surrogateescape")


def golden() -> dict[str, dict[str, str]]:
    """Recorded outputs: `dump` by case name, `read_leader` by image."""
    recorded: dict[str, dict[str, str]] = json.loads(GOLDEN.read_text())
    return recorded


def record() -> None:
    with tempfile.TemporaryDirectory() as directory:
        outputs = {
            "dump": {case.name: run_sanlock(Path(directory), case) for case in cases()},
            "read_leader": {name: run_read_leader(Path(directory), name) for name in LEADERS},
        }
    GOLDEN.write_text(json.dumps(outputs, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__" and sys.argv[1:] == ["record"]:
    record()
