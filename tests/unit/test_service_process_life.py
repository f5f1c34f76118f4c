"""The life of processes after their start: whose, until when, signals, messages (spec supervisor 6, 9, 12)."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.service.commands import Command
from holdfast.service.events import (
    Claim,
    Cleanup,
    Emptied,
    Execed,
    Exited,
    Kill,
    Notified,
    PidFileRead,
    ReadPidFile,
    Role,
    Start,
    State,
    Stop,
    StoreFds,
)
from holdfast.service.exit_status import Code, Exit, Result
from holdfast.service.process import cgroups
from holdfast.service.process.notify_socket import MESSAGES_PER_TURN
from tests.unit.process_lab import AVAILABLE, PYTHON, TRACKING, UNIT, Driven, Lab, lab, needs_root, unit_file

OTHER = "o.service"
KILLED = Exit(Code.KILLED, signal.SIGKILL)
TERMED = Exit(Code.KILLED, signal.SIGTERM)


NOBODYS_UID = 64123
BOMB_SIZE = 36


def run(
    tmp_path: Path, scene: Callable[[Lab], Awaitable[None]], tracking: str = "lineage", **settings: Any
) -> None:
    async def inside() -> None:
        async with lab(tmp_path, tracking, **settings) as it:
            await scene(it)

    asyncio.run(inside())


def python(script: str) -> str:
    """For `spawn`: an interpreter with a script that has no double quotes."""
    return f'exec {PYTHON} -c "{script}"'


def notifying(*messages: str, then: str = "") -> str:
    """A program that sends these with its own credentials."""
    sends = "".join(f"s.sendto({message!r}.encode(), a);" for message in messages)
    return python(
        "import os, socket, time; a = os.environ.get('NOTIFY_SOCKET', '@');"
        f"s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM);{sends}{then}"
    )


# -- whose, and until when -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tracking", TRACKING)
def test_all_descendants_are_members_and_the_last_one_empties_the_unit(tmp_path: Path, tracking: str) -> None:
    async def scene(it: Lab) -> None:
        file = unit_file("")
        # A child, an orphan in a session of its own, and an orphan that also forgot its environment.
        script = "sleep 100 & (setsid sleep 100 &); (setsid env -i sleep 100 &); sleep 100 & wait"
        main = await it.spawn(file, script)
        stranger = await it.spawn(unit_file("", OTHER), "/bin/sleep 100", unit=OTHER)
        members = it.host.members(UNIT)
        await it.until(lambda: len(members()) == 5, "members")
        pids = members()
        assert main in pids
        assert {it.host.unit_of(pid) for pid in pids} == {UNIT}
        # In v1 a child enters its group by itself.
        await it.until(lambda: it.host.members(OTHER)() == {stranger}, "the other unit's member")
        assert it.host.unit_of(os.getpid()) is None
        assert it.host.unit_of(1) is None
        it.host.perform(UNIT, file, Kill(frozenset({main}), 9))
        assert await it.death(main) == KILLED
        assert not it.of(Emptied)
        it.host.perform(UNIT, file, Kill(members(), 9))
        await it.until(lambda: it.of(Emptied), "emptied")
        assert members() == frozenset()
        assert it.host.members(OTHER)() == {stranger}
        assert not it.of(Exited, OTHER)

    run(tmp_path, scene, tracking)


@pytest.mark.parametrize("tracking", TRACKING)
def test_an_orphan_that_dies_is_reaped_and_told(tmp_path: Path, tracking: str) -> None:
    async def scene(it: Lab) -> None:
        pid_file = tmp_path / "pid"
        main = await it.spawn(unit_file(""), f"(sleep 0.05 & echo $! > {pid_file}); sleep 100")
        await it.until(lambda: pid_file.exists() and pid_file.read_text().strip(), "the orphan's pid")
        orphan = int(pid_file.read_text())
        assert await it.death(orphan) == Exit(Code.EXITED, 0)
        await it.until(lambda: not os.path.exists(f"/proc/{orphan}"), "reaped")
        assert main in it.host.pids(UNIT)

    run(tmp_path, scene, tracking)


def test_the_death_of_the_main_process_is_told_before_that_of_commands(tmp_path: Path) -> None:
    async def scene(it: Lab) -> None:
        file = unit_file("")
        control = await it.spawn(file, "/bin/sleep 100", main=False, role=Role.RELOAD)
        main = await it.spawn(file, "/bin/sleep 100")
        for pid in (control, main):
            os.kill(pid, signal.SIGKILL)
        for pid in (control, main):
            # Both are zombies before the loop turns again.
            while Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z":
                pass
        await it.death(control)
        assert [one.pid for one in it.of(Exited)][-2:] == [main, control]

    run(tmp_path, scene)


def test_children_of_the_supervisor_itself_are_left_alone(tmp_path: Path) -> None:
    async def scene(it: Lab) -> None:
        process = await asyncio.create_subprocess_exec("/bin/sh", "-c", "exit 7")
        await it.run("", "true")
        assert await process.wait() == 7
        assert it.host.unit_of(process.pid) is None

    run(tmp_path, scene)


def test_a_forker_that_dies_is_replaced(tmp_path: Path) -> None:
    async def scene(it: Lab) -> None:
        await it.run("", "true")
        (first,) = it.host._forker.pids
        os.kill(first, signal.SIGKILL)
        await it.until(lambda: it.host._forker.pid not in (0, first), "another forker")
        death, _lines = await it.run("", "true")
        assert death == Exit(Code.EXITED, 0)
        await it.until(lambda: not os.path.exists(f"/proc/{first}"), "the old one reaped")

    run(tmp_path, scene)


def test_two_supervisors_in_one_group_do_not_share_it(tmp_path: Path) -> None:
    if "cgroup v2" not in AVAILABLE and "cgroup v1" not in AVAILABLE:
        pytest.skip("no writable control groups: mount them, as root")
    name = f"holdfast-test-twice-{os.getpid()}"
    first, second = cgroups.find_hierarchy(name), cgroups.find_hierarchy(name)
    assert first is not None
    assert second is not None
    assert second.hierarchy.path == f"{first.hierarchy.path}-2"
    first.release()
    second.release()
    assert not os.path.exists(second.hierarchy.path)


def test_many_at_once(tmp_path: Path) -> None:
    from holdfast.service.commands import Command
    from holdfast.service.events import Spawn

    async def scene(it: Lab) -> None:
        file = unit_file("")
        names = [f"u{number}.service" for number in range(60)]
        for name in names:
            it.host.perform(name, file, Spawn(Role.START, Command("/bin/true", ("true",)), True))
        await it.until(lambda: sum(isinstance(event, Exited) for _unit, event in it.events) == 60, "60 deaths")
        assert {unit for unit, event in it.events if isinstance(event, Exited)} == set(names)

    run(tmp_path, scene)


def test_no_signal_is_lost_when_hundreds_die_at_once(tmp_path: Path) -> None:
    async def scene(it: Lab) -> None:
        heard = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, heard.set)
        file = unit_file("LimitNPROC=infinity")
        await it.spawn(file, "for i in $(seq 600); do (sleep 100 &); done; echo made; exec sleep 100")
        await it.until(lambda: it.lines, "600 orphans")
        for pid in it.host.pids(UNIT):
            os.kill(pid, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGUSR2)
        await it.until(heard.is_set, "the signal")
        await it.until(lambda: it.of(Emptied), "emptied")
        asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR2)

    run(tmp_path, scene)


# -- signals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tracking", TRACKING)
@pytest.mark.parametrize(("mode", "dead"), [("control-group", 3), ("mixed", 1), ("process", 1)])
def test_kill_modes(tmp_path: Path, tracking: str, mode: str, dead: int) -> None:
    async def scene(it: Lab) -> None:
        service = Driven(it, f"KillMode={mode}\nExecStart=/bin/sh -c 'sleep 100 & sleep 100 & wait'")
        service.tell(Start())
        await service.reach(State.RUNNING)
        await it.until(lambda: len(it.host.pids(UNIT)) == 3, "children")
        service.tell(Stop())
        await service.reach(State.DEAD)
        left = it.host.pids(UNIT)
        # Mixed: the others get SIGKILL in the final stage, at once.
        assert len(left) == (2 if mode == "process" else 0)
        await it.until(lambda: sum(one.death == TERMED for one in it.of(Exited)) == dead, "by SIGTERM")

    run(tmp_path, scene, tracking)


@pytest.mark.parametrize("tracking", TRACKING)
def test_processes_that_ignore_every_signal_end_with_sigkill(tmp_path: Path, tracking: str) -> None:
    async def scene(it: Lab) -> None:
        ignore = (
            "import signal,time; [signal.signal(n, signal.SIG_IGN) for n in range(1, 32) if n not in (9, 19, 17)];"
        )
        file = unit_file("")
        main = await it.spawn(file, python(ignore + "print('deaf', flush=True); time.sleep(100)"))
        await it.until(lambda: any(line.text == "deaf" for line in it.lines), "deaf")
        it.host.perform(UNIT, file, Kill(it.host.pids(UNIT), signal.SIGTERM, hangup=True))
        it.host.perform(UNIT, file, Kill(it.host.pids(UNIT), signal.SIGABRT))
        assert it.host.pids(UNIT) == {main}
        it.host.perform(UNIT, file, Kill(it.host.pids(UNIT), signal.SIGKILL))
        assert await it.death(main) == KILLED

    run(tmp_path, scene, tracking)


def test_a_stopped_process_gets_its_signal_and_hangup_follows(tmp_path: Path) -> None:
    async def scene(it: Lab) -> None:
        file = unit_file("")
        script = "trap 'echo term' TERM; trap 'echo hup' HUP; echo ready; while :; do sleep 0.01; done"
        main = await it.spawn(file, script)
        await it.until(lambda: it.lines, "ready")
        os.kill(main, signal.SIGSTOP)
        it.host.perform(UNIT, file, Kill(frozenset({main}), signal.SIGTERM, hangup=True))
        await it.until(lambda: len(it.lines) == 3, "both signals")
        assert {line.text for line in it.lines} == {"ready", "term", "hup"}

    run(tmp_path, scene)


@pytest.mark.parametrize("tracking", TRACKING)
def test_processes_that_are_born_faster_than_they_are_listed_end(tmp_path: Path, tracking: str) -> None:
    """A dozen at any time; each leaves a child of its own in its place, and none is there for long."""

    async def scene(it: Lab) -> None:
        file = unit_file("")
        main = await it.spawn(file, "f() { sleep 0.01; f & exit; }; for i in 1 2 3 4 5 6; do f & done; sleep 100")
        await it.until(lambda: len(it.host.pids(UNIT)) > 6, "some")
        first = it.host.pids(UNIT)
        await it.until(lambda: len(it.host.pids(UNIT) & first) <= 2, "their children")
        it.host.perform(UNIT, file, Kill(it.host.pids(UNIT) | {main}, signal.SIGKILL))
        await it.until(lambda: not it.host.pids(UNIT), "nobody left")
        await it.until(lambda: it.of(Emptied), "emptied")

    run(tmp_path, scene, tracking)


@needs_root
@pytest.mark.parametrize("tracking", TRACKING)
def test_a_bomb_is_ended(tmp_path: Path, tracking: str) -> None:
    """Whoever may be born is, at once; the limit of a user whom nobody else uses keeps it to three dozen."""
    bomb = (
        f"[[ $(id -u) = {NOBODYS_UID} && $(ulimit -u) = {BOMB_SIZE} ]] || exit 9;"
        " f() { f & f & while sleep 0.01; do sleep 0.01 & done; }; f"
    )

    async def scene(it: Lab) -> None:
        file = unit_file(f"User={NOBODYS_UID}\nLimitNPROC={BOMB_SIZE}\nNice=19")
        command = Command("/bin/bash", ("bash", "-c", bomb), expand=False)
        main = await it.spawn(file, "", command=command)
        await it.until(
            lambda: len(it.host.pids(UNIT)) >= BOMB_SIZE // 2 or main not in it.host.pids(UNIT), "it spreads"
        )
        assert main in it.host.pids(UNIT), it.lines
        it.host.perform(UNIT, file, Kill(frozenset({main}), signal.SIGKILL, everybody=True))
        await it.until(lambda: not it.host.pids(UNIT), "nobody left")
        await it.until(lambda: it.of(Emptied), "emptied")
        assert not [one for one in os.listdir("/proc") if one.isdigit() and is_bombs(one)]

    run(tmp_path, scene, tracking)


def is_bombs(pid: str) -> bool:
    """Whether somebody of that user still runs."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return f"\nUid:\t{NOBODYS_UID}\t" in status and "\nState:\tZ" not in status


