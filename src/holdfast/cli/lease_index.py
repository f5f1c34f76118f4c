"""`holdfast lease index ...`: the names of a lockspace's resources and where they lie."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Coroutine
from typing import Any

from holdfast.cli.output import (
    Parser,
    Progress,
    add_json,
    add_run_dir,
    bounded,
    completes,
    print_json,
    print_table,
)
from holdfast.client.addresses import IndexAddress, check_name, parse_offset, split_escaped
from holdfast.client.daemon import Daemon
from holdfast.client.errors import ClientError
from holdfast.client.report import Result, ticking
from holdfast.client.space import index_of
from holdfast.lease.errors import Code

QUIET_S = 2.0
PLACE = """\
The index of a joined lockspace is found by the lockspace's name (it lies right behind it); any other one is
written SPACE:PATH:OFFSET, offsets in bytes or in MiB with the suffix M.
"""
_NEXT_STEPS: dict[int, str] = {
    -2: "holdfast lease index list SPACE shows what is there; holdfast lease status, what is joined",
    -17: "holdfast lease index lookup SPACE --name RESOURCE shows where",
    Code.RINDEX_OFFSET: "holdfast lease index list SPACE shows possible offsets",
    Code.RINDEX_DIFF: "holdfast lease index rebuild SPACE mends an index that is wrong",
}
CODES = "exit codes: 0 done, 1 failed, 2 wrong usage"


def _index(text: str) -> IndexAddress:
    """SPACE, or SPACE:PATH:OFFSET; the first has an empty path."""
    parts = split_escaped(text)
    try:
        if len(parts) == 1:
            return IndexAddress(check_name(parts[0]), "", 0)
        return IndexAddress.parse(text)
    except (ValueError, ClientError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _offset(text: str) -> int:
    try:
        return parse_offset(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _name(text: str) -> str:
    try:
        return check_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parser(verb: str, description: str, text: str, *, anywhere: bool = False) -> argparse.ArgumentParser:
    made = Parser(f"lease index {verb}", description, f"{PLACE}\n{text}")
    completes(made.add_argument("index", metavar="SPACE[:PATH:OFFSET]", type=_index, help="which index"), "spaces")
    if anywhere:
        made.add_argument(
            "--no-lockspace",
            action="store_true",
            help="without joining; only while nobody else changes this index",
        )
    add_json(made)
    add_run_dir(made)
    return made


async def _found(daemon: Daemon, index: IndexAddress) -> IndexAddress:
    if index.path:
        return index
    space = (await daemon.status()).space(index.space)
    if space is None:
        raise ClientError(-28, f"index of lockspace {index.space}", "join it, or write SPACE:PATH:OFFSET")
    return index_of(space)


def _wait(what: str, work: Coroutine[Any, Any, Result]) -> Result:
    progress = Progress("holdfast lease index")
    try:
        return asyncio.run(ticking(progress, what, None, work, quiet_s=QUIET_S))
    except ClientError as error:
        if error.next_step or error.code not in _NEXT_STEPS:
            raise
        raise ClientError(error.code, error.detail, _NEXT_STEPS[error.code]) from None
    finally:
        progress.clear()


# list


def list_parser() -> argparse.ArgumentParser:
    """Options and help."""
    return _parser(
        "list",
        "Show every name in an index.",
        "Read directly from storage, which this process must be able to open; a daemon is asked for the place\n"
        f"only.\n\n{CODES}\n\nexamples:\n"
        "  holdfast lease index list web\n"
        "  holdfast lease index list web:/dev/vg/leases:1M --json\n",
    )


def list_run(arguments: argparse.Namespace) -> int:
    """0 when all were shown."""
    from holdfast.client.direct import index_entries

    async def work() -> tuple[IndexAddress, list[tuple[str, int]]]:
        index = await _found(Daemon(arguments.run_dir), arguments.index)
        return index, [(entry.name, entry.offset) for entry in await index_entries(index)]

    index, entries = _wait("reading the index", work())
    if arguments.json:
        resources = [{"name": name, "offset": offset} for name, offset in entries]
        print_json({**_document(index), "resources": resources})
    elif entries:
        print_table(entries, ("resource", "offset"))
    else:
        print(f"index {index} has no names")
    return 0


def _document(index: IndexAddress) -> dict[str, object]:
    return {"lockspace": index.space, "path": index.path, "index_offset": index.offset}


# lookup


def lookup_parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = _parser(
        "lookup",
        "Show the place of a name, the name at a place, or the first free place.",
        f"{CODES} (1 also for an unknown name)\n\nexamples:\n"
        "  holdfast lease index lookup web --name primary\n"
        "  holdfast lease index lookup web --offset 3M\n"
        "  holdfast lease index lookup web\n",
        anywhere=True,
    )
    made.add_argument("--name", type=_name, help="of a resource")
    made.add_argument("--offset", type=_offset, default=0, help="of a resource")
    return made


def lookup_run(arguments: argparse.Namespace) -> int:
    """0 when it was found."""
    daemon = Daemon(arguments.run_dir)

    async def work() -> tuple[IndexAddress, str, int]:
        index = await _found(daemon, arguments.index)
        entry = await daemon.lookup(
            index, arguments.name or "", arguments.offset, without_lockspace=arguments.no_lockspace
        )
        return index, entry.name, entry.offset

    index, name, offset = _wait("looking up", work())
    if arguments.json:
        print_json({**_document(index), "name": name or None, "offset": offset})
    else:
        print(f"{name or '(free)'} {offset}")
    return 0


# create and delete


def create_parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = _parser(
        "create",
        "Make a resource at the first free place and note its name.",
        "The lockspace must be joined. A name that exists is refused.\n\n"
        f"{CODES}\n\nexample:\n  holdfast lease index create web primary\n",
    )
    made.add_argument("name", metavar="RESOURCE", type=_name)
    made.add_argument("--num-hosts", default=0, metavar="N", type=bounded(1, 2000), help="(default: all)")
    return made


def create_run(arguments: argparse.Namespace) -> int:
    """0 when it was made."""
    daemon = Daemon(arguments.run_dir)

    async def work() -> tuple[IndexAddress, int]:
        index = await _found(daemon, arguments.index)
        return index, await daemon.create_resource(index, arguments.name, num_hosts=arguments.num_hosts)

    index, offset = _wait("making the resource", work())
    if arguments.json:
        print_json({**_document(index), "name": arguments.name, "offset": offset})
    else:
        print(f"resource {index.space}:{arguments.name} is at {index.path}:{offset}")
    return 0


def delete_parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = _parser(
        "delete",
        "Take a name out of the index and clear its resource.",
        "Whoever holds the lease loses it without notice: release it first.\n\n"
        f"{CODES}\n\nexample:\n  holdfast lease index delete web primary\n",
    )
    made.add_argument("name", metavar="RESOURCE", type=_name)
    return made


def delete_run(arguments: argparse.Namespace) -> int:
    """0 when it is gone."""
    daemon = Daemon(arguments.run_dir)

    async def work() -> IndexAddress:
        index = await _found(daemon, arguments.index)
        await daemon.delete_resource(index, arguments.name)
        return index

    index = _wait("deleting the resource", work())
    if arguments.json:
        print_json({**_document(index), "name": arguments.name, "deleted": True})
    else:
        print(f"resource {index.space}:{arguments.name} is deleted")
    return 0


# update, rebuild, format


def update_parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = _parser(
        "update",
        "Set or clear one entry of an index.",
        "No resource is made, cleared or looked at.\n\n"
        f"{CODES}\n\nexamples:\n"
        "  holdfast lease index update web --offset 5M --name vm7\n"
        "  holdfast lease index update web --offset 5M --remove\n",
        anywhere=True,
    )
    made.add_argument("--offset", type=_offset, required=True, help="which slot")
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument("--name", type=_name, help="the name to note there")
    what.add_argument("--remove", action="store_true", help="clear the entry")
    return made


def update_run(arguments: argparse.Namespace) -> int:
    """0 when the entry is written."""
    daemon = Daemon(arguments.run_dir)

    async def work() -> IndexAddress:
        index = await _found(daemon, arguments.index)
        await daemon.update_index(
            index,
            arguments.offset,
            arguments.name or "",
            remove=arguments.remove,
            without_lockspace=arguments.no_lockspace,
        )
        return index

    index = _wait("updating the index", work())
    if arguments.json:
        print_json({**_document(index), "offset": arguments.offset, "name": arguments.name or None})
    elif arguments.remove:
        print(f"the entry at {arguments.offset} is cleared")
    else:
        print(f"{arguments.name} is noted at {arguments.offset}")
    return 0


def rebuild_parser() -> argparse.ArgumentParser:
    """Options and help."""
    return _parser(
        "rebuild",
        "Write an index anew from the resources that are there.",
        "Every place is read: this can take minutes on a large index.\n\n"
        f"{CODES}\n\nexample:\n  holdfast lease index rebuild web\n",
        anywhere=True,
    )


def rebuild_run(arguments: argparse.Namespace) -> int:
    """0 when the index is written."""
    daemon = Daemon(arguments.run_dir)

    async def work() -> IndexAddress:
        index = await _found(daemon, arguments.index)
        await daemon.rebuild_index(index, without_lockspace=arguments.no_lockspace)
        return index

    index = _wait("reading every place of the index", work())
    if arguments.json:
        print_json({**_document(index), "rebuilt": True})
    else:
        print(f"index {index} is rebuilt; holdfast lease index list shows what is in it")
    return 0


def format_parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = _parser(
        "format",
        "Write an empty index and its internal lease.",
        "Erases the names that are there: the resources stay, and `rebuild` finds them again. The place must be\n"
        "given in full. With the lockspace in one go: holdfast lease init --space ... --with-index.\n\n"
        f"{CODES}\n\nexample:\n  holdfast lease index format web:/dev/vg/leases:1M\n",
    )
    made.add_argument("--max-resources", default=0, metavar="N", type=bounded(1, 128000), help="(default 4096)")
    return made


def format_run(arguments: argparse.Namespace) -> int:
    """0 when the index is written."""
    index: IndexAddress = arguments.index
    if not index.path:
        format_parser().error("the place must be given in full: SPACE:PATH:OFFSET")
    daemon = Daemon(arguments.run_dir)
    _wait("writing the index", daemon.format_index(index, max_resources=arguments.max_resources))
    if arguments.json:
        print_json({**_document(index), "formatted": True})
    else:
        print(f"initialised index {index}")
    return 0
