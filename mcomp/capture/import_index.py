"""Importers of reading and writing at indices."""

from __future__ import annotations

from mcomp.capture.import_elementwise import binary, operand, truth
from mcomp.capture.import_shape import bounds
from mcomp.capture.importing import Call, Decline, axis_of, imports
from mcomp.capture.symbols import Unsupported
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.graph import Value


def positions(call: Call, value: Value) -> Value:
    """Indices as i64."""
    return call.cast(value, dtypes.i64) if value.tensor.dtype not in (dtypes.i64, dtypes.i32) else value


@imports("aten.embedding.default")
def embedding(call: Call) -> Value:
    return call.emit("embedding", [call.value("weight"), positions(call, call.value("indices"))])


@imports("aten.gather.default")
def gather(call: Call) -> Value:
    value, index = call.value("self"), call.value("index")
    if value.tensor.rank == 0 or index.tensor.rank == 0:
        raise Decline("its tensor has no dimensions")
    return call.emit("gather", [value, positions(call, index)], axis=axis_of(call["dim"], value.tensor.rank))


@imports("aten.index_select.default")
def index_select(call: Call) -> Value:
    value, index = call.value("self"), positions(call, call.value("index"))
    if value.tensor.rank == 0:
        raise Decline("its tensor has no dimensions")
    if index.tensor.rank == 0:
        index = call.unsqueeze(index, [0])
    return call.emit("take", [value, index], axis=axis_of(call["dim"], value.tensor.rank))


@imports("aten.take.default")
def take(call: Call) -> Value:
    value, index = call.value("self"), positions(call, call.value("index"))
    flat = call.reshape(value, (value.tensor.numel,))
    return call.emit("index", [flat, index], axes=(0,))


def index_list(call: Call, value: Value, indices: list[Value | None]) -> tuple[list[Value], list[int]]:
    """Index tensors and their axes. A mask becomes the positions where it holds, one tensor per axis of the mask; how
    many there are is a new symbolic size."""
    tensors: list[Value] = []
    axes: list[int] = []
    axis = 0
    for one in indices:
        if one is None:
            axis += 1
            continue
        if one.tensor.dtype.kind != "bool" and one.tensor.dtype != dtypes.u8:
            tensors.append(positions(call, one))
            axes.append(axis)
            axis += 1
            continue
        found = nonzero_of(call, truth(call, one), new_size(call))
        for column in range(one.tensor.rank):
            tensors.append(call.emit("select", [found], axis=1, index=column))
            axes.append(axis)
            axis += 1
    return tensors, axes


def new_size(call: Call) -> str:
    """The symbol that the result's shape introduces. Raises Unsupported when there is none, or several."""
    known: frozenset[str] = frozenset()
    for argument in call.node.all_input_nodes:
        fake = argument.meta.get("val")
        if fake is not None and hasattr(fake, "shape"):
            known = known.union(*(dims.symbols(call.symbols.dim(size)) for size in fake.shape))
    new = frozenset[str]().union(*(dims.symbols(d) for d in call.result.shape)) - known
    if len(new) != 1:
        raise Unsupported(f"{call.name} makes a size that depends on values")
    return next(iter(new))


def nonzero_of(call: Call, value: Value, symbol: str) -> Value:
    """The positions where a value is not zero, i64 [symbol, rank]."""
    call.editor.graph.symbols.setdefault(symbol, dims.Bounds(0, None))
    return call.emit("nonzero", [value], symbol=symbol)


@imports("aten.nonzero.default")
def nonzero(call: Call) -> Value:
    return nonzero_of(call, call.value("self"), new_size(call))


@imports("aten.masked_select.default")
def masked_select(call: Call) -> Value:
    value, mask = call.value("self"), call.value("mask")
    found = nonzero_of(call, call.expand(mask, value.tensor.shape), new_size(call))
    columns = [call.emit("select", [found], axis=1, index=i) for i in range(value.tensor.rank)]
    return call.emit("index", [value, *columns], axes=tuple(range(value.tensor.rank)))


@imports("aten.index.Tensor", "aten._unsafe_index.Tensor")
def index(call: Call) -> Value:
    value = call.value("self")
    tensors, axes = index_list(call, value, call["indices"])
    return call.emit("index", [value, *tensors], axes=tuple(axes))


@imports("aten.index_put.default", "aten._unsafe_index_put.default")
def index_put(call: Call) -> Value:
    value, indices, values = call.value("self"), call["indices"], call.value("values")
    values = call.cast(values, value.tensor.dtype)
    masks = [one for one in indices if one is not None and one.tensor.dtype.kind == "bool"]
    if masks:
        if len(indices) > 1 or call["accumulate"] or values.tensor.numel != 1:
            raise Decline("it writes several values where a mask holds")
        mask = masks[0]
        rest = value.tensor.rank - mask.tensor.rank
        wide = call.unsqueeze(mask, [mask.tensor.rank + i for i in range(rest)])
        return call.emit("where", [wide, call.reshape(values, ()), value])
    tensors, axes = index_list(call, value, indices)
    return call.emit("index_put", [value, values, *tensors], axes=tuple(axes), accumulate=bool(call["accumulate"]))


def _along(call: Call, source: Value, accumulate: bool) -> Value:
    """Whole slices written at 1-D indices along an axis."""
    value, index = call.value("self"), positions(call, call.value("index"))
    if value.tensor.rank == 0:
        raise Decline("its tensor has no dimensions")
    if index.tensor.rank == 0:
        index = call.unsqueeze(index, [0])
    axis = axis_of(call["dim"], value.tensor.rank)
    return call.emit("index_put", [value, source, index], axes=(axis,), accumulate=accumulate)