@pytest.mark.parametrize("tracking", TRACKING)
def test_repeated_sigkill_spares_what_is_started_next(tmp_path: Path, tracking: str) -> None:
    async def scene(it: Lab) -> None:
        text = "KillSignal=KILL\nExecStart=/bin/sleep 100\nExecStopPost=/bin/sh -c 'sleep 0.2; echo cleaned'"
        service = Driven(it, text)
        service.tell(Start())
        await service.reach(State.RUNNING)
        await it.until(lambda: it.of(Execed), "it runs")
        service.tell(Stop())
        await service.reach(State.FAILED)
        assert [line.text for line in it.lines] == ["cleaned"]
        service.tell(Start())
        await service.reach(State.RUNNING)
        await it.until(lambda: len(it.of(Execed)) == 2 and it.host.pids(UNIT), "it runs again")
        service.tell(Stop())
        await service.reach(State.FAILED)
        assert [line.text for line in it.lines] == ["cleaned"] * 2

    run(tmp_path, scene, tracking)


def test_a_pid_that_is_somebody_elses_is_not_signalled(tmp_path: Path) -> None:
    async def scene(it: Lab) -> None:
        file = unit_file("")
        await it.spawn(file, "/bin/sleep 100")
        other = await it.spawn(unit_file("", OTHER), "/bin/sleep 100", unit=OTHER)
        it.host.perform(UNIT, file, Kill(it.host.pids(UNIT) | {other, os.getpid()}, signal.SIGTERM))
        await it.until(lambda: it.of(Emptied), "emptied")
        assert it.host.pids(OTHER) == {other}

    run(tmp_path, scene)


