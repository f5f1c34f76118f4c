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


def conversion_and_orphans(t: Transcript) -> None:
    """Change modes, leave leases behind, adopt them, ask for them."""
    one, two = t.hold("one", RES), t.hold("two", "LS:R2:{d}/res:1M")
    shared = RES + ":SH"
    t.cli(f"client convert -p {one} -r {shared}")
    t.cli(f"client convert -p {one} -r {shared}")
    t.cli(f"client inquire -p {one}")
    t.cli(f"client acquire -p {two} -r {shared}")
    t.cli(f"client release -p {two} -r LS:R1")
    t.cli(f"client convert -p {one} -r {RES}")
    t.cli(f"client inquire -p {one}")
    t.cli(f"client convert -p {two} -r {RES}")
    t.cli(f"client release -p {one} -a 1")
    t.cli(f"client acquire -p {one} -P 1 -r {RES}")
    t.stop(one)
    t.wait_for_output("client status", "ORPHAN")
    t.cli(f"client acquire -p {two} -r {RES}")
    t.cli(f"client acquire -p {two} -O 1 -r {shared}")
    t.cli(f"client acquire -p {two} -O 1 -P 1 -r {RES}")
    t.cli(f"client inquire -p {two}")
    t.stop(two)
    t.wait_for_output("client status", "ORPHAN")
    three = t.hold("three", "LS:R2:{d}/res:1M")
    t.cli(f"client release -p {three} -O 1 -r LS:NONE")
    t.cli(f"client release -p {three} -O 1 -r LS:R1")
    t.wait_until_gone("client status", "ORPHAN")
    t.cli("client request -f 1 -r " + RES + ":1")
    t.cli("client request -f 1 -r LS:R2:{d}/res:1M:1")
    t.cli("client request -f 1 -r NONE:R2:{d}/res:1M:1")
    t.cli("client examine -s LS")
    t.cli("client examine -r " + RES)
    t.cli("client set_event -s LS -i 2 -g 1 -e 1 -d 1")
    t.cli("client set_event -s LS -i 0 -g 1 -e 1 -d 1")
    t.cli("client set_event -s LS -i 2001 -g 1 -e 1 -d 1")
    t.cli("client set_event -s NONE -i 2 -g 1 -e 1 -d 1")
    t.cli("client set_config -s LS -u 1")
    t.cli("client set_config -s LS -u 0")
    t.cli("client set_config -s NONE -u 1")
    t.cli("client renewal -s NONE")
    t.cli("client align -s LS:1:{d}/ls:0")
    t.cli("client align -s LS:1:{d}/missing:0")
    t.stop(three)
    t.wait_until_gone("client status", "LS:R2")


def resource_index(t: Transcript) -> None:
    """Format, create, look up, update, delete and rebuild an index."""
    t.file("index", 8)
    index = "-x LS:{d}/index:0"
    t.cli("client format -x LS:{d}/missing:0")
    t.cli(f"client lookup {index} -e a")
    t.cli(f"client format {index}")
    for name in ("a", "b"):
        t.cli(f"client create {index} -e {name}")
    t.cli(f"client lookup {index}")
    for entry in ("a", "b", "c", ":2097152", "a:2097152", "a:3145728", ":1", ":5242880"):
        t.cli(f"client lookup {index} -e {entry}")
    t.cli(f"client update {index} -e x:5242880")
    t.cli(f"client lookup {index} -e x")
    t.cli(f"client update {index} -e x:5242880 -z 1")
    t.cli(f"client lookup {index} -e x")
    t.cli(f"client update {index} -e x")
    t.cli(f"client delete {index} -e a")
    t.cli(f"client delete {index} -e a")
    t.cli(f"client lookup {index} -e a")
    t.cli("client read -r LS:b:{d}/index:3M")
    t.cli(f"client rebuild {index}")
    t.cli(f"client lookup {index} -e b")
    t.cli("client create -x NONE:{d}/index:0 -e z")
    t.cli("client lookup -x OTHER:{d}/index:0 -e z")


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


SCENES: tuple[Callable[[Transcript], None], ...] = (
    formatting,
    membership,
    leases,
    conversion_and_orphans,
    resource_index,
    odd_paths,
    leaving,
)
