"""Benchmarks: measurements of mcomp beside other runtimes. Not part of the installed package."""
