"""`holdfast path show, topology, fail, reinstate, queueing, reconfigure, units`, and multipathd's command line,
against a socket that answers as the daemon does (spec path 6.1).
"""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.cli import path_asking
from holdfast.cli.main import main
from holdfast.cli.path_daemon import options_of
from holdfast.cli.path_daemon import parser as daemon_parser
from holdfast.cli.path_multipathd import multipathd_main
from holdfast.cli.refusal import Refusal
from holdfast.path.daemon.process_options import ANY, WORDINGS, ProcessOptions

PATHS = (
    "sda\x1f8:0\x1fmpatha\x1ffaulty\x1ffailed\x1frunning\x1ftur\x1f1\x1fXX........ 2/8\x1f3\x1fscsi:spi\x1f64M\x1f"
    "0:0:0:0\x1fHOLDFAST,DISK,1\x1fnormal\x1f3500\n"
    "sdb\x1f8:16\x1fmpath\x1b[2J\x1fready\x1factive\x1frunning\x1ftur\x1f50\x1f.......... 0/8\x1f0\x1fscsi:spi"
    "\x1f64M\x1f1:0:0:0\x1fHOLDFAST,DISK,1\x1fnormal\x1f3500\n"
)
STATUS = "path checker states:\ndown                1\ni/o pending         2\n\npaths: 4\nbusy: False\n"


class Answers(threading.Thread):
    """Answers each request with what is in `replies`; `fail` to others."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.replies: dict[str, str] = {}
        self.asked: list[str] = []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen(8)
        self.start()

    def run(self) -> None:
        while True:
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            with peer, peer.makefile("rwb") as stream:
                while head := stream.read(8):
                    text = stream.read(struct.unpack("=Q", head)[0]).split(b"\0")[0].decode().rstrip("\n")
                    self.asked.append(text)
                    body = self.replies.get(text.split(" raw format")[0], "fail\n").encode() + b"\0"
                    stream.write(struct.pack("=Q", len(body)) + body)
                    stream.flush()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.join(60)


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    path = tmp_path / "multipathd.socket"
    monkeypatch.setenv("MULTIPATH_SOCKET_NAME", str(path))
    made = Answers(path)
    made.replies = {
        "show paths": PATHS,
        "show maps": "mpatha\x1fdm-0\x1f64M\x1f1\x1f4 chk\x1fimmediate\x1factive\x1frw\x1fHOLDFAST,DISK\x1f"
        "3500\x1f1 queue_if_no_path\x1f0\x1f0\n",
        "show status": STATUS,
        "show daemon": "pid 17 idle (pending reconfigure)\n",
        "show maps topology": "ok\n",
        "show map mpatha json": '{"map": {"name": "mpatha"}}\n',
        "fail path sda": "ok\n",
        "fail path sdx": "fail\ndevice not found\n",
        "reinstate path sda": "ok\n",
        "reconfigure": "ok\n",
        "reconfigure all": "fail\npermission deny: need to be root\n",
        "disablequeueing maps": "ok\n",
        "forcequeueing daemon": "ok\n",
        "empty": "fail\n",
    }
    yield made
    made.close()


def path(*words: str) -> int:
    return main(["path", *words])


def test_paths(answers: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    assert path("show") == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0].split("  ")[0] == "path"
    assert lines[1].split()[:5] == ["sda", "8:0", "mpatha", "faulty", "failed"]
    # No escape of a device's name, and no colours where there is no terminal.
    assert "\x1b" not in text
    assert path("show", "paths", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["paths"]
    assert rows[0]["priority"] == 1
    assert rows[0]["failures"] == 3
    assert rows[0]["next_check"] == "XX........ 2/8"
    assert rows[1]["map"] == "mpath\x1b[2J"


def test_what_is_counted_comes_from_our_daemon_only(answers: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    answers.replies["show paths json"] = json.dumps(
        {"paths": [{"path": "sda", "checks": 7, "flaps": 2, "failures": 99, "latency": {"count": 5}}]}
    )
    answers.replies["show metrics"] = 'holdfast_path_flaps_total{dev="sda"} 2\n'
    assert path("show", "--json") == 0
    first, second = json.loads(capsys.readouterr().out)["paths"]
    assert (first["checks"], first["flaps"], first["latency"]) == (7, 2, {"count": 5})
    assert first["failures"] == 3  # the kernel's: what multipathd has under a name keeps its meaning
    assert "checks" not in second
    assert path("show", "metrics") == 0
    assert capsys.readouterr().out == 'holdfast_path_flaps_total{dev="sda"} 2\n'


class Terminal(io.StringIO):
    """A stdout that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """From now on; a fixture would be too early, pytest has a stdout of its own for the test."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    made = Terminal()
    monkeypatch.setattr("sys.stdout", made)
    return made


def test_colours_are_for_terminals(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    assert path("show") == 0
    assert "\x1b[31mfaulty\x1b[0m" in terminal.getvalue()
    assert "\x1b[2J" not in terminal.getvalue()


def test_live_on_a_terminal(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round is written over the one before; what was longer then is cleared."""
    rounds = 0

    def sleep(seconds: float) -> None:
        nonlocal rounds
        rounds += 1
        answers.replies["show paths"] = "ok\n"
        if rounds == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    terminal = on_a_terminal(monkeypatch)
    assert path("show", "--watch", "1") == 130
    _, first, second = terminal.getvalue().split("\x1b[H")
    assert first.count("\n") == 2 + 3  # head, blank line; heads of columns and two paths
    assert first.count("\x1b[K") == first.count("\n")
    assert "no paths" in second
    assert second.endswith("\x1b[J")


