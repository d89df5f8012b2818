"""Lowerings, a file per family. Importing this package registers them all."""

from mcomp.backends.triton.lower import elementwise, shape

__all__ = ["elementwise", "shape"]