# -- a service, from its unit file ---------------------------------------------------------------------------


@pytest.mark.parametrize("tracking", TRACKING)
def test_forking_with_a_pid_file(tmp_path: Path, tracking: str) -> None:
    pid_file = tmp_path / "run" / "d.pid"
    pid_file.parent.mkdir()

    async def scene(it: Lab) -> None:
        script = f"(setsid sh -c 'sleep 0.05; echo $$$$ > {pid_file}; exec sleep 100' &); exit 0"
        service = Driven(it, f'Type=forking\nPIDFile={pid_file}\nExecStart=/bin/sh -c "{script}"')
        service.tell(Start())
        await service.reach(State.RUNNING)
        main = service.machine.run.main_pid
        assert main == int(pid_file.read_text())
        assert it.of(PidFileRead) == [PidFileRead(main)]
        os.kill(main, signal.SIGKILL)
        await service.reach(State.FAILED)
        assert service.machine.result is Result.SIGNAL
        assert service.machine.run.main_death == KILLED
        await it.until(lambda: not pid_file.exists(), "removed")

    run(tmp_path, scene, tracking)


@pytest.mark.parametrize("tracking", TRACKING)
def test_forking_without_a_pid_file_guesses(tmp_path: Path, tracking: str) -> None:
    async def scene(it: Lab) -> None:
        service = Driven(it, "Type=forking\nExecStart=/bin/sh -c 'setsid sleep 100 >/dev/null 2>&1 &'")
        service.tell(Start())
        await service.reach(State.RUNNING)
        main = service.machine.run.main_pid
        assert it.host.pids(UNIT) == {main}
        service.tell(Stop())
        await service.reach(State.DEAD)
        assert service.machine.run.main_death == TERMED

    run(tmp_path, scene, tracking)


