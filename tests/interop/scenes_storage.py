"""Command lines about storage, with good and bad arguments: init, read, align, and the `direct` forms.

They need no lockspace. What one daemon wrote is also read by the original's own code (`sanlock direct`).
"""

from __future__ import annotations

import os

from tests.interop.transcript import MIB, Transcript

LONG = "n" * 48
SIZES = ("-Z 512 -A 1M", "-Z 4096 -A 1M", "-Z 4096 -A 2M", "-Z 4096 -A 4M", "-Z 4096 -A 8M")


def change(t: Transcript, name: str, offset: int, data: bytes) -> None:
    """Overwrite some bytes of a file."""
    with (t.directory / name).open("r+b") as file:
        file.seek(offset)
        file.write(data)


def lockspaces(t: Transcript) -> None:
    """Lockspaces: formatted with all sizes, read by name, by id, with details, by nobody's name."""
    t.file("ls", 40)
    t.cli("client init -s LS:0:{d}/ls:0")
    t.bytes_of("ls")
    for number, sizes in enumerate(SIZES):
        t.cli(f"client init -s L{number}:0:{{d}}/ls:{8 * number * MIB} -o {number + 1} {sizes}")
        t.bytes_of("ls", 8 * number * MIB, 8 * MIB)
        t.cli(f"client read -s L{number}:0:{{d}}/ls:{8 * number * MIB}")
        t.cli(f"client read -s L{number}:3:{{d}}/ls:{8 * number * MIB} -D")
        t.cli(f"client read -s L{number}:2000:{{d}}/ls:{8 * number * MIB} -D")
        t.cli(f"client read -s L{number}:1:{{d}}/ls:{8 * number * MIB} {sizes}")
        t.cli(f"client read -s L{number}:1:{{d}}/ls:{8 * number * MIB} -h 1")
        t.cli(f"direct read_leader -s L{number}:1:{{d}}/ls:{8 * number * MIB} {sizes}")
    t.cli("client read -s L0:0:{d}/ls:0 -Z 4096 -A 8M")
    t.cli("client read -s L4:0:{d}/ls:33554432 -Z 512 -A 1M")
    t.cli("client read -s L0:2001:{d}/ls:0")
    t.cli("client read -s L1:251:{d}/ls:8388608")
    t.cli("client read -s WRONG:0:{d}/ls:0")
    t.cli("client read -s :0:{d}/ls:0")
    t.cli("client read -s L0:0:{d}/ls:1M")
    t.cli("client read -s L0:0:{d}/ls:512")
    t.cli("client read -s L0:0:{d}/ls:41943040")
    t.cli("client read -s L0:0:{d}/ls:40894464")
    t.cli("client read -s L0:0:{d}/missing:0")
    t.cli("client read -s L0:0:{d}:0")
    t.cli("client read -s L0")
    t.cli("client read -s L0:0")
    t.cli(f"client init -s {LONG}:0:{{d}}/ls:0 -o 1")
    t.cli(f"client read -s {LONG}:0:{{d}}/ls:0")
    t.cli(f"client read -s {LONG}x:0:{{d}}/ls:0")
    t.cli(f"client read -s {LONG[1:]}:0:{{d}}/ls:0")
    t.cli("client init -s LS:0:{d}/ls:0 -Z 512 -A 8M")
    t.cli("client init -s LS:0:{d}/ls:0 -Z 512")
    t.cli("client init -s LS:0:{d}/ls:0 -A 1M")
    t.cli("client init -s LS:0:{d}/missing:0")
    t.cli("client init -s LS:0:{d}:0")
    t.cli("client init -s LS:5:{d}/ls:0")
    t.cli("client init -s LS:0::0")
    t.cli("client init")
    t.cli("client init -s LS:0:{d}/ls:0 -o 255")
    t.cli("client read -s LS:0:{d}/ls:0 -D")
    t.cli("client init -s LS:0:{d}/ls:0 -o 0")
    t.cli("client read -s LS:0:{d}/ls:0 -D")


