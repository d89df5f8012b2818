"""Ties of products, attention, normalization, pooling and quantization."""

from __future__ import annotations

import math
from typing import Any

from mcomp.ir.graph import Node, Value
from mcomp.ops.quant import encoding_of
from mcomp.passes.analysis.ties import Kept, Ties, axis_rule, freeze_ops

POSITIONS = "its elements are places that windows slide over"


def _leading(node: Node, ties: Ties, value: Value, count: int, target: Value, trailing: int) -> None:
    """Tie the first `count` axes of an operand to those of a result that has `trailing` more, aligned at their end."""
    skip = target.tensor.rank - trailing - count
    for axis in range(count):
        ties.same(value, axis, target, axis + skip)


@axis_rule("linear")
def _linear(node: Node, ties: Ties) -> None:
    x, weight, bias, result = node.operand(0), node.operand(1), node.maybe(2), node.result
    _leading(node, ties, x, x.tensor.rank - 1, result, 1)
    ties.same(x, x.tensor.rank - 1, weight, 1)
    ties.contract(node, 0, x.tensor.rank - 1, 1, 1)
    ties.same(weight, 0, result, result.tensor.rank - 1)
    if bias is not None:
        ties.same(bias, 0, result, result.tensor.rank - 1)


@axis_rule("matmul")
def _matmul(node: Node, ties: Ties) -> None:
    a, b, result = node.operand(0), node.operand(1), node.result
    rank, rows, columns = result.tensor.rank, a.tensor.rank > 1, b.tensor.rank > 1
    inner = (a, a.tensor.rank - 1), (b, max(0, b.tensor.rank - 2))
    ties.same(*inner[0], *inner[1])
    ties.contract(node, 0, inner[0][1], 1, inner[1][1])
    trailing = int(rows) + int(columns)
    for value in (a, b):
        _leading(node, ties, value, max(0, value.tensor.rank - 2), result, trailing)
    if rows:
        ties.same(a, a.tensor.rank - 2, result, rank - trailing)
    if columns:
        ties.same(b, b.tensor.rank - 1, result, rank - 1)
    if a.weight is None and b.weight is None and rank >= 4:
        ties.heads.append((result, rank - 3))


@axis_rule("grouped_matmul")
def _grouped_matmul(node: Node, ties: Ties) -> None:
    x, weight, offsets, result = node.operand(0), node.operand(1), node.operand(2), node.result
    ties.freeze(x, 0, "rows are dealt out to matrices by data")
    ties.same(x, 0, result, 0)
    ties.same(x, 1, weight, 1)
    ties.contract(node, 0, 1, 1, 1)
    ties.same(weight, 2, result, 1)
    ties.freeze(weight, 0, "rows choose among its matrices by data")
    ties.same(weight, 0, offsets, 0)


@axis_rule("bilinear")
def _bilinear(node: Node, ties: Ties) -> None:
    result, weight, bias = node.result, node.operand(2), node.maybe(3)
    last = result.tensor.rank - 1
    for i in (0, 1):
        x = node.operand(i)
        _leading(node, ties, x, last, result, 1)
        ties.same(x, last, weight, 1 + i)
        ties.contract(node, i, last, 2, 1 + i)
    ties.same(weight, 0, result, last)
    if bias is not None:
        ties.same(bias, 0, result, last)


def whole_groups(channels: int, groups: int) -> bool:
    """Whether a grouped convolution of so many input channels loses whole groups, rather than the same channels of every
    group: whatever leaves more to choose from."""
    return groups > 1 and groups * groups >= channels


def _convolution(node: Node, ties: Ties, out_axis: int, in_axis: int) -> None:
    """conv has weight [O, C/g, *], conv_transpose [C, O/g, *]: the axis that spans all groups is 0 in both."""
    x, weight, bias, result, groups = (*map(node.operand, (0, 1)), node.maybe(2), node.result, node.attrs["groups"])
    ties.same(x, 0, result, 0)
    for value in (x, weight, result):
        for axis in range(2, value.tensor.rank):
            ties.freeze(value, axis, POSITIONS)
    if bias is not None:
        ties.same(bias, 0, result, 1)
    ins, outs = ties.units(x, 1), ties.units(result, 1)
    spanning, within = ties.units(weight, 0), ties.units(weight, 1)
    if ins is None or outs is None or spanning is None or within is None:
        ties.freeze_node(node, "its weight has a varying size")
        return
    ties.link(spanning, outs if out_axis == 0 else ins)
    if whole_groups(len(ins), groups):
        ties.link(ins.reshape(groups, -1), ins.reshape(groups, -1)[:, :1])
        ties.link(outs.reshape(groups, -1), ins.reshape(groups, -1)[:, :1])
        ties.freeze(weight, 1, "whole groups go")
        return
    local, across = (ins, outs) if in_axis == 1 else (outs, ins)
    ties.link(local.reshape(groups, -1), within[None, :])
    if groups > 1:
        ties.link(across.reshape(groups, -1), across.reshape(groups, -1)[:1])
    ties.contract(node, 0, 1, 1, in_axis)


