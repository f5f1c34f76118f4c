"""Command lines about leases: command, acquire, convert, release, inquire, request, and orphans."""

from __future__ import annotations

import os
import threading

from tests.interop.hosts import wait_until
from tests.interop.transcript import Transcript

LS = "LS:1:{d}/ls:0"
LONG = "n" * 48


def res(number: int) -> str:
    """A resource as the command line names it."""
    return f"LS:R{number}:{{d}}/res:{number}M"


R0, R1, R2 = res(0), res(1), res(2)


def setting(t: Transcript) -> None:
    """A joined lockspace with resources in one file, and one in files with odd names."""
    t.file("ls", 2)
    t.file("res", 24)
    t.cli("client init -s LS:0:{d}/ls:0 -o 1")
    for number in range(16):
        t.cli("client init -r " + res(number))
    for name in ("blank path", "co:lon", "back\\slash", "\u00fcml\u00e4ut"):
        t.file(name, 1)
    t.cli("client add_lockspace -s " + LS + " -o 1")
    t.wait_until_gone("client gets -h 1", "not ready")


def exclusive(t: Transcript) -> None:
    """One holder, everybody else refused; several leases in one go, all or nothing."""
    one = t.hold("one", R0)
    t.details()
    t.cli("client status")
    for form in ("", " -o p", " -o s"):
        t.cli("client status" + form)
    t.cli(f"client inquire -p {one}")
    t.cli(f"client inquire -p {one} -D")
    t.cli(f"client command -r {R0} -c /bin/true")
    t.cli(f"client command -r {R0}:SH -c /bin/true")
    t.cli(f"client acquire -p {one} -r {R0}")
    t.cli(f"client acquire -p {one} -r {R0}:SH")
    t.cli(f"client acquire -p {one} -r {R1} -r {R0}")
    t.cli(f"client acquire -p {one} -r {R1} -r {R1}")
    t.cli(f"client acquire -p {one} -r {R1} -r LS:NONE:{{d}}/res:2M")
    t.cli(f"client acquire -p {one} -r {R1} -r NONE:R2:{{d}}/res:2M")
    t.cli(f"client inquire -p {one}")
    for number in (1, 2):
        t.cli(f"client read -r {res(number)} -h 1")
    for where in (
        *("LS:R1:{d}/res:1M:77", "LS:R2:{d}/res:1M", "LS:R1:{d}/missing:0", "LS:R1:{d}/res:30M", "LS:R1:{d}:0"),
        *("OTHER:R1:{d}/res:1M", "LS:R1:{d}/res:20M", "LS:R1:{d}/ls:0", ":R1:{d}/res:1M", "LS::{d}/res:1M"),
        *("LS:R1:{d}/res", "LS:R1", "R1", "LS:R1:{d}/res:1M:0", "LS:R1:{d}/res:1M:4"),
    ):
        t.cli(f"client acquire -p {one} -r {where}")
        t.cli(f"client inquire -p {one}")
        t.cli(f"client release -p {one} -r LS:R1")
    t.cli(f"client acquire -p {one} -n 5 -r {R2}")
    t.cli("direct read_leader -r " + R2 + " -Z 512 -A 1M")
    t.cli(f"client release -p {one} -a 1")
    t.cli(f"client release -p {one} -a 1")
    t.cli(f"client release -p {one} -r {R0}")
    t.cli(f"client release -p {one} -r {R0} -r {R1}")
    t.cli(f"client inquire -p {one}")
    eight = " ".join(f"-r {res(number)}" for number in range(8))
    t.cli(f"client acquire -p {one} {eight}")
    t.cli(f"client inquire -p {one} -D")
    t.cli(f"client acquire -p {one} {eight}")
    t.cli(f"client acquire -p {one} -r {res(8)}")
    t.cli(f"client acquire -p {one} -r {res(9)}:SH")
    t.details()
    t.cli(f"client release -p {one} -r {R1} -r LS:NONE -r {R2}")
    t.cli(f"client inquire -p {one}")
    t.cli(f"client acquire -p {one} -r {R2}")
    t.cli(f"client inquire -p {one}")
    nine = " ".join(f"-r {res(number)}" for number in range(9))
    t.cli(f"client release -p {one} {nine}")
    t.cli(f"client release -p {one} -a 1")
    t.cli(f"client command {nine} -c /bin/true")
    t.cli(f"client acquire -p {one}")
    t.cli(f"client release -p {one}")
    t.cli(f"client convert -p {one}")
    t.stop(one)
    t.wait_until_gone("client status", str(one))


