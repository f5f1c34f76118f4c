"""The real client asks either daemon about the same paths: every show command, in three situations.

What must differ is normalised: see `NORMALIZED`. What differs on purpose is listed in docs/compatibility.md and
here in `ON_PURPOSE`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Final

from tests.guest import path_lab, path_results
from tests.guest.lab import Lab
from tests.guest.path_daemons import IS_THERE, MAP, PathDaemon, conf, running
from tests.guest.path_lab import DEBUG_DEVICES, PYTHON

PATH_WILDCARDS: Final = "wdDitTosczpSMmNRnrahGg0PIL"
MAP_WILDCARDS: Final = "ndwFQNrtSfhxA01234svpeGg"
BY_CLIENT: Final = (
    *("show paths", "list paths", "show path sda", "show maps", "list multipaths", "show status"),
    *("show daemon", "show maps status", "show maps stats", "show maps topology", "show topology"),
    *("show maps json", f"show map {MAP} topology", f"show map {MAP} json", f"show map {MAP} format '%n %w %N'"),
    *(f"show map {MAP} raw format '%n|%w|%t'", "show map nobody topology", "show path nobody"),
    *("show config", "show config local", "show blacklist", "show devices", "show wildcards"),
    *(f"getprstatus map {MAP}", f"getprkey map {MAP}", "show", "nonsense", "show map", "sh paths", "list"),
)
"""Sent by the real client, which takes half a second to start."""
BY_SOCKET: Final = (
    *(f"show paths format '%d %{wildcard}'" for wildcard in PATH_WILDCARDS),
    *(f"show paths raw format '%d|%{wildcard}'" for wildcard in PATH_WILDCARDS),
    *(f"show maps format '%n %{wildcard}'" for wildcard in MAP_WILDCARDS),
    *(f"show maps raw format '%{wildcard}'" for wildcard in MAP_WILDCARDS),
)
COMMANDS: Final = BY_CLIENT + BY_SOCKET
CLIENT_LIMIT_S: Final = 120.0
NORMALIZED: Final[Mapping[str, str]] = {
    r"^pid \d+ (idle|running)": "pid N idle",
    # Progress to the next check, and the interval: a matter of the moment.
    r"[X.]{10} \d+/\d+ *$": "PROGRESS",
    r"^busy: \w+": "busy: B",
    # Counters of what happened before: another number of reloads or checks.
    r'"(path_faults|switch_grp|map_loads|total_q_time|q_timeouts)" : \d+': r'"\1" : N',
}
COUNTERS: Final = re.compile(r"show maps (stats|(raw )?format '(%n )?%[01234x]')|show maps stats|show paths .*%0'")
"""Commands whose whole answers are counters: only the header is compared, if there is one."""
ON_PURPOSE: Final[Mapping[str, tuple[str, str]]] = {
    r"show config|show blacklist": ("built-in values and hardware table of 0.14", ""),
    r"(nonsense|list|show|show map)$": (
        "fail before a syntax error, version and commands of 0.14",
        r"fail|multipath-tools v.*| \w+ ?.*(pathlist|prhold).*",
    ),
    r"nobody": (
        "the reason of a failure, which the client of 0.9.4 does not take for one",
        r"exit .|device not found",
    ),
    r"getprstatus": ("a word in place of a number", r"0exit 0|0|unset|unknown|exit 0"),
    r"%s'": ("the revision is shown, and not promised for maps", r".*scsi_debug.*|name vend/prod.*"),
    r"show wildcards": (
        "those of 0.14",
        r"|%[sAk] .*|pathgroup format wildcards:|%p pri|%t dm_st|%M marginal_st",
    ),
}
"""By pattern of commands: why the answers differ, and a pattern of the lines that may; empty: all of them."""


def differences(command: str, was: str, now: str) -> list[str]:
    """Lines of a diff that nothing explains."""
    lines = list(difflib.unified_diff(was.splitlines(), now.splitlines(), lineterm="", n=0))[2:]
    changed = [line for line in lines if not line.startswith("@@")]
    for commands, (_, allowed) in ON_PURPOSE.items():
        if re.search(commands, command):
            changed = [line for line in changed if allowed and not re.fullmatch(allowed, line[1:])]
    return changed


def normalized(command: str, reply: str) -> str:
    """What is compared."""
    for pattern, text in NORMALIZED.items():
        reply = re.sub(pattern, text, reply, flags=re.MULTILINE)
    # The columns are as wide as the widest value, which may be one of those.
    lines = [re.sub(r" +", " ", line).rstrip() for line in reply.splitlines()]
    if COUNTERS.search(command):
        return "" if " raw " in command else lines[0]
    return "\n".join(lines)


def _replies(daemon: PathDaemon) -> dict[str, str]:
    """Those of the client with its exit status."""
    script = "\n".join(f"echo '== '; multipathd {command} 2>&1; echo \"exit $?\"" for command in BY_CLIENT)
    told = daemon.paths.shell(script, limit_s=CLIENT_LIMIT_S).split("== \n")[1:]
    found = dict(zip(BY_CLIENT, told, strict=True))
    program = (PYTHON, "-S", "-E", "/run/package/inside/path_cli.py", "0")
    asked = [command.replace("'", '"') for command in BY_SOCKET]
    replies = json.loads(daemon.paths.guest.run(*program, *asked))
    return found | {command: replies[each] for command, each in zip(BY_SOCKET, asked, strict=True)}


def _situations(daemon: PathDaemon) -> dict[str, dict[str, str]]:
    found = {}
    daemon.wait_for_map(len(DEBUG_DEVICES))
    found["all up"] = _replies(daemon)
    daemon.paths.set_state("sdb", "offline")
    daemon.wait_for_paths({"8:16": "F"})
    daemon.ask("fail", "path", "sdd")
    daemon.wait_for_paths({"8:48": "F"})
    daemon.wait(lambda: daemon.shown("%T", "paths").split()[1] == "faulty", "the path is known to be bad")
    found["one offline, one failed by the operator"] = _replies(daemon)
    for dev in DEBUG_DEVICES:
        daemon.paths.set_state(dev, "offline")
    daemon.wait_for_paths(dict.fromkeys(("8:0", "8:16", "8:32", "8:48"), "F"))
    daemon.wait(lambda: daemon.shown("%Q") == "off", "the retries are over")
    found["no path left"] = _replies(daemon)
    return found


def _of(lab_paths: path_lab.Paths, kind: str) -> dict[str, dict[str, str]]:
    with running(lab_paths, kind, conf(no_path_retry="3", failback="immediate")) as daemon:
        found = _situations(daemon)
    path_results.put("client", kind, found)
    return found


def test_every_show_command(lab: Lab) -> None:
    paths = path_lab.debug_paths(lab)
    real = _of(paths, "multipathd")
    if not IS_THERE:
        return
    ours = _of(paths, "holdfast")
    differ = []
    for situation, replies in real.items():
        for command, reply in replies.items():
            was, now = normalized(command, reply), normalized(command, ours[situation][command])
            lines = differences(command, was, now)
            if lines:
                differ.append(f"{situation}: {command}\n" + "\n".join(lines))
    lab.record(f"{len(COMMANDS)} commands in {len(real)} situations: {len(differ)} replies differ")
    assert not differ, "\n\n".join(differ)
