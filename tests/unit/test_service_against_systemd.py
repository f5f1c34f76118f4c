"""Our reading of unit files against systemd's own tools, on generated input (seeded; needs the package systemd).

`systemd-analyze` and `systemd-escape` work without a running manager.
"""

from __future__ import annotations

import datetime
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from holdfast import conf_text
from holdfast.service import calendar, names
from holdfast.service.interpret import interpret
from holdfast.service.names import UnitName, UnitNameError
from holdfast.service.specifiers import Host, Specifiers
from holdfast.timespan import TimeSpanError, format_timespan, parse_timespan

pytestmark = pytest.mark.skipif(
    not shutil.which("systemd-analyze") or not shutil.which("systemd-escape"), reason="systemd's tools are missing"
)
_ENVIRONMENT = {"TZ": "UTC", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
_BASE = datetime.datetime(2024, 1, 10, tzinfo=datetime.UTC)


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=_ENVIRONMENT | environment, check=False
    )


def _version() -> int:
    return int(_run("systemd-analyze", "--version").stdout.split()[1])


def _field(rng: random.Random, low: int, high: int, width: int = 2, end: int | None = None) -> str:
    if rng.random() < 0.3:
        return "*"
    high = high if end is None else end

    def item() -> str:
        first, second = sorted((rng.randint(low, high), rng.randint(low, high)))
        shape = rng.random()
        if shape < 0.55:
            return f"{first:0{width}d}" if rng.random() < 0.5 else str(first)
        if shape < 0.8:
            return f"{first}..{second}"
        return f"{first}/{rng.randint(1, 12)}"

    # Of lists with repetitions and with `~` systemd drops some items: lists only of plain numbers and ranges.
    parts = [item() for _ in range(rng.choice((1, 1, 2)))]
    return parts[0] if any("/" in part for part in parts) or end is not None else ",".join(parts)


def _expression(rng: random.Random) -> str:
    parts = []
    if rng.random() < 0.3:
        parts.append(rng.choice(("Mon", "tue..Fri", "Sat,sunday", "Wed..thu,Sun", "Fri..Mon", "Mo")))
    if rng.random() < 0.6:
        year = _field(rng, 2020, 2030, 4) + "-" if rng.random() < 0.7 else ""
        end = 28 if rng.random() < 0.2 else None
        parts.append(f"{year}{_field(rng, 1, 12)}{'-' if end is None else '~'}{_field(rng, 1, 31, end=end)}")
    if rng.random() < 0.8 or not parts:
        second = f":{_field(rng, 0, 59)}" if rng.random() < 0.6 else ""
        parts.append(f"{_field(rng, 0, 23)}:{_field(rng, 0, 59)}{second}")
    if rng.random() < 0.2:
        parts.append(rng.choice(("UTC", "utc")))
    return " ".join(parts)


def test_calendar() -> None:
    rng = random.Random(20241)
    for _ in range(100):
        text = _expression(rng)
        theirs = _run("systemd-analyze", "calendar", "--base-time", "2024-01-10 00:00:00 UTC", text)
        try:
            spec = calendar.parse(text)
        except calendar.CalendarError:
            assert theirs.returncode != 0, text
            continue
        assert theirs.returncode == 0, text
        said = {
            key.strip(): value.strip()
            for key, _, value in (line.partition(":") for line in theirs.stdout.splitlines())
        }
        assert str(spec) == said.get("Normalized form", said.get("Original form")), text
        elapse = calendar.next_elapse(spec, _BASE)
        shown = elapse.strftime("%a %Y-%m-%d %H:%M:%S UTC") if elapse else "never"
        assert shown == said["Next elapse"], text


def test_timespan() -> None:
    rng = random.Random(20242)
    units = ("", "us", "ms", "s", "min", "h", "d", "w", "M", "y", "sec", "hours", "x", "S", "ns")
    for _ in range(100):
        numbers = ("1", "90", "0", "1.5", ".25", "007", "+3", "-1", "1.", "99999999", "123456789012345")
        text = rng.choice(("", " ")).join(
            f"{rng.choice(numbers)}{rng.choice(('', ' '))}{rng.choice(units)}" for _ in range(rng.randint(1, 3))
        )
        theirs = _run("systemd-analyze", "timespan", "--", text)
        try:
            usec = parse_timespan(text)
        except TimeSpanError:
            assert theirs.returncode != 0, text
            continue
        said = dict(line.strip().split(": ", 1) for line in theirs.stdout.splitlines() if ": " in line)
        assert (theirs.returncode, said["μs"], said["Human"]) == (0, str(usec), format_timespan(usec)), text


