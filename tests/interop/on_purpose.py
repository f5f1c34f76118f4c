"""Where our daemon answers otherwise than the original, on purpose.

`row` names the line of docs/compatibility.md by its first column; `original` and `ours` are the lines of the
answer that only one of both gives. The order is that of the story.
"""

# Answers are longer than lines of code.
# ruff: noqa: E501

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """One answer that differs: the first line of its record, why, and the lines."""

    asked: str
    row: str
    original: tuple[str, ...]
    ours: tuple[str, ...]


DIFFERENCES: dict[str, tuple[Difference, ...]] = {
    "spaces": (
        Difference(
            "$ sanlock client status -D (daemon)",
            "STATUS of the daemon",
            (),
            ("    io_timeout=10", "    watchdog_fire_timeout=60"),
        ),
        Difference(
            "$ sanlock client status -D",
            "STATUS of the daemon",
            (),
            ("    io_timeout=10", "    watchdog_fire_timeout=60"),
        ),
    ),
    "leases": (
        Difference(
            "$ sanlock client convert -p <one> -r LS:R12:{d}/res:12M",
            "CONVERT to exclusive while other local clients hold it shared",
            ("convert done 0", "[0]"),
            ("convert done -11", "[1]"),
        ),
        Difference(
            "$ sanlock client release -O 1 -r LS:R0",
            "RELEASE with ORPHAN from an unregistered connection",
            ("release done -16",),
            ("release done 1",),
        ),
        Difference(
            "$ sanlock client release -p <last> -O 1 -s LS",
            "RELEASE with ORPHAN from an unregistered connection",
            ("release done 1", "[1]"),
            ("release done 0", "[0]"),
        ),
        Difference(
            "$ sanlock client inquire -p <holder>",
            "names of 48 bytes in INQUIRE",
            (
                '"LS:R14:{d}/res:14680064:1 LS:nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn\x01:{d}/co\\:lon:0:1"',
            ),
            ('"LS:R14:{d}/res:14680064:1 LS:nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn:{d}/co\\:lon:0:1"',),
        ),
        Difference(
            "$ sanlock client acquire -p <one> -n 3000 -r LS:R13:{d}/res:13M",
            "`NUM_HOSTS` above what the sizes allow",
            ("acquire done 0", "[0]"),
            ("acquire done -22", "[1]"),
        ),
    ),
    "index": (
        Difference(
            "$ sanlock client lookup -x LS:{d}/index:0 -e :1048576",
            "index: offset outside of its slots",
            ("lookup done 0", "name - offset 1048576", "[0]"),
            ("lookup done -277", "[1]"),
        ),
        Difference(
            "$ sanlock client create -x LS:{d}/index:0 -e a",
            "index: create with a name that exists",
            ("create_resource done 0", "offset 3145728", "[0]"),
            ("create_resource done -17", "[1]"),
        ),
    ),
    "storage": (
        Difference(
            "$ sanlock direct read_leader -r LS:N:{d}/res:0",
            "WRITE_RESOURCE with num_hosts only",
            ("num_hosts 2000", "checksum 0x25702853"),
            ("num_hosts 7", "checksum 0x850fb04"),
        ),
        Difference(
            "= res 0 1048576",
            "WRITE_RESOURCE with num_hosts only",
            ("1048576 3a1d50048539b17c91a432036420fc0e8b5600f25238052359526feba2a3e940",),
            ("1048576 960218e5d8edfdf3270a1f7c413b87bef3dec99b0a340dd7ccc2c36fc39610db",),
        ),
        Difference(
            "$ sanlock client read -r LS:R:{d}/res:513",
            "reading at an offset that is no multiple of the sector size",
            ("read error -223",),
            ("read error -22",),
        ),
        Difference(
            "$ sanlock client init -r LS:M:{d}/m0:0:{d}/m1:0",
            "lease on several disks",
            ("init done 0", "[0]"),
            ("init done -22", "[1]"),
        ),
        Difference(
            "$ sanlock client read -r LS:M:{d}/m0:0:{d}/m1:0",
            "lease on several disks",
            ("r LS:M:{d}/m0:0:{d}/m1:0:0", "[0]"),
            ("read error -22", "[1]"),
        ),
        Difference(
            "$ sanlock client read -r LS:M:{d}/m0:0:{d}/m1:0 -h 1",
            "lease on several disks",
            ("r LS:M:{d}/m0:0:{d}/m1:0:0", "[0]"),
            ("read error -22", "[1]"),
        ),
        Difference(
            "$ sanlock client init -r LS:M:{d}/m0:0:{d}/m1:0:{d}/m2:0",
            "lease on several disks",
            ("init done 0", "[0]"),
            ("init done -22", "[1]"),
        ),
        Difference(
            "$ sanlock client read -r LS:M:{d}/m0:0:{d}/m1:0:{d}/m2:0",
            "lease on several disks",
            ("r LS:M:{d}/m0:0:{d}/m1:0:{d}/m2:0:0", "[0]"),
            ("read error -22", "[1]"),
        ),
        Difference(
            "$ sanlock client read -r LS:M:{d}/m0:0:{d}/m1:0:{d}/m2:0 -h 1",
            "lease on several disks",
            ("r LS:M:{d}/m0:0:{d}/m1:0:{d}/m2:0:0", "[0]"),
            ("read error -22", "[1]"),
        ),
        Difference(
            "$ sanlock client init -r LS:M:{d}/m0:0:{d}/m1:0:{d}/m2:0:{d}/m3:0",
            "lease on several disks",
            ("init done 0", "[0]"),
            ("init done -22", "[1]"),
        ),
        Difference(
            "$ sanlock client read -r LS:M:{d}/m0:0:{d}/m1:0:{d}/m2:0:{d}/m3:0",
            "lease on several disks",
            ("r LS:M:{d}/m0:0:{d}/m1:0:{d}/m2:0:{d}/m3:0:0", "[0]"),
            ("read error -22", "[1]"),
        ),
        Difference(
            "$ sanlock client read -r LS:M:{d}/m0:0:{d}/m1:0:{d}/m2:0:{d}/m3:0 -h 1",
            "lease on several disks",
            ("r LS:M:{d}/m0:0:{d}/m1:0:{d}/m2:0:{d}/m3:0:0", "[0]"),
            ("read error -22", "[1]"),
        ),
    ),
    "raw leases": (
        Difference("# GET_LVB 513", "GET_LVB of more than a sector", ("0",), ("-7",)),
        Difference(
            "# STATUS clean",
            "mark of a changed LVB in STATUS",
            ("list=held flags=21 sector_size=512 align_size=1048576 lver=11 reused=N res_id=N token_id=N",),
            ("list=held flags=1 sector_size=512 align_size=1048576 lver=11 reused=N res_id=N token_id=N",),
        ),
    ),
    "raw adoption": (
        Difference(
            "# ACQUIRE ORPHAN_ONLY without one",
            "`ORPHAN_ONLY` without an orphan",
            ("Header(magic=0, version=1, cmd=7, cmd_flags=4, length=32, seq=0, data=0, data2=0)",),
            ("Header(magic=0, version=1, cmd=7, cmd_flags=4, length=32, seq=0, data=-2, data2=0)",),
        ),
    ),
    "raw index": (
        Difference(
            "# CREATE_RESOURCE without a name",
            "index: create without a name",
            (
                "Header(magic=0, version=1, cmd=38, cmd_flags=0, length=96, seq=0, data=0, data2=0)",
                "b\"<50 times b'\\\\x00'> \\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\"",
            ),
            (
                "Header(magic=0, version=1, cmd=38, cmd_flags=0, length=96, seq=0, data=-22, data2=0)",
                "b\"<64 times b'\\\\x00'>\"",
            ),
        ),
    ),
}
