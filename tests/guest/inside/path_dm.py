"""`holdfast.path.dm.Control` on a real kernel: `path_dm.py DEV_T DEV_T DEV_T DEV_T SECTORS`.

Every step asserts; the last line says `all steps passed`. Devices are four paths of one logical unit.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from holdfast.path import dm_text
from holdfast.path.dm import Control, DmError, MapState
from holdfast.path.dm_text import GroupLine, PathLine, Table
from holdfast.path.dm_wire import FIRST_BUFFER, Flag, dev_text
from holdfast.path.kernel import ThreadedKernel, reload_map
from holdfast.path.states import DmState, GroupState

PATIENCE_S = 20.0
NAME, UUID = "hftest", "mpath-hftest"
MANY_GROUPS = 900
"""So many that the table does not fit into the first buffer."""


def step(name: str) -> None:
    print(f"step: {name}", flush=True)


def refused(number: int, call: Callable[..., object], *arguments: object) -> None:
    """That call is answered with that errno."""
    told = refusal(call, *arguments)
    assert told == number, f"{arguments}: {errno.errorcode.get(told or 0)} instead of {errno.errorcode[number]}"


def refusal(call: Callable[..., object], *arguments: object) -> int | None:
    """The errno; None: the call was accepted."""
    try:
        call(*arguments)
    except DmError as error:
        return error.errno
    return None


def until(what: Callable[[], bool], name: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, name
        time.sleep(0.02)


def table_of(groups: list[list[str]]) -> Table:
    lines = tuple(GroupLine("service-time", tuple(PathLine(dev_t, ("1",)) for dev_t in each)) for each in groups)
    return Table(lines)


def as_shown(table: Table) -> Table:
    """The kernel adds service-time's throughput to each path."""
    groups = tuple(
        replace(group, paths=tuple(replace(path, args=(*path.args, "1")) for path in group.paths))
        for group in table.groups
    )
    return replace(table, groups=groups)


def readable(dm: Control, wait_ms: int = 0) -> bool:
    poll = select.poll()
    poll.register(dm.fileno(), select.POLLIN)
    return bool(poll.poll(wait_ms))


def versions(dm: Control) -> None:
    step("versions")
    assert dm.version() >= (4, 37, 0)
    assert "multipath" in dm.target_versions()
    assert dm.list_devices() == []


def creation(dm: Control, table: Table, length: int) -> None:
    step("create, load, resume")
    refused(errno.ENXIO, dm.info, NAME)
    refused(errno.ENXIO, dm.read_map, NAME)
    refused(errno.ENXIO, dm.remove, NAME)
    refused(errno.ENXIO, dm.load, NAME, length, table)
    info = dm.create(NAME, UUID)
    assert (info.name, info.uuid, info.event_nr, info.open_count, info.has_table) == (NAME, UUID, 0, 0, False)
    refused(errno.EBUSY, dm.create, NAME, "mpath-another")
    refused(errno.EBUSY, dm.create, "another", UUID)
    refused(errno.EINVAL, dm.read_map, NAME)
    refused(
        errno.EINVAL, dm.load, NAME, length, replace(table, groups=(GroupLine("no-such", table.groups[0].paths),))
    )
    refused(errno.ENXIO, dm.load, NAME, length, table_of([["240:99"]]))
    dm.load(NAME, length, table)
    assert not dm.info(NAME).has_table, "loaded, not yet in use"
    dm.resume(NAME)
    state = dm.read_map(NAME)
    assert state.info.has_table
    assert not state.info.is_suspended
    assert not state.info.is_readonly
    assert state.length == length
    assert state.table == as_shown(table), f"{state.table}\n{as_shown(table)}"
    assert [path.state for group in state.status.groups for path in group.paths] == [DmState.ACTIVE] * 4
    (listed,) = dm.list_devices()
    assert (listed.name, listed.uuid, listed.event_nr, listed.dev) == (NAME, UUID, 0, state.info.dev)
    numbers = sorted(path.dev_t for group in table.groups for path in group.paths)
    assert sorted(map(dev_text, dm.dependencies(NAME))) == numbers


