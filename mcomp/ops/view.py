"""Operators whose result holds elements of their operand at other indices: backends need not copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcomp.errors import IRError
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.types import TensorType, Type
from mcomp.ops.base import Attr, Cost, Op, Tolerance, operands, register
from mcomp.ops.rules import (
    broadcasts_to,
    check_axes,
    check_axis,
    exceeds,
    never_equal,
    present,
    require_sizes,
    shape_text,
)


class ViewOp(Op):
    """Base of views: no work, no bytes moved."""

    operands = operands("x")
    tolerance = Tolerance.EXACT
    view = True

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        return Cost()


@register
class Reshape(ViewOp):
    """The elements in row-major order as another shape with as many elements."""

    name = "reshape"
    attrs = (Attr("shape", "dim[]"),)

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x, shape = present(types), attrs["shape"]
        require_sizes(shape)
        if never_equal(x.numel, dims.product(shape)):
            raise IRError(f"{shape_text(x.shape)} has {x.numel} elements, {shape_text(shape)} {dims.product(shape)}")
        return (TensorType(shape, x.dtype),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        return inputs[0].reshape(attrs["shape"])


@register
class Permute(ViewOp):
    """Axes in another order: axis i of the result is axis order[i] of x."""

    name = "permute"
    attrs = (Attr("order", "int[]"),)

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x, order = present(types), attrs["order"]
        if sorted(order) != list(range(x.rank)):
            raise IRError(f"{list(order)} is no order of {x.rank} axes")
        return (TensorType(tuple(x.shape[i] for i in order), x.dtype),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        return inputs[0].permute(attrs["order"])


@register
class Expand(ViewOp):
    """x stretched to `shape` by numpy's broadcasting rules: axes of size 1 repeat, missing leading axes are added."""

    name = "expand"
    attrs = (Attr("shape", "dim[]"),)

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x, shape = present(types), attrs["shape"]
        require_sizes(shape)
        if not broadcasts_to(x.shape, shape):
            raise IRError(f"{shape_text(x.shape)} does not stretch to {shape_text(shape)}")
        return (TensorType(shape, x.dtype),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        return inputs[0].expand(attrs["shape"])


@register
class Slice(ViewOp):
    """Elements start, start + step, ... below stop along an axis; 0 <= start <= stop <= size, step >= 1."""

    name = "slice"
    attrs = (Attr("axis", "int"), Attr("start", "dim", 0), Attr("stop", "dim"), Attr("step", "int", 1))

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = present(types)
        axis = check_axis(attrs["axis"], x.rank)
        length = slice_length(x.shape[axis], attrs["start"], attrs["stop"], attrs["step"])
        return (TensorType((*x.shape[:axis], length, *x.shape[axis + 1 :]), x.dtype),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        (x,) = inputs
        index = slice(attrs["start"], attrs["stop"], attrs["step"])
        return x[(slice(None),) * attrs["axis"] + (index,)]


def slice_length(size: Dim, start: Dim, stop: Dim, step: int) -> Dim:
    """Number of elements of a slice. Raises IRError when it is known not to fit the size."""
    if step < 1:
        raise IRError(f"step {step} is not positive")
    if exceeds(0, start) or exceeds(start, stop) or exceeds(stop, size):
        raise IRError(f"the slice {start}:{stop} does not lie in 0:{size}")
    return dims.ceildiv(dims.add(stop, dims.mul(start, -1)), step)


@register
class Select(ViewOp):
    """The elements at one index of an axis; the axis goes away."""

    name = "select"
    attrs = (Attr("axis", "int"), Attr("index", "dim"))

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = present(types)
        axis, index = check_axis(attrs["axis"], x.rank), attrs["index"]
        if exceeds(0, index) or exceeds(dims.add(index, 1), x.shape[axis]):
            raise IRError(f"index {index} is outside of axis {axis} of {shape_text(x.shape)}")
        return (TensorType((*x.shape[:axis], *x.shape[axis + 1 :]), x.dtype),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        return inputs[0].select(attrs["axis"], attrs["index"])


@register
class Squeeze(ViewOp):
    """x without some axes, which have size 1 (a symbolic size must be 1 when run)."""

    name = "squeeze"
    attrs = (Attr("axes", "int[]"),)

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = present(types)
        axes = check_axes(attrs["axes"], x.rank)
        for axis in axes:
            if x.shape[axis] != 1 and isinstance(x.shape[axis], int):
                raise IRError(f"axis {axis} of {shape_text(x.shape)} is not 1")
        return (TensorType(tuple(d for i, d in enumerate(x.shape) if i not in axes), x.dtype),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        (x,) = inputs
        return x.reshape([d for i, d in enumerate(x.shape) if i not in attrs["axes"]])


@register
class Unsqueeze(ViewOp):
    """x with axes of size 1 added; `axes` are their positions in the result."""

    name = "unsqueeze"
    attrs = (Attr("axes", "int[]"),)

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = present(types)
        axes = check_axes(attrs["axes"], x.rank + len(attrs["axes"]))
        rest = iter(x.shape)
        return (TensorType(tuple(1 if i in axes else next(rest) for i in range(x.rank + len(axes))), x.dtype),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        (x,) = inputs
        for axis in sorted(attrs["axes"]):
            x = x.unsqueeze(axis)
        return x


@register
class Unfold(ViewOp):
    """Windows of `size` elements, `step` apart, along an axis: [.., D, ..] -> [.., (D - size)//step + 1, .., size]."""

    name = "unfold"
    attrs = (Attr("axis", "int"), Attr("size", "int"), Attr("step", "int", 1))

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = present(types)
        axis, size, step = check_axis(attrs["axis"], x.rank), attrs["size"], attrs["step"]
        if size < 0 or step < 1 or exceeds(size, x.shape[axis]):
            raise IRError(f"windows of {size}, {step} apart, do not fit axis {axis} of {shape_text(x.shape)}")
        count = dims.add(dims.floordiv(dims.add(x.shape[axis], -size), step), 1)
        return (TensorType((*x.shape[:axis], count, *x.shape[axis + 1 :], size), x.dtype),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        return inputs[0].unfold(attrs["axis"], attrs["size"], attrs["step"])


@register
class Contiguous(ViewOp):
    """x itself; in a model, a copy in row-major order, which every value of the IR is already."""

    name = "contiguous"

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        return (present(types).dense(),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        return inputs[0].contiguous()
