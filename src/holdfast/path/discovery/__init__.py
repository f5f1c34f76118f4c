"""Which paths there are and what is known of them: sysfs, udev's database, uevents (spec path 11, 4.10, 4.11)."""