def messages(dm: Control, paths: list[str]) -> None:
    step("messages")
    first = paths[0]
    event = dm.info(NAME).event_nr

    def path_state() -> tuple[DmState, int]:
        found = dm.read_map(NAME).status.path(first)
        assert found is not None
        return found.state, found.fail_count

    dm.message(NAME, dm_text.fail_path(first))
    assert path_state() == (DmState.FAILED, 1)
    until(lambda: dm.info(NAME).event_nr == event + 1, "event of fail_path")
    dm.message(NAME, dm_text.fail_path(first))
    assert path_state() == (DmState.FAILED, 1), "a failed path is failed once"
    dm.message(NAME, dm_text.reinstate_path(first))
    assert path_state() == (DmState.ACTIVE, 1)
    until(lambda: dm.info(NAME).event_nr == event + 2, "event of reinstate_path")
    assert not dm.read_map(NAME).table.queues
    dm.message(NAME, dm_text.QUEUE_IF_NO_PATH)
    assert dm.read_map(NAME).table.queues
    dm.message(NAME, dm_text.FAIL_IF_NO_PATH)
    assert not dm.read_map(NAME).table.queues
    dm.message(NAME, dm_text.disable_group(2))
    assert dm.read_map(NAME).status.groups[1].state is GroupState.DISABLED
    dm.message(NAME, dm_text.enable_group(2))
    assert dm.read_map(NAME).status.groups[1].state is GroupState.ENABLED
    dm.message(NAME, dm_text.switch_group(2))
    read_through(dm)
    assert dm.read_map(NAME).status.groups[1].state is GroupState.ACTIVE
    dm.message(NAME, dm_text.switch_group(1))
    refused(errno.ENXIO, dm.message, NAME, dm_text.fail_path("240:99"))
    for wrong in (dm_text.switch_group(99), "nonsense", "fail_path", "switch_group x"):
        refused(errno.EINVAL, dm.message, NAME, wrong)
    refused(errno.ENXIO, dm.message, "nobody", dm_text.QUEUE_IF_NO_PATH)
    assert dm.info(NAME).event_nr >= event + 2


