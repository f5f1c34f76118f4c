"""Text from storage, sockets and services, made safe to print."""

from __future__ import annotations


def printable(name: str) -> str:
    """Control characters and bytes that are no text as \\xNN."""
    return "".join(
        character
        if character.isprintable()
        else "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
        for character in name
    )
