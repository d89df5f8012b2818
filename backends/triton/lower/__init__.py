"""Lowerings, a file per family. Importing this package registers them all."""

from mcomp.backends.triton.lower import elementwise, fused, products, quantize, rows, shape

__all__ = ["elementwise", "fused", "products", "quantize", "rows", "shape"]
