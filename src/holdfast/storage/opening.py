"""What a path names, found out by calls that may hang: everything here runs in a thread.

Only regular files and block devices are storage. A FIFO, a socket, a character device (a tape would start to
move) is refused by its kind before anything is opened. Must never create or truncate anything.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from typing import Final

from holdfast.storage.errors import StorageError

_BLKROGET: Final = 0x125E
_BLKSSZGET: Final = 0x1268
_BLKGETSIZE64: Final = 0x80081272
_STATX_DIOALIGN: Final = 0x2000
_STATX_BASIC_STATS: Final = 0x7FF
_AT_EMPTY_PATH: Final = 0x1000
_AT_STATX_DONT_SYNC: Final = 0x4000
_AT_FDCWD: Final = -100
_SYS_OPENAT2: Final = 437  # the same number on all machines
_RESOLVE_CACHED: Final = 0x20
_STATX_BYTES: Final = 256
_STATX_DIO_OFFSET_ALIGN: Final = 156
_STATX_IDENTITY: Final = struct.Struct("=H2xQ88x4I")
"""From byte 28: mode, inode, device numbers of the node and of the file system."""
_CACHED_PATH_ONLY: Final = struct.pack("QQQ", os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_CACHED)
SUPPORTED_BLOCK_SIZES: Final = (512, 4096)

# f_type of statfs(2), linux/magic.h
_IN_MEMORY: Final = frozenset({0x01021994, 0x858458F6})  # tmpfs, ramfs
_LOCAL_WITH_AIO: Final = frozenset({0xEF53, 0x58465342})  # ext2/3/4, xfs: their O_DIRECT reads honour RWF_NOWAIT

_PSEUDO: Final = frozenset(
    {
        *(0x9FA0, 0x62656572, 0x64626720, 0x74726163, 0x62656570),  # proc, sysfs, debugfs, tracefs, configfs
        *(0x27E0EB, 0x63677270, 0x73636673, 0xF97CFF8C),  # cgroup, cgroup2, securityfs, selinuxfs
        *(0xCAFE4A11, 0xDE5E81E4, 0x6165676C, 0x42494E4D),  # bpf, efivarfs, pstore, binfmt_misc
        *(0x6E736673, 0x19800202, 0x11307854),  # nsfs, mqueue, the inodes of mtd
    }
)
"""Their "regular files" are switches and memory of the kernel: /proc/self/mem is this very process."""

_libc: Final = ctypes.CDLL(None, use_errno=True)
_Statfs: Final = ctypes.c_long * 32  # struct statfs: f_type is its first word


@dataclass(frozen=True, slots=True)
class Opened:
    """An open file descriptor and what is known about it."""

    fd: int
    identity: tuple[int, ...]
    """(st_dev, st_ino) of a file, (st_rdev,) of a block device: the same storage, whatever path led to it."""
    size: int
    """Bytes, at the time of opening."""
    block_size: int
    is_block_device: bool
    direct: bool
    """Opened with O_DIRECT. Without it a read may come from this host's page cache."""
    engine: str
    """"inline", "aio" or "threads": what may serve it without ever blocking the loop."""


def identify(path: str) -> tuple[int, ...]:
    """What `path` names now. OSError as from stat(2); ENOTBLK or EISDIR for what cannot be storage."""
    found = os.stat(path)
    if stat.S_ISBLK(found.st_mode):
        return (found.st_rdev,)
    if stat.S_ISREG(found.st_mode):
        return (found.st_dev, found.st_ino)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise OSError(errno.ENOTBLK, "neither a regular file nor a block device", path)


def identify_from_cache(path: str) -> tuple[int, ...] | None:
    """Like `identify`, but from what the kernel has in memory: never blocks, may be called on the loop.

    None: not everything is in memory, or it is not storage, or the kernel is older than 5.12. Ask `identify`.
    """
    fd = _libc.syscall(_SYS_OPENAT2, _AT_FDCWD, os.fsencode(path), _CACHED_PATH_ONLY, len(_CACHED_PATH_ONLY))
    if fd < 0:
        return None
    try:
        # A FUSE or NFS server is asked by plain stat(2), and may not answer.
        found = _statx(fd, _AT_STATX_DONT_SYNC, _STATX_BASIC_STATS)
    finally:
        os.close(fd)
    if found is None:
        return None
    mode, inode, rdev_major, rdev_minor, dev_major, dev_minor = _STATX_IDENTITY.unpack_from(found, 28)
    if stat.S_ISBLK(mode):
        return (os.makedev(rdev_major, rdev_minor),)
    if stat.S_ISREG(mode):
        return (os.makedev(dev_major, dev_minor), inode)
    return None


