"""Quantizing activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcomp.errors import IRError
from mcomp.ir import dims, dtypes
from mcomp.ir.encoding import DENSE, Affine, Scaled
from mcomp.ir.types import TensorType, Type
from mcomp.ops.base import Attr, Cost, Op, operands, register, total_bytes
from mcomp.ops.checks import present

Types = Sequence[TensorType | None]
Attrs = Mapping[str, Any]


def encoding_of(attrs: Attrs, rank: int) -> Affine | Scaled:
    """The encoding that a quantize node with these attributes gives a tensor of this rank."""
    floats = attrs["dtype"].is_float
    if attrs["scale"] is not None:
        return Scaled(attrs["dtype"], scale=attrs["scale"]) if floats else Affine(
            attrs["dtype"], scale=attrs["scale"], zero=attrs["zero"]
        )
    axis = attrs["axis"] if attrs["axis"] is not None else tuple(range(max(0, rank - 1)))
    if floats:
        return Scaled(attrs["dtype"], axis=axis)
    return Affine(attrs["dtype"], axis=axis, zero_point=attrs["zero_point"])


@register
class Quantize(Op):
    """x in integers, or in floats of 8 bits: the same tensor with an affine, or a scaled encoding.

    With `scale`: q = clamp(round(x / scale) + zero), for the whole tensor. Without: a scale for every index of `axis`
    (default: all axes but the last, one per token), from the data when it runs: the largest magnitude maps to the
    largest integer, or with `zero_point` the range with 0 in it maps to the whole integer range. Rounds half to even.
    Floats have no zero points.
    """

    name = "quantize"
    operands = operands("x")
    attrs = (
        Attr("dtype", "dtype", dtypes.i8), Attr("scale", "float?", None), Attr("zero", "int", 0),
        Attr("axis", "int[]?", None), Attr("zero_point", "bool", False),
    )

    def infer(self, types: Types, attrs: Attrs) -> tuple[Type, ...]:
        x = present(types, 0, "x")
        if x.encoding != DENSE:
            raise IRError(f"x is {x.encoding} already")
        scale, zero = attrs["scale"], attrs["zero"]
        if scale is not None:
            if not 0 < scale < float("inf"):
                raise IRError(f"scale is {scale}, not a positive number")
            if attrs["axis"] is not None or attrs["zero_point"]:
                raise IRError("axis and zero_point are for scales from the data; with a scale, give `zero`")
        elif zero:
            raise IRError("zero goes with scale; for zero points from the data set zero_point")
        encoding = encoding_of(attrs, x.rank)
        reason = encoding.feasible(x)
        if reason is not None:
            raise IRError(reason)
        if isinstance(encoding, Scaled):
            if zero or attrs["zero_point"]:
                raise IRError(f"{attrs['dtype']} has no zero points")
        elif not encoding.range[0] <= zero <= encoding.range[1]:
            raise IRError(f"zero {zero} is no {attrs['dtype']}")
        return (TensorType(x.shape, x.dtype, encoding),)

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Attrs) -> Cost:
        each = 2 if attrs["scale"] is not None else 4
        return Cost(dims.mul(each, present(types, 0, "x").numel), total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Attrs) -> Any:
        from mcomp.ops.encoded import quantize_tensor, scale_tensor

        encoding = encoding_of(attrs, inputs[0].dim())
        return scale_tensor(inputs[0], encoding) if isinstance(encoding, Scaled) else quantize_tensor(inputs[0], encoding)
