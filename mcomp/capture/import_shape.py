"""Importers of operators that move elements: views, joins, splits, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import fx

from mcomp.capture.importing import Call, Decline, axes_of, axis_of, imports
from mcomp.capture.scalars import clamp_index, from_end
from mcomp.capture.symbols import Unsupported
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.graph import Value


@imports("aten.view.default", "aten._unsafe_view.default", "aten.reshape.default", "aten.flatten.using_ints",
         "aten.unflatten.int", "aten.view_copy.default", "aten._reshape_copy.default", "aten.view_as.default",
         "aten.reshape_as.default", "aten.ravel.default", "prims.view_of.default", "aten._reshape_alias.default")
def view(call: Call) -> Value:
    source = call["a"] if call.name.startswith("prims") else call["self"]
    return call.reshape(source, call.result.shape)


@imports("aten.view.dtype")
def view_dtype(call: Call) -> Value:
    value = call.value("self")
    if value.tensor.dtype != call.result.dtype:
        raise Decline("it reads the bits of one element type as another")
    return value


@imports("aten.permute.default", "aten.permute_copy.default")
def permute(call: Call) -> Value:
    value = call.value("self")
    return call.permute(value, [axis_of(axis, value.tensor.rank) for axis in call["dims"]])


@imports("aten.transpose.int", "aten.transpose_copy.int", "aten.swapaxes.default", "aten.swapdims.default")
def transpose(call: Call) -> Value:
    value = call.value("self")
    keys = ("dim0", "dim1") if "dim0" in call.arguments else ("axis0", "axis1")
    return swapped(call, value, call[keys[0]], call[keys[1]])


def swapped(call: Call, value: Value, first: int, second: int) -> Value:
    """The value with two axes exchanged."""
    rank = value.tensor.rank
    order = list(range(rank))
    a, b = axis_of(first, rank), axis_of(second, rank)
    if rank:
        order[a], order[b] = order[b], order[a]
    return call.permute(value, order)


@imports("aten.t.default", "aten.t_copy.default", "aten.numpy_T.default", "aten.mT.default")
def t(call: Call) -> Value:
    value = call.value("self")
    return value if value.tensor.rank < 2 else swapped(call, value, -2, -1)


@imports("aten.movedim.intlist")
def movedim(call: Call) -> Value:
    value = call.value("self")
    rank = value.tensor.rank
    places = {axis_of(d, rank): axis_of(s, rank) for s, d in zip(call["source"], call["destination"], strict=True)}
    rest = iter(axis for axis in range(rank) if axis not in places.values())
    return call.permute(value, [places[i] if i in places else next(rest) for i in range(rank)])


@imports("aten.expand.default", "aten.expand_copy.default", "aten.expand_as.default", "aten.broadcast_to.default")
def expand(call: Call) -> Value:
    return call.expand(call.value("self"), call.result.shape)


@imports("aten.broadcast_tensors.default")
def broadcast_tensors(call: Call) -> list[Value]:
    shape = call.result.shape
    return [call.expand(value, shape) for value in call["tensors"]]


@imports("aten.unsqueeze.default", "aten.unsqueeze_copy.default")
def unsqueeze(call: Call) -> Value:
    value = call.value("self")
    return call.unsqueeze(value, [call["dim"] % (value.tensor.rank + 1)])


@imports("aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims", "aten.squeeze_copy.dims")
def squeeze(call: Call) -> Value:
    value = call.value("self")
    rank = value.tensor.rank
    asked = axes_of(call.get("dim"), rank) if call.get("dim") != [] else ()
    return call.squeeze(value, [axis for axis in asked if value.tensor.shape[axis] == 1])


@imports("aten.slice.Tensor", "aten.slice_copy.Tensor")
def slice_(call: Call) -> Value:
    value = call.value("self")
    return sliced(call, value, axis_of(call["dim"], value.tensor.rank), call["start"], call["end"], call["step"])


def sliced(call: Call, value: Value, axis: int, start: Any, stop: Any, step: int) -> Value:
    """A Python slice of one axis; itself when it is everything."""
    size = value.tensor.shape[axis]
    first, last = bounds(start, stop, size)
    if first == 0 and last == size and step == 1:
        return value
    return call.emit("slice", [value], axis=axis, start=first, stop=last, step=step)


ENDLESS = 2**31 - 1


def bounds(start: Any, stop: Any, size: Dim) -> tuple[Dim, Dim]:
    """A slice's bounds, 0 <= start <= stop <= size. Raises Decline for bounds known only from values."""
    if isinstance(start, Value) or isinstance(stop, Value):
        raise Decline("its bounds are computed at run time")
    first = clamp_index(0 if start is None else start, size)
    last = size if stop is None or (isinstance(stop, int) and stop >= ENDLESS) else clamp_index(stop, size)
    return first, dims.maximum(first, last)


