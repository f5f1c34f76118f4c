"""The calls whose answers must be equal: the command line in all its forms that the lease core serves."""

from __future__ import annotations

from collections.abc import Callable

from tests.interop.transcript import Transcript

LS = "LS:1:{d}/ls:0"
RES = "LS:R1:{d}/res:0"


def formatting(t: Transcript) -> None:
    """Initialise and read back lockspaces and resources, with good and bad sizes, names and places."""
    t.file("ls", 8)
    t.file("res", 24)
    t.file("small", 0)
    t.cli("client init -s LS:0:{d}/ls:0 -o 1")
    t.cli("client read -s LS:0:{d}/ls:0")
    t.cli("client read -s LS:0:{d}/ls:0 -D")
    t.cli("client read -s LS:7:{d}/ls:0")
    t.cli("client read -s OTHER:0:{d}/ls:0")
    t.cli("client read -s :0:{d}/ls:0")
    t.cli("client init -r LS:R1:{d}/res:0")
    t.cli("client init -r LS:R2:{d}/res:1M -m 64")
    t.cli("client init -r LS:R3:{d}/res:8M -Z 4096 -A 8M")
    t.cli("client init -s BIG:0:{d}/res:16777216 -Z 4096 -A 8M -o 2")
    for name in ("R1:{d}/res:0", "R2:{d}/res:1M", "R3:{d}/res:8M", "WRONG:{d}/res:0", "R1:{d}/res:1M"):
        t.cli(f"client read -r LS:{name}")
        t.cli(f"client read -r LS:{name} -D")
    t.cli("client read -s BIG:0:{d}/res:16777216 -D")
    t.cli("client read -r OTHER:R1:{d}/res:0")
    t.cli("client read -r LS:R1:{d}/res:2M")
    t.cli("client read -r LS:R1:{d}/res:24M")
    t.cli("client read -r LS:R1:{d}/missing:0")
    t.cli("client read -s LS:1:{d}/missing:0")
    t.cli("client read -s LS:1:{d}/small:0")
    t.cli("client init -s LS:0:{d}/missing:0")
    t.cli("client init -r LS:R1:{d}/missing:0")
    t.cli("client init -r LS:R4:{d}/res:2M -m 2001")
    t.cli("client init -r LS:R5:{d}/res:3M")
    t.cli("client init -r LS:R5:{d}/res:3M -z 1")
    t.cli("client read -r LS:R5:{d}/res:3M")
    t.cli("client init -r LS:R5:{d}/res:3M")
    t.cli("client init -r LS:RW:{d}/res:4M")


def membership(t: Transcript) -> None:
    """Join a lockspace, ask about it, and everything that is refused."""
    t.cli("client inq_lockspace -s " + LS)
    t.cli("client rem_lockspace -s " + LS)
    t.cli("client add_lockspace -s LS:0:{d}/ls:0")
    t.cli("client add_lockspace -s LS:2001:{d}/ls:0")
    t.cli("client add_lockspace -s :1:{d}/ls:0")
    t.cli("client add_lockspace -s LS:1:{d}/missing:0")
    t.cli("client add_lockspace -s LS:1:{d}/small:0")
    t.cli("client add_lockspace -s LS:1:{d}/res:0")
    t.cli("client add_lockspace -s OTHER:1:{d}/ls:0")
    t.cli("client add_lockspace -s LS:1:{d}/ls:1M")
    t.cli("client add_lockspace -s " + LS + " -o 1")
    t.cli("client add_lockspace -s " + LS)
    t.cli("client add_lockspace -s LS:2:{d}/ls:0")
    t.cli("client add_lockspace -s LS2:1:{d}/ls:0")
    t.cli("client inq_lockspace -s " + LS)
    t.cli("client inq_lockspace -s LS:0:{d}/ls:0")
    t.cli("client inq_lockspace -s LS:2:{d}/ls:0")
    t.cli("client inq_lockspace -s LS")
    t.cli("client gets")
    t.cli("client status")
    t.wait_for_output("client gets -h 1", "h 1 ")
    t.wait_for_output("client host_status -s LS", "1 timestamp")
    t.cli("client host_status -s NONE")
    t.cli("client read -s LS:1:{d}/ls:0")
    t.cli("client read -s LS:1:{d}/ls:0 -h 1")


