"""Lease errors: the field's numeric codes with their names and meaning (spec lease-disk section 12).

A code is what travels over the socket: negative errno values, or sanlock's own numbers from -201 down.
"""

from __future__ import annotations

import enum
import errno
import os

from holdfast.storage.errors import DeadlineError, StorageError


class Code(enum.IntEnum):
    """sanlock's own result codes."""

    ERROR = -201
    AIO_TIMEOUT = -202
    WD_ERROR = -203
    DBLOCK_READ = -210
    DBLOCK_WRITE = -211
    DBLOCK_LVER = -212
    DBLOCK_MBAL = -213
    DBLOCK_CHECKSUM = -214
    LEADER_READ = -220
    LEADER_WRITE = -221
    LEADER_DIFF = -222
    LEADER_MAGIC = -223
    LEADER_VERSION = -224
    LEADER_SECTORSIZE = -225
    LEADER_LOCKSPACE = -226
    LEADER_RESOURCE = -227
    LEADER_NUMHOSTS = -228
    LEADER_CHECKSUM = -229
    ADDLS_SIZES = -230
    ADDLS_INVALID_HOSTID = -231
    ACQUIRE_LVER = -240
    ACQUIRE_LOCKSPACE = -241
    ACQUIRE_IDDISK = -242
    ACQUIRE_IDLIVE = -243
    ACQUIRE_OWNED = -244
    ACQUIRE_OTHER = -245
    ACQUIRE_SHRETRY = -246
    ACQUIRE_OWNED_RETRY = -247
    RELEASE_LVER = -250
    RELEASE_OWNER = -251
    RENEW_OWNER = -260
    RENEW_DIFF = -261
    HOSTID_BUSY = -262
    REQUEST_MAGIC = -270
    REQUEST_VERSION = -271
    REQUEST_OLD = -272
    REQUEST_LVER = -273
    RINDEX_MAGIC = -274
    RINDEX_VERSION = -275
    RINDEX_LOCKSPACE = -276
    RINDEX_OFFSET = -277
    RINDEX_DIFF = -278


MEANING: dict[int, str] = {
    Code.ERROR: "aborted",
    Code.AIO_TIMEOUT: "storage did not answer in time",
    Code.WD_ERROR: "watchdog daemon not reachable or refused",
    Code.DBLOCK_READ: "reading the host blocks failed during the ballot",
    Code.DBLOCK_WRITE: "writing the own host block failed during the ballot",
    Code.DBLOCK_LVER: "another host started a newer ballot",
    Code.DBLOCK_MBAL: "another host started a larger ballot",
    Code.DBLOCK_CHECKSUM: "a host block is damaged (checksum)",
    Code.LEADER_READ: "reading the leader record failed",
    Code.LEADER_WRITE: "writing the leader record failed",
    Code.LEADER_DIFF: "leader records differ",
    Code.LEADER_MAGIC: "no lease here (not initialised, cleared, or something else)",
    Code.LEADER_VERSION: "format version or flags on storage are not known here",
    Code.LEADER_SECTORSIZE: "sector size on storage is neither 512 nor 4096",
    Code.LEADER_LOCKSPACE: "storage belongs to another lockspace",
    Code.LEADER_RESOURCE: "storage belongs to another resource",
    Code.LEADER_NUMHOSTS: "the lease has room for fewer hosts than our host id needs",
    Code.LEADER_CHECKSUM: "the leader record is damaged (checksum)",
    Code.ADDLS_SIZES: "sector and align size on storage do not go together",
    Code.ADDLS_INVALID_HOSTID: "host id is larger than the lockspace allows",
    Code.ACQUIRE_LVER: "the lease has another version than demanded",
    Code.ACQUIRE_LOCKSPACE: "the owner's lockspace is not known here",
    Code.ACQUIRE_IDDISK: "the lockspace disk cannot be opened",
    Code.ACQUIRE_IDLIVE: "held by a live host",
    Code.ACQUIRE_OWNED: "another host won the ballot",
    Code.ACQUIRE_OTHER: "another host won the ballot (committed by us)",
    Code.ACQUIRE_SHRETRY: "other hosts kept acquiring it shared at the same time",
    Code.ACQUIRE_OWNED_RETRY: "the owner has not been seen to renew, and is not yet certain to be dead",
    Code.RELEASE_LVER: "release: the lease has another version",
    Code.RELEASE_OWNER: "release: the lease on storage is not ours",
    Code.RENEW_OWNER: "renewal: the host id is not ours any more",
    Code.RENEW_DIFF: "renewal: our own record was changed by somebody",
    Code.HOSTID_BUSY: "the host id is in use by another host",
    Code.REQUEST_MAGIC: "no request record here",
    Code.REQUEST_VERSION: "request record of an unknown version",
    Code.REQUEST_OLD: "the requested version is not newer than the lease",
    Code.REQUEST_LVER: "a newer version is requested already",
    Code.RINDEX_MAGIC: "no resource index here",
    Code.RINDEX_VERSION: "resource index of an unknown version",
    Code.RINDEX_LOCKSPACE: "the resource index belongs to another lockspace",
    Code.RINDEX_OFFSET: "offset does not fit the resource index",
    Code.RINDEX_DIFF: "name and offset do not belong together in the resource index",
}


ERRNO_MEANING: dict[int, str] = {
    -errno.ENOSPC: "the lockspace is not there, is ending, or is lost",
    -errno.EUCLEAN: "an orphan of this lease exists",
    -errno.EMSGSIZE: "the storage ends before that",
}
"""Where the field uses an errno for something its text does not say (spec 12)."""


def code_name(code: int) -> str:
    """`ACQUIRE_IDLIVE` for -243, `EAGAIN` for -11, the number for anything unknown."""
    if code in MEANING:
        return Code(code).name
    return errno.errorcode.get(-code, str(code))


def describe(code: int) -> str:
    """One clause for people: what the code means."""
    if code in MEANING:
        return MEANING[code]
    if code in ERRNO_MEANING:
        return ERRNO_MEANING[code]
    return os.strerror(-code) if -200 < code < 0 else f"result {code}"


class LeaseError(Exception):
    """A lease operation that did not happen. `code` is the wire's result, `detail` names object and numbers."""

    def __init__(self, code: int, detail: str = "") -> None:
        self.code = int(code)
        self.detail = detail
        text = f"{describe(self.code)} ({code_name(self.code)} {self.code})"
        super().__init__(f"{detail}: {text}" if detail else text)


def storage_code(error: StorageError) -> int:
    """The result code for a failed I/O: -202 for a missed deadline, else the negative errno."""
    return Code.AIO_TIMEOUT if isinstance(error, DeadlineError) else -error.errno
