"""Which files make up the configuration, and their bytes (spec path 7.2).

Blocks: for start-up and worker threads.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from holdfast.path.conf import Config
from holdfast.path.conf_diagnostics import ERROR, INFO, Diagnostic, Diagnostics
from holdfast.path.conf_merge import merge
from holdfast.path.keyword_values import Surroundings

MAIN: Final = "/etc/multipath.conf"
DIRECTORY: Final = "/etc/multipath/conf.d"
SUFFIX: Final = ".conf"
MAX_FILE_BYTES: Final = 1 << 20
MAX_DROP_INS: Final = 1024


def load(
    main: str = MAIN,
    directory: str | None = DIRECTORY,
    around: Surroundings | None = None,
    *,
    must_exist: bool = False,
    native_nvme: bool | None = None,
) -> Config:
    """Read the main file and the drop-ins in alphabetical order. Never raises: what cannot be read is among the
    diagnostics, and fatal where rules may be missing because of it. `must_exist`: a missing main file is an error
    (else the built-in values hold). `native_nvme` None: ask the kernel.
    """
    remarks = Diagnostics()
    sources: list[tuple[str, bytes]] = []
    for path in (main, *_drop_ins(directory, remarks)):
        try:
            sources.append((path, _read(path)))
        except FileNotFoundError as error:
            if path != main or must_exist:
                remarks.add(_unreadable(path, error))
        except OSError as error:
            remarks.add(_unreadable(path, error))
    native = native_nvme_multipath() if native_nvme is None else native_nvme
    return merge(sources, around, main=main, native_nvme=native, remarks=remarks)


def _drop_ins(directory: str | None, remarks: Diagnostics) -> list[str]:
    """Names that end with `.conf`, hidden ones too, sorted by bytes."""
    if directory is None:
        return []
    try:
        names = [name for name in os.listdir(directory) if name.endswith(SUFFIX)]
    except FileNotFoundError:
        remarks.add(Diagnostic(INFO, f"no directory {directory}", directory, brief="is not there"))
        return []
    except OSError as error:
        remarks.add(_unreadable(directory, error))
        return []
    names.sort(key=os.fsencode)
    if len(names) > MAX_DROP_INS:
        text = f"more than {MAX_DROP_INS} files in {directory}"
        remarks.add(Diagnostic(ERROR, text, directory, brief=f"more than {MAX_DROP_INS} files", fatal=True))
        names = names[:MAX_DROP_INS]
    return [os.path.join(directory, name) for name in names]


def _unreadable(path: str, error: OSError) -> Diagnostic:
    text = f"cannot be read: {error.strerror or error}"
    return Diagnostic(ERROR, f"{path} {text}", path, brief=text, fatal=True)


def _read(path: str) -> bytes:
    """The content of a regular file. A FIFO in its place must not stop us."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise OSError(errno.EFBIG, f"longer than {MAX_FILE_BYTES} bytes", path)
    return data


def native_nvme_multipath(path: str = "/sys/module/nvme_core/parameters/multipath") -> bool:
    """Whether the kernel does NVMe multipathing by itself."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(8).strip() == "Y"
    except OSError:
        return False