def _fewer_groups(node: Node, kept: Kept) -> dict[str, Any]:
    x, groups = node.operand(0), node.attrs["groups"]
    size = x.tensor.shape[1]
    left = kept.size(x, 1)
    if isinstance(size, int) and isinstance(left, int) and whole_groups(size, groups):
        return {"groups": groups * left // size}
    return {}


@axis_rule("conv", attrs=_fewer_groups)
def _conv(node: Node, ties: Ties) -> None:
    _convolution(node, ties, 0, 1)


@axis_rule("conv_transpose", attrs=_fewer_groups)
def _conv_transpose(node: Node, ties: Ties) -> None:
    _convolution(node, ties, 1, 0)


def _same_scale(node: Node, kept: Kept) -> dict[str, Any]:
    query = node.operand(0)
    width = query.tensor.shape[-1]
    if node.attrs["scale"] is not None or kept.size(query, query.tensor.rank - 1) == width:
        return {}
    return {"scale": 1.0 / math.sqrt(width)} if isinstance(width, int) else {}


@axis_rule("attention", attrs=_same_scale)
def _attention(node: Node, ties: Ties) -> None:
    """Heads go with their keys and values; in groups, a head of keys goes with all that share it."""
    query, key, value, mask, result = (*map(node.operand, (0, 1, 2)), node.maybe(3), node.result)
    rank = result.tensor.rank
    ties.same(query, query.tensor.rank - 1, key, key.tensor.rank - 1)
    ties.contract(node, 0, query.tensor.rank - 1, 1, key.tensor.rank - 1)
    ties.same(value, value.tensor.rank - 1, result, rank - 1)
    ties.same(query, query.tensor.rank - 2, result, rank - 2)
    for keys in (key, value):
        ties.freeze(keys, keys.tensor.rank - 2, "attention weighs its elements against each other")
    shared = node.attrs["grouped"]
    _leading(node, ties, query, query.tensor.rank - 2, result, 2)
    for keys in (key, value):
        count = keys.tensor.rank - 2
        _leading(node, ties, keys, count - shared, result, 2 + shared)
        if shared:
            _share_heads(ties, query, keys)
    if rank >= 3:
        ties.heads.append((result, rank - 3))
    if mask is not None:
        skip = rank - mask.tensor.rank
        for axis in range(mask.tensor.rank - 1):
            ties.same(mask, axis, result, axis + skip)
        ties.freeze(mask, mask.tensor.rank - 1, "attention weighs its elements against each other")


def _share_heads(ties: Ties, query: Value, keys: Value) -> None:
    many, few = ties.units(query, query.tensor.rank - 3), ties.units(keys, keys.tensor.rank - 3)
    if many is None or few is None:
        ties.freeze(query, query.tensor.rank - 3, "its heads share keys, and their number varies")
        ties.freeze(keys, keys.tensor.rank - 3, "its heads are shared, and their number varies")
    elif len(few) > 1:
        ties.link(many.reshape(len(few), -1), few[:, None])
    else:
        ties.freeze(keys, keys.tensor.rank - 3, "all queries share its only head")


@axis_rule("rope")
def _rope(node: Node, ties: Ties) -> None:
    x, result = node.operand(0), node.result
    ties.stretch(node)
    ties.freeze(result, result.tensor.rank - 1, "rotary embedding turns pairs of its elements")
    ties.freeze(x, x.tensor.rank - 1, "rotary embedding turns pairs of its elements")


# norms


@axis_rule("layer_norm", "rms_norm")
def _trailing_norm(node: Node, ties: Ties) -> None:
    x, count = node.operand(0), node.attrs["axes_count"]
    for axis in range(x.tensor.rank):
        ties.same(x, axis, node.result, axis)
    for i in range(count):
        axis = x.tensor.rank - count + i
        for parameter in (node.maybe(1), node.maybe(2)):
            if parameter is not None:
                ties.same(parameter, i, x, axis)
        ties.change(x, axis, f"{node.op.name} takes its statistics over it")


def _fewer_norm_groups(node: Node, kept: Kept) -> dict[str, Any]:
    x, groups = node.operand(0), node.attrs["groups"]
    size, left = x.tensor.shape[1], kept.size(x, 1)
    if groups == 1 or not isinstance(size, int) or not isinstance(left, int):
        return {}
    return {"groups": groups * left // size}


@axis_rule("group_norm", attrs=_fewer_norm_groups)
def _group_norm(node: Node, ties: Ties) -> None:
    """Whole groups go; a single one, taken over all channels, loses channels, and so changes."""
    x, groups = node.operand(0), node.attrs["groups"]
    for axis in range(x.tensor.rank):
        ties.same(x, axis, node.result, axis)
        if axis >= 2:
            ties.freeze(x, axis, "group_norm takes its statistics over it")
    for parameter in (node.maybe(1), node.maybe(2)):
        if parameter is not None:
            ties.same(parameter, 0, x, 1)
    units = ties.units(x, 1)
    if units is None:
        return
    if groups == 1:
        ties.change(x, 1, "group_norm takes its statistics over it")
    else:
        ties.link(units.reshape(groups, -1), units.reshape(groups, -1)[:, :1])


@axis_rule("batch_norm")
def _batch_norm(node: Node, ties: Ties) -> None:
    x = node.operand(0)
    for axis in range(x.tensor.rank):
        ties.same(x, axis, node.result, axis)
    for parameter in node.operands[1:]:
        if parameter is not None:
            ties.same(parameter, 0, x, 1)


@axis_rule("softmax", "log_softmax")
def _softmax(node: Node, ties: Ties) -> None:
    ties.stretch(node)
    if node.result.tensor.rank:
        ties.freeze(node.result, node.attrs["axis"], "softmax weighs its elements against each other")


# channels of images


@axis_rule(
    "max_pool", "avg_pool", "max_pool_with_index", "adaptive_avg_pool", "adaptive_max_pool", "resize",
)
def _pool(node: Node, ties: Ties) -> None:
    x = node.operand(0)
    for value in node.results:
        ties.same(x, 0, value, 0)
        ties.same(x, 1, value, 1)
    for value in (x, *node.results):
        for axis in range(2, value.tensor.rank):
            ties.freeze(value, axis, POSITIONS)


@axis_rule("grid_sample")
def _grid_sample(node: Node, ties: Ties) -> None:
    x, grid, result = node.operand(0), node.operand(1), node.result
    ties.same(x, 0, result, 0)
    ties.same(x, 1, result, 1)
    ties.same(grid, 0, result, 0)
    for value, first in ((x, 2), (grid, 1), (result, 2)):
        for axis in range(first, value.tensor.rank):
            ties.freeze(value, axis, POSITIONS)


@axis_rule("prelu")
def _prelu(node: Node, ties: Ties) -> None:
    x, weight = node.operand(0), node.operand(1)
    ties.stretch(node, [x])
    if weight.tensor.shape[0] != 1:
        ties.same(weight, 0, x, 1)


@axis_rule("im2col")
def _im2col(node: Node, ties: Ties) -> None:
    x, result = node.operand(0), node.result
    ties.same(x, 0, result, 0)
    for axis in (2, 3):
        ties.freeze(x, axis, POSITIONS)
    ties.freeze(result, 2, POSITIONS)
    _channels_of_columns(ties, x, result)


@axis_rule("col2im")
def _col2im(node: Node, ties: Ties) -> None:
    x, result = node.operand(0), node.result
    ties.same(x, 0, result, 0)
    ties.freeze(x, 2, POSITIONS)
    for axis in (2, 3):
        ties.freeze(result, axis, POSITIONS)
    _channels_of_columns(ties, result, x)


def _channels_of_columns(ties: Ties, image: Value, columns: Value) -> None:
    channels, rows = ties.units(image, 1), ties.units(columns, 1)
    if channels is None or rows is None:
        ties.freeze(image, 1, "its columns vary")
        ties.freeze(columns, 1, "its channels vary")
        return
    ties.link(rows.reshape(len(channels), -1), channels[:, None])


# encodings


@axis_rule("quantize")
def _quantize(node: Node, ties: Ties) -> None:
    ties.stretch(node)
    x = node.operand(0)
    if node.attrs["scale"] is None:
        own = encoding_of(node.attrs, x.tensor.rank).axis
        for axis in range(x.tensor.rank):
            if axis not in own:
                ties.change(x, axis, "its scales are taken over it")


@axis_rule("decode")
def _decode(node: Node, ties: Ties) -> None:
    ties.stretch(node)


freeze_ops("the hidden state runs through time", "lstm", "gru", "rnn")
