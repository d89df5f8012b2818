"""Shape operators: views where strides can say them, strided copies elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from mcomp.backend import Declined, lowers
from mcomp.backends.triton.access import Coded, View
from mcomp.backends.triton.builder import TARGET, Builder
from mcomp.backends.triton.lower.elementwise import moved
from mcomp.backends.triton.text import KNOWN
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import DENSE, Affine
from mcomp.ir.graph import Node

Move = Callable[[View], "View | None"]


def _view(node: Node, b: Builder, move: Move) -> View | None:
    """Bind a result to a view of its operand; bytes that share one known scale stay bytes. The operand's view where strides
    cannot say it."""
    operand = node.operand(0)
    place = b.place(operand) if b.number(operand) is None else None
    encoding = place.type.encoding if isinstance(place, Coded) else None
    one_scale = isinstance(encoding, Affine) and encoding.scale is not None
    if isinstance(place, Coded) and one_scale and (b.weight(operand) is None or node.type.encoding != DENSE):
        view = move(place.values)
        if view is not None:
            b.bind(node.result, moved(place, node.result, view))
            return None
    source = b.read(operand)
    view = move(source)
    if view is None:
        return source
    b.bind(node.result, view)
    return None


@lowers("reshape", target=TARGET)
def lower_reshape(node: Node, b: Builder) -> Declined | None:
    left = _view(node, b, lambda v: v.reshape(node.type.shape))
    if left is None:
        return None
    if left.dtype.name not in KNOWN:
        return Declined(f"{left.dtype} cannot be copied by a kernel")
    whole = b.contiguous(node.operand(0)).reshape(node.type.shape)
    assert whole is not None
    b.bind(node.result, whole)
    return None


@lowers("permute", target=TARGET)
def lower_permute(node: Node, b: Builder) -> Declined | None:
    _view(node, b, lambda v: v.permute(node.attrs["order"]))
    return None


@lowers("expand", target=TARGET)
def lower_expand(node: Node, b: Builder) -> Declined | None:
    number = b.number(node.operand(0))
    if number is not None:
        b.bind_number(node.result, number)
        return None
    _view(node, b, lambda v: v.expand(node.type.shape))
    return None


@lowers("slice", target=TARGET)
def lower_slice(node: Node, b: Builder) -> Declined | None:
    a = node.attrs
    _view(node, b, lambda v: v.slice(a["axis"], a["start"], node.type.shape[a["axis"]], a["step"]))
    return None


@lowers("select", target=TARGET)
def lower_select(node: Node, b: Builder) -> Declined | None:
    _view(node, b, lambda v: v.select(node.attrs["axis"], node.attrs["index"]))
    return None


@lowers("squeeze", target=TARGET)
def lower_squeeze(node: Node, b: Builder) -> Declined | None:
    _view(node, b, lambda v: v.without(node.attrs["axes"]))
    return None


@lowers("unsqueeze", target=TARGET)
def lower_unsqueeze(node: Node, b: Builder) -> Declined | None:
    _view(node, b, lambda v: v.insert(node.attrs["axes"]))
    return None


@lowers("contiguous", "dropout", target=TARGET)
def lower_identity(node: Node, b: Builder) -> Declined | None:
    b.alias(node.result, node.operand(0))
    return None


@lowers("split", target=TARGET)
def lower_split(node: Node, b: Builder) -> Declined | None:
    view, axis = b.read(node.operand(0)), node.attrs["axis"]
    start: Dim = 0
    for result in node.results:
        size = result.tensor.shape[axis]
        b.bind(result, view.slice(axis, start, size))
        start = dims.add(start, size)
    return None


@lowers("unfold", target=TARGET)
def lower_unfold(node: Node, b: Builder) -> Declined | None:
    """Windows of an axis: the result's last axis runs inside of a window."""
    b.bind(node.result, b.read(node.operand(0)).windows(node.attrs["axis"], node.attrs["step"], node.type.shape))
    return None


@lowers("diagonal", target=TARGET)
def lower_diagonal(node: Node, b: Builder) -> Declined | None:
    """A diagonal of two axes; it becomes the last axis."""
    a = node.attrs
    b.bind(node.result, b.read(node.operand(0)).diagonal(a["axis1"], a["axis2"], a["offset"], node.type.shape))
    return None


@lowers("flip", target=TARGET)
def lower_flip(node: Node, b: Builder) -> Declined | None:
    """A view with negative strides."""
    view = b.read(node.operand(0))
    if view.dtype.name not in KNOWN:
        return Declined(f"{view.dtype} has no views with negative strides")
    b.copy(view.reversed(node.attrs["axes"]), b.write(node.result))
    return None