@pytest.mark.parametrize("tracking", TRACKING)
def test_forking_whose_processes_all_end_without_a_pid_file(tmp_path: Path, tracking: str) -> None:
    async def scene(it: Lab) -> None:
        text = f"Type=forking\nPIDFile={tmp_path}/none\nExecStart=/bin/sh -c '(sleep 0.05 &); exit 0'"
        service = Driven(it, text)
        service.tell(Start())
        await service.reach(State.FAILED)
        assert service.machine.result is Result.PROTOCOL

    run(tmp_path, scene, tracking)


@pytest.mark.parametrize("tracking", TRACKING)
def test_notify_with_all_phases(tmp_path: Path, tracking: str) -> None:
    async def scene(it: Lab) -> None:
        program = tmp_path / "main.py"
        program.write_text(
            "import os, socket, time\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            "s.sendto(b'READY=1\\nSTATUS=fine', os.environ['NOTIFY_SOCKET'])\ntime.sleep(100)"
        )
        text = (
            "Type=notify\nExecStartPre=/bin/sh -c 'echo pre'\n"
            f"ExecStart={PYTHON} {program}\n"
            "ExecStartPost=/bin/sh -c 'echo post'\nExecReload=/bin/sh -c 'echo reload ${MAINPID}'\n"
            "ExecStop=/bin/sh -c 'echo stop ${MAINPID}'\n"
            "ExecStopPost=/bin/sh -c 'echo end ${SERVICE_RESULT} ${EXIT_CODE} ${EXIT_STATUS}'"
        )
        service = Driven(it, text)
        service.tell(Start())
        await service.reach(State.RUNNING)
        assert service.machine.run.status_text == "fine"
        pid = service.machine.run.main_pid
        from holdfast.service.events import Reload

        service.tell(Reload())
        await it.until(lambda: State.RELOAD in service.states and service.machine.state is State.RUNNING)
        service.tell(Stop())
        await service.reach(State.DEAD)
        assert [line.text for line in it.lines] == [
            "pre", "post", f"reload {pid}", f"stop {pid}", "end success killed TERM",
        ]  # fmt: skip
        assert service.machine.result is Result.SUCCESS

    run(tmp_path, scene, tracking)


