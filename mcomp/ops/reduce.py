"""Reductions over axes and running reductions along one. Results keep the element type of the operand.

f16 and bf16 are accumulated in f32. `axes` lists every axis to reduce; it is empty only for a scalar.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mcomp.errors import IRError
from mcomp.ir import dims, dtypes
from mcomp.ir.dtypes import DType
from mcomp.ir.types import TensorType, Type
from mcomp.ops.base import Attr, Cost, Op, Tolerance, operands, register, total_bytes
from mcomp.ops.rules import (
    BOOL,
    COMPLEX,
    FLOATS,
    NUMBERS,
    check_axes,
    check_axis,
    present,
    reduced_shape,
    require_dtype,
    shape_text,
)

_AXES: tuple[Attr, ...] = (Attr("axes", "int[]"), Attr("keepdim", "bool", False))


class Reduction(Op):
    """Combines the elements along `axes`. Backends read `accepts`, and `empty`: whether no element has a result."""

    operands = operands("x")
    attrs = _AXES
    accepts: ClassVar[frozenset[DType]] = FLOATS
    empty: ClassVar[bool] = True
    flops: ClassVar[int] = 1

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = present(types)
        require_dtype(x, self.accepts)
        axes = check_axes(attrs["axes"], x.rank)
        if not axes and x.rank:
            raise IRError(f"no axes of {shape_text(x.shape)} to reduce", help="list every axis to reduce over all")
        if not self.empty and any(x.shape[a] == 0 for a in axes):
            raise IRError(f"{self.name} of no elements along {list(axes)} of {shape_text(x.shape)}")
        return (TensorType(reduced_shape(x.shape, axes, attrs["keepdim"]), x.dtype),)

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        return Cost(dims.mul(present(types).numel, self.flops), total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        (x,) = inputs
        if x.ndim == 0:
            return self.compute(x.reshape(1), (0,), False, attrs)
        return self.compute(x, attrs["axes"], attrs["keepdim"], attrs)

    def compute(self, x: Any, axes: tuple[int, ...], keepdim: bool, attrs: Mapping[str, Any]) -> Any:
        """The meaning for a tensor of rank at least 1 and at least one axis."""
        import torch

        return getattr(torch, self.name)(x, axes, keepdim)


@register
class Sum(Reduction):
    """The sum; integers wrap."""

    name = "sum"
    accepts = NUMBERS | COMPLEX

    def compute(self, x: Any, axes: tuple[int, ...], keepdim: bool, attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.sum(x, axes, keepdim, dtype=x.dtype)


@register
class Mean(Reduction):
    """The mean; NaN of no elements."""

    name = "mean"
    accepts = FLOATS | COMPLEX


@register
class Amax(Reduction):
    """The largest element; NaN if there is one."""

    name = "amax"
    accepts = NUMBERS | BOOL
    empty = False
    tolerance = Tolerance.EXACT


@register
class Amin(Reduction):
    """The smallest element; NaN if there is one."""

    name = "amin"
    accepts = NUMBERS | BOOL
    empty = False
    tolerance = Tolerance.EXACT


@register
class Prod(Reduction):
    """The product; integers wrap."""

    name = "prod"
    accepts = NUMBERS | COMPLEX

    def compute(self, x: Any, axes: tuple[int, ...], keepdim: bool, attrs: Mapping[str, Any]) -> Any:
        import torch

        for axis in sorted(axes, reverse=True):
            x = torch.prod(x, axis, keepdim, dtype=x.dtype)
        return x


@register
class All(Reduction):
    """Whether every element holds; true of none."""

    name = "all"
    accepts = BOOL
    tolerance = Tolerance.EXACT


@register
class Any_(Reduction):
    """Whether some element holds; false of none."""

    name = "any"
    accepts = BOOL
    tolerance = Tolerance.EXACT


@register
class Logsumexp(Reduction):
    """log(sum(exp(x))) without overflow; minus infinity of no elements."""

    name = "logsumexp"
    flops = 12
    tolerance = Tolerance.APPROXIMATE


_CORRECTION = Attr("correction", "float", 1.0)


@register
class Var(Reduction):
    """The sum of squared distances to the mean, divided by the count less `correction`."""

    name = "var"
    attrs = (*_AXES, _CORRECTION)
    flops = 4

    def compute(self, x: Any, axes: tuple[int, ...], keepdim: bool, attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.var(x, axes, correction=attrs["correction"], keepdim=keepdim)


@register
class Std(Reduction):
    """The square root of `var`."""

    name = "std"
    attrs = (*_AXES, _CORRECTION)
    flops = 4

    def compute(self, x: Any, axes: tuple[int, ...], keepdim: bool, attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.std(x, axes, correction=attrs["correction"], keepdim=keepdim)


@register
class Norm(Reduction):
    """(sum |x|^p)^(1/p); the largest or smallest |x| for p = inf or -inf, the count of non-zeros for p = 0."""

    name = "norm"
    attrs = (*_AXES, Attr("p", "float", 2.0))
    flops = 3
    tolerance = Tolerance.APPROXIMATE

    def compute(self, x: Any, axes: tuple[int, ...], keepdim: bool, attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.linalg.vector_norm(x, attrs["p"], axes, keepdim)


class _IndexReduction(Op):
    """Finds an element along an axis, or among all elements in row-major order where `axis` is none."""

    operands = operands("x")
    attrs = (Attr("axis", "int?", None), Attr("keepdim", "bool", False))
    tolerance = Tolerance.EXACT

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = present(types)
        require_dtype(x, NUMBERS)
        axes = tuple(range(x.rank)) if attrs["axis"] is None else (check_axis(attrs["axis"], x.rank),)
        if any(x.shape[a] == 0 for a in axes):
            raise IRError(f"{self.name} of no elements along {list(axes)} of {shape_text(x.shape)}")
        return (TensorType(reduced_shape(x.shape, axes, attrs["keepdim"]), dtypes.i64),)

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        return Cost(present(types).numel, total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return getattr(torch, self.name)(inputs[0], attrs["axis"], attrs["keepdim"])


@register
class Argmax(_IndexReduction):
    """The index (i64) of the first largest element; of the first NaN if there is one."""

    name = "argmax"


@register
class Argmin(_IndexReduction):
    """The index (i64) of the first smallest element; of the first NaN if there is one."""

    name = "argmin"


class _WithIndex(Op):
    """An element along an axis and its index: (values, indices i64)."""

    operands = operands("x")
    attrs = (Attr("axis", "int"), Attr("keepdim", "bool", False))
    accepts: ClassVar[frozenset[DType]] = NUMBERS | BOOL
    function: ClassVar[str]
    tolerance = Tolerance.EXACT

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = present(types)
        require_dtype(x, self.accepts)
        axis = check_axis(attrs["axis"], x.rank)
        if x.shape[axis] == 0:
            raise IRError(f"{self.name} of no elements along axis {axis} of {shape_text(x.shape)}")
        shape = reduced_shape(x.shape, (axis,), attrs["keepdim"])
        return TensorType(shape, x.dtype), TensorType(shape, dtypes.i64)

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        return Cost(present(types).numel, total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return tuple(getattr(torch, self.function)(inputs[0], attrs["axis"], attrs["keepdim"]))


@register
class MaxWithIndex(_WithIndex):
    """The largest element along an axis and its first index; the first NaN if there is one."""

    name = "max_with_index"
    function = "max"


@register
class MinWithIndex(_WithIndex):
    """The smallest element along an axis and its first index; the first NaN if there is one."""

    name = "min_with_index"
    function = "min"


@register
class MedianWithIndex(_WithIndex):
    """The lower median along an axis and an index of it; a NaN if there is one."""

    name = "median_with_index"
    function = "median"
    accepts = NUMBERS


class _Scan(Op):
    """A running reduction along an axis; the shape stays."""

    operands = operands("x")
    attrs = (Attr("axis", "int"),)
    accepts: ClassVar[frozenset[DType]] = NUMBERS | COMPLEX
    flops: ClassVar[int] = 1

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = present(types)
        require_dtype(x, self.accepts)
        check_axis(attrs["axis"], x.rank)
        return (x.dense(),)

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        return Cost(dims.mul(present(types).numel, self.flops), total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return getattr(torch, self.name)(inputs[0], attrs["axis"], dtype=inputs[0].dtype)


@register
class Cumsum(_Scan):
    """The sum of the elements up to and with each one; integers wrap."""

    name = "cumsum"


@register
class Cumprod(_Scan):
    """The product of the elements up to and with each one; integers wrap."""

    name = "cumprod"


@register
class Logcumsumexp(_Scan):
    """log(cumsum(exp(x))) without overflow."""

    name = "logcumsumexp"
    accepts = FLOATS
    flops = 22
    tolerance = Tolerance.APPROXIMATE

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.logcumsumexp(inputs[0], attrs["axis"])


class _ScanWithIndex(_Scan):
    """A running extreme and its last index: (values, indices i64)."""

    accepts = NUMBERS | BOOL
    tolerance = Tolerance.EXACT

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        (values,) = super().infer(types, attrs)
        assert isinstance(values, TensorType)
        return values, values.with_dtype(dtypes.i64)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return tuple(getattr(torch, self.name)(inputs[0], attrs["axis"]))


@register
class Cummax(_ScanWithIndex):
    """The largest element so far along an axis and its last index so far; NaN from the first one on."""

    name = "cummax"


@register
class Cummin(_ScanWithIndex):
    """The smallest element so far along an axis and its last index so far; NaN from the first one on."""

    name = "cummin"
