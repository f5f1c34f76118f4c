"""The path daemon: one loop that owns all paths and maps (spec path 4, 14).

    discovery, uevents ─► registry ─► settle (one WWID at a time) ─► watches (a MapWatch per map) ─► device-mapper
                             ▲             │ decide: a table, pure        │
    commands, wishes ────────┴─────────────┴──────────────────────────────┘        rows: what listings print

`core.PathDaemon` is constructed by the process's shell.
"""
