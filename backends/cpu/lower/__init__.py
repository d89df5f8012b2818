"""Lowerings of operators to kernels, a file per family. Importing this package registers them all."""

from mcomp.backends.cpu.lower import (
    attention,
    conv,
    creation,
    elementwise,
    fused,
    grouped,
    index,
    norm,
    pool,
    products,
    quantize,
    recurrent,
    reduce,
    shape,
    signal,
    sort,
)

__all__ = [
    "attention", "conv", "creation", "elementwise", "fused", "grouped", "index", "norm", "pool", "products", "quantize",
    "recurrent", "reduce", "shape", "signal", "sort",
]
