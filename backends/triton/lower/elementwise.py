"""Element-wise operators, alone and as fused regions; copies and fills."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mcomp.backend import Declined, lowers
from mcomp.backends.triton import configs
from mcomp.backends.triton.access import Coded, Place, View
from mcomp.backends.triton.builder import TARGET, Builder
from mcomp.backends.triton.expressions import RULES, scalar_lines
from mcomp.backends.triton.program import Config, Numbers, Work
from mcomp.backends.triton.text import KNOWN, Group, KernelText, group, literal
from mcomp.errors import BackendError
from mcomp.ir import dims
from mcomp.ir.dims import Dim
from mcomp.ir.encoding import DENSE, Affine, Scaled
from mcomp.ir.graph import Node, Value


def flat(text: KernelText, shape: Sequence[Dim], order: Sequence[int] | None = None) -> Group:
    """Start a kernel that goes over a shape, one flat index per element, axes from slowest to fastest."""
    axes = tuple(order) if order is not None else tuple(range(len(shape)))
    text.meta("BLOCK")
    text.head += ["at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)",
                  f"inside = at < {text.number(dims.product(tuple(shape)))}"]
    return group("at", axes, shape, inside="inside")


def flat_grid(sizes: Numbers, chosen: Config) -> tuple[int, ...]:
    """Programs for `count` elements."""
    return (-(-sizes["count"] // chosen["BLOCK"]),)


def order_of(views: Sequence[View], rank: int) -> tuple[int, ...] | None:
    """The order of axes that the largest operands of full rank have; None for row-major."""
    for view in views:
        if view.rank == rank and rank > 1 and not view.is_dense() and 0 not in view.strides:
            order = tuple(sorted(range(rank), key=lambda i: _stride_key(view, i)))
            if view.is_dense(order):
                return order
    return None


def _stride_key(view: View, axis: int) -> tuple[int, str, int]:
    stride = view.strides[axis]
    # Slowest first; symbolic strides hold more factors the slower they are.
    weight = stride if isinstance(stride, int) else 10**12 + len(str(stride))
    return (-weight, "", axis)


def copy_kernel(source: View, target: View, b: Builder) -> None:
    """Copy elements between views of one shape."""
    text = KernelText()
    at = flat(text, target.shape, order_of([target], target.rank))
    name = text.load(source, [at], raw=source.dtype == target.dtype)
    if source.dtype == target.dtype:
        index, _ = text.index(target, [at], full=True)
        text.line(f"tl.store({text.pointer(target)} + {index}, {name}, mask=inside)")
        text.written.append(target.buffer)
    else:
        text.store(target, [at], name)
    moved = dims.mul(target.numel, target.dtype.itemsize)
    b.emit(b.launch("copy", text, flat_grid, configs.pointwise, sizes={"count": target.numel},
                    work=Work(0, moved, moved), ops=("copy",), kind="copy", dtypes=(target.dtype.name,)))


def fill(target: View, number: Any, b: Builder) -> None:
    """Set all elements of a dense view to a number (a size counts as one)."""
    text = KernelText()
    at = flat(text, target.shape)
    value = literal(number, target.dtype) if not isinstance(number, dims.Expr) else text.number(number)
    text.store(target, [at], f"(at * 0 + {value})" if isinstance(number, dims.Expr) else value)
    b.emit(b.launch("fill", text, flat_grid, configs.pointwise, sizes={"count": target.numel}, work=Work(),
                    ops=("full",), kind="pointwise", dtypes=(target.dtype.name,)))


@lowers(*RULES, target=TARGET)
def lower_elementwise(node: Node, b: Builder) -> Declined | None:
    """One operator by itself."""
    return lower_region([node], list(node.results), list(node.results), b)


@lowers("prelu", target=TARGET)
def lower_prelu(node: Node, b: Builder) -> Declined | None:
    """x above zero, else weight * x; the weight lies along axis 1."""
    x, weight = b.read(node.operand(0)), b.read(node.operand(1))
    if x.dtype.name not in KNOWN:
        return Declined(f"{x.dtype} is not computed with in Triton")
    rest = (0,) * (x.rank - 2) if weight.shape[0] != 1 else ()
    lead = (0,) if weight.shape[0] != 1 else ()
    spread = View(weight.buffer, weight.dtype, x.shape,
                  (*lead, weight.strides[0], *rest) if lead else (0,) * x.rank, weight.offset)
    text = KernelText()
    out = b.write(node.result, order_of([x], x.rank))
    at = flat(text, x.shape, order_of([out], x.rank))
    v, w = text.load(x, [at]), text.load(spread, [at])
    text.store(out, [at], f"tl.where({v} > 0, {v}, {v} * {w})")
    b.emit(b.launch("prelu", text, flat_grid, configs.pointwise, sizes={"count": x.numel}, kind="pointwise",
                    dtypes=(x.dtype.name,)))
    return None


def leaf_of(value: Value, b: Builder) -> Place:
    """Where a kernel reads a value from memory: its elements, or the parts of what is computed and encoded, each as wide as
    all of it."""
    place = b.place(value)
    if isinstance(place, Coded) and b.weight(value) is None and not is_grouped(place):
        return place.through(lambda view: view.expand(place.type.shape))
    return b.read(value)


def is_grouped(place: Coded) -> bool:
    """Whether scales of an encoded value are for groups along an axis."""
    return isinstance(place.type.encoding, Affine) and place.type.encoding.group is not None


def widened(place: Place, shape: Sequence[Dim]) -> Place:
    """A leaf as wide as a shape."""
    return place.expand(shape) if isinstance(place, View) else place.through(lambda view: view.expand(shape))


def load_leaf(text: KernelText, place: Place, groups: Sequence[Group]) -> str:
    """Load elements of a leaf as they are computed: encoded ones are decoded in registers."""
    if isinstance(place, View):
        return text.load(place, groups)
    encoding = place.type.encoding
    if not isinstance(encoding, (Affine, Scaled)) or is_grouped(place):
        raise BackendError(f"an activation that is {encoding} has no decoding kernel")
    scales, zeros = place.part("scales"), place.part("zeros")
    q = f"{text.load(place.values, groups)}.to(tl.float32)"
    fixed = encoding.zero if isinstance(encoding, Affine) else 0
    zero = str(float(fixed)) if zeros is None else f"{text.load(zeros, groups)}.to(tl.float32)"
    scale = repr(encoding.scale) if scales is None else text.load(scales, groups)
    return text.named(f"({q} - {zero}) * {scale}")


def lower_region(nodes: Sequence[Node], values: Sequence[Value], results: Sequence[Value], b: Builder) -> Declined | None:
    """Element-wise nodes whose `values` become `results`, all of one shape. Nodes may quantize with a known scale."""
    shape = results[0].tensor.shape
    if any(r.tensor.shape != shape for r in results):
        return Declined("its results have different shapes")
    inside = {v for n in nodes for v in n.results}
    leaves: dict[Value, None] = {}
    for value in [*(v for n in nodes for v in n.operands if v is not None), *values]:
        if value not in inside and not isinstance(b.number(value), (bool, int, float)):
            leaves[value] = None
    for value in leaves:
        if value.type.dtype.name not in KNOWN:
            return Declined(f"{value.type.dtype} is not computed with in Triton")
    sources = {value: leaf_of(value, b) for value in leaves}
    views = [place.values if isinstance(place, Coded) else place for place in sources.values()]
    order = None if any(b.is_output(r) for r in results) else order_of(views, len(shape))
    text = KernelText()
    at = flat(text, shape, order)
    names = {value: load_leaf(text, widened(place, shape), [at]) for value, place in sources.items()}
    known = scalar_lines([n for n in nodes if n.op.name != "quantize"], names, b.number, text.line)
    if isinstance(known, str):
        return Declined(known)
    for value, result in zip(values, results):
        store_value(value, room_for(result, order, b), known, [at], text)
    name = nodes[0].op.name if len(nodes) == 1 else "pointwise"
    count = dims.product(shape)
    b.emit(b.launch(name, text, flat_grid, configs.pointwise, sizes={"count": count}, kind="pointwise",
                    dtypes=tuple(dict.fromkeys(r.tensor.dtype.name for r in results))))
    return None


def room_for(result: Value, order: Sequence[int] | None, b: Builder) -> Place:
    """Memory for a result of a kernel, dense or quantized, axes in this order."""
    return b.write(result, order) if result.tensor.encoding == DENSE else b.write_coded(result, order)


def store_value(
    value: Value, place: Place, known: dict[Value, str], groups: Sequence[Group], text: KernelText
) -> None:
    """Store a computed value, quantized with a known scale where its place is so."""
    if isinstance(place, View):
        text.store(place, groups, known[value])
        return
    encoding = place.type.encoding
    assert isinstance(encoding, (Affine, Scaled)) and encoding.scale is not None and value.producer is not None
    given = known[value.producer.operand(0)]
    if isinstance(encoding, Scaled):
        text.store(place.values, groups, f"math.limited({given} / {encoding.scale!r}, {encoding.largest})")
        return
    low, high = encoding.range
    text.store(place.values, groups, f"math.quantized({given}, {encoding.scale!r}, {float(encoding.zero)}, {float(low)}, "
                                     f"{float(high)}).to(tl.int32)")


def is_static_quantize(node: Node) -> bool:
    """Whether a node quantizes to bytes, or floats of 8 bits, with a scale known when compiling."""
    encoding = node.results[0].tensor.encoding if node.op.name == "quantize" else None
    return isinstance(encoding, (Affine, Scaled)) and encoding.scale is not None and encoding.dtype.bits == 8


def moved(place: Coded, result: Value, view: View) -> Coded:
    """An encoded value of one scale whose values are seen by another view."""
    return Coded(result.tensor.with_encoding(place.type.encoding), (("values", view),))