def read_through(dm: Control) -> None:
    """One block of the map, past the cache."""
    device = f"/dev/hftest-{os.getpid()}"
    os.mknod(device, 0o600 | 0o060000, dm.info(NAME).dev)
    try:
        fd = os.open(device, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            assert len(os.pread(fd, 4096, 0)) == 4096
        finally:
            os.close(fd)
    finally:
        os.unlink(device)


def suspension(dm: Control) -> None:
    step("suspend, rename, remove")
    dm.suspend(NAME)
    assert dm.info(NAME).is_suspended
    refused(errno.EBUSY, dm.message, NAME, dm_text.QUEUE_IF_NO_PATH)
    dm.resume(NAME)
    assert not dm.info(NAME).is_suspended
    dm.create("second", "mpath-second")
    refused(errno.EBUSY, dm.rename, NAME, "second")
    dm.remove("second")
    dm.rename(NAME, "renamed")
    refused(errno.ENXIO, dm.info, NAME)
    assert dm.info("renamed").uuid == UUID
    dm.rename("renamed", NAME)


def events(dm: Control, first: str) -> None:
    step("events")
    with Control() as watcher:
        watcher.arm()
        assert not readable(watcher)
        before = {listed.name: listed.event_nr for listed in watcher.list_devices()}
        dm.message(NAME, dm_text.fail_path(first))
        assert readable(watcher, 5000)
        assert readable(watcher), "it stays readable until it is armed again"
        watcher.arm()
        assert not readable(watcher)
        after = {listed.name: listed.event_nr for listed in watcher.list_devices()}
        assert after[NAME] == (before[NAME] or 0) + 1
        dm.message(NAME, dm_text.QUEUE_IF_NO_PATH)
        dm.message(NAME, dm_text.FAIL_IF_NO_PATH)
        assert not readable(watcher, 300), "queueing is no event"
        dm.create("second", "mpath-second")
        assert readable(watcher, 5000), "a new device is told"
        watcher.arm()
        dm.remove("second")
        assert readable(watcher, 5000), "a removed device is told"
    found: list[int] = []
    now = dm.info(NAME).event_nr

    def wait() -> None:
        with Control() as waiting:
            found.append(waiting.wait(NAME, now))

    thread = threading.Thread(target=wait)
    thread.start()
    dm.message(NAME, dm_text.reinstate_path(first))
    thread.join(PATIENCE_S)
    assert found == [now + 1], found


def large_answers(dm: Control, first: str, length: int) -> None:
    step("answers that do not fit")
    large = table_of([[first]] * MANY_GROUPS)
    assert len(dm_text.format_table(large)) > FIRST_BUFFER
    dm.load(NAME, length, large)
    dm.resume(NAME)
    state = dm.read_map(NAME)
    assert state.table == as_shown(large)
    assert len(state.status.groups) == MANY_GROUPS
    names = [f"many-{number}" for number in range(150)]
    for name in names:
        dm.create(name, f"mpath-{name}-{'x' * 90}")
    assert sorted(listed.name for listed in dm.list_devices()) == sorted([NAME, *names])
    assert all((listed.uuid or "").startswith("mpath-") for listed in dm.list_devices())
    for name in names:
        dm.remove(name)


def refused_reload(dm: Control, table: Table, length: int) -> None:
    step("a reload that is refused")
    reload_map(dm, NAME, length, table)
    refused(errno.EINVAL, reload_map, dm, NAME, length * 1000, table)
    assert dm.read_map(NAME).table == as_shown(table), "the old table is in force"
    assert not dm.info(NAME).is_suspended


async def threaded(dm: Control, table: Table, length: int) -> None:
    step("through threads")
    kernel = ThreadedKernel(dm)
    state: MapState = await kernel.read_map(NAME)
    assert state.table == as_shown(table)
    await kernel.reload(NAME, length, replace(table, features=(dm_text.QUEUE_IF_NO_PATH,)))
    assert (await kernel.read_map(NAME)).table.queues
    await kernel.message(NAME, dm_text.FAIL_IF_NO_PATH)
    code = None
    try:
        await kernel.read_map("nobody")
    except DmError as error:
        code = error.errno
    assert code == errno.ENXIO
    kernel.close()


def removal(dm: Control) -> None:
    step("removal of an open device")
    device = f"/dev/hftest-{os.getpid()}"
    os.mknod(device, 0o600 | 0o060000, dm.info(NAME).dev)
    fd = os.open(device, os.O_RDONLY)
    assert dm.info(NAME).open_count == 1
    refused(errno.EBUSY, dm.remove, NAME)
    dm.remove(NAME, deferred=True)
    assert dm.info(NAME).name == NAME, "it waits for its last user"
    os.close(fd)
    os.unlink(device)
    until(lambda: NAME not in [listed.name for listed in dm.list_devices()], "deferred removal")
    refused(errno.ENXIO, dm.remove, NAME)


def flags(dm: Control, table: Table, length: int) -> None:
    step("read-only")
    dm.create("readonly", "mpath-readonly")
    dm.load("readonly", length, table, readonly=True)
    dm.resume("readonly", Flag.NOFLUSH | Flag.SKIP_LOCKFS)
    assert dm.read_map("readonly").info.is_readonly
    dm.remove("readonly")


def main() -> None:
    paths, length = sys.argv[1:5], int(sys.argv[5])
    table = table_of([paths[:2], paths[2:]])
    with Control() as dm:
        versions(dm)
        creation(dm, table, length)
        messages(dm, paths)
        suspension(dm)
        events(dm, paths[0])
        large_answers(dm, paths[0], length)
        refused_reload(dm, table, length)
        asyncio.run(threaded(dm, table, length))
        removal(dm)
        flags(dm, table, length)
        assert dm.list_devices() == []
    print("all steps passed", flush=True)


if __name__ == "__main__":
    main()
