"""Command lines about lockspaces: add, inq, rem, gets, host_status, renewal, events, set_config, shutdown."""

from __future__ import annotations

import os
import threading

from tests.interop.hosts import wait_until
from tests.interop.transcript import MIB, Transcript

LS = "LS:1:{d}/ls:0"


def files(t: Transcript) -> None:
    """One lockspace with three resources, and places where none is."""
    t.file("ls", 4)
    t.file("res", 8)
    t.file("noise", 1)
    (t.directory / "empty").touch()
    t.cli("client init -s LS:0:{d}/ls:0 -o 1")
    t.cli("client init -s LS2:0:{d}/ls:1048576 -o 1")
    t.cli("client init -s LS3:0:{d}/ls:2097152 -o 1")
    for number in range(4):
        t.cli(f"client init -r LS:R{number}:{{d}}/res:{number}M")


def without_lockspace(t: Transcript) -> None:
    """Everything that needs a lockspace, while none exists."""
    t.cli("client status")
    t.cli("client status -o p")
    t.cli("client status -o s")
    t.details_of_daemon()
    t.details()
    t.cli("client gets")
    t.cli("client gets -h 1")
    t.cli("client host_status")
    t.cli("client host_status -s LS")
    t.cli("client renewal -s LS")
    t.cli("client renewal")
    t.cli("client inq_lockspace -s " + LS)
    t.cli("client rem_lockspace -s " + LS)
    t.cli("client inq_lockspace")
    t.cli("client rem_lockspace")
    t.cli("client set_event -s LS -i 1 -g 1 -e 1 -d 1")
    t.cli("client set_event -i 1 -e 1")
    t.cli("client set_config -s LS -u 1")
    t.cli("client set_config -s LS")
    t.cli("client examine -s LS")
    t.cli("client examine -r LS:R0:{d}/res:0")
    t.cli("client examine")
    t.cli("client request -r LS:R0:{d}/res:0:1 -f 1")
    t.cli("client command -r LS:R0:{d}/res:0 -c /bin/true")
    t.cli("client command -c /bin/true")
    t.cli("client command -r LS:R0:{d}/res:0 -c /missing/program")
    t.cli("client version")


def refused(t: Transcript) -> None:
    """Joining what is not there, is something else, or has no place for the host id."""
    for where in (
        *("LS:0:{d}/ls:0", "LS:2001:{d}/ls:0", ":1:{d}/ls:0", "LS:1:{d}/missing:0", "LS:1:{d}/empty:0", "LS"),
        *("LS:1:{d}/noise:0", "LS:1:{d}/res:0", "OTHER:1:{d}/ls:0", "LS:1:{d}/ls:1048576", "LS:1:{d}/ls:3145728"),
        *("LS:1:{d}/ls:4194304", "LS:1:{d}:0", "LS:1:/dev/null:0", "LS:1"),
    ):
        t.cli(f"client add_lockspace -s {where} -o 1")
    t.cli("client add_lockspace")
    t.cli("client gets")
    for what, offset, data in (
        ("checksum", 152, b"\1"),
        ("version", 4, b"\4\0\x99\0"),
        ("sector size", 12, b"\0\4\0\0"),
        ("magic", 0, b"\0\0\0\0"),
    ):
        t.cli("client init -s LSX:0:{d}/ls:3145728 -o 1")
        t.record(f"= damage {what}")
        with (t.directory / "ls").open("r+b") as file:
            os.pwrite(file.fileno(), data, 3 * MIB + offset)
        t.cli("client add_lockspace -s LSX:1:{d}/ls:3145728 -o 1")


