"""Reading at indices from data, triangles, ranges and padding: one flat index for each element of the result."""

from __future__ import annotations

from collections.abc import Sequence

from mcomp.backend import Declined, lowers
from mcomp.backends.triton import configs
from mcomp.backends.triton.access import View
from mcomp.backends.triton.builder import TARGET, Builder
from mcomp.backends.triton.lower.elementwise import flat, flat_grid
from mcomp.backends.triton.lower.tables import coded_embedding, fault_code, holds_integers
from mcomp.backends.triton.text import KNOWN, Group, KernelText, computed_type, literal, stored_type
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.dtypes import f64
from mcomp.ir.graph import Node


@lowers("embedding", "take", "gather", "index", target=TARGET)
def lower_read(node: Node, b: Builder) -> Declined | None:
    """Elements of the first operand (of the table, for an embedding) where indices say."""
    if node.type.dtype.name not in KNOWN:
        return Declined(f"{node.type.dtype} cannot be copied by a kernel")
    if node.op.name == "embedding" and holds_integers(node.operand(0), b):
        coded_embedding(node, b)
        return None
    x, shape, name = b.read(node.operand(0)), node.type.shape, node.op.name
    axes: tuple[int, ...]
    if name == "embedding":
        axes, first = (0,), 0
    elif name == "index":
        axes = tuple(node.attrs["axes"])
        first = axes[0] if axes == tuple(range(axes[0], axes[0] + len(axes))) else 0
    else:
        axes, first = (node.attrs["axis"],), node.attrs["axis"]
    indices = [b.read(v) for v in node.operands[1:] if v is not None]
    out = b.write(node.result)
    text = KernelText()
    at = flat(text, shape)
    text.fault = True
    code = fault_code(b)
    whole = len(shape) if name == "gather" else len(shape) - (x.rank - len(axes))
    places = []
    for axis, index in zip(axes, indices):
        # Where each axis of the index tensor lies in the result.
        start = 0 if name == "gather" else first + whole - index.rank
        seen = View(index.buffer, index.dtype, shape, _placed(index, start, len(shape), shape), index.offset)
        given = text.load(seen, [at])
        size = text.number(x.shape[axis])
        step = text.number(x.strides[axis])
        places.append(f"index.checked({given}, {size}, inside, fault, {code}, {name == 'index'}) * {step}")
    if name == "gather":
        rest = tuple(0 if i == axes[0] else s for i, s in enumerate(x.strides))
        kept = View(x.buffer, x.dtype, shape, rest, x.offset)
    else:
        others = iter(s for i, s in enumerate(x.strides) if i not in axes)
        strides: list[Dim] = [0 if first <= i < first + whole else next(others) for i in range(len(shape))]
        kept = View(x.buffer, x.dtype, shape, tuple(strides), x.offset)
    base, _ = text.index(kept, [at])
    text.line(f"place = {' + '.join([base, *places])}")
    _move(text, at, f"{text.pointer(x)} + place", out, "inside", "0")
    b.emit(b.launch(name, text, flat_grid, configs.pointwise, sizes={"count": dims.product(shape)}, kind="index",
                    dtypes=(node.type.dtype.name,)))
    return None


def _placed(index: View, start: int, rank: int, shape: Sequence[Dim]) -> tuple[Dim, ...]:
    strides: list[Dim] = [0] * rank
    for i, (size, stride) in enumerate(zip(index.shape, index.strides)):
        strides[start + i] = 0 if size == 1 and shape[start + i] != 1 else stride
    return tuple(strides)


def _move(text: KernelText, at: Group, source: str, out: View, mask: str, other: str) -> None:
    """Load elements and store them as they are."""
    text.line(f"v = tl.load({source}, mask={mask}, other={other})")
    index, _ = text.index(out, [at], full=True)
    text.line(f"tl.store({text.pointer(out)} + {index}, v, mask=inside)")
    text.written.append(out.buffer)


def _coordinate(text: KernelText, at: Group, shape: Sequence[Dim], axis: int) -> str:
    """The index along one axis, for each element of a flat group."""
    buffer_free = View(None, f64, tuple(shape), tuple(1 if i == axis else 0 for i in range(len(shape))))  # type: ignore[arg-type]
    return f"({text.row_terms(buffer_free, at)})"


