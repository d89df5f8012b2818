"""Convolutions and transposed convolutions over one to three spatial axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcomp.errors import IRError
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.types import TensorType, Type
from mcomp.ops.base import Attr, Cost, Op, operands, register, total_bytes
from mcomp.ops.checks import (
    differ,
    need_dim,
    need_rank,
    need_vector,
    padding_pairs,
    per_axis,
    present,
    same_dtype,
    stored_elements,
)
from mcomp.ops.rules import optional

Types = Sequence[TensorType | None]
Attrs = Mapping[str, Any]


def _check(types: Types, attrs: Attrs) -> tuple[TensorType, TensorType, int]:
    """Operand checks that both directions share: (x, weight, number of spatial axes)."""
    x, weight, bias = present(types, 0, "x"), present(types, 1, "weight"), optional(types, 2)
    need_rank(x, "x", 3, 5)
    need_rank(weight, "weight", x.rank)
    same_dtype({"x": x, "weight": weight, "bias": bias})
    if attrs["groups"] < 1:
        raise IRError(f"groups is {attrs['groups']}, but must be at least 1")
    spatial = x.rank - 2
    per_axis(attrs["stride"], spatial, "stride", 1)
    per_axis(attrs["dilation"], spatial, "dilation", 1)
    return x, weight, spatial


def window_size(size: Dim, kernel: Dim, stride: int, low: int, high: int, dilation: int) -> Dim:
    """How many windows fit along a padded axis. Raises IRError when the window is certainly larger than that."""
    reach = dims.add(dims.mul(dilation, dims.add(kernel, -1)), 1)
    room = dims.add(dims.add(size, low + high), dims.mul(reach, -1))
    if isinstance(room, int) and room < 0:
        raise IRError(f"a window that spans {reach} does not fit into {size} padded by {low} and {high}")
    return dims.add(dims.floordiv(room, stride), 1)


@register
class Conv(Op):
    """Cross-correlation of x[N, C, *S] with weight[O, C/groups, *K], plus bias[O] if there: [N, O, *].

    `padding` has one [low, high] pair of zeros per spatial axis.
    """

    name = "conv"
    operands = operands("x", "weight", "bias?")
    attrs = (
        Attr("stride", "int[]"), Attr("padding", "any[]"), Attr("dilation", "int[]"), Attr("groups", "int", 1),
    )

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        x, weight, spatial = _check(types, attrs)
        groups = attrs["groups"]
        pairs = padding_pairs(attrs["padding"], spatial)
        need_dim(x, "x", 1, dims.mul(weight.shape[1], groups), f"the channels of weight times {groups} groups")
        if differ(dims.mod(weight.shape[0], groups), 0):
            raise IRError(f"{groups} groups do not divide {weight.shape[0]} output channels")
        need_vector(optional(types, 2), "bias", weight.shape[0], "the number of output channels")
        out = [
            window_size(s, k, stride, low, high, dilation)
            for s, k, stride, (low, high), dilation in zip(
                x.shape[2:], weight.shape[2:], attrs["stride"], pairs, attrs["dilation"]
            )
        ]
        return (TensorType((x.shape[0], weight.shape[0], *out), x.dtype),)

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
        """2 * output positions * stored weights, plus the bias; what padding saves is not subtracted."""
        weight, result = present(types, 1, "weight"), results[0]
        positions = dims.mul(result.shape[0], dims.product(result.shape[2:]))
        flops = dims.mul(2, dims.mul(positions, stored_elements(weight)))
        if optional(types, 2) is not None:
            flops = dims.add(flops, result.numel)
        return Cost(flops, total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        import torch.nn.functional as F

        x, weight = inputs[0], inputs[1]
        bias = inputs[2] if len(inputs) > 2 else None
        pairs = attrs["padding"]
        function = (F.conv1d, F.conv2d, F.conv3d)[x.dim() - 3]
        if all(low == high for low, high in pairs):
            padding = [low for low, _ in pairs]
        else:
            x = F.pad(x, [p for pair in reversed(pairs) for p in pair])
            padding = [0] * len(pairs)
        return function(x, weight, bias, list(attrs["stride"]), padding, list(attrs["dilation"]), attrs["groups"])


@register
class ConvTranspose(Op):
    """Transposed convolution (the gradient of conv) of x[N, C, *S] with weight[C, O/groups, *K], plus bias[O] if there.

    Size along an axis: (S - 1) * stride - 2 * padding + dilation * (K - 1) + output_padding + 1.
    """

    name = "conv_transpose"
    operands = operands("x", "weight", "bias?")
    attrs = (
        Attr("stride", "int[]"), Attr("padding", "int[]"), Attr("output_padding", "int[]"), Attr("dilation", "int[]"),
        Attr("groups", "int", 1),
    )

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        x, weight, spatial = _check(types, attrs)
        groups = attrs["groups"]
        padding = per_axis(attrs["padding"], spatial, "padding", 0)
        extra = per_axis(attrs["output_padding"], spatial, "output_padding", 0)
        need_dim(x, "x", 1, weight.shape[0], "the input channels of weight")
        if differ(dims.mod(weight.shape[0], groups), 0):
            raise IRError(f"{groups} groups do not divide {weight.shape[0]} input channels")
        channels = dims.mul(weight.shape[1], groups)
        need_vector(optional(types, 2), "bias", channels, "the number of output channels")
        out: list[Dim] = []
        for i in range(spatial):
            stride, dilation = attrs["stride"][i], attrs["dilation"][i]
            if extra[i] >= max(stride, dilation):
                raise IRError(f"output_padding {extra[i]} is not smaller than stride {stride} or dilation {dilation}")
            reach = dims.mul(dilation, dims.add(weight.shape[2 + i], -1))
            spread = dims.mul(dims.add(x.shape[2 + i], -1), stride)
            size = dims.add(dims.add(spread, reach), extra[i] + 1 - 2 * padding[i])
            if isinstance(size, int) and size < 1:
                raise IRError(f"nothing is left along spatial axis {i}: the result would have size {size}")
            out.append(size)
        return (TensorType((x.shape[0], channels, *out), x.dtype),)

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
        x, weight = present(types, 0, "x"), present(types, 1, "weight")
        positions = dims.mul(x.shape[0], dims.product(x.shape[2:]))
        flops = dims.mul(2, dims.mul(positions, stored_elements(weight)))
        if optional(types, 2) is not None:
            flops = dims.add(flops, results[0].numel)
        return Cost(flops, total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        import torch.nn.functional as F

        x, weight = inputs[0], inputs[1]
        function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[x.dim() - 3]
        return function(
            x, weight, inputs[2] if len(inputs) > 2 else None, list(attrs["stride"]), list(attrs["padding"]),
            list(attrs["output_padding"]), attrs["groups"], list(attrs["dilation"]),
        )
