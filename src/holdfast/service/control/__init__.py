"""Asking the manager: the socket, its requests, and what units look like from outside (spec 13).

One JSON object per line in both directions; `docs/service-api.md` describes it.
"""
