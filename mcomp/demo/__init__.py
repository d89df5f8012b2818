"""The demonstrations behind `mcomp demo`."""