@imports("aten.index_copy.default")
def index_copy(call: Call) -> Value:
    return _along(call, call.value("source"), False)


@imports("aten.index_add.default")
def index_add(call: Call) -> Value:
    source, alpha = call.value("source"), call["alpha"]
    if alpha != 1:
        source = binary(call, "mul", source, alpha, source.tensor.dtype)
    return _along(call, source, True)


@imports("aten.index_fill.int_Scalar", "aten.index_fill.int_Tensor")
def index_fill(call: Call) -> Value:
    return _along(call, operand(call, call["value"], call.result.dtype), False)


REDUCTIONS = {"add": "add", "multiply": "multiply", "sum": "add", "prod": "multiply", "mean": "mean", "amax": "amax",
              "amin": "amin"}


@imports("aten.scatter.src", "aten.scatter.value", "aten.scatter.reduce", "aten.scatter.value_reduce",
         "aten.scatter_add.default", "aten.scatter_reduce.two")
def scatter(call: Call) -> Value:
    value, index = call.value("self"), positions(call, call.value("index"))
    if value.tensor.rank == 0 or index.tensor.rank == 0:
        raise Decline("its tensor has no dimensions")
    source = call.get("src", call.get("value"))
    reduce = "add" if "scatter_add" in call.name else REDUCTIONS.get(call.get("reduce", ""), "none")
    if isinstance(source, Value):
        source = call.cast(source, value.tensor.dtype)
    else:
        source = call.full(source, value.tensor.dtype, index.tensor.shape)
    return call.emit(
        "scatter", [value, index, source], axis=axis_of(call["dim"], value.tensor.rank), reduce=reduce,
        include_self=bool(call.get("include_self", True)),
    )


@imports("aten.slice_scatter.default")
def slice_scatter(call: Call) -> Value:
    value = call.value("self")
    axis = axis_of(call["dim"], value.tensor.rank)
    first, last = bounds(call["start"], call["end"], value.tensor.shape[axis])
    source = call.cast(call.value("src"), value.tensor.dtype)
    if first == 0 and last == value.tensor.shape[axis] and call["step"] == 1:
        return call.expand(source, value.tensor.shape)
    return call.emit("slice_scatter", [value, source], axis=axis, start=first, stop=last, step=call["step"])


@imports("aten.select_scatter.default")
def select_scatter(call: Call) -> Value:
    value, at = call.value("self"), call["index"]
    axis = axis_of(call["dim"], value.tensor.rank)
    if isinstance(at, Value):
        raise Decline("its index is computed at run time")
    if isinstance(at, int) and at < 0:
        at = dims.add(value.tensor.shape[axis], at)
    source = call.cast(call.value("src"), value.tensor.dtype)
    return call.emit("select_scatter", [value, source], axis=axis, index=at)


@imports("aten.masked_scatter.default")
def masked_scatter(call: Call) -> Value:
    value = call.value("self")
    mask = call.expand(call.value("mask"), value.tensor.shape)
    return call.emit("masked_scatter", [value, mask, call.value("source")])


@imports("aten.copy.default")
def copy(call: Call) -> Value:
    value = call.value("self")
    return call.expand(call.cast(call.value("src"), value.tensor.dtype), value.tensor.shape)


@imports("aten.tril.default", "aten.triu.default")
def triangle(call: Call) -> Value:
    diagonal = call["diagonal"]
    if not isinstance(diagonal, int):
        return _triangle(call, diagonal)
    return call.emit(call.name.split(".")[1], [call.value("self")], diagonal=diagonal)


def _triangle(call: Call, diagonal: Dim) -> Value:
    """A triangle whose diagonal is a symbolic size."""
    value = call.value("self")
    rows, columns = (
        call.emit("arange", [], start=0, step=1, length=size, dtype=dtypes.i64) for size in value.tensor.shape[-2:]
    )
    limit = call.emit("add", [call.unsqueeze(rows, [1]), call.full(diagonal, dtypes.i64)])
    keep = call.emit("le" if ".tril." in call.name else "ge", [columns, limit])
    return call.emit("where", [keep, value, call.full(0, value.tensor.dtype)])


@imports("aten.searchsorted.Tensor", "aten.searchsorted.Scalar", "aten.bucketize.Tensor", "aten.bucketize.Scalar")
def searchsorted(call: Call) -> Value:
    bucketize = "bucketize" in call.name
    sequence, asked = (call["boundaries"], call["self"]) if bucketize else (call["sorted_sequence"], call["self"])
    if call.get("sorter") is not None or not isinstance(asked, Value):
        raise Decline("it takes a sorter or a number")
    right = bool(call["right"]) or call.get("side") == "right"
    made = call.emit("searchsorted", [sequence, call.cast(asked, sequence.tensor.dtype)], right=right)
    return call.cast(made, call.result.dtype)


@imports("aten.isin.Tensor_Tensor")
def isin(call: Call) -> Value:
    value, tests = call.value("elements"), call.value("test_elements")
    flat = call.reshape(tests, (tests.tensor.numel,))
    hits = binary(call, "eq", call.unsqueeze(value, [value.tensor.rank]), flat)
    found = call.emit("any", [hits], axes=(value.tensor.rank,))
    return call.emit("logical_not", [found]) if call["invert"] else found
