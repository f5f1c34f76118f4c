"""`holdfast`: finds the command, imports its module, and turns errors into one line and an exit code.

Imports at the top stay few: `holdfast --help` must answer within four times the time of `python3 -c pass`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from holdfast.cli.commands import COMMANDS, Entry, load
from holdfast.version import __version__

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

INTRODUCTION = """\
holdfast: a workload runs only while its host can prove that it holds the lease.

usage: holdfast COMMAND [options]
       holdfast COMMAND --help
"""

EXAMPLES = """\
examples:
  holdfast run --lease web:primary -- ./server     ./server runs on one host at a time
  holdfast demo                                    a storage failure and a takeover, live
  holdfast lease status                            what this host holds

exit codes: 0 done, 1 failed, 2 wrong usage; others are in the command's --help.
"""


def _table(commands: dict[str, Entry], width: int = 0) -> str:
    width = width or max(map(len, commands)) + 2
    return "".join(f"  {name:<{width}}{entry.help}\n" for name, entry in commands.items())


def top_help() -> str:
    """The text of `holdfast --help`."""
    options = "  --help      this text; after a command: its own\n  --version   version of Holdfast\n"
    return f"{INTRODUCTION}\ncommands:\n{_table(COMMANDS)}\noptions:\n{options}\n{EXAMPLES}"


def group_help(path: str, entry: Entry) -> str:
    """The text of `holdfast GROUP --help`; `path` as it was typed, from `holdfast` on."""
    assert entry.group is not None
    head = f"usage: {path} COMMAND [options]\n       {path} COMMAND --help\n\n{entry.help}\n"
    sections = entry.sections or {"commands": entry.group}
    width = max(map(len, entry.group)) + 2
    tables = [f"{name}:\n{_table(commands, width)}" for name, commands in sections.items()]
    return "\n".join([head, *tables, entry.first_steps] if entry.first_steps else [head, *tables])


def _usage_error(text: str) -> int:
    print(f"holdfast: {text}", file=sys.stderr)
    return EXIT_USAGE


def _nearest(word: str, commands: dict[str, Entry]) -> str:
    import difflib

    found = difflib.get_close_matches(word, commands, 1)
    return f"did you mean '{found[0]}'?" if found else f"known are {', '.join(commands)}"


def _run(entry: Entry, arguments: Sequence[str]) -> int:
    parser, run = load(entry)
    return run(parser().parse_args(arguments))


def dispatch(arguments: Sequence[str]) -> int:
    """Find the command and run it; its exit code. Raises what the command raises."""
    commands, path = COMMANDS, "holdfast"
    words = list(arguments)
    if not words:
        print(top_help(), end="")
        return EXIT_USAGE
    if words[0] == "--version":
        print(f"holdfast {__version__}")
        return EXIT_DONE
    if words[0] in ("--help", "-h", "help"):
        print(top_help(), end="")
        return EXIT_DONE
    while True:
        word = words.pop(0)
        entry = commands.get(word)
        if entry is None:
            what = "option" if word.startswith("-") else "command"
            return _usage_error(f"unknown {what} '{word}' of '{path}'; {_nearest(word, commands)}")
        path += f" {word}"
        if entry.group is None:
            return _run(entry, words)
        if not words or words[0] in ("--help", "-h", "help"):
            print(group_help(path, entry), end="")
            return EXIT_DONE if words else EXIT_USAGE
        commands = entry.group


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script. Errors of the field become one line on stderr; a defect shows its traceback."""
    return guarded(lambda: dispatch(sys.argv[1:] if arguments is None else arguments))


def guarded(call: Callable[[], int], name: str = "holdfast") -> int:
    """The exit code of `call`, whatever it raises of the field."""
    try:
        return call()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): nothing is wrong, and nothing more can be written.
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_FAILED
    except Exception as error:
        from holdfast.cli.output import error_text

        text = error_text(error)
        if text is None:
            raise
        print(f"{name}: {text}", file=sys.stderr)
        # A command whose help names further exit codes raises errors that carry them.
        return int(getattr(error, "exit_code", EXIT_FAILED))