def commands(t: Transcript) -> None:
    """`client command` in its forms."""
    t.cli(f"client command -r {R0} -r {R1} -c /bin/true")
    t.cli(f"client command -r {R0}:SH -r {R1} -c /bin/false")
    t.cli(f"client command -r {R0} -n 7 -c /bin/true")
    t.cli(f"client command -r {R0} -c /missing/program")
    t.cli(f"client command -r {R0}:99 -c /bin/true")
    lver = t.host.cli("client", "read", "-r", R0.replace("{d}", str(t.directory))).output.split(":")[-1].strip()
    t.cli(f"client command -r {R0}:{lver} -c /bin/true")
    t.cli(f"client command -r {R0}:{lver} -c /bin/true")
    t.cli(f"client command -r {R0} -O 1 -c /bin/true")
    t.cli(f"client command -r {R0} -P 1 -c /bin/true")
    t.wait_for_output("client status", "ORPHAN")
    t.cli(f"client command -r {R0} -c /bin/true")
    t.cli(f"client command -r {R0} -O 1 -c /bin/true")
    t.wait_until_gone("client status", "LS:R0")
    t.cli("client command -r LS:R0:{d}/missing:0 -c /bin/true")
    t.cli("client command -r NONE:R0:{d}/res:0 -c /bin/true")
    t.cli(f"client read -r {R0} -h 1")


def other_pids(t: Transcript) -> None:
    """Commands for processes that do not exist, are not registered, or died."""
    stranger = t.name(os.getpid(), "stranger")
    for pid in ("", "-p 0", "-p 999999999", "-p -1", f"-p {stranger}", "-p 1"):
        t.cli(f"client acquire {pid} -r {R0}")
        t.cli(f"client release {pid} -r {R0}")
        t.cli(f"client release {pid} -a 1")
        t.cli(f"client convert {pid} -r {R0}")
        t.cli(f"client inquire {pid}")
    dead = t.hold("dead", R0)
    t.stop(dead)
    t.wait_until_gone("client status", str(dead))
    t.cli(f"client acquire -p {dead} -r {R0}")
    t.cli(f"client inquire -p {dead}")


def shared(t: Transcript) -> None:
    """Several readers; changes of mode in all directions."""
    one, two = t.hold("one", R0, shared=True), t.hold("two", R0, shared=True)
    t.details()
    t.cli("client status")
    t.cli("client status -o s")
    t.cli(f"client read -r {R0} -h 1")
    t.cli(f"client read -r {R0}")
    t.cli(f"client acquire -p {one} -r {R0}")
    t.cli(f"client acquire -p {one} -r {R0}:SH")
    t.cli(f"client inquire -p {one}")
    t.cli(f"client release -p {one} -r {R0}")
    t.cli(f"client inquire -p {one}")
    t.cli(f"client inquire -p {two}")
    t.cli(f"client read -r {R0} -h 1")
    t.stop(one)
    t.wait_until_gone("client status", str(one))
    t.cli(f"client convert -p {two} -r {R0}:SH")
    t.cli(f"client convert -p {two} -r {R0}")
    t.cli(f"client convert -p {two} -r {R0}")
    t.cli(f"client inquire -p {two}")
    t.details()
    t.cli(f"client convert -p {two} -r {R1}")
    t.cli(f"client convert -p {two} -r NONE:R0")
    t.cli(f"client convert -p {two} -r {R0}:SH")
    t.cli(f"client convert -p {two} -r {R0}:SH")
    t.cli(f"client inquire -p {two}")
    t.cli(f"client read -r {R0} -h 1")
    t.cli(f"client release -p {two} -r {R0}:SH")
    t.cli(f"client read -r {R0} -h 1")
    t.stop(two)
    t.wait_until_gone("client status", str(two))
    t.cli(f"client command -r {R0} -c /bin/true")


def two_local_readers_one_writer(t: Transcript) -> None:
    """To exclusive while another local process shares it: the known difference, in a resource of its own."""
    resource = res(12)
    one, two = t.hold("one", resource, shared=True), t.hold("two", resource, shared=True)
    t.cli(f"client convert -p {one} -r {resource}")
    for pid in (one, two):
        t.stop(pid)
    wait_until(lambda: "LS:R12" not in t.host.cli("client", "status").output, "R12 is released")


