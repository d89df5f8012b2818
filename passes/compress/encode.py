"""Weights as buffers of an encoding: integers in place of floats, in dense, block-sparse and n:m weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mcomp.ir import dims, dtypes
from mcomp.ir.dtypes import DType
from mcomp.ir.encoding import DENSE, NM, Affine, BlockSparse, Encoding
from mcomp.ir.graph import Graph, Node, Value
from mcomp.ir.store import Weight
from mcomp.ir.types import TensorType
from mcomp.passes.compress.feedback import Levels, Rounded

if TYPE_CHECKING:
    from torch import Tensor

    from mcomp.ir.edit import Editor
    from mcomp.ir.loc import Loc


INTEGERS = {8: dtypes.i8, 4: dtypes.i4, 3: dtypes.i3, 2: dtypes.i2}
"""What weights are stored as, by bits."""


def is_plain(encoding: Encoding) -> bool:
    """Whether a weight holds floats, dense or sparse, so that it can still be quantized."""
    return encoding == DENSE or (isinstance(encoding, (BlockSparse, NM)) and encoding.inner == DENSE)


def with_integers(encoding: Encoding, affine: Affine) -> Encoding:
    """The encoding that stores integers where `encoding` (see `is_plain`) stores floats."""
    if isinstance(encoding, BlockSparse):
        return BlockSparse(encoding.block, encoding.count, affine)
    if isinstance(encoding, NM):
        return NM(encoding.n, encoding.m, affine)
    return affine


def affine_of(encoding: Encoding) -> Affine:
    """The affine part of an encoding that has one."""
    inner = encoding.inner if isinstance(encoding, (BlockSparse, NM)) else encoding
    assert isinstance(inner, Affine)
    return inner


def levels_of(affine: Affine) -> Levels:
    """The integers of an affine encoding. Magnitudes are symmetric, so that the lowest of i8 stays unused."""
    low, high = affine.range
    return Levels(low, high, affine.group)


def nonzero_mask(weight: Weight) -> Tensor | None:
    """Which elements of a weight may be other than zero, in its shape: those that are stored, of a dense one those that
    are not zero. None when that is all."""
    import torch

    encoding = weight.type.encoding
    shape = weight.type.static_shape
    if isinstance(encoding, (BlockSparse, NM)):
        parts = {**weight.parts, "values": np.ones_like(weight.parts["values"])}
        found = encoding.decode(parts, weight.type) != 0
    else:
        found = np.asarray(weight.decode() != 0).reshape(shape)
    return None if found.all() else torch.from_numpy(np.ascontiguousarray(found))


def encode_rounded(rounded: Rounded, encoding: Encoding, like: Weight) -> dict[str, np.ndarray]:
    """The buffers of integers [G, N, K] in an encoding made by `with_integers` from the encoding of `like`."""
    affine = affine_of(encoding)
    shape = like.type.static_shape
    values = rounded.integers.numpy().reshape(shape).astype(affine.dtype.numpy)
    scales = rounded.scales.numpy().astype(np.float32).reshape(encoded_shape(affine, shape))
    if isinstance(encoding, BlockSparse):
        rows, columns = like.parts["rows"], like.parts["columns"]
        return {"values": stored_blocks(values, encoding.block, rows, columns), "scales": scales, "rows": rows,
                "columns": columns}
    if isinstance(encoding, NM):
        indices = like.parts["indices"]
        groups = values.reshape(*shape[:-1], -1, encoding.m)
        at = indices.reshape(*groups.shape[:-1], encoding.n).astype(np.int64)
        kept = np.take_along_axis(groups, at, -1).reshape(indices.shape)
        return {"values": np.ascontiguousarray(kept), "scales": scales, "indices": indices}
    return {"values": values, "scales": scales}


def stored_blocks(matrix: np.ndarray, block: tuple[int, int], rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The stored blocks [count, *block] of a matrix, given where block rows start and the blocks' columns."""
    height, width = block
    tiles = matrix.reshape(matrix.shape[0] // height, height, matrix.shape[1] // width, width).transpose(0, 2, 1, 3)
    owner = np.repeat(np.arange(tiles.shape[0]), np.diff(rows))
    return np.ascontiguousarray(tiles[owner, columns])


def dense_const(
    editor: Editor, data: np.ndarray, like: TensorType, name: str, *, loc: Loc, before: Node
) -> Value:
    """A dense constant with the element type of `like`, from float data."""
    return editor.const(
        stored_floats(data, like.dtype), type=TensorType(tuple(data.shape), like.dtype), name=name, loc=loc, before=before,
    )


def stored_floats(data: np.ndarray, dtype: DType) -> np.ndarray:
    """Floats as the array that stores them as `dtype` (f64, f32, f16, bf16)."""
    if dtype is dtypes.bf16:
        return dtypes.f32_to_bf16(np.ascontiguousarray(data, np.float32))
    return np.ascontiguousarray(data, dtype.numpy)


def constant_bytes(graph: Graph) -> int:
    """Bytes of all constants of a graph, equal ones once, as they are stored."""
    found = {n.attrs["digest"]: n.type for n in graph.walk() if n.op.name == "const"}
    return sum(dims.evaluate(type.nbytes, {}) for type in found.values())


def encoded_shape(affine: Affine, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of the scales of a weight."""
    found = affine.scale_shape(tuple(shape))
    return tuple(d for d in found if isinstance(d, int))
