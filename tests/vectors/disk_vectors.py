"""Images of lease areas captured from sanlock 3.8.5, and what a parser must find in them.

`vectors.json` says for each image how it came about, what it decodes to, and which error a verified read gives.
"""

from __future__ import annotations

import functools
import gzip
import json
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent / "disk"


@functools.cache
def catalogue() -> dict[str, dict[str, Any]]:
    """All vectors by name."""
    with (DIRECTORY / "vectors.json").open() as file:
        return {vector["name"]: vector for vector in json.load(file)["vectors"]}


def image(name: str) -> bytes:
    """The uncompressed area."""
    vector = catalogue()[name]
    with gzip.open(DIRECTORY / vector["file"]) as file:
        data = file.read()
    assert len(data) == vector["uncompressed_size"]
    return data


def names(*kinds: str) -> list[str]:
    """Names of the vectors of the given kinds, all when none is given."""
    return [name for name, vector in catalogue().items() if not kinds or vector["decoded"]["kind"] in kinds]