def test_escape() -> None:
    rng = random.Random(20243)
    alphabet = "ab-/._:\\@ é%*0x2d"
    texts = ["".join(rng.choice(alphabet) for _ in range(rng.randint(1, 12))) for _ in range(80)]
    assert (
        _run("systemd-escape", "--", *texts).stdout.split(" ")[:-1] == [names.escape(text) for text in texts][:-1]
    )
    for text in texts[:40]:
        assert names.unescape(names.escape(text)) == text
        theirs = _run("systemd-escape", "--path", "--", text)
        try:
            ours = names.escape_path(text)
        except UnitNameError:
            assert theirs.returncode != 0, text
        else:
            assert theirs.stdout.strip("\n") == ours, text
        back = _run("systemd-escape", "--unescape", "--", text)
        try:
            ours = names.unescape(text)
        except UnitNameError:
            assert back.returncode != 0, text
        else:
            assert (back.returncode, back.stdout.rstrip("\n")) == (0, ours), text


_LINES = """
ExecStartPre=/bin/true "a b" 'c' \\x41 \\q
ExecStartPre=-/bin/true "open
ExecStartPre=- /bin/true
ExecStartPre=--/bin/true
ExecStartPre=-rel/x
ExecStartPre=-@/bin/true
ExecStartPre=-/bin/true %X
ExecStop=/bin/true ; /bin/true b \\; c
Restart=sometimes
Restart=on-watchdog
RestartSec=
RestartSec=5 z
TimeoutStopSec=-1
TimeoutSec=x
TimeoutSec=1min 30
WatchdogSec=infinity
KillMode=foo
KillMode=
KillSignal=SIGFOO
KillSignal=RTMIN+3
KillSignal=65
KillSignal=
UMask=999
UMask=0027
LimitNOFILE=9:3
LimitNOFILE=infinity
LimitCPU=1min
LimitCPU=x
LimitNOFILE=
Nice=100
Nice=-5
OOMScoreAdjust=2000
Environment=A=1 B "C=d e" 1=2
Environment=A=%X
Environment=A=1 "B
EnvironmentFile=rel
EnvironmentFile=-/none
SendSIGKILL=mayb
SendSIGKILL=OFF
StartLimitIntervalSec=3
StartLimitBurst=-1
StartLimitInterval=5min
FailureAction=bla
StartLimitAction=reboot-force
SuccessExitStatus=FOO 300 4 SIGKILL TEMPFAIL
NotifyAccess=foo
NotifyAccess=all
MemoryMax=1Q
MemoryMax=10%
TasksMax=200%
TasksMax=infinity
RuntimeDirectory=/abs
RuntimeDirectory=a b/c
PIDFile=x.pid
WorkingDirectory=-rel
FileDescriptorStoreMax=x
Type=
ExitType=x
OOMPolicy=x
TimeoutStartFailureMode=x
X-Private=1
Unknown=1
no equals
# comment \\
; comment
RemainAfterExit=y
RemainAfterExit=2
Description=in the wrong section
LimitRTTIME=5s
ExecReload=/bin/kill -HUP $MAINPID
""".strip().split("\n")


def _generated(rng: random.Random) -> str:
    lines = ["[Service]", "ExecStart=/bin/true"]
    for _ in range(rng.randint(3, 12)):
        line = rng.choice(_LINES)
        if rng.random() < 0.1:
            line = f"  {line}\t"
        lines.append(line)
        if rng.random() < 0.1:
            lines.append(rng.choice(("", "[Nope]", "[Service]", "[Unit]\nAfter=a.service x", "[X-Own]")))
    return "\n".join(lines) + "\n"


def test_verify(tmp_path: Path) -> None:
    """The complaints of whole files: the same lines, the same words."""
    if _version() != 252:
        pytest.skip("the words are those of systemd 252")
    rng = random.Random(20244)
    for number in range(60):
        name, text = f"g{number}.service", _generated(rng)
        (tmp_path / name).write_text(text)
        theirs = _run(
            "systemd-analyze", "verify", "--man=no", str(tmp_path / name), SYSTEMD_UNIT_PATH=str(tmp_path)
        )
        prefix = f"{tmp_path / name}:"
        said = [line for line in theirs.stderr.splitlines() if line.startswith(prefix)]
        parsed = conf_text.parse(text.encode(), str(tmp_path / name))
        file = interpret(UnitName.parse(name), [parsed], Specifiers(UnitName.parse(name), Host()))
        ours = [str(one) for one in file.complaints if one.line and "not supported" not in one.text]
        assert ours == said, text
        fatal = "fatal error" in theirs.stderr or "Refusing." in theirs.stderr
        assert bool(file.refusal) == fatal, text