@imports("aten.narrow.default")
def narrow(call: Call) -> Value:
    value, start = call.value("self"), call["start"]
    if isinstance(start, Value):
        raise Decline("its start is computed at run time")
    axis = axis_of(call["dim"], value.tensor.rank)
    return sliced(call, value, axis, start, dims.add(clamp_index(start, value.tensor.shape[axis]), call["length"]), 1)


@imports("aten.select.int", "aten.select_copy.int")
def select(call: Call) -> Value:
    value, index = call.value("self"), call["index"]
    axis = axis_of(call["dim"], value.tensor.rank)
    return selected(call, value, axis, index)


def selected(call: Call, value: Value, axis: int, index: Dim) -> Value:
    """One position of an axis, which goes."""
    return call.emit("select", [value], axis=axis, index=from_end(index, value.tensor.shape[axis]))


@imports("aten.cat.default", "aten.concat.default", "aten.concatenate.default")
def cat(call: Call) -> Value:
    dtype = call.result.dtype
    tensors = [call.cast(value, dtype) for value in call["tensors"] if value.tensor.shape != (0,)]
    if not tensors:
        return call.cast(call["tensors"][0], dtype)
    axis = axis_of(call["dim"], tensors[0].tensor.rank)
    return tensors[0] if len(tensors) == 1 else call.emit("cat", tensors, axis=axis)


@imports("aten.stack.default")
def stack(call: Call) -> Value:
    dtype, rank = call.result.dtype, call.result.rank
    axis = call["dim"] % rank
    rows = [call.unsqueeze(call.cast(value, dtype), [axis]) for value in call["tensors"]]
    return rows[0] if len(rows) == 1 else call.emit("cat", rows, axis=axis)


@imports("aten.split.Tensor", "aten.split_with_sizes.default", "aten.split.sizes", "aten.chunk.default",
         "aten.split_copy.Tensor", "aten.split_with_sizes_copy.default", "aten.tensor_split.sections",
         "aten.tensor_split.indices", "aten.unsafe_split.Tensor", "aten.unsafe_chunk.default")
def split(call: Call) -> Sequence[Value]:
    value = call.value("self")
    axis = axis_of(call["dim"], value.tensor.rank)
    sizes = tuple(type.shape[axis] for type in call.results)
    return [value] if len(sizes) == 1 else call.emit_many("split", [value], axis=axis, sizes=sizes)


@imports("aten.unbind.int", "aten.unbind_copy.int")
def unbind(call: Call) -> list[Value]:
    value = call.value("self")
    axis = axis_of(call["dim"], value.tensor.rank)
    return [selected(call, value, axis, i) for i in range(len(call.results))]


@imports("aten.flip.default", "aten.fliplr.default", "aten.flipud.default")
def flip(call: Call) -> Value:
    value = call.value("self")
    asked = call.get("dims", [1] if "fliplr" in call.name else [0])
    return call.emit("flip", [value], axes=axes_of(asked, value.tensor.rank)) if asked else value


@imports("aten.roll.default")
def roll(call: Call) -> Value:
    value, shifts = call.value("self"), tuple(call["shifts"])
    rank = value.tensor.rank
    if call["dims"]:
        return call.emit("roll", [value], shifts=shifts, axes=tuple(axis_of(a, rank) for a in call["dims"]))
    flat = call.emit("roll", [call.reshape(value, (value.tensor.numel,))], shifts=shifts, axes=(0,))
    return call.reshape(flat, value.tensor.shape)


@imports("aten.repeat.default", "aten.tile.default")
def repeat(call: Call) -> Value:
    value = call.value("self")
    repeats = list(call.get("repeats", call.get("dims", [])))
    repeats = [1] * (value.tensor.rank - len(repeats)) + repeats
    value = call.unsqueeze(value, list(range(len(repeats) - value.tensor.rank)))
    if all(r == 1 or s == 1 for r, s in zip(repeats, value.tensor.shape, strict=True)):
        return call.expand(value, call.result.shape)
    return call.emit("repeat", [value], repeats=tuple(repeats))


@imports("aten.repeat_interleave.self_int")
def repeat_interleave(call: Call) -> Value:
    value, repeats = call.value("self"), call["repeats"]
    if call["dim"] is None:
        value, axis = call.reshape(value, (value.tensor.numel,)), 0
    else:
        axis = axis_of(call["dim"], value.tensor.rank)
    if isinstance(repeats, int):
        return value if repeats == 1 else call.emit("repeat_interleave", [value], repeats=repeats, axis=axis)
    shape = value.tensor.shape
    wide = call.unsqueeze(value, [axis + 1])
    return call.reshape(call.expand(wide, (*shape[: axis + 1], repeats, *shape[axis + 1 :])), call.result.shape)