def leases(t: Transcript) -> None:
    """Acquire, inquire, release, for the own and for other processes, shared and exclusive."""
    one = t.hold("one", RES)
    t.cli("client status")
    t.cli("client status -o p")
    t.cli("client status -o s")
    t.cli(f"client inquire -p {one}")
    t.cli(f"client inquire -p {one} -D")
    t.cli("client read -r " + RES)
    t.cli("client read -r " + RES + " -h 1")
    t.cli("client command -r " + RES + " -c /bin/true")
    t.cli("client command -r LS:R9:{d}/res:0 -c /bin/true")
    t.cli("client command -r NONE:R1:{d}/res:0 -c /bin/true")
    t.cli("client command -r LS:R1:{d}/missing:0 -c /bin/true")
    t.cli("client command -r LS:R2:{d}/missing:0 -c /bin/true")
    t.cli("client command -r LS:R2:{d}/res:24M -c /bin/true")
    t.cli("client command -r LS:R2:{d}/res:1M:77 -c /bin/true")
    t.cli(f"client acquire -p {one} -r LS:R2:{{d}}/res:1M")
    t.cli(f"client acquire -p {one} -r LS:R2:{{d}}/res:1M")
    t.cli(f"client inquire -p {one}")
    t.cli("client status")
    t.cli(f"client acquire -p {one} -r LS:R5:{{d}}/res:3M -r LS:R1:{{d}}/res:0")
    t.cli(f"client inquire -p {one}")
    t.cli(f"client release -p {one} -r LS:R1")
    t.cli(f"client release -p {one} -r LS:R1")
    t.cli(f"client release -p {one} -r LS:NONE")
    t.cli(f"client inquire -p {one}")
    t.cli("client read -r " + RES)
    t.cli("client read -r " + RES + " -h 1")
    t.cli(f"client release -p {one} -a 1")
    t.cli(f"client inquire -p {one}")
    t.cli("client inquire -p 999999999")
    t.cli("client inquire -p 0")
    t.cli("client acquire -p 999999999 -r " + RES)
    t.cli("client release -p 999999999 -r " + RES)
    t.cli("client acquire -r " + RES)
    t.cli("client release -r " + RES)
    t.cli("client inquire")
    reader, second = t.hold("reader", RES, shared=True), t.hold("second", RES, shared=True)
    t.cli("client status")
    t.cli(f"client inquire -p {reader}")
    t.cli("client read -r " + RES + " -h 1")
    t.cli(f"client acquire -p {one} -r " + RES)
    t.stop(second)
    t.wait_until_gone("client status", str(second))
    t.stop(reader)
    t.wait_until_gone("client status", "LS:R1")
    t.cli("client read -r " + RES + " -h 1")
    t.cli(f"client acquire -p {one} -r " + RES)
    t.stop(one)
    t.wait_until_gone("client status", "LS:R1")
    many = [f"LS:M{number}:{{d}}/res:{number}M" for number in range(5, 8)]
    for resource in many:
        t.cli("client init -r " + resource)
    holder = t.hold("many", *many)
    t.cli(f"client inquire -p {holder}")
    t.cli("client rem_lockspace -s LS:1:{d}/other:0")
    t.stop(holder)
    t.wait_until_gone("client status", "LS:M")


def odd_paths(t: Transcript) -> None:
    """Colons, blanks and backslashes in paths."""
    for number, name in enumerate(("with:colon", "two:c:olons", "back\\slash")):
        t.file(name, 1)
        escaped = name.replace("\\", "\\\\").replace(":", "\\:")
        resource = f"LS:P{number}:{{d}}/{escaped}:0"
        t.cli("client init -r " + resource)
        t.cli("client read -r " + resource)
        holder = t.hold(f"p{number}", resource)
        t.cli(f"client inquire -p {holder}")
        t.cli("client status")
        t.cli(f"client release -p {holder} -a 1")
        t.stop(holder)
        t.wait_until_gone("client status", str(holder))


def leaving(t: Transcript) -> None:
    """Remove the lockspace and look once more."""
    t.cli("client rem_lockspace -s LS:2:{d}/ls:0")
    t.cli("client rem_lockspace -s " + LS)
    t.cli("client inq_lockspace -s " + LS)
    t.cli("client gets")
    t.cli("client status")
    t.cli("client read -s LS:1:{d}/ls:0")
    t.cli("client command -r " + RES + " -c /bin/true")
    t.cli("client add_lockspace -s " + LS + " -o 1")
    t.wait_for_output("client gets -h 1", "gen 2")
    t.cli("client rem_lockspace -s " + LS)
    t.cli("client version")


SCENES: tuple[Callable[[Transcript], None], ...] = (formatting, membership, leases, odd_paths, leaving)
