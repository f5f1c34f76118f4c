"""ACQUIRE, RELEASE, INQUIRE, CONVERT, LVB, KILLPATH (spec lease-wire 7), and what the death of a client does.

Each function serves one complete request. They finish without suspending whenever the storage answers at once.
Must never leave a lease on disk that no table knows: what could not be undone is retried in the background.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, Final

from holdfast.lease import resource as rules
from holdfast.lease.errors import Code, LeaseError, storage_code
from holdfast.lease.resource import AcquireOptions, Lease, Target, Unclear
from holdfast.leased import wire
from holdfast.leased.clients import Client
from holdfast.leased.leases import Admission, LocalLease, Stage, Token
from holdfast.leased.log import RESOURCE_LINE
from holdfast.leased.spaces import Space
from holdfast.leased.wire import Resource
from holdfast.storage import StorageError

if TYPE_CHECKING:
    from holdfast.leased.core import LeaseDaemon
    from holdfast.leased.requests import Call

log = logging.getLogger(__name__)

NOT_HELD: Final = -1
ENOENT: Final = -2
E2BIG: Final = -7
EAGAIN: Final = -11
EBUSY: Final = -16
EINVAL: Final = -22
ENOTTY: Final = -25
ENOSPC: Final = -28

MAX_CONCURRENT_RELEASES: Final = 16
NOT_OUR_LEASE: Final = frozenset(
    (
        ENOENT,
        Code.LEADER_RESOURCE,
        Code.LEADER_NUMHOSTS,
        Code.DBLOCK_CHECKSUM,
        Code.RELEASE_LVER,
        Code.RELEASE_OWNER,
    )
)
"""Giving a lease back meets something else in its place, or nothing."""


# -- ACQUIRE -----------------------------------------------------------------------------------------------


async def acquire(daemon: LeaseDaemon, call: Call) -> bytes:
    """All or nothing: on an error everything that this call took is given back before the reply (spec 7.1)."""
    resources, client, flags = call.payload.resources, call.target, call.header.cmd_flags
    if call.payload.options is not None and client.name != call.payload.options.owner_name:
        client.name = call.payload.options.owner_name
        daemon.record.client(client)
    taken: list[Token] = []
    result = 0
    try:
        for one in resources:
            _usable_space(daemon, one.lockspace_name)
        if len(resources) == 1:
            taken.append(await _take(daemon, client, resources[0], flags))
        elif len({(one.lockspace_name, one.name) for one in resources}) == len(resources):
            result = await _take_together(daemon, client, resources, flags, taken)
        else:
            # The same lease twice: only the order of the list says which one may have it.
            for one in resources:
                taken.append(await _take(daemon, client, one, flags))
    except LeaseError as error:
        result = error.code
        _log_failure(daemon, error)
    if not result and any(token.local.space.dead for token in taken):
        result = ENOSPC  # The lockspace began to fail meanwhile.
    if result:
        await _each(give_up(daemon, token) for token in taken)
    elif client.pid_dead:
        result = ENOTTY  # Its leases are released by whoever ends this command.
    return wire.encode_reply(call.header, result)


def _log_failure(daemon: LeaseDaemon, error: LeaseError) -> None:
    level = logging.DEBUG if daemon.options.quiet_fail else logging.ERROR
    if log.isEnabledFor(level):
        log.log(level, "acquire: %s", error)


def _usable_space(daemon: LeaseDaemon, name: str) -> Space:
    space = daemon.spaces.active(name)
    if space is None or not space.usable:
        raise LeaseError(ENOSPC, f"lockspace {name} is not there or failing")
    return space


async def _take_together(
    daemon: LeaseDaemon, client: Client, resources: Iterable[Resource], flags: int, taken: list[Token]
) -> int:
    """Several ballots at once; `taken` gets what succeeded, the result is the first error in list order."""
    outcomes = await asyncio.gather(
        *[_take(daemon, client, one, flags) for one in resources], return_exceptions=True
    )
    result = 0
    for outcome in outcomes:
        if isinstance(outcome, Token):
            taken.append(outcome)
        elif not isinstance(outcome, LeaseError):
            raise outcome
        elif not result:
            result = outcome.code
            _log_failure(daemon, outcome)
    return result


async def _take(daemon: LeaseDaemon, client: Client, wanted: Resource, flags: int) -> Token:
    key = (wanted.lockspace_name, wanted.name)
    space = _usable_space(daemon, wanted.lockspace_name)
    shared = bool(wanted.flags & wire.RES_SHARED)
    persistent = bool(wanted.flags & wire.RES_PERSISTENT)
    admission = daemon.leases.admit(key, shared, flags)
    if admission is Admission.FRESH:
        return await _take_fresh(daemon, client, space, wanted, flags)
    local = daemon.leases.get(key)
    assert local is not None
    token = _hold(daemon, client, local, persistent)
    local.stage = Stage.HELD
    if admission is Admission.ADOPT:
        local.reused += 1
    return token


def _hold(daemon: LeaseDaemon, client: Client, local: LocalLease, persistent: bool) -> Token:
    daemon.record.take(client, local, persistent)
    token = daemon.leases.new_token(client, local, persistent)
    client.add_token(token)
    return token


async def _take_fresh(daemon: LeaseDaemon, client: Client, space: Space, wanted: Resource, flags: int) -> Token:
    if wanted.num_disks > 1:
        raise LeaseError(EINVAL, f"{wanted.name}: {wanted.num_disks} disks, only one is supported")
    local = daemon.leases.begin((wanted.lockspace_name, wanted.name), space, wanted)
    local.lvb = bool(flags & wire.ACQUIRE_LVB)
    if daemon.leases.is_new_number:
        place = wanted.disks[0]
        log.warning(RESOURCE_LINE, space.number, local.number, space.name, wanted.name, place.path, place.offset)
    try:
        # Before the lease can be ours: a crash in between must not lose sight of it.
        token = _hold(daemon, client, local, bool(wanted.flags & wire.RES_PERSISTENT))
    except BaseException:
        daemon.forget_lease(local)
        raise
    try:
        with space.operation():
            disk = wanted.disks[0]
            local.device = await daemon.open_disk(disk.path, float(space.io_timeout))
            local.lease = await rules.acquire(
                space.membership,
                Target(local.device, disk.offset, wanted.name),
                AcquireOptions(
                    shared=local.shared,
                    # 0 asks for no particular version, flag or not, as in the original.
                    lver=wanted.lver or None if wanted.flags & wire.RES_LVER else None,
                    num_hosts=wanted.data32 if wanted.flags & wire.RES_NUM_HOSTS else None,
                    owner_nowait=bool(flags & wire.ACQUIRE_OWNER_NOWAIT),
                    lvb=bool(flags & wire.ACQUIRE_LVB),
                    shared_retries=daemon.options.sh_retries,
                ),
            )
    except Unclear as unclear:
        drop_token(daemon, token)
        local.stage = Stage.REM
        daemon.record.leaving(local)
        daemon.spawn(_retract(daemon, local, unclear), f"retract {wanted.name}")
        raise
    except StorageError as error:
        drop_token(daemon, token)
        daemon.forget_lease(local)
        raise LeaseError(storage_code(error), str(error)) from error
    except asyncio.CancelledError:
        # The daemon ends. Its value may be accepted already: the attempt stays on record for a successor.
        raise
    except BaseException:
        drop_token(daemon, token)
        daemon.forget_lease(local)
        raise
    local.stage = Stage.HELD
    daemon.record.taken(local)
    return token


async def _retract(daemon: LeaseDaemon, local: LocalLease, unclear: Unclear) -> None:
    """Until the outcome of a failed acquire is undone, or the lockspace is gone (spec lease-disk 8.7)."""
    space = local.space
    pause = 0.0
    while not space.dead:
        await pause_while_it_lives(daemon, space, pause)
        if space.dead:
            break
        try:
            with space.operation():
                await rules.retract(unclear)
            break
        except LeaseError as error:
            log.warning("s%d retract %s: %s", space.number, local.key[1], error)
        pause = float(space.io_timeout) if not pause else 2.0 * space.io_timeout
    daemon.forget_lease(local)


def give_back_later(daemon: LeaseDaemon, space: Space, what: Lease | Unclear) -> None:
    """An internal lease that could not be given back: go on trying while the lockspace lives."""

    async def run() -> None:
        pause = float(space.io_timeout)
        while not space.dead:
            await pause_while_it_lives(daemon, space, pause)
            if space.dead:
                return
            try:
                with space.operation():
                    await (rules.retract(what) if isinstance(what, Unclear) else rules.release(what))
                return
            except LeaseError as error:
                log.warning("s%d internal lease: %s", space.number, error)
                if error.code != Code.AIO_TIMEOUT:
                    return
            pause = 2.0 * space.io_timeout

    daemon.spawn(run(), f"give back in s{space.number}")


# -- RELEASE -----------------------------------------------------------------------------------------------


async def release(daemon: LeaseDaemon, call: Call) -> bytes:
    """All forms of spec 7.3; ORPHAN is `release_orphans`."""
    client, flags = call.target, call.header.cmd_flags
    if flags & wire.RELEASE_ALL:
        results = await _each(give_up(daemon, token) for token in client.held())
        result = _last_error(results)
    elif flags & wire.RELEASE_RENAME:
        first, second = call.payload.resources
        result = await _release_named(daemon, client, first, second.name)
    elif len(call.payload.resources) == 1:
        result = await _release_named(daemon, client, call.payload.resources[0])
    else:
        results = await _each(_release_named(daemon, client, one) for one in call.payload.resources)
        result = _last_error(results)
    if client.kill_count and not client.held():
        log.info("cmd_release %d,%d,%d clear kill state", client.ci, client.fd, client.pid)
        client.forget_kill_state()
    return wire.encode_reply(call.header, result)


def _last_error(results: list[int]) -> int:
    return next((result for result in reversed(results) if result), 0)


async def _release_named(daemon: LeaseDaemon, client: Client, named: Resource, new_name: str | None = None) -> int:
    token = _find(client, named)
    if token is None:
        return NOT_HELD
    return await give_up(daemon, token, new_name)


def _find(client: Client, named: Resource) -> Token | None:
    key = (named.lockspace_name, named.name)
    for token in client.tokens:
        if token is not None and token.local.key == key and token.local.stage is Stage.HELD:
            return token
    return None


async def release_orphans(daemon: LeaseDaemon, call: Call) -> bytes:
    """Queue orphans for release; the result is their number (spec 6.5)."""
    named = call.payload.resources[0]
    orphans = daemon.leases.orphans(named.lockspace_name, named.name)
    for orphan in orphans:
        daemon.record.leaving(orphan)
        release_in_background(daemon, orphan)
    return wire.encode_reply(call.header, len(orphans))


def drop_token(daemon: LeaseDaemon, token: Token) -> bool:
    """Take a client's hold away, locally. True when nobody here holds the lease any more."""
    client, local = token.client, token.local
    client.drop_token(token)
    local.tokens.remove(token)
    if local.tokens:
        # The end of the last hold is known by what becomes of the lease.
        daemon.record.dropped(token)
    if local.space.dead:
        local.space.wake()
    return not local.tokens


