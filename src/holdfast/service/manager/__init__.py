"""The manager: what stands between the rules (`service/core.py`) and processes, files, signals (spec 12).

One asyncio loop; one timer for all deadlines; nothing wakes it when nothing is due.
"""
