"""Checks and timings of target cuda; see `python -m benchmarks.gpu --help`."""
