"""Reductions, arg-reductions and running reductions."""

from __future__ import annotations

from collections.abc import Sequence

from mcomp.backend import Declined, lowers
from mcomp.backends.cpu.access import Access
from mcomp.backends.cpu.builder import TARGET, Builder
from mcomp.backends.cpu.cxx import Real, Size, c_type
from mcomp.backends.cpu.kernel import EncodedAccess
from mcomp.backends.cpu.lower.norm import around
from mcomp.backends.cpu.lower.pool import average_bytes
from mcomp.ir import dims, dtypes
from mcomp.ir.graph import Node

HEADERS = ("reduce.hpp",)
OPERATIONS = {
    "sum": "Sum", "mean": "Mean", "prod": "Prod", "amax": "Max", "amin": "Min", "any": "Any", "all": "All",
}


def middle(access: Access, axes: Sequence[int]) -> dict[str, Size] | None:
    """[outer, n, inner] where the reduced axes are neighbours of a dense row-major tensor."""
    if not axes:
        return None
    first, last = min(axes), max(axes)
    if sorted(axes) != list(range(first, last + 1)) or not access.is_dense():
        return None
    return {
        "outer": dims.product(access.shape[:first]), "n": dims.product(access.shape[first : last + 1]),
        "inner": dims.product(access.shape[last + 1 :]),
    }


@lowers(*OPERATIONS, "norm", target=TARGET)
def lower_reduction(node: Node, b: Builder) -> Declined | None:
    """Sums, products, extremes and norms over any axes."""
    if node.op.name == "mean" and _mean_of_bytes(node, b):
        return None
    x = b.read(node.operand(0))
    if x.dtype.is_complex or x.dtype.bits < 8:
        return Declined(f"{x.dtype} has no kernel")
    declared, numbers = operation(node, c_type(x.dtype))
    axes = node.attrs["axes"]
    last = _spatial_mean(x, axes)
    if last is not None:
        out = b.write(node.result)
        b.call(node.op.name, f"{declared}\nreduce(w, op, x, y, outer, n, inner);", outs={"y": out}, ins={"x": x},
               numbers={**numbers, **last}, headers=HEADERS)
        return None
    if not x.is_dense() and not any(s == 0 for s in x.strides) and len(axes) == x.rank and x.dense_order() is not None:
        x = Access(x.buffer, x.dtype, (x.numel,), (1,), x.offset)
        axes = (0,)
    sizes = middle(x, axes)
    out = b.write(node.result)
    if sizes is not None:
        b.call(node.op.name, f"{declared}\nreduce(w, op, x, y, outer, n, inner);", outs={"y": out}, ins={"x": x},
               numbers={**numbers, **sizes}, headers=HEADERS)
        return None
    kept = [a for a in range(x.rank) if a not in axes]
    groups = []
    for name, chosen in (("kept", kept), ("reduced", list(axes))):
        size, size_numbers = b.array(f"{name}_n", [x.shape[a] for a in chosen])
        step, step_numbers = b.array(f"{name}_s", [x.strides[a] for a in chosen])
        numbers |= dict((*size_numbers, *step_numbers))
        groups.append(f"const DimGroup {name}{{{len(chosen)}, {size}, {step}}};")
    text = "\n".join((declared, *groups, "reduce_strided(w, op, x, y, kept, reduced);"))
    b.call(node.op.name, text, outs={"y": out}, ins={"x": x}, numbers=numbers, headers=HEADERS)
    return None


def _spatial_mean(x: Access, axes: Sequence[int]) -> dict[str, Size] | None:
    """A channels-last tensor reduced over its spatial axes: rows of pixels by channels."""
    order = (0, *range(2, x.rank), 1)
    if x.rank < 3 or sorted(axes) != list(range(2, x.rank)) or x.is_dense() or not x.is_dense(order):
        return None
    return {"outer": x.shape[0], "n": dims.product(x.shape[2:]), "inner": x.shape[1]}


def _mean_of_bytes(node: Node, b: Builder) -> bool:
    """Average bytes as they are, where what stays of them lies side by side; False where it does not."""
    place = b.place(node.operand(0)) if b.number(node.operand(0)) is None else None
    found = place.static_bytes if isinstance(place, EncodedAccess) and b.weight(node.operand(0)) is None else None
    if not isinstance(place, EncodedAccess) or found is None:
        return False
    values = found[0]
    sizes = _spatial_mean(values, node.attrs["axes"]) or middle(values, tuple(sorted(node.attrs["axes"])))
    if sizes is None or sizes["inner"] == 1:
        return False
    shape = "const PoolShape s{outer, inner, {1, 1, n}, {1, 1, 1}, {1, 1, n}, {1, 1, n}, {0, 0, 0}, {1, 1, 1}, true};"
    average_bytes(node, place, values, shape, {**sizes, "divisor": 0}, None, b, adaptive=True)
    return True


