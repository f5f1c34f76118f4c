"""Command lines about resource indexes, by the daemon and direct."""

from __future__ import annotations

from tests.interop.transcript import MIB, Transcript

INDEX = "-x LS:{d}/index:0"
ODD = (
    ":1",
    "a:1",
    ":1048576",
    ":0",
    "a:2097152",
    "a:3145728",
    ":2097152",
    ":5242880",
    ":99999997952",
    "none",
    "none:2M",
)


def setting(t: Transcript) -> None:
    """A joined lockspace and places for indexes."""
    t.file("ls", 1)
    t.file("index", 12)
    t.file("short", 1)
    t.cli("client init -s LS:0:{d}/ls:0 -o 1")


def without_lockspace(t: Transcript) -> None:
    """What needs none, and what says that it needs one."""
    for place in ("LS:{d}/missing:0", "LS:{d}:0", "LS:{d}/short:1M", "LS:{d}/index", "LS"):
        t.cli("client format -x " + place)
        t.cli("client lookup -x " + place)
        t.cli("direct lookup -x " + place)
    t.cli("client format")
    t.cli("direct lookup " + INDEX)
    t.cli("client format " + INDEX)
    t.bytes_of("index", 0, MIB)  # Behind it lies the internal lease, with the time of its writing.
    for action in ("create", "lookup", "delete", "update"):
        t.cli(f"client {action} {INDEX} -e a")
    t.cli(f"client rebuild {INDEX}")
    t.cli(f"direct rebuild {INDEX}")
    t.cli(f"direct lookup {INDEX}")
    t.cli(f"direct update {INDEX} -e d:2097152")
    t.cli(f"direct lookup {INDEX} -e d")
    t.cli(f"direct update {INDEX} -e d:2097152 -z 1")
    t.cli(f"direct lookup {INDEX} -e d")


def with_lockspace(t: Transcript) -> None:
    """The whole life of entries."""
    t.cli("client add_lockspace -s LS:1:{d}/ls:0 -o 1")
    t.cli(f"client format {INDEX} -Z 512 -A 1M")
    for name in ("a", "b", "n" * 48, "gr\u00fc\u00dfe"):
        t.cli(f"client create {INDEX} -e {name}")
        t.cli(f"client lookup {INDEX} -e {name}")
    t.cli(f"client lookup {INDEX}")
    for entry in ODD:
        t.cli(f"client lookup {INDEX} -e {entry}")
        t.cli(f"direct lookup {INDEX} -e {entry}")
    t.cli("direct dump {d}/index -f 1")
    for number in range(1, 8):
        t.cli(f"client read -r ::{{d}}/index:{number}M -D")
    t.cli("client command -r LS:a:{d}/index:2M -c /bin/true")
    for entry in ("a", "a:2097152", "none", ":3145728", "b:1", "b:2097152"):
        t.cli(f"client delete {INDEX} -e {entry}")
        t.cli(f"client lookup {INDEX}")
    t.cli(f"client delete {INDEX}")
    t.cli("client command -r LS:a:{d}/index:2M -c /bin/true")
    for entry in ("x:5242880", "x", ":6291456", "y:7340032", "y:7340033"):
        t.cli(f"client update {INDEX} -e {entry}")
        t.cli(f"client lookup {INDEX} -e {entry}")
    for entry in ("x:5242880", "x", ":7340032"):
        t.cli(f"client update {INDEX} -e {entry} -z 1")
        t.cli(f"client lookup {INDEX} -e {entry}")
    t.cli(f"client update {INDEX}")
    t.cli("client init -r LS:found:{d}/index:9M")
    t.cli(f"client rebuild {INDEX}")
    for name in ("found", "n" * 48, "a"):
        t.cli(f"client lookup {INDEX} -e {name}")
    for place in ("NONE:{d}/index:0", "OTHER:{d}/index:0", "LS:{d}/index:1M", "LS:{d}/ls:0", "LS:{d}/missing:0"):
        t.cli(f"client lookup -x {place} -e found")
        t.cli(f"client create -x {place} -e z")
        t.cli(f"client rebuild -x {place}")
        t.cli(f"direct lookup -x {place} -e found")
    t.cli("client format -x LS:{d}/index:0 -Z 4096 -A 8M")
    t.cli("client lookup " + INDEX)
    t.cli("client format -x LS:{d}/index:0 -Z 512 -A 8M")
    t.cli("client rem_lockspace -s LS:1:{d}/ls:0")


def same_name_twice(t: Transcript) -> None:
    """A name that exists: the known difference."""
    t.cli("client add_lockspace -s LS:1:{d}/ls:0 -o 1")
    t.cli("client format -x LS:{d}/index:0")
    t.cli(f"client create {INDEX} -e a")
    t.cli(f"client create {INDEX} -e a")
