"""Lowerings, a file per family. Importing this package registers them all."""

from mcomp.backends.triton.lower import (
    attention,
    conv,
    elementwise,
    fused,
    index,
    pool,
    products,
    quantize,
    reduce,
    rows,
    shape,
)

__all__ = ["attention", "conv", "elementwise", "fused", "index", "pool", "products", "quantize", "reduce", "rows", "shape"]