def too_many_hosts(t: Transcript) -> None:
    """A number of hosts that does not fit, in a resource of its own: the known difference."""
    one = t.hold("one", R0)
    t.cli(f"client acquire -p {one} -n 3000 -r {res(13)}")
    t.stop(one)
    t.wait_until_gone("client status", "LS:R")


def orphans(t: Transcript) -> None:
    """Leases that outlive their process: who may take them over, and how they end."""
    keeper = t.hold("keeper", R2)
    for mode, same, other in (("", "", ":SH"), (":SH", ":SH", "")):
        first = t.hold("first", R1)
        t.cli(f"client acquire -p {first} -P 1 -r {R0}{mode}")
        t.cli(f"client inquire -p {first}")
        t.stop(first)
        t.wait_for_output("client status", "ORPHAN")
        t.wait_until_gone("client status", "LS:R1:")
        t.details()
        t.cli(f"client read -r {R0} -h 1")
        for resource in (R0 + same, R0 + other):
            t.cli(f"client acquire -p {keeper} -r {resource}")
            t.cli(f"client acquire -p {keeper} -P 1 -r {resource}")
        t.cli(f"client acquire -p {keeper} -O 1 -r {R0}{other}")
        t.cli(f"client acquire -p {keeper} -O 1 -P 1 -r {R0}{same}")
        t.cli(f"client inquire -p {keeper}")
        t.details()
        t.cli(f"client release -p {keeper} -O 1 -r LS:R0")
        t.cli(f"client inquire -p {keeper}")
        t.stop(keeper)
        t.wait_for_output("client status", "ORPHAN")
        keeper = t.hold("keeper", R2)
        t.cli(f"client release -p {keeper} -O 1 -r LS:NONE")
        t.cli(f"client release -p {keeper} -O 1 -r NONE:R0")
        t.cli(f"client release -p {keeper} -O 1 -r LS:R0")
        t.wait_until_gone("client status", "LS:R0")
        t.cli(f"client release -p {keeper} -O 1 -r LS:R0")
        t.cli(f"client read -r {R0} -h 1")
    several = t.hold("several", res(5))
    t.cli(f"client acquire -p {several} -P 1 -r {R0} -r {R1}:SH -r {res(3)}")
    t.stop(several)
    t.wait_until_gone("client status", f"p {several}\n")
    t.wait_until_gone("client status", "LS:R5:")
    t.cli("client rem_lockspace -s LS:1:{d}/missing:0")
    t.cli(f"client release -p {keeper} -O 1 -s LS")
    wait_until(lambda: "ORPHAN" not in t.host.cli("client", "status").output, "no orphans")
    t.wait_until_gone("client status", " REM")
    t.cli(f"client release -p {keeper} -O 1 -s LS")
    t.cli(f"client release -p {keeper} -O 1 -s NONE")
    t.cli(f"client acquire -p {keeper} -P 1 -r {R0}")
    t.cli(f"client release -p {keeper} -a 1")
    t.cli(f"client inquire -p {keeper}")
    t.stop(keeper)
    t.wait_until_gone("client status", str(keeper))


def orphans_of_nobody(t: Transcript) -> None:
    """Releasing orphans without naming a process: the known difference."""
    first = t.hold("first", R1)
    t.cli(f"client acquire -p {first} -P 1 -r {R0}")
    t.stop(first)
    t.wait_for_output("client status", "ORPHAN")
    t.cli("client release -O 1 -r LS:R0")
    last = t.hold("last", R2)
    t.cli(f"client release -p {last} -O 1 -s LS")
    t.wait_until_gone("client status", "LS:R0")
    t.stop(last)
    t.wait_until_gone("client status", str(last))


def odd_paths(t: Transcript) -> None:
    """Held leases whose paths have blanks, colons, backslashes; names of 48 bytes and of other languages."""
    holder = t.hold("holder", res(14))
    cases = (
        ("blank path", "plain"),
        ("co:lon", LONG),
        ("back\\slash", "gr\u00fc\u00dfe"),
        ("\u00fcml\u00e4ut", "na:me"),
        ("co:lon", "with blank"),
    )
    for path, name in cases:
        resource = f"LS:{_escaped(name)}:{{d}}/{_escaped(path)}:0"
        t.run("client", "init", "-r", resource)
        t.run("client", "acquire", "-p", str(holder), "-r", resource)
        t.run("client", "inquire", "-p", str(holder))
        t.run("client", "status")
        t.details()
        t.run("client", "read", "-r", resource, "-h", "1")
        t.run("client", "release", "-p", str(holder), "-r", resource)
    t.stop(holder)
    t.wait_until_gone("client status", str(holder))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace(":", "\\:")


