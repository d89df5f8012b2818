"""Operators that join, cut, repeat and pad tensors: elements move, nothing is computed. Views are in `view`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcomp.errors import IRError
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.types import TensorType, Type
from mcomp.ops.base import Attr, Cost, Op, Tolerance, operands, register, total_bytes
from mcomp.ops.rules import (
    BOOL,
    COMPLEX,
    FLOATS,
    check_axes,
    check_axis,
    exceeds,
    given,
    merge,
    never_equal,
    one_of,
    present,
    require_dtype,
    require_equal,
    require_rank,
    require_same_dtype,
    require_sizes,
    shape_text,
)


class _Move(Op):
    """Every element of the results is read once and written once."""

    tolerance = Tolerance.EXACT

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        moved = total_bytes(results)
        return Cost(0, moved, moved)


@register
class Cat(_Move):
    """Tensors joined along an axis; all other sizes agree."""

    name = "cat"
    operands = operands("tensors*")
    attrs = (Attr("axis", "int"),)

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        found = given(types)
        if not found:
            raise IRError("nothing to join")
        dtype = require_same_dtype(*found)
        axis = check_axis(attrs["axis"], found[0].rank)
        shape = list(found[0].shape)
        for t in found[1:]:
            if t.rank != len(shape):
                raise IRError(f"tensors of rank {len(shape)} and {t.rank} do not join")
            for i, d in enumerate(t.shape):
                if i == axis:
                    shape[i] = dims.add(shape[i], d)
                else:
                    require_equal(shape[i], d, f"axis {i} of the tensors to join along axis {axis}")
                    shape[i] = merge(shape[i], d)
        return (TensorType(tuple(shape), dtype),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.cat(list(inputs), attrs["axis"])


@register
class Split(_Move):
    """Consecutive pieces of the given sizes along an axis, one result each; the sizes add up to the axis."""

    name = "split"
    operands = operands("x")
    attrs = (Attr("axis", "int"), Attr("sizes", "dim[]"))

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x, sizes = present(types), attrs["sizes"]
        axis = check_axis(attrs["axis"], x.rank)
        require_sizes(sizes, "sizes")
        if not sizes:
            raise IRError("no sizes to split into")
        total: Dim = 0
        for d in sizes:
            total = dims.add(total, d)
        require_equal(total, x.shape[axis], f"sum of the sizes and axis {axis} of {shape_text(x.shape)}")
        return tuple(TensorType((*x.shape[:axis], d, *x.shape[axis + 1 :]), x.dtype) for d in sizes)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return tuple(torch.split(inputs[0], list(attrs["sizes"]), attrs["axis"]))


@register
class Flip(_Move):
    """The elements in reverse order along some axes."""

    name = "flip"
    operands = operands("x")
    attrs = (Attr("axes", "int[]"),)

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = present(types)
        check_axes(attrs["axes"], x.rank)
        return (x.dense(),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        return inputs[0].flip(attrs["axes"])


@register
class Roll(_Move):
    """The elements moved up by shifts[i] along axes[i]; those that leave come back at the start."""

    name = "roll"
    operands = operands("x")
    attrs = (Attr("shifts", "dim[]"), Attr("axes", "int[]"))

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = present(types)
        check_axes(attrs["axes"], x.rank)
        if len(attrs["shifts"]) != len(attrs["axes"]):
            raise IRError(f"{len(attrs['shifts'])} shifts for {len(attrs['axes'])} axes")
        return (x.dense(),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        return inputs[0].roll(attrs["shifts"], attrs["axes"]) if attrs["axes"] else inputs[0].clone()


@register
class Repeat(_Move):
    """x laid side by side repeats[i] times along each axis i."""

    name = "repeat"
    operands = operands("x")
    attrs = (Attr("repeats", "dim[]"),)

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x, repeats = present(types), attrs["repeats"]
        if len(repeats) != x.rank:
            raise IRError(f"{len(repeats)} repeats for rank {x.rank}", help="add the missing axes with `unsqueeze`")
        require_sizes(repeats, "repeats")
        return (TensorType(tuple(dims.mul(d, r) for d, r in zip(x.shape, repeats)), x.dtype),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        return inputs[0].repeat(attrs["repeats"])


@register
class RepeatInterleave(_Move):
    """Every element repeated `repeats` times in a row along an axis."""

    name = "repeat_interleave"
    operands = operands("x")
    attrs = (Attr("repeats", "int"), Attr("axis", "int"))

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x, repeats = present(types), attrs["repeats"]
        axis = check_axis(attrs["axis"], x.rank)
        if repeats < 0:
            raise IRError(f"repeats {repeats} is negative")
        return (TensorType((*x.shape[:axis], dims.mul(x.shape[axis], repeats), *x.shape[axis + 1 :]), x.dtype),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        return inputs[0].repeat_interleave(attrs["repeats"], attrs["axis"])


_PAD_MODES = ("constant", "reflect", "replicate", "circular")


@register
class Pad(_Move):
    """x with low[i] elements before and high[i] after along each axis i: `value`, or elements of x mirrored without
    the edge (reflect), repeated from the edge (replicate), or taken from the other end (circular)."""

    name = "pad"
    operands = operands("x")
    attrs = (
        Attr("low", "dim[]"), Attr("high", "dim[]"), Attr("mode", "str", "constant"), Attr("value", "float", 0.0),
    )

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x, low, high = present(types), attrs["low"], attrs["high"]
        mode = one_of(attrs["mode"], _PAD_MODES, "mode")
        if len(low) != x.rank or len(high) != x.rank:
            raise IRError(f"{len(low)} low and {len(high)} high sizes for rank {x.rank}")
        require_sizes(low, "low")
        require_sizes(high, "high")
        for d, a, b in zip(x.shape, low, high):
            limit = {"constant": None, "replicate": None, "reflect": dims.add(d, -1), "circular": d}[mode]
            if limit is not None and (a, b) != (0, 0) and (exceeds(a, limit) or exceeds(b, limit)):
                raise IRError(f"{mode} padding ({a}, {b}) is too much for a size of {d}")
        shape = tuple(dims.add(d, dims.add(a, b)) for d, a, b in zip(x.shape, low, high))
        return (TensorType(shape, x.dtype),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        (x,) = inputs
        low, high = attrs["low"], attrs["high"]
        if attrs["mode"] == "constant":
            out = x.new_full([d + a + b for d, a, b in zip(x.shape, low, high)], attrs["value"])
            out[tuple(slice(a, a + d) for d, a in zip(x.shape, low))] = x
            return out
        for axis, (a, b) in enumerate(zip(low, high)):
            if a or b:
                at = torch.arange(-a, x.shape[axis] + b)
                x = x.index_select(axis, padded_index(at, x.shape[axis], attrs["mode"]))
        return x


def padded_index(at: Any, size: int, mode: str) -> Any:
    """Indices (any integers) folded into [0, size) as a padding mode does."""
    if mode == "replicate":
        return at.clamp(0, size - 1)
    if mode == "circular":
        return at % size
    mirrored = at.abs()
    return (size - 1) - ((size - 1) - mirrored).abs()


@register
class Diagonal(_Move):
    """The diagonal of two axes, as a new last axis; `offset` counts columns to the right."""

    name = "diagonal"
    operands = operands("x")
    attrs = (Attr("offset", "int", 0), Attr("axis1", "int", 0), Attr("axis2", "int", 1))

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x, offset = present(types), attrs["offset"]
        a, b = check_axes((attrs["axis1"], attrs["axis2"]), x.rank)
        rows, columns = dims.add(x.shape[a], min(offset, 0)), dims.add(x.shape[b], -max(offset, 0))
        length = dims.minimum(rows, columns)
        if isinstance(length, int) or offset:
            length = dims.maximum(length, 0)
        return (TensorType((*(d for i, d in enumerate(x.shape) if i not in (a, b)), length), x.dtype),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        return inputs[0].diagonal(attrs["offset"], attrs["axis1"], attrs["axis2"])


@register
class DiagEmbed(_Move):
    """The last axis of x [.., D] on a diagonal of two new axes of size D + |offset| at axis1, axis2 of the result."""

    name = "diag_embed"
    operands = operands("x")
    attrs = (Attr("offset", "int", 0), Attr("axis1", "int"), Attr("axis2", "int"))

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = present(types)
        if not x.rank:
            raise IRError("a scalar has no last axis")
        axes = check_axes((attrs["axis1"], attrs["axis2"]), x.rank + 1)
        size = dims.add(x.shape[-1], abs(attrs["offset"]))
        rest = iter(x.shape[:-1])
        return (TensorType(tuple(size if i in axes else next(rest) for i in range(x.rank + 1)), x.dtype),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.diag_embed(inputs[0], attrs["offset"], attrs["axis1"], attrs["axis2"])


_WINDOW = (
    Attr("kernel", "int[]"), Attr("dilation", "int[]", (1, 1)), Attr("padding", "int[]", (0, 0)),
    Attr("stride", "int[]", (1, 1)),
)


def _window_counts(size: Sequence[Dim], attrs: Mapping[str, Any]) -> tuple[Dim, Dim]:
    """How many windows fit along height and width."""
    for name in ("kernel", "dilation", "padding", "stride"):
        if len(attrs[name]) != 2 or any(v < (0 if name == "padding" else 1) for v in attrs[name]):
            raise IRError(f"{name} {list(attrs[name])} must be two {'' if name == 'padding' else 'positive '}sizes")
    counts: list[Dim] = []
    for d, k, dilation, p, s in zip(size, *(attrs[n] for n in ("kernel", "dilation", "padding", "stride"))):
        room = dims.add(d, 2 * p - dilation * (k - 1) - 1)
        if isinstance(room, int) and room < 0:
            raise IRError(f"a kernel of {k} does not fit a size of {d}")
        counts.append(dims.add(dims.floordiv(room, s), 1))
    return counts[0], counts[1]


@register
class Im2col(_Move):
    """x[N, C, H, W] -> [N, C*kh*kw, L]: every window of the (zero-padded) image as a column."""

    name = "im2col"
    operands = operands("x")
    attrs = _WINDOW

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = present(types)
        require_rank(x, (4,))
        require_dtype(x, FLOATS | BOOL | COMPLEX)
        rows, columns = _window_counts(x.shape[2:], attrs)
        kernel = attrs["kernel"]
        height = dims.mul(x.shape[1], kernel[0] * kernel[1])
        return (TensorType((x.shape[0], height, dims.mul(rows, columns)), x.dtype),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.nn.functional.unfold(
            inputs[0], attrs["kernel"], attrs["dilation"], attrs["padding"], attrs["stride"]
        )


@register
class Col2im(Op):
    """x[N, C*kh*kw, L] -> [N, C, *output]: columns put back into windows of an image; what overlaps is added."""

    name = "col2im"
    operands = operands("x")
    attrs = (Attr("output", "dim[]"), *_WINDOW)

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x, output, kernel = present(types), attrs["output"], attrs["kernel"]
        require_rank(x, (3,))
        require_dtype(x, FLOATS)
        if len(output) != 2:
            raise IRError(f"output {shape_text(output)} must be a height and a width")
        rows, columns = _window_counts(output, attrs)
        require_equal(x.shape[2], dims.mul(rows, columns), "columns and windows of the output")
        if never_equal(dims.mod(x.shape[1], kernel[0] * kernel[1]), 0):
            raise IRError(f"{kernel[0]}*{kernel[1]} does not divide {x.shape[1]}")
        return (TensorType((x.shape[0], dims.floordiv(x.shape[1], kernel[0] * kernel[1]), *output), x.dtype),)

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        return Cost(present(types).numel, total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.nn.functional.fold(
            inputs[0], attrs["output"], attrs["kernel"], attrs["dilation"], attrs["padding"], attrs["stride"]
        )