def test_exec_that_fails(tmp_path: Path) -> None:
    async def scene(it: Lab) -> None:
        service = Driven(it, "Type=exec\nExecStart=/nonexistent")
        service.tell(Start())
        await service.reach(State.FAILED)
        assert State.RUNNING not in service.states
        assert service.machine.run.main_death == Exit(Code.EXITED, 203)
        good = Driven(it, "Type=exec\nExecStart=/bin/sleep 100", OTHER)
        good.tell(Start())
        await good.reach(State.RUNNING)

    run(tmp_path, scene)


# -- PID files -----------------------------------------------------------------------------------------------


@needs_root
def test_rules_of_pid_files(tmp_path: Path) -> None:
    async def scene(it: Lab) -> None:
        file = unit_file("Type=forking\nPIDFile=/run/x")
        main = await it.spawn(file, "/bin/sleep 100", main=False)
        foreign = await it.spawn(unit_file("", OTHER), "/bin/sleep 100", unit=OTHER)
        path = tmp_path / "pid"

        async def refused(text: str, why: str) -> None:
            it.logs.clear()
            path.write_text(text)
            it.host.perform(UNIT, file, ReadPidFile(str(path)))
            await it.until(lambda: it.said(why), why)
            assert not it.of(PidFileRead)

        await refused("abc\n", "Failed to parse PID from file")
        await refused("1\n", "is the manager, refusing")
        await refused(f"{os.getpid()}\n", "is the manager, refusing")
        await refused("4194303\n", "does not exist or is a zombie")
        os.chown(path, 1, 1)
        await refused(f"{foreign}\n", "does not belong to service, and PID file is not owned by root")
        it.host.perform(UNIT, file, ReadPidFile(str(path)))
        path.write_text(f"{main}\n")
        await it.until(lambda: it.of(PidFileRead) == [PidFileRead(main)], "own process, file of anybody")

        link = tmp_path / "link"
        link.symlink_to(path)
        os.chown(link, 1, 1, follow_symlinks=False)
        it.host.perform(UNIT, file, ReadPidFile(str(link)))
        await it.until(lambda: it.said("reached through a link"), "link of an unprivileged user")
        os.chown(link, 0, 0, follow_symlinks=False)
        os.chown(path, 0, 0)
        path.write_text(f"{foreign}\n")
        await it.until(lambda: len(it.of(PidFileRead)) == 2, "foreign process, file of root")
        assert it.said("but we'll accept it as PID file is owned by root")

    run(tmp_path, scene)


def test_a_pid_file_in_a_directory_that_comes_later(tmp_path: Path) -> None:
    async def scene(it: Lab) -> None:
        file = unit_file("Type=forking\nPIDFile=/run/x")
        main = await it.spawn(file, "/bin/sleep 100", main=False)
        it.host.perform(UNIT, file, ReadPidFile(f"{tmp_path}/a/b/pid"))
        await it.until(lambda: it.said("Can't open PID file"), "first look")
        (tmp_path / "a").mkdir()
        await asyncio.sleep(0)
        (tmp_path / "a" / "b").mkdir()
        (tmp_path / "a" / "b" / "pid").write_text(str(main))
        await it.until(lambda: it.of(PidFileRead) == [PidFileRead(main)], "read")
        os.mkfifo(tmp_path / "fifo")
        it.host.perform(UNIT, file, ReadPidFile(f"{tmp_path}/fifo"))
        await it.until(lambda: it.said("is no regular file"), "a pipe does not hold anybody up")

    run(tmp_path, scene)


