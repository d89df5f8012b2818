"""Reading and writing by index. Indices out of range raise an error that names the layer."""

from __future__ import annotations

from collections.abc import Sequence

from mcomp.backend import Declined, lowers
from mcomp.backends.cpu.access import Access
from mcomp.backends.cpu.builder import TARGET, Builder
from mcomp.backends.cpu.cxx import Real, Size, c_type, literal
from mcomp.backends.cpu.expressions import store
from mcomp.backends.cpu.kernel import EncodedAccess
from mcomp.backends.cpu.loops import channels_last
from mcomp.backends.cpu.lower.creation import fill_kernel
from mcomp.backends.cpu.lower.norm import around
from mcomp.ir import dims, dtypes
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import Affine
from mcomp.ir.graph import Node, Value

HEADERS = ("index.hpp",)

_MOST_AXES = 12
"""kMaxDims of kernels/copy.hpp."""


@lowers("embedding", target=TARGET)
def lower_embedding(node: Node, b: Builder) -> Declined | None:
    """Rows of a table. Integers with a scale for each row, or for groups of its elements, become floats as rows are read."""
    if _coded_table(node.operand(0), b):
        _embedding_coded(node, b)
        return None
    table, ids = b.contiguous(node.operand(0)), b.contiguous(node.operand(1))
    out = b.write(node.result)
    b.call("embedding", "embedding(w, table, rows, width, ids, count, out, fault);", outs={"out": out},
           ins={"table": table, "ids": ids},
           numbers={"rows": table.shape[0], "width": table.shape[1], "count": ids.numel}, headers=HEADERS)
    return None


def _coded_table(table: Value, b: Builder) -> bool:
    encoding = table.tensor.encoding
    return (
        b.weight(table) is not None and isinstance(encoding, Affine) and encoding.scale is None and encoding.axis == (0,)
        and not encoding.zero_point and not encoding.zero and table.tensor.shape[1] != 0
    )


def _embedding_coded(node: Node, b: Builder) -> None:
    place, ids = b.place(node.operand(0)), b.contiguous(node.operand(1))
    assert isinstance(place, EncodedAccess)
    values, scales, encoding = place.part("values"), place.part("scales"), place.type.encoding
    assert values is not None and scales is not None and isinstance(encoding, Affine)
    out, (rows, width) = b.write(node.result), values.shape
    b.call("embedding_coded", "embedding_coded(w, table, scale, rows, width, group, ids, count, out, fault);",
           outs={"out": out}, ins={"table": values, "scale": scales, "ids": ids},
           numbers={"rows": rows, "width": width, "group": width if encoding.group is None else encoding.group,
                    "count": ids.numel}, headers=HEADERS)


@lowers("take", target=TARGET)
def lower_take(node: Node, b: Builder) -> Declined | None:
    """Slices of an axis, by a vector of indices."""
    x, index = b.contiguous(node.operand(0)), b.contiguous(node.operand(1))
    if x.rank == 0:
        return Declined("a scalar has no axis")
    out = b.write(node.result)
    b.call("take", "index_select(w, x, index, y, outer, n, inner, m, fault);", outs={"y": out},
           ins={"x": x, "index": index}, numbers={**around(x, node.attrs["axis"]), "m": index.numel}, headers=HEADERS)
    return None


@lowers("gather", target=TARGET)
def lower_gather(node: Node, b: Builder) -> Declined | None:
    """Elements along an axis."""
    x, index = b.read(node.operand(0)), b.contiguous(node.operand(1))
    if x.rank == 0:
        return Declined("a scalar has no axis")
    out = b.write(node.result)
    axis = node.attrs["axis"]
    strides, a = b.array("xs", x.strides)
    sizes, c = b.array("size", index.shape)
    text = (
        f"const int64_t x_stride[] = {strides}, sizes[] = {sizes};\n"
        f"gather(w, x, x_stride, n, index, out, {x.rank}, sizes, {axis}, fault);"
    )
    b.call("gather", text, outs={"out": out}, ins={"x": x, "index": index},
           numbers={**dict((*a, *c)), "n": x.shape[axis]}, headers=HEADERS)
    return None


_JOIN = {"none": "replace", "add": "add", "multiply": "multiply", "amax": "maximum", "amin": "minimum", "mean": "add"}