async def give_up(daemon: LeaseDaemon, token: Token, new_name: str | None = None) -> int:
    """One client's hold ends; with the last one the lease is released on disk. 0 or a result code."""
    local = token.local
    if not drop_token(daemon, token):
        return 0
    return await _release_on_disk(daemon, local, new_name)


async def _release_on_disk(daemon: LeaseDaemon, local: LocalLease, new_name: str | None = None) -> int:
    space, lease = local.space, local.lease
    if local.adopting:
        daemon.hold_ended(local, persistent=False)
        return 0
    if space.dead or lease is None:
        # Writing for a lost host id could destroy what others have done since (rule 15).
        daemon.forget_lease(local)
        return 0
    local.stage = Stage.REM
    if new_name is not None:
        # Half done it would look like somebody else's lease.
        daemon.record.leaving(local)
    code = await _try_release(space, lease, new_name)
    if code == Code.AIO_TIMEOUT and not space.dead:
        daemon.record.leaving(local)
        daemon.spawn(_release_later(daemon, local, lease, new_name), f"release {local.key[1]}")
        return code
    daemon.forget_lease(local)
    return 0 if space.dead else code


async def _try_release(space: Space, lease: Lease, new_name: str | None) -> int:
    try:
        with space.operation():
            await rules.release(lease, new_name)
    except LeaseError as error:
        log.warning("s%d release: %s", space.number, error)
        return error.code
    return 0