def operation(node: Node, kind: str) -> tuple[str, dict[str, Size | Real]]:
    """C++ that declares `op`, by which a reduction combines elements of this type, and its numbers."""
    name = OPERATIONS.get(node.op.name)
    if name is None:
        named = {float("inf"): "MaxAbs", float("-inf"): "MinAbs", 1.0: "Norm1", 2.0: "Norm2"}
        name = named.get(node.attrs["p"])
    if name is None:
        return f"NormP<{kind}> op;\nop.order = order;", {"order": Real(node.attrs["p"])}
    return f"const {name}<{kind}> op{{}};", {}


@lowers("var", "std", target=TARGET)
def lower_variance(node: Node, b: Builder) -> Declined | None:
    x, n_axes = _moved(node, b)
    if not x.dtype.is_float:
        return Declined(f"{x.dtype} has no kernel")
    sizes = middle(x, n_axes)
    if sizes is None:
        return Declined("it reduces no axis")
    out = b.write(node.result)
    root = "true" if node.op.name == "std" else "false"
    kind = c_type(x.dtype)
    b.call(node.op.name, f"variance(w, x, y, ({kind}*)nullptr, outer, n, inner, correction, {root});", outs={"y": out},
           ins={"x": x}, numbers={**sizes, "correction": Real(node.attrs["correction"])}, headers=HEADERS)
    return None


@lowers("logsumexp", target=TARGET)
def lower_logsumexp(node: Node, b: Builder) -> Declined | None:
    x, axes = _moved(node, b)
    sizes = middle(x, axes)
    if sizes is None or not x.dtype.is_float:
        return Declined(f"{x.dtype} reduced over {list(axes)} has no kernel")
    out = b.write(node.result)
    b.call("logsumexp", "logsumexp(w, x, y, outer, n, inner);", outs={"y": out}, ins={"x": x}, numbers=sizes,
           headers=("softmax.hpp",))
    return None


def _moved(node: Node, b: Builder) -> tuple[Access, tuple[int, ...]]:
    """The operand with its reduced axes side by side, last where they were not so, dense."""
    axes: tuple[int, ...] = tuple(sorted(node.attrs["axes"]))
    x = b.read(node.operand(0))
    if not axes or axes == tuple(range(axes[0], axes[-1] + 1)):
        return b.contiguous(node.operand(0)), axes
    kept = [a for a in range(x.rank) if a not in axes]
    dense = b.contiguous(node.operand(0), (*kept, *axes)).permute((*kept, *axes))
    return dense, tuple(range(len(kept), x.rank))


@lowers("argmax", "argmin", "max_with_index", "min_with_index", target=TARGET)
def lower_arg_reduction(node: Node, b: Builder) -> Declined | None:
    """The index of the first extreme, and the extreme itself where it is asked for."""
    x = b.contiguous(node.operand(0))
    if x.dtype.is_complex or x.dtype.bits < 8:
        return Declined(f"{x.dtype} has no kernel")
    axis = node.attrs["axis"]
    sizes = {"outer": 1, "n": x.numel, "inner": 1} if axis is None else around(x, axis)
    largest = "true" if node.op.name in ("argmax", "max_with_index") else "false"
    outs = {"values": b.write(node.results[0])} if len(node.results) == 2 else {}
    outs["indices"] = b.write(node.results[-1])
    values = "values" if len(node.results) == 2 else f"({c_type(x.dtype)}*)nullptr"
    b.call(node.op.name, f"arg_reduce<{largest}>(w, x, {values}, indices, outer, n, inner);", outs=outs, ins={"x": x},
           numbers=sizes, headers=HEADERS)
    return None


@lowers("cumsum", "cumprod", "logcumsumexp", target=TARGET)
def lower_scan(node: Node, b: Builder) -> Declined | None:
    x = b.contiguous(node.operand(0))
    if x.dtype.is_complex or (node.op.name == "logcumsumexp" and not x.dtype.is_float):
        return Declined(f"{x.dtype} has no kernel")
    out = b.write(node.result)
    b.call(node.op.name, f"{node.op.name}(w, x, y, outer, n, inner);", outs={"y": out}, ins={"x": x},
           numbers=_along(x, node.attrs["axis"]), headers=("scan.hpp",))
    return None


@lowers("cummax", "cummin", target=TARGET)
def lower_running_extreme(node: Node, b: Builder) -> Declined | None:
    x = b.contiguous(node.operand(0))
    if x.dtype.is_complex or x.dtype is dtypes.bool_:
        return Declined(f"{x.dtype} has no kernel")
    outs = {"values": b.write(node.results[0]), "indices": b.write(node.results[1])}
    largest = "true" if node.op.name == "cummax" else "false"
    b.call(node.op.name, f"cumulative_extreme<{largest}>(w, x, values, indices, outer, n, inner);", outs=outs,
           ins={"x": x}, numbers=_along(x, node.attrs["axis"]), headers=("scan.hpp",))
    return None


def _along(x: Access, axis: int) -> dict[str, Size]:
    return dict(around(x, axis)) if x.rank else {"outer": 1, "n": 1, "inner": 1}


