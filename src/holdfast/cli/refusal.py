"""What a command declines by itself, or explains better than a result code can: one sentence and a next step."""

from __future__ import annotations

from holdfast.client.errors import ClientError

EXIT_REFUSED = 73
"""Somebody or something else is in the way; the same as of `holdfast run` for a lease that was not acquired."""


class Refusal(ClientError):
    """`exit_code` is what the command returns; the text needs no code behind it."""

    def __init__(self, code: int, detail: str, next_step: str, exit_code: int = EXIT_REFUSED) -> None:
        super().__init__(code, detail, next_step)
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.detail}; {self.next_step}" if self.next_step else self.detail
