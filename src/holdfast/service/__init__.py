"""The supervisor: systemd's unit files, jobs and service states (spec supervisor).

So far the codec and the rules only. Nothing here starts a process, opens a socket or looks at a clock; the only
I/O is reading unit files (`load.py`) and making install symlinks (`install.py`), both below a given root.
"""
