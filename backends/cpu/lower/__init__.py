"""Lowerings of operators to kernels, a file per family. Importing this package registers them all."""

from mcomp.backends.cpu.lower import creation, elementwise, shape

__all__ = ["creation", "elementwise", "shape"]
