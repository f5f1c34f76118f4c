"""The package as guests import it: a copy with compiled files beside the sources.

Compiling takes a guest longer than booting does, and what it compiles is lost with it.
"""

from __future__ import annotations

import compileall
import py_compile
import shutil
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).parents[2] / "src"
AGENT: Final = Path(__file__).with_name("agent.py")
INSIDE: Final = Path(__file__).with_name("inside")
"""Programs that only run in guests."""


def compiled(home: Path) -> Path:
    """Copies and compiles into `home`; returns the directory that guests have as /run/package."""
    target = home / "package"
    shutil.copytree(SOURCE, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(AGENT, target)
    shutil.copytree(INSIDE, target / "inside", ignore=shutil.ignore_patterns("__pycache__"))
    # Unchecked: a guest does not even look at the source.
    done = compileall.compile_dir(
        target, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH, stripdir=target
    )
    if not done:
        raise RuntimeError("the package does not compile")
    return target