def demands(t: Transcript) -> None:
    """Requests against our own holders: examined at once because we ask for it."""
    for force in ("0", "1", "2", "3"):
        holder = t.hold("holder", res(3))
        lver = int(t.host.cli("client", "inquire", "-p", str(holder)).output.split(":")[-1].strip('"\n'))
        t.name(holder, "holder")
        for wanted in (lver - 1, lver, lver + 1):
            output = t.host.cli("client", "request", "-r", _place(t, f"{res(3)}:{wanted}"), "-f", force).output
            t.record(f"= request lver {wanted - lver:+} force {force}\n{output}")
        t.cli(f"client examine -r {res(3)}")
        if force in "12":
            t.end_of(holder)
        else:
            t.cli(f"client inquire -p {holder} -D")
            t.stop(holder)
        t.wait_until_gone("client status", str(holder))
        t.wait_until_gone("client status", "LS:R3")
        t.cli(f"client request -r {res(3)}:0 -f 0")
        t.cli("direct dump {d}/res:3M:1M -f 1")
    t.cli(f"client request -r {res(4)}:5 -f 1")
    t.cli(f"client request -r {res(4)}:5 -f 1")


def _place(t: Transcript, text: str) -> str:
    return text.replace("{d}", str(t.directory))


def many_leases(t: Transcript) -> None:
    """More than fit the slots of one process."""
    holder = t.hold("holder", *[res(number) for number in range(8)])
    for number in range(8, 11):
        t.cli(f"client acquire -p {holder} -r {res(number)}")
    t.cli(f"client inquire -p {holder}")
    t.cli("client status")
    t.cli(f"client release -p {holder} -r {res(9)}")
    t.cli(f"client acquire -p {holder} -r {res(11)}:SH")
    t.cli(f"client inquire -p {holder} -D")
    t.stop(holder)
    wait_until(lambda: "LS:R" not in t.host.cli("client", "status").output, "all released")
    for number in (0, 7, 8, 11):
        t.cli(f"client read -r {res(number)} -h 1")


def blocked(t: Transcript) -> None:
    """An ACQUIRE that waits for a silent host to be dead, asked for by another process; its target dies meanwhile.

    The host that fell silent is made by the original's own `direct` forms. Takes 80 s.
    """
    t.file("ls", 1)
    t.file("res", 8)
    t.cli("client init -s LS:0:{d}/ls:0 -o 1")
    for number in (0, 1, 5):
        t.cli("client init -r " + res(number))
    t.cli("direct acquire_id -s LS:5:{d}/ls:0 -o 1")
    t.cli(f"direct acquire -s LS:5:{{d}}/ls:0 -r {res(5)} -i 5 -g 1")
    t.cli(f"client read -r {res(5)} -h 1")
    t.cli("client add_lockspace -s " + LS + " -o 1")
    t.wait_until_gone("client gets -h 1", "not ready")
    t.cli(f"client command -r {res(5)} -c /bin/true")
    t.wait_for_output("client gets -h 1", "FAIL")
    target, other = t.hold("target", R0), t.hold("other", R1)
    outputs: dict[int, str] = {}

    def acquire(pid: int) -> None:
        answer = t.host.cli("client", "acquire", "-p", str(pid), "-r", _place(t, res(5)), limit_s=120)
        outputs[pid] = f"{answer.output}[{answer.status}]"

    waiting = threading.Thread(target=acquire, args=(target,))
    waiting.start()
    wait_until(lambda: "cmd_active=7" in t.host.cli("client", "status", "-D").output, "the ACQUIRE runs")
    t.details()
    t.cli("client status")
    for pid in (target, other):
        t.cli(f"client inquire -p {pid}")
        t.cli(f"client release -p {pid} -r {R0}")
        t.cli(f"client convert -p {pid} -r {R0}:SH")
        t.cli(f"client acquire -p {pid} -r {res(5)}")
        t.cli(f"client acquire -p {pid} -r {res(5)}:SH")
    t.cli(f"client command -r {res(5)} -c /bin/true")
    t.cli("client shutdown -w 1")
    t.kill(target)
    wait_until(lambda: "pid_dead=1" in t.host.cli("client", "status", "-D").output, "the death is noticed")
    t.details()
    t.cli("client status")
    for text in (f"inquire -p {target}", f"release -p {target} -a 1", f"acquire -p {target} -r {R1}"):
        t.cli("client " + text)
    t.cli(f"client read -r {R0} -h 1")
    t.cli(f"client acquire -p {other} -r {R0}")
    waiting.join()
    t.record(f"= the ACQUIRE for the dead\n{outputs[target]}")
    wait_until(lambda: "LS:R0" not in t.host.cli("client", "status").output, "R0 is released")
    t.cli("client status")
    for number in (0, 5):
        t.cli(f"client read -r {res(number)} -h 1")