def joining(t: Transcript) -> None:
    """A lockspace that is being joined, and one that is there."""
    first = threading.Thread(target=t.host.cli, args=("client", "add_lockspace", "-s", _place(t, LS), "-o", "1"))
    first.start()
    wait_until(
        lambda: t.host.cli("client", "inq_lockspace", "-s", _place(t, LS)).output.endswith("-115\n"),
        f"{t.host.name} joins",
    )
    t.cli("client add_lockspace -s " + LS + " -o 1")
    t.cli("client add_lockspace -s LS:2:{d}/ls:0 -o 1")
    t.cli("client add_lockspace -s LS2:1:{d}/ls:0 -o 1")
    t.cli("client add_lockspace -s LS:1:{d}/ls:1048576 -o 1")
    t.cli("client inq_lockspace -s " + LS)
    t.cli("client inq_lockspace -s LS:0:{d}/ls:0")
    t.cli("client gets")
    t.cli("client gets -h 1")
    t.cli("client status")
    t.cli("client host_status -s LS")
    t.cli("client renewal -s LS")
    t.cli("client set_config -s LS -u 1")
    t.cli("client set_event -s LS -i 1 -e 1")
    t.cli("client command -r LS:R0:{d}/res:0 -c /bin/true")
    t.cli("client request -r LS:R0:{d}/res:0:1 -f 1")
    t.cli("client shutdown -w 1")
    first.join()
    t.cli("client add_lockspace -s " + LS + " -o 1")
    t.cli("client add_lockspace -s " + LS)
    t.cli("client add_lockspace -s LS:0:{d}/ls:0 -o 1")
    t.cli("client add_lockspace -s LS:2:{d}/ls:0 -o 1")
    t.cli("client add_lockspace -s LS2:1:{d}/ls:0 -o 1")
    t.cli("client add_lockspace -s LS:1:{d}/ls:1048576 -o 1")
    t.cli("client add_lockspace -s LS2:1:{d}/ls:1048576 -o 1")
    for name in (
        "LS:1:{d}/ls:0",
        "LS:0:{d}/ls:0",
        "LS:2:{d}/ls:0",
        "LS",
        "LS:1",
        "LS:1:{d}/ls:1M",
        "LS2:1:{d}/ls:0",
    ):
        t.cli("client inq_lockspace -s " + name)
    t.cli("client gets")
    t.cli("client status")
    t.cli("client status -o s")
    t.wait_until_gone("client gets -h 1", "not ready")
    t.wait_for_output("client host_status -s LS", "1 timestamp")
    t.wait_for_output("client host_status -s LS2", "1 timestamp")
    t.cli("client host_status -s LS -D")
    t.cli("client host_status")
    t.details()
    t.cli("client shutdown -w 1")
    t.cli("client shutdown -w 1 -f 0")
    t.cli("client read -s LS:1:{d}/ls:0 -D")
    t.cli("direct read_leader -s LS:2:{d}/ls:0")
    history = t.host.cli("client", "renewal", "-s", "LS").output.splitlines()
    keys = [[pair.partition("=")[0] for pair in line.split()] for line in history[:2]]
    t.record(f"= renewal, first lines\n{keys}\n{history[0].split()[1:]}")


def undone(t: Transcript) -> None:
    """A lockspace that is removed while it is being joined."""
    t.file("ls", 1)
    t.cli("client init -s LS:0:{d}/ls:0 -o 1")
    answers: list[str] = []

    def add() -> None:
        answer = t.host.cli("client", "add_lockspace", "-s", _place(t, LS), "-o", "1")
        answers.append(f"{answer.output}[{answer.status}]")

    joining = threading.Thread(target=add)
    joining.start()
    wait_until(
        lambda: t.host.cli("client", "inq_lockspace", "-s", _place(t, LS)).output.endswith("-115\n"),
        f"{t.host.name} joins",
    )
    t.cli("client rem_lockspace -s LS:2:{d}/ls:0")
    t.cli("client rem_lockspace -s " + LS)
    joining.join()
    t.record(f"= the add that was undone\n{answers[0]}")
    t.cli("client inq_lockspace -s " + LS)
    t.cli("client rem_lockspace -s " + LS)
    t.cli("client gets")
    t.cli("client status")


def _place(t: Transcript, text: str) -> str:
    return text.replace("{d}", str(t.directory))


def events_and_config(t: Transcript) -> None:
    """Events, marks of use, examination: right and wrong."""
    for numbers in (
        *("-i 2 -g 1 -e 1 -d 1", "-i 2 -g 1 -e 1 -d 1", "-i 2 -g 1 -e 2 -d 1", "-i 3 -g 1 -e 1 -d 2"),
        *("-i 2 -e 0 -d 0", "-i 0 -e 1 -d 1", "-i 2000 -g 1 -e 3 -d 1", "-i 2001 -g 1 -e 1", "-i 1 -g 1 -e 0x10"),
        *("-g 1 -e 1 -d 1", "-i 2"),
    ):
        t.cli("client set_event -s LS " + numbers)
    t.cli("client set_event -s LS:1 -i 2 -g 1 -e 1 -d 1")
    for config in ("-u 1", "-u 0", "-O 1", "-O 0", "-u 1 -O 0", "-u 0 -O 1", "-O 0", "", "-u 2"):
        t.cli("client set_config -s LS " + config)
        t.details()
    t.cli("client set_config -s LS -u 0")
    t.cli("client examine -s LS")
    t.cli("client examine -s NONE")
    t.cli("client examine -r LS:R0")
    t.cli("client request -r LS:R0:{d}/res:0:1 -f 1")
    t.cli("client request -r LS:R0:{d}/res:0 -f 0")
    t.cli("client request -r LS:R0:{d}/res:0")
    t.cli("client request -r LS:NONE:{d}/res:0:1 -f 1")
    t.cli("client request -r NONE:R0:{d}/res:0:1 -f 1")
    t.cli("client request -r LS:R0:{d}/missing:0:1 -f 1")
    t.cli("client request -r LS:R0:{d}/res:7M:1 -f 1")
    t.cli("client request -r LS:R0:{d}/res:9M:1 -f 1")
    t.cli("client request")


