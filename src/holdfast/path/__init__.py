"""The path daemon: multipath.conf, checkers, device-mapper maps (spec path)."""
