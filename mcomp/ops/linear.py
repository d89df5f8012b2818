"""Matrix products: linear, matmul, grouped_matmul, bilinear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcomp.errors import IRError
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.graph import Node
from mcomp.ir.types import TensorType, Type
from mcomp.ops.base import Cost, Op, operands, register, total_bytes
from mcomp.ops.checks import broadcast, need_dim, need_rank, need_vector, present, same_dtype, stored_elements
from mcomp.ops.rules import optional

Types = Sequence[TensorType | None]
Attrs = Mapping[str, Any]


def multiplies_rows(node: Node) -> bool:
    """Whether a node multiplies the channels at each place of its first operand by one and the same matrix [N, K], perhaps
    with further axes of size 1: linear, and convolutions of one position without stride, padding and groups."""
    if node.op.name != "conv":
        return node.op.name == "linear"
    attrs = node.attrs
    if attrs["groups"] != 1 or any(s != 1 for s in (*attrs["stride"], *node.operand(1).tensor.shape[2:])):
        return False
    return all(pad == 0 for pads in attrs["padding"] for pad in pads)


@register
class Linear(Op):
    """x[..., K] times the transpose of weight[N, K], plus bias[N] if there: [..., N]."""

    name = "linear"
    operands = operands("x", "weight", "bias?")

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        x, weight, bias = present(types, 0, "x"), present(types, 1, "weight"), optional(types, 2)
        need_rank(x, "x", 1, -1)
        need_rank(weight, "weight", 2)
        same_dtype({"x": x, "weight": weight, "bias": bias})
        need_dim(x, "x", -1, weight.shape[1], "the number of columns of weight")
        need_vector(bias, "bias", weight.shape[0], "the number of rows of weight")
        return (TensorType((*x.shape[:-1], weight.shape[0]), x.dtype),)

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
        """2 * rows * stored weights: a sparse weight counts only what it stores."""
        x, weight = present(types, 0, "x"), present(types, 1, "weight")
        flops = dims.mul(2, dims.mul(dims.product(x.shape[:-1]), stored_elements(weight)))
        if optional(types, 2) is not None:
            flops = dims.add(flops, results[0].numel)
        return Cost(flops, total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        from torch.nn.functional import linear

        return linear(inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None)


@register
class MatMul(Op):
    """a[..., M, K] times b[..., K, N], leading axes broadcast: [..., M, N]. A vector is a row on the left, a column on
    the right, as in numpy."""

    name = "matmul"
    operands = operands("a", "b")

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        a, b = present(types, 0, "a"), present(types, 1, "b")
        need_rank(a, "a", 1, -1)
        need_rank(b, "b", 1, -1)
        same_dtype({"a": a, "b": b})
        need_dim(a, "a", -1, b.shape[max(0, b.rank - 2)], "the inner size of b")
        lead = broadcast({"a": a.shape[:-2], "b": b.shape[:-2]})
        return (TensorType((*lead, *a.shape[-2:-1], *(b.shape[-1:] if b.rank > 1 else ())), a.dtype),)

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
        a = present(types, 0, "a")
        flops = dims.mul(2, dims.mul(results[0].numel, a.shape[-1]))
        return Cost(flops, total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        import torch

        return torch.matmul(inputs[0], inputs[1])


@register
class GroupedMatMul(Op):
    """Rows of x[T, K] times one matrix each of weight[E, K, N]: rows from offsets[e - 1] (0 for the first) up to
    offsets[e] use weight[e]. offsets[E] i32 or i64 ascend. Rows from the last offset on are zero. [T, N]."""

    name = "grouped_matmul"
    operands = operands("x", "weight", "offsets")

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        x, weight, offsets = present(types, 0, "x"), present(types, 1, "weight"), present(types, 2, "offsets")
        need_rank(x, "x", 2)
        need_rank(weight, "weight", 3)
        need_vector(offsets, "offsets", weight.shape[0], "the number of matrices")
        same_dtype({"x": x, "weight": weight})
        if not offsets.dtype.is_int:
            raise IRError(f"offsets are {offsets.dtype}, not integers")
        need_dim(x, "x", 1, weight.shape[1], "the number of rows of each matrix")
        return (TensorType((x.shape[0], weight.shape[2]), x.dtype),)

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
        x = present(types, 0, "x")
        flops = dims.mul(2, dims.mul(results[0].numel, x.shape[1]))
        return Cost(flops, total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        import torch

        x, weight, offsets = inputs
        pieces = []
        start = 0
        for matrix, stop in zip(weight, offsets.tolist()):
            pieces.append(x[start:stop] @ matrix)
            start = max(start, stop)
        pieces.append(x.new_zeros(max(0, x.shape[0] - start), weight.shape[2]))
        return torch.cat(pieces)


@register
class Bilinear(Op):
    """x1[..., I] times weight[O, I, J] times x2[..., J], plus bias[O] if there: [..., O]."""

    name = "bilinear"
    operands = operands("x1", "x2", "weight", "bias?")

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        x1, x2, weight = present(types, 0, "x1"), present(types, 1, "x2"), present(types, 2, "weight")
        bias = optional(types, 3)
        need_rank(x1, "x1", 1, -1)
        need_rank(x2, "x2", x1.rank)
        need_rank(weight, "weight", 3)
        same_dtype({"x1": x1, "x2": x2, "weight": weight, "bias": bias})
        for axis in range(x1.rank - 1):
            need_dim(x2, "x2", axis, x1.shape[axis], "x1's size there")
        need_dim(x1, "x1", -1, weight.shape[1], "weight's axis 1")
        need_dim(x2, "x2", -1, weight.shape[2], "weight's axis 2")
        need_vector(bias, "bias", weight.shape[0], "weight's axis 0")
        return (TensorType((*x1.shape[:-1], weight.shape[0]), x1.dtype),)

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
        weight = present(types, 2, "weight")
        flops: Dim = dims.mul(results[0].numel, dims.mul(dims.mul(2, weight.shape[1]), dims.add(weight.shape[2], 1)))
        return Cost(flops, total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        from torch.nn.functional import bilinear

        return bilinear(inputs[0], inputs[1], inputs[2], inputs[3] if len(inputs) > 3 else None)
