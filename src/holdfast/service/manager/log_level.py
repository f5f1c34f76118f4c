"""How much the manager says: `log-level` and its words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

WORDS: Final = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
"""By syslog priority."""
INFO: Final = 6


class LogLevel:
    """The level now, and who is told of another one."""

    def __init__(self, level: int = INFO, apply: Callable[[int], None] = lambda level: None) -> None:
        self.level = level
        self._apply = apply

    @property
    def word(self) -> str:
        """systemd's."""
        return WORDS[self.level]

    def set(self, word: str) -> None:
        """A word or a number. ValueError."""
        if word not in WORDS and not (word.isdecimal() and int(word) < len(WORDS)):
            raise ValueError(f"{word!r} is no log level; known are {', '.join(WORDS)}")
        self.level = WORDS.index(word) if word in WORDS else int(word)
        self._apply(self.level)
