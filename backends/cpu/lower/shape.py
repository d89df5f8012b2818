"""Shape operators: views where strides can say them, strided copies elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mcomp.backend import Declined, lowers
from mcomp.backends.cpu.access import Access
from mcomp.backends.cpu.builder import TARGET, Builder, pointer
from mcomp.backends.cpu.cxx import Size
from mcomp.backends.cpu.kernel import EncodedAccess, Kernel
from mcomp.backends.cpu.loops import channels_last, collapse
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.graph import Node, Value


def copy_kernel(source: Access, target: Access) -> Kernel:
    """Copies elements between accesses of one shape, converting the element type."""
    space = collapse(target.shape, [target, source], target.dense_order())
    numbers: list[tuple[str, Size]] = []

    def listed(name: str, values: Sequence[Dim]) -> str:
        numbers.extend((f"{name}{i}", v) for i, v in enumerate(values))
        return ", ".join(f"{name}{i}" for i in range(len(values))) or "0"

    if space.rank == 1 and space.strides == ((1,), (1,)):
        body = "copy(w, to, from, n);"
        numbers = [("n", space.sizes[0])]
    else:
        body = (
            f"const int64_t size[] = {{{listed('size', space.sizes)}}}, to_step[] = {{{listed('to_', space.strides[0])}}}, "
            f"from_step[] = {{{listed('from_', space.strides[1])}}};\n"
            f"copy_strided(w, to, from, {space.rank}, size, to_step, from_step);"
        )
    return Kernel(
        "copy", body.replace("size[]", "sizes[]").replace(" size,", " sizes,"),
        (pointer("to", target, write=True), pointer("from", source)), tuple(numbers), ("copy.hpp",),
    )


def _bytes_of(value: Value, b: Builder) -> tuple[EncodedAccess, Access] | None:
    """Where a value is bytes that share one known scale, and these bytes; None for constants and other values."""
    place = b.place(value) if b.weight(value) is None and b.number(value) is None else None
    found = place.static_bytes if isinstance(place, EncodedAccess) else None
    return (place, found[0]) if isinstance(place, EncodedAccess) and found is not None else None


def _move_bytes(node: Node, b: Builder, move: Callable[[Access], Access | None]) -> bool:
    """Make a view of bytes that share one known scale, so that they stay bytes; False where the operand is no such thing,
    or strides cannot say it."""
    found = _bytes_of(node.operand(0), b)
    view = None if found is None else move(found[1])
    if found is None or view is None:
        return False
    b.bind(node.result, found[0].moved(node.result, view))
    return True


@lowers("reshape", target=TARGET)
def lower_reshape(node: Node, b: Builder) -> Declined | None:
    if _move_bytes(node, b, lambda values: values.reshape(node.type.shape)):
        return None
    view = b.read(node.operand(0)).reshape(node.type.shape)
    if view is None:
        view = b.contiguous(node.operand(0)).reshape(node.type.shape)
    assert view is not None
    b.bind(node.result, view)
    return None


@lowers("permute", target=TARGET)
def lower_permute(node: Node, b: Builder) -> Declined | None:
    if _move_bytes(node, b, lambda values: values.permute(node.attrs["order"])):
        return None
    b.bind(node.result, b.read(node.operand(0)).permute(node.attrs["order"]))
    return None


@lowers("expand", target=TARGET)
def lower_expand(node: Node, b: Builder) -> Declined | None:
    number = b.number(node.operand(0))
    if number is not None:
        b.bind_number(node.result, number)
        return None
    b.bind(node.result, b.read(node.operand(0)).expand(node.type.shape))
    return None


@lowers("slice", target=TARGET)
def lower_slice(node: Node, b: Builder) -> Declined | None:
    axis, step = node.attrs["axis"], node.attrs["step"]
    if _move_bytes(node, b, lambda values: values.slice(axis, node.attrs["start"], node.type.shape[axis], step)):
        return None
    b.bind(node.result, b.read(node.operand(0)).slice(axis, node.attrs["start"], node.type.shape[axis], step))
    return None


@lowers("select", target=TARGET)
def lower_select(node: Node, b: Builder) -> Declined | None:
    b.bind(node.result, b.read(node.operand(0)).select(node.attrs["axis"], node.attrs["index"]))
    return None


@lowers("squeeze", target=TARGET)
def lower_squeeze(node: Node, b: Builder) -> Declined | None:
    if _move_bytes(node, b, lambda values: values.without(node.attrs["axes"])):
        return None
    b.bind(node.result, b.read(node.operand(0)).without(node.attrs["axes"]))
    return None


@lowers("unsqueeze", target=TARGET)
def lower_unsqueeze(node: Node, b: Builder) -> Declined | None:
    if _move_bytes(node, b, lambda values: values.insert(node.attrs["axes"])):
        return None
    b.bind(node.result, b.read(node.operand(0)).insert(node.attrs["axes"]))
    return None


@lowers("contiguous", "dropout", target=TARGET)
def lower_identity(node: Node, b: Builder) -> Declined | None:
    b.alias(node.result, node.operand(0))
    return None


@lowers("split", target=TARGET)
def lower_split(node: Node, b: Builder) -> Declined | None:
    found, axis = _bytes_of(node.operand(0), b), node.attrs["axis"]
    access = b.read(node.operand(0)) if found is None else found[1]
    start: Dim = 0
    for result in node.results:
        size = result.tensor.shape[axis]
        view = access.slice(axis, start, size, 1)
        b.bind(result, view if found is None else found[0].moved(result, view))
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


@lowers("cat", target=TARGET)
def lower_cat(node: Node, b: Builder) -> Declined | None:
    """Each operand is copied to its place; bytes of one scale stay bytes."""
    given = [v for v in node.operands if v is not None and v.tensor.rank == node.type.rank]
    coded = [found for v in given if (found := _bytes_of(v, b)) is not None]
    if len(coded) == len(given) and len({place.type.encoding for place, _ in coded}) == 1:
        pieces = [values for _, values in coded]
        order = channels_last(node.type.rank)
        last = order is not None and all(p.is_dense(order) for p in pieces) and not all(p.is_dense() for p in pieces)
        out = b.temp(pieces[0].dtype, node.type.shape, order if last else None)
        b.bind(node.result, coded[0][0].moved(node.result, out))
    else:
        pieces = [b.read(v) for v in given]
        out = b.write(node.result, b.follow(node.result, *given))
    axis = node.attrs["axis"]
    start: Dim = 0
    for piece in pieces:
        size = piece.shape[axis]
        b.copy(piece, out.slice(axis, start, size, 1), piece=True)
        start = dims.add(start, size)
    return None


@lowers("flip", target=TARGET)
def lower_flip(node: Node, b: Builder) -> Declined | None:
    """A view with negative strides."""
    b.bind(node.result, b.read(node.operand(0)).reversed(node.attrs["axes"]))
    return None


@lowers("repeat", target=TARGET)
def lower_repeat(node: Node, b: Builder) -> Declined | None:
    """[r0, d0, r1, d1 ...] with broadcast copies, in one strided copy."""
    access, repeats = b.read(node.operand(0)), node.attrs["repeats"]
    if len(repeats) != access.rank:
        return Declined("the repeats do not match the rank")
    repeated, split = access.repeated(repeats)
    target = b.write(node.result).reshape(split)
    assert target is not None
    b.copy(repeated, target)
    return None


@lowers("repeat_interleave", target=TARGET)
def lower_repeat_interleave(node: Node, b: Builder) -> Declined | None:
    """Every index of an axis several times in a row."""
    access, axis, times = b.read(node.operand(0)), node.attrs["axis"], node.attrs["repeats"]
    out = b.write(node.result)
    shape = (*access.shape[: axis + 1], times, *access.shape[axis + 1 :])
    target = out.reshape(shape)
    assert target is not None
    b.copy(access.insert((axis + 1,)).expand(shape), target)
    return None


@lowers("roll", target=TARGET)
def lower_roll(node: Node, b: Builder) -> Declined | None:
    """Every axis is copied in two pieces: what moves on, and what comes around."""
    access = b.read(node.operand(0))
    out = b.write(node.result)
    pieces: list[tuple[Access, Access]] = [(access, out)]
    for shift, axis in zip(node.attrs["shifts"], node.attrs["axes"]):
        size = access.shape[axis]
        if size == 0:
            continue
        moved = dims.mod(shift, size)
        kept = dims.add(size, dims.mul(moved, -1))
        pieces = [
            pair for source, target in pieces for pair in (
                (source.slice(axis, 0, kept, 1), target.slice(axis, moved, kept, 1)),
                (source.slice(axis, kept, moved, 1), target.slice(axis, 0, moved, 1)),
            )
        ]
    if len(pieces) > 8:
        return Declined("it rolls more than three axes")
    for source, target in pieces:
        b.copy(source, target, piece=True)
    return None


@lowers("slice_scatter", "select_scatter", target=TARGET)
def lower_slice_scatter(node: Node, b: Builder) -> Declined | None:
    """A copy of x, then the piece over it."""
    x, piece, a = b.read(node.operand(0)), b.read(node.operand(1)), node.attrs
    out = b.write(node.result)
    b.copy(x, out)
    if node.op.name == "select_scatter":
        b.copy(piece, out.select(a["axis"], a["index"]))
    else:
        b.copy(piece, out.slice(a["axis"], a["start"], piece.shape[a["axis"]], a["step"]))
    return None


@lowers("view_as_real", target=TARGET)
def lower_view_as_real(node: Node, b: Builder) -> Declined | None:
    access = b.read(node.operand(0))
    strides = (*(dims.mul(s, 2) for s in access.strides), 1)
    b.bind(node.result, Access(access.buffer, node.type.dtype, node.type.shape, strides, dims.mul(access.offset, 2)))
    return None


@lowers("real", "imag", target=TARGET)
def lower_part(node: Node, b: Builder) -> Declined | None:
    access = b.read(node.operand(0))
    offset = dims.add(dims.mul(access.offset, 2), 0 if node.op.name == "real" else 1)
    strides = tuple(dims.mul(s, 2) for s in access.strides)
    b.bind(node.result, Access(access.buffer, node.type.dtype, node.type.shape, strides, offset))
    return None


@lowers("view_as_complex", target=TARGET)
def lower_view_as_complex(node: Node, b: Builder) -> Declined | None:
    access = b.contiguous(node.operand(0))
    if access.offset != 0:
        return Declined("the offset may be odd")
    strides = tuple(dims.floordiv(s, 2) for s in access.strides[:-1])
    b.bind(node.result, Access(access.buffer, node.type.dtype, node.type.shape, strides, 0))
    return None


@lowers("complex", target=TARGET)
def lower_complex(node: Node, b: Builder) -> Declined | None:
    """Real and imaginary parts are copied side by side."""
    out = b.write(node.result)
    real = b.read(node.operand(0)).dtype
    strides = tuple(dims.mul(s, 2) for s in out.strides)
    for part in range(2):
        b.copy(b.read(node.operand(part)).expand(out.shape), Access(out.buffer, real, out.shape, strides, part), piece=True)
    return None