@lowers("tril", "triu", target=TARGET)
def lower_triangle(node: Node, b: Builder) -> Declined | None:
    if node.type.dtype.name not in KNOWN:
        return Declined(f"{node.type.dtype} cannot be copied by a kernel")
    x, shape = b.read(node.operand(0)), node.type.shape
    out = b.write(node.result)
    text = KernelText()
    at = flat(text, shape)
    row, column = (_coordinate(text, at, shape, len(shape) - 2 + i) for i in range(2))
    relation = "<=" if node.op.name == "tril" else ">="
    text.line(f"kept = inside & ({column} - {row} {relation} {node.attrs['diagonal']})")
    index, _ = text.index(x, [at])
    _move(text, at, f"{text.pointer(x)} + {index}", out, "kept", "0")
    b.emit(b.launch(node.op.name, text, flat_grid, configs.pointwise, sizes={"count": dims.product(shape)}, kind="pointwise",
                    dtypes=(node.type.dtype.name,)))
    return None


@lowers("arange", target=TARGET)
def lower_arange(node: Node, b: Builder) -> Declined | None:
    """start + i * step, in i64 or f64."""
    a, dtype = node.attrs, node.type.dtype
    out = b.write(node.result)
    text = KernelText()
    at = flat(text, node.type.shape)
    wide = "tl.int64" if dtype.is_int else "tl.float64"

    def number(value: object) -> str:
        if isinstance(value, dims.Expr):
            return f"{text.number(value)}"
        return f"tl.full((), {float(value) if not dtype.is_int else int(value)!r}, {wide})"  # type: ignore[arg-type, call-overload]

    text.line(f"t = at.to({wide}) * {number(a['step'])} + {number(a['start'])}")
    text.store(out, [at], f"t.to({computed_type(dtype)})" if dtype.is_float else "t")
    b.emit(b.launch("arange", text, flat_grid, configs.pointwise, sizes={"count": a["length"]}, kind="pointwise",
                    dtypes=(dtype.name,)))
    return None


@lowers("pad", target=TARGET)
def lower_pad(node: Node, b: Builder) -> Declined | None:
    """Every element of the result is read where the mode says, or is the value."""
    x, a, shape, dtype = b.read(node.operand(0)), node.attrs, node.type.shape, node.type.dtype
    if dtype.name not in KNOWN:
        return Declined(f"{dtype} cannot be copied by a kernel")
    out = b.write(node.result)
    text = KernelText()
    at = flat(text, shape)
    places, masks = [text.number(x.offset)], ["inside"]
    for axis, (low, high, size) in enumerate(zip(a["low"], a["high"], x.shape)):
        text.line(f"i{axis} = {_coordinate(text, at, shape, axis)} - {text.number(low)}")
        if (low, high) != (0, 0):
            n = text.number(size)
            if a["mode"] == "constant":
                masks.append(f"(i{axis} >= 0) & (i{axis} < {n})")
            elif a["mode"] == "replicate":
                text.line(f"i{axis} = tl.minimum(tl.maximum(i{axis}, 0), {n} - 1)")
            elif a["mode"] == "circular":
                text.line(f"i{axis} = tl.where(i{axis} < 0, i{axis} + {n}, tl.where(i{axis} >= {n}, i{axis} - {n}, "
                          f"i{axis}))")
            else:
                text.line(f"i{axis} = ({n} - 1) - tl.abs(({n} - 1) - tl.abs(i{axis}))")
        places.append(f"i{axis} * {text.number(x.strides[axis])}")
    value = literal(a["value"] if dtype.is_float else int(a["value"]), dtype)
    text.line(f"kept = {' & '.join(masks)}")
    text.line(f"v = tl.load({text.pointer(x)} + {' + '.join(places)}, mask=kept, other=0)")
    kind = stored_type(dtype)
    filler = f"numbers.narrow({value}, {kind})" if dtype.is_float else f"({value}).to({kind})"
    index, _ = text.index(out, [at], full=True)
    text.line(f"tl.store({text.pointer(out)} + {index}, tl.where(kept, v, {filler}), mask=inside)")
    text.written.append(out.buffer)
    b.emit(b.launch("pad", text, flat_grid, configs.pointwise, sizes={"count": dims.product(shape)}, kind="pointwise",
                    dtypes=(dtype.name,)))
    return None
