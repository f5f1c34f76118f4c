"""What is executed for a killpath: its arguments, split as the original splits them (spec lease-wire 11)."""

from __future__ import annotations

from typing import Final

MAX_ARGUMENTS: Final = 8
"""Including the path and the pid; further ones are dropped."""
_WHITESPACE: Final = " \t\n\v\f\r"


def split_arguments(text: str) -> list[str]:
    """Arguments of a killpath, as the original splits them (spec 11).

    Whitespace separates; a backslash before a backslash or whitespace takes that character; any other use of
    a backslash, a control character or a byte outside ASCII ends the parsing.
    """
    arguments = []
    current = ""
    characters = iter(text)
    for character in characters:
        if character == "\\":
            following = next(characters, "")
            if following != "\\" and following not in _WHITESPACE:
                break
            if not following:
                break
            current += following
        elif character in _WHITESPACE:
            if current:
                arguments.append(current)
            current = ""
        elif " " < character <= "~":
            current += character
        else:
            break
    if current:
        arguments.append(current)
    return arguments


def killpath_argv(path: str, args: str, pid: int) -> list[str]:
    """What is executed for a killpath; `pid` 0 when it takes none."""
    argv = [path, *split_arguments(args)]
    if pid:
        argv = [*argv[: MAX_ARGUMENTS - 1], str(pid)]
    return argv[:MAX_ARGUMENTS]
