"""`holdfast-multipathd`: multipathd's command line, the daemon and its client in one (spec path 6.1, 14).

    holdfast-multipathd -d -s               the daemon, as in multipathd.service
    holdfast-multipathd show paths          one command
    holdfast-multipathd -k'show paths'      the same
    holdfast-multipathd -k                  many, at a prompt

Exit status of the client: 1 when the reply begins with `fail`, else 0.
"""

from __future__ import annotations

import getopt
import sys
from collections.abc import Sequence

from holdfast.cli.refusal import Refusal

PROGRAM = "holdfast-multipathd"
PROMPT = "multipathd> "
MAX_REQUEST = 160
"""Bytes that the original's client sends at most, newline and NUL among them."""
EXIT_OK = 0
EXIT_FAILED = 1
USAGE = f"""\
{PROGRAM}: the path daemon, with multipathd's command line
usage:
  {PROGRAM} [-d] [-s] [-v 0..4] [-B] [-w] [--as WORDS]   the daemon
  {PROGRAM} COMMAND...                      ask the daemon (help: the commands)
  {PROGRAM} -k[COMMAND]                     the same; without a command at a prompt
    -d  stay in the foreground    -s  no time stamps      -v  verbosity
    -B  bindings read-only        -w  no device-mapper events
    -n  without effect          --as 0.9.4|0.14.3|any  whose words the replies have
More options: holdfast path daemon --help
"""


def multipathd_main(arguments: Sequence[str] | None = None) -> int:
    """The console script."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = next((word[2:] for word in given if word.startswith("-k")), None)
    given = [word for word in given if not word.startswith("-k")]
    try:
        options, words = getopt.getopt(given, "dsv:Bwnh", ["help", "as="])
    except getopt.GetoptError as error:
        print(f"{PROGRAM}: {error}\n{USAGE}", end="", file=sys.stderr)
        return EXIT_FAILED
    chosen = dict(options)
    if "-h" in chosen or "--help" in chosen:
        print(USAGE, end="")
        return EXIT_OK
    if command is not None and not words and not command:
        return interactive()
    if command is not None or words:
        from holdfast.path.control.client import command_line

        return one_command(" ".join(filter(None, [command, command_line(words)])))
    verbosity = chosen.get("-v")
    if verbosity is not None and (not verbosity.isdigit() or int(verbosity) > 4):
        print(f"{PROGRAM}: -v wants a number from 0 to 4, not {verbosity!r}", file=sys.stderr)
        return EXIT_FAILED
    if chosen.get("--as", "any") not in ("any", "0.9.4", "0.14.3"):
        print(f"{PROGRAM}: --as wants any, 0.9.4 or 0.14.3, not {chosen['--as']!r}", file=sys.stderr)
        return EXIT_FAILED
    return _daemon(chosen)


def _daemon(chosen: dict[str, str]) -> int:
    from holdfast.cli.path_daemon import start
    from holdfast.path.daemon.process_options import ProcessOptions

    return start(
        ProcessOptions(
            bindings_read_only="-B" in chosen,
            watch_dm_events="-w" not in chosen,
            verbosity=int(chosen["-v"]) if "-v" in chosen else None,
            time_stamps="-s" not in chosen,
            wording=chosen.get("--as", "any"),
        ),
        foreground="-d" in chosen,
    )


def one_command(request: str) -> int:
    """Print the reply; the exit status."""
    from holdfast.cli.path_asking import exchange

    if len(request.encode("utf-8", "surrogateescape")) + 2 > MAX_REQUEST:
        print(f"{PROGRAM}: command too long: at most {MAX_REQUEST - 2} bytes", file=sys.stderr)
        return EXIT_FAILED
    try:
        reply = exchange(request)
    except Refusal as refusal:
        print(f"{PROGRAM}: {refusal}", file=sys.stderr)
        return EXIT_FAILED
    failed = reply.startswith("fail\n")
    _write(reply.removeprefix("fail\n") or "fail\n" if failed else reply)
    return EXIT_FAILED if failed else EXIT_OK


def _write(text: str) -> None:
    """As it is when somebody else reads it; a terminal gets no escapes that a device could have put there."""
    if sys.stdout.isatty():
        from holdfast.cli.path_show import escaped

        text = escaped(text)
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.flush()


def interactive() -> int:
    """Commands from stdin, until its end, `quit` or `exit`; 0."""
    if sys.stdin.isatty():
        try:
            import readline  # noqa: F401  # gives the prompt its history and keys
        except ImportError:
            pass
    while True:
        try:
            line = input(PROMPT).strip()
        except EOFError:
            print()
            return EXIT_OK
        if line in ("quit", "exit"):
            return EXIT_OK
        if line:
            one_command(line)
