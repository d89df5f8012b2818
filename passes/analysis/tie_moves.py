"""Ties of element-wise operators, and of those that move, reduce, look up or make elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.graph import Node, Value
from mcomp.passes.analysis.ties import Kept, Ties, axis_rule, freeze_ops


@axis_rule("elementwise", "dropout", "bernoulli", "contiguous")
def _elementwise(node: Node, ties: Ties) -> None:
    ties.stretch(node)
    if node.op.name == "add" and sum(v is not None and v.weight is None for v in node.operands) == 2:
        ties.sums += [(node.result, axis) for axis in range(node.result.tensor.rank)]


def _axes_but(ties: Ties, x: Value, result: Value, but: Sequence[int], reason: str) -> None:
    """Axes of two values of one rank are the same; some are frozen in both."""
    for axis in range(x.tensor.rank):
        if axis in but:
            ties.freeze(x, axis, reason)
            ties.freeze(result, axis, reason)
        else:
            ties.same(x, axis, result, axis)


@axis_rule("view_as_real")
def _view_as_real(node: Node, ties: Ties) -> None:
    for axis in range(node.operand(0).tensor.rank):
        ties.same(node.operand(0), axis, node.result, axis)
    ties.freeze(node.result, node.result.tensor.rank - 1, "it holds real and imaginary parts")


@axis_rule("view_as_complex")
def _view_as_complex(node: Node, ties: Ties) -> None:
    for axis in range(node.result.tensor.rank):
        ties.same(node.operand(0), axis, node.result, axis)
    ties.freeze(node.operand(0), node.result.tensor.rank, "it holds real and imaginary parts")


# views


def _shape_attr(node: Node, kept: Kept) -> dict[str, Any]:
    return {"shape": tuple(kept.size(node.result, axis) for axis in range(node.result.tensor.rank))}


@axis_rule("reshape", attrs=_shape_attr)
def _reshape(node: Node, ties: Ties) -> None:
    x, result = node.operand(0), node.result
    for left, right in _pieces(x, result):
        if len(left) == len(right) == 1:
            ties.same(x, left[0], result, right[0])
        elif len(left) == 1:
            ties.regroup([(result, i) for i in right], (x, left[0]), "reshape splits it within its elements")
        elif len(right) == 1:
            ties.regroup([(x, i) for i in left], (result, right[0]), "reshape joins it with others")
        else:
            for value, axes in ((x, left), (result, right)):
                for axis in axes:
                    ties.freeze(value, axis, "reshape divides it in another way")


def _pieces(x: Value, result: Value) -> list[tuple[list[int], list[int]]]:
    """Axes of both shapes, those of size 1 left out, in pieces of equal size, as small as sizes tell."""
    left = [i for i, d in enumerate(x.tensor.shape) if d != 1]
    right = [i for i, d in enumerate(result.tensor.shape) if d != 1]
    sizes = {_product(x, left[:n]): n for n in range(len(left), -1, -1)}
    pieces, start = [], (0, 0)
    for n in range(1, len(right) + 1):
        at = sizes.get(_product(result, right[:n]))
        if n == len(right):
            at = len(left)
        if at is not None and at > start[0]:
            pieces.append((left[start[0] : at], right[start[1] : n]))
            start = (at, n)
    return pieces


def _product(value: Value, axes: Sequence[int]) -> Dim:
    return dims.product([value.tensor.shape[i] for i in axes])


@axis_rule("permute")
def _permute(node: Node, ties: Ties) -> None:
    for i, axis in enumerate(node.attrs["order"]):
        ties.same(node.operand(0), axis, node.result, i)


@axis_rule("expand", attrs=_shape_attr)
def _expand(node: Node, ties: Ties) -> None:
    ties.stretch(node)


@axis_rule("squeeze")
def _squeeze(node: Node, ties: Ties) -> None:
    x = node.operand(0)
    rest = [i for i in range(x.tensor.rank) if i not in node.attrs["axes"]]
    for i, axis in enumerate(rest):
        ties.same(x, axis, node.result, i)


@axis_rule("unsqueeze")
def _unsqueeze(node: Node, ties: Ties) -> None:
    rest = [i for i in range(node.result.tensor.rank) if i not in node.attrs["axes"]]
    for axis, i in enumerate(rest):
        ties.same(node.operand(0), axis, node.result, i)


def _slice_attrs(node: Node, kept: Kept) -> dict[str, Any]:
    x, axis, start, stop = node.operand(0), node.attrs["axis"], node.attrs["start"], node.attrs["stop"]
    if kept.size(x, axis) == x.tensor.shape[axis]:
        return {}
    return {"start": kept.below(x, axis, start), "stop": kept.below(x, axis, stop)}


@axis_rule("slice", attrs=_slice_attrs)
def _slice(node: Node, ties: Ties) -> None:
    x, result, axis = node.operand(0), node.result, node.attrs["axis"]
    start, stop, step = node.attrs["start"], node.attrs["stop"], node.attrs["step"]
    for i in range(x.tensor.rank):
        if i != axis:
            ties.same(x, i, result, i)
    units = ties.units(x, axis)
    if units is None or not isinstance(start, int) or not isinstance(stop, int) or step != 1:
        reason = "a slice takes every other element" if step != 1 else "a slice of varying size takes from it"
        ties.freeze(x, axis, reason)
        ties.freeze(result, axis, reason)
        return
    ties.link(units[start:stop], ties.units(result, axis))


@axis_rule("select")
def _select(node: Node, ties: Ties) -> None:
    x, axis = node.operand(0), node.attrs["axis"]
    ties.freeze(x, axis, "an element is selected by its place")
    for i in range(node.result.tensor.rank):
        ties.same(x, i + (i >= axis), node.result, i)


@axis_rule("unfold")
def _unfold(node: Node, ties: Ties) -> None:
    x, result, axis = node.operand(0), node.result, node.attrs["axis"]
    _axes_but(ties, x, result, (axis,), "windows slide over it")
    ties.freeze(result, result.tensor.rank - 1, "windows slide over it")


# moves


@axis_rule("cat")
def _cat(node: Node, ties: Ties) -> None:
    result, axis = node.result, node.attrs["axis"]
    given = [v for v in node.operands if v is not None]
    units = ties.units(result, axis)
    start = 0
    for value in given:
        for i in range(value.tensor.rank):
            if i != axis:
                ties.same(value, i, result, i)
        own = ties.units(value, axis)
        if units is None:
            ties.freeze(value, axis, "it is joined to an axis of varying size")
        elif own is not None:
            ties.link(own, units[start : start + len(own)])
            start += len(own)


def _split_attrs(node: Node, kept: Kept) -> dict[str, Any]:
    return {"sizes": tuple(kept.size(v, node.attrs["axis"]) for v in node.results)}


@axis_rule("split", attrs=_split_attrs)
def _split(node: Node, ties: Ties) -> None:
    x, axis, start = node.operand(0), node.attrs["axis"], 0
    units = ties.units(x, axis)
    for value in node.results:
        for i in range(x.tensor.rank):
            if i != axis:
                ties.same(x, i, value, i)
        own = ties.units(value, axis)
        if units is None or own is None:
            ties.freeze(x, axis, "its pieces vary in size")
            ties.freeze(value, axis, "its pieces vary in size")
            continue
        ties.link(own, units[start : start + len(own)])
        start += len(own)


def _pad_attrs(node: Node, kept: Kept) -> dict[str, Any]:
    low, high = list(node.attrs["low"]), list(node.attrs["high"])
    for axis, size in enumerate(node.operand(0).tensor.shape):
        if not isinstance(size, int) or kept.size(node.result, axis) == node.result.tensor.shape[axis]:
            continue
        left = kept.below(node.result, axis, low[axis])
        inner = kept.below(node.result, axis, low[axis] + size) - left
        low[axis], high[axis] = left, dims.add(kept.size(node.result, axis), -left - inner)
    return {"low": tuple(low), "high": tuple(high)}


@axis_rule("pad", attrs=_pad_attrs)
def _pad(node: Node, ties: Ties) -> None:
    x, result, low, high = node.operand(0), node.result, node.attrs["low"], node.attrs["high"]
    for axis, size in enumerate(x.tensor.shape):
        if (low[axis], high[axis]) == (0, 0):
            ties.same(x, axis, result, axis)
            continue
        outer = ties.units(result, axis)
        if outer is None or not isinstance(size, int) or node.attrs["mode"] != "constant":
            ties.freeze(x, axis, "padding takes from its ends")
            ties.freeze(result, axis, "padding takes from its ends")
        else:
            ties.link(ties.units(x, axis), outer[low[axis] : low[axis] + size])


@axis_rule("flip")
def _flip(node: Node, ties: Ties) -> None:
    x = node.operand(0)
    for axis in range(x.tensor.rank):
        units, other = ties.units(x, axis), ties.units(node.result, axis)
        ties.link(units, other[::-1] if other is not None and axis in node.attrs["axes"] else other)


@axis_rule("roll")
def _roll(node: Node, ties: Ties) -> None:
    _axes_but(ties, node.operand(0), node.result, node.attrs["axes"], "its elements are moved by a number of places")


@axis_rule("repeat")
def _repeat(node: Node, ties: Ties) -> None:
    x = node.operand(0)
    for axis in range(x.tensor.rank):
        units, more = ties.units(x, axis), ties.units(node.result, axis)
        if units is not None and more is not None and len(units):
            ties.link(more.reshape(-1, len(units)), units[None, :])
        else:
            ties.freeze(x, axis, "it is repeated a varying number of times")
            ties.freeze(node.result, axis, "it is repeated a varying number of times")


@axis_rule("repeat_interleave")
def _repeat_interleave(node: Node, ties: Ties) -> None:
    x = node.operand(0)
    for axis in range(x.tensor.rank):
        units, more = ties.units(x, axis), ties.units(node.result, axis)
        if axis != node.attrs["axis"]:
            ties.same(x, axis, node.result, axis)
        elif units is not None and more is not None:
            ties.link(more.reshape(len(units), -1), units[:, None])


@axis_rule("tril", "triu")
def _triangle(node: Node, ties: Ties) -> None:
    rank = node.result.tensor.rank
    _axes_but(ties, node.operand(0), node.result, (rank - 2, rank - 1), "its elements are told by their place")


# reductions


@axis_rule("sum", "mean", "amax", "amin", "prod", "all", "any", "logsumexp", "var", "std", "norm", "argmax", "argmin",
           "max_with_index", "min_with_index", "median_with_index")
def _reduce(node: Node, ties: Ties) -> None:
    x = node.operand(0)
    axes = node.attrs["axes"] if "axes" in node.attrs else node.attrs["axis"]
    reduced = tuple(range(x.tensor.rank)) if axes is None else (axes,) if isinstance(axes, int) else tuple(axes)
    for axis in reduced:
        ties.freeze(x, axis, f"{node.op.name} is taken over it")
    rest = [i for i in range(x.tensor.rank) if i not in reduced]
    for value in node.results:
        for i, axis in enumerate(rest):
            ties.same(x, axis, value, axis if node.attrs["keepdim"] else i)


@axis_rule("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin", "sort", "topk", "fft", "rfft", "irfft")
def _along(node: Node, ties: Ties) -> None:
    axes = node.attrs["axes"] if "axes" in node.attrs else (node.attrs["axis"],)
    for value in node.results:
        _axes_but(ties, node.operand(0), value, axes, f"{node.op.name} goes along it")


# indices


@axis_rule("embedding")
def _embedding(node: Node, ties: Ties) -> None:
    weight, indices, result = node.operand(0), node.operand(1), node.result
    ties.freeze(weight, 0, "rows are looked up by data")
    ties.same(weight, 1, result, result.tensor.rank - 1)
    for axis in range(indices.tensor.rank):
        ties.same(indices, axis, result, axis)


@axis_rule("take")
def _take(node: Node, ties: Ties) -> None:
    x, axis = node.operand(0), node.attrs["axis"]
    _axes_but(ties, x, node.result, (axis,), "elements are taken by data")
    ties.freeze(node.operand(1), 0, "elements are taken by data")


@axis_rule("gather")
def _gather(node: Node, ties: Ties) -> None:
    x, indices = node.operand(0), node.operand(1)
    ties.stretch(node, [indices])
    for axis, (size, count) in enumerate(zip(x.tensor.shape, indices.tensor.shape)):
        if axis != node.attrs["axis"] and size == count:
            ties.same(x, axis, node.result, axis)
        else:
            ties.freeze(x, axis, "elements are gathered by data")
            ties.freeze(node.result, axis, "elements are gathered by data")


@axis_rule("index")
def _index(node: Node, ties: Ties) -> None:
    x, axes, result = node.operand(0), node.attrs["axes"], node.result
    rank = max((v.tensor.rank for v in node.operands[1:] if v is not None), default=0)
    place = axes[0] if list(axes) == list(range(axes[0], axes[0] + len(axes))) else 0
    rest = [i for i in range(x.tensor.rank) if i not in axes]
    for axis in axes:
        ties.freeze(x, axis, "elements are indexed by data")
    for i, axis in enumerate(rest):
        ties.same(x, axis, result, i if i < place else i + rank)
    for value in node.operands[1:]:
        if value is not None:
            ties.freeze_value(value, "elements are indexed by data")
    for i in range(place, place + rank):
        ties.freeze(result, i, "elements are indexed by data")


@axis_rule("slice_scatter")
def _slice_scatter(node: Node, ties: Ties) -> None:
    x, source, axis = node.operand(0), node.operand(1), node.attrs["axis"]
    ties.freeze(source, axis, "it is written to a place")
    _axes_but(ties, x, node.result, (axis,), "a slice of it is written to")
    for i in range(x.tensor.rank):
        if i != axis:
            ties.same(source, i, x, i)


@axis_rule("select_scatter")
def _select_scatter(node: Node, ties: Ties) -> None:
    x, source, axis = node.operand(0), node.operand(1), node.attrs["axis"]
    _axes_but(ties, x, node.result, (axis,), "an element of it is written to")
    for i in range(source.tensor.rank):
        ties.same(source, i, x, i + (i >= axis))


# makers


@axis_rule("full", attrs=_shape_attr)
def _full(node: Node, ties: Ties) -> None:
    """All elements are the same: any may go."""


@axis_rule("const")
def _const(node: Node, ties: Ties) -> None:
    """Its elements are cut out of the store."""


@axis_rule("return")
def _return(node: Node, ties: Ties) -> None:
    ties.freeze_node(node, "the model returns it")


freeze_ops("its elements tell their place", "arange", "eye")
freeze_ops("another size draws other numbers", "rand", "randn", "randint", "multinomial")
freeze_ops("elements are written by data", "index_put", "scatter", "masked_scatter", "nonzero", "searchsorted")
freeze_ops("it lies along a diagonal", "diagonal", "diag_embed")
freeze_ops("a nested graph computes with it", "fused", "cond")
freeze_ops("its value decides what happens", "item", "assert_")