async def _release_later(daemon: LeaseDaemon, local: LocalLease, lease: Lease, new_name: str | None) -> None:
    """After io_timeout, then every 2·io_timeout, for as long as the lockspace lives (spec 6.4)."""
    space = local.space
    pause = float(space.io_timeout)
    while not space.dead:
        await pause_while_it_lives(daemon, space, pause)
        if space.dead or await _try_release(space, lease, new_name) != Code.AIO_TIMEOUT:
            break
        pause = 2.0 * space.io_timeout
    daemon.forget_lease(local)


async def pause_while_it_lives(daemon: LeaseDaemon, space: Space, seconds: float) -> None:
    """Sleep, but not longer than the lockspace lives."""
    until = daemon.clock.now() + seconds
    while not space.dead and (left := until - daemon.clock.now()) > 0:
        await space.membership.changed.wait(daemon.clock, left)


def release_in_background(daemon: LeaseDaemon, local: LocalLease) -> None:
    """Nobody waits for it."""
    local.stage = Stage.REM  # At once: an ACQUIRE in the meantime gets -11.

    async def run() -> None:
        await _release_on_disk(daemon, local)

    daemon.spawn(run(), f"release {local.key[1]}")


def release_after_death(daemon: LeaseDaemon, client: Client) -> None:
    """The process is gone: its leases become orphans or are released, without anybody waiting (spec 6.4)."""
    for token in client.held():
        local = token.local
        if not drop_token(daemon, token):
            continue
        if local.adopting:
            daemon.hold_ended(local, token.persistent)
        elif local.space.dead or local.lease is None:
            daemon.forget_lease(local)
        elif token.persistent:
            local.stage = Stage.ORPHAN
            daemon.record.orphaned(local)
        else:
            release_in_background(daemon, local)