@lowers("cat", target=TARGET)
def lower_cat(node: Node, b: Builder) -> Declined | None:
    """Each operand is copied to its place."""
    given = [v for v in node.operands if v is not None and v.tensor.rank == node.type.rank]
    if node.type.dtype.name not in KNOWN:
        return Declined(f"{node.type.dtype} cannot be copied by a kernel")
    views = [b.read(v) for v in given]
    from mcomp.backends.triton.lower.elementwise import order_of

    out, axis = b.write(node.result, order_of(views, node.type.rank)), node.attrs["axis"]
    start: Dim = 0
    for view in views:
        size = view.shape[axis]
        b.copy(view, out.slice(axis, start, size))
        start = dims.add(start, size)
    return None


@lowers("repeat", target=TARGET)
def lower_repeat(node: Node, b: Builder) -> Declined | None:
    """[r0, d0, r1, d1 ...] with broadcast copies, in one strided copy."""
    view, repeats = b.read(node.operand(0)), node.attrs["repeats"]
    if len(repeats) != view.rank or view.dtype.name not in KNOWN:
        return Declined("the repeats do not match the rank, or the element type has no kernel")
    repeated, split = view.repeated(repeats)
    target = b.write(node.result).reshape(split)
    assert target is not None
    b.copy(repeated, target)
    return None


@lowers("repeat_interleave", target=TARGET)
def lower_repeat_interleave(node: Node, b: Builder) -> Declined | None:
    """Every index of an axis several times in a row."""
    view, axis, times = b.read(node.operand(0)), node.attrs["axis"], node.attrs["repeats"]
    if view.dtype.name not in KNOWN:
        return Declined(f"{view.dtype} cannot be copied by a kernel")
    out = b.write(node.result)
    shape = (*view.shape[: axis + 1], times, *view.shape[axis + 1 :])
    target = out.reshape(shape)
    assert target is not None
    b.copy(view.insert((axis + 1,)).expand(shape), target)
    return None


@lowers("roll", target=TARGET)
def lower_roll(node: Node, b: Builder) -> Declined | None:
    """Every axis is copied in two pieces: what moves on, and what comes around."""
    view = b.read(node.operand(0))
    if view.dtype.name not in KNOWN:
        return Declined(f"{view.dtype} cannot be copied by a kernel")
    out = b.write(node.result)
    pieces: list[tuple[View, View]] = [(view, out)]
    for shift, axis in zip(node.attrs["shifts"], node.attrs["axes"]):
        size = view.shape[axis]
        if size == 0:
            continue
        away = dims.mod(shift, size)
        kept = dims.add(size, dims.mul(away, -1))
        pieces = [
            pair for source, target in pieces for pair in (
                (source.slice(axis, 0, kept), target.slice(axis, away, kept)),
                (source.slice(axis, kept, away), target.slice(axis, 0, away)),
            )
        ]
    if len(pieces) > 8:
        return Declined("it rolls more than three axes")
    for source, target in pieces:
        b.copy(source, target)
    return None


@lowers("slice_scatter", "select_scatter", target=TARGET)
def lower_slice_scatter(node: Node, b: Builder) -> Declined | None:
    """A copy of x, then the piece over it."""
    x, piece, a = b.read(node.operand(0)), b.read(node.operand(1)), node.attrs
    if x.dtype.name not in KNOWN:
        return Declined(f"{x.dtype} cannot be copied by a kernel")
    out = b.write(node.result)
    b.copy(x, out)
    if node.op.name == "select_scatter":
        b.copy(piece, out.select(a["axis"], a["index"]))
    else:
        b.copy(piece, out.slice(a["axis"], a["start"], piece.shape[a["axis"]], a["step"]))
    return None


@lowers("full", target=TARGET)
def lower_full(node: Node, b: Builder) -> Declined | None:
    """A number, which kernels hold themselves."""
    if node.type.dtype.is_complex:
        return Declined("complex numbers are not computed with in Triton")
    b.bind_number(node.result, node.attrs["value"])
    return None


@lowers("decode", target=TARGET)
def lower_decode(node: Node, b: Builder) -> Declined | None:
    """What is computed and encoded is decoded where it is read, in the same kernel where that can be; constants are when
    the model is loaded."""
    if b.weight(node.operand(0)) is not None:
        b.bind(node.result, b.read(node.operand(0)))
    else:
        b.alias(node.result, node.operand(0))
    return None
