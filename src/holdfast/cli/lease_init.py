"""`holdfast lease init`: writes lockspaces, indexes and resources; through the daemon, or directly."""

from __future__ import annotations

import argparse
import asyncio
import os

from holdfast.cli.output import Parser, Progress, add_run_dir, address, bounded
from holdfast.client.addresses import IndexAddress, LeaseAddress, SpaceAddress
from holdfast.client.daemon import Daemon
from holdfast.client.errors import ClientError, DaemonUnreachable
from holdfast.client.space import locate
from holdfast.lease.geometry import API_SECTOR4K, API_SECTOR512, MIB, Geometry

EPILOG = """\
Initialising erases what is there, whoever uses it. Never initialise what other hosts have joined.
A space for `holdfast run --space-path` needs the lockspace and, for leases by name, the index behind it.
Without a daemon, or with --direct, this process writes by itself. A missing file is made.

exit codes: 0 written, 1 failed, 2 wrong usage

examples:
  holdfast lease init --space web:0:/dev/vg/leases:0 --with-index
  holdfast lease init --index web:/dev/vg/leases:1M
  holdfast lease init --resource web:primary                          (by name, in a joined lockspace)
  holdfast lease init --resource web:primary:/dev/vg/leases:8M
"""
SECTORS = (512, 4096)
ALIGNS = (1, 2, 4, 8)
OPEN_TIMEOUT_S = 10.0


def parser() -> argparse.ArgumentParser:
    """Options and help."""
    made = Parser("lease init", "Initialise a lockspace, a resource index or a resource on storage.", EPILOG)
    made.usage = (
        "holdfast lease init (--space S:0:PATH:OFF | --index S:PATH:OFF | --resource S:R[:PATH:OFF]) [options]"
    )
    what = made.add_mutually_exclusive_group(required=True)
    what.add_argument("--space", metavar="SPACE:0:PATH:OFFSET", type=address(SpaceAddress))
    what.add_argument("--index", metavar="SPACE:PATH:OFFSET", type=address(IndexAddress))
    what.add_argument("--resource", metavar="SPACE:RESOURCE[:PATH:OFFSET]", type=address(LeaseAddress))
    made.add_argument("--with-index", action="store_true", help="with --space: the index right behind it")
    made.add_argument(
        "--io-timeout", default=0, metavar="SECONDS", type=bounded(1, 255), help="of a lockspace (default 10)"
    )
    made.add_argument("--num-hosts", default=0, metavar="N", type=bounded(1, 2000), help="of a resource (all)")
    made.add_argument(
        "--max-resources", default=0, metavar="N", type=bounded(1, 128000), help="of an index (4096)"
    )
    made.add_argument("--clear", action="store_true", help="a resource that nobody can acquire")
    made.add_argument("--sector-size", type=int, choices=SECTORS, help="with --align-size")
    made.add_argument("--align-size", type=int, choices=ALIGNS, metavar="MIB", help="1, 2, 4 or 8")
    made.add_argument("--direct", action="store_true", help="write without a daemon")
    add_run_dir(made)
    return made


def _geometry(arguments: argparse.Namespace) -> Geometry | None:
    if arguments.sector_size is None and arguments.align_size is None:
        return None
    if arguments.sector_size is None or arguments.align_size is None:
        parser().error("--sector-size and --align-size must be given together")
    return Geometry(arguments.sector_size, arguments.align_size * MIB)


def run(arguments: argparse.Namespace) -> int:
    """0 when all was written."""
    if arguments.with_index and arguments.space is None:
        parser().error("--with-index goes with --space")
    geometry = _geometry(arguments)
    progress = Progress("holdfast lease init")
    try:
        return asyncio.run(_run(arguments, geometry, progress))
    finally:
        progress.clear()


async def _run(arguments: argparse.Namespace, geometry: Geometry | None, progress: Progress) -> int:
    daemon = Daemon(arguments.run_dir)
    direct: bool = arguments.direct
    made = [path for path in _paths(arguments) if _make_missing(path, progress)]
    if not direct:
        try:
            await daemon.version()
            if made:
                await _give_to(daemon, made)
        except DaemonUnreachable:
            if arguments.run_dir is not None or (arguments.resource and not arguments.resource.disks):
                raise
            progress.say("no lease daemon answers: writing directly")
            direct = True
    done = await (_direct if direct else _through_daemon)(arguments, geometry, daemon)
    for line in done:
        print(line)
    return 0