def test_nothing_to_show(answers: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    answers.replies["show paths"] = answers.replies["show maps"] = "ok\n"
    assert [path("show", what) for what in ("paths", "maps", "stats", "topology")] == [0] * 4
    assert capsys.readouterr().out == "no paths\nno maps\nno maps\nno maps\n"
    assert path("show", "maps", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"maps": []}


def test_texts_as_documents(answers: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    assert path("show", "status", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "states": {"down": 1, "i/o pending": 2},
        "paths": 4,
        "busy": False,
    }
    assert path("show", "daemon", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"pid": 17, "state": "idle", "reconfigure_is_pending": True}
    assert path("show", "status") == 0
    assert capsys.readouterr().out == STATUS
    assert path("topology", "mpatha", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"map": {"name": "mpatha"}}


def test_live_goes_on_without_a_daemon(
    answers: Answers, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = 0

    def sleep(seconds: float) -> None:
        nonlocal rounds
        rounds += 1
        answers.replies["show paths"] = "fail\ntimeout\n"
        if rounds == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    assert path("show", "--watch", "2", "--json") == 130
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert len(first["paths"]) == 2
    assert "timeout" in second["error"]
    with pytest.raises(SystemExit):
        path("show", "--watch", "0")


def test_fail_and_reinstate(answers: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    assert path("fail", "sdx", "sda") == 1
    captured = capsys.readouterr()
    assert captured.out == "sda failed\n"
    assert captured.err.startswith("holdfast: fail path sdx: device not found; holdfast path show paths")
    assert path("fail", "sdx", "--json") == 1
    assert json.loads(capsys.readouterr().out)["paths"][0]["done"] is False
    assert path("reinstate", "sda") == 0
    assert answers.asked[-1] == "reinstate path sda"


def test_reconfigure_and_queueing(answers: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    assert path("reconfigure", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"done": True, "reply": "ok"}
    assert path("reconfigure", "--all") == 1
    assert "is for root only; only root may change anything" in capsys.readouterr().err
    assert path("queueing", "disable") == 2
    assert "name a map, or say --all" in capsys.readouterr().err
    assert path("queueing", "disable", "--all") == 0
    assert answers.asked[-1] == "disablequeueing maps"
    assert path("queueing", "at-exit", "keep") == 0
    assert path("queueing", "status") == 0
    assert "map" in capsys.readouterr().out


def test_nobody_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = str(tmp_path / "none")
    assert path("show", "--socket", where) == 1
    error = capsys.readouterr().err
    assert error == (
        f"holdfast: no path daemon answers at {where}: No such file or directory; "
        "start one with: systemctl start holdfast-path\n"
    )


def test_one_that_never_answers(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent"))
        silent.listen(1)
        with pytest.raises(Refusal, match=r"does not answer within 0\.05 s"):
            path_asking.ask("show paths", str(tmp_path / "silent"), 0.05)


@pytest.mark.parametrize("reply", [struct.pack("=Q", 0), struct.pack("=Q", 1 << 40), b"\1\2\3"])
def test_answers_that_are_none(reply: bytes, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "odd"))
        listener.listen(1)

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(512)
                peer.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Refusal, match="no path daemon answers"):
            path_asking.ask("show paths", str(tmp_path / "odd"))
        thread.join(60)


def test_multipathd_as_a_client(
    answers: Answers, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert multipathd_main(["show", "status"]) == 0
    assert capsys.readouterr().out == STATUS
    assert multipathd_main(["-kshow status"]) == 0
    assert capsys.readouterr().out == STATUS
    assert multipathd_main(["-k", "show", "daemon"]) == 0
    assert multipathd_main(["show", "paths", "format", "%d %t"]) == 1
    assert answers.asked[-1] == 'show paths format "%d %t"'
    capsys.readouterr()
    assert multipathd_main(["fail", "path", "sdx"]) == 1
    assert capsys.readouterr().out == "device not found\n"
    assert multipathd_main(["empty"]) == 1
    assert capsys.readouterr().out == "fail\n"
    assert multipathd_main(["show", "x" * 200]) == 1
    assert multipathd_main(["-Q"]) == 1
    assert "not recognized" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO("show daemon\n\nquit\nshow status\n"))
    assert multipathd_main(["-k"]) == 0
    assert capsys.readouterr().out == "multipathd> pid 17 idle (pending reconfigure)\nmultipathd> multipathd> "


def test_units(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert path("units", "--systemd-version", "206") == 0
    assert "WatchdogSec" not in capsys.readouterr().out
    assert path("units", "--systemd-version", "207", "--json") == 0
    text = json.loads(capsys.readouterr().out)["units"][0]["text"]
    assert "ExecReload=/usr/bin/holdfast-multipathd reconfigure\nWatchdogSec=5s\n" in text
    assert path("units", "--directory", str(tmp_path)) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(os.listdir(tmp_path)) == 3
    assert path("units", "--directory", str(tmp_path / "missing")) == 1
    assert "missing" in capsys.readouterr().err


def test_names_for_completion(answers: Answers, capsys: pytest.CaptureFixture[str]) -> None:
    answers.replies["show paths"] = "sda\nsd b\nsd\x1bc\n"
    assert main(["completion", "paths"]) == 0
    assert capsys.readouterr().out == "sda\n"
    answers.replies["show maps"] = "fail\n"
    assert main(["completion", "maps"]) == 0
    assert capsys.readouterr().out.strip() == ""


def test_the_daemon_of_multipathds_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[tuple[ProcessOptions, bool]] = []

    def start(options: ProcessOptions, foreground: bool) -> int:
        started.append((options, foreground))
        return 0

    monkeypatch.setattr("holdfast.cli.path_daemon.start", start)
    assert multipathd_main(["-d", "-s", "-v", "3", "-B", "-w", "--as", "0.9.4"]) == 0
    assert multipathd_main(["--as=any"]) == 0
    assert multipathd_main([]) == 0
    assert started == [
        (
            ProcessOptions(
                bindings_read_only=True, watch_dm_events=False, verbosity=3, time_stamps=False, wording="0.9.4"
            ),
            True,
        ),
        (ProcessOptions(), False),
        (ProcessOptions(), False),
    ]
    assert multipathd_main(["-d", "--as", "0.8"]) == 1
    assert "--as wants any, 0.9.4 or 0.14.3, not '0.8'" in capsys.readouterr().err
    assert len(started) == 3


def test_words_of_options_are_those_of_the_daemon() -> None:
    for wording in WORDINGS:
        given = daemon_parser().parse_args(["--as", wording])
        assert options_of(given).wording == wording
    assert options_of(daemon_parser().parse_args([])).wording == ANY