def resources(t: Transcript) -> None:
    """Resources: all sizes, host counts, cleared ones, long names, places that do not fit."""
    t.file("res", 48)
    for number, sizes in enumerate(SIZES):
        where = f"{{d}}/res:{8 * number * MIB}"
        t.cli(f"client init -r LS:R{number}:{where} {sizes}")
        t.bytes_of("res", 8 * number * MIB, 8 * MIB)
        t.cli(f"client read -r LS:R{number}:{where}")
        t.cli(f"client read -r LS:R{number}:{where} -D")
        t.cli(f"client read -r LS:R{number}:{where} -h 1")
        t.cli(f"client read -r LS:R{number}:{where} -h 1 {sizes}")
        t.cli(f"direct read_leader -r LS:R{number}:{where} {sizes}")
    t.cli("client read -r LS:R0:{d}/res:0 -h 1 -Z 4096 -A 8M")
    t.cli("client read -r LS:R0:{d}/res:0 -Z 4096 -A 8M")
    t.cli("client read -r LS:R4:{d}/res:32M -Z 512 -A 1M")
    t.cli("client read -r LS:R4:{d}/res:32M -h 1 -Z 512 -A 1M")
    for hosts in ("-m 7", "-n 7", "-m 7 -n 9", "-m 1", "-m 2000", "-m 2001", "-m 0"):
        t.cli(f"client init -r LS:N:{{d}}/res:0 {hosts}")
        t.cli("direct read_leader -r LS:N:{d}/res:0")
        t.bytes_of("res")
    t.cli("client init -r LS:N:{d}/res:8M -Z 4096 -A 1M -m 251")
    t.cli("direct read_leader -r LS:N:{d}/res:8M -Z 4096 -A 1M")
    for value in ("1", "0"):
        t.cli(f"client init -r LS:Z:{{d}}/res:40M -z {value}")
        t.cli("client read -r LS:Z:{d}/res:40M")
        t.cli("client read -r LS:Z:{d}/res:40M -h 1")
        t.cli("direct read_leader -r LS:Z:{d}/res:40M")
    t.cli(f"client init -r {LONG}:{LONG}:{{d}}/res:40M")
    t.cli(f"client read -r {LONG}:{LONG}:{{d}}/res:40M")
    t.cli(f"client read -r {LONG}:{LONG[1:]}:{{d}}/res:40M")
    t.cli(f"client read -r {LONG[1:]}:{LONG}:{{d}}/res:40M")
    t.cli(f"client read -r {LONG}:{LONG}x:{{d}}/res:40M")
    t.cli("client read -r ::{d}/res:40M")
    t.cli("client read -r :R:{d}/res:40M")
    t.cli("client read -r ::{d}/res:40M -h 1")
    t.cli("client init -r LS:R:{d}/missing:0")
    t.cli("client init -r LS:R:{d}:0")
    t.cli("client init -r LS:R:{d}/res")
    t.cli("client init -r LS:R")
    t.cli("client read -r LS:R:{d}/res:48M")
    t.cli("client read -r LS:R:{d}/res:48M -h 1")
    t.cli("client read -r LS:R:{d}/res:47M -h 1")
    t.cli("client read -r LS:R:{d}/res:513")
    t.cli("client read -r LS:R:{d}/missing:0")
    t.cli("client read -r LS:R:{d}/missing:0 -h 1")
    t.cli("client read -r LS:R:{d}:0")
    t.cli("client read")


