"""The supervisor's processes: starting, watching, counting and ending them; the notify socket (spec supervisor 9,
11, 12.2, 12.4).

`host.ProcessHost` is the face: it carries out the actions of `service.events` and delivers its events. Nothing is
imported here: the forker process imports this package, and must stay small.
"""