@lowers("scatter", target=TARGET)
def lower_scatter(node: Node, b: Builder) -> Declined | None:
    """A copy of x with elements of src written along an axis."""
    a = node.attrs
    x, index, src = b.read(node.operand(0)), b.contiguous(node.operand(1)), b.read(node.operand(2))
    if x.rank == 0 or x.dtype.is_complex or (a["reduce"] != "none" and x.dtype is dtypes.bool_):
        return Declined(f"{x.dtype} of rank {x.rank} has no kernel")
    if a["reduce"] == "mean":
        return Declined("the mean has no kernel")
    out = b.write(node.result)
    b.copy(x, out)
    if a["reduce"] != "none" and not a["include_self"]:
        _scatter_neutral(index, out, a["axis"], a["reduce"], b)
    out_strides, first = b.array("os", out.strides)
    src_strides, second = b.array("ss", src.strides)
    sizes, third = b.array("size", index.shape)
    text = (
        f"const int64_t out_stride[] = {out_strides}, src_stride[] = {src_strides}, sizes[] = {sizes};\n"
        f"scatter<Scatter::{_JOIN[a['reduce']]}>(w, out, out_stride, n, index, src, src_stride, {x.rank}, sizes, "
        f"{a['axis']}, fault);"
    )
    b.call("scatter", text, outs={"out": out}, ins={"index": index, "src": src},
           numbers={**dict((*first, *second, *third)), "n": x.shape[a["axis"]]}, headers=HEADERS)
    return None


def _scatter_neutral(index: Access, out: Access, axis: int, reduce: str, b: Builder) -> None:
    """What is written to starts from the number that changes nothing."""
    kind, dtype = c_type(out.dtype), out.dtype
    if dtype.is_float:
        value: float = {"add": 0.0, "multiply": 1.0, "amax": float("-inf"), "amin": float("inf")}[reduce]
    else:
        low = -(2 ** (dtype.bits - 1)) if dtype.kind == "int" else 0
        value = {"add": 0, "multiply": 1, "amax": low, "amin": low + 2**dtype.bits - 1}[reduce]
    out_strides, first = b.array("os", out.strides)
    sizes, second = b.array("size", index.shape)
    text = (
        f"const int64_t out_stride[] = {out_strides}, src_stride[{max(1, out.rank)}] = {{}}, sizes[] = {sizes};\n"
        f"const {kind} neutral = {store(literal(value, dtype), dtype)};\n"
        f"scatter<Scatter::replace>(w, out, out_stride, n, index, &neutral, src_stride, {out.rank}, sizes, {axis}, fault);"
    )
    b.call("scatter_neutral", text, outs={"out": out}, ins={"index": index},
           numbers={**dict((*first, *second)), "n": out.shape[axis]}, headers=(*HEADERS, "math.hpp"))


def _index_args(
    node: Node, x: Access, out: Access, first: int, b: Builder
) -> tuple[str, dict[str, Size | Real], dict[str, Access | None]] | Declined:
    """C++ that fills `IndexArgs a`, its numbers and its index tensors. `out` has the shape of the indexed result."""
    axes: Sequence[int] = node.attrs["axes"]
    tensors = [b.read(v) for v in node.operands[first:] if v is not None]
    if len({t.dtype for t in tensors}) != 1 or x.rank > 12:
        return Declined("index tensors of different types")
    adjacent = list(axes) == list(range(axes[0], axes[0] + len(axes)))
    rest = [i for i in range(x.rank) if i not in axes]
    rank = out.rank - len(rest)
    place = axes[0] if adjacent else 0
    index_axes = list(range(place, place + rank))
    slice_axes = [i for i in range(out.rank) if i not in index_axes]
    numbers: dict[str, Size | Real] = {}
    kind = c_type(tensors[0].dtype)
    lines = [f"IndexArgs<{kind}> a{{}};", f"a.tensors = {len(tensors)}; a.index_rank = {rank}; "
             f"a.slice_rank = {len(rest)};"]

    def put(field: str, value: Dim) -> None:
        name = "z" + field.replace("[", "_").replace("]", "")
        numbers[name] = value
        lines.append(f"a.{field} = {name};")

    for t, (tensor, axis) in enumerate(zip(tensors, axes)):
        lines.append(f"a.index[{t}] = i{t};")
        put(f"bound[{t}]", x.shape[axis])
        put(f"x_stride[{t}]", x.strides[axis])
        wide = tensor.expand([out.shape[i] for i in index_axes])
        for d in range(rank):
            put(f"index_stride[{t}][{d}]", wide.strides[d])
    for d, axis in enumerate(index_axes):
        put(f"index_size[{d}]", out.shape[axis])
        put(f"index_out_stride[{d}]", out.strides[axis])
    for d, (axis, source) in enumerate(zip(slice_axes, rest)):
        put(f"slice_size[{d}]", out.shape[axis])
        put(f"slice_x_stride[{d}]", x.strides[source])
        put(f"slice_out_stride[{d}]", out.strides[axis])
    return "\n".join(lines), numbers, {f"i{t}": tensor for t, tensor in enumerate(tensors)}


