"""Discrete Fourier transforms. Sizes are those of the operand; pad or slice first for others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mcomp.errors import IRError
from mcomp.ir import dims, dtypes
from mcomp.ir.dtypes import DType
from mcomp.ir.types import TensorType, Type
from mcomp.ops.base import Attr, Cost, Op, Tolerance, operands, register, total_bytes
from mcomp.ops.index import search_steps
from mcomp.ops.rules import check_axes, check_axis, exceeds, one_of, present, require_dtype, shape_text

_NORMS = ("backward", "forward", "ortho")
_NORM = Attr("norm", "str", "backward")


class _Fourier(Op):
    """`norm` says what is divided by the number of elements: the inverse (backward), the transform (forward), or each
    by its square root (ortho)."""

    operands = operands("x")
    tolerance = Tolerance.APPROXIMATE
    accepts: ClassVar[DType] = dtypes.complex64

    def check(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> TensorType:
        """The operand, with element type and norm checked."""
        x = present(types)
        require_dtype(x, frozenset({self.accepts}))
        one_of(attrs["norm"], _NORMS, "norm")
        return x

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        x = present(types)
        axes = attrs["axes"] if "axes" in attrs else (attrs["axis"],)
        steps = sum(search_steps(x.shape[a]) for a in axes)
        return Cost(dims.mul(x.numel, 5 * steps), total_bytes(types), total_bytes(results))


@register
class Fft(_Fourier):
    """The Fourier transform of complex64 over some axes, or its inverse; the shape stays."""

    name = "fft"
    attrs = (Attr("axes", "int[]"), Attr("inverse", "bool", False), _NORM)

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = self.check(types, attrs)
        _check_not_empty(x, check_axes(attrs["axes"], x.rank))
        return (x.dense(),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        if not inputs[0].numel():
            return inputs[0].clone()
        function = torch.fft.ifftn if attrs["inverse"] else torch.fft.fftn
        return function(inputs[0], dim=attrs["axes"], norm=attrs["norm"])


@register
class Rfft(_Fourier):
    """The Fourier transform of real f32 along an axis: complex64, the first D//2 + 1 of D terms."""

    name = "rfft"
    attrs = (Attr("axis", "int"), _NORM)
    accepts = dtypes.f32

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = self.check(types, attrs)
        axis = check_axis(attrs["axis"], x.rank)
        _check_not_empty(x, (axis,))
        length = dims.add(dims.floordiv(x.shape[axis], 2), 1)
        return (TensorType((*x.shape[:axis], length, *x.shape[axis + 1 :]), dtypes.complex64),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        (x,) = inputs
        if not x.numel():
            shape = [d // 2 + 1 if i == attrs["axis"] else d for i, d in enumerate(x.shape)]
            return x.new_zeros(shape, dtype=torch.complex64)
        return torch.fft.rfft(x, dim=attrs["axis"], norm=attrs["norm"])


@register
class Irfft(_Fourier):
    """The inverse of `rfft`: f32, `length` real numbers along the axis from length//2 + 1 complex ones."""

    name = "irfft"
    attrs = (Attr("axis", "int"), Attr("length", "dim"), _NORM)

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x, length = self.check(types, attrs), attrs["length"]
        axis = check_axis(attrs["axis"], x.rank)
        needed = dims.add(dims.floordiv(length, 2), 1)
        if exceeds(1, length) or exceeds(needed, x.shape[axis]) or exceeds(x.shape[axis], needed):
            raise IRError(f"{length} numbers need {needed} terms, not {x.shape[axis]}")
        return (TensorType((*x.shape[:axis], length, *x.shape[axis + 1 :]), dtypes.f32),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        (x,) = inputs
        if not x.numel():
            shape = [attrs["length"] if i == attrs["axis"] else d for i, d in enumerate(x.shape)]
            return x.new_zeros(shape, dtype=torch.float32)
        return torch.fft.irfft(x, n=attrs["length"], dim=attrs["axis"], norm=attrs["norm"])


def _check_not_empty(x: TensorType, axes: Sequence[int]) -> None:
    if any(x.shape[a] == 0 for a in axes):
        raise IRError(f"axes {list(axes)} of {shape_text(x.shape)} hold nothing to transform")
