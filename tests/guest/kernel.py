"""A Debian kernel for guests: package downloaded once, unpacked into a cache, never installed on this host.

The cache is `$HOLDFAST_GUEST_CACHE`, else `~/.cache/holdfast-guest`.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DOWNLOAD_LIMIT_S: Final = 300
UNPACK_LIMIT_S: Final = 120
META_PACKAGE: Final = "linux-image-amd64"
SETUP_SECTORS: Final = 0x1F1
DEFAULT_SETUP_SECTORS: Final = 4
PAYLOAD_FIELDS: Final = 0x248
"""In the x86 boot header: offset and length of the packed kernel."""


class NoKernel(Exception):
    """There is none to be had; the text says what is missing."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel package."""

    image: Path
    modules: Path
    """The directory with modules.dep."""

    def with_dependencies(self, *names: str) -> list[Path]:
        """The files of these modules and of what they need, in the order in which they can be loaded."""
        depends = _dependencies(self.modules)
        ordered: dict[Path, None] = {}
        for name in names:
            path = next((path for path in depends if _module_name(path) == name.replace("-", "_")), None)
            if path is None:
                continue  # Built in.
            for file in (*reversed(depends[path]), path):
                ordered[self.modules / file] = None
        return list(ordered)


def _module_name(path: str) -> str:
    return Path(path).name.split(".")[0].replace("-", "_")


def _dependencies(modules: Path) -> dict[str, list[str]]:
    found = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, needed = line.partition(":")
        found[path] = needed.split()
    return found


def cache() -> Path:
    """Where kernels are kept."""
    return Path(os.environ.get("HOLDFAST_GUEST_CACHE") or Path.home() / ".cache" / "holdfast-guest")


def get() -> Kernel:
    """The kernel, from the cache or from Debian. NoKernel."""
    package = _package()
    home = cache() / package
    if not (home / "done").exists():
        _unpack(package, home)
    (modules,) = (home / "lib/modules").iterdir()
    (image,) = (home / "boot").glob("vmlinuz-*")
    return Kernel(_uncompressed(image), modules)


def _uncompressed(image: Path) -> Path:
    """The kernel itself, which QEMU starts by its PVH entry: unpacking it takes a guest as long as the whole boot.

    The boot protocol's header tells where it lies. The image as it is, when it is packed in another way.
    """
    target = image.with_name(image.name.replace("vmlinuz", "vmlinux"))
    if target.exists():
        return target
    raw = image.read_bytes()
    offset, length = struct.unpack_from("<II", raw, PAYLOAD_FIELDS)
    start = ((raw[SETUP_SECTORS] or DEFAULT_SETUP_SECTORS) + 1) * 512 + offset
    try:
        kernel = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(raw[start : start + length])
    except lzma.LZMAError:
        return image
    if not kernel.startswith(b"\x7fELF"):
        return image
    with tempfile.NamedTemporaryFile(dir=image.parent, delete=False) as file:
        file.write(kernel)
    Path(file.name).rename(target)
    return target


def _package() -> str:
    known = sorted(cache().glob("linux-image-*/done"))
    try:
        done = subprocess.run(
            ["apt-cache", "depends", META_PACKAGE], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        if known:
            return known[-1].parent.name
        raise NoKernel(f"apt-cache: {error}") from error
    match = re.search(r"Depends: (linux-image-[0-9]\S+)", done.stdout)
    if match:
        return match.group(1)
    if known:
        return known[-1].parent.name
    raise NoKernel(f"no package {META_PACKAGE}: apt-get update")


def _unpack(package: str, home: Path) -> None:
    for program in ("apt-get", "dpkg-deb", "depmod"):
        if shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None:
            raise NoKernel(f"{program} is missing (Debian packages apt, dpkg, kmod)")
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as work:
        try:
            subprocess.run(
                ["apt-get", "-qq", "download", package],
                cwd=work,
                capture_output=True,
                timeout=DOWNLOAD_LIMIT_S,
                check=True,
            )
            (deb,) = Path(work).glob("*.deb")
            unpacked = Path(work) / "root"
            subprocess.run(["dpkg-deb", "-x", deb, unpacked], timeout=UNPACK_LIMIT_S, check=True)
            (modules,) = (unpacked / "lib/modules").iterdir()
            depmod = ["depmod", "-b", str(unpacked), modules.name]
            environment = dict(os.environ, PATH=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
            subprocess.run(depmod, timeout=UNPACK_LIMIT_S, check=True, env=environment)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise NoKernel(f"kernel package {package}: {error}") from error
        (unpacked / "done").touch()
        shutil.rmtree(home, ignore_errors=True)
        unpacked.rename(home)
