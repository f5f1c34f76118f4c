"""Requests and replies of the control socket: the codec (docs/service-api.md)."""

from __future__ import annotations

from typing import Any, Final

import msgspec

MAX_REQUEST_BYTES: Final = 65536
MAX_UNITS: Final = 4096
"""That one request may name."""
MAX_ASSIGNMENTS: Final = 1024


class Request(msgspec.Struct, frozen=True):
    """One request. What a verb does not use is ignored."""

    verb: str
    id: int | str | None = None
    """Comes back in the reply."""
    units: list[str] = []
    mode: str = "replace"
    wait: bool = True
    """Of jobs: the reply comes when they have ended."""
    signal: int = 15
    whom: str = "all"
    jobs: list[int] = []
    properties: list[str] = []
    """Of `show`: only these."""
    status: int | None = None
    """Exit status of `exit`."""
    how: str = "ordered"
    """Of `exit`, `reboot` ...: `ordered`, `force` or `immediate`."""
    enabled: bool | None = None
    assignments: list[str] = []
    """`NAME=VALUE` of `set-environment`, `unset-environment` and `set-property`."""
    runtime: bool = False
    """Of `set-property`: until the next boot."""
    what: list[str] = []
    """Of `clean`: kinds of directories; none: the usual ones."""
    level: str = ""
    """Of `log-level`: the new one."""
    lines: int = 10
    """Of `status` and `logs`."""
    since: int = 0
    """Of `logs`: microseconds of wall time."""
    all: bool = False


class ControlError(Exception):
    """Refused. `kind`: one word for programs, among them those of `TransactionError`; the text is for people."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def decode(line: bytes) -> Request:
    """ControlError `request`."""
    try:
        request = msgspec.json.decode(line, type=Request)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ControlError("request", f"request not understood: {error}") from None
    if len(request.units) > MAX_UNITS:
        raise ControlError("request", f"more than {MAX_UNITS} units")
    if len(request.assignments) > MAX_ASSIGNMENTS:
        raise ControlError("request", f"more than {MAX_ASSIGNMENTS} assignments")
    return request


def reply(id_: int | str | None, body: dict[str, Any]) -> bytes:
    """One line."""
    head = {} if id_ is None else {"id": id_}
    return msgspec.json.encode(head | body) + b"\n"


def refusal(id_: int | str | None, error: ControlError) -> bytes:
    """One line that says no."""
    return reply(id_, {"error": {"kind": error.kind, "text": str(error)}})