@imports("aten.pad.default", "aten.constant_pad_nd.default", "aten._pad_enum.default")
def pad(call: Call) -> Value:
    mode = call.get("mode", "constant")
    if not isinstance(mode, str):
        mode = ("constant", "reflect", "replicate", "circular")[mode]
    return padded(call, call["pad"], mode, call.get("value", 0.0))


@imports("aten.reflection_pad1d.default", "aten.reflection_pad2d.default", "aten.reflection_pad3d.default",
         "aten.replication_pad1d.default", "aten.replication_pad2d.default", "aten.replication_pad3d.default")
def pad_mode(call: Call) -> Value:
    return padded(call, call["padding"], "reflect" if "reflection" in call.name else "replicate", 0.0)


def padded(call: Call, amounts: Sequence[Dim], mode: str, fill: Any) -> Value:
    """Padding in torch's order (last axis first); negative amounts crop."""
    value = call.value("self")
    if isinstance(fill, Value):
        raise Decline("its padding value is computed at run time")
    rank = value.tensor.rank
    low: list[Dim] = [0] * rank
    high: list[Dim] = [0] * rank
    for i in range(len(amounts) // 2):
        axis = rank - 1 - i
        low[axis], high[axis] = amounts[2 * i], amounts[2 * i + 1]
    for axis in range(rank):
        before, after = low[axis], high[axis]
        crop_low, crop_high = (-a if isinstance(a, int) and a < 0 else 0 for a in (before, after))
        if crop_low or crop_high:
            stop = dims.add(value.tensor.shape[axis], -crop_high)
            value = sliced(call, value, axis, crop_low, stop, 1)
            low[axis], high[axis] = 0 if crop_low else before, 0 if crop_high else after
    if all(amount == 0 for amount in (*low, *high)):
        return value
    number = float(fill) if mode == "constant" else 0.0
    return call.emit("pad", [value], low=tuple(low), high=tuple(high), mode=mode, value=number)


@imports("aten.unfold.default")
def unfold(call: Call) -> Value:
    value = call.value("self")
    axis = axis_of(call["dimension"], value.tensor.rank)
    return call.emit("unfold", [value], axis=axis, size=call["size"], step=call["step"])


@imports("aten.diagonal.default", "aten.diagonal_copy.default")
def diagonal(call: Call) -> Value:
    value = call.value("self")
    rank = value.tensor.rank
    return call.emit(
        "diagonal", [value], offset=call["offset"], axis1=axis_of(call["dim1"], rank), axis2=axis_of(call["dim2"], rank)
    )


@imports("aten.diag_embed.default")
def diag_embed(call: Call) -> Value:
    rank = call.result.rank
    return call.emit(
        "diag_embed", [call.value("self")], offset=call["offset"], axis1=axis_of(call["dim1"], rank),
        axis2=axis_of(call["dim2"], rank),
    )


def regrouped(call: Call, value: Value, inner: Sequence[Dim], order: Sequence[int]) -> Value:
    """reshape, permute, reshape to the result's shape."""
    return call.reshape(call.permute(call.reshape(value, inner), order), call.result.shape)


@imports("aten.pixel_shuffle.default")
def pixel_shuffle(call: Call) -> Value:
    value, r = call.value("self"), call["upscale_factor"]
    *lead, channels, height, width = value.tensor.shape
    n = len(lead)
    inner = (*lead, dims.floordiv(channels, r * r), r, r, height, width)
    return regrouped(call, value, inner, [*range(n), n, n + 3, n + 1, n + 4, n + 2])


@imports("aten.pixel_unshuffle.default")
def pixel_unshuffle(call: Call) -> Value:
    value, r = call.value("self"), call["downscale_factor"]
    *lead, channels, height, width = value.tensor.shape
    n = len(lead)
    inner = (*lead, channels, dims.floordiv(height, r), r, dims.floordiv(width, r), r)
    return regrouped(call, value, inner, [*range(n), n, n + 2, n + 4, n + 1, n + 3])


@imports("aten.channel_shuffle.default", "aten.native_channel_shuffle.default")
def channel_shuffle(call: Call) -> Value:
    value, groups = call.value("self"), call["groups"]
    batch, channels, *space = value.tensor.shape
    inner = (batch, groups, dims.floordiv(channels, groups), *space)
    return regrouped(call, value, inner, [0, 2, 1, *range(3, 3 + len(space))])


@imports("aten.im2col.default")
def im2col(call: Call) -> Value:
    value = call.value("self")
    options = {name: tuple(call[name]) for name in ("dilation", "padding", "stride")}
    batched = value if value.tensor.rank == 4 else call.unsqueeze(value, [0])
    made = call.emit("im2col", [batched], kernel=tuple(call["kernel_size"]), **options)
    return made if batched is value else call.squeeze(made, [0])


@imports("aten.col2im.default")
def col2im(call: Call) -> Value:
    value = call.value("self")
    options = {name: tuple(call[name]) for name in ("dilation", "padding", "stride")}
    batched = value if value.tensor.rank == 3 else call.unsqueeze(value, [0])
    made = call.emit(
        "col2im", [batched], output=tuple(call["output_size"]), kernel=tuple(call["kernel_size"]), **options
    )
    return made if batched is value else call.squeeze(made, [0])


@imports("aten.as_strided.default", "aten.as_strided_copy.default")
def as_strided(call: Call) -> Value:
    source = call.node.args[0]
    assert isinstance(source, fx.Node)
    fake, value = source.meta["val"], call.value("self")
    order = sorted(range(fake.dim()), key=lambda axis: (-fake.stride(axis), axis))
    if not fake.permute(order).is_contiguous() or fake.storage_offset() != 0:
        raise Unsupported("as_strided of a tensor with gaps depends on how memory is laid out")
    value = call.permute(value, order)
    shape, stride, offset = tuple(call["size"]), tuple(call["stride"]), call["storage_offset"] or 0
    outer = tuple(value.tensor.shape[:1])
    if outer and not isinstance(outer[0], int) and shape[0] == outer[0]:
        inner = dims.product(value.tensor.shape[1:])
        if stride[0] != inner:
            raise Unsupported("as_strided mixes the elements of a symbolic axis")
        return _gathered(call, call.reshape(value, (*outer, inner)), outer, shape[1:], stride[1:], offset)
    return _gathered(call, call.reshape(value, (value.tensor.numel,)), (), shape, stride, offset)


def _gathered(
    call: Call, flat: Value, outer: tuple[Dim, ...], shape: Sequence[Dim], stride: Sequence[Dim], offset: Dim
) -> Value:
    """The elements of the last axis at strided positions."""
    sizes = [d for d in shape if isinstance(d, int)]
    steps = [d for d in stride if isinstance(d, int)]
    if len(sizes) == len(shape) and len(steps) == len(stride) and isinstance(offset, int):
        index = _positions(call, sizes, steps, offset)
    else:
        index = _symbolic_positions(call, shape, stride, offset)
    return call.reshape(call.emit("take", [flat, index], axis=len(outer)), (*outer, *shape))


def _positions(call: Call, sizes: Sequence[int], steps: Sequence[int], offset: int) -> Value:
    positions = np.full(sizes, offset, dtype=np.int64)
    for axis, (size, step) in enumerate(zip(sizes, steps, strict=True)):
        along = [1] * len(sizes)
        along[axis] = size
        positions = positions + (np.arange(size, dtype=np.int64) * step).reshape(along)
    return call.editor.const(positions.reshape(-1), name=f"{call.node.name}.positions", loc=call.loc)


def _symbolic_positions(call: Call, shape: Sequence[Dim], stride: Sequence[Dim], offset: Dim) -> Value:
    total = call.full(offset, dtypes.i64)
    for axis, (size, step) in enumerate(zip(shape, stride, strict=True)):
        along = call.emit("arange", [], start=0, step=1, length=size, dtype=dtypes.i64)
        along = call.emit("mul", [along, call.full(step, dtypes.i64)])
        total = call.emit("add", [total, call.unsqueeze(along, range(1, len(shape) - axis))])
    return call.reshape(total, (dims.product(tuple(shape)),))


@imports("aten.meshgrid.default", "aten.meshgrid.indexing")
def meshgrid(call: Call) -> list[Value]:
    tensors = [call.reshape(value, (value.tensor.numel,)) for value in call["tensors"]]
    order = list(range(len(tensors)))
    if call.get("indexing", "ij") == "xy" and len(tensors) > 1:
        order[0], order[1] = order[1], order[0]
    grids = []
    for value, place, type in zip(tensors, order, call.results, strict=True):
        axes = [axis for axis in range(len(tensors)) if axis != place]
        grids.append(call.expand(call.unsqueeze(value, axes), type.shape))
    return grids


@imports("aten.atleast_1d.default", "aten.atleast_2d.default", "aten.atleast_3d.default")
def atleast(call: Call) -> Value:
    return call.reshape(call.value("self"), call.result.shape)