@lowers("index", target=TARGET)
def lower_index(node: Node, b: Builder) -> Declined | None:
    """Advanced indexing."""
    x, out = b.read(node.operand(0)), b.write(node.result)
    found = _index_args(node, x, out, 1, b)
    if isinstance(found, Declined):
        return found
    text, numbers, tensors = found
    b.call("index", f"{text}\nindex_get(w, a, x, out, fault);", outs={"out": out}, ins={"x": x, **tensors},
           numbers=numbers, headers=HEADERS)
    return None


@lowers("index_put", target=TARGET)
def lower_index_put(node: Node, b: Builder) -> Declined | None:
    """A copy of x with values written at advanced indices."""
    from mcomp.ops.index import indexed_shape
    from mcomp.ops.rules import broadcast

    x, values = b.read(node.operand(0)), b.read(node.operand(1))
    if x.dtype.is_complex or (node.attrs["accumulate"] and x.dtype is dtypes.bool_):
        return Declined(f"{x.dtype} has no kernel")
    shape = indexed_shape(x.shape, node.attrs["axes"], broadcast(
        *(v.tensor.shape for v in node.operands[2:] if v is not None)
    ))
    out = b.write(node.result)
    found = _index_args(node, out, values.expand(shape), 2, b)
    if isinstance(found, Declined):
        return found
    b.copy(x, out)
    text, numbers, tensors = found
    accumulate = "true" if node.attrs["accumulate"] else "false"
    b.call("index_put", f"{text}\nindex_put(w, a, x, values, {accumulate}, fault);", outs={"x": out},
           ins={"values": values, **tensors}, numbers=numbers, headers=HEADERS)
    return None


@lowers("masked_scatter", target=TARGET)
def lower_masked_scatter(node: Node, b: Builder) -> Declined | None:
    """Elements of src, one after the other, where the mask holds."""
    out = b.write(node.result)
    x, src = b.contiguous(node.operand(0)), b.contiguous(node.operand(2))
    mask = b.read(node.operand(1)).expand(out.shape)
    if not mask.is_dense():
        dense = b.temp(mask.dtype, mask.shape)
        b.copy(mask, dense)
        mask = dense
    if x.shape != out.shape:
        return Declined("x is broadcast")
    b.call("masked_scatter", "masked_scatter(w, x, mask, src, count, y, n, fault);", outs={"y": out},
           ins={"x": x, "mask": mask, "src": src}, numbers={"count": src.numel, "n": out.numel}, headers=HEADERS)
    return None


@lowers("tril", "triu", target=TARGET)
def lower_triangle(node: Node, b: Builder) -> Declined | None:
    """One triangle of the last two axes, zeros elsewhere."""
    x = b.contiguous(node.operand(0))
    out = b.write(node.result)
    upper = "true" if node.op.name == "triu" else "false"
    b.call(node.op.name, f"triangle(w, x, y, batch, rows, columns, diagonal, {upper});", outs={"y": out}, ins={"x": x},
           numbers={"batch": dims.product(x.shape[:-2]), "rows": x.shape[-2], "columns": x.shape[-1],
                    "diagonal": node.attrs["diagonal"]}, headers=("shape.hpp",))
    return None


