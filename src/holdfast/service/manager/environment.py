"""The variables that all services get: built in, `DefaultEnvironment=`, and what `set-environment` adds (11.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from holdfast.service.environment import valid_name

MAX_VARIABLES: Final = 1024
MAX_BYTES: Final = 128 * 1024
"""Of all that was set: a process gets it besides its own, and the kernel bounds the sum."""


class ManagerEnvironment(Mapping[str, str]):
    """As it is now; what was set goes before what is built in, which appears again when that is unset."""

    def __init__(self, base: Mapping[str, str]) -> None:
        self._base = dict(base)
        self._set: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        return self._set[name] if name in self._set else self._base[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._base.keys() | self._set.keys()))

    def __len__(self) -> int:
        return len(self._base.keys() | self._set.keys())

    def set(self, assignments: Sequence[str]) -> None:
        """`NAME=VALUE` each; all or none. ValueError."""
        changed = dict(self._set)
        for one in assignments:
            name, equals, value = one.partition("=")
            if not equals or not valid_name(name) or "\0" in value:
                raise ValueError("Invalid environment assignments")
            changed[name] = value
        if len(changed) > MAX_VARIABLES:
            raise ValueError(f"more than {MAX_VARIABLES} variables")
        whole = "".join(f"{name}={value}\0" for name, value in changed.items())
        if len(whole.encode("utf-8", "surrogatepass")) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        self._set = changed

    def unset(self, names: Sequence[str]) -> None:
        """`NAME`, or `NAME=VALUE` for one that has this value. ValueError."""
        changed = dict(self._set)
        for one in names:
            name, equals, value = one.partition("=")
            if not valid_name(name):
                raise ValueError("Invalid environment variable names or assignments")
            if not equals or changed.get(name) == value:
                changed.pop(name, None)
        self._set = changed
