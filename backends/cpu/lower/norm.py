"""Normalizations and softmax."""

from __future__ import annotations

from collections.abc import Mapping

from mcomp.backend import Declined, lowers
from mcomp.backends.cpu.access import Access
from mcomp.backends.cpu.builder import TARGET, Builder
from mcomp.backends.cpu.cxx import Real, Size, c_type
from mcomp.backends.cpu.loops import channels_last
from mcomp.backends.cpu.lower.products import FLOATS
from mcomp.ir import dims
from mcomp.ir.graph import Node, Value


def optional(value: Value | None, b: Builder) -> Access | None:
    """A dense access to an operand that may be absent."""
    return None if value is None else b.contiguous(value)


def _or_null(name: str, access: Access | None, x: Access) -> str:
    return name if access is not None else f"(const {c_type(x.dtype)}*)nullptr"


def _float(node: Node) -> Declined | None:
    dtype = node.operand(0).tensor.dtype
    return None if dtype in FLOATS else Declined(f"{dtype} has no kernel")


@lowers("layer_norm", "rms_norm", target=TARGET)
def lower_row_norm(node: Node, b: Builder) -> Declined | None:
    """Normalizes rows: the last `axes_count` axes together."""
    if (refused := _float(node)) is not None:
        return refused
    x = b.contiguous(node.operand(0))
    split = x.rank - node.attrs["axes_count"]
    weight, bias = optional(node.maybe(1), b), optional(node.maybe(2), b)
    out = b.write(node.result)
    numbers: dict[str, Size | Real] = {
        "rows": dims.product(x.shape[:split]), "n": dims.product(x.shape[split:]), "eps": Real(node.attrs["eps"])
    }
    if node.op.name == "layer_norm":
        text = f"layer_norm(w, x, y, {_or_null('weight', weight, x)}, {_or_null('bias', bias, x)}, rows, n, float(eps));"
    else:
        numbers["offset"] = Real(node.attrs["offset"])
        text = f"rms_norm(w, x, y, {_or_null('weight', weight, x)}, rows, n, float(eps), float(offset));"
    b.call(node.op.name, text, outs={"y": out}, ins={"x": x, "weight": weight, "bias": bias}, numbers=numbers,
           headers=("norm.hpp",))
    return None


@lowers("group_norm", target=TARGET)
def lower_group_norm(node: Node, b: Builder) -> Declined | None:
    """Normalizes groups of channels, channels first or last as the operand is."""
    if (refused := _float(node)) is not None:
        return refused
    order = b.follow(node.result, node.operand(0))
    x = b.contiguous(node.operand(0), order)
    weight, bias = optional(node.maybe(1), b), optional(node.maybe(2), b)
    out = b.write(node.result, order)
    name = "group_norm" if order is None else "group_norm_channels_last"
    text = (
        f"{name}(w, x, y, {_or_null('weight', weight, x)}, {_or_null('bias', bias, x)}, batch, channels, inner, groups, "
        "float(eps));"
    )
    numbers: dict[str, Size | Real] = {
        "batch": x.shape[0], "channels": x.shape[1], "inner": dims.product(x.shape[2:]), "groups": node.attrs["groups"],
        "eps": Real(node.attrs["eps"]),
    }
    b.call("group_norm", text, outs={"y": out}, ins={"x": x, "weight": weight, "bias": bias}, numbers=numbers,
           headers=("norm.hpp",))
    return None


@lowers("batch_norm", target=TARGET)
def lower_batch_norm(node: Node, b: Builder) -> Declined | None:
    """A scale and a shift per channel."""
    if (refused := _float(node)) is not None:
        return refused
    order = b.follow(node.result, node.operand(0))
    x = b.contiguous(node.operand(0), order)
    mean, variance = b.contiguous(node.operand(1)), b.contiguous(node.operand(2))
    weight, bias = optional(node.maybe(3), b), optional(node.maybe(4), b)
    out = b.write(node.result, order)
    outer, inner = x.shape[0], dims.product(x.shape[2:])
    if order is not None:
        outer, inner = dims.mul(outer, inner), 1
    text = (
        f"batch_norm(w, x, y, mean, variance, {_or_null('weight', weight, mean)}, {_or_null('bias', bias, mean)}, "
        "outer, channels, inner, float(eps));"
    )
    b.call("batch_norm", text, outs={"y": out}, headers=("norm.hpp",),
           ins={"x": x, "mean": mean, "variance": variance, "weight": weight, "bias": bias},
           numbers={"outer": outer, "channels": x.shape[1], "inner": inner, "eps": Real(node.attrs["eps"])})
    return None


def around(x: Access, axis: int) -> Mapping[str, Size]:
    """[outer, n, inner] of a dense tensor about an axis."""
    return {
        "outer": dims.product(x.shape[:axis]), "n": x.shape[axis] if x.rank else 1,
        "inner": dims.product(x.shape[axis + 1 :]),
    }


@lowers("softmax", "log_softmax", target=TARGET)
def lower_softmax(node: Node, b: Builder) -> Declined | None:
    if (refused := _float(node)) is not None:
        return refused
    order = None
    if node.attrs["axis"] == 1 and b.follow(node.result, node.operand(0)) is not None:
        order = channels_last(node.type.rank)
    x = b.contiguous(node.operand(0), order)
    out = b.write(node.result, order)
    axis = node.attrs["axis"]
    numbers = around(x, axis) if order is None else around(x.permute(order), x.rank - 1)
    b.call(node.op.name, f"{node.op.name}(w, x, y, outer, n, inner);", outs={"y": out}, ins={"x": x}, numbers=numbers,
           headers=("softmax.hpp",))
    return None
