"""What can be said on the socket: words, their abbreviations, commands, errors (spec path 6.2 to 6.4). Pure.

The lines of the original's help are the table: from them come the words, their parameters and the commands. A
`Grammar` speaks as one of the original's releases.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from holdfast.path.conf_lexer import QUOTE, tokenize
from holdfast.path.keywords import NEW, OLD, Release

PREFIXED_SINCE: Final[Release] = (0, 9, 8)
"""Errors begin with `fail` and a line end, and say more."""
VERSIONS: Final = {OLD: "v0.9.4 (12/19, 2022)", NEW: "v0.14.3 (02/05, 2026)"}
"""What the help calls itself."""


class Command(enum.Enum):
    """A command as the help has it, in its order: `|` between names of a word, `$` before a parameter."""

    LIST_PATHS = "list|show paths"
    LIST_PATHS_FORMAT = "list|show paths format $format"
    LIST_PATHS_RAW = "list|show paths raw format $format"
    LIST_PATH = "list|show path $path"
    LIST_MAPS = "list|show maps|multipaths"
    LIST_STATUS = "list|show status"
    LIST_DAEMON = "list|show daemon"
    LIST_MAPS_STATUS = "list|show maps|multipaths status"
    LIST_MAPS_STATS = "list|show maps|multipaths stats"
    LIST_MAPS_FORMAT = "list|show maps|multipaths format $format"
    LIST_MAPS_RAW = "list|show maps|multipaths raw format $format"
    LIST_MAPS_TOPOLOGY = "list|show maps|multipaths topology"
    LIST_TOPOLOGY = "list|show topology"
    LIST_MAPS_JSON = "list|show maps|multipaths json"
    LIST_MAP_TOPOLOGY = "list|show map|multipath $map topology"
    LIST_MAP_FORMAT = "list|show map|multipath $map format $format"
    LIST_MAP_RAW = "list|show map|multipath $map raw format $format"
    LIST_MAP_JSON = "list|show map|multipath $map json"
    LIST_CONFIG_LOCAL = "list|show config local"
    LIST_CONFIG = "list|show config"
    LIST_BLACKLIST = "list|show blacklist"
    LIST_DEVICES = "list|show devices"
    LIST_WILDCARDS = "list|show wildcards"
    RESET_MAPS_STATS = "reset maps|multipaths stats"
    RESET_MAP_STATS = "reset map|multipath $map stats"
    ADD_PATH = "add path $path"
    REMOVE_PATH = "remove|del path $path"
    ADD_MAP = "add map|multipath $map"
    REMOVE_MAP = "remove|del map|multipath $map"
    REMOVE_MAPS = "remove|del maps|multipaths"
    SWITCH_GROUP = "switch|switchgroup map|multipath $map group $group"
    RECONFIGURE = "reconfigure"
    RECONFIGURE_ALL = "reconfigure all"
    SUSPEND_MAP = "suspend map|multipath $map"
    RESUME_MAP = "resume map|multipath $map"
    RESIZE_MAP = "resize map|multipath $map"
    RELOAD_MAP = "reload map|multipath $map"
    REASSIGN_MAP = "reset map|multipath $map"
    REINSTATE_PATH = "reinstate path $path"
    FAIL_PATH = "fail path $path"
    DISABLE_QUEUEING = "disablequeueing map|multipath $map"
    RESTORE_QUEUEING = "restorequeueing map|multipath $map"
    DISABLE_QUEUEING_MAPS = "disablequeueing maps|multipaths"
    RESTORE_QUEUEING_MAPS = "restorequeueing maps|multipaths"
    QUIT = "quit|exit"
    SHUTDOWN = "shutdown"
    GET_PR_STATUS = "getprstatus map|multipath $map"
    SET_PR_STATUS = "setprstatus map|multipath $map"
    SET_PR_STATUS_PATHS = "setprstatus map|multipath $map pathlist $pathlist"
    UNSET_PR_STATUS = "unsetprstatus map|multipath $map"
    FORCE_QUEUEING_DAEMON = "forcequeueing daemon"
    RESTORE_QUEUEING_DAEMON = "restorequeueing daemon"
    GET_PR_KEY = "getprkey map|multipath $map"
    SET_PR_KEY = "setprkey map|multipath $map key $key"
    UNSET_PR_KEY = "unsetprkey map|multipath $map"
    SET_MARGINAL = "setmarginal path $path"
    UNSET_MARGINAL = "unsetmarginal path $path"
    UNSET_MARGINAL_MAP = "unsetmarginal map|multipath $map"
    GET_PR_HOLD = "getprhold map|multipath $map"
    SET_PR_HOLD = "setprhold map|multipath $map"
    UNSET_PR_HOLD = "unsetprhold map|multipath $map"
    LIST_PATHS_JSON = "list|show paths json"
    LIST_METRICS = "list|show metrics"

    @property
    def only_reads(self) -> bool:
        """Whether everybody may say it: those that begin with `list`."""
        return self.value.startswith("list|")


_SINCE: Final[dict[Command, Release]] = dict.fromkeys(
    (Command.SET_PR_STATUS_PATHS, Command.GET_PR_HOLD, Command.SET_PR_HOLD, Command.UNSET_PR_HOLD), (0, 13, 0)
)


_OURS: Final = frozenset({Command.LIST_PATHS_JSON, Command.LIST_METRICS})
"""Holdfast's own, which the original's help does not have."""


class CommandError(Exception):
    """`reply` is the whole text of the answer."""

    def __init__(self, reply: str) -> None:
        super().__init__(reply.partition("\nmultipath-tools")[0])
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Request:
    """A command and the values of its parameters, in their order."""

    command: Command
    arguments: tuple[str, ...] = ()


class Grammar:
    """Reads requests, and words errors, as `release` does."""

    def __init__(self, release: Release = NEW) -> None:
        self.release = release
        self._codes: dict[str, str] = {}
        self._with_parameter: set[str] = set()
        self._commands: dict[tuple[str, ...], Command] = {}
        commands = [one for one in Command if _SINCE.get(one, release) <= release]
        for command in commands:
            self._commands[tuple(self._learn(command.value))] = command
        lines = [f"multipath-tools {VERSIONS[release]}", "CLI commands reference:"]
        lines += [f" {command.value}" for command in commands if command not in _OURS]
        self.help = "\n".join(lines) + "\n"

    def _learn(self, syntax: str) -> Iterator[str]:
        code = ""
        for word in syntax.split():
            if word.startswith("$"):
                self._with_parameter.add(code)
                continue
            names = word.split("|")
            code = names[0]
            self._codes.update(dict.fromkeys(names, code))
            yield code

    def parse(self, raw: bytes) -> Request:
        """The request in the text of a frame. CommandError."""
        # A line end is a blank here: a request is one line, however it was typed.
        tokens = tokenize(raw.translate(_LINE_ENDS))
        if not tokens:
            raise self._wrong(raw, "Not enough memory")
        codes: list[str] = []
        arguments: list[str] = []
        wants_argument = False
        for number, token in enumerate(tokens, 1):
            if token is QUOTE:
                continue
            if wants_argument:
                arguments.append(token)
                wants_argument = False
                continue
            code = self._code(token)
            if code is None:
                # A quote is a token, too: behind it the unknown word is not the last one.
                raise self._wrong(raw, "not found") if number == len(tokens) else CommandError("fail\n")
            codes.append(code)
            wants_argument = code in self._with_parameter
        if wants_argument:
            raise self._wrong(raw, "Missing argument")
        command = self._commands.get(tuple(codes))
        if command is None:
            raise self._wrong(raw, "Missing argument")
        return Request(command, tuple(arguments))

    def _code(self, token: str) -> str | None:
        """Of a word or an abbreviation of one; None: of none, or of more than one."""
        code = self._codes.get(token)
        if code is None:
            found = [name for name in self._codes if name.startswith(token)]
            code = self._codes[found[0]] if len(found) == 1 else None
        return code

    def _wrong(self, raw: bytes, what: str) -> CommandError:
        line = raw.decode("utf-8", "surrogateescape")
        return CommandError(self._failed(f"{line}: {what}\n{self.help}"))

    # -- errors that are not about syntax --------------------------------------------------------------------

    def refusal(self, text: str) -> str:
        """The reply of a command that failed; older releases do not say why."""
        return f"fail\n{ended(text)}" if self.release >= PREFIXED_SINCE and text else "fail\n"

    @property
    def not_permitted(self) -> str:
        """The reply to somebody who is not root."""
        return self._failed("permission deny: need to be root\n")

    @property
    def timed_out(self) -> str:
        """The reply when the work took too long, or the request's text did not come."""
        return self._failed("timeout\n")

    def _failed(self, text: str) -> str:
        return f"fail\n{text}" if self.release >= PREFIXED_SINCE else text


_LINE_ENDS: Final = bytes.maketrans(b"\r\n", b"  ")


def ended(text: str) -> str:
    """With a line end."""
    return text if not text or text.endswith("\n") else f"{text}\n"
