"""Reading and writing elements at indices that are data. Index tensors are i64 or i32.

An index outside of its axis is an error when the graph runs. Operators count negative indices from the end only where
they say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcomp.errors import IRError
from mcomp.ir import dims, dtypes
from mcomp.ir.types import TensorType, Type
from mcomp.ops.base import Attr, Cost, Op, Tolerance, operands, register, total_bytes
from mcomp.ops.rules import (
    ALL,
    BOOL,
    INDICES,
    NUMBERS,
    Shape,
    Types,
    broadcast,
    broadcasts_to,
    check_axes,
    check_axis,
    exceeds,
    given,
    one_of,
    present,
    require_dtype,
    require_equal,
    require_min_rank,
    require_rank,
    require_same_dtype,
    require_same_shape,
    shape_text,
)
from mcomp.ops.view import slice_length


class _Read(Op):
    """Reads one element of the first operand per element of the result."""

    tolerance = Tolerance.EXACT

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        moved = total_bytes(results)
        return Cost(0, dims.add(moved, total_bytes(types[1:])), moved)


@register
class Embedding(_Read):
    """weight[V, D], indices[*S] -> [*S, D]: rows of a table."""

    name = "embedding"
    operands = operands("weight", "indices")

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        weight, indices = present(types), present(types, 1)
        require_rank(weight, (2,), "weight")
        require_dtype(indices, INDICES, "indices")
        return (TensorType((*indices.shape, weight.shape[1]), weight.dtype),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.nn.functional.embedding(inputs[1], inputs[0])


@register
class Gather(_Read):
    """The shape of `indices`; along `axis` the elements of x that they name. Other axes of `indices` are no longer
    than those of x."""

    name = "gather"
    operands = operands("x", "indices")
    attrs = (Attr("axis", "int"),)

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x, indices = present(types), present(types, 1)
        _check_along(x, indices, attrs["axis"])
        return (TensorType(indices.shape, x.dtype),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        return inputs[0].gather(attrs["axis"], inputs[1].long())


def _check_along(x: TensorType, indices: TensorType, axis: int) -> None:
    require_dtype(indices, INDICES, "indices")
    check_axis(axis, x.rank)
    require_rank(indices, (x.rank,), "indices")
    for i, (d, n) in enumerate(zip(x.shape, indices.shape)):
        if i != axis and exceeds(n, d):
            raise IRError(f"axis {i} of the indices {shape_text(indices.shape)} exceeds {shape_text(x.shape)}")


@register
class Take(_Read):
    """The elements of x at 1-D indices along an axis."""

    name = "take"
    operands = operands("x", "indices")
    attrs = (Attr("axis", "int"),)

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x, indices = present(types), present(types, 1)
        require_dtype(indices, INDICES, "indices")
        require_rank(indices, (1,), "indices")
        axis = check_axis(attrs["axis"], x.rank)
        return (TensorType((*x.shape[:axis], indices.shape[0], *x.shape[axis + 1 :]), x.dtype),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        return inputs[0].index_select(attrs["axis"], inputs[1])


def indexed_shape(x: Shape, axes: Sequence[int], at: Shape) -> Shape:
    """The shape of x indexed at `axes` by tensors that broadcast to `at`: in place of the axes where these are
    adjacent, else in front."""
    rest = [d for i, d in enumerate(x) if i not in axes]
    adjacent = list(axes) == list(range(axes[0], axes[0] + len(axes)))
    place = axes[0] if adjacent else 0
    return (*rest[:place], *at, *rest[place:])


def _check_index(x: TensorType, indices: Sequence[TensorType], axes: Sequence[int]) -> Shape:
    if not indices or len(indices) != len(axes):
        raise IRError(f"{len(indices)} index tensors for the axes {list(axes)}")
    check_axes(axes, x.rank)
    if list(axes) != sorted(axes):
        raise IRError(f"axes {list(axes)} must ascend")
    for t in indices:
        require_dtype(t, INDICES, "index")
    return indexed_shape(x.shape, axes, broadcast(*(t.shape for t in indices)))


def _subscript(axes: Sequence[int], indices: Sequence[Any]) -> list[Any]:
    """torch's list of index tensors, None where an axis is taken whole."""
    by_axis = dict(zip(axes, indices))
    return [by_axis[i].long() if i in by_axis else None for i in range(max(axes) + 1)]


