"""What services print: bounded turns, the limit of lines, files that outlive processes and managers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from holdfast.service import log_files
from holdfast.service.manager import log_store
from holdfast.service.manager.log_store import LogStore
from holdfast.service.process import output
from holdfast.service.process.log_limit import LogLimit
from holdfast.service.process.output import Line, OutputPipe
from holdfast.service.settings import ExecSettings
from holdfast.testing.virtual_loop import VirtualLoop, run_virtual
from tests.unit.service_process import SOURCES, Supervisor, wait_for

UNIT = "a.service"


# -- the pipe --------------------------------------------------------------------------------------------------


class Pipe:
    """One pipe whose turns the test takes."""

    def __init__(self, **settings: Any) -> None:
        exe = ExecSettings(**settings)
        self.lines: list[Line] = []
        self.told: list[int] = []
        self.ends: list[OutputPipe] = []
        self.limit = LogLimit(exe, self.told.append)
        self.pipe = OutputPipe(UNIT, exe, "/bin/x", self.lines.append, self.ends.append, self.limit)
        self.writer = os.dup(self.pipe.writing_end)
        self.pipe.begin(1)

    def write(self, data: bytes) -> None:
        assert os.write(self.writer, data) == len(data)

    @property
    def texts(self) -> list[str]:
        return [line.text for line in self.lines]

    def close(self) -> None:
        os.close(self.writer)
        self.pipe.close()
        self.limit.report()


@pytest.fixture
def no_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual time has none: the test reads."""
    for name in ("add_reader", "remove_reader"):
        monkeypatch.setattr(VirtualLoop, name, lambda *_: None)


def test_a_turn_takes_so_many_lines_and_no_more() -> None:
    async def scene() -> None:
        one = Pipe()
        one.write(b"x\n" * 1000)
        turns = []
        while one.pipe.read():
            turns.append(len(one.lines))
        assert turns == [256, 512, 768, 1000][: len(turns)]
        assert len(one.lines) == 1000
        one.close()

    asyncio.run(scene())


def test_lines_beyond_the_limit_are_counted_and_told_when_the_interval_is_over(no_readers: None) -> None:
    async def scene() -> None:
        one = Pipe(log_rate_limit_burst=300, log_rate_limit_interval_sec=5_000_000)
        one.write(b"".join(b"%d\n" % number for number in range(1000)))
        while one.pipe.read():
            pass
        assert one.texts == [str(number) for number in range(300)]
        assert one.told == []
        await asyncio.sleep(5)
        assert one.told == [700]
        one.write(b"again\n")
        one.pipe.read()
        assert one.texts[300:] == ["again"]
        one.close()
        assert one.told == [700]

    run_virtual(scene())


def test_the_count_is_told_when_the_last_writer_is_gone(no_readers: None) -> None:
    async def scene() -> None:
        one = Pipe(log_rate_limit_burst=1, log_rate_limit_interval_sec=5_000_000)
        one.write(b"1\n2\n3\nend")
        one.pipe.read()
        one.close()
        assert one.texts == ["1"]
        assert one.told == [2]

    run_virtual(scene())


@pytest.mark.parametrize("settings", [{"log_rate_limit_burst": 0}, {"log_rate_limit_interval_sec": 0}])
def test_without_a_limit(settings: dict[str, int]) -> None:
    async def scene() -> None:
        one = Pipe(**settings)
        one.write(b"x\n" * 20_000)
        one.pipe.read()
        one.close()
        assert len(one.lines) == 20_000

    asyncio.run(scene())


def test_a_long_line_comes_in_pieces_and_an_endless_one_is_no_memory() -> None:
    async def scene() -> None:
        one = Pipe()
        for _ in range(8):
            one.write(b"y" * 60_000)
            one.pipe.read()
            assert len(one.pipe._buffer) < output.MAX_LINE
        one.write(b"\nnext\n")
        while one.pipe.read():
            pass
        assert "".join(one.texts[:-1]) == "y" * 480_000
        assert max(map(len, one.texts)) == output.MAX_LINE
        assert one.texts[-1] == "next"
        one.close()

    asyncio.run(scene())


def test_who_writes_without_end_gets_its_turns_and_no_more() -> None:
    """Between two turns of the pipe everybody else has the loop."""

    async def scene() -> None:
        one = Pipe(log_rate_limit_burst=100)
        stop = threading.Event()

        def flood() -> None:
            while not stop.is_set():
                try:
                    os.write(one.writer, b"noise\n" * 1000)
                except OSError:
                    return

        thread = threading.Thread(target=flood, daemon=True)
        thread.start()
        passes = 0
        while one.limit.dropped < 100_000:
            passes += 1
            dropped = one.limit.dropped
            await asyncio.sleep(0)
            # One turn of the pipe at most for each of ours.
            assert one.limit.dropped - dropped <= output.BYTES_PER_TURN
        assert len(one.lines) == 100
        stop.set()
        while one.pipe.read():
            pass
        thread.join(10)
        while one.pipe.read():
            pass
        one.close()

    asyncio.run(scene())


