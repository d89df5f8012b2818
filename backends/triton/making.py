"""Making graphs by hand: inputs, constants of any encoding, operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mcomp.ir import dims, dtypes
from mcomp.ir.dtypes import DType
from mcomp.ir.encoding import DENSE, Affine, BlockSparse, Encoding, Scaled, quantize_array
from mcomp.ir.graph import Graph, Value
from mcomp.ir.types import TensorType


class Making:
    """A graph in the making. Constants are zeros where only types matter, else random by `rng`."""

    def __init__(self, graph: Graph, rng: np.random.Generator | None = None, width: int = 1024) -> None:
        """`width`: features of layers whose size does not matter."""
        self.graph = graph
        self.rng = rng
        self.width = width

    def input(self, shape: Sequence[dims.Dim], dtype: DType = dtypes.f32) -> Value:
        return self.graph.add_input("x", TensorType(tuple(shape), dtype))

    def const(
        self, shape: Sequence[int], dtype: DType = dtypes.f32, encoding: Encoding = DENSE, scale: float | None = None
    ) -> Value:
        """A constant: normal numbers times `scale` (default: the root of how many there are to one result)."""
        type = TensorType(tuple(shape), dtype, encoding)
        factor = scale if scale is not None else float(np.prod(shape[1:])) ** -0.5
        parts = zeros(type) if self.rng is None else random(type, self.rng, factor)
        with self.graph.edit("making") as e:
            return e.const(parts["values"], type=type, parts=parts if encoding != DENSE else None, name="w")

    def op(self, name: str, *operands: Value | None, **attrs: object) -> Value:
        """The first result of an operator."""
        with self.graph.edit("making") as e:
            return e.add(name, list(operands), attrs).results[0]


def zeros(type: TensorType) -> dict[str, np.ndarray]:
    """The parts of a constant of which only the type matters."""
    buffers = type.encoding.buffers(type)
    return {n: np.zeros([int(dims.evaluate(d, {})) for d in b.shape], b.dtype.numpy) for n, b in buffers.items()}


def random(type: TensorType, rng: np.random.Generator, scale: float) -> dict[str, np.ndarray]:
    """The parts of a random constant. Of a block-sparse one, `count` blocks spread at random."""
    shape = type.static_shape
    values = (rng.standard_normal(shape) * scale).astype(np.float32)
    encoding = type.encoding
    if isinstance(encoding, Affine):
        return _affine(values, encoding, rng)
    if isinstance(encoding, BlockSparse):
        return _blocks(values, encoding, type.dtype, rng)
    if isinstance(encoding, Scaled):
        return scaled(values, encoding)
    return {"values": stored(values, type.dtype)}


def stored(values: np.ndarray, dtype: DType) -> np.ndarray:
    """Floats in the storage of an element type."""
    import torch

    from mcomp.ir.dtypes import to_torch
    from mcomp.ops.encoded import array_of

    return array_of(torch.from_numpy(values).to(to_torch(dtype)))


def scaled(values: np.ndarray, encoding: Scaled) -> dict[str, np.ndarray]:
    """The parts of floats of 8 bits."""
    import torch

    from mcomp.ops.encoded import array_of, scale_tensor

    return {name: array_of(part) for name, part in scale_tensor(torch.from_numpy(values), encoding).parts.items()}


def _affine(values: np.ndarray, encoding: Affine, rng: np.random.Generator) -> dict[str, np.ndarray]:
    given = None
    if encoding.zero_point:
        low, high = encoding.range
        kept = [int(dims.evaluate(d, {})) for d in encoding.scale_shape(values.shape)]
        given = rng.integers(low, high + 1, kept).astype(np.int32)
    return quantize_array(values, encoding, zeros=given)


def _blocks(values: np.ndarray, encoding: BlockSparse, dtype: DType, rng: np.random.Generator) -> dict[str, np.ndarray]:
    height, width = encoding.block
    rows, columns = values.shape[0] // height, values.shape[1] // width
    kept = np.zeros(rows * columns, bool)
    kept[rng.choice(rows * columns, encoding.count, replace=False)] = True
    kept = kept.reshape(rows, columns)
    parts = {"columns": np.nonzero(kept)[1].astype(np.int32),
             "rows": np.concatenate([[0], np.cumsum(kept.sum(1))]).astype(np.int32)}
    matrix = stored(values, dtype)
    if isinstance(encoding.inner, Affine):
        coded = quantize_array(values, encoding.inner)
        matrix = coded.pop("values")
        parts |= coded
    blocks = matrix.reshape(rows, height, columns, width).transpose(0, 2, 1, 3)[kept]
    return {**parts, "values": np.ascontiguousarray(blocks)}