def bad_storage(t: Transcript) -> None:
    """Files that are empty, short, damaged, or somebody else's."""
    for name, size in (("empty", 0), ("one", 1), ("small", 0), ("noise", 2), ("index", 4)):
        t.file(name, size)
    os.truncate(t.directory / "small", 4096)
    change(t, "noise", 0, bytes(range(1, 256)) * 4096)
    for name in ("empty", "small", "one", "noise"):
        t.cli(f"client read -s LS:0:{{d}}/{name}:0")
        t.cli(f"client read -r LS:R:{{d}}/{name}:0")
        t.cli(f"client read -r LS:R:{{d}}/{name}:0 -h 1")
        t.cli(f"client align -s LS:0:{{d}}/{name}:0")
    t.cli("client align -s LS:0:{d}:0")
    t.cli("client align -s LS")
    t.cli("client align")
    t.cli("client align -s LS:0:/dev/null:0")
    t.cli("client init -s LS:0:{d}/empty:0")
    t.cli("client init -r LS:R:{d}/small:0")
    for name in ("empty", "small"):
        t.record(f"= size of {name}\n{(t.directory / name).stat().st_size}")
    t.file("ls", 4)
    t.file("res", 4)
    damages = {
        "magic": (0, b"\0\0\0\0"),
        "other magic": (0, b"\x10\x20\x40\x06"),
        "version": (4, b"\4\0\x99\0"),
        "checksum": (152, b"\1"),
        "sector size": (12, b"\0\4\0\0"),
        "host count": (16, b"\xff\xff\xff\x7f"),
        "space name": (56, b"XX"),
        "resource name": (104, b"XX"),
    }
    for what, (offset, data) in damages.items():
        t.cli("client init -s LS:0:{d}/ls:0")
        t.cli("client init -r LS:R:{d}/res:0")
        t.record(f"= damage {what}")
        for name in ("ls", "res"):
            change(t, name, offset, data)
        t.cli("client read -s LS:0:{d}/ls:0")
        t.cli("client read -r LS:R:{d}/res:0")
        t.cli("client read -r LS:R:{d}/res:0 -h 1")
        t.cli("client init -s LS:0:{d}/ls:0")
        t.cli("client read -s LS:0:{d}/ls:0")
    t.cli("client format -x LS:{d}/index:0")
    t.cli("client read -s LS:0:{d}/index:0")
    t.cli("client read -r LS:R:{d}/index:0")
    t.cli("client read -s LS:0:{d}/index:1M")
    t.cli("client init -s LS:0:{d}/ls:0")
    t.cli("client read -r LS:R:{d}/ls:0")
    t.cli("client read -r LS:R:{d}/ls:0 -h 1")
    t.cli("client init -r LS:R:{d}/res:0")
    t.cli("client read -s LS:0:{d}/res:0")


def odd_names(t: Transcript) -> None:
    """Blanks, colons, backslashes and text of other languages in names and paths."""
    for number, name in enumerate(
        ("with blank", "with:colon", "back\\slash", "gr\u00fc\u00dfe", "tr\u00e4:il \\x")
    ):
        t.file(name, 2)
        escaped = name.replace("\\", "\\\\").replace(":", "\\:")
        t.run("client", "init", "-s", f"S{number}:0:{{d}}/{escaped}:1M")
        t.run("client", "read", "-s", f"S{number}:0:{{d}}/{escaped}:1M")
        t.run("client", "init", "-r", f"S{number}:{escaped}:{{d}}/{escaped}:0")
        t.run("client", "read", "-r", f"S{number}:{escaped}:{{d}}/{escaped}:0")
        t.run("client", "read", "-r", f"::{{d}}/{escaped}:0", "-h", "1")
        t.run("client", "read", "-r", f"S{number}:other:{{d}}/{escaped}:0")
        t.run("client", "align", "-s", f"S:0:{{d}}/{escaped}:0")
        t.bytes_of(name)


def several_disks(t: Transcript) -> None:
    """Leases on several disks."""
    for number in range(5):
        t.file(f"m{number}", 1)
    disks = [f"{{d}}/m{number}:0" for number in range(5)]
    for count in (2, 3, 4, 5):
        where = ":".join(disks[:count])
        t.cli(f"client init -r LS:M:{where}")
        t.cli(f"client read -r LS:M:{where}")
        t.cli(f"client read -r LS:M:{where} -h 1")
    t.cli("client request -r LS:M:{d}/m0:0:{d}/m1:0:3 -f 1")


