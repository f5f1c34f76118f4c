"""The real client asks either daemon about the same paths: every show command, in three situations.

Ours answers in the words of 0.9.4 (`--as`), and in its own. What must differ is normalised: see `NORMALIZED`. What
differs on purpose is listed in docs/compatibility.md, and here in `ON_PURPOSE` and `OTHER_WORDS`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Final

from tests.guest import path_lab, path_results
from tests.guest.lab import Lab
from tests.guest.path_daemons import MAP, PathDaemon, conf, running
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
    # Turns of a loop, and seconds.
    r'"total_q_time" : \d+': '"total_q_time" : N',
    rf"^({MAP} +\d+ +\d+ +\d+) +\d+ ": r"\1 N ",
}
ON_PURPOSE: Final[Mapping[str, str]] = {
    # Built-in values and hardware table of 0.14.
    r"show config": r".*",
    r"show blacklist": r" \(default rule\) .*",
    # Seconds, not turns of a loop; the end of the retries counts, not their beginning.
    r"format '(%n )?%3'": rf"({MAP} )?[34]",
    r"format '(%n )?%x'": rf"({MAP} )?[12]",
}
"""By pattern of commands: a pattern of the lines that may differ. Rows of docs/compatibility.md, as the next."""
OTHER_WORDS: Final[Mapping[str, str]] = {
    **ON_PURPOSE,
    # `fail` before a syntax error, so that every client exits with 1; version and commands of 0.14.
    r"(nonsense|list|show|show map)$": r"fail|multipath-tools v.*| \w+ ?.*(pathlist|prhold).*",
    # A word in place of a number, and a line end after it.
    r"getprstatus": r"0exit 0|unset|unknown|exit 0",
    # The revision is shown of paths, and not promised for maps.
    r"%s'": r"sd.[ |]Linux,scsi_debug.*|name vend/prod.*",
    r"show wildcards": r"|%[sAk] .*|pathgroup format wildcards:|%p pri|%t dm_st|%M marginal_st",
}
"""Without `--as 0.9.4`."""


def differences(command: str, was: str, now: str, allowed: Mapping[str, str]) -> list[str]:
    """Lines of a diff that nothing explains."""
    lines = list(difflib.unified_diff(was.splitlines(), now.splitlines(), lineterm="", n=0))[2:]
    changed = [line for line in lines if not line.startswith("@@")]
    for commands, lines_allowed in allowed.items():
        if re.search(commands, command):
            changed = [line for line in changed if not re.fullmatch(lines_allowed, line[1:])]
    return changed


def normalized(reply: str) -> str:
    """What is compared."""
    for pattern, text in NORMALIZED.items():
        reply = re.sub(pattern, text, reply, flags=re.MULTILINE)
    # The columns are as wide as the widest value, which may be one of those.
    return "\n".join(re.sub(r" +", " ", line).rstrip() for line in reply.splitlines())


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
    paths = daemon.paths
    paths.set_state("sdc", "offline")
    daemon.wait_for_paths({"8:32": "F"})
    daemon.ask("fail", "path", "sdd")
    daemon.wait_for_paths({"8:48": "F"})
    daemon.wait(lambda: daemon.shown("%T", "paths").split()[2] == "faulty", "the path is known to be bad")
    found["one offline, one failed by the operator"] = _replies(daemon)
    # The best group fails, returns, and is the last to fail: two switches, whatever I/O there is meanwhile.
    paths.set_state("sda", "offline")
    daemon.wait(lambda: daemon.shown("%1") == "1", "the second group is used")
    paths.set_state("sda", "running")
    daemon.wait(lambda: daemon.shown("%1") == "2", "the best group is used")
    paths.set_state("sdb", "offline")
    daemon.wait_for_paths({"8:16": "F"})
    paths.set_state("sda", "offline")
    paths.set_state("sdd", "offline")
    daemon.wait_for_paths(dict.fromkeys(("8:0", "8:16", "8:32", "8:48"), "F"))
    daemon.wait(lambda: daemon.shown("%Q") == "off", "the retries are over")
    # Also that of a path that the operator has failed, and that nobody checks.
    daemon.wait(lambda: daemon.shown("%o", "paths").split() == ["offline"] * 4, "all are known to be offline")
    # Which group the kernel calls active depends on who tried last: somebody does now, and it has none.
    paths.shell(f"dd if=/dev/mapper/{MAP} of=/dev/null iflag=direct count=1", check=False)
    daemon.wait(lambda: "status=active" not in daemon.ask("show", "topology"), "no group is active")
    found["no path left"] = _replies(daemon)
    return found


def _of(paths: path_lab.Paths, kind: str, *arguments: str) -> dict[str, dict[str, str]]:
    with running(paths, kind, conf(no_path_retry="3", failback="immediate"), *arguments) as daemon:
        found = _situations(daemon)
    path_results.put("client", " ".join([kind, *arguments]), found)
    return found


def _compared(
    real: dict[str, dict[str, str]], ours: dict[str, dict[str, str]], allowed: Mapping[str, str]
) -> list[str]:
    differ = []
    for situation, replies in real.items():
        for command, reply in replies.items():
            was, now = normalized(reply), normalized(ours[situation][command])
            lines = differences(command, was, now, allowed)
            if lines:
                differ.append(f"{situation}: {command}\n" + "\n".join(lines))
    return differ


def test_every_show_command(lab: Lab) -> None:
    paths = path_lab.debug_paths(lab)
    real = _of(paths, "multipathd")
    same_words = _compared(real, _of(paths, "holdfast", "--as", "0.9.4"), ON_PURPOSE)
    own_words = _compared(real, _of(paths, "holdfast"), OTHER_WORDS)
    lab.record(
        f"{len(COMMANDS)} commands in {len(real)} situations: {len(same_words)} replies differ in the words of"
        f" 0.9.4, {len(own_words)} in our own"
    )
    differ = same_words + own_words
    assert not differ, "\n\n".join(differ)