@lowers("pad", target=TARGET)
def lower_pad(node: Node, b: Builder) -> Declined | None:
    """Constants, mirrored, repeated or wrapped elements around x."""
    a = node.attrs
    if node.type.rank == 0:
        return Declined("a scalar has no sides")
    if node.type.rank > _MOST_AXES:
        return Declined(f"it has more than {_MOST_AXES} axes")
    place = b.place(node.operand(0))
    zeros = a["mode"] == "constant" and a["value"] == 0.0
    coded = place.static_bytes if isinstance(place, EncodedAccess) and zeros else None
    x = b.read(node.operand(0)) if coded is None else coded[0]
    order = _pixels_first(node, x, b)
    out = b.write(node.result, order) if coded is None else b.temp(x.dtype, node.type.shape, order)
    if isinstance(place, EncodedAccess) and coded is not None:
        b.bind(node.result, place.moved(node.result, out))
    axes = list(order or range(x.rank))
    texts: list[str] = []
    numbers: dict[str, Size | Real] = {}
    for name, values in (("size", x.shape), ("from", x.strides), ("low", a["low"]), ("high", a["high"])):
        text, found = b.array(name + "_", [values[i] for i in axes])
        texts.append(f"const int64_t {name}[] = {text};")
        numbers |= dict(found)
    value = store(literal(a["value"] if coded is None else coded[2], x.dtype), x.dtype)
    if x.dtype.is_complex:
        value = f"complex64{{{literal(float(a['value']), dtypes.f32)}, 0.0f}}"
    text = "\n".join((
        *texts, f"pad<{c_type(x.dtype)}>(w, x, y, {x.rank}, size, from, low, high, PadMode::{a['mode']}, {value});"
    ))
    b.call("pad", text, outs={"y": out}, ins={"x": x}, numbers=numbers, headers=("shape.hpp", "math.hpp"))
    return None


def _pixels_first(node: Node, x: Access, b: Builder) -> tuple[int, ...] | None:
    """Channels-last for a result whose operand, perhaps a part of an image, has its channels side by side."""
    order = channels_last(x.rank)
    if order is None or x.strides[1] != 1 or x.shape[1] == 1 or x.is_dense() or b.is_output(node.result):
        return None
    return order


@lowers("diag_embed", target=TARGET)
def lower_diag_embed(node: Node, b: Builder) -> Declined | None:
    """Zeros, then the diagonal."""
    x, a = b.read(node.operand(0)), node.attrs
    if x.dtype.is_complex:
        return Declined("complex numbers have no kernel")
    out = b.write(node.result)
    b.emit(fill_kernel(out, 0))
    first, second, offset = a["axis1"], a["axis2"], a["offset"]
    start = dims.mul(out.strides[second], offset) if offset >= 0 else dims.mul(out.strides[first], -offset)
    rest = out.without((first, second))
    step = dims.add(out.strides[first], out.strides[second])
    b.copy(x, Access(out.buffer, out.dtype, x.shape, (*rest.strides, step), dims.add(out.offset, start)))
    return None


@lowers("im2col", "col2im", target=TARGET)
def lower_windows(node: Node, b: Builder) -> Declined | None:
    """Windows of images as columns, and back."""
    a = node.attrs
    x = b.contiguous(node.operand(0))
    forward = node.op.name == "im2col"
    if x.dtype.is_complex:
        return Declined("complex numbers have no kernel")
    out = b.write(node.result)
    image = x if forward else out
    numbers: dict[str, Size | Real] = {"batch": image.shape[0], "channels": image.shape[1]}
    fields: list[str] = []
    spans = [
        dims.add(dims.floordiv(dims.add(d, 2 * p - dilation * (k - 1) - 1), s), 1)
        for d, k, dilation, p, s in zip(image.shape[2:], a["kernel"], a["dilation"], a["padding"], a["stride"])
    ]
    for name, values in (("in", image.shape[2:]), ("out", spans), ("kernel", a["kernel"]), ("stride", a["stride"]),
                         ("pad", a["padding"]), ("dilation", a["dilation"])):
        numbers |= {f"{name}{i}": v for i, v in enumerate(values)}
        fields.append(f"{{{name}0, {name}1}}")
    text = f"const Window2d s{{{', '.join(fields)}}};\n{node.op.name}(w, x, y, batch, channels, s);"
    b.call(node.op.name, text, outs={"y": out}, ins={"x": x}, numbers=numbers, headers=("shape.hpp",))
    return None