def direct(t: Transcript) -> None:
    """The original's own code on storage that this daemon has formatted."""
    t.file("area", 32)
    t.cli("client init -s LS:0:{d}/area:0 -o 1")
    t.cli("client init -r LS:R1:{d}/area:1M")
    t.cli("client init -r LS:R2:{d}/area:2M -m 5")
    t.cli("client format -x LS:{d}/area:8M")
    for number in (1, 2):
        t.cli(f"client update -x LS:{{d}}/area:8M -e x{number}:{9 + number}M")
    t.cli("direct dump {d}/area")
    t.cli("direct dump {d}/area -f 1")
    t.cli("direct dump {d}/area:8M")
    t.cli("direct dump {d}/area:8388608:8388608 -f 1")
    t.cli("direct dump {d}/area:1M:2M")
    t.cli("direct dump {d}/missing")
    for area in ("-s LS:1:{d}/area:0", "-s LS:2000:{d}/area:0", "-r LS:R1:{d}/area:1M", "-r LS:R2:{d}/area:2M"):
        t.cli(f"direct read_leader {area}")
    t.cli("direct read_leader -r LS:__rindex_lease__:{d}/area:9M")
    t.cli("direct lookup -x LS:{d}/area:8M")
    t.cli("direct lookup -x LS:{d}/area:8M -e x1")
    t.cli("direct lookup -x LS:{d}/area:8M -e :11M")
    t.cli("direct update -x LS:{d}/area:8M -e x3:12582912")
    t.cli("client lookup -x LS:{d}/area:8M -e x3")
    t.cli("direct update -x LS:{d}/area:8M -e x3:12582912 -z 1")
    t.cli("direct rebuild -x LS:{d}/area:8M")
    t.cli("direct lookup -x LS:{d}/area:8M")
    t.bytes_of("area", 8 * MIB)
    t.cli("direct next_free {d}/area -Z 512 -A 1M")
    t.cli("direct acquire_id -s LS:1:{d}/area:0 -o 1")
    t.cli("direct renew_id -s LS:1:{d}/area:0 -o 1 -g 1")
    t.cli("client read -s LS:1:{d}/area:0 -D")
    t.cli("direct acquire -s LS:1:{d}/area:0 -r LS:R1:{d}/area:1M -i 1 -g 1")
    t.cli("client read -r LS:R1:{d}/area:1M -h 1")
    t.cli("direct release -s LS:1:{d}/area:0 -r LS:R1:{d}/area:1M -i 1 -g 1")
    t.cli("client read -r LS:R1:{d}/area:1M -h 1")
    t.cli("direct release_id -s LS:1:{d}/area:0 -g 1")
    t.cli("client read -s LS:1:{d}/area:0 -D")
    leader = t.directory / "leader"
    leader.write_text("lver 9\nowner_id 3\nowner_generation 4\ntimestamp 77\n")
    t.cli("direct write_leader -r LS:R2:{d}/area:2M -F {d}/leader")
    t.cli("client read -r LS:R2:{d}/area:2M -h 1")
    leader.write_text("owner_id 1\nowner_generation 6\nio_timeout 3\nresource_name owner\n")
    t.cli("direct write_leader -s LS:1:{d}/area:0 -F {d}/leader")
    t.cli("client read -s LS:1:{d}/area:0 -D")
    t.cli("direct init -s LS:0:{d}/area:0 -o 1")
    t.cli("client read -s LS:1:{d}/area:0 -D")
    t.cli("direct init -r LS:R1:{d}/area:1M")
    t.cli("client read -r LS:R1:{d}/area:1M -D")
    t.cli("direct init")
    t.cli("direct format -x LS:{d}/area:16M")
    t.cli("client lookup -x LS:{d}/area:16M")
    t.bytes_of("area", 16 * MIB)