def two_hosts(t: Transcript, u: Transcript) -> None:
    """Two hosts: contention, shared leases, events, requests with every force mode."""
    t.file("ls", 1)
    t.file("res", 8)
    t.cli("client init -s LS:0:{d}/ls:0 -o 1")
    for number in range(5):
        t.cli("client init -r " + res(number))
    joining = threading.Thread(
        target=u.host.cli, args=("client", "add_lockspace", "-s", _place(t, "LS:2:{d}/ls:0"), "-o", "1")
    )
    joining.start()
    t.cli("client add_lockspace -s " + LS + " -o 1")
    joining.join()
    for one in (t, u):
        one.wait_until_gone("client gets -h 1", "not ready")
        wait_until(lambda: t.host.is_live("LS", 2) and u.host.is_live("LS", 1), "both see one another")
        one.cli("client gets -h 1")
        one.cli("client host_status -s LS -D")
    exclusive, shared = u.hold("exclusive", R0), u.hold("shared", R1, shared=True)
    for resource in (R0, R0 + ":SH", R1, R1 + ":SH", R0 + ":1", R1 + ":9"):
        t.cli(f"client command -r {resource} -c /bin/true")
    mine = t.hold("mine", R1, shared=True)
    t.cli(f"client acquire -p {mine} -r {R2} -r {R0}")
    t.cli(f"client inquire -p {mine}")
    for resource in (R0, R1, R2):
        for one in (t, u):
            one.cli(f"client read -r {resource} -h 1")
    t.cli(f"client convert -p {mine} -r {R1}")
    u.cli(f"client convert -p {shared} -r {R1}")
    t.cli(f"client release -p {mine} -r {R1}")
    u.cli(f"client convert -p {shared} -r {R1}")
    u.cli(f"client inquire -p {shared}")
    t.cli(f"client command -r {R1}:SH -c /bin/true")
    u.cli(f"client convert -p {shared} -r {R1}:SH")
    t.cli(f"client command -r {R1}:SH -c /bin/true")
    lver = int(t.host.cli("client", "read", "-r", _place(t, R0)).output.split(":")[-1])
    for wanted, force in ((lver, 1), (0, 0), (lver + 1, 1)):
        t.cli(f"client request -r {R0}:{wanted} -f {force}")
    u.end_of(exclusive)
    u.wait_until_gone("client status", "LS:R0")
    t.cli(f"client read -r {R0} -h 1")
    t.cli(f"client command -r {R0} -c /bin/true")
    polite = u.hold("polite", res(3))
    t.cli(f"client request -r {res(3)}:2 -f 2")
    t.cli(f"client request -r {res(3)}:1 -f 2")
    # The original may miss a request that comes soon after another one (spec section 21 no. 18).
    u.cli(f"client examine -r {res(3)}")
    u.end_of(polite)
    u.wait_until_gone("client status", "LS:R3")
    t.cli(f"client request -r {res(3)}:9 -f 1")
    t.cli("client set_event -s LS -i 2 -g 1 -e 1 -d 1")
    t.cli("client set_event -s LS -i 2 -g 1 -e 2 -d 1")
    u.cli("client rem_lockspace -s LS:2:{d}/ls:0")
    wait_until(
        lambda: "FREE" in t.host.cli("client", "gets", "-h", "1").output or not t.host.is_live("LS", 2), "gone"
    )
    t.cli("client gets -h 1")
    t.cli(f"client read -r {R1} -h 1")
    t.cli(f"client command -r {R1} -c /bin/true")