@register
class Index(_Read):
    """x at index tensors that broadcast together, one for each of `axes`. Their shape stands in place of the axes where
    these are adjacent, else in front. Negative indices count from the end."""

    name = "index"
    operands = operands("x", "indices*")
    attrs = (Attr("axes", "int[]"),)

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = present(types)
        return (TensorType(_check_index(x, given(types, 1), attrs["axes"]), x.dtype),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.ops.aten.index.Tensor(inputs[0], _subscript(attrs["axes"], inputs[1:]))


class _Write(Op):
    """A copy of the first operand with some elements replaced."""

    tolerance = Tolerance.EXACT

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        return Cost(0, total_bytes(types), total_bytes(results))


@register
class IndexPut(_Write):
    """x with `values` (broadcast to the shape that `index` would give) written at index tensors; with `accumulate`
    added, also where indices repeat; otherwise repeated indices keep one of the values. Negative indices count from
    the end."""

    name = "index_put"
    operands = operands("x", "values", "indices*")
    attrs = (Attr("axes", "int[]"), Attr("accumulate", "bool", False))
    tolerance = Tolerance.ROUNDING

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x, values = present(types), present(types, 1)
        require_same_dtype(x, values)
        target = _check_index(x, given(types, 2), attrs["axes"])
        if not broadcasts_to(values.shape, target):
            raise IRError(f"values {shape_text(values.shape)} do not stretch to {shape_text(target)}")
        return (x.dense(),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.ops.aten.index_put(
            inputs[0], _subscript(attrs["axes"], inputs[2:]), inputs[1], attrs["accumulate"]
        )


_REDUCE = {"none": "", "add": "sum", "multiply": "prod", "amax": "amax", "amin": "amin", "mean": "mean"}


@register
class Scatter(_Write):
    """x with elements of src written along `axis` where `indices` say: src has at least the shape of `indices`, whose
    other axes are no longer than those of x. `reduce` combines them with what is there; without `include_self` the old
    elements of x that are written to do not count. With "none", repeated indices keep one of the values."""

    name = "scatter"
    operands = operands("x", "indices", "src")
    attrs = (Attr("axis", "int"), Attr("reduce", "str", "none"), Attr("include_self", "bool", True))
    tolerance = Tolerance.ROUNDING

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x, indices, src = present(types), present(types, 1), present(types, 2)
        reduce = one_of(attrs["reduce"], tuple(_REDUCE), "reduce")
        require_same_dtype(x, src)
        require_dtype(x, ALL if reduce == "none" else NUMBERS)
        _check_along(x, indices, attrs["axis"])
        require_rank(src, (x.rank,), "src")
        if any(exceeds(n, d) for n, d in zip(indices.shape, src.shape)):
            raise IRError(f"indices {shape_text(indices.shape)} exceed src {shape_text(src.shape)}")
        return (x.dense(),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        x, indices, src = inputs
        indices = indices.long()
        if attrs["reduce"] == "none":
            return x.scatter(attrs["axis"], indices, src)
        return x.scatter_reduce(
            attrs["axis"], indices, src, _REDUCE[attrs["reduce"]], include_self=attrs["include_self"]
        )


@register
class SliceScatter(_Write):
    """x with src written where `slice` with the same attributes reads."""

    name = "slice_scatter"
    operands = operands("x", "src")
    attrs = (Attr("axis", "int"), Attr("start", "dim", 0), Attr("stop", "dim"), Attr("step", "int", 1))

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x, src = present(types), present(types, 1)
        require_same_dtype(x, src)
        axis = check_axis(attrs["axis"], x.rank)
        length = slice_length(x.shape[axis], attrs["start"], attrs["stop"], attrs["step"])
        require_same_shape((*x.shape[:axis], length, *x.shape[axis + 1 :]), src.shape, "slice and src")
        return (x.dense(),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        x, src = inputs
        out = x.clone()
        out[(slice(None),) * attrs["axis"] + (slice(attrs["start"], attrs["stop"], attrs["step"]),)] = src
        return out


@register
class SelectScatter(_Write):
    """x with src written at one index of an axis."""

    name = "select_scatter"
    operands = operands("x", "src")
    attrs = (Attr("axis", "int"), Attr("index", "dim"))

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x, src = present(types), present(types, 1)
        require_same_dtype(x, src)
        axis, index = check_axis(attrs["axis"], x.rank), attrs["index"]
        if exceeds(0, index) or exceeds(dims.add(index, 1), x.shape[axis]):
            raise IRError(f"index {index} is outside of axis {axis} of {shape_text(x.shape)}")
        require_same_shape((*x.shape[:axis], *x.shape[axis + 1 :]), src.shape, "selected elements and src")
        return (x.dense(),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        x, src = inputs
        out = x.clone()
        out.select(attrs["axis"], attrs["index"]).copy_(src)
        return out


@register
class MaskedScatter(_Write):
    """x with the elements of src, in row-major order, written one after another where the mask (bool, broadcast to x)
    holds; src has at least as many elements as the mask has true ones."""

    name = "masked_scatter"
    operands = operands("x", "mask", "src")

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x, mask, src = present(types), present(types, 1), present(types, 2)
        require_dtype(mask, BOOL, "mask")
        require_same_dtype(x, src)
        if not broadcasts_to(mask.shape, x.shape):
            raise IRError(f"mask {shape_text(mask.shape)} does not stretch to {shape_text(x.shape)}")
        return (x.dense(),)

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        return inputs[0].contiguous().masked_scatter(inputs[1], inputs[2])


@register
class Nonzero(Op):
    """x[*S] -> i64[symbol, rank]: the indices of the elements that are not zero, in row-major order.

    `symbol` is declared by the graph and gets its value here: a node may go only when nothing uses the symbol.
    """

    name = "nonzero"
    operands = operands("x")
    attrs = (Attr("symbol", "str"),)
    tolerance = Tolerance.EXACT

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = present(types)
        require_dtype(x, ALL)
        return (TensorType((dims.sym(attrs["symbol"]), x.rank), dtypes.i64),)

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        return Cost(present(types).numel, total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        return inputs[0].nonzero()


class _Triangle(Op):
    """x[.., R, C] with zeros on one side of a diagonal."""

    operands = operands("x")
    attrs = (Attr("diagonal", "int", 0),)
    tolerance = Tolerance.EXACT

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        x = present(types)
        require_dtype(x, ALL)
        require_min_rank(x, 2)
        return (x.dense(),)

    def cost(self, types: Sequence[TensorType | None], results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        return Cost(0, total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return getattr(torch, self.name)(inputs[0], attrs["diagonal"])


@register
class Tril(_Triangle):
    """x with zeros above a diagonal (0: the main one, positive: to its right)."""

    name = "tril"


@register
class Triu(_Triangle):
    """x with zeros below a diagonal (0: the main one, positive: to its right)."""

    name = "triu"


@register
class Searchsorted(Op):
    """Where x would be inserted into ascending `sorted` [K], or [*B, K] for x [*B, N]: i64 in the shape of x, in front
    of equal elements, or after them with `right`."""

    name = "searchsorted"
    operands = operands("sorted", "x")
    attrs = (Attr("right", "bool", False),)
    tolerance = Tolerance.EXACT

    def infer(self, types: Sequence[TensorType | None], attrs: Mapping[str, Any]) -> tuple[Type, ...]:
        table, x = present(types), present(types, 1)
        require_same_dtype(table, x)
        require_dtype(x, NUMBERS)
        require_min_rank(table, 1, "sorted")
        if table.rank > 1:
            require_rank(x, (table.rank,), "x")
            for a, b in zip(table.shape[:-1], x.shape[:-1]):
                require_equal(a, b, "leading axes of sorted and x")
        return (TensorType(x.shape, dtypes.i64),)

    def cost(self, types: Types, results: Sequence[TensorType], attrs: Mapping[str, Any]) -> Cost:
        steps = search_steps(present(types).shape[-1])
        return Cost(dims.mul(present(types, 1).numel, steps), total_bytes(types), total_bytes(results))

    def reference(self, inputs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
        import torch

        return torch.searchsorted(inputs[0].contiguous(), inputs[1].contiguous(), right=attrs["right"])


def search_steps(size: dims.Dim) -> int:
    """Comparisons of a binary search; 10 where the size is not known."""
    return size.bit_length() if isinstance(size, int) else 10
