"""Tests against the real sanlock 3.8.5 of Debian: same files, same clients, same answers."""
