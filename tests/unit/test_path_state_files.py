"""The files below /etc/multipath: reading, writing, locks, hostile content."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest

from holdfast.path import state_files
from holdfast.path.bindings import HEADER, Bindings, BindingsFile, number_of, suffix
from holdfast.path.prkeys import PrkeysFile, ReservationKey
from holdfast.path.state_files import StateFileError, locked
from holdfast.path.wwids import FailedWwids, WwidsFile


def never(_alias: str) -> bool:
    return False


@pytest.mark.parametrize(
    ("number", "letters"), [(1, "a"), (26, "z"), (27, "aa"), (52, "az"), (53, "ba"), (703, "aaa")]
)
def test_suffixes(number: int, letters: str) -> None:
    assert suffix(number) == letters
    assert number_of(f"mpath{letters}", "mpath") == number


def test_no_number() -> None:
    assert [number_of(alias, "mpath") for alias in ("mpath", "mpath1", "mpathA", "other", "mpathaaaaaaa")] == [
        None
    ] * 5


def test_lowest_free_alias_is_taken() -> None:
    bindings = Bindings.parse("mpatha 1\nmpathc 3\n")
    assert bindings.allocate("2", "mpath", never) == "mpathb"
    assert bindings.allocate("4", "mpath", lambda alias: alias == "mpathd") == "mpathe"
    assert bindings.allocate("3", "mpath", never) == "mpathc"
    assert bindings.allocate("3", "disk", never) == "diska"


def test_order_of_lines() -> None:
    bindings = Bindings()
    for alias in ("mpathaa", "mpathb", "zz", "mpatha"):
        bindings.bind(alias, alias)
    assert bindings.render() == HEADER + "zz zz\nmpatha mpatha\nmpathb mpathb\nmpathaa mpathaa\n"


def test_what_is_wrong_in_bindings() -> None:
    text = f"mpatha 1 # two\nmpathb\nmpathc 3 x y\nmpatha 2\n \t\nmpathd {'w' * 128}\nyellow 5\n"
    bindings = Bindings.parse(text, {"yellow": "6"})
    assert bindings.wwids == {"mpatha": "1", "mpathc": "3"}
    assert bindings.remarks[:2] == [
        "invalid line 2 in bindings file, missing WWID",
        'invalid line 3 in bindings file, extra args "x"',
    ]
    assert bindings.changed


@pytest.mark.parametrize("wwid", ["", "a b", "a\nb", "a#b", "w" * 128])
def test_wwids_that_would_break_a_line(wwid: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        Bindings().allocate(wwid, "mpath", never)
    with pytest.raises(ValueError):
        WwidsFile(str(tmp_path / "wwids")).add(wwid)
    with pytest.raises(ValueError):
        PrkeysFile(str(tmp_path / "prkeys")).set(wwid, ReservationKey(1))


def test_alias_of_another_map_is_not_taken_over() -> None:
    bindings = Bindings.parse("mpatha 1\n")
    with pytest.raises(ValueError):
        bindings.bind("mpatha", "2")


def test_modes_and_header(tmp_path: Path) -> None:
    file = BindingsFile(str(tmp_path / "multipath" / "bindings"))
    assert file.load().wwids == {}
    assert Path(file.path).read_text() == HEADER
    assert stat.S_IMODE(os.stat(file.path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "multipath").st_mode) == 0o700
    file.allocate(["1"], "mpath", never)
    assert stat.S_IMODE(os.stat(file.path).st_mode) == 0o600
    assert os.listdir(tmp_path / "multipath") == ["bindings"]


def test_failed_replacement_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = BindingsFile(str(tmp_path / "bindings"))
    file.allocate(["1"], "mpath", never)
    before = Path(file.path).read_bytes()

    def full(_fd: int, _data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StateFileError):
        file.allocate(["2"], "mpath", never)
    assert Path(file.path).read_bytes() == before
    assert os.listdir(tmp_path) == ["bindings"]


def test_symbolic_link_stays(tmp_path: Path) -> None:
    (tmp_path / "real").write_text(HEADER)
    (tmp_path / "bindings").symlink_to("real")
    BindingsFile(str(tmp_path / "bindings")).allocate(["1"], "mpath", never)
    assert (tmp_path / "bindings").is_symlink()
    assert (tmp_path / "real").read_text() == HEADER + "mpatha 1\n"


def test_read_only_bindings(tmp_path: Path) -> None:
    path = tmp_path / "bindings"
    path.write_text(HEADER + "mpatha 1\n")
    file = BindingsFile(str(path), read_only=True)
    assert file.allocate(["1", "2"], "mpath", never) == {"1": "mpatha"}
    assert path.read_text() == HEADER + "mpatha 1\n"


def test_lock_of_another_process_is_respected(tmp_path: Path) -> None:
    path = str(tmp_path / "wwids")
    ready, done = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:  # fcntl locks belong to processes: a thread would not do.
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        fcntl.lockf(fd, fcntl.LOCK_EX)
        os.write(ready[1], b"x")
        os.read(done[0], 1)
        os._exit(0)
    try:
        os.read(ready[0], 1)
        with pytest.raises(StateFileError) as caught, locked(path, b"", timeout_s=0.0):
            pass
        assert caught.value.errno == errno.ETIMEDOUT
        os.write(done[1], b"x")
        os.waitpid(pid, 0)
        assert WwidsFile(path).add("1")
    finally:
        for fd in (*ready, *done):
            os.close(fd)


def test_file_that_is_replaced_while_we_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bindings"
    path.write_text("mpatha 1\n")
    real = state_files._lock
    turns: list[int] = []

    def replaced_first(file: state_files.LockedFile, deadline: float) -> None:
        real(file, deadline)
        if not turns:
            turns.append(1)
            state_files.replace(str(path), b"mpatha 2\n")

    monkeypatch.setattr(state_files, "_lock", replaced_first)
    assert BindingsFile(str(path)).load().wwids == {"mpatha": "2"}


def test_no_descriptor_is_lost(tmp_path: Path) -> None:
    (tmp_path / "fifo").touch()
    os.unlink(tmp_path / "fifo")
    os.mkfifo(tmp_path / "fifo")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StateFileError):
        WwidsFile(str(tmp_path / "fifo")).load()
    assert len(os.listdir("/proc/self/fd")) == before


def test_long_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_files, "MAX_BYTES", 100)
    (tmp_path / "wwids").write_bytes(b"x" * 101)
    with pytest.raises(StateFileError):
        WwidsFile(str(tmp_path / "wwids")).load()


def test_wwids_are_struck_out_in_place(tmp_path: Path) -> None:
    path = tmp_path / "wwids"
    path.write_bytes(b"# x\n/a/\n/ab/\n/a/\nunfinished")
    file = WwidsFile(str(path))
    assert file.load() == {"a", "ab"}
    assert file.remove("a")
    assert not file.remove("a")
    assert file.add("b")
    assert path.read_bytes() == b"# x\n#a/\n/ab/\n#a/\nunfinished\n/b/\n"


def test_threads_take_turns(tmp_path: Path) -> None:
    path = str(tmp_path / "bindings")
    begin = threading.Barrier(8)

    def allocate(wwid: str) -> None:
        begin.wait(timeout=30)
        BindingsFile(path).allocate([wwid], "mpath", never)

    threads = [threading.Thread(target=allocate, args=(str(at),)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(BindingsFile(path).load().wwids) == [f"mpath{letter}" for letter in "abcdefgh"]


def test_prkeys_are_not_made_by_reading(tmp_path: Path) -> None:
    file = PrkeysFile(str(tmp_path / "prkeys"))
    assert file.load() == {}
    assert not os.path.exists(file.path)
    file.set("a", ReservationKey(1))
    assert file.load() == {"a": ReservationKey(1)}


def test_prkeys_of_other_writers(tmp_path: Path) -> None:
    path = tmp_path / "prkeys"
    path.write_bytes(b"# c\n0x0000000000000001 a\n0X2 b\n0x0000000000000000 z\nrubbish\n#x0000000000000009 d\n")
    file = PrkeysFile(str(path))
    assert file.load() == {"a": ReservationKey(1), "b": ReservationKey(2, True)}
    file.set("d", ReservationKey(4))
    file.set("b", ReservationKey(3))
    assert path.read_bytes() == (
        b"# c\n0x0000000000000001 a\n#X2 b\n0x0000000000000000 z\nrubbish\n0x0000000000000004 d\n"
        b"0x0000000000000003 b\n"
    )


@pytest.mark.parametrize("wwid", ["", ".", "..", "a/b", "a\0b", "w" * 128])
def test_failed_wwid_never_leaves_its_directory(wwid: str, tmp_path: Path) -> None:
    failed = FailedWwids(str(tmp_path / "failed"))
    with pytest.raises(ValueError):
        failed.add(wwid)
    assert wwid not in failed


def test_failed_wwids(tmp_path: Path) -> None:
    failed = FailedWwids(str(tmp_path / "run" / "failed"))
    assert "a" not in failed
    assert [failed.add("a"), failed.add("a"), "a" in failed, failed.remove("a"), failed.remove("a")] == [
        True,
        False,
        True,
        True,
        False,
    ]