def open_storage(path: str, read_only: bool = False) -> Opened | StorageError:
    """Open for synchronous direct I/O. May block for as long as the storage likes. Errors are returned.

    `read_only` matters for probes: closing a block device that was open for writing makes udev look at it anew.
    """
    try:
        return _open(path, read_only)
    except ValueError as error:  # a NUL in the path
        return StorageError(errno.EINVAL, "open", path, 0, 0, str(error))
    except OSError as error:
        return StorageError(error.errno or errno.EIO, "open", path, 0, 0, error.strerror or str(error))


def _open(path: str, read_only: bool) -> Opened:
    identify(path)  # by kind first: opening alone can have effects
    _refuse_pseudo_files(path)
    # O_NONBLOCK: should a FIFO have taken its place meanwhile, opening still returns
    access = os.O_RDONLY if read_only else os.O_RDWR | os.O_DSYNC
    flags = access | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    direct = True
    try:
        fd = os.open(path, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        direct = False
        fd = os.open(path, flags)
    try:
        return _describe(path, fd, direct, read_only)
    except BaseException:
        os.close(fd)
        raise


def _refuse_pseudo_files(path: str) -> None:
    found = _Statfs()
    if _libc.statfs(os.fsencode(path), ctypes.byref(found)) == 0 and found[0] & 0xFFFFFFFF in _PSEUDO:
        raise OSError(errno.ENOTBLK, "a file of the kernel, no storage", path)


def _describe(path: str, fd: int, direct: bool, read_only: bool) -> Opened:
    found = os.fstat(fd)
    if stat.S_ISBLK(found.st_mode):
        if not read_only and _ioctl_int(fd, _BLKROGET):
            raise OSError(errno.EROFS, "the block device is read-only", path)
        size = struct.unpack("Q", fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)))[0]
        block_size = _ioctl_int(fd, _BLKSSZGET)
        identity: tuple[int, ...] = (found.st_rdev,)
        engine = "aio" if direct else "threads"
    elif stat.S_ISREG(found.st_mode):
        size = found.st_size
        block_size = max(512, _direct_io_alignment(fd)) if direct else 512
        identity = (found.st_dev, found.st_ino)
        kind = _file_system_type(fd)
        engine = "inline" if kind in _IN_MEMORY else "aio" if direct and kind in _LOCAL_WITH_AIO else "threads"
    else:
        raise OSError(errno.ENOTBLK, "neither a regular file nor a block device", path)
    if block_size not in SUPPORTED_BLOCK_SIZES:
        raise OSError(errno.EINVAL, f"blocks of {block_size} bytes, only 512 and 4096 are possible", path)
    return Opened(fd, identity, size, block_size, stat.S_ISBLK(found.st_mode), direct, engine)


def _ioctl_int(fd: int, request: int) -> int:
    return int(struct.unpack("i", fcntl.ioctl(fd, request, bytes(4)))[0])


def _file_system_type(fd: int) -> int:
    found = _Statfs()
    if _libc.fstatfs(fd, ctypes.byref(found)) != 0:
        return 0
    return int(found[0]) & 0xFFFFFFFF


def _direct_io_alignment(fd: int) -> int:
    """Offset alignment that the file system wants for O_DIRECT; 0 when it does not say (Linux before 6.1)."""
    found = _statx(fd, 0, _STATX_DIOALIGN)
    if found is None or not struct.unpack_from("I", found, 0)[0] & _STATX_DIOALIGN:
        return 0
    return int(struct.unpack_from("I", found, _STATX_DIO_OFFSET_ALIGN)[0])


def _statx(fd: int, flags: int, mask: int) -> ctypes.Array[ctypes.c_char] | None:
    """struct statx of an open descriptor; None where there is no such call or it fails."""
    found = ctypes.create_string_buffer(_STATX_BYTES)
    try:
        statx = _libc.statx
    except AttributeError:
        return None
    return found if statx(fd, b"", _AT_EMPTY_PATH | flags, mask, found) == 0 else None