async def _each(calls: Iterable[Awaitable[int]]) -> list[int]:
    """Results in order; a few at a time, so that 500 leases do not mean 500 writes in flight."""
    limit = asyncio.Semaphore(MAX_CONCURRENT_RELEASES)

    async def one(call: Awaitable[int]) -> int:
        async with limit:
            return await call

    waiting = list(calls)
    if len(waiting) == 1:
        return [await waiting[0]]
    return list(await asyncio.gather(*[one(call) for call in waiting]))


# -- INQUIRE, CONVERT, LVB, KILLPATH -----------------------------------------------------------------------


def inquire(daemon: LeaseDaemon, call: Call) -> bytes:
    """Spec 6.6."""
    # What an earlier daemon recorded counts when it was seen on storage.
    held = [token for token in call.target.held() if not token.local.adopting]
    if not held:
        return wire.encode_reply(call.header)
    try:
        text = wire.args_to_state(token.local.shown_resource() for token in held)
    except wire.FormatError as error:
        # An empty string follows: without it libsanlock does not look at the count.
        return wire.encode_reply(call.header, error.code, len(held), b"\0")
    body = text.encode("utf-8", "surrogateescape") + b"\0"
    return wire.encode_reply(call.header, 0, len(held), body)


async def convert(daemon: LeaseDaemon, call: Call) -> bytes:
    """Change the mode of a held lease (spec 7.2)."""
    wanted = call.payload.resources[0]
    shared = bool(wanted.flags & wire.RES_SHARED)
    token = _find(call.target, wanted)
    if token is None or token.local.lease is None:
        return wire.encode_reply(call.header, ENOENT)
    local, lease = token.local, token.local.lease
    if local.space.dead:
        return wire.encode_reply(call.header, ENOSPC)
    if not shared and len(local.tokens) > 1:
        # The original grants it and so takes the lease away from its other local holders (spec 21 no. 5).
        return wire.encode_reply(call.header, EAGAIN)
    local.converting = True
    result = 0
    try:
        with local.space.operation():
            nowait = bool(call.header.cmd_flags & wire.CONVERT_OWNER_NOWAIT)
            await rules.convert(lease, shared=shared, owner_nowait=nowait)
    except LeaseError as error:
        result = error.code
        _log_failure(daemon, error)
    finally:
        local.converting = False
        local.shared = lease.shared
        local.pid = 0 if local.shared else token.pid
        daemon.record.converted(local)
    return wire.encode_reply(call.header, result)


def set_lvb(daemon: LeaseDaemon, call: Call) -> bytes:
    """Into memory; it is written at release or conversion to shared (spec 7.4)."""
    value = call.payload.value
    result, lvb = _held_lvb(daemon, call.payload.resources[0], len(value))
    if lvb is not None and lvb.lvb is not None:
        lvb.lvb[: len(value)] = value
        lvb.lvb_dirty = True
        local = daemon.leases.get((call.payload.resources[0].lockspace_name, call.payload.resources[0].name))
        if local is not None:
            daemon.record.value(local)
    return wire.encode_reply(call.header, result)


def get_lvb(daemon: LeaseDaemon, call: Call) -> bytes:
    """The value of a lease that some local client holds with the LVB flag (spec 7.4): -2, -22, -7."""
    wanted = call.header.data2
    result, lvb = _held_lvb(daemon, call.payload.resources[0], wanted)
    if lvb is None or lvb.lvb is None:
        return wire.encode_reply(call.header, result, length=(wire.HEADER_SIZE + wanted) & 0xFFFFFFFF)
    return wire.encode_reply(call.header, 0, body=bytes(lvb.lvb[: wanted or len(lvb.lvb)]))


def _held_lvb(daemon: LeaseDaemon, named: Resource, size: int) -> tuple[int, Lease | None]:
    local = daemon.leases.get((named.lockspace_name, named.name))
    if local is None or local.stage is not Stage.HELD or local.lease is None:
        return ENOENT, None
    if local.lease.lvb is None:
        return EINVAL, None
    if size > len(local.lease.lvb):
        return E2BIG, None
    return 0, local.lease


def killpath(daemon: LeaseDaemon, call: Call) -> bytes:
    """Remember what to run instead of SIGTERM (spec 6.1). The PID flag once set stays."""
    client = call.target
    client.killpath = call.payload.killpath
    client.killargs = call.payload.killargs
    if call.header.cmd_flags & wire.KILLPATH_PID:
        client.killpath_wants_pid = True
    daemon.record.client(client)
    return wire.encode_reply(call.header)