# -- files -----------------------------------------------------------------------------------------------------


def read(directory: Path, count: int = 100, *units: str, since: int = 0) -> list[str]:
    return [line["text"] for line in log_files.read(str(directory), list(units), count, since)]


def test_what_was_put_can_be_read(tmp_path: Path) -> None:
    async def scene() -> None:
        store = LogStore(str(tmp_path / "logs"))
        for number in range(10):
            store.put(number, "a.service" if number % 2 else "b.service", 6, f"line {number}")
        store.put(10, "a.service", 3, "odd \udcff \n bytes")
        assert await store.flush()
        await store.close()

    asyncio.run(scene())
    logs = tmp_path / "logs"
    assert read(logs, 3, "a.service") == ["line 7", "line 9", "odd \\udcff \n bytes"]
    assert read(logs, 2, "b.service") == ["line 6", "line 8"]
    assert read(logs, 4) == ["line 7", "line 8", "line 9", "odd \\udcff \n bytes"]
    assert read(logs, 100, since=9) == ["line 9", "odd \\udcff \n bytes"]
    assert read(logs, 0) == []
    assert read(logs, 10, "c.service") == []
    assert logs.stat().st_mode & 0o777 == 0o750


def test_files_of_a_unit_are_bounded_and_the_latest_lines_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_files, "MAX_FILE_BYTES", 1000)

    async def scene() -> None:
        store = LogStore(str(tmp_path))
        for number in range(200):
            store.put(number, UNIT, 6, f"{number}")
            if number % 7 == 0:
                await store.flush()
        await store.close()

    asyncio.run(scene())
    sizes = [entry.stat().st_size for entry in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= 1000
    assert read(tmp_path, 12) == [str(number) for number in range(188, 200)]


def test_a_batch_larger_than_a_file_keeps_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "MAX_FILE_BYTES", 1000)

    async def scene() -> None:
        store = LogStore(str(tmp_path))
        for number in range(200):
            store.put(number, UNIT, 6, f"{number}")
        await store.close()

    asyncio.run(scene())
    found = read(tmp_path)
    assert found == [str(number) for number in range(200 - len(found), 200)]
    assert found


def test_all_files_together_are_bounded_and_the_silent_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_store, "MAX_FILES", 3)

    async def scene() -> None:
        store = LogStore(str(tmp_path))
        for number, name in enumerate("abcad"):
            store.put(number, f"{name}.service", 6, name)
            await store.flush()
        await store.close()
        # Another manager finds what is there.
        store = LogStore(str(tmp_path))
        store.put(9, "e.service", 6, "e")
        await store.close()

    asyncio.run(scene())
    assert len(list(tmp_path.iterdir())) == 3
    assert {"d", "e"} <= set(read(tmp_path))
    assert "b" not in read(tmp_path)


def test_a_disk_that_hangs_costs_lines_which_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_store, "MAX_PENDING_BYTES", 2000)
    monkeypatch.setattr(log_store, "FLUSH_LIMIT_S", 0.05)

    async def scene() -> None:
        store = LogStore(str(tmp_path))
        gate, entered = threading.Event(), threading.Event()
        write = store._files.write

        def hanging(batch: dict[str, bytes]) -> str:
            entered.set()
            gate.wait(30)
            return write(batch)

        monkeypatch.setattr(store._files, "write", hanging)
        store.put(0, UNIT, 6, "first")
        while not entered.is_set():
            await asyncio.sleep(0)
        for number in range(1, 1000):
            store.put(number, UNIT, 6, str(number))
        assert store._pending_bytes <= 2000
        assert not await store.flush()
        gate.set()
        monkeypatch.setattr(log_store, "FLUSH_LIMIT_S", 30.0)
        assert await store.flush()
        store.put(1000, UNIT, 6, "last")
        await store.close()

    asyncio.run(scene())
    found = read(tmp_path, 1000)
    assert found[0] == "first"
    assert found[-1] == "last"
    kept = len(found) - 3
    assert found[1 : kept + 1] == [str(number) for number in range(1, kept + 1)]
    assert found[-2] == f"{UNIT}: {999 - kept} lines are missing here: the storage of the log did not keep up."


def test_a_store_that_cannot_be_written_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")

    async def scene() -> None:
        store = LogStore(str(tmp_path / "file/logs"))
        for number in range(3):
            store.put(number, UNIT, 6, "x")
            await store.flush()
        await store.close()

    asyncio.run(scene())
    assert len([one for one in caplog.records if "log of units" in one.getMessage()]) == 1


def test_after_a_line_that_was_cut_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / log_files.file_name(UNIT)
    path.write_bytes(log_files.encode(1, UNIT, 6, "first") + log_files.encode(2, UNIT, 6, "cut")[:-9])

    async def scene() -> None:
        store = LogStore(str(tmp_path))
        for number in (3, 4):
            store.put(number, UNIT, 6, str(number))
            await store.flush()
        await store.close()

    asyncio.run(scene())
    assert read(tmp_path) == ["first", "3", "4"]
    assert path.read_bytes().count(b"\n\n") == 0


