"""Normalization and softmax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcomp.errors import IRError
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.types import TensorType, Type
from mcomp.ops.base import Attr, Cost, Op, Tolerance, operands, register, total_bytes
from mcomp.ops.checks import differ, need_float, need_rank, need_vector, present, same_dtype
from mcomp.ops.rules import check_axis, optional

Types = Sequence[TensorType | None]
Attrs = Mapping[str, Any]


def _given(inputs: Sequence[Any], index: int) -> Any:
    return inputs[index] if index < len(inputs) else None


def _cost(operations: int, types: Types, results: Sequence[TensorType]) -> Cost:
    return Cost(dims.mul(operations, results[0].numel), total_bytes(types), total_bytes(results))


def _trailing(x: TensorType, count: int) -> tuple[Dim, ...]:
    if not 1 <= count <= x.rank:
        raise IRError(f"axes_count is {count} for a tensor of rank {x.rank}")
    return x.shape[x.rank - count :]


def _affine(type: TensorType | None, name: str, shape: tuple[Dim, ...]) -> None:
    if type is None:
        return
    if type.rank != len(shape) or any(differ(a, b) for a, b in zip(type.shape, shape)):
        raise IRError(f"{name} is {list(type.shape)}, but the normalized axes are {list(shape)}")


@register
class LayerNorm(Op):
    """(x - mean) / sqrt(variance + eps) over the last `axes_count` axes, times weight plus bias, both of the shape of
    those axes."""

    name = "layer_norm"
    operands = operands("x", "weight?", "bias?")
    attrs = (Attr("axes_count", "int"), Attr("eps", "float"))
    tolerance = Tolerance.APPROXIMATE

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        x, weight, bias = present(types, 0, "x"), optional(types, 1), optional(types, 2)
        need_float(x, "x")
        same_dtype({"x": x, "weight": weight, "bias": bias})
        shape = _trailing(x, attrs["axes_count"])
        _affine(weight, "weight", shape)
        _affine(bias, "bias", shape)
        return (TensorType(x.shape, x.dtype),)

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
        return _cost(8, types, results)

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        from torch.nn.functional import layer_norm

        x = inputs[0]
        shape = x.shape[x.dim() - attrs["axes_count"] :]
        return layer_norm(x, shape, _given(inputs, 1), _given(inputs, 2), attrs["eps"])


@register
class RmsNorm(Op):
    """x / sqrt(mean(x²) + eps) over the last `axes_count` axes, times (weight + offset). f16 and bf16 are computed in
    f32."""

    name = "rms_norm"
    operands = operands("x", "weight?")
    attrs = (Attr("axes_count", "int"), Attr("eps", "float"), Attr("offset", "float", 0.0))
    tolerance = Tolerance.APPROXIMATE

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        x, weight = present(types, 0, "x"), optional(types, 1)
        need_float(x, "x")
        same_dtype({"x": x, "weight": weight})
        _affine(weight, "weight", _trailing(x, attrs["axes_count"]))
        return (TensorType(x.shape, x.dtype),)

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
        return _cost(4, types, results)

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        import torch

        x, weight = inputs[0], _given(inputs, 1)
        wide = x if x.dtype == torch.float64 else x.float()
        axes = tuple(range(x.dim() - attrs["axes_count"], x.dim()))
        out = wide * torch.rsqrt(wide.square().mean(axes, keepdim=True) + attrs["eps"])
        if weight is not None:
            out = out * (weight.to(wide.dtype) + attrs["offset"])
        return out.to(x.dtype)


@register
class GroupNorm(Op):
    """x[N, C, *] normalized over each of `groups` groups of channels and all later axes, times weight[C] plus
    bias[C]."""

    name = "group_norm"
    operands = operands("x", "weight?", "bias?")
    attrs = (Attr("groups", "int"), Attr("eps", "float"))
    tolerance = Tolerance.APPROXIMATE

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        x, weight, bias = present(types, 0, "x"), optional(types, 1), optional(types, 2)
        need_rank(x, "x", 2, -1)
        need_float(x, "x")
        same_dtype({"x": x, "weight": weight, "bias": bias})
        if attrs["groups"] < 1 or differ(dims.mod(x.shape[1], attrs["groups"]), 0):
            raise IRError(f"{attrs['groups']} groups do not divide {x.shape[1]} channels")
        need_vector(weight, "weight", x.shape[1], "the number of channels")
        need_vector(bias, "bias", x.shape[1], "the number of channels")
        return (TensorType(x.shape, x.dtype),)

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
        return _cost(8, types, results)

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        import torch

        groups, eps = attrs["groups"], attrs["eps"]
        return torch.group_norm(inputs[0], groups, _given(inputs, 1), _given(inputs, 2), eps, False)


@register
class BatchNorm(Op):
    """(x - mean) / sqrt(variance + eps) * weight + bias per channel of x[N, C, *], with running statistics mean[C] and
    variance[C]."""

    name = "batch_norm"
    operands = operands("x", "mean", "variance", "weight?", "bias?")
    attrs = (Attr("eps", "float"),)

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        x = present(types, 0, "x")
        need_rank(x, "x", 2, -1)
        need_float(x, "x")
        for i, name in enumerate(("mean", "variance", "weight", "bias"), 1):
            type = present(types, i, name) if i < 3 else optional(types, i)
            need_vector(type, name, x.shape[1], "the number of channels")
        return (TensorType(x.shape, x.dtype),)

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
        return _cost(2, types, results)

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        from torch.nn.functional import batch_norm

        x, mean, variance = inputs[:3]
        return batch_norm(x, mean, variance, _given(inputs, 3), _given(inputs, 4), False, 0.0, attrs["eps"])


class _Softmax(Op):
    operands = operands("x")
    attrs = (Attr("axis", "int"),)
    tolerance = Tolerance.APPROXIMATE

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        x = present(types, 0, "x")
        need_float(x, "x")
        if x.rank == 0 and attrs["axis"] == 0:
            return (TensorType(x.shape, x.dtype),)
        check_axis(attrs["axis"], x.rank)
        return (TensorType(x.shape, x.dtype),)

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
        return _cost(14, types, results)


@register
class Softmax(_Softmax):
    """exp(x - max) / sum(exp(x - max)) along `axis`; a slice of only -inf gives NaN."""

    name = "softmax"

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        return inputs[0].softmax(attrs["axis"])


@register
class LogSoftmax(_Softmax):
    """x - max - log(sum(exp(x - max))) along `axis`."""

    name = "log_softmax"

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        return inputs[0].log_softmax(attrs["axis"])