# -- messages ------------------------------------------------------------------------------------------------


def send(it: Lab, data: bytes, fds: list[int] | None = None) -> None:
    """From this process, which is in no unit."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect(it.host.settings.notify_socket)
        socket.send_fds(sock, [data], fds or [])


@pytest.mark.parametrize("tracking", TRACKING)
def test_messages_are_attributed(tmp_path: Path, tracking: str) -> None:
    async def scene(it: Lab) -> None:
        child = notifying("X_CHILD=1", then="time.sleep(100)").removeprefix("exec ").replace('"', '\\"')
        main = await it.spawn(unit_file(""), notifying("READY=1", then="time.sleep(100)"), notify=True)
        await it.until(lambda: it.of(Notified), "message")
        (message,) = it.of(Notified)
        assert (message.pid, message.uid, dict(message.fields)) == (main, os.geteuid(), {"READY": "1"})
        send(it, b"READY=1")
        await it.spawn(unit_file("", OTHER), f'sh -c "{child} & wait"; sleep 100', unit=OTHER, notify=True)
        await it.until(lambda: it.of(Notified, OTHER), "a grandchild's message")
        assert it.of(Notified, OTHER)[0].pid in {one.pid for one in it.of(Exited, OTHER)} | it.host.pids(OTHER) | {
            it.of(Notified, OTHER)[0].pid
        }
        assert it.of(Notified) == [message]

    run(tmp_path, scene, tracking)


def test_what_a_dying_process_said_comes_before_its_death(tmp_path: Path) -> None:
    async def scene(it: Lab) -> None:
        main = await it.spawn(
            unit_file(""), notifying("STATUS=bye", then="print('gone', flush=True)"), notify=True
        )
        await it.death(main)
        kinds = [type(event) for _unit, event in it.events]
        assert kinds.index(Notified) < kinds.index(Exited)
        assert [line.text for line in it.lines] == ["gone"]

    run(tmp_path, scene)


@pytest.mark.parametrize("tracking", TRACKING)
def test_a_sender_that_is_gone_already_is_still_known(tmp_path: Path, tracking: str) -> None:
    async def scene(it: Lab) -> None:
        # The child is reaped by its parent before the loop turns again.
        script = (
            "import os, socket, time\nif os.fork() == 0:\n"
            " s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            " s.sendto(b'X_LATE=1', os.environ['NOTIFY_SOCKET'])\n os._exit(0)\n"
            f"os.wait(); open('{tmp_path}/done', 'w').close(); time.sleep(100)"
        )
        (tmp_path / "late.py").write_text(script)
        await it.spawn(unit_file(""), f"exec {PYTHON} {tmp_path}/late.py", notify=True)
        while not (tmp_path / "done").exists():
            pass
        if tracking == "cgroup v2":
            await it.until(lambda: it.of(Notified), "late message")
        else:
            # Nothing on this kernel tells: it is lost, as with the original.
            await it.until(lambda: it.host._notify._warnings or it.of(Notified), "looked at")

    run(tmp_path, scene, tracking)


def test_claims_of_a_main_pid(tmp_path: Path) -> None:
    async def scene(it: Lab) -> None:
        foreign = await it.spawn(unit_file("", OTHER), "/bin/sleep 100", unit=OTHER)
        main = await it.spawn(unit_file(""), "/bin/sleep 100")
        script = notifying(
            f"MAINPID={foreign}", f"MAINPID={main}", "MAINPID=4194303", f"MAINPID={os.getpid()}", "MAINPID=x",
            "MAINPID=99999999999999999999", "MAINPID=0",
        )  # fmt: skip
        await it.spawn(unit_file(""), script, notify=True, main=False)
        await it.until(lambda: len(it.of(Notified)) == 7, "seven")
        claims = [one.claim for one in it.of(Notified)]
        assert claims == [
            Claim(foreign, True, False, True, False),
            Claim(main, True, True, True, False),
            Claim(4194303, False, False, False, False),
            Claim(os.getpid(), True, False, False, True),
            None,
            None,
            Claim(0, False, False, False, False),
        ]

    run(tmp_path, scene)


@needs_root
def test_root_takes_another_units_process_and_both_hear_of_its_end(tmp_path: Path) -> None:
    async def scene(it: Lab) -> None:
        foreign = await it.spawn(unit_file("", OTHER), "/bin/sleep 100", unit=OTHER)
        await it.spawn(unit_file(""), notifying(f"MAINPID={foreign}", then="time.sleep(100)"), notify=True)
        await it.until(lambda: it.of(Notified), "claim")
        os.kill(foreign, signal.SIGKILL)
        assert await it.death(foreign, OTHER) == KILLED
        assert await it.death(foreign) == KILLED

    run(tmp_path, scene)


@needs_root
def test_credentials_cannot_be_forged_without_the_right(tmp_path: Path) -> None:
    async def scene(it: Lab) -> None:
        victim = await it.spawn(unit_file("", OTHER), "/bin/sleep 100", unit=OTHER)
        forge = tmp_path / "forge.py"
        forge.write_text(
            "import os, socket, struct\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            f"who = struct.pack('3i', {victim}, os.getuid(), os.getgid())\n"
            "c = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, who)]\n"
            "try: s.sendmsg([b'READY=1'], c, 0, os.environ['NOTIFY_SOCKET'].replace('@', chr(0)))\n"
            "except PermissionError: print('refused')\n"
        )
        text = forge.read_text().replace("\n", "\\n").replace("'", '"')
        death, lines = await it.run("User=nobody", f"printf '{text}' | /usr/bin/python3 -I", notify=True)
        assert (death.status, lines) == (0, ["refused"])
        assert not it.of(Notified, OTHER)
        death, lines = await it.run("", f"exec {PYTHON} {forge}", notify=True)
        await it.until(lambda: [one.pid for one in it.of(Notified, OTHER)] == [victim], "root may")

    # A path would be refused for its directories already.
    run(tmp_path, scene, notify_socket=f"@holdfast-test-{os.getpid()}")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"STATUS=" + b"x" * 4090, "exceeded maximum size"),
        (b"STATUS=" + b"x" * 100_000, "exceeded maximum size"),
        (b"READY=1\0STATUS=x", "embedded NUL"),
        (b"READY=1", "Cannot find unit for notify message"),
        (b"BARRIER=1\nREADY=1", "Got BARRIER=1 with other assignments"),
    ],
)
def test_messages_that_are_ignored(
    tmp_path: Path, data: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(it: Lab) -> None:
        ours, theirs = os.pipe()
        try:
            send(it, data, [theirs])
        finally:
            os.close(theirs)
        await it.until(lambda: why in caplog.text, why)
        assert os.read(ours, 1) == b""  # The descriptor is closed.
        os.close(ours)

    run(tmp_path, scene)


def test_barrier_is_answered_for_anybody(tmp_path: Path) -> None:
    async def scene(it: Lab) -> None:
        ours, theirs = os.pipe()
        send(it, b"BARRIER=1", [theirs])
        os.close(theirs)
        reached = asyncio.Event()
        asyncio.get_running_loop().add_reader(ours, reached.set)
        async with asyncio.timeout(30):
            await reached.wait()
        asyncio.get_running_loop().remove_reader(ours)
        os.close(ours)

    run(tmp_path, scene)


def test_a_flood_leaves_the_others_their_turn(tmp_path: Path) -> None:
    """In between the messages each turn of the loop belongs to everybody."""
    count = 20_000

    async def scene(it: Lab) -> None:
        most = 0
        seen = turns = 0
        flood = notifying(then=f"[s.sendto(b'STATUS=x', a) for _ in range({count})]")
        await it.spawn(unit_file(""), flood, notify=True)
        await it.spawn(unit_file("", OTHER), "while :; do echo tick; sleep 0.01; done", unit=OTHER)
        arrived = 0

        ended = False

        def take(unit: str, event: object) -> None:
            nonlocal arrived, ended
            arrived += isinstance(event, Notified)
            ended = ended or isinstance(event, Exited)
            it.events.clear()

        it.on_event = take
        while not ended:
            await asyncio.sleep(0)
            most, seen, turns = max(most, arrived - seen), arrived, turns + 1
        assert arrived == count
        assert turns > count / MESSAGES_PER_TURN / 4
        assert most <= 2 * MESSAGES_PER_TURN + it.host._notify._queue_length
        assert any(line.text == "tick" for line in it.lines)

    run(tmp_path, scene)


# -- the descriptor store ------------------------------------------------------------------------------------


def test_messages_wait_for_the_process_that_is_being_started(tmp_path: Path) -> None:
    """Its descriptors with it: the rules may not see it before they know the process."""
    from holdfast.service.commands import Command
    from holdfast.service.events import Spawn, Spawned

    async def scene(it: Lab) -> None:
        file = unit_file("FileDescriptorStoreMax=3")

        def store(unit: str, event: object) -> None:
            if isinstance(event, Notified):
                it.host.perform(UNIT, file, StoreFds(event.fields["FDNAME"]))

        it.on_event = store
        script = tmp_path / "store.py"
        script.write_text(
            "import os, socket, time\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            "s.connect(os.environ['NOTIFY_SOCKET'])\n"
            "for n in '12': socket.send_fds(s, [b'FDSTORE=1\\nFDNAME=n' + n.encode()], [os.memfd_create(n)])\n"
            f"open('{tmp_path}/sent', 'w').close()\ntime.sleep(100)"
        )
        await it.spawn(file, f"exec {PYTHON} {script}", notify=True)
        while not (tmp_path / "sent").exists():
            pass
        it.host.perform(UNIT, file, Spawn(Role.START_POST, Command("/bin/true", ("true",)), False))
        it.host._notify.drain()
        assert not it.of(Notified)
        await it.until(lambda: it.host.stored_fds(UNIT) == 2, "both stored")
        kinds = [type(event) for _unit, event in it.events]
        assert kinds.index(Notified) > [at for at, kind in enumerate(kinds) if kind is Spawned][1]

    run(tmp_path, scene)


def test_stored_descriptors(tmp_path: Path) -> None:
    async def scene(it: Lab) -> None:
        file = unit_file("FileDescriptorStoreMax=3")

        def store(unit: str, event: object) -> None:
            if isinstance(event, Notified):
                poll = event.fields.get("FDPOLL") != "0"
                name = event.fields.get("FDNAME", "stored")
                if "FDSTORE" in event.fields:
                    it.host.perform(UNIT, file, StoreFds(name, poll))
                if "FDSTOREREMOVE" in event.fields:
                    it.host.perform(UNIT, file, StoreFds(name, remove=True))

        it.on_event = store
        script = tmp_path / "store.py"
        script.write_text(
            "import os, socket, time\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            "s.connect(os.environ['NOTIFY_SOCKET'])\n"
            "def put(text, *fds): socket.send_fds(s, [text], list(fds))\n"
            "a, b = socket.socketpair()\nf = os.memfd_create('x'); g = os.memfd_create('y')\n"
            "put(b'FDSTORE=1\\nFDNAME=foo', f)\nput(b'FDSTORE=1\\nFDNAME=again', f)\n"
            "put(b'FDSTORE=1', a.fileno())\nput(b'FDSTORE=1\\nFDNAME=many', g, b.fileno(), f)\n"
            "put(b'X=1', g)\nput(b'FDSTORE=1\\nFDNAME=late', g, os.memfd_create('z'))\n"
            "time.sleep(100)"
        )
        await it.spawn(file, f"exec {PYTHON} {script}", notify=True)
        await it.until(lambda: len(it.of(Notified)) == 6, "six messages")
        assert [name for name, _fd in it.host._store.of(UNIT)] == ["many", "stored", "foo"]
        assert it.said("Cannot store more fds than FileDescriptorStoreMax=3, closing remaining.")
        await it.until(lambda: it.said("Got extra auxiliary fds"), "extra")
        it.host.perform(UNIT, file, Kill(it.host.pids(UNIT), 9))
        # The socket's other end is gone with the process; memory files have no end.
        await it.until(lambda: [name for name, _fd in it.host._store.of(UNIT)] == ["many", "foo"], "hang-up")
        it.host.perform(UNIT, file, Cleanup(True))
        _death, lines = await it.run("FileDescriptorStoreMax=3", "echo $LISTEN_FDNAMES")
        assert lines == ["many:foo"]
        it.host.perform(UNIT, file, StoreFds("many", remove=True))
        assert it.host.stored_fds(UNIT) == 1
        it.host.perform(UNIT, file, Cleanup(False))
        assert it.host.stored_fds(UNIT) == 0

    run(tmp_path, scene)