def test_foreign_and_cut_lines_are_left_out(tmp_path: Path) -> None:
    good = log_files.encode(5, UNIT, 6, "good")
    (tmp_path / log_files.file_name(UNIT)).write_bytes(b"\xff\n{}\n[1]\n" + good + b'{"at":"x"}\n' + good[:20])
    assert read(tmp_path) == ["good"]


def test_long_names_stay_apart() -> None:
    names = {log_files.file_name("x" * 250 + end + ".service") for end in "ab"}
    assert len(names) == 2
    assert max(map(len, names)) < 250


# -- the whole supervisor --------------------------------------------------------------------------------------


def logs(place: Path, *words: str) -> tuple[int, str, str]:
    code = "import sys; from holdfast.cli.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "service", "logs", "--run-dir", str(place / "run"), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PYTHONPATH": SOURCES, "PATH": os.environ["PATH"]},
    )
    return done.returncode, done.stdout, done.stderr


def test_the_last_words_of_a_service_outlive_it_and_the_supervisor(tmp_path: Path) -> None:
    units = {
        "a.service": "[Service]\nExecStart=/bin/sh -c 'echo before; echo \"<3>last words\"; kill -9 $$$$'\n",
        "b.service": "[Service]\nExecStart=/bin/sleep 1000\n",
    }
    with Supervisor(tmp_path, units, "b.service", "a.service") as running:
        running.wait_until("a", "failed/failed")
        code, out, _ = logs(tmp_path, "a")
        assert code == 0
        texts = [line.partition(": ")[2] for line in out.splitlines()]
        begin = texts.index("before")
        assert texts[begin : begin + 2] == ["before", "last words"]
        assert "Main process exited" in texts[begin + 2]
        running.signal(signal.SIGKILL)
        running.process.wait()
        # Nobody answers: the files do.
        code, out, _ = logs(tmp_path, "--json", "-n", "1000", "a")
        assert code == 0
        lines = [json.loads(line) for line in out.splitlines()]
        assert [line["level"] for line in lines if line["text"].endswith("last words")] == [3]
    with Supervisor(tmp_path, {}, "b.service") as running:
        running.wait_until("b", "active/running")
        _, out, _ = logs(tmp_path, "-n", "1000", "a")
        assert out.count(": last words") == 1
        _, out, _ = logs(tmp_path, "-n", "1000", "--since", "1h")
        assert "last words" in out
        assert out.count("Started b.service") == 2
        running.job("stop", "b")


def test_following(tmp_path: Path) -> None:
    script = "i=0; while :; do echo line $$i; i=$$((i+1)); sleep 0.02; done"
    units = {"a.service": f"[Service]\nExecStart=/bin/sh -c '{script}'\n"}
    with Supervisor(tmp_path, units, "a.service") as running:
        wait_for(lambda: "line 3" in running.log())
        code = "import sys; from holdfast.cli.main import main; sys.exit(main())"
        command = [sys.executable, "-c", code, "service", "logs", "--run-dir", str(running.run_dir), "-f", "a"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": SOURCES, "PATH": os.environ["PATH"]}
        ) as follower:
            assert follower.stdout is not None
            numbers = []
            for line in follower.stdout:
                if ": line " in line:
                    numbers.append(int(line.rsplit(" ", 1)[1]))
                if len(numbers) == 30:
                    break
            follower.terminate()
        # Nothing twice, nothing missing, where the past and what comes meet.
        assert numbers == list(range(numbers[0], numbers[0] + 30))


def test_ten_megabytes_do_not_keep_others_waiting(tmp_path: Path) -> None:
    """A unit that prints without end: others start, ping their watchdogs and stop; its lines are counted."""
    units = {
        "loud.service": "[Service]\nExecStart=/bin/sh -c 'exec yes this is a line of some length'\n",
        "good.service": "[Service]\nType=notify\nWatchdogSec=5\nExecStart="
        + f"{sys.executable} -S {tmp_path}/good.py\n",
        "short.service": "[Service]\nType=oneshot\nExecStart=/bin/echo done\n",
    }
    (tmp_path / "good.py").write_text(
        "import os, socket, time\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "s.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])\n"
        "for n in range(10**6):\n"
        "    s.sendto(b'WATCHDOG=1\\nSTATUS=%d' % n, os.environ['NOTIFY_SOCKET'])\n"
        "    time.sleep(0.05)\n"
    )
    with Supervisor(tmp_path, units, "loud.service") as running:
        wait_for(lambda: running.log().count("a line of some length") > 1000)
        assert running.job("start", "good") == "done"
        for _ in range(5):
            assert running.job("start", "short") == "done"
        before = int(running.show("good", "StatusText") or 0)
        wait_for(lambda: int(running.show("good", "StatusText")) > before + 20)
        assert running.job("stop", "loud") == "done"
        assert running.show("good", "ActiveState") == "active"
        wait_for(lambda: "Suppressed " in running.log())
        assert running.log().count("a line of some length") <= 10_000
        sizes = [entry.stat().st_size for entry in (running.run_dir / "logs").iterdir()]
        assert max(sizes) <= 256 * 1024