def leaving(t: Transcript) -> None:
    """Removal: refused, blocked, of a lockspace that is used; a new life afterwards."""
    t.cli("client rem_lockspace -s LS:2:{d}/ls:0")
    t.cli("client rem_lockspace -s LS")
    t.cli("client rem_lockspace -s LS:1:{d}/ls:1M")
    t.cli("client rem_lockspace -s LS2:0:{d}/ls:1048576")
    t.cli("client gets")
    holder = t.hold("holder", "LS:R0:{d}/res:0")
    t.cli("client set_config -s LS -u 1")
    blocked = threading.Thread(target=t.host.cli, args=("client", "rem_lockspace", "-s", _place(t, LS)))
    blocked.start()
    t.end_of(holder)
    t.wait_until_gone("client status", str(holder))
    t.cli("client inq_lockspace -s " + LS)
    t.cli("client gets")
    t.cli("client set_config -s LS -u 1")
    t.cli("client set_config -s LS -O 1")
    t.cli("client command -r LS:R0:{d}/res:0 -c /bin/true")
    t.cli("client request -r LS:R0:{d}/res:0:9 -f 1")
    t.cli("client add_lockspace -s " + LS + " -o 1")
    t.cli("client set_event -s LS -i 2 -g 1 -e 1 -d 1")
    t.cli("client create -x LS:{d}/res:4M -e x")
    t.wait_until_gone("client status -D", "used_retries=0")
    t.cli("client set_config -s LS -u 0")
    blocked.join()
    t.cli("client inq_lockspace -s " + LS)
    t.cli("client rem_lockspace -s " + LS)
    t.cli("client gets")
    t.cli("client status")
    t.cli("client read -s LS:1:{d}/ls:0 -D")
    t.cli("client read -r LS:R0:{d}/res:0 -h 1")
    t.cli("client add_lockspace -s " + LS + " -o 1")
    t.wait_for_output("client gets -h 1", "gen 2")
    t.cli("client command -r LS:R0:{d}/res:0 -c /bin/true")


def forced_shutdown(t: Transcript) -> None:
    """Shutdown with a lockspace in use: refused, then forced."""
    holder = t.hold("holder", "LS:R0:{d}/res:0")
    t.cli("client shutdown")
    t.cli("client shutdown -f 0")
    t.cli("client status")
    t.cli("client shutdown -f 1 -w 1")
    t.end_of(holder)
    wait_until(lambda: t.host.process.poll() is not None, f"{t.host.name} ends")
    t.record(f"= the daemon's end\n{t.host.process.returncode}")
    for text in ("status", "gets", "shutdown", "version", "align -s LS:1:{d}/ls:0", "inq_lockspace -s " + LS):
        t.cli("client " + text)
    t.cli("client command -r LS:R0:{d}/res:0 -c /bin/true")
    t.cli("client read -s LS:1:{d}/ls:0")
    t.cli("client inquire -p 1")
    t.cli("client renewal -s LS")
    t.cli("client log_dump")
    t.cli("direct dump {d}/ls")


def plain_shutdown(t: Transcript) -> None:
    """Shutdown with nothing to do."""
    t.cli("client shutdown")
    wait_until(lambda: t.host.process.poll() is not None, f"{t.host.name} ends")
    t.record(f"= the daemon's end\n{t.host.process.returncode}")


def waiting_shutdown(t: Transcript) -> None:
    """The same, waited for."""
    t.cli("client shutdown -w 1")
    wait_until(lambda: t.host.process.poll() is not None, f"{t.host.name} ends")
    t.record(f"= the daemon's end\n{t.host.process.returncode}")
