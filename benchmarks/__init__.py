"""Side by side with the original programs: both are started, measured in turns and stopped in one run.

Benchmarks print figures and ratios; no test asserts a time.
"""
