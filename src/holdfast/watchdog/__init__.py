"""The watchdog daemon: one owner of /dev/watchdog for many clients, wdmd-compatible (spec watchdog)."""
