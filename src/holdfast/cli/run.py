"""`holdfast run`: parses and calls `client.runner`."""

from __future__ import annotations

import argparse

from holdfast.cli.output import Parser, Progress, add_run_dir, address, bounded, completes
from holdfast.client.addresses import LeaseAddress

EPILOG = """\
leases:
  SPACE:RESOURCE              by name. The space lives in a file of its own under $XDG_STATE_HOME/holdfast
                              (root: /var/lib/holdfast), made on first use, or where --space-path says.
  SPACE:RESOURCE:PATH:OFFSET  at this place; a colon inside PATH is written \\:

the command gets:
  HOLDFAST_LEASE_VERSION  the lease version, a fencing token: it grows with each owner
  HOLDFAST_LEASE, HOLDFAST_SPACE, HOLDFAST_RESOURCE, HOLDFAST_HOST_ID, HOLDFAST_GENERATION, HOLDFAST_RUN_DIR
  HOLDFAST_RUN_ID         marks all processes of this run
  HOLDFAST_LEASE_FD       the registered socket: the lease lives as long as any process has it open

when the lease cannot be proven any more (no renewal for 8 x io_timeout):
  term   SIGTERM to the command and all its descendants, SIGKILL after --kill-grace
  kill   SIGKILL at once
  exec   CMD runs (HOLDFAST_LOST_PID, HOLDFAST_LOST_REASON); SIGKILL after --kill-grace

exit codes: that of the command, 128 + N when signal N ended it;
  73  the lease was not acquired, the command did not run
  74  the lease was lost, the command was ended
  126, 127  the command cannot be executed, does not exist
  1   failed before the command began; 2  wrong usage

examples:
  holdfast run --lease web:primary -- ./server --port 80
  holdfast run --lease db:main --space-path /dev/vg/leases --host-id 3 -- postgres -D /data
  holdfast run --lease jobs:nightly --no-wait -- ./nightly.sh || echo "another host does it"
"""

MAX_LEASES = 8


class WaitAction(argparse.Action):
    """--wait, --wait=SECONDS, --no-wait."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        if option_string == "--no-wait":
            namespace.wait = 0.0
        else:
            namespace.wait = None if values is None or values == [] else values


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not a possible number of seconds")
    return value


def parser() -> argparse.ArgumentParser:
    """Options and help of `holdfast run`."""
    made = Parser("run", "Run a command only while this host holds its leases.", EPILOG)
    made.usage = "holdfast run --lease SPACE:RESOURCE[:PATH:OFFSET] [options] -- CMD [ARG...]"
    lease = made.add_argument(
        "--lease",
        action="append",
        required=True,
        metavar="SPACE:RESOURCE[:PATH:OFFSET]",
        type=address(LeaseAddress),
        help=f"the lease; up to {MAX_LEASES}, all or none are acquired",
    )
    completes(lease, "leases")
    made.add_argument("--space-path", default="", metavar="PATH", help="file or device with the lockspace")
    made.add_argument(
        "--space-offset", default=0, metavar="BYTES", type=bounded(0, 1 << 62), help="where it begins (default 0)"
    )
    made.add_argument(
        "--host-id", default=0, metavar="N", type=bounded(1, 2000), help="this host's id (default: a free one)"
    )
    made.add_argument(
        "--io-timeout",
        default=0,
        metavar="SECONDS",
        type=bounded(1, 255),
        help="storage may be this slow (default: as the lockspace was made; 2 for files made here)",
    )
    made.add_argument(
        "--wait", nargs="?", type=_seconds, default=None, action=WaitAction, metavar="SECONDS",
        help="wait until the lease is free (default), or for so long: --wait=30",
    )  # fmt: skip
    made.add_argument("--no-wait", nargs=0, dest="wait", action=WaitAction, help="try once")
    made.add_argument("--shared", action="store_true", help="hold the leases together with other shared holders")
    made.add_argument(
        "--kill-grace",
        metavar="SECONDS",
        type=bounded(0, 60),
        help="from the loss to SIGKILL (default 40; less when the watchdog fires sooner)",
    )
    made.add_argument(
        "--on-lost",
        nargs=1,
        default=["term"],
        metavar="term|kill|'exec CMD'",
        help="what to do when the lease is lost (default term)",
    )
    made.add_argument(
        "--wait-descendants",
        action="store_true",
        help="when the command ends, wait for processes it left behind (default: end them)",
    )
    made.add_argument("--quiet", action="store_true", help="no progress, only what matters")
    add_run_dir(made)
    made.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD [ARG...]", help="the command")
    return made


def _on_lost(made: argparse.ArgumentParser, text: str) -> tuple[str, str]:
    word, _, rest = text.strip().partition(" ")
    if word in ("term", "kill") and not rest:
        return word, ""
    if word != "exec" or not rest.strip():
        made.error(f"--on-lost {text!r}: possible are term, kill, 'exec CMD'")
    return word, rest.strip()


def run(arguments: argparse.Namespace) -> int:
    """Exit code as the help says."""
    made = parser()
    command = list(arguments.command)
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        made.error("no command after --")
    leases: list[LeaseAddress] = arguments.lease
    if len(leases) > MAX_LEASES:
        made.error(f"{len(leases)} leases, at most {MAX_LEASES} are possible")
    names = [(lease.space, lease.resource) for lease in leases]
    if len(set(names)) != len(names):
        made.error("the same lease twice")
    if arguments.space_path and len({lease.space for lease in leases}) > 1:
        made.error("--space-path with leases of more than one space; join the others first: holdfast lease add")
    on_lost, on_lost_command = _on_lost(made, arguments.on_lost[0])
    from holdfast.client.runner import RunOptions
    from holdfast.client.runner import run as run_command

    options = RunOptions(
        leases=leases,
        command=command,
        space_path=arguments.space_path,
        space_offset=arguments.space_offset,
        host_id=arguments.host_id,
        io_timeout=arguments.io_timeout,
        wait_s=arguments.wait,
        shared=arguments.shared,
        kill_grace=arguments.kill_grace,
        on_lost=on_lost,
        on_lost_command=on_lost_command,
        wait_for_descendants=arguments.wait_descendants,
        run_dir=arguments.run_dir,
    )
    progress = Progress(quiet=arguments.quiet)
    try:
        return run_command(options, progress)
    finally:
        progress.clear()