def _paths(arguments: argparse.Namespace) -> list[str]:
    if arguments.resource:
        return [disk.path for disk in arguments.resource.disks]
    return [(arguments.space or arguments.index).path]


async def _give_to(daemon: Daemon, paths: list[str]) -> None:
    """New files of root belong to the daemon's user: it gave up root, and must be able to open them."""
    known = (await daemon.status()).daemon
    uid, gid = known.get("uid", ""), known.get("gid", "")
    if os.geteuid() == 0 and uid.isdigit() and gid.isdigit() and int(uid):
        for path in paths:
            os.chown(path, int(uid), int(gid))


def _make_missing(path: str, progress: Progress) -> bool:
    """Make a missing file, readable by its owner only; whether it was. Not below /dev: a mistyped device must stay
    an error."""
    real = os.path.realpath(path)
    if os.path.exists(path) or (real.startswith("/dev/") and not real.startswith("/dev/shm/")):
        return False
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    progress.say(f"made the file {path}")
    return True


async def _through_daemon(arguments: argparse.Namespace, geometry: Geometry | None, daemon: Daemon) -> list[str]:
    flags = geometry.api_flags if geometry else 0
    if arguments.space:
        space: SpaceAddress = arguments.space
        await daemon.write_lockspace(space, io_timeout=arguments.io_timeout, flags=flags)
        done = [f"initialised lockspace {space.space} at {space.path}:{space.offset}"]
        if arguments.with_index:
            # The daemon has chosen the sizes if we did not: where the index begins depends on them.
            found, _ = await daemon.read_lockspace(space)
            from holdfast.lease.geometry import from_api_flags

            sizes = from_api_flags(found.flags)
            align = sizes.align_size if sizes else MIB
            index = IndexAddress(space.space, space.path, space.offset + align)
            await daemon.format_index(index, flags=found.flags & _SIZES, max_resources=arguments.max_resources)
            done.append(f"initialised index {index}")
        return done
    if arguments.index:
        await daemon.format_index(arguments.index, flags=flags, max_resources=arguments.max_resources)
        return [f"initialised index {arguments.index}"]
    lease: LeaseAddress = arguments.resource
    if lease.disks:
        await daemon.write_resource(lease, num_hosts=arguments.num_hosts, clear=arguments.clear, flags=flags)
        return [f"{'cleared' if arguments.clear else 'initialised'} resource {lease}"]
    space_status = (await daemon.status()).space(lease.space)
    if space_status is None:
        raise ClientError(-28, f"create {lease} by name")
    place = await locate(daemon, lease, space_status, create=True)
    return [f"resource {lease} is at {place.disks[0].path}:{place.disks[0].offset}"]


_SIZES = API_SECTOR512 | API_SECTOR4K | 0xF0


async def _direct(arguments: argparse.Namespace, geometry: Geometry | None, _: Daemon) -> list[str]:
    from holdfast.lease.format import init_lockspace, init_resource
    from holdfast.lease.rindex import format_index
    from holdfast.storage import close_disk, close_storage, open_disk

    if arguments.resource and not arguments.resource.disks:
        raise ClientError(-22, f"{arguments.resource} by name", "give its path and offset, or start the daemon")
    places = arguments.resource.disks if arguments.resource else (arguments.space or arguments.index,)
    done = []
    try:
        for place in places:
            disk = await open_disk(place.path, timeout_s=OPEN_TIMEOUT_S)
            try:
                where = f"{place.path}:{place.offset}"
                if arguments.space:
                    name = arguments.space.space
                    sizes = await init_lockspace(disk, place.offset, name, geometry, arguments.io_timeout)
                    done.append(f"initialised lockspace {name} at {where}")
                    if arguments.with_index:
                        at = place.offset + sizes.align_size
                        await format_index(disk, at, name, sizes, arguments.max_resources)
                        done.append(f"initialised index {IndexAddress(name, place.path, at)}")
                elif arguments.index:
                    await format_index(
                        disk, place.offset, arguments.index.space, geometry, arguments.max_resources
                    )
                    done.append(f"initialised index {arguments.index}")
                else:
                    lease: LeaseAddress = arguments.resource
                    await init_resource(
                        disk,
                        place.offset,
                        lease.space,
                        lease.resource,
                        geometry,
                        num_hosts=arguments.num_hosts,
                        clear=arguments.clear,
                    )
                    done.append(f"{'cleared' if arguments.clear else 'initialised'} resource {lease} at {where}")
            finally:
                close_disk(disk)
    finally:
        close_storage()
    return done
