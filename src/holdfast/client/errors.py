"""What a program that uses the lease daemon can meet: one exception tree, each with a code and a next step.

Codes are the results of the socket (spec lease-wire section 15). Errno values mean something else on this
socket than in libc: -28 is not a full disk, it is an unknown or failing lockspace. The words here say so.
"""

from __future__ import annotations

import errno

from holdfast.lease.errors import MEANING, Code, LeaseError, code_name, describe

_SOCKET_MEANING: dict[int, str] = {
    -errno.EPERM: "not held, or the lockspace was removed while it was added",
    -errno.ENOENT: "not found",
    -errno.ESRCH: "no registered process with this pid",
    -errno.E2BIG: "too many resources, or the value is too long",
    -errno.EAGAIN: "busy for a moment: being released, or held shared by another host",
    -errno.EBUSY: "busy: another operation on it runs",
    -errno.EEXIST: "exists already",
    -errno.ENODEV: "the path cannot be opened",
    -errno.EINVAL: "invalid argument",
    -errno.ENOSPC: "the lockspace is not joined here, or it is failing",
    -errno.ERANGE: "a lease needs 1 to 4 disks",
    -errno.ENOTTY: "the process ended meanwhile",
    -errno.ESTALE: "the process ended meanwhile",
    -errno.EMSGSIZE: "the file or device ends before the lease",
    -errno.EALREADY: "already in that mode",
    -errno.EINPROGRESS: "in progress",
    -errno.EUCLEAN: "an orphan lease is in the way",
    -errno.ENOCSI: "too many listen already",
    -errno.EOPNOTSUPP: "the daemon does not know this command",
}

_NEXT_STEP: dict[int, str] = {
    -errno.ESRCH: "holdfast lease status shows the processes; only a registered one can hold leases",
    -errno.ENOSPC: "join it: holdfast lease add SPACE:HOST_ID:PATH:OFFSET",
    -errno.ENODEV: "check that the path exists and that the lease daemon's user (often sanlock) may write it",
    -errno.EMSGSIZE: "initialise it, or give the right offset: holdfast lease init --help",
    -errno.EUCLEAN: "adopt it (holdfast lease acquire --orphan) or release it (holdfast lease release --orphan)",
    Code.AIO_TIMEOUT: "check the storage; try again",
    Code.WD_ERROR: "start the watchdog daemon (wdmd), or run the lease daemon with --no-watchdog",
    Code.LEADER_MAGIC: "initialise it first: holdfast lease init --help",
    Code.LEADER_VERSION: "the storage is used by a newer program; do not initialise it while that runs",
    Code.LEADER_LOCKSPACE: "check name, path and offset: holdfast lease dump PATH",
    Code.LEADER_RESOURCE: "check name, path and offset: holdfast lease dump PATH",
    Code.LEADER_CHECKSUM: "look at the storage: holdfast lease dump PATH",
    Code.LEADER_NUMHOSTS: "initialise the resource for more hosts, or use a smaller host id",
    Code.ADDLS_INVALID_HOSTID: "use a host id from 1 to 2000 (250 with 4096/1M)",
    Code.ACQUIRE_LVER: "holdfast lease read --resource SPACE:RESOURCE shows the present version",
    Code.REQUEST_OLD: "leave the version out, or ask for a later one than is held",
    Code.REQUEST_LVER: "leave the version out, or withdraw what is asked for: holdfast lease request --withdraw",
    Code.ACQUIRE_IDLIVE: "wait for it (--wait), or ask its owner to release it",
    Code.ACQUIRE_OWNED_RETRY: "wait until the owner is certain to be dead (--wait)",
    Code.HOSTID_BUSY: "use another host id: holdfast lease dump PATH shows who has which",
    Code.RINDEX_MAGIC: "write one: holdfast lease init --index SPACE:PATH:OFFSET",
}


def meaning(code: int) -> str:
    """One clause: what a result of the socket means."""
    if code in MEANING:
        return describe(code)
    return _SOCKET_MEANING.get(code, describe(code))


class ClientError(LeaseError):
    """A request to the lease daemon that did not do what was asked.

    `code` is the daemon's result (negative), `detail` names what was asked, `next_step` what to do about it.
    """

    def __init__(self, code: int, detail: str = "", next_step: str | None = None) -> None:
        super().__init__(code, detail)
        self.next_step = _NEXT_STEP.get(self.code, "") if next_step is None else next_step

    def __str__(self) -> str:
        text = f"{meaning(self.code)} ({code_name(self.code)} {self.code})"
        if self.detail:
            text = f"{self.detail}: {text}"
        return f"{text}; {self.next_step}" if self.next_step else text


class DaemonUnreachable(ClientError):
    """No lease daemon answers at the socket; `code` is the negative errno of connect, send or receive."""

    def __str__(self) -> str:
        return f"{self.detail}; {self.next_step}" if self.next_step else self.detail


class CallTimeout(DaemonUnreachable):
    """The daemon did not answer in time; what was asked may still happen."""


class NotAcquired(ClientError):
    """The lease is not ours: `code` says why (-243: held by a live host, ...)."""


class LeaseLost(ClientError):
    """The lease was ours and can no longer be proven; `reason` says what was seen."""

    def __init__(self, detail: str, reason: str) -> None:
        super().__init__(Code.ERROR, detail, "")
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.detail}: lease lost: {self.reason}"
